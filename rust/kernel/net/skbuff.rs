// SPDX-License-Identifier: GPL-2.0

//! Socket buffers.
//!
//! Two types wrap `struct sk_buff`:
//!
//! - [`SkBuff`] is a buffer of the network stack, borrowed for the duration of a call: it can be
//!   read, never changed; as a [`ReceivedSkBuff`] with what is before `data`.
//! - [`PrivateSkBuff`] is a buffer that belongs to us alone and that the stack never sees: its
//!   linear part can be written, and it can hold references to pages of other buffers.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use crate::{
    alloc::{AllocError, Flags},
    bindings,
    prelude::*,
    types::Opaque, //
};
use core::{
    ffi::c_void,
    hint::assert_unchecked,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{addr_of, NonNull},
    slice, //
};

// The C compiler and bindgen must agree on what lies where.
static_assert!(size_of::<bindings::sk_buff>() == bindings::SIZEOF_SK_BUFF);
static_assert!(size_of::<bindings::skb_shared_info>() == bindings::SIZEOF_SKB_SHARED_INFO);

/// How much of a checksum is left to do, as in `sk_buff.ip_summed`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum IpSummed {
    /// `CHECKSUM_NONE`: the checksum is in the packet and nobody checked it.
    None = bindings::CHECKSUM_NONE as u8,
    /// `CHECKSUM_UNNECESSARY`: the device checked it.
    Unnecessary = bindings::CHECKSUM_UNNECESSARY as u8,
    /// `CHECKSUM_COMPLETE`: the device summed up the packet.
    Complete = bindings::CHECKSUM_COMPLETE as u8,
    /// `CHECKSUM_PARTIAL`: the packet holds the sum of the pseudo header, a device finishes it.
    Partial = bindings::CHECKSUM_PARTIAL as u8,
}

/// Flags of a buffer whose frags are pages of user space, for which somebody waits.
const ZEROCOPY: u32 = bindings::SKBFL_ZEROCOPY_ENABLE
    | bindings::SKBFL_PURE_ZEROCOPY
    | bindings::SKBFL_MANAGED_FRAG_REFS;

/// A buffer of the network stack, for reading.
///
/// # Invariants
///
/// Points at a valid `struct sk_buff` whose length, linear part, frags and flags nobody changes
/// while this reference exists (reference counts may change), and whose linear part is initialised
/// from `data` to the tail.
#[repr(transparent)]
pub struct SkBuff(Opaque<bindings::sk_buff>);

impl SkBuff {
    /// Borrows a buffer of the stack.
    ///
    /// # Safety
    ///
    /// For the duration of `'a`, `ptr` is valid, and its headers and frags are not changed.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *const bindings::sk_buff) -> &'a Self {
        // SAFETY: By the safety requirements; `SkBuff` is transparent over `sk_buff`.
        unsafe { &*ptr.cast() }
    }

    /// Returns the C pointer.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::sk_buff {
        self.0.get()
    }

    /// The shared info, by pointer: others change its reference count at any time.
    #[inline]
    fn shinfo(&self) -> *const bindings::skb_shared_info {
        // SAFETY: By the type invariant the buffer is valid, and so has a shared info.
        unsafe { bindings::skb_shinfo(self.as_raw()) }
    }

    /// Bytes from `data` to the end, frags included.
    #[inline]
    pub fn len(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.as_raw()).len as usize }
    }

    /// Whether the buffer holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in frags and in the frag list.
    #[inline]
    pub fn data_len(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.as_raw()).data_len as usize }
    }

    /// The linear part, from `data` to `tail`.
    #[inline]
    pub fn linear(&self) -> &[u8] {
        let len = self.len().saturating_sub(self.data_len());
        // SAFETY: By the type invariant `data` points at `len - data_len` initialised bytes which
        // do not change.
        unsafe { slice::from_raw_parts((*self.as_raw()).data, len) }
    }

    /// Copies bytes that start `offset` bytes after `data`, from wherever they lie.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the buffer has not that many bytes or its frags cannot be read. `to` may then be
    /// partly written.
    #[inline]
    pub fn copy_bits(&self, offset: usize, to: &mut [u8]) -> Result {
        let offset = c_int::try_from(offset)?;
        let len = c_int::try_from(to.len())?;
        // SAFETY: By the type invariant the buffer is valid; `to` can be written for `len` bytes.
        let ret = unsafe {
            bindings::skb_copy_bits(self.as_raw(), offset, to.as_mut_ptr().cast::<c_void>(), len)
        };
        // The one error that there is.
        if ret == 0 {
            Ok(())
        } else {
            Err(EFAULT)
        }
    }

    /// Segments the packet stands for; 0 or 1 for a plain packet.
    #[inline]
    pub fn gso_segs(&self) -> u16 {
        // SAFETY: By the type invariant; nobody changes it.
        unsafe { addr_of!((*self.shinfo()).gso_segs).read() }
    }

    /// Payload bytes per segment; 0 for a plain packet.
    #[inline]
    pub fn gso_size(&self) -> u16 {
        // SAFETY: By the type invariant; nobody changes it.
        unsafe { addr_of!((*self.shinfo()).gso_size).read() }
    }

    /// State of the checksum.
    #[inline]
    pub fn ip_summed(&self) -> IpSummed {
        // SAFETY: By the type invariant.
        let v = unsafe { bindings::skb_ip_summed(self.as_raw()) };
        match u32::from(v) {
            bindings::CHECKSUM_PARTIAL => IpSummed::Partial,
            bindings::CHECKSUM_COMPLETE => IpSummed::Complete,
            bindings::CHECKSUM_UNNECESSARY => IpSummed::Unnecessary,
            _ => IpSummed::None,
        }
    }

    /// Whether the packet has a flow hash.
    #[inline]
    pub fn has_hash(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::skb_has_hash(self.as_raw()) }
    }

    /// Whether the packet may be fragmented although it asks not to be.
    #[inline]
    pub fn ignore_df(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::skb_ignore_df(self.as_raw()) }
    }

    /// Whether the CPU can read the frags; false for device memory.
    #[inline]
    pub fn frags_readable(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::skb_frags_readable(self.as_raw()) }
    }

    /// Whether the payload was decrypted, or is still to be encrypted, below TCP.
    #[inline]
    pub fn is_decrypted(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::skb_is_decrypted(self.as_raw()) }
    }

    #[inline]
    fn shinfo_flags(&self) -> u32 {
        // SAFETY: By the type invariant; nobody changes them.
        u32::from(unsafe { addr_of!((*self.shinfo()).flags).read() })
    }

    /// Whether the frags are pages of user space, for which somebody waits (`MSG_ZEROCOPY`,
    /// io_uring).
    #[inline]
    pub fn is_zerocopy(&self) -> bool {
        self.shinfo_flags() & ZEROCOPY != 0
    }

    /// Whether the content of the frags may be changed by others (`sendfile()`, `vmsplice()`).
    #[inline]
    pub fn has_shared_frag(&self) -> bool {
        self.shinfo_flags() & bindings::SKBFL_SHARED_FRAG != 0
    }

    /// Whether the data come from the emergency reserves.
    #[inline]
    pub fn is_pfmemalloc(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::sk_buff::pfmemalloc_raw(self.as_raw()) != 0 }
    }

    /// Whether nothing speaks against a reference to a page of its own: it is readable, neither
    /// zerocopy nor shared, and not from the emergency reserves as far as the buffer tells.
    #[inline]
    pub fn has_plain_pages(&self) -> bool {
        let flags = ZEROCOPY | bindings::SKBFL_SHARED_FRAG;
        self.shinfo_flags() & flags == 0 && self.frags_readable() && !self.is_pfmemalloc()
    }

    /// Whether payload hangs in a list of further buffers.
    #[inline]
    pub fn has_frag_list(&self) -> bool {
        // SAFETY: By the type invariant; nobody changes it.
        !unsafe { addr_of!((*self.shinfo()).frag_list).read() }.is_null()
    }

    /// How many frags there are; 0 if they cannot be read: there is no page behind them then.
    #[inline]
    pub fn nr_frags(&self) -> usize {
        if !self.frags_readable() {
            return 0;
        }
        // SAFETY: By the type invariant; nobody changes it.
        usize::from(unsafe { addr_of!((*self.shinfo()).nr_frags).read() })
    }

    /// The frag, if it is the only one, and has a page.
    #[inline(always)]
    pub fn only_frag(&self) -> Option<Frag<'_>> {
        if self.nr_frags() != 1 {
            return None;
        }
        // SAFETY: There is one; it belongs to this buffer, which is not changed while it is
        // borrowed.
        unsafe { Frag::from_raw(self.frags()) }
    }

    /// Where the frags are.
    #[inline]
    fn frags(&self) -> *const bindings::skb_frag_t {
        // SAFETY: By the type invariant the shared info is valid.
        unsafe { addr_of!((*self.shinfo()).frags).cast() }
    }

    /// Bytes of the linear part from `offset` bytes after `data` on, as a frag.
    ///
    /// `None` if the linear part does not lie in a page that can be referenced, or `offset` is
    /// behind its end.
    #[inline]
    pub fn linear_frag(&self, offset: usize) -> Option<Frag<'_>> {
        // SAFETY: By the type invariant.
        if unsafe { bindings::sk_buff::head_frag_raw(self.as_raw()) } == 0 {
            return None;
        }
        let bytes = self.linear().get(offset..)?;
        // SAFETY: The linear part of a buffer with `head_frag` lies in the direct mapping, in one
        // compound page.
        let page = NonNull::new(unsafe { bindings::virt_to_head_page(bytes.as_ptr().cast()) })?;
        // SAFETY: `page` is a valid page of the direct mapping.
        let base = unsafe { bindings::page_address(page.as_ptr()) } as usize;
        let offset = u32::try_from((bytes.as_ptr() as usize).checked_sub(base)?).ok()?;
        let len = u32::try_from(bytes.len()).ok()?;
        // SAFETY: The buffer's head is a reference to the page and is not changed while it is
        // borrowed.
        Some(unsafe { Frag::new(page, offset, len) })
    }
}

/// A buffer of the network stack that has a network header: one that was received.
///
/// # Invariants
///
/// The network header lies at or before `data`, and the linear part is initialised from there on.
#[repr(transparent)]
pub struct ReceivedSkBuff(SkBuff);

impl ReceivedSkBuff {
    /// Borrows a buffer of the stack.
    ///
    /// # Safety
    ///
    /// As [`SkBuff::from_raw`]; the network header is set, and lies in the linear part, at or
    /// before `data`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *const bindings::sk_buff) -> &'a Self {
        // SAFETY: By the safety requirements; `ReceivedSkBuff` is transparent over `sk_buff`.
        unsafe { &*ptr.cast() }
    }

    /// The bytes between the network header and `data`: the IP header with options or extension
    /// headers, when `data` is at the transport header.
    ///
    /// Empty if the network header is not before `data`.
    #[inline]
    pub fn network_to_data(&self) -> &[u8] {
        // SAFETY: By the type invariant.
        let off = unsafe { bindings::skb_network_offset(self.as_raw()) };
        let len = usize::try_from(off.wrapping_neg()).unwrap_or(0);
        // SAFETY: By the type invariant the network header lies `len` bytes before `data` in the
        // linear part.
        unsafe { slice::from_raw_parts((*self.as_raw()).data.wrapping_sub(len), len) }
    }

    /// The linear part from the network header on.
    ///
    /// As [`SkBuff::linear`] if the network header is not before `data`.
    #[inline]
    pub fn network_to_tail(&self) -> &[u8] {
        let (header, linear) = (self.network_to_data().len(), self.linear().len());
        // SAFETY: By the type invariant the linear part is initialised from the network header on,
        // which lies `header` bytes before `data`.
        unsafe {
            slice::from_raw_parts((*self.as_raw()).data.wrapping_sub(header), header + linear)
        }
    }
}

impl Deref for ReceivedSkBuff {
    type Target = SkBuff;

    #[inline]
    fn deref(&self) -> &SkBuff {
        &self.0
    }
}

/// Part of a page that holds payload.
///
/// # Invariants
///
/// Somebody holds a reference to `page`, which is part of `folio`, for the duration of `'a`.
#[derive(Clone, Copy)]
pub struct Frag<'a> {
    page: NonNull<bindings::page>,
    folio: NonNull<bindings::folio>,
    offset: u32,
    len: u32,
    _skb: PhantomData<&'a SkBuff>,
}

impl Frag<'_> {
    /// `len` bytes from `offset` of a page on.
    ///
    /// # Safety
    ///
    /// Somebody holds a reference to the page for the duration of the value's lifetime parameter.
    #[inline]
    unsafe fn new(page: NonNull<bindings::page>, offset: u32, len: u32) -> Self {
        // SAFETY: By the safety requirements. Each page has a folio.
        let folio = unsafe { NonNull::new_unchecked(bindings::page_folio(page.as_ptr())) };
        // INVARIANT: By the safety requirements; a page that is in use stays in its folio.
        Self {
            page,
            folio,
            offset,
            len,
            _skb: PhantomData,
        }
    }

    /// A frag of a buffer. `None` if there is no page behind it.
    ///
    /// # Safety
    ///
    /// `frag` is valid, and for the duration of the value's lifetime parameter neither changed nor
    /// without a reference to its page.
    #[inline(always)]
    unsafe fn from_raw(frag: *const bindings::skb_frag_t) -> Option<Self> {
        // SAFETY: By the safety requirements.
        let (page, offset, len) =
            unsafe { (bindings::skb_frag_page(frag), (*frag).offset, (*frag).len) };
        let page = NonNull::new(page)?;
        // SAFETY: By the safety requirements.
        Some(unsafe { Self::new(page, offset, len) })
    }

    /// Bytes in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `len` bytes of it.
    #[inline]
    pub fn truncated(self, len: usize) -> Self {
        Self {
            len: u32::try_from(len).map_or(self.len, |l| l.min(self.len)),
            ..self
        }
    }

    /// Pages that a reference to it keeps in memory: all of its compound page.
    #[inline]
    pub fn pinned_pages(&self) -> usize {
        // SAFETY: By the type invariant the page is valid.
        unsafe { bindings::folio_nr_pages(self.folio.as_ptr()) }
    }

    /// Whether the page comes from the emergency reserves.
    #[inline]
    pub fn is_pfmemalloc(&self) -> bool {
        // Only the head of a compound page tells.
        // SAFETY: By the type invariant the folio is valid; it starts with that page.
        unsafe { bindings::page_is_pfmemalloc(self.folio.as_ptr().cast()) }
    }
}

/// What lies in pages of a buffer: a part of its linear part, if wanted, then its frags, cut to a
/// length.
///
/// # Invariants
///
/// `frags` points at the frags of a buffer that is borrowed for `'a`. The parts are `linear`, if
/// there is one, and these. `nr` is at most `MAX_SKB_FRAGS`, and not more than there are parts; the
/// first `nr` have pages. Together they have `len` bytes if the last of them has `last_len`.
pub struct PagedData<'a> {
    linear: Option<Frag<'a>>,
    frags: *const bindings::skb_frag_t,
    nr: usize,
    last_len: u32,
    len: u32,
    pages: usize,
}

impl<'a> PagedData<'a> {
    /// The first `len` bytes of `linear`, a part of the linear part of `skb`, and of all frags; as
    /// many as there are, and go into the frags of one buffer. They end at a frag without a page or
    /// a byte, which the stack has none of.
    ///
    /// `None` if one of the pages comes from the emergency reserves.
    #[inline]
    pub fn new(skb: &'a SkBuff, linear: Option<Frag<'a>>, len: usize) -> Option<Self> {
        let all = skb.nr_frags().wrapping_add(usize::from(linear.is_some()));
        // INVARIANT: There is nothing yet.
        let mut data = Self {
            linear,
            frags: skb.frags(),
            nr: 0,
            last_len: 0,
            len: 0,
            pages: 0,
        };
        let (mut left, mut folio) = (u32::try_from(len).unwrap_or(u32::MAX), None);
        while left != 0 && data.nr < all.min(bindings::MAX_SKB_FRAGS as usize) {
            // SAFETY: Just looked at.
            let Some(part) = (unsafe { data.part(data.nr) }).filter(|part| !part.is_empty()) else {
                break;
            };
            if part.is_pfmemalloc() {
                return None;
            }
            // Those of one compound page that follow each other keep it in memory once.
            if folio != Some(part.folio) {
                data.pages = data.pages.saturating_add(part.pinned_pages());
                folio = Some(part.folio);
            }
            // INVARIANT: This one has a page. Those before it are there as a whole, since more was
            // left than they have.
            data.last_len = part.len.min(left);
            data.len = data.len.wrapping_add(data.last_len);
            data.nr = data.nr.wrapping_add(1);
            left = left.wrapping_sub(data.last_len);
        }
        Some(data)
    }

    /// Pages that references to all of it keep in memory. A compound page counts as a whole, and
    /// once where parts of it follow each other.
    #[inline]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// A part. `None` if there is no page behind it.
    ///
    /// # Safety
    ///
    /// There are more parts than `i`, with those behind the first `nr`.
    #[inline(always)]
    unsafe fn part(&self, i: usize) -> Option<Frag<'a>> {
        let i = match self.linear {
            Some(linear) if i == 0 => return Some(linear),
            Some(_) => i.wrapping_sub(1),
            None => i,
        };
        // SAFETY: By the safety requirements there is one, of a buffer that, by the type invariant,
        // is not changed for `'a`, and holds a reference to the page of each frag.
        unsafe { Frag::from_raw(self.frags.add(i)) }
    }

    /// As [`Self::part`], for one that is known to have a page.
    ///
    /// # Safety
    ///
    /// `i` is less than `nr`.
    #[inline(always)]
    unsafe fn known_part(&self, i: usize) -> Frag<'a> {
        // SAFETY: By the safety requirements, and the type invariant.
        unsafe { self.part(i).unwrap_unchecked() }
    }
}

/// A buffer of our own that the stack never sees.
///
/// Its head is initialised memory that can be written at will; the packet is a part of the head,
/// then pages of other buffers. Dropping it is no packet drop: it is consumed.
///
/// # Invariants
///
/// The buffer is valid and owned by this value alone: one user, not cloned, no `dst`, no device, no
/// socket, no destructor, `pp_recycle` off. Its head is initialised, and aligned to [`HEAD_ALIGN`]
/// bytes as slab memory is; `data` and tail lie within it, `len - data_len` bytes from each other.
/// Each of its frags holds one page
/// reference taken by `get_page()`.
///
/// # Examples
///
/// ```
/// use kernel::net::skbuff::PrivateSkBuff;
///
/// let mut skb = PrivateSkBuff::new(128, GFP_KERNEL)?;
/// skb.head_mut()[..4].copy_from_slice(b"abcd");
/// skb.set_linear(1, 3);
/// assert_eq!(skb.as_skb().linear(), b"bcd");
/// assert_eq!(skb.as_skb().len(), 3);
/// # Ok::<(), Error>(())
/// ```
pub struct PrivateSkBuff(NonNull<bindings::sk_buff>);

/// What the head of a [`PrivateSkBuff`] is aligned to, in bytes.
pub const HEAD_ALIGN: usize = align_of::<u64>();

// SAFETY: A private buffer belongs to nobody else and may be used and freed on any CPU.
unsafe impl Send for PrivateSkBuff {}

impl PrivateSkBuff {
    /// Allocates an empty buffer with room for at least `size` bytes.
    ///
    /// Context: any, if `flags` do not allow to sleep.
    ///
    /// # Errors
    ///
    /// `AllocError` if there is no memory, or only memory of the emergency reserves.
    #[inline]
    pub fn new(size: u32, flags: Flags) -> Result<Self, AllocError> {
        // SAFETY: Any size and flags are allowed.
        let skb = unsafe { bindings::alloc_skb(size, flags.as_raw()) };
        let skb = NonNull::new(skb).ok_or(AllocError)?;
        // SAFETY: A new buffer has a head of `skb_end_offset()` bytes, all ours.
        unsafe {
            let len = bindings::skb_end_offset(skb.as_ptr()) as usize;
            (*skb.as_ptr()).head.write_bytes(0, len);
        }
        // INVARIANT: A new buffer has one user and none of the other attributes; its head is slab
        // memory and was just initialised.
        let skb = Self(skb);
        if skb.as_skb().is_pfmemalloc() {
            return Err(AllocError);
        }
        Ok(skb)
    }

    /// Takes over a buffer.
    ///
    /// # Safety
    ///
    /// `ptr` was returned by [`Self::into_raw`] and is taken over once.
    #[inline]
    pub unsafe fn from_raw(ptr: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(ptr)
    }

    /// Gives the buffer away, to be taken over by [`Self::from_raw`].
    #[inline]
    pub fn into_raw(self) -> NonNull<bindings::sk_buff> {
        ManuallyDrop::new(self).0
    }

    /// The buffer, for reading.
    #[inline]
    pub fn as_skb(&self) -> &SkBuff {
        // SAFETY: By the type invariant the buffer is valid and only changed through `&mut self`.
        unsafe { SkBuff::from_raw(self.0.as_ptr()) }
    }

    /// Bytes of the head.
    #[inline]
    pub fn head_len(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { bindings::skb_end_offset(self.0.as_ptr()) as usize }
    }

    /// Memory of buffer and head in bytes, as `sk_buff.truesize`.
    #[inline]
    pub fn truesize(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.0.as_ptr()).truesize as usize }
    }

    /// What the owner has noted in the control buffer, `sk_buff.cb`; 0 in a new buffer.
    #[inline]
    pub fn note(&self) -> u8 {
        // SAFETY: By the type invariant.
        unsafe { (*self.0.as_ptr()).cb[0] }
    }

    /// Notes something in the control buffer.
    #[inline]
    pub fn set_note(&mut self, note: u8) {
        // SAFETY: By the type invariant the buffer is ours.
        unsafe { (*self.0.as_ptr()).cb[0] = note }
    }

    /// The head, for reading.
    #[inline]
    pub fn head(&self) -> &[u8] {
        // SAFETY: By the type invariant the head is initialised.
        unsafe { slice::from_raw_parts(self.head_start(), self.head_len()) }
    }

    /// The head, for writing.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        let len = self.head_len();
        // SAFETY: By the type invariant the head is initialised and ours alone.
        unsafe { slice::from_raw_parts_mut(self.head_start(), len) }
    }

    /// Where the head starts.
    #[inline]
    fn head_start(&self) -> *mut u8 {
        // SAFETY: By the type invariant the buffer has a head, which is aligned.
        unsafe {
            let head = (*self.0.as_ptr()).head;
            assert_unchecked(!head.is_null() && head.addr() % HEAD_ALIGN == 0);
            head
        }
    }

    /// Makes `len` bytes of the head, from `offset` on, the linear part of the packet. Both are cut
    /// to the head. Returns how long it was.
    ///
    /// The network header is at its start.
    #[inline]
    pub fn set_linear(&mut self, offset: usize, len: usize) -> usize {
        let offset = offset.min(self.head_len());
        let len = len.min(self.head_len() - offset);
        // SAFETY: Just that.
        unsafe { self.set_linear_unchecked(offset, len) }
    }

    /// As [`Self::set_linear`], without a look at the length of the head.
    ///
    /// # Safety
    ///
    /// `offset + len` is at most [`Self::head_len`].
    #[inline]
    pub unsafe fn set_linear_unchecked(&mut self, offset: usize, len: usize) -> usize {
        let skb = self.0.as_ptr();
        // SAFETY: By the type invariant the buffer is ours; by the safety requirements
        // `offset + len` lies within its head. Both fit an `int`, as a head is smaller than 4 GiB.
        unsafe {
            let (before, data_len) = ((*skb).len, (*skb).data_len);
            (*skb).data = (*skb).head.add(offset);
            bindings::skb_set_tail_pointer(skb, len as c_int);
            bindings::skb_set_network_header(skb, 0);
            // With frags of so much that this overflows, `SkBuff::linear` finds nothing.
            (*skb).len = (len as u32).wrapping_add(data_len);
            before.wrapping_sub(data_len) as usize
        }
    }

    /// Puts the transport header `offset` bytes behind the start of the packet.
    #[inline]
    pub fn set_transport_header(&mut self, offset: u16) {
        // SAFETY: By the type invariant the buffer is ours; the offset is a number only.
        unsafe { bindings::skb_set_transport_header(self.0.as_ptr(), c_int::from(offset)) }
    }

    /// Makes `frag` the only frag, with a reference to its page; those of the frags before are
    /// given back.
    ///
    /// There is never a reference to another page than either those before, or that one. If it is
    /// the page of the only frag before, the reference that there is stays.
    #[inline(always)]
    pub fn set_frag(&mut self, frag: Frag<'_>) {
        let skb = self.0.as_ptr();
        // SAFETY: By the type invariant the buffer and its shared info are ours.
        let info = unsafe { &mut *bindings::skb_shinfo(skb) };
        let page = frag.page.as_ptr();
        // SAFETY: If there is one frag, it is valid by the type invariant.
        let is_there =
            info.nr_frags == 1 && unsafe { bindings::skb_frag_page(info.frags.as_ptr()) } == page;
        if !is_there {
            self.put_frags();
            // SAFETY: By the invariant of `Frag` there is a reference, so another one can be taken.
            unsafe { bindings::get_page(page) };
        }
        // SAFETY: As above.
        let info = unsafe { &mut *bindings::skb_shinfo(skb) };
        // INVARIANT: The frag holds the reference that it held, or that was just taken.
        // SAFETY: There is room for one.
        unsafe { fill_frag(info, 0, frag, frag.len) };
        info.nr_frags = 1;
        self.set_data_len(frag.len);
    }

    /// Makes `data` the frags, with references to its pages; those of the frags before are given
    /// back.
    ///
    /// There are never references to other pages than either those before, or those of `data`. A
    /// page that stays where it is keeps the reference that there is.
    pub fn set_frags(&mut self, data: &PagedData<'_>) {
        // SAFETY: By the type invariant the buffer and its shared info are ours.
        let info = unsafe { &mut *bindings::skb_shinfo(self.0.as_ptr()) };
        let before = usize::from(info.nr_frags);
        for (i, frag) in info.frags.iter().enumerate().take(before) {
            // SAFETY: By the type invariant the first `nr_frags` frags are valid.
            let page = unsafe { bindings::skb_frag_page(frag) };
            // SAFETY: Just looked at.
            if i >= data.nr || unsafe { data.known_part(i) }.page.as_ptr() != page {
                // SAFETY: By the type invariant the frag holds a reference. It is given back once:
                // below the frag gets another page, or is none any more.
                unsafe { bindings::put_page(page) };
            }
        }
        for i in 0..data.nr {
            // SAFETY: Just looked at.
            let part = unsafe { data.known_part(i) };
            let page = part.page.as_ptr();
            // SAFETY: Called for one that was valid, and is what it was: only those before it were
            // written. Where its page was given back, this is another page, to which there is a
            // reference all the time.
            let has_page = |frag| unsafe { bindings::skb_frag_page(frag) } == page;
            if i >= before || !info.frags.get(i).is_some_and(|frag| has_page(frag)) {
                // SAFETY: By the invariant of `Frag` there is a reference, so another one can be
                // taken.
                unsafe { bindings::get_page(page) };
            }
            let len = match i.wrapping_add(1) == data.nr {
                true => data.last_len,
                false => part.len,
            };
            // INVARIANT: The frag holds the reference that it held, or that was just taken.
            // SAFETY: By the invariant of `PagedData` there is room for so many.
            unsafe { fill_frag(info, i, part, len) };
        }
        info.nr_frags = data.nr as u8;
        self.set_data_len(data.len);
    }

    /// Sets how many bytes are in frags. The linear part stays what it is.
    #[inline]
    fn set_data_len(&mut self, data_len: u32) {
        let skb = self.0.as_ptr();
        // SAFETY: By the type invariant the buffer is ours.
        unsafe {
            let linear = (*skb).len.wrapping_sub((*skb).data_len);
            // With so much that this overflows, `SkBuff::linear` finds nothing.
            (*skb).len = linear.wrapping_add(data_len);
            (*skb).data_len = data_len;
        }
    }

    /// Gives all pages back.
    #[inline]
    pub fn clear_frags(&mut self) {
        self.put_frags();
        self.set_data_len(0);
    }

    /// As [`Self::clear_frags`], but leaves the length of the packet as it is.
    #[inline]
    fn put_frags(&mut self) {
        // SAFETY: By the type invariant the buffer and its shared info are ours.
        let info = unsafe { &mut *bindings::skb_shinfo(self.0.as_ptr()) };
        let nr = usize::from(core::mem::take(&mut info.nr_frags));
        for frag in info.frags.iter().take(nr) {
            // SAFETY: By the type invariant each frag holds a reference to its page, which is given
            // back once since `nr_frags` is 0 now.
            unsafe { bindings::put_page(bindings::skb_frag_page(frag)) };
        }
    }
}

/// Writes a frag: the first `len` bytes of `frag`.
///
/// # Safety
///
/// `i` is less than `MAX_SKB_FRAGS`.
#[inline(always)]
unsafe fn fill_frag(info: &mut bindings::skb_shared_info, i: usize, frag: Frag<'_>, len: u32) {
    // What does not fit an `int` comes out again as what it was.
    let (offset, len) = (frag.offset as c_int, len as c_int);
    let page = frag.page.as_ptr();
    // SAFETY: By the safety requirements.
    unsafe { bindings::__skb_fill_page_desc_noacc(info, i as c_int, page, offset, len) }
}

impl PrivateSkBuff {
    /// Moves the references to pages to `to`, so that they can be given back later, and cuts the
    /// packet to its linear part.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if `to` has no room for all of them; nothing has changed then.
    #[inline]
    pub fn detach_frags<const N: usize>(&mut self, to: &mut PageRefs<N>) -> Result {
        // SAFETY: By the type invariant the buffer and its shared info are ours.
        let info = unsafe { &mut *bindings::skb_shinfo(self.0.as_ptr()) };
        let nr = usize::from(info.nr_frags);
        let room = to.pages.get_mut(to.len..).ok_or(ENOSPC)?;
        if nr > room.len() {
            return Err(ENOSPC);
        }
        // INVARIANT: The references that the frags held are the list's, as `nr_frags` is 0 now.
        for (frag, page) in info.frags.iter().take(nr).zip(room) {
            // SAFETY: By the type invariant the first `nr_frags` frags are valid.
            *page = unsafe { bindings::skb_frag_page(frag) };
        }
        to.len = to.len.saturating_add(nr);
        info.nr_frags = 0;
        self.set_data_len(0);
        Ok(())
    }
}

impl Drop for PrivateSkBuff {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant the buffer is ours; its frags' page references go with it.
        unsafe { bindings::consume_skb(self.0.as_ptr()) }
    }
}

/// References to at most `N` pages, given back when dropped.
///
/// For code that takes frags off buffers under a lock, and gives the pages back without it.
///
/// # Invariants
///
/// The first `len` elements point at pages, each with one reference that belongs to this value.
pub struct PageRefs<const N: usize> {
    pages: [*mut bindings::page; N],
    len: usize,
}

impl<const N: usize> PageRefs<N> {
    /// No references.
    #[inline]
    pub const fn new() -> Self {
        // INVARIANT: There is no element yet.
        Self {
            pages: [core::ptr::null_mut(); N],
            len: 0,
        }
    }

    /// Gives all pages back. Returns how many this freed: those that nobody else had a reference
    /// to.
    pub fn release(&mut self) -> usize {
        let len = core::mem::take(&mut self.len);
        let mut freed = 0usize;
        for page in self.pages.iter().take(len) {
            // SAFETY: By the type invariant the page is valid, and the reference ours to give
            // back; it is given back once since `len` is 0 now.
            unsafe {
                let folio = bindings::page_folio(*page);
                let pages = bindings::folio_nr_pages(folio);
                let last = bindings::folio_ref_count(folio) == 1;
                bindings::put_page(*page);
                if last {
                    freed = freed.saturating_add(pages);
                }
            }
        }
        freed
    }
}

impl<const N: usize> Default for PageRefs<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Drop for PageRefs<N> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Private buffers in a row, the last one in the first one out. Takes no memory of its own.
///
/// # Invariants
///
/// `first` is null or a buffer that was forgotten ([`PrivateSkBuff::into_raw`]) and belongs to this
/// value; so is what its `next` points at, and so on.
pub struct PrivateSkBuffList {
    first: *mut bindings::sk_buff,
}

impl PrivateSkBuffList {
    /// An empty list.
    #[inline]
    pub const fn new() -> Self {
        // INVARIANT: Null.
        Self {
            first: core::ptr::null_mut(),
        }
    }

    /// Adds a buffer.
    #[inline]
    pub fn push(&mut self, skb: PrivateSkBuff) {
        let skb = skb.into_raw().as_ptr();
        // SAFETY: The buffer is ours, and in no list.
        unsafe { (*skb).__bindgen_anon_1.__bindgen_anon_1.next = self.first };
        // INVARIANT: The buffer was just forgotten, and its `next` is what was the first.
        self.first = skb;
    }

    /// Takes the buffer that was added last.
    #[inline]
    pub fn pop(&mut self) -> Option<PrivateSkBuff> {
        let skb = NonNull::new(self.first)?;
        // SAFETY: By the type invariant the buffer is valid and ours.
        // INVARIANT: What is behind it belongs to us too.
        self.first = unsafe {
            core::mem::replace(
                &mut (*skb.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.next,
                core::ptr::null_mut(),
            )
        };
        // SAFETY: By the type invariant it came from `into_raw`; it is in no list any more.
        Some(unsafe { PrivateSkBuff::from_raw(skb) })
    }
}

impl Default for PrivateSkBuffList {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PrivateSkBuffList {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

#[macros::kunit_tests(rust_skbuff)]
mod tests {
    use super::*;

    #[test]
    fn linear_is_cut_to_the_head() -> Result {
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        let head = skb.head_len();
        assert!(head >= 64);
        skb.set_linear(head, 10);
        assert!(skb.as_skb().is_empty());
        skb.set_linear(head - 2, 10);
        assert_eq!(skb.as_skb().len(), 2);
        Ok(())
    }

    #[test]
    fn length_is_cut_to_the_head() -> Result {
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        let head = skb.head_len();
        assert_eq!(skb.set_linear(8, 10), 0);
        assert_eq!(skb.set_linear(8, 20), 10);
        assert_eq!(skb.as_skb().linear(), &[0; 20]);
        assert_eq!(skb.set_linear(8, head), 20);
        assert_eq!(skb.as_skb().len(), head - 8);
        assert_eq!(skb.set_linear(head + 1, usize::MAX), head - 8);
        assert!(skb.as_skb().is_empty());
        Ok(())
    }

    #[test]
    fn a_note_stays_and_a_new_buffer_has_none() -> Result {
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        assert_eq!(skb.note(), 0);
        skb.set_note(0xa5);
        skb.set_linear(8, 20);
        assert_eq!(skb.note(), 0xa5);
        Ok(())
    }

    #[test]
    fn network_header_is_at_the_start() -> Result {
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        skb.set_linear(8, 20);
        // SAFETY: `set_linear` sets it to `data`.
        let skb = unsafe { ReceivedSkBuff::from_raw(skb.as_skb().as_raw()) };
        assert!(skb.network_to_data().is_empty());
        assert_eq!(skb.network_to_tail(), skb.linear());
        Ok(())
    }

    #[test]
    fn copy_behind_the_end_fails() -> Result {
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        skb.head_mut()[..4].copy_from_slice(b"wxyz");
        skb.set_linear(0, 4);
        let mut to = [0; 2];
        skb.as_skb().copy_bits(2, &mut to)?;
        assert_eq!(&to, b"yz");
        assert_eq!(skb.as_skb().copy_bits(3, &mut to), Err(EFAULT));
        Ok(())
    }

    #[test]
    fn survives_a_raw_round_trip() -> Result {
        let skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        assert!(skb.truesize() > skb.head_len());
        let raw = skb.into_raw();
        // SAFETY: `raw` was returned by `into_raw` just now.
        let skb = unsafe { PrivateSkBuff::from_raw(raw) };
        assert_eq!(skb.as_skb().nr_frags(), 0);
        Ok(())
    }

    #[test]
    fn list_gives_back_what_was_put_in() -> Result {
        let mut list = PrivateSkBuffList::new();
        assert!(list.pop().is_none());
        for len in 1..4 {
            let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
            skb.set_linear(0, len);
            list.push(skb);
        }
        for len in [3, 2] {
            assert_eq!(list.pop().ok_or(EINVAL)?.as_skb().len(), len);
        }
        Ok(())
    }

    /// A buffer as the stack has it, with nothing but pages, of which each is a frag.
    struct Stack(NonNull<bindings::sk_buff>);

    impl Stack {
        fn new(pages: usize) -> Result<Self> {
            let len = pages * bindings::PAGE_SIZE;
            let gfp = bindings::GFP_KERNEL;
            // SAFETY: Any length; the error is not used.
            let skb = unsafe { bindings::alloc_skb_with_frags(64, len, 0, &mut 0, gfp) };
            let skb = NonNull::new(skb).ok_or(ENOMEM)?;
            // SAFETY: A new buffer, that nobody else knows, with pages for its data.
            unsafe {
                (*skb.as_ptr()).data_len = len as u32;
                (*skb.as_ptr()).len = len as u32;
            }
            Ok(Self(skb))
        }

        fn skb(&self) -> &SkBuff {
            // SAFETY: It is valid and not changed while it is borrowed.
            unsafe { SkBuff::from_raw(self.0.as_ptr()) }
        }

        fn paged(&self, len: usize) -> Result<PagedData<'_>> {
            PagedData::new(self.skb(), None, len).ok_or(EINVAL)
        }

        fn frag(&self, i: usize) -> Result<Frag<'_>> {
            // SAFETY: The buffer is not changed while it is borrowed.
            let frag = unsafe { Frag::from_raw(self.skb().frags().add(i)) };
            frag.filter(|_| i < self.skb().nr_frags()).ok_or(EINVAL)
        }

        /// References to the page of each frag.
        fn refs<const N: usize>(&self) -> Result<[c_int; N]> {
            let mut refs = [0; N];
            for (i, refs) in refs.iter_mut().enumerate() {
                let folio = self.frag(i)?.folio;
                // SAFETY: The buffer has a reference.
                *refs = unsafe { bindings::folio_ref_count(folio.as_ptr()) };
            }
            Ok(refs)
        }
    }

    impl Drop for Stack {
        fn drop(&mut self) {
            // SAFETY: It is ours, and not used any more.
            unsafe { bindings::consume_skb(self.0.as_ptr()) }
        }
    }

    /// Page and length of each frag.
    fn frags_of(skb: &PrivateSkBuff) -> Result<KVec<(*mut bindings::page, usize)>> {
        let mut found = KVec::new();
        for i in 0..skb.as_skb().nr_frags() {
            // SAFETY: There is one; the buffer is not changed while it is borrowed.
            let frag = unsafe { Frag::from_raw(skb.as_skb().frags().add(i)) }.ok_or(EINVAL)?;
            found.push((frag.page.as_ptr(), frag.len()), GFP_KERNEL)?;
        }
        Ok(found)
    }

    #[test]
    fn frags_hold_one_reference_each_however_they_are_replaced() -> Result {
        const PAGE: usize = bindings::PAGE_SIZE;
        let (one, other) = (Stack::new(3)?, Stack::new(2)?);
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        skb.set_linear(0, 8);
        for (len, expected) in [
            (usize::MAX, [2, 2, 2]),
            (PAGE + 1, [2, 2, 1]),
            (3 * PAGE, [2, 2, 2]),
            (0, [1, 1, 1]),
            (PAGE, [2, 1, 1]),
        ] {
            let paged = one.paged(len)?;
            assert_eq!(paged.pages(), len.min(3 * PAGE).div_ceil(PAGE));
            skb.set_frags(&paged);
            assert_eq!(one.refs::<3>()?, expected);
            let kept = len.min(3 * PAGE);
            assert_eq!(skb.as_skb().data_len(), kept);
            assert_eq!(
                (skb.as_skb().len(), skb.as_skb().linear().len()),
                (kept + 8, 8)
            );
            for (i, (page, len)) in frags_of(&skb)?.iter().enumerate() {
                assert!(*page == one.frag(i)?.page.as_ptr());
                assert_eq!(*len, PAGE.min(kept - i * PAGE));
            }
        }
        skb.set_frags(&one.paged(usize::MAX)?);
        skb.set_frags(&other.paged(usize::MAX)?);
        assert_eq!((one.refs::<3>()?, other.refs::<2>()?), ([1; 3], [2; 2]));

        // One of them only, which is there at another place, at its place, and not at all.
        skb.set_frag(other.frag(1)?);
        assert_eq!(other.refs::<2>()?, [1, 2]);
        skb.set_frag(other.frag(1)?.truncated(10));
        assert_eq!(other.refs::<2>()?, [1, 2]);
        assert_eq!((skb.as_skb().nr_frags(), skb.as_skb().len()), (1, 18));
        skb.set_frag(one.frag(0)?.truncated(PAGE + 1));
        assert_eq!((one.refs::<3>()?, other.refs::<2>()?), ([2, 1, 1], [1; 2]));
        assert_eq!(skb.as_skb().data_len(), PAGE);
        skb.clear_frags();
        assert_eq!(one.refs::<3>()?, [1; 3]);
        skb.set_frag(one.frag(2)?);
        assert_eq!(one.refs::<3>()?, [1, 1, 2]);
        drop(skb);
        assert_eq!(one.refs::<3>()?, [1; 3]);
        Ok(())
    }

    #[test]
    fn a_linear_part_comes_before_the_frags_and_takes_room() -> Result {
        const PAGE: usize = bindings::PAGE_SIZE;
        const MAX: usize = bindings::MAX_SKB_FRAGS as usize;
        let (stack, before) = (Stack::new(MAX)?, Stack::new(1)?);
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        let linear = Some(before.frag(0)?.truncated(7));
        let paged = PagedData::new(stack.skb(), linear, usize::MAX).ok_or(EINVAL)?;
        assert_eq!(paged.pages(), MAX);
        skb.set_frags(&paged);
        assert_eq!(skb.as_skb().data_len(), 7 + (MAX - 1) * PAGE);
        let frags = frags_of(&skb)?;
        assert_eq!(frags.len(), MAX);
        assert!(frags[0] == (before.frag(0)?.page.as_ptr(), 7));
        assert!(frags[MAX - 1] == (stack.frag(MAX - 2)?.page.as_ptr(), PAGE));
        assert_eq!(
            (before.refs::<1>()?, stack.frag(MAX - 1)?.len()),
            ([2], PAGE)
        );
        assert_eq!(stack.refs::<MAX>()?[MAX - 2..], [2, 1]);

        // It ends in the linear part, or right behind it.
        for (len, nr) in [(3, 1), (7, 1), (8, 2)] {
            skb.set_frags(&PagedData::new(stack.skb(), linear, len).ok_or(EINVAL)?);
            assert_eq!(
                (skb.as_skb().nr_frags(), skb.as_skb().data_len()),
                (nr, len)
            );
        }
        // Each page moves to another place, and back.
        skb.set_frags(&stack.paged(3 * PAGE)?);
        skb.set_frags(&PagedData::new(stack.skb(), linear, 7 + 2 * PAGE).ok_or(EINVAL)?);
        assert_eq!((before.refs::<1>()?, stack.refs::<3>()?), ([2], [2, 2, 1]));
        skb.set_frags(&stack.paged(3 * PAGE)?);
        assert_eq!((before.refs::<1>()?, stack.refs::<3>()?), ([1], [2, 2, 2]));

        // A page that follows itself is kept in memory once.
        let linear = Some(stack.frag(0)?.truncated(7));
        let paged = PagedData::new(stack.skb(), linear, 7 + 2 * PAGE).ok_or(EINVAL)?;
        assert_eq!(paged.pages(), 2);
        skb.set_frags(&paged);
        assert_eq!((before.refs::<1>()?, stack.refs::<3>()?), ([1], [3, 2, 1]));
        drop(skb);
        assert_eq!(stack.refs::<MAX>()?, [1; MAX]);
        Ok(())
    }

    #[test]
    fn paged_data_ends_at_an_empty_frag() -> Result {
        const PAGE: usize = bindings::PAGE_SIZE;
        let stack = Stack::new(3)?;
        // SAFETY: The buffer is ours, and not borrowed now.
        let len = unsafe { &mut (*bindings::skb_shinfo(stack.0.as_ptr())).frags[1].len };
        let before = core::mem::replace(len, 0);
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        skb.set_frags(&stack.paged(usize::MAX)?);
        assert_eq!(
            (skb.as_skb().nr_frags(), skb.as_skb().data_len()),
            (1, PAGE)
        );
        assert_eq!(stack.refs::<3>()?, [2, 1, 1]);
        // SAFETY: As above.
        unsafe { (*bindings::skb_shinfo(stack.0.as_ptr())).frags[1].len = before };
        Ok(())
    }

    #[test]
    fn the_only_frag_is_no_other() -> Result {
        assert!(Stack::new(2)?.skb().only_frag().is_none());
        let stack = Stack::new(1)?;
        let frag = stack.skb().only_frag().ok_or(EINVAL)?;
        assert_eq!((frag.len(), frag.pinned_pages()), (bindings::PAGE_SIZE, 1));
        assert!(PrivateSkBuff::new(64, GFP_KERNEL)?
            .as_skb()
            .only_frag()
            .is_none());
        Ok(())
    }

    #[test]
    fn detached_frags_are_freed_once() -> Result {
        const PAGES: usize = 3;
        let stack = Stack::new(PAGES)?;
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        skb.set_frags(&stack.paged(usize::MAX)?);
        assert_eq!(skb.as_skb().data_len(), PAGES * bindings::PAGE_SIZE);

        let mut few = PageRefs::<{ PAGES - 1 }>::new();
        assert_eq!(skb.detach_frags(&mut few), Err(ENOSPC));
        assert_eq!(skb.as_skb().nr_frags(), PAGES);
        let mut refs = PageRefs::<{ PAGES + 1 }>::new();
        skb.detach_frags(&mut refs)?;
        assert_eq!((skb.as_skb().nr_frags(), skb.as_skb().len()), (0, 0));
        assert_eq!(skb.as_skb().data_len(), 0);
        drop(stack);
        assert_eq!(refs.release(), PAGES);
        assert_eq!(refs.release(), 0);
        Ok(())
    }

    #[test]
    fn no_frag_of_a_slab_head() -> Result {
        let mut skb = PrivateSkBuff::new(64, GFP_KERNEL)?;
        skb.set_linear(0, 4);
        assert!(skb.as_skb().linear_frag(0).is_none());
        Ok(())
    }
}

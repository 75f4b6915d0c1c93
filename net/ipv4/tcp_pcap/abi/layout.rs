// SPDX-License-Identifier: GPL-2.0

//! Safe types over what debuggers read.
//!
//! Who may do what: the owner of a socket is the only one who changes its history, and holds
//! [`Owner`] as evidence. Slots alone are shared with others, and change hands by `xchg()`.
//!
//! C header: [`include/net/tcp_pcap.h`](srctree/include/net/tcp_pcap.h)

use crate::{limit::Charge, record::Record};
use core::{
    marker::PhantomData,
    mem::{self, ManuallyDrop},
    ptr::{self, addr_of, addr_of_mut, NonNull},
};
use kernel::{
    alloc::{allocator::Kmalloc, flags::*, Allocator, Flags, NumaNode},
    bindings,
    cpu::CpuId,
    net::{
        skbuff::{PrivateSkBuff, SkBuff},
        sock::TcpSock,
    },
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full, Relaxed, Release},
        rcu,
    },
    transmute::{AsBytes, FromBytes},
    types::Opaque,
};

/// `struct tcp_pcap_rec`.
pub(crate) type Rec = bindings::tcp_pcap_rec;

/// For allocation while a packet is in our hands: never sleeps, never touches the emergency
/// reserves.
pub(crate) fn gfp_packet() -> Flags {
    GFP_NOWAIT | __GFP_NOMEMALLOC | __GFP_NOWARN
}

pub(crate) const MAGIC: u32 = bindings::tcp_pcap_const_TCP_PCAP_MAGIC;
pub(crate) const VERSION: u8 = bindings::tcp_pcap_const_TCP_PCAP_VERSION as u8;
pub(crate) const KIND_PACKET: u8 = bindings::tcp_pcap_kind_TCP_PCAP_KIND_PACKET as u8;
pub(crate) const PACKETS_HARD_MAX: u32 = bindings::tcp_pcap_const_TCP_PCAP_PACKETS_HARD_MAX;
pub(crate) const OPT_IN: c_int = bindings::TCP_PCAP_IN as c_int;
pub(crate) const OPT_OUT: c_int = bindings::TCP_PCAP_OUT as c_int;
const CHUNK_SLOTS: usize = bindings::tcp_pcap_const_TCP_PCAP_CHUNK_SLOTS as usize;
const SHARDS: u32 = bindings::tcp_pcap_const_TCP_PCAP_SHARDS;

pub(crate) const F_IPV6: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_IPV6 as u16;
pub(crate) const F_SYNTH: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_SYNTH as u16;
pub(crate) const F_TRUNC: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_TRUNC as u16;
pub(crate) const F_MERGED: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_MERGED as u16;
pub(crate) const F_LEN_FIXED: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_LEN_FIXED as u16;

/// Why a record holds less than the packet: `enum tcp_pcap_why`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Why {
    Not = bindings::tcp_pcap_why_TCP_PCAP_WHY_NOT as u8,
    Snaplen = bindings::tcp_pcap_why_TCP_PCAP_WHY_SNAPLEN as u8,
    Unreadable = bindings::tcp_pcap_why_TCP_PCAP_WHY_UNREADABLE as u8,
    Zerocopy = bindings::tcp_pcap_why_TCP_PCAP_WHY_ZEROCOPY as u8,
    Shared = bindings::tcp_pcap_why_TCP_PCAP_WHY_SHARED as u8,
    Pfmemalloc = bindings::tcp_pcap_why_TCP_PCAP_WHY_PFMEMALLOC as u8,
    Limit = bindings::tcp_pcap_why_TCP_PCAP_WHY_LIMIT as u8,
    Decrypted = bindings::tcp_pcap_why_TCP_PCAP_WHY_DECRYPTED as u8,
    Linear = bindings::tcp_pcap_why_TCP_PCAP_WHY_LINEAR as u8,
    FragList = bindings::tcp_pcap_why_TCP_PCAP_WHY_FRAG_LIST as u8,
}

/// Direction of a packet, seen from the socket: `enum tcp_pcap_dir`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Dir {
    In = bindings::tcp_pcap_dir_TCP_PCAP_DIR_IN as u8,
    Out = bindings::tcp_pcap_dir_TCP_PCAP_DIR_OUT as u8,
}

/// Bytes of a [`Rec`] at the start of each record's head.
pub(crate) const REC_LEN: usize = size_of::<Rec>();

/// A [`Rec`] as bytes.
#[repr(transparent)]
struct RecBytes(Rec);

// SAFETY: `struct tcp_pcap_rec` is made of integers, without padding: each is aligned by those
// before it, and a C assertion says that the last ends where the structure does.
unsafe impl AsBytes for RecBytes {}
// SAFETY: As above; any bits are valid integers.
unsafe impl FromBytes for RecBytes {}

/// Writes a record's description to the start of its head. Does nothing if there is no room.
pub(crate) fn write_rec(head: &mut [u8], rec: Rec) {
    if let Some(to) = head.get_mut(..REC_LEN) {
        to.copy_from_slice(RecBytes(rec).as_bytes());
    }
}

/// Reads a record's description.
pub(crate) fn read_rec(head: &[u8]) -> Option<Rec> {
    Some(RecBytes::from_bytes_copy(head.get(..REC_LEN)?)?.0)
}

/// One host-wide limit: `struct tcp_pcap_account`.
#[repr(transparent)]
pub(crate) struct Account(Opaque<bindings::tcp_pcap_account>);

// SAFETY: Counters are accessed atomically, and the maximum is a word that is read at once.
unsafe impl Sync for Account {}

impl Account {
    /// Pages of frags: `net.ipv4.tcp_pcap_frags`.
    pub(crate) fn frags() -> &'static Self {
        // SAFETY: A C variable, never freed; `Account` is transparent over its type and allows any
        // change.
        unsafe { &*addr_of!(bindings::tcp_pcap_frags).cast() }
    }

    /// Bytes of records and slots: `net.ipv4.tcp_pcap_mem`.
    pub(crate) fn mem() -> &'static Self {
        // SAFETY: As in `frags`.
        unsafe { &*addr_of!(bindings::tcp_pcap_mem).cast() }
    }

    /// Takes over an account for a test.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn new_for_test(max: usize) -> Self {
        Self(Opaque::new(bindings::tcp_pcap_account {
            max,
            ..Default::default()
        }))
    }

    /// What is charged now.
    pub(crate) fn used(&self) -> &Atomic<i64> {
        // SAFETY: The account is valid as long as `self`; C too accesses the counter atomically.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.get()).used.counter)) }
    }

    /// Charges that were refused.
    pub(crate) fn refused(&self) -> &Atomic<i64> {
        // SAFETY: As in `used`.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.get()).refused.counter)) }
    }

    /// The limit.
    pub(crate) fn max(&self) -> usize {
        // SAFETY: The account is valid as long as `self`; the sysctl writes the word at once.
        unsafe { addr_of!((*self.0.get()).max).read_volatile() }
    }
}

type Slot = Atomic<*mut bindings::sk_buff>;

/// The slots of one ring, in chunks that are allocated when they are first used.
///
/// # Invariants
///
/// - `chunks` is null, or points at `nr_chunks(size)` pointers, charged; each of these is null, or
///   points at `chunk_slots(size, i)` slots, charged.
/// - A slot holds null, or the skb of a record that was forgotten (`PrivateSkBuff::into_raw`).
pub(crate) struct Slots {
    chunks: *mut *mut Slot,
    size: u32,
}

// SAFETY: Slots are atomic, and records may be freed on any CPU.
unsafe impl Send for Slots {}

const fn nr_chunks(size: u32) -> usize {
    (size as usize).div_ceil(CHUNK_SLOTS)
}

/// Slots in chunk `i` of a ring of `size`.
fn chunk_slots(size: u32, i: usize) -> usize {
    (size as usize)
        .saturating_sub(i.saturating_mul(CHUNK_SLOTS))
        .min(CHUNK_SLOTS)
}

/// Allocates `n` zeroed pointers, charged to the account of memory.
fn alloc_ptrs<T>(n: usize, flags: Flags) -> Result<NonNull<T>> {
    let layout = core::alloc::Layout::array::<*mut c_void>(n).map_err(|_| EINVAL)?;
    let charge = Charge::new(Account::mem(), layout.size()).ok_or(ENOBUFS)?;
    let p = Kmalloc::alloc(layout, flags | __GFP_ZERO, NumaNode::NO_NODE)?;
    charge.keep();
    Ok(p.cast())
}

/// Frees what [`alloc_ptrs`] returned.
///
/// # Safety
///
/// `p` came from `alloc_ptrs(n)` and is not used any more.
unsafe fn free_ptrs<T>(p: NonNull<T>, n: usize) {
    if let Ok(layout) = core::alloc::Layout::array::<*mut c_void>(n) {
        // SAFETY: By the safety requirements.
        unsafe { Kmalloc::free(p.cast(), layout) };
        Charge::release(Account::mem(), layout.size());
    }
}

impl Slots {
    /// Slots for `size` packets; allocates nothing.
    pub(crate) const fn new(size: u32) -> Self {
        // INVARIANT: No chunks yet.
        Self {
            chunks: ptr::null_mut(),
            size,
        }
    }

    /// Number of slots.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Allocates all chunks.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory.
    pub(crate) fn populate(&mut self, flags: Flags) -> Result {
        for i in 0..nr_chunks(self.size) {
            self.chunk(i, flags)?;
        }
        Ok(())
    }

    fn chunk(&mut self, i: usize, flags: Flags) -> Result<NonNull<Slot>> {
        let nr = nr_chunks(self.size);
        if i >= nr {
            return Err(EINVAL);
        }
        if self.chunks.is_null() {
            // INVARIANT: `nr` null pointers.
            self.chunks = alloc_ptrs::<*mut Slot>(nr, flags)?.as_ptr();
        }
        // SAFETY: By the type invariant there are `nr` pointers, and `i < nr`.
        let chunk = unsafe { self.chunks.add(i) };
        // SAFETY: As above.
        if let Some(c) = NonNull::new(unsafe { *chunk }) {
            return Ok(c);
        }
        let c = alloc_ptrs::<Slot>(chunk_slots(self.size, i), flags)?;
        // Released, so that a reader on another CPU sees null or a chunk of empty slots.
        // SAFETY: As above; it is written by the owner only. INVARIANT: Slots of null.
        unsafe { Atomic::from_ptr(chunk) }.store(c.as_ptr(), Release);
        Ok(c)
    }

    /// The slot of a serial number, if its chunk is there.
    fn get(&self, serial: u64) -> Option<&Slot> {
        let s = usize::try_from(serial.checked_rem(u64::from(self.size))?).ok()?;
        if self.chunks.is_null() {
            return None;
        }
        // SAFETY: `s < size`, so by the type invariant there is a pointer for its chunk.
        let c = NonNull::new(unsafe { *self.chunks.add(s / CHUNK_SLOTS) })?;
        // SAFETY: `s < size`, so by the type invariant the chunk has this slot; it lives as long as
        // `self`.
        Some(unsafe { c.add(s % CHUNK_SLOTS).as_ref() })
    }

    /// As [`Self::get`], but allocates the chunk.
    fn get_or_alloc(&mut self, serial: u64, flags: Flags) -> Result<&Slot> {
        let s = serial.checked_rem(u64::from(self.size)).ok_or(EINVAL)?;
        self.chunk(usize::try_from(s)? / CHUNK_SLOTS, flags)?;
        self.get(serial).ok_or(EINVAL)
    }

    /// Takes the record out of the slot of `serial`.
    pub(crate) fn take(&self, serial: u64) -> Option<Record> {
        let skb = NonNull::new(self.get(serial)?.xchg(ptr::null_mut(), Full))?;
        // SAFETY: By the type invariant the slot held a record's skb; whoever takes it out owns it.
        Some(Record::from_skb(unsafe { PrivateSkBuff::from_raw(skb) }))
    }

    /// Takes the record of `serial` itself, and leaves that of another serial in the slot.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn take_if(&mut self, serial: u64) -> Option<Record> {
        let record = self.take(serial)?;
        if record.rec()?.serial == serial {
            return Some(record);
        }
        let _ = self.put(serial, record, GFP_KERNEL);
        None
    }

    /// Puts a record into the slot of `serial`, whose chunk is allocated if need be. What was in it
    /// is freed.
    ///
    /// # Errors
    ///
    /// `ENOMEM` or `ENOBUFS` if there is no memory for the chunk; the record is freed then.
    pub(crate) fn put(&mut self, serial: u64, record: Record, flags: Flags) -> Result {
        let slot = self.get_or_alloc(serial, flags)?;
        // INVARIANT: A pointer from `into_raw`, of a record.
        let old = slot.xchg(record.into_skb().into_raw().as_ptr(), Full);
        if let Some(skb) = NonNull::new(old) {
            // SAFETY: As in `take`.
            drop(Record::from_skb(unsafe { PrivateSkBuff::from_raw(skb) }));
        }
        Ok(())
    }

    /// Records in it now.
    pub(crate) fn count(&self) -> u64 {
        (0..u64::from(self.size))
            .filter(|s| {
                self.get(*s)
                    .is_some_and(|slot| !slot.load(Relaxed).is_null())
            })
            .count() as u64
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let Some(chunks) = NonNull::new(self.chunks) else {
            return;
        };
        for s in 0..u64::from(self.size) {
            drop(self.take(s));
        }
        for i in 0..nr_chunks(self.size) {
            // SAFETY: By the type invariant.
            if let Some(c) = NonNull::new(unsafe { *chunks.as_ptr().add(i) }) {
                // SAFETY: By the type invariant; the slots are empty and not used any more.
                unsafe { free_ptrs(c, chunk_slots(self.size, i)) };
            }
        }
        // SAFETY: By the type invariant; not used any more.
        unsafe { free_ptrs(chunks, nr_chunks(self.size)) };
    }
}

/// The history of a socket, in the hands of the socket's owner: nobody else changes it meanwhile,
/// slots excepted.
///
/// # Invariants
///
/// `pcap` is valid for `'a`, and the caller owns its socket.
pub(crate) struct Owner<'a> {
    pcap: NonNull<bindings::tcp_pcap>,
    _sock: PhantomData<&'a TcpSock>,
}

/// One ring in the hands of the socket's owner.
pub(crate) struct Ring<'a> {
    ring: NonNull<bindings::tcp_pcap_ring>,
    shard: u16,
    _owner: PhantomData<&'a mut bindings::tcp_pcap_ring>,
}

/// Counters of a ring that only grow.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    /// Packets recorded.
    Captured,
    /// Packets overwritten or dropped by a smaller size.
    Evicted,
    /// Packets without payload, for a reason other than the snap length.
    HeaderOnly,
    /// Packets not recorded.
    Lost,
}

impl<'a> Owner<'a> {
    /// The history of a socket that the caller owns, if it has one.
    ///
    /// # Safety
    ///
    /// There is no other `Owner` of this socket.
    pub(super) unsafe fn of(sk: &'a TcpSock) -> Option<Self> {
        let tp = sk.as_raw().cast::<bindings::tcp_sock>();
        // SAFETY: `TcpSock` means that the caller owns the socket, so its pointer does not change.
        let pcap = NonNull::new(unsafe { (*tp).pcap })?;
        // INVARIANT: A socket's history lives until its owner destroys it.
        Some(Self {
            pcap,
            _sock: PhantomData,
        })
    }

    /// As [`Self::of`], for the pointer that C already loaded.
    ///
    /// # Safety
    ///
    /// `pcap` is the history of `sk`, and there is no other `Owner` of it.
    pub(super) unsafe fn from_raw(_sk: &'a TcpSock, pcap: NonNull<bindings::tcp_pcap>) -> Self {
        // INVARIANT: By the safety requirements, and because `TcpSock` means that the caller owns
        // the socket.
        Self {
            pcap,
            _sock: PhantomData,
        }
    }

    /// The ring of one direction.
    pub(crate) fn ring(&mut self, dir: Dir) -> Ring<'_> {
        let p = self.pcap.as_ptr();
        // SAFETY: By the type invariant.
        let (ring, shard) = unsafe {
            let ring = match dir {
                Dir::In => addr_of_mut!((*p).in_),
                Dir::Out => addr_of_mut!((*p).out),
            };
            (NonNull::new_unchecked(ring), (*p).shard)
        };
        Ring {
            ring,
            shard,
            _owner: PhantomData,
        }
    }

    /// Takes the next number of the connection's packets, and notes the time of activity.
    pub(crate) fn next_order(&mut self, time: u64) -> u64 {
        let p = self.pcap.as_ptr();
        // SAFETY: By the type invariant only the caller writes these.
        unsafe {
            let order = (*p).order;
            (*p).order = order.wrapping_add(1);
            addr_of_mut!((*p).stamp).write_volatile((time >> 30) as u32);
            order
        }
    }

    /// Starts over: numbers and counters are those of a new history.
    pub(crate) fn reset(&mut self) {
        // SAFETY: By the type invariant only the caller writes it.
        unsafe { (*self.pcap.as_ptr()).order = 0 };
        self.ring(Dir::In).reset();
        self.ring(Dir::Out).reset();
    }

    fn size_cell(&self, dir: Dir) -> &Atomic<u32> {
        let p = self.pcap.as_ptr();
        // SAFETY: By the type invariant; others read it at once.
        unsafe {
            Atomic::from_ptr(match dir {
                Dir::In => addr_of_mut!((*p).size_in),
                Dir::Out => addr_of_mut!((*p).size_out),
            })
        }
    }

    /// The configured size of one direction.
    pub(crate) fn size(&self, dir: Dir) -> u32 {
        self.size_cell(dir).load(Relaxed)
    }

    /// Configures the size of one direction; its slots stay as they are.
    pub(crate) fn set_size(&self, dir: Dir, size: u32) {
        self.size_cell(dir).store(size, Relaxed)
    }
}

impl Ring<'_> {
    fn counter(&self, c: Counter) -> *mut u64 {
        let r = self.ring.as_ptr();
        // SAFETY: The ring is valid as long as its `Owner`.
        unsafe {
            match c {
                Counter::Captured => addr_of_mut!((*r).captured),
                Counter::Evicted => addr_of_mut!((*r).evicted),
                Counter::HeaderOnly => addr_of_mut!((*r).header_only),
                Counter::Lost => addr_of_mut!((*r).lost),
            }
        }
    }

    /// Adds to a counter.
    pub(crate) fn add(&mut self, c: Counter, n: u64) {
        let p = self.counter(c);
        // SAFETY: The ring is valid, and its owner alone writes its counters.
        unsafe { p.write_volatile(p.read().wrapping_add(n)) }
    }

    /// Reads a counter.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn get(&self, c: Counter) -> u64 {
        // SAFETY: The ring is valid.
        unsafe { self.counter(c).read() }
    }

    /// Serial number of the next packet.
    pub(crate) fn next(&self) -> u64 {
        // SAFETY: The ring is valid.
        unsafe { (*self.ring.as_ptr()).next }
    }

    /// Goes on to the next serial number: from now on a reader accepts the record of the last one.
    pub(crate) fn advance(&mut self) {
        // SAFETY: The ring is valid, and its owner alone writes it.
        unsafe {
            let next = addr_of_mut!((*self.ring.as_ptr()).next);
            next.write_volatile((*next).wrapping_add(1));
        }
    }

    fn reset(&mut self) {
        for c in [
            Counter::Captured,
            Counter::Evicted,
            Counter::HeaderOnly,
            Counter::Lost,
        ] {
            // SAFETY: The ring is valid, and its owner alone writes it.
            unsafe { self.counter(c).write_volatile(0) };
        }
        // SAFETY: As above.
        unsafe {
            addr_of_mut!((*self.ring.as_ptr()).reclaimed).write_volatile(0);
            addr_of_mut!((*self.ring.as_ptr()).next).write_volatile(0);
        }
    }

    /// Works on the slots, and stores a chunk that it allocated.
    ///
    /// Private, because `f` must not move the slots away.
    fn with_slots<R>(&mut self, f: impl FnOnce(&mut Slots) -> R) -> R {
        let r = self.ring.as_ptr();
        // INVARIANT: The ring's fields came from a `Slots`, here or in `swap_slots`.
        // SAFETY: The ring is valid, and its owner alone exchanges its chunks.
        let mut slots = ManuallyDrop::new(unsafe {
            Slots {
                chunks: (*r).chunks.cast(),
                size: (*r).size,
            }
        });
        let ret = f(&mut slots);
        // The chunks can have come only, as the size is still the same.
        if !self.is_populated() && !slots.chunks.is_null() {
            self.publish_chunks(slots.chunks);
        }
        ret
    }

    /// Stores the array of chunks, so that others see it with its content.
    fn publish_chunks(&mut self, chunks: *mut *mut Slot) {
        // SAFETY: The ring is valid, and its owner alone writes it; others read the word at once.
        let cell = unsafe { Atomic::from_ptr(addr_of_mut!((*self.ring.as_ptr()).chunks)) };
        cell.store(chunks.cast(), Release);
    }

    /// Number of slots.
    pub(crate) fn size(&self) -> u32 {
        // SAFETY: The ring is valid, and its owner alone writes it.
        unsafe { (*self.ring.as_ptr()).size }
    }

    /// Whether there are slots that may have packets in them.
    pub(crate) fn is_populated(&self) -> bool {
        // SAFETY: The ring is valid, and its owner alone writes it.
        !unsafe { (*self.ring.as_ptr()).chunks }.is_null()
    }

    /// Takes the record out of the slot of `serial`.
    pub(crate) fn take(&mut self, serial: u64) -> Option<Record> {
        self.with_slots(|slots| slots.take(serial))
    }

    /// As [`Slots::take_if`].
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn take_if(&mut self, serial: u64) -> Option<Record> {
        self.with_slots(|slots| slots.take_if(serial))
    }

    /// As [`Slots::put`].
    ///
    /// # Errors
    ///
    /// `ENOMEM` or `ENOBUFS`; the record is freed then.
    pub(crate) fn put(&mut self, serial: u64, record: Record, flags: Flags) -> Result {
        self.with_slots(|slots| slots.put(serial, record, flags))
    }

    /// Exchanges the slots.
    ///
    /// Under the lock of the shard, because others than the owner look at slots under that lock
    /// only.
    pub(crate) fn swap_slots(&mut self, new: Slots) -> Slots {
        let new = ManuallyDrop::new(new);
        let r = self.ring.as_ptr();
        let Some(shard) = shard(self.shard) else {
            // Not reached: the shard of a history is one of the array.
            return ManuallyDrop::into_inner(new);
        };
        // SAFETY: The shard's lock is valid and not held by us; the ring is valid, and its owner
        // alone writes it.
        // INVARIANT: Chunks and size go together.
        unsafe {
            let lock = addr_of_mut!((*shard).lock);
            bindings::spin_lock_bh(lock);
            let old = Slots {
                chunks: (*r).chunks.cast(),
                size: (*r).size,
            };
            self.publish_chunks(new.chunks);
            addr_of_mut!((*r).size).write_volatile(new.size);
            addr_of_mut!((*r).nr_chunks).write_volatile(nr_chunks(new.size) as u32);
            bindings::spin_unlock_bh(lock);
            old
        }
    }
}

fn shard(i: u16) -> Option<*mut bindings::tcp_pcap_shard> {
    // SAFETY: The index is within the array, which has `SHARDS` elements.
    (u32::from(i) < SHARDS).then(|| unsafe {
        addr_of_mut!(bindings::tcp_pcap_shards)
            .cast::<bindings::tcp_pcap_shard>()
            .add(usize::from(i))
    })
}

/// Sets the pointer in `struct tcp_sock`, as `rcu_assign_pointer()` does.
fn set_history(sk: &TcpSock, pcap: *mut bindings::tcp_pcap) {
    let tp = sk.as_raw().cast::<bindings::tcp_sock>();
    // SAFETY: The caller owns the socket; others read the pointer at once.
    unsafe { Atomic::from_ptr(addr_of_mut!((*tp).pcap)) }.store(pcap, Release);
}

/// A history that no socket has yet.
///
/// # Invariants
///
/// `0` is a valid `struct tcp_pcap` with empty rings, owned by this value, charged, and in no list.
pub(crate) struct Capture(KBox<bindings::tcp_pcap>, Charged);

/// What a history is charged with; released after it is freed.
struct Charged;

impl Capture {
    /// Allocates a history with no slots.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory.
    pub(crate) fn new(flags: Flags) -> Result<Self> {
        let charge = Charge::new(Account::mem(), size_of::<bindings::tcp_pcap>()).ok_or(ENOBUFS)?;
        let pcap = KBox::new(bindings::tcp_pcap::default(), flags)?;
        charge.keep();
        // INVARIANT: Zeroes are a history with empty rings; just charged.
        Ok(Self(pcap, Charged))
    }

    /// Gives the history to a socket that has none, and makes it known to readers.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the socket has one.
    pub(crate) fn attach(self, sk: &TcpSock) -> Result<Owner<'_>> {
        // SAFETY: What is found is not kept.
        if unsafe { Owner::of(sk) }.is_some() {
            return Err(EBUSY);
        }
        let Self(pcap, charged) = self;
        let pcap = KBox::into_raw(pcap);
        // It stays charged until it is detached.
        mem::forget(charged);
        // Which CPU it is does not matter, as long as it is not always the same.
        let i = (CpuId::current().as_u32() % SHARDS) as u16;
        // SAFETY: `pcap` is valid and ours; the shard's lock protects its list; the caller owns the
        // socket.
        unsafe {
            (*pcap).sk = sk.as_raw();
            (*pcap).netns_cookie = sk.net_cookie();
            (*pcap).shard = i;
            if let Some(s) = shard(i) {
                bindings::spin_lock_bh(addr_of_mut!((*s).lock));
                bindings::list_add_tail(addr_of_mut!((*pcap).node), addr_of_mut!((*s).captures));
                bindings::spin_unlock_bh(addr_of_mut!((*s).lock));
            }
            set_history(sk, pcap);
            // INVARIANT: It is the history of `sk` now.
            Ok(Owner {
                pcap: NonNull::new_unchecked(pcap),
                _sock: PhantomData,
            })
        }
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        Charge::release(Account::mem(), size_of::<bindings::tcp_pcap>());
    }
}

/// Takes the history from its socket, and frees it with its packets.
pub(crate) fn detach(sk: &TcpSock, mut owner: Owner<'_>) {
    for dir in [Dir::In, Dir::Out] {
        drop(owner.ring(dir).swap_slots(Slots::new(0)));
    }
    let pcap = owner.pcap.as_ptr();
    // SAFETY: By the invariant of `Owner`, which ends here; nobody finds the history once it is
    // unlinked, but for those who found it under RCU before, and it is freed after them.
    unsafe {
        set_history(sk, ptr::null_mut());
        if let Some(s) = shard((*pcap).shard) {
            bindings::spin_lock_bh(addr_of_mut!((*s).lock));
            bindings::list_del(addr_of_mut!((*pcap).node));
            bindings::spin_unlock_bh(addr_of_mut!((*s).lock));
        }
        bindings::tcp_pcap_free_rcu(pcap);
    }
    // At once, so that whoever frees a history sees it in the account: what waits for the grace
    // period is the structure alone, without packets.
    drop(Charged);
}

/// The configured sizes (in, out) of a socket that others may own at this moment.
///
/// # Safety
///
/// `sk` is a valid TCP socket.
pub(super) unsafe fn sizes_of(sk: *const bindings::sock) -> (u32, u32) {
    let _rcu = rcu::read_lock();
    let tp = sk.cast::<bindings::tcp_sock>().cast_mut();
    // SAFETY: By the safety requirements; a history is freed after a grace period.
    unsafe {
        let pcap = Atomic::from_ptr(addr_of_mut!((*tp).pcap)).load(Acquire);
        if pcap.is_null() {
            return (0, 0);
        }
        (
            addr_of!((*pcap).size_in).read_volatile(),
            addr_of!((*pcap).size_out).read_volatile(),
        )
    }
}

/// What a socket that others may own has at this moment.
pub(crate) enum Present {
    /// No history.
    Nothing,
    /// A history, but nothing to move when the size of this direction changes.
    Empty,
    /// This many slots, with packets in them.
    Slots(u32),
}

/// What a socket that others may own has of one direction at this moment.
///
/// # Safety
///
/// `sk` is a valid TCP socket.
pub(super) unsafe fn present(sk: *mut bindings::sock, dir: Dir) -> Present {
    let _rcu = rcu::read_lock();
    let tp = sk.cast::<bindings::tcp_sock>();
    // SAFETY: By the safety requirements; a history is freed after a grace period, and its words
    // are read at once.
    unsafe {
        let pcap = Atomic::from_ptr(addr_of_mut!((*tp).pcap)).load(Acquire);
        if pcap.is_null() {
            return Present::Nothing;
        }
        let ring = match dir {
            Dir::In => addr_of!((*pcap).in_),
            Dir::Out => addr_of!((*pcap).out),
        };
        if addr_of!((*ring).chunks).read_volatile().is_null() {
            return Present::Empty;
        }
        Present::Slots(addr_of!((*ring).size).read_volatile())
    }
}

/// `net.ipv4.tcp_pcap_packets`, `tcp_pcap_packets_max` and `tcp_pcap_snaplen` of a namespace.
///
/// # Invariants
///
/// The namespace is valid for `'a`.
pub(crate) struct Sysctls<'a> {
    net: *mut bindings::net,
    _sock: PhantomData<&'a TcpSock>,
}

/// Reads a sysctl of the namespace, which may be written at any time.
macro_rules! sysctl {
    ($self:ident, $name:ident) => {
        // SAFETY: By the type invariant; the sysctl is a word that is read at once.
        unsafe { addr_of!((*$self.net).ipv4.$name).read_volatile() }
    };
}

impl<'a> Sysctls<'a> {
    /// Those of a socket's namespace.
    pub(crate) fn of(sk: &'a TcpSock) -> Self {
        // INVARIANT: The namespace lives as long as the socket.
        Self {
            net: sk.net(),
            _sock: PhantomData,
        }
    }

    /// Those of the namespace of a socket that others may own.
    ///
    /// # Safety
    ///
    /// `sk` is a valid socket for `'a`.
    pub(super) unsafe fn from_raw(sk: *const bindings::sock) -> Self {
        // INVARIANT: The namespace lives as long as the socket, and never changes.
        Self {
            // SAFETY: By the safety requirements.
            net: unsafe { bindings::sock_net(sk) },
            _sock: PhantomData,
        }
    }

    /// Packets per direction for new sockets.
    pub(crate) fn packets(&self) -> u32 {
        u32::try_from(sysctl!(self, sysctl_tcp_pcap_packets))
            .unwrap_or(0)
            .min(PACKETS_HARD_MAX)
    }

    /// Largest size without privilege.
    pub(crate) fn packets_max(&self) -> u32 {
        u32::try_from(sysctl!(self, sysctl_tcp_pcap_packets_max)).unwrap_or(0)
    }

    /// Payload bytes to keep of each packet, `None` for all.
    pub(crate) fn snaplen(&self) -> Option<usize> {
        usize::try_from(sysctl!(self, sysctl_tcp_pcap_snaplen)).ok()
    }
}

/// Whether the caller may exceed `tcp_pcap_packets_max`: CAP_NET_ADMIN in the initial user
/// namespace.
pub(crate) fn may_exceed_max() -> bool {
    // SAFETY: Called in process context only, by the option handler.
    unsafe { bindings::capable(bindings::CAP_NET_ADMIN as c_int) }
}

/// Switches the hooks on. May sleep.
pub(crate) fn enable() {
    // SAFETY: No requirement but that it may sleep, which the option handler may.
    unsafe { bindings::tcp_pcap_enable() }
}

/// Runs `f` with the socket locked by the caller. May sleep.
///
/// # Safety
///
/// `sk` is a valid TCP socket that the caller does not own, in process context.
pub(super) unsafe fn with_lock<R>(sk: *mut bindings::sock, f: impl FnOnce(&TcpSock) -> R) -> R {
    // SAFETY: By the safety requirements.
    unsafe {
        bindings::sockopt_lock_sock(sk);
        let r = f(TcpSock::from_raw(sk));
        bindings::sockopt_release_sock(sk);
        r
    }
}

/// The acknowledgement number and the flags with which TCP treats a received packet
/// (`TCP_SKB_CB()`), if they are not those of its header: after a merge in the backlog they are
/// those of the last segment, the header's those of the first.
pub(crate) fn merged_ack_and_flags(skb: &SkBuff) -> Option<(u32, u8)> {
    // SAFETY: The hooks in the receive path come after `tcp_v4_fill_cb()` or its IPv6 counterpart,
    // which write all of it; the control buffer is aligned to 8 bytes and large enough.
    let (ack, flags) = unsafe {
        let cb = addr_of!((*skb.as_raw()).cb).cast::<bindings::tcp_skb_cb>();
        ((*cb).ack_seq, (*cb).tcp_flags as u8)
    };
    let tcp = skb.linear();
    let same = tcp.get(8..12) == Some(&ack.to_be_bytes()) && tcp.get(13) == Some(&flags);
    (!same).then_some((ack, flags))
}

// SPDX-License-Identifier: GPL-2.0

//! The history of a socket, in the hands of its owner.
//!
//! Who may do what: the owner of a socket is the only one who changes its history, and holds
//! [`Owner`] as evidence. Slots alone are shared with others, see [`super::slots`].

use super::{
    account::{Payer, Resource},
    layout::{Dir, CAPTURE_CONTAINER},
    shard,
    slots::{nr_chunks, slab_size, Found, Gone, Met, Slot, Slots},
    stack::gfp_packet,
};
use crate::{
    limit::{self, Charge},
    record::{Record, RECORD_MAX},
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{self, addr_of, addr_of_mut, NonNull},
};
use kernel::{
    alloc::Flags,
    bindings,
    net::sock::TcpSock,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        rcu, //
    },
};

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
///
/// # Invariants
///
/// As those of [`Owner`], who has lent it.
pub(crate) struct Ring<'a> {
    pcap: NonNull<bindings::tcp_pcap>,
    dir: Dir,
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
    /// Packets given back; written under the lock of the shard.
    Reclaimed,
    /// Packets of which the payload was given back; written under the lock of the shard.
    Stripped,
}

impl<'a> Owner<'a> {
    /// The history of a socket that the caller owns, if it has one.
    ///
    /// # Safety
    ///
    /// There is no other `Owner` of this socket.
    #[inline]
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

    /// The ring of one direction.
    #[inline]
    pub(crate) fn ring(&mut self, dir: Dir) -> Ring<'_> {
        // INVARIANT: Lent.
        Ring {
            pcap: self.pcap,
            dir,
            _owner: PhantomData,
        }
    }

    /// Whose share it is charged to.
    #[inline]
    pub(crate) fn payer(&self) -> Payer {
        // SAFETY: By the type invariant; it never changes.
        payer_of(unsafe { (*self.pcap.as_ptr()).flags })
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
    #[inline]
    fn raw(&self) -> *mut bindings::tcp_pcap_ring {
        let p = self.pcap.as_ptr();
        // SAFETY: By the type invariant.
        unsafe {
            match self.dir {
                Dir::In => addr_of_mut!((*p).in_),
                Dir::Out => addr_of_mut!((*p).out),
            }
        }
    }

    /// Which one it is.
    #[inline]
    pub(crate) fn dir(&self) -> Dir {
        self.dir
    }

    /// The ring for somebody else, by value, so that it need not be in memory.
    #[inline]
    pub(crate) fn lend(&mut self) -> Ring<'_> {
        // INVARIANT: As that of `self`, which is borrowed meanwhile.
        Ring {
            pcap: self.pcap,
            dir: self.dir,
            _owner: PhantomData,
        }
    }

    /// Whose share it is charged to.
    #[inline]
    pub(crate) fn payer(&self) -> Payer {
        // SAFETY: By the type invariant; it never changes.
        payer_of(unsafe { (*self.pcap.as_ptr()).flags })
    }

    /// Takes the next number of the connection's packets, and notes the time of activity.
    #[inline]
    pub(crate) fn next_order(&self, time: u64) -> u64 {
        let p = self.pcap.as_ptr();
        // SAFETY: By the type invariant; the owner alone writes these.
        unsafe {
            let order = (*p).order;
            (*p).order = order.wrapping_add(1);
            addr_of_mut!((*p).stamp).write_volatile(time);
            order
        }
    }

    fn counter(&self, c: Counter) -> *mut u64 {
        // SAFETY: The ring is valid as long as its `Owner`.
        unsafe { counter_of(self.raw(), c) }
    }

    /// Adds to a counter, other than those that are written under the shard's lock.
    #[inline]
    pub(crate) fn add(&self, c: Counter, n: u64) {
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
        unsafe { (*self.raw()).next }
    }

    /// Goes on to the next serial number: from now on a reader accepts the record of the last one.
    #[inline]
    pub(crate) fn advance(&self) {
        // SAFETY: The ring is valid, and its owner alone writes it.
        unsafe {
            let next = addr_of_mut!((*self.raw()).next);
            next.write_volatile((*next).wrapping_add(1));
        }
    }

    fn reset(&mut self) {
        for c in [
            Counter::Captured,
            Counter::Evicted,
            Counter::HeaderOnly,
            Counter::Lost,
            // There are no slots now, so nobody else has a reason to write these.
            Counter::Reclaimed,
            Counter::Stripped,
        ] {
            // SAFETY: The ring is valid, and its owner alone writes it.
            unsafe { self.counter(c).write_volatile(0) };
        }
        // SAFETY: As above.
        unsafe { addr_of_mut!((*self.raw()).next).write_volatile(0) };
    }

    /// Works on the slots, and stores a chunk that it allocated.
    ///
    /// Private, because `f` must not move the slots away.
    fn with_slots<R>(&mut self, f: impl FnOnce(&mut Slots) -> R) -> R {
        let r = self.raw();
        // INVARIANT: The ring's fields came from a `Slots`, here or in `swap_slots`.
        // SAFETY: The ring is valid, and its owner alone exchanges its chunks.
        let mut slots = ManuallyDrop::new(unsafe {
            Slots {
                chunks: (*r).chunks.cast(),
                size: (*r).size,
                used: (*r).size,
                payer: self.payer(),
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
        let cell = unsafe { Atomic::from_ptr(addr_of_mut!((*self.raw()).chunks)) };
        cell.store(chunks.cast(), Release);
    }

    /// Number of slots.
    pub(crate) fn size(&self) -> u32 {
        // SAFETY: The ring is valid, and its owner alone writes it.
        unsafe { (*self.raw()).size }
    }

    /// Whether there are slots, which may have packets in them.
    pub(crate) fn is_populated(&self) -> bool {
        // SAFETY: The ring is valid, and its owner alone writes it.
        !unsafe { (*self.raw()).chunks }.is_null()
    }

    /// Allocates the chunk of the next packet's slot, if a record fits beside it. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory.
    #[cold]
    #[inline(never)]
    pub(crate) fn provide(mut self) -> Result {
        // Else what is left would go for slots that stay empty.
        let record = Charge::new(Resource::Mem, self.payer(), RECORD_MAX).ok_or(ENOBUFS)?;
        let serial = self.next();
        let provided = self.with_slots(|slots| slots.provide(serial, gfp_packet()));
        drop(record);
        provided
    }

    /// About how many records keep pages in memory.
    #[inline]
    pub(crate) fn payloads(&self) -> Payloads<'_> {
        // SAFETY: The ring is valid, and the counter accessed atomically.
        Payloads(unsafe { Atomic::from_ptr(addr_of_mut!((*self.raw()).payloads.counter)) })
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
    /// As [`Slots::put`].
    pub(crate) fn put(
        &mut self,
        serial: u64,
        record: Record,
        flags: Flags,
        rcu: &rcu::Guard,
    ) -> Result<Option<Record>, Gone> {
        self.with_slots(|slots| slots.put(serial, record, flags, rcu))
    }

    /// Exchanges the slots.
    ///
    /// Under the lock of the shard, because others than the owner look at slots under that lock
    /// only.
    pub(crate) fn swap_slots(&mut self, new: Slots) -> Slots {
        let new = ManuallyDrop::new(new);
        let r = self.raw();
        // SAFETY: By the type invariant; it never changes.
        let _locked = shard::lock(unsafe { (*self.pcap.as_ptr()).shard });
        // SAFETY: The ring is valid, and its owner alone writes it.
        // INVARIANT: Chunks and size go together.
        unsafe {
            let old = slots_of(r, self.payer());
            self.publish_chunks(new.chunks);
            addr_of_mut!((*r).size).write_volatile(new.size);
            addr_of_mut!((*r).nr_chunks).write_volatile(nr_chunks(new.size) as u32);
            // What is put into the new slots counts again.
            Atomic::from_ptr(addr_of_mut!((*r).payloads.counter)).store(0i64, Relaxed);
            old
        }
    }
}

/// The number of records of a ring that keep pages in memory.
#[derive(Clone, Copy)]
pub(crate) struct Payloads<'a>(&'a Atomic<i64>);

impl Payloads<'_> {
    /// Adds: before such a record is put into its slot, and after it was taken out.
    #[inline]
    pub(crate) fn add(self, n: i64) {
        if n != 0 {
            self.0.add(n, Relaxed);
        }
    }

    /// Counts that a record kept pages in memory `before`, or not, and does `now`, or not. Called
    /// before it is put into its slot.
    #[inline]
    pub(crate) fn change(self, before: bool, now: bool) {
        self.add(i64::from(now).wrapping_sub(i64::from(before)))
    }
}

/// A ring with the slot of its next packet.
///
/// # Invariants
///
/// `slot` is one of those of `ring`, whose chunks are not exchanged as long as this has it. An RCU
/// read side section lasts for `'a`.
pub(crate) struct NextSlot<'a> {
    ring: Ring<'a>,
    slot: Found<'a>,
}

impl<'a> NextSlot<'a> {
    /// That of a ring, if it exists by now.
    ///
    /// # Errors
    ///
    /// The ring, if it does not.
    #[inline(always)]
    pub(crate) fn of(ring: Ring<'a>, _rcu: &'a rcu::Guard) -> Result<Self, Ring<'a>> {
        let r = ring.raw();
        // SAFETY: The ring is valid, and its owner, who alone exchanges its chunks, has lent it for
        // `'a`; we are in an RCU read side section.
        match unsafe { Found::new((*r).chunks.cast(), (*r).size, (*r).next) } {
            // INVARIANT: Just found; whoever has this gets no more than a shared reference to the
            // ring, unless by giving the slot up.
            Some(slot) => Ok(Self { ring, slot }),
            None => Err(ring),
        }
    }

    /// The ring.
    #[inline]
    pub(crate) fn ring(&self) -> &Ring<'a> {
        &self.ring
    }

    /// The ring, without the slot.
    #[inline]
    pub(crate) fn into_ring(self) -> Ring<'a> {
        self.ring
    }

    /// Takes the record out.
    #[inline]
    pub(crate) fn take(&self) -> Option<Record> {
        self.slot.take()
    }

    /// As [`Found::put`].
    ///
    /// # Errors
    ///
    /// As [`Found::put`].
    #[inline(always)]
    pub(crate) fn put(&self, record: Record) -> Result<(), Met> {
        self.slot.put(record)
    }
}

/// The slots of a ring, which must be taken from it or forgotten.
///
/// # Safety
///
/// `r` is a valid ring that nobody else writes, charged to `payer`.
unsafe fn slots_of(r: *mut bindings::tcp_pcap_ring, payer: Payer) -> Slots {
    // SAFETY: By the safety requirements.
    // INVARIANT: The ring's fields came from a `Slots`. Serials count from 0, and so do slots:
    // those of later ones were never used.
    unsafe {
        let size = (*r).size;
        Slots {
            chunks: (*r).chunks.cast(),
            size,
            used: u32::try_from((*r).next).map_or(size, |next| next.min(size)),
            payer,
        }
    }
}

/// Where a counter lies.
///
/// # Safety
///
/// `r` is a valid ring.
pub(super) unsafe fn counter_of(r: *mut bindings::tcp_pcap_ring, c: Counter) -> *mut u64 {
    // SAFETY: By the safety requirements.
    unsafe {
        match c {
            Counter::Captured => addr_of_mut!((*r).captured),
            Counter::Evicted => addr_of_mut!((*r).evicted),
            Counter::HeaderOnly => addr_of_mut!((*r).header_only),
            Counter::Lost => addr_of_mut!((*r).lost),
            Counter::Reclaimed => addr_of_mut!((*r).reclaimed),
            Counter::Stripped => addr_of_mut!((*r).stripped),
        }
    }
}

/// The payer that a history's flags name.
pub(super) fn payer_of(flags: u16) -> Payer {
    if flags & CAPTURE_CONTAINER != 0 {
        Payer::Containers
    } else {
        Payer::Host
    }
}

/// Sets the pointer in `struct tcp_sock`, as `rcu_assign_pointer()` does.
fn set_history(sk: &TcpSock, pcap: *mut bindings::tcp_pcap) {
    let tp = sk.as_raw().cast::<bindings::tcp_sock>();
    // SAFETY: The caller owns the socket; others read the pointer at once.
    unsafe { Atomic::from_ptr(addr_of_mut!((*tp).pcap)) }.store(pcap, Release);
}

/// Bytes of a history.
const CAPTURE_LEN: usize = size_of::<bindings::tcp_pcap>();

/// A history that no socket has. It is freed when dropped, with the records in its slots.
///
/// # Invariants
///
/// Points at a valid `struct tcp_pcap` that belongs to this value, is charged, and is in no list.
/// Nobody looks at its slots; those who found it under RCU look at other words only.
pub(crate) struct Capture(NonNull<bindings::tcp_pcap>);

// SAFETY: Nobody else uses it, and it may be freed on any CPU.
unsafe impl Send for Capture {}

impl Capture {
    /// A history for a socket that is to have rings of these sizes (in, out), without packets: one
    /// that was kept for this, or a new one without slots.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory.
    pub(crate) fn new(payer: Payer, sizes: (u32, u32), flags: Flags) -> Result<Self> {
        match limit::take_history(payer, |kept| kept.ring_sizes() == sizes) {
            Some(mut kept) => {
                kept.configure(sizes);
                Ok(kept)
            }
            None => Self::alloc(payer, sizes, flags),
        }
    }

    /// Allocates a history with no slots.
    #[inline(never)]
    fn alloc(payer: Payer, sizes: (u32, u32), flags: Flags) -> Result<Self> {
        let charge = Charge::new(Resource::Mem, payer, slab_size(CAPTURE_LEN)).ok_or(ENOBUFS)?;
        let mut pcap = KBox::new(bindings::tcp_pcap::default(), flags)?;
        if payer == Payer::Containers {
            pcap.flags = CAPTURE_CONTAINER;
        }
        let rings = &mut *pcap;
        for (ring, size) in [(&mut rings.in_, sizes.0), (&mut rings.out, sizes.1)] {
            ring.size = size;
            ring.nr_chunks = nr_chunks(size) as u32;
        }
        charge.keep();
        // SAFETY: Never null.
        // INVARIANT: Zeroes are a history with empty rings; just charged.
        let mut history = Self(unsafe { NonNull::new_unchecked(KBox::into_raw(pcap)) });
        history.configure(sizes);
        Ok(history)
    }

    /// The C pointer, to be taken over by [`Self::from_raw`].
    #[inline]
    pub(super) fn into_raw(self) -> NonNull<bindings::tcp_pcap> {
        ManuallyDrop::new(self).0
    }

    /// Takes over what [`Self::into_raw`] returned.
    ///
    /// # Safety
    ///
    /// `pcap` was returned by [`Self::into_raw`] and is taken over once; nobody has it since.
    #[inline]
    pub(super) unsafe fn from_raw(pcap: NonNull<bindings::tcp_pcap>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(pcap)
    }

    fn payer(&self) -> Payer {
        // SAFETY: By the type invariant.
        payer_of(unsafe { (*self.0.as_ptr()).flags })
    }

    /// Sizes of its rings (in, out), whether there are slots by now or not.
    pub(crate) fn ring_sizes(&self) -> (u32, u32) {
        let p = self.0.as_ptr();
        // SAFETY: By the type invariant.
        unsafe { ((*p).in_.size, (*p).out.size) }
    }

    /// Sets the sizes that the socket is to have.
    fn configure(&mut self, sizes: (u32, u32)) {
        let p = self.0.as_ptr();
        // SAFETY: By the type invariant; who found it under RCU may read it at once.
        let (size_in, size_out) = unsafe {
            (
                Atomic::from_ptr(addr_of_mut!((*p).size_in)),
                Atomic::from_ptr(addr_of_mut!((*p).size_out)),
            )
        };
        size_in.store(sizes.0, Relaxed);
        size_out.store(sizes.1, Relaxed);
    }

    /// Passes the slots of each ring to `f`, in turn.
    ///
    /// Private, because `f` must neither move the slots away nor provide chunks.
    fn with_slots(&mut self, mut f: impl FnMut(&mut Slots)) {
        let (p, payer) = (self.0.as_ptr(), self.payer());
        // SAFETY: By the type invariant; they are forgotten again.
        unsafe {
            for ring in [addr_of_mut!((*p).in_), addr_of_mut!((*p).out)] {
                f(&mut ManuallyDrop::new(slots_of(ring, payer)));
            }
        }
    }

    /// Makes it a history without packets again, with the slots that it has, which are empty.
    fn reset(&mut self) {
        let p = self.0.as_ptr();
        // SAFETY: By the type invariant.
        unsafe {
            for ring in [addr_of_mut!((*p).in_), addr_of_mut!((*p).out)] {
                (*ring).next = 0;
                (*ring).captured = 0;
                (*ring).evicted = 0;
                (*ring).header_only = 0;
                (*ring).lost = 0;
                (*ring).reclaimed = 0;
                (*ring).stripped = 0;
                (*ring).payloads.counter = 0;
            }
            (*p).order = 0;
            (*p).sk = ptr::null_mut();
            (*p).round = 0;
            (*p).stamp = 0;
        }
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
        // It stays charged until it is detached.
        let pcap = self.into_raw();
        let p = pcap.as_ptr();
        // SAFETY: `pcap` is valid and ours, and in no list; the caller owns the socket.
        unsafe {
            (*p).sk = sk.as_raw();
            (*p).netns_cookie = sk.net_cookie();
            shard::link(p);
            set_history(sk, p);
        }
        // INVARIANT: It is the history of `sk` now.
        Ok(Owner {
            pcap,
            _sock: PhantomData,
        })
    }

    /// Takes the history from its socket.
    fn of_socket(sk: &TcpSock, owner: Owner<'_>) -> Self {
        set_history(sk, ptr::null_mut());
        // SAFETY: By the invariant of `Owner`, which ends here, it is linked.
        unsafe { shard::unlink(owner.pcap.as_ptr()) };
        // INVARIANT: Nobody finds it any more; it was charged when it was attached.
        Self(owner.pcap)
    }

    /// Frees it if it has many packets: later, in process context.
    fn free_if_large(mut self) -> Option<Self> {
        let (mut packets, mut used) = (0u32, 0u32);
        self.with_slots(|slots| used = used.saturating_add(slots.used));
        if used <= FREED_AT_ONCE {
            return Some(self);
        }
        // Reclaim may have taken most of them.
        self.with_slots(|slots| packets = packets.saturating_add(slots.may_hold()));
        if packets <= FREED_AT_ONCE {
            return Some(self);
        }
        // SAFETY: It belongs to whoever frees it.
        unsafe { bindings::tcp_pcap_free_later(self.into_raw().as_ptr()) };
        None
    }

    /// Keeps its records for later connections, and the history itself, where there is room.
    fn keep(mut self) {
        let Some(mut kept) = limit::spares(self.payer()) else {
            return;
        };
        self.with_slots(|slots| slots.empty(|record| record.retire(&mut kept)));
        let (mut slots, mut has_slots) = (0usize, false);
        self.with_slots(|ring| {
            let mem = ring.mem();
            slots = slots.saturating_add(mem);
            has_slots |= mem != 0;
        });
        if has_slots {
            self.reset();
            kept.keep_history(self, slots.saturating_add(slab_size(CAPTURE_LEN)));
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, and nobody uses it after this.
        while unsafe { free_some(self.0.as_ptr()) } {}
    }
}

/// Packets of a history that are freed at once, maybe with BH off.
const FREED_AT_ONCE: u32 = 256;

/// Takes the history from its socket, and frees it with its packets; many packets later, in process
/// context. Returns whether that is the case.
pub(crate) fn detach(sk: &TcpSock, owner: Owner<'_>) -> bool {
    Capture::of_socket(sk, owner).free_if_large().is_none()
}

/// As [`detach`], but what is left of a small one is kept for later connections.
///
/// The socket ends, so nobody asks for its options any more. Who found the history as that of a
/// listener, under RCU, may read the sizes of another socket, for a child that will not live.
pub(crate) fn retire(sk: &TcpSock, owner: Owner<'_>) {
    if let Some(history) = Capture::of_socket(sk, owner).free_if_large() {
        history.keep();
    }
}

/// Frees slots that were taken from the rings of a socket, received packets first; many packets
/// later, in process context.
pub(crate) fn free_slots(mut slots: [Slots; 2], payer: Payer) {
    let carrier = loop {
        let packets = slots
            .iter()
            .fold(0u32, |n, slots| n.saturating_add(slots.may_hold()));
        if packets <= FREED_AT_ONCE {
            return;
        }
        match Capture::alloc(payer, (0, 0), gfp_packet()) {
            Ok(carrier) => break carrier.into_raw().as_ptr(),
            // At the limit, or without memory, a chunk makes room for what is to remember the rest.
            Err(_) => {
                slots.iter_mut().find_map(|slots| slots.free_chunk(0));
            }
        }
    };
    // SAFETY: `carrier` is a valid history with empty rings, ours, and in no shard.
    unsafe {
        let rings = [addr_of_mut!((*carrier).in_), addr_of_mut!((*carrier).out)];
        for (ring, slots) in rings.into_iter().zip(slots) {
            let slots = ManuallyDrop::new(slots);
            (*ring).chunks = slots.chunks.cast();
            (*ring).size = slots.size;
            (*ring).next = u64::from(slots.used);
        }
        bindings::tcp_pcap_free_later(carrier);
    }
}

/// Frees a history that has no slots.
///
/// # Safety
///
/// `pcap` belongs to the caller, is in no shard, and is not used any more, but by those who found
/// it under RCU.
unsafe fn free_empty(pcap: *mut bindings::tcp_pcap) {
    // SAFETY: By the safety requirements.
    let payer = unsafe {
        let payer = payer_of((*pcap).flags);
        bindings::tcp_pcap_free_rcu(pcap);
        payer
    };
    // At once, so that whoever frees a history sees it in the account: what waits for the grace
    // period is the structure alone, without packets.
    Charge::release(Resource::Mem, payer, slab_size(CAPTURE_LEN));
}

/// Frees a part of a history that was detached, at most a chunk of one ring, and at last the
/// history. Returns whether there is more.
///
/// # Safety
///
/// As [`free_empty`]; until this returns false the caller has `pcap` to itself, and then no more.
pub(super) unsafe fn free_some(pcap: *mut bindings::tcp_pcap) -> bool {
    // SAFETY: By the safety requirements nobody else writes the rings, or looks at their slots.
    unsafe {
        let payer = payer_of((*pcap).flags);
        for ring in [addr_of_mut!((*pcap).in_), addr_of_mut!((*pcap).out)] {
            let mut slots = ManuallyDrop::new(slots_of(ring, payer));
            if slots.free_chunk(0).is_some() {
                return true;
            }
            // Those who found it under RCU look only whether there is an array.
            addr_of_mut!((*ring).chunks).write_volatile(ptr::null_mut());
            drop(ManuallyDrop::into_inner(slots));
        }
        free_empty(pcap);
    }
    false
}

/// Waits until all packets of histories that were detached are freed. May sleep.
pub(crate) fn wait_for_free() {
    // SAFETY: Called where it may sleep.
    unsafe { bindings::tcp_pcap_wait_for_free() }
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
        // One that was taken over has slots before it has packets.
        if addr_of!((*ring).next).read_volatile() == 0
            || addr_of!((*ring).chunks).read_volatile().is_null()
        {
            return Present::Empty;
        }
        Present::Slots(addr_of!((*ring).size).read_volatile())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The shards: lists of all histories, from which debuggers and reclaim find them.
//!
//! A shard's lock is taken with BH off. It protects the list, and keeps the owners of the sockets
//! from exchanging the slots of their rings: whoever holds it may look at the slots of each history
//! in the list, as [`super::slots`] says.

use super::{
    account::Payer,
    history::{counter_of, payer_of, Counter, Owner},
    layout::{Dir, SCANNED_ALL, SHARDS},
    netns::Netns,
    slots::{Chunk, Slots},
    stack::{is_attached, with_spin_lock},
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Range,
    ptr::{addr_of, addr_of_mut, NonNull},
};
use kernel::{
    bindings,
    cpu::{nr_cpu_ids, CpuId},
    net::sock::TcpSock,
    sync::{
        atomic::{Acquire, Atomic, Relaxed},
        barrier::{smp_mb, Read},
    },
};

/// A locked shard.
///
/// # Invariants
///
/// Points at a shard, the lock of which we hold.
pub(crate) struct Locked(NonNull<bindings::tcp_pcap_shard>);

/// How many shards can have histories.
pub(crate) fn count() -> u32 {
    nr_cpu_ids().min(SHARDS)
}

/// Locks the shard with this index.
pub(crate) fn lock(i: u16) -> Locked {
    // In range in any case.
    let i = usize::from(i) % SHARDS as usize;
    // SAFETY: The index is within the array, which has `SHARDS` elements; its locks are
    // initialised at boot, and nothing that holds one calls this.
    // INVARIANT: Just locked.
    unsafe {
        let shard = addr_of_mut!(bindings::tcp_pcap_shards)
            .cast::<bindings::tcp_pcap_shard>()
            .add(i);
        bindings::spin_lock_bh(addr_of_mut!((*shard).lock));
        Locked(NonNull::new_unchecked(shard))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::spin_unlock_bh(addr_of_mut!((*self.0.as_ptr()).lock)) }
    }
}

/// Adds a history to the shard of this CPU.
///
/// # Safety
///
/// `pcap` is valid until it is unlinked, and in no list; nobody else uses it yet.
pub(super) unsafe fn link(pcap: *mut bindings::tcp_pcap) {
    // Which CPU it is does not matter, as long as it is not always the same.
    let i = (CpuId::current().as_u32() % SHARDS) as u16;
    // SAFETY: By the safety requirements.
    unsafe { (*pcap).shard = i };
    let locked = lock(i);
    // SAFETY: By the safety requirements; the list is locked.
    unsafe {
        let list = addr_of_mut!((*locked.0.as_ptr()).captures);
        bindings::list_add_tail(addr_of_mut!((*pcap).node), list);
    }
}

/// Takes a history out of its shard.
///
/// # Safety
///
/// `pcap` is valid, and was linked.
pub(super) unsafe fn unlink(pcap: *mut bindings::tcp_pcap) {
    // SAFETY: By the safety requirements; nobody changes the index.
    let _locked = lock(unsafe { (*pcap).shard });
    // SAFETY: By the safety requirements; the list is locked.
    unsafe { bindings::list_del(addr_of_mut!((*pcap).node)) }
}

/// How far a round of reclaim came with a history.
#[derive(Clone, Copy, Default)]
pub(crate) struct Scanned {
    /// Rings that it is done with.
    pub(crate) rings: u32,
    /// Where it goes on in the next ring.
    pub(crate) serial: u64,
}

/// A history in a locked shard.
///
/// # Invariants
///
/// `pcap` is in the list of a shard that is locked for `'a`, and so is valid, as is its socket.
pub(crate) struct Listed<'a> {
    pcap: NonNull<bindings::tcp_pcap>,
    list: *mut bindings::list_head,
    _locked: PhantomData<&'a mut Locked>,
}

impl Locked {
    /// The first history of the list.
    pub(crate) fn first(&mut self) -> Option<Listed<'_>> {
        // SAFETY: By the type invariant the list is valid and locked.
        unsafe {
            let list = addr_of_mut!((*self.0.as_ptr()).captures);
            let first = (*list).next;
            if first == list {
                return None;
            }
            let pcap = first
                .byte_sub(core::mem::offset_of!(bindings::tcp_pcap, node))
                .cast();
            // INVARIANT: It is in the list, from which its owner takes it before it is freed and
            // before the socket is.
            Some(Listed {
                pcap: NonNull::new_unchecked(pcap),
                list,
                _locked: PhantomData,
            })
        }
    }
}

impl<'a> Listed<'a> {
    /// How far `round` came with this history, or `None` if it is done with it.
    pub(crate) fn scanned(&self, round: u32) -> Option<Scanned> {
        let p = self.pcap.as_ptr();
        // SAFETY: By the type invariant; these are written under the lock only.
        let (last, rings, serial) = unsafe { ((*p).round, (*p).scanned, (*p).scan_serial) };
        match rings {
            _ if last != round => Some(Scanned::default()),
            SCANNED_ALL => None,
            _ => Some(Scanned { rings, serial }),
        }
    }

    /// Notes how far `round` came.
    pub(crate) fn set_scanned(&mut self, round: u32, scanned: Scanned) {
        let p = self.pcap.as_ptr();
        // SAFETY: As in `scanned`.
        unsafe {
            (*p).round = round;
            (*p).scanned = scanned.rings;
            (*p).scan_serial = scanned.serial;
        }
    }

    /// Notes that `round` is done with this history, and puts it at the end of the list.
    pub(crate) fn finish(mut self, round: u32) {
        let all = Scanned {
            rings: SCANNED_ALL,
            serial: 0,
        };
        self.set_scanned(round, all);
        // SAFETY: By the type invariant it is in the list, which is locked.
        unsafe {
            let node = addr_of_mut!((*self.pcap.as_ptr()).node);
            bindings::list_del(node);
            bindings::list_add_tail(node, self.list);
        }
    }

    /// Time of the last activity, as [`super::stack::now`].
    pub(crate) fn stamp(&self) -> u64 {
        // SAFETY: By the type invariant; the owner writes the word at once.
        unsafe { addr_of!((*self.pcap.as_ptr()).stamp).read_volatile() }
    }

    /// Whether its socket listens at this moment.
    pub(crate) fn is_listener(&self) -> bool {
        // SAFETY: By the type invariant the socket is valid; its state is read at once.
        let state =
            unsafe { addr_of!((*(*self.pcap.as_ptr()).sk).__sk_common.skc_state).read_volatile() };
        u32::from(state) == bindings::TCP_LISTEN
    }

    /// Whose share it is charged to.
    pub(crate) fn payer(&self) -> Payer {
        // SAFETY: By the type invariant; it never changes.
        payer_of(unsafe { (*self.pcap.as_ptr()).flags })
    }

    /// The namespace of its socket.
    pub(crate) fn netns(&self) -> Netns<'a> {
        // SAFETY: By the type invariant the socket is valid as long as the shard is locked.
        unsafe { Netns::from_raw((*self.pcap.as_ptr()).sk) }
    }

    fn ring(&self, dir: Dir) -> *mut bindings::tcp_pcap_ring {
        let p = self.pcap.as_ptr();
        // SAFETY: By the type invariant.
        unsafe {
            match dir {
                Dir::In => addr_of_mut!((*p).in_),
                Dir::Out => addr_of_mut!((*p).out),
            }
        }
    }

    /// Whether there are slots.
    pub(crate) fn has_slots(&self) -> bool {
        Dir::ALL.into_iter().any(|dir| {
            // SAFETY: By the type invariant; the owner writes the word at once.
            !unsafe { addr_of!((*self.ring(dir)).chunks).read_volatile() }.is_null()
        })
    }

    fn payloads(&self, dir: Dir) -> &Atomic<i64> {
        // SAFETY: By the type invariant; the counter is accessed atomically.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.ring(dir)).payloads.counter)) }
    }

    /// Whether records of one direction keep pages in memory.
    pub(crate) fn has_payloads(&self, dir: Dir) -> bool {
        self.payloads(dir).load(Relaxed) != 0
    }

    /// Whether there are records of one direction, as far as its owner has counted them.
    pub(crate) fn has_packets(&self, dir: Dir) -> bool {
        let get = |c| {
            // SAFETY: By the type invariant; the owner writes the words at once.
            unsafe { counter_of(self.ring(dir), c).read_volatile() }
        };
        let gone = get(Counter::Evicted).wrapping_add(get(Counter::Reclaimed));
        get(Counter::Captured) != gone
    }

    /// The slots of one direction, and the serial numbers of its packets.
    pub(crate) fn slots(&self, dir: Dir) -> (SharedSlots<'a>, Range<u64>) {
        let r = self.ring(dir);
        // SAFETY: By the type invariant; the size changes under the lock only, the chunks come at
        // once, and the next number is read at once.
        // INVARIANT: The fields came from a `Slots`, which is not exchanged while the shard is
        // locked.
        unsafe {
            let size = (*r).size;
            let slots = Slots {
                chunks: Atomic::from_ptr(addr_of_mut!((*r).chunks))
                    .load(Acquire)
                    .cast(),
                size,
                used: size,
                payer: self.payer(),
            };
            let next = addr_of!((*r).next).read_volatile();
            let oldest = next.saturating_sub(u64::from(size));
            let slots = SharedSlots(ManuallyDrop::new(slots), PhantomData);
            // The next packet may be in its slot already.
            let end = next
                .saturating_add(1)
                .min(oldest.saturating_add(u64::from(size)));
            (slots, oldest..end)
        }
    }

    /// Takes a chunk of slots away from one direction, if there is one.
    pub(crate) fn take_chunk(&mut self, dir: Dir) -> Option<Chunk> {
        self.slots(dir).0.take_chunk()
    }

    /// Counts a record of one direction of which the payload was given back.
    pub(crate) fn count_stripped(&mut self, dir: Dir) {
        self.count(dir, Counter::Stripped);
        self.payloads(dir).add(-1i64, Relaxed);
    }

    /// Counts a record of one direction that is given back.
    pub(crate) fn count_reclaimed(&mut self, dir: Dir, has_payload: bool) {
        self.count(dir, Counter::Reclaimed);
        if has_payload {
            self.payloads(dir).add(-1i64, Relaxed);
        }
    }

    fn count(&mut self, dir: Dir, c: Counter) {
        // SAFETY: By the type invariant; nobody else writes these counters while the shard is
        // locked.
        unsafe {
            let p = counter_of(self.ring(dir), c);
            p.write_volatile(p.read().wrapping_add(1));
        }
    }

    /// Takes a reference to the socket, if that is not about to be freed.
    pub(crate) fn hold(&self) -> Option<HeldSock> {
        // SAFETY: By the type invariant the socket is valid.
        unsafe {
            let sk = NonNull::new((*self.pcap.as_ptr()).sk)?;
            let refcnt = addr_of_mut!((*sk.as_ptr()).__sk_common.skc_refcnt);
            // INVARIANT: The reference that was just taken.
            bindings::refcount_inc_not_zero(refcnt).then(|| HeldSock(sk))
        }
    }
}

/// Slots in a locked shard: records may be taken out and put back.
pub(crate) struct SharedSlots<'a>(ManuallyDrop<Slots>, PhantomData<&'a Locked>);

impl core::ops::Deref for SharedSlots<'_> {
    type Target = Slots;

    fn deref(&self) -> &Slots {
        &self.0
    }
}

/// A socket that we hold a reference to, and do not own.
///
/// # Invariants
///
/// Points at a TCP socket to which this value holds a reference.
pub(crate) struct HeldSock(NonNull<bindings::sock>);

impl HeldSock {
    /// Runs `f` as the owner of the socket, with its history, if nobody else is the owner at this
    /// moment. With BH off.
    ///
    /// Not for sockets that others may work on without the lock: a child that is being made, or one
    /// that was closed and nobody has, which is on its way out.
    pub(crate) fn try_own(&self, f: impl FnOnce(&TcpSock, Owner<'_>)) {
        let sk = self.0.as_ptr();
        // SAFETY: By the type invariant the socket is valid; words are read at once.
        let is_ours = || unsafe {
            let state = addr_of!((*sk).__sk_common.skc_state).read_volatile();
            // Whoever closes it says that it is dead first: see inet_csk_prepare_forced_close() and
            // tcp_set_state().
            smp_mb(Read);
            let in_between = match u32::from(state) {
                // One of Fast Open is complete, and may wait long for its last ACK.
                bindings::TCP_SYN_RECV => {
                    let tp = sk.cast::<bindings::tcp_sock>();
                    addr_of!((*tp).fastopen_rsk).read_volatile().is_null()
                }
                // One that was reset waits for accept().
                bindings::TCP_CLOSE => {
                    let flags =
                        addr_of!((*sk).__sk_common.__bindgen_anon_5.skc_flags).read_volatile();
                    flags & (1 << bindings::sock_flags_SOCK_DEAD) != 0
                }
                _ => false,
            };
            !bindings::sock_owned_by_user(sk) && (is_attached(sk) || !in_between)
        };
        // SAFETY: By the type invariant the socket is valid. Locked, in the hands of no process,
        // and not one of those above, it is ours: what is done without its lock is done before or
        // after that. So nothing else has an `Owner` of it.
        unsafe {
            with_spin_lock(sk, || {
                if is_ours() {
                    let sk = TcpSock::from_raw(sk);
                    if let Some(owner) = Owner::of(sk) {
                        f(sk, owner);
                    }
                }
            })
        }
    }
}

impl Drop for HeldSock {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_put(self.0.as_ptr()) }
    }
}

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
    slots::Slots,
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{addr_of, addr_of_mut, NonNull},
};
use kernel::{
    bindings,
    cpu::{nr_cpu_ids, CpuId},
    net::sock::TcpSock,
    sync::atomic::{Acquire, Atomic},
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
    /// Slots that `pass` has looked at, or `None` if it is done with this history.
    pub(crate) fn scanned(&self, pass: u32) -> Option<u32> {
        // SAFETY: By the type invariant; these are written under the lock only.
        let (last, scanned) =
            unsafe { ((*self.pcap.as_ptr()).pass, (*self.pcap.as_ptr()).scanned) };
        match scanned {
            _ if last != pass => Some(0),
            SCANNED_ALL => None,
            n => Some(n),
        }
    }

    /// Notes that `pass` has looked at `n` slots.
    pub(crate) fn set_scanned(&mut self, pass: u32, n: u32) {
        // SAFETY: As in `scanned`.
        unsafe {
            (*self.pcap.as_ptr()).pass = pass;
            (*self.pcap.as_ptr()).scanned = n;
        }
    }

    /// Notes that `pass` is done with this history, and puts it at the end of the list.
    pub(crate) fn finish(mut self, pass: u32) {
        self.set_scanned(pass, SCANNED_ALL);
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

    /// The slots of one direction, and the serial number of its oldest packet.
    pub(crate) fn slots(&self, dir: Dir) -> (SharedSlots<'a>, u64) {
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
                payer: self.payer(),
            };
            let next = addr_of!((*r).next).read_volatile();
            let slots = SharedSlots(ManuallyDrop::new(slots), PhantomData);
            (slots, next.saturating_sub(u64::from(size)))
        }
    }

    /// Adds to a counter that is written under the lock of the shard.
    pub(crate) fn count(&mut self, dir: Dir, c: Counter) {
        debug_assert!(matches!(c, Counter::Reclaimed | Counter::Stripped));
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
            bindings::refcount_inc_not_zero(refcnt).then_some(HeldSock(sk))
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
    /// Runs `f` as the owner of the socket, with its history if it still has one. May sleep.
    pub(crate) fn with_lock(&self, f: impl FnOnce(&TcpSock, Owner<'_>)) {
        // SAFETY: By the type invariant the socket is valid; locked, it is ours, and nothing else
        // has an `Owner` of it.
        unsafe {
            bindings::lock_sock_nested(self.0.as_ptr(), 0);
            let sk = TcpSock::from_raw(self.0.as_ptr());
            if let Some(owner) = Owner::of(sk) {
                f(sk, owner);
            }
            bindings::release_sock(self.0.as_ptr());
        }
    }
}

impl Drop for HeldSock {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_put(self.0.as_ptr()) }
    }
}

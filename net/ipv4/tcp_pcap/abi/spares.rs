// SPDX-License-Identifier: GPL-2.0

//! What is left of closed connections, kept for the next ones: `struct tcp_pcap_spares`.
//!
//! A connection that is opened and closed again uses a few records only, and would spend more on
//! allocating and freeing these, its slots and its history than on filling them. What is kept stays
//! charged.

use super::{charged::Charged, history::Capture};
use core::{
    mem,
    ptr::{self, addr_of_mut, NonNull},
};
use kernel::{
    bindings,
    sync::atomic::{Acquire, Atomic, Relaxed, Release},
    types::Opaque,
};

/// Most records that a CPU keeps for one payer.
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) const SPARES: usize = bindings::tcp_pcap_const_TCP_PCAP_SPARES as usize;

/// What one CPU keeps for one payer.
///
/// Whoever finds it in use, by another CPU, or by what the softirq interrupts that it runs in, does
/// without: nobody waits, so interrupts and softirqs stay on.
///
/// # Invariants
///
/// Whoever made `busy` 1 has all but `busy` and `bytes` to itself. The first `nr` of `skbs` came
/// from `Charged::into_raw` and belong to this, the first `nr_histories` of `histories` from
/// `Capture::into_raw`, with what they are charged with in `history_bytes`.
#[repr(transparent)]
pub(crate) struct Spares(Opaque<bindings::tcp_pcap_spares>);

// SAFETY: What is not accessed atomically belongs to whoever made it busy; what is kept is `Send`.
unsafe impl Sync for Spares {}

impl Spares {
    /// What they are charged with, in bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &Atomic<i64> {
        // SAFETY: Valid as long as `self`; C too accesses the counter atomically.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.get()).bytes.counter)) }
    }

    #[inline]
    fn busy(&self) -> &Atomic<i32> {
        // SAFETY: As in `bytes`.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.get()).busy.counter)) }
    }

    /// Takes them in hand, if nobody has.
    #[inline]
    pub(crate) fn try_open(&self) -> Option<Open<'_>> {
        // Made only if nobody has: the drop of another one would let go what somebody has.
        // INVARIANT: Nobody has; paired with the drop of whoever had.
        (self.busy().xchg(1, Acquire) == 0).then(|| Open(self))
    }
}

/// What one CPU keeps, in the hands of whoever has this.
///
/// # Invariants
///
/// It is busy because of this value.
pub(crate) struct Open<'a>(&'a Spares);

impl Open<'_> {
    /// What they are charged with, in bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> i64 {
        self.0.bytes().load(Relaxed)
    }

    #[inline]
    fn add_bytes(&self, n: i64) {
        self.0.bytes().store(self.bytes().wrapping_add(n), Relaxed);
    }

    /// Keeps a record, with its charges.
    ///
    /// # Errors
    ///
    /// The record, if there is no room.
    #[inline]
    pub(crate) fn push(&mut self, skb: Charged) -> Result<(), Charged> {
        let p = self.0 .0.get();
        // SAFETY: By the invariants of `self` and `Spares` it is ours; the counters have no other
        // references.
        let (nr, skbs) = unsafe { (&mut (*p).nr, &mut (*p).skbs) };
        let Some(place) = skbs.get_mut(*nr as usize) else {
            return Err(skb);
        };
        self.add_bytes(skb.truesize() as i64);
        // INVARIANT: Just that.
        *place = skb.into_raw().as_ptr();
        *nr = nr.wrapping_add(1);
        Ok(())
    }

    /// Takes a record out; it stays charged.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Charged> {
        let p = self.0 .0.get();
        // SAFETY: As in `push`.
        let (nr, skbs) = unsafe { (&mut (*p).nr, &mut (*p).skbs) };
        let last = nr.wrapping_sub(1);
        let place = skbs.get_mut(last as usize)?;
        // Null, so that neither kmemleak nor a debugger takes it for one that is kept.
        let skb = NonNull::new(mem::replace(place, ptr::null_mut()))?;
        *nr = last;
        // SAFETY: By the type invariant, and it does not belong to `Spares` any more.
        let skb = unsafe { Charged::from_raw(skb) };
        self.add_bytes((skb.truesize() as i64).wrapping_neg());
        Some(skb)
    }

    /// Keeps a history that is charged with `mem` bytes.
    ///
    /// # Errors
    ///
    /// The history, if there is no room.
    pub(crate) fn push_history(&mut self, history: Capture, mem: usize) -> Result<(), Capture> {
        let p = self.0 .0.get();
        // SAFETY: As in `push`.
        let (nr, histories, bytes) = unsafe {
            (
                &mut (*p).nr_histories,
                &mut (*p).histories,
                &mut (*p).history_bytes,
            )
        };
        let i = *nr as usize;
        let (Some(place), Some(bytes), Ok(mem)) =
            (histories.get_mut(i), bytes.get_mut(i), u32::try_from(mem))
        else {
            return Err(history);
        };
        // INVARIANT: Just that.
        *place = history.into_raw().as_ptr();
        *bytes = mem;
        *nr = nr.wrapping_add(1);
        self.add_bytes(i64::from(mem));
        Ok(())
    }

    /// Takes the last history out, if `suits` says so; it stays charged.
    #[inline]
    pub(crate) fn pop_history_if(
        &mut self,
        suits: impl FnOnce(&Capture) -> bool,
    ) -> Option<Capture> {
        let p = self.0 .0.get();
        // SAFETY: As in `push`.
        let (nr, histories, bytes) = unsafe {
            (
                &mut (*p).nr_histories,
                &mut (*p).histories,
                &(*p).history_bytes,
            )
        };
        let last = nr.wrapping_sub(1);
        let place = histories.get_mut(last as usize)?;
        let history = NonNull::new(*place)?;
        let charged = *bytes.get(last as usize)?;
        // SAFETY: By the type invariant; from here on it does not belong to `Spares`, or is
        // forgotten.
        let history = unsafe { Capture::from_raw(history) };
        if !suits(&history) {
            let _ = history.into_raw();
            return None;
        }
        *place = ptr::null_mut();
        *nr = last;
        self.add_bytes(i64::from(charged).wrapping_neg());
        Some(history)
    }
}

impl Drop for Open<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.busy().store(0, Release);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Records of closed connections, kept for the next ones: `struct tcp_pcap_spares`.
//!
//! A connection that is opened and closed again uses a few records only, and would spend more on
//! allocating and freeing these than on filling them. What is kept stays charged.

use super::slots::Slot;
use core::ptr::{self, addr_of, addr_of_mut, NonNull};
use kernel::{
    bindings,
    net::skbuff::PrivateSkBuff,
    sync::atomic::{Atomic, Full, Relaxed},
    types::Opaque,
};

/// Most that a CPU keeps for one payer.
pub(crate) const SPARES: usize = bindings::tcp_pcap_const_TCP_PCAP_SPARES as usize;

/// What one CPU keeps for one payer.
///
/// All of it is atomic: another CPU takes everything at the limit, and a softirq may come between
/// any two steps. Whoever takes a pointer out owns the skb. How many there are is a hint, which is
/// mended where it turns out to be wrong.
///
/// # Invariants
///
/// Each of the pointers is null, or came from `PrivateSkBuff::into_raw` and belongs to its slot
/// alone; it is counted in `bytes` from before it is stored until after it is taken out.
#[repr(transparent)]
pub(crate) struct Spares(Opaque<bindings::tcp_pcap_spares>);

// SAFETY: All of it is accessed atomically, and the buffers that change hands are `Send`.
unsafe impl Sync for Spares {}

impl Spares {
    /// What they are charged with, in bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &Atomic<i64> {
        // SAFETY: Valid as long as `self`; C too accesses the counter atomically.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.get()).bytes.counter)) }
    }

    #[inline]
    fn nr(&self) -> &Atomic<i32> {
        // SAFETY: As in `bytes`.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.get()).nr.counter)) }
    }

    #[inline]
    fn slots(&self) -> &[Slot; SPARES] {
        // SAFETY: An array of as many pointers, valid as long as `self`, and accessed atomically
        // only; an atomic pointer has the layout of a pointer.
        unsafe { &*addr_of!((*self.0.get()).skbs).cast() }
    }

    /// Whether there seems to be room for another.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        usize::try_from(self.nr().load(Relaxed)).is_ok_and(|nr| nr < SPARES)
    }

    /// Keeps a buffer that is charged. Returns whether nothing was kept before, and the buffer, if
    /// there was no room.
    #[inline]
    pub(crate) fn put(&self, skb: PrivateSkBuff) -> (bool, Result<(), PrivateSkBuff>) {
        let nr = self.nr().load(Relaxed);
        let Some(slot) = usize::try_from(nr).ok().and_then(|i| self.slots().get(i)) else {
            return (false, Err(skb));
        };
        let bytes = skb.truesize() as i64;
        let skb = skb.into_raw();
        // Before anybody can take it out.
        let before = self.bytes().fetch_add(bytes, Relaxed);
        self.nr().store(nr.wrapping_add(1), Relaxed);
        // INVARIANT: A pointer from `into_raw`.
        if slot.cmpxchg(ptr::null_mut(), skb.as_ptr(), Full).is_err() {
            self.bytes().add(bytes.wrapping_neg(), Relaxed);
            // SAFETY: It was not stored, so it is still ours.
            return (before == 0, Err(unsafe { PrivateSkBuff::from_raw(skb) }));
        }
        (before == 0, Ok(()))
    }

    /// Takes the last one out; it stays charged.
    #[inline]
    pub(crate) fn take(&self) -> Option<PrivateSkBuff> {
        let nr = self.nr().load(Relaxed).wrapping_sub(1);
        let slot = self.slots().get(usize::try_from(nr).ok()?)?;
        self.nr().store(nr, Relaxed);
        self.take_from(slot)
    }

    /// Takes all of them out; they stay charged.
    pub(crate) fn take_all(&self) -> impl Iterator<Item = PrivateSkBuff> + '_ {
        self.nr().store(0, Relaxed);
        self.slots().iter().filter_map(|slot| self.take_from(slot))
    }

    #[inline]
    fn take_from(&self, slot: &Slot) -> Option<PrivateSkBuff> {
        let skb = NonNull::new(slot.xchg(ptr::null_mut(), Full))?;
        // SAFETY: By the type invariant; whoever takes it out owns it.
        let skb = unsafe { PrivateSkBuff::from_raw(skb) };
        self.bytes()
            .add((skb.truesize() as i64).wrapping_neg(), Relaxed);
        Some(skb)
    }
}

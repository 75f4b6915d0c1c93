// SPDX-License-Identifier: GPL-2.0

//! The skb of a record: its head begins with a description, which says how it is charged.

use super::layout::{self, Rec, REC_LEN};
use crate::record::Charges;
use core::{
    hint::unreachable_unchecked,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    net::skbuff::{Frag, PageRefs, PagedData, PrivateSkBuff},
    prelude::*, //
};

/// Bytes behind the description that there are at least for the packet.
pub(crate) const ROOM_MIN: usize = 128;

/// An skb that is charged as its description says. When it is dropped, the charges are released
/// after the memory is free: at no moment is there more than what is charged.
///
/// # Invariants
///
/// The skb was not dropped. Its head has room for a description and [`ROOM_MIN`] bytes.
pub(crate) struct Charged(ManuallyDrop<PrivateSkBuff>);

impl Charged {
    /// An skb that is charged.
    ///
    /// `None` if its head is too small; it is freed then, and its charges are not released.
    #[inline]
    pub(crate) fn new(skb: PrivateSkBuff) -> Option<Self> {
        // INVARIANT: Just passed, and looked at.
        (skb.head_len() >= REC_LEN + ROOM_MIN).then(|| Self(ManuallyDrop::new(skb)))
    }

    /// Takes over what [`Self::into_raw`] returned.
    ///
    /// # Safety
    ///
    /// `skb` was returned by [`Self::into_raw`] and is taken over once.
    #[inline]
    pub(super) unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // SAFETY: By the safety requirements.
        // INVARIANT: It was that of a `Charged`, and nobody makes a head smaller.
        Self(ManuallyDrop::new(unsafe { PrivateSkBuff::from_raw(skb) }))
    }

    /// The C pointer, to be taken over by [`Self::from_raw`].
    #[inline]
    pub(super) fn into_raw(self) -> NonNull<bindings::sk_buff> {
        self.into_inner().into_raw()
    }

    /// The skb; it stays charged.
    #[inline]
    pub(crate) fn into_inner(self) -> PrivateSkBuff {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: By the type invariant it was not dropped; `this` is not used again, nor dropped.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }

    /// The description.
    #[inline]
    pub(crate) fn rec(&self) -> &Rec {
        match layout::rec(self.head()) {
            Some(rec) => rec,
            // SAFETY: By the type invariant there is one.
            None => unsafe { unreachable_unchecked() },
        }
    }

    /// The description, to be written.
    #[inline]
    pub(crate) fn rec_mut(&mut self) -> &mut Rec {
        self.split_mut().0
    }

    /// The description, and the room for the packet behind it, both to be written.
    #[inline]
    pub(crate) fn split_mut(&mut self) -> (&mut Rec, Room<'_>) {
        match layout::split_mut(self.0.head_mut()) {
            // INVARIANT: By the type invariant of the skb.
            Some((rec, room)) => (rec, Room(room)),
            // SAFETY: As in `rec`.
            None => unsafe { unreachable_unchecked() },
        }
    }
}

/// What may be done with the skb. It is not handed out to be written: its head must keep its size,
/// and its description.
impl Charged {
    /// Makes `len` bytes behind the description the linear part of the packet, cut to the head.
    /// Returns how long it was.
    #[inline(always)]
    pub(crate) fn set_linear_len(&mut self, len: usize) -> usize {
        if len > ROOM_MIN {
            return self.0.set_linear(REC_LEN, len);
        }
        // SAFETY: By the type invariant there is that much.
        unsafe { self.0.set_linear_unchecked(REC_LEN, len) }
    }

    /// As [`PrivateSkBuff::set_transport_header`].
    #[inline]
    pub(crate) fn set_transport_header(&mut self, offset: u16) {
        self.0.set_transport_header(offset)
    }

    /// As [`PrivateSkBuff::set_note`].
    #[inline]
    pub(crate) fn set_note(&mut self, note: u8) {
        self.0.set_note(note)
    }

    /// As [`PrivateSkBuff::set_frag`].
    #[inline(always)]
    pub(crate) fn set_frag(&mut self, frag: Frag<'_>) {
        self.0.set_frag(frag)
    }

    /// As [`PrivateSkBuff::set_frags`].
    #[inline]
    pub(crate) fn set_frags(&mut self, data: &PagedData<'_>) {
        self.0.set_frags(data)
    }

    /// As [`PrivateSkBuff::clear_frags`].
    #[inline]
    pub(crate) fn clear_frags(&mut self) {
        self.0.clear_frags()
    }

    /// As [`PrivateSkBuff::detach_frags`].
    ///
    /// # Errors
    ///
    /// The same.
    #[inline]
    pub(crate) fn detach_frags<const N: usize>(&mut self, to: &mut PageRefs<N>) -> Result {
        self.0.detach_frags(to)
    }
}

/// Room for a packet.
///
/// # Invariants
///
/// It has [`ROOM_MIN`] bytes or more.
pub(crate) struct Room<'a>(&'a mut [u8]);

impl<'a> Room<'a> {
    /// Room of a test's own.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn of_test(room: &'a mut [u8; ROOM_MIN]) -> Self {
        // INVARIANT: As many bytes.
        Self(room)
    }

    /// All of it.
    #[inline]
    pub(crate) fn all(self) -> &'a mut [u8] {
        self.0
    }

    /// What there always is of it.
    #[inline]
    pub(crate) fn first(self) -> &'a mut [u8; ROOM_MIN] {
        // SAFETY: By the type invariant there are as many bytes, which an array of them needs no
        // alignment for.
        unsafe { &mut *self.0.as_mut_ptr().cast() }
    }
}

impl Deref for Charged {
    type Target = PrivateSkBuff;

    #[inline]
    fn deref(&self) -> &PrivateSkBuff {
        &self.0
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        let charges = Charges::of(self);
        // SAFETY: By the type invariant it was not dropped before; nobody uses it after this.
        unsafe { ManuallyDrop::drop(&mut self.0) };
        charges.release();
    }
}

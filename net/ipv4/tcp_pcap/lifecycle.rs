// SPDX-License-Identifier: GPL-2.0

//! When a history begins and ends.
//!
//! | event               | effect                                                     |
//! |---------------------|------------------------------------------------------------|
//! | socket created      | sizes of `net.ipv4.tcp_pcap_packets`, if not 0             |
//! | option set          | size of one direction, at once; on a listener for children |
//! | both sizes set to 0 | all freed                                                  |
//! | child of a listener | sizes of the listener                                      |
//! | `listen()`          | packets freed, sizes kept                                  |
//! | disconnect          | packets freed, numbers start over, sizes kept              |
//! | limit lowered       | if need be: packets freed, then slots, then all            |
//! | socket destroyed    | all freed; a little is kept for the next sockets           |

use crate::{
    abi::{
        account::Payer,
        history::{self, detach, free_slots, Capture, Owner, Present},
        layout::Dir,
        netns::{Mib, Netns},
        slots::Slots,
    },
    ring,
};
use kernel::{
    alloc::Flags,
    net::sock::TcpSock,
    prelude::*, //
};

/// A history for a socket that is to have these sizes. Without memory the connection has none, and
/// lives.
pub(crate) fn prepare(
    netns: &Netns<'_>,
    size_in: u32,
    size_out: u32,
    flags: Flags,
) -> Option<Capture> {
    if size_in == 0 && size_out == 0 {
        return None;
    }
    let capture = Capture::new(netns.payer(), (size_in, size_out), flags).ok();
    if capture.is_none() {
        netns.count(Mib::NO_HISTORY, 1);
    }
    capture
}

/// Gives a socket without history this one: a new socket, or a child that has the sizes of its
/// listener, and is not established yet. Context: any but hard interrupts.
pub(crate) fn begin(sk: &TcpSock, capture: Capture) {
    // Another would have come by a call of ours, and nobody knows the socket yet.
    let _ = capture.attach(sk);
}

/// As [`begin`], for tests.
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) fn begin_for_test(sk: &TcpSock, size_in: u32, size_out: u32) -> Result {
    let capture = prepare(&Netns::of(sk), size_in, size_out, GFP_KERNEL).ok_or(ENOMEM)?;
    begin(sk, capture);
    Ok(())
}

/// Provides empty slots of the configured sizes; a listener has none.
fn provide_slots(sk: &TcpSock, owner: &mut Owner<'_>) {
    if sk.is_listener() {
        return;
    }
    for dir in Dir::ALL {
        let slots = Slots::new(owner.size(dir), owner.payer());
        drop(owner.ring(dir).swap_slots(slots));
    }
}

/// What the option handler allocates before it locks the socket, and what is left over after that.
pub(crate) struct Prepared {
    capture: Option<Capture>,
    slots: Slots,
    /// Whether records can be moved to `slots`, or may be dropped for want of memory.
    may_move: bool,
}

/// What came of [`set_size`], with what is left over, to be freed after unlock.
pub(crate) enum Outcome {
    /// The size is set.
    Done(Prepared),
    /// Nothing was changed: since it was prepared, packets came or another thread ended the
    /// history.
    Again(Prepared),
}

impl Prepared {
    /// Allocates for a size of `n` on a socket that has `present` now. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory. A ring can always be made smaller: for want of
    /// memory it then drops packets.
    pub(crate) fn new(n: u32, payer: Payer, present: Present) -> Result<Self> {
        let mut prepared = Self {
            capture: None,
            slots: Slots::new(n, payer),
            may_move: n == 0,
        };
        match present {
            Present::Nothing if n != 0 => {
                prepared.capture = Some(Capture::new(payer, (0, 0), GFP_KERNEL)?);
            }
            // Records will move in under the socket's lock, where nothing may sleep.
            Present::Slots(size) => {
                let populated = prepared.slots.populate(GFP_KERNEL);
                if n >= size {
                    populated?;
                }
                prepared.may_move = true;
            }
            _ => {}
        }
        Ok(prepared)
    }

    /// Frees what is left over. May sleep.
    pub(crate) fn free(self) {
        self.slots.free();
    }
}

/// Sets the size of one direction to `n`. The socket is locked by the caller; `owner` is its
/// history.
///
/// # Errors
///
/// None in practice: `EBUSY` if the socket has a history that is not `owner`.
pub(crate) fn set_size(
    sk: &TcpSock,
    owner: Option<Owner<'_>>,
    dir: Dir,
    n: u32,
    mut prepared: Prepared,
) -> Result<Outcome> {
    let mut owner = match (owner, prepared.capture.take()) {
        (Some(owner), capture) => {
            prepared.capture = capture;
            owner
        }
        (None, Some(capture)) => capture.attach(sk)?,
        (None, None) if n == 0 => return Ok(Outcome::Done(prepared)),
        (None, None) => return Ok(Outcome::Again(prepared)),
    };
    let ring = owner.ring(dir);
    if ring.is_populated() && ring.next() != 0 && !prepared.may_move {
        return Ok(Outcome::Again(prepared));
    }
    owner.set_size(dir, n);
    if !sk.is_listener() {
        let none = Slots::new(0, owner.payer());
        let new = core::mem::replace(&mut prepared.slots, none);
        prepared.slots = ring::resize(&mut owner, dir, new);
    }
    // Without a history a packet costs one load and a branch.
    if Dir::ALL.iter().all(|dir| owner.size(*dir) == 0) {
        detach(sk, owner);
    }
    Ok(Outcome::Done(prepared))
}

/// The socket becomes a listener.
pub(crate) fn listen(owner: &mut Owner<'_>) {
    // A child that nobody accepted is disconnected with BH off.
    let slots = Dir::ALL.map(|dir| ring::clear(owner, dir));
    free_slots(slots, owner.payer());
    owner.reset();
}

/// The connection ends, and its socket may be used for another.
pub(crate) fn disconnect(sk: &TcpSock, owner: &mut Owner<'_>) {
    listen(owner);
    provide_slots(sk, owner);
}

/// A limit was lowered so far that there is no memory for the history of this socket. Returns
/// whether that is freed later.
pub(crate) fn give_back(sk: &TcpSock, owner: Owner<'_>) -> bool {
    Netns::of(sk).count(Mib::NO_HISTORY, 1);
    detach(sk, owner)
}

/// The socket ends.
pub(crate) fn destroy(sk: &TcpSock, owner: Owner<'_>) {
    history::retire(sk, owner);
}

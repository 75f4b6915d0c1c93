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
//! | socket destroyed    | all freed                                                  |

use crate::{
    abi::layout::{detach, Capture, Dir, Owner, Present, Slots, Sysctls},
    ring,
};
use kernel::{
    alloc::Flags,
    net::sock::TcpSock,
    prelude::*, //
};

const DIRS: [Dir; 2] = [Dir::In, Dir::Out];

/// Gives a socket without history one of these sizes.
///
/// # Errors
///
/// `ENOMEM`; `ENOBUFS` at the limit of memory.
fn begin(sk: &TcpSock, size_in: u32, size_out: u32, flags: Flags) -> Result {
    let mut owner = Capture::new(flags)?.attach(sk)?;
    owner.set_size(Dir::In, size_in);
    owner.set_size(Dir::Out, size_out);
    provide_slots(sk, &mut owner);
    Ok(())
}

/// As [`begin`], for tests.
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) fn begin_for_test(sk: &TcpSock, size_in: u32, size_out: u32) -> Result {
    begin(sk, size_in, size_out, GFP_KERNEL)
}

/// Provides empty slots of the configured sizes; a listener has none.
fn provide_slots(sk: &TcpSock, owner: &mut Owner<'_>) {
    if sk.is_listener() {
        return;
    }
    for dir in DIRS {
        let size = owner.size(dir);
        drop(owner.ring(dir).swap_slots(Slots::new(size)));
    }
}

/// A new socket. Context: process, may sleep.
pub(crate) fn init(sk: &TcpSock) {
    let n = Sysctls::of(sk).packets();
    if n != 0 {
        // Without memory the connection has no history, and lives.
        let _ = begin(sk, n, n, GFP_KERNEL);
    }
}

/// A child that has the sizes of its listener, and is not established yet. Context: softirq.
pub(crate) fn inherit(child: &TcpSock, size_in: u32, size_out: u32, flags: Flags) {
    if size_in != 0 || size_out != 0 {
        // Without memory the connection has no history, and lives.
        let _ = begin(child, size_in, size_out, flags);
    }
}

/// What the option handler allocates before it locks the socket, and what is left over after that.
pub(crate) struct Prepared {
    capture: Option<Capture>,
    slots: Slots,
    /// Whether records can be moved to `slots`, or may be dropped for want of memory.
    may_move: bool,
}

/// What came of [`set_size`], with what is left over, to be dropped after unlock.
pub(crate) enum Outcome {
    /// The size is set.
    Done(#[expect(dead_code)] Prepared),
    /// Nothing was changed: since it was prepared, packets came or another thread ended the
    /// history.
    Again(#[expect(dead_code)] Prepared),
}

impl Prepared {
    /// Allocates for a size of `n` on a socket that has `present` now. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory. A ring can always be made smaller: for want of
    /// memory it then drops packets.
    pub(crate) fn new(n: u32, present: Present) -> Result<Self> {
        let mut prepared = Self {
            capture: None,
            slots: Slots::new(n),
            may_move: n == 0,
        };
        match present {
            Present::Nothing if n != 0 => prepared.capture = Some(Capture::new(GFP_KERNEL)?),
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
    if owner.ring(dir).is_populated() && !prepared.may_move {
        return Ok(Outcome::Again(prepared));
    }
    owner.set_size(dir, n);
    if !sk.is_listener() {
        let new = core::mem::replace(&mut prepared.slots, Slots::new(0));
        prepared.slots = ring::resize(&mut owner, dir, new);
    }
    // Without a history a packet costs one load and a branch.
    if DIRS.iter().all(|dir| owner.size(*dir) == 0) {
        detach(sk, owner);
    }
    Ok(Outcome::Done(prepared))
}

/// The socket becomes a listener.
pub(crate) fn listen(owner: &mut Owner<'_>) {
    for dir in DIRS {
        drop(ring::clear(owner, dir));
    }
    owner.reset();
}

/// The connection ends, and its socket may be used for another.
pub(crate) fn disconnect(sk: &TcpSock, owner: &mut Owner<'_>) {
    listen(owner);
    provide_slots(sk, owner);
}

/// The socket ends.
pub(crate) fn destroy(sk: &TcpSock, owner: Owner<'_>) {
    detach(sk, owner);
}

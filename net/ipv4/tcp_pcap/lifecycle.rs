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
    let mut owner = Capture::new(flags)?.attach(sk);
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
}

impl Prepared {
    /// Allocates for a size of `n` on a socket that has `present` now. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory. A ring can always be made smaller: for want of
    /// memory it then loses packets, and counts them.
    pub(crate) fn new(n: u32, present: Present) -> Result<Self> {
        let mut slots = Slots::new(n);
        let mut capture = None;
        match present {
            Present::Nothing if n != 0 => capture = Some(Capture::new(GFP_KERNEL)?),
            // Another thread may end the history before the socket is locked.
            Present::Empty if n != 0 => capture = Capture::new(GFP_KERNEL).ok(),
            // Records will move in under the socket's lock, where nothing may sleep.
            Present::Slots(size) => {
                slots
                    .populate(GFP_KERNEL)
                    .or_else(|e| if n < size { Ok(()) } else { Err(e) })?;
                capture = Capture::new(GFP_KERNEL).ok();
            }
            _ => {}
        }
        Ok(Self { capture, slots })
    }
}

/// Sets the size of one direction to `n`. The socket is locked by the caller.
///
/// Returns what is left over, to be dropped after unlock.
///
/// # Errors
///
/// `ENOMEM` if another thread ended the history meanwhile, and there was no memory for a new one.
pub(crate) fn set_size(sk: &TcpSock, dir: Dir, n: u32, prepared: Prepared) -> Result<Prepared> {
    let Prepared { mut capture, slots } = prepared;
    let mut owner = match Owner::of(sk) {
        Some(owner) => owner,
        None if n == 0 => return Ok(Prepared { capture, slots }),
        None => capture.take().ok_or(ENOMEM)?.attach(sk),
    };
    owner.set_size(dir, n);
    let slots = if sk.is_listener() {
        slots
    } else {
        ring::resize(&mut owner, dir, slots)
    };
    // Without a history a packet costs one load and a branch.
    if DIRS.iter().all(|dir| owner.size(*dir) == 0) {
        detach(sk);
    }
    Ok(Prepared { capture, slots })
}

/// The socket becomes a listener.
pub(crate) fn listen(sk: &TcpSock) {
    if let Some(mut owner) = Owner::of(sk) {
        for dir in DIRS {
            drop(ring::clear(&mut owner, dir));
        }
        owner.reset();
    }
}

/// The connection ends, and its socket may be used for another.
pub(crate) fn disconnect(sk: &TcpSock) {
    if let Some(mut owner) = Owner::of(sk) {
        for dir in DIRS {
            drop(ring::clear(&mut owner, dir));
        }
        owner.reset();
        provide_slots(sk, &mut owner);
    }
}

/// The socket ends.
pub(crate) fn destroy(sk: &TcpSock) {
    if let Some(mut owner) = Owner::of(sk) {
        for dir in DIRS {
            drop(ring::clear(&mut owner, dir));
        }
        detach(sk);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The state of reclaim, behind its mutex, and the switch that an administrator has.

use crate::reclaim::State;
use core::{
    cell::UnsafeCell,
    ptr::addr_of, //
};
use kernel::bindings;

/// Protected by `tcp_pcap_reclaim_lock`.
struct Protected(UnsafeCell<State>);

// SAFETY: Accessed in `with_state` only, under the lock.
unsafe impl Sync for Protected {}

static STATE: Protected = Protected(UnsafeCell::new(State::new()));

/// Runs `f` on the state of reclaim. `f` may lock shards, and allocates nothing.
///
/// Context: may sleep, also within an allocation.
pub(crate) fn with_state<R>(f: impl FnOnce(&mut State) -> R) -> R {
    let lock = &raw mut bindings::tcp_pcap_reclaim_lock;
    // SAFETY: A C variable, initialised by its definition; nothing that holds it calls this.
    unsafe { bindings::mutex_lock(lock) };
    // SAFETY: It is held, so that nobody else has a reference.
    let ret = f(unsafe { &mut *STATE.0.get() });
    // SAFETY: Locked above.
    unsafe { bindings::mutex_unlock(lock) };
    ret
}

/// `net.ipv4.tcp_pcap_aggressive_free`.
pub(crate) fn is_wanted() -> bool {
    // SAFETY: A word that is read at once.
    unsafe { addr_of!(bindings::sysctl_tcp_pcap_aggressive_free).read_volatile() != 0 }
}

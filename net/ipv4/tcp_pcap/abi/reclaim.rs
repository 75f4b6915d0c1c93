// SPDX-License-Identifier: GPL-2.0

//! The state of reclaim, behind its lock, and the switch that an administrator has.

use crate::reclaim::State;
use core::{pin::Pin, ptr::addr_of};
use kernel::{bindings, sync::global_lock};

global_lock! {
    // SAFETY: Initialised by `init` before anything can ask for it.
    unsafe(uninit) static STATE: SpinLock<State> = State::new();
}

/// Initialises the lock.
///
/// # Safety
///
/// Called once, before all else here.
pub(super) unsafe fn init() {
    // SAFETY: By the safety requirements.
    unsafe { STATE.init() }
}

/// Runs `f` on the state of reclaim. Locks of shards may be taken in it. Not in softirq.
pub(crate) fn with_state<R>(f: impl FnOnce(&mut State) -> R) -> R {
    f(&mut STATE.lock())
}

/// `net.ipv4.tcp_pcap_aggressive_free`.
pub(crate) fn is_wanted() -> bool {
    // SAFETY: A word that is read at once.
    unsafe { addr_of!(bindings::sysctl_tcp_pcap_aggressive_free).read_volatile() != 0 }
}

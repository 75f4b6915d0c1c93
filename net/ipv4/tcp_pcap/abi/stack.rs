// SPDX-License-Identifier: GPL-2.0

//! What is asked of the stack around us.

use core::ptr::addr_of;
use kernel::{
    alloc::{flags::*, Flags},
    bindings,
    net::{
        skbuff::SkBuff,
        sock::TcpSock, //
    },
    prelude::*,
};

/// For allocation while a packet is in our hands: never sleeps, never touches the emergency
/// reserves.
pub(crate) fn gfp_packet() -> Flags {
    GFP_NOWAIT | __GFP_NOMEMALLOC | __GFP_NOWARN
}

/// Lets others run, if it is their turn. May sleep.
pub(crate) fn cond_resched() {
    // SAFETY: Called where it may sleep.
    unsafe { bindings::cond_resched() }
}

/// CLOCK_MONOTONIC in ns.
pub(crate) fn now() -> u64 {
    // SAFETY: No requirement.
    u64::try_from(unsafe { bindings::ktime_get() }).unwrap_or(0)
}

/// Whether the caller may exceed `tcp_pcap_packets_max`: CAP_NET_ADMIN in the initial user
/// namespace.
pub(crate) fn may_exceed_max() -> bool {
    // SAFETY: Called in process context only, by the option handler.
    unsafe { bindings::capable(bindings::CAP_NET_ADMIN as c_int) }
}

/// Switches the hooks on. May sleep.
pub(crate) fn enable() {
    // SAFETY: No requirement but that it may sleep, which the option handler may.
    unsafe { bindings::tcp_pcap_enable() }
}

/// Runs `f` with the socket locked by the caller. May sleep.
///
/// # Safety
///
/// `sk` is a valid TCP socket that the caller does not own, in process context.
pub(super) unsafe fn with_lock<R>(sk: *mut bindings::sock, f: impl FnOnce(&TcpSock) -> R) -> R {
    // SAFETY: By the safety requirements.
    unsafe {
        bindings::sockopt_lock_sock(sk);
        let r = f(TcpSock::from_raw(sk));
        bindings::sockopt_release_sock(sk);
        r
    }
}

/// Runs `f` with the spin lock of a socket held, and BH off, as in a softirq. Whether a process
/// owns the socket is another question.
///
/// # Safety
///
/// `sk` is a valid TCP socket, the spin lock of which the caller does not hold.
pub(super) unsafe fn with_spin_lock<R>(sk: *mut bindings::sock, f: impl FnOnce() -> R) -> R {
    // SAFETY: By the safety requirements.
    unsafe {
        bindings::local_bh_disable();
        bindings::bh_lock_sock(sk);
        let r = f();
        bindings::bh_unlock_sock(sk);
        bindings::local_bh_enable();
        r
    }
}

/// Whether a socket belongs to a `struct socket`: one that a program has, or that is being made.
///
/// # Safety
///
/// `sk` is a valid socket.
pub(super) unsafe fn is_attached(sk: *mut bindings::sock) -> bool {
    // SAFETY: By the safety requirements; the word is read at once.
    !unsafe { addr_of!((*sk).sk_socket).read_volatile() }.is_null()
}

/// The acknowledgement number and the flags with which TCP treats a received packet
/// (`TCP_SKB_CB()`), if they are not those of its header: after a merge in the backlog they are
/// those of the last segment, the header's those of the first.
#[inline]
pub(crate) fn merged_ack_and_flags(skb: &SkBuff) -> Option<(u32, u8)> {
    // tcp_add_backlog() adds up the segments of what it merges, of which each has one or more.
    if skb.gso_segs() < 2 {
        return None;
    }
    // SAFETY: The hooks in the receive path come after `tcp_v4_fill_cb()` or its IPv6 counterpart,
    // which write all of it; the control buffer is aligned to 8 bytes and large enough.
    let (ack, flags) = unsafe {
        let cb = addr_of!((*skb.as_raw()).cb).cast::<bindings::tcp_skb_cb>();
        ((*cb).ack_seq, (*cb).tcp_flags as u8)
    };
    let same = skb
        .linear()
        .first_chunk::<14>()
        .is_some_and(|[.., a, b, c, d, _, f]| {
            u32::from_be_bytes([*a, *b, *c, *d]) == ack && *f == flags
        });
    (!same).then_some((ack, flags))
}

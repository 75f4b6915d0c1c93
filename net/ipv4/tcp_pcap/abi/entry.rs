// SPDX-License-Identifier: GPL-2.0

//! What C calls: see `include/net/tcp_pcap.h` for when.

use super::{
    account::Resource,
    history::{free_some, present, sizes_of, Owner},
    layout::Dir,
    netns::Netns,
    stack::{enable, gfp_packet, is_attached, may_exceed_max, with_lock, with_spin_lock},
};
use crate::{
    config,
    lifecycle::{self, Outcome},
    lower, reclaim, rx, tx,
};
use kernel::{
    bindings,
    net::{
        skbuff::{ReceivedSkBuff, SkBuff},
        sock::TcpSock, //
    },
    prelude::*,
};

/// # Safety
///
/// The caller owns `sk`; `skb` is a packet received on it, `data` at its TCP header, its network
/// header before that in the linear part.
#[export]
pub(super) unsafe extern "C" fn tcp_pcap_capture_rx(
    sk: *mut bindings::sock,
    skb: *mut bindings::sk_buff,
    time: u64,
) {
    // SAFETY: By the safety requirements.
    let (sk, skb) = unsafe { (TcpSock::from_raw(sk), ReceivedSkBuff::from_raw(skb)) };
    // SAFETY: Nothing else has an `Owner` while C calls this.
    if let Some(mut owner) = unsafe { Owner::of(sk) } {
        rx::capture(sk, &mut owner, skb, time);
    }
}

/// # Safety
///
/// The caller owns `sk`; `skb` is a packet of it, complete from the TCP header on, which is at
/// `data`.
#[export]
pub(super) unsafe extern "C" fn tcp_pcap_capture_tx(
    sk: *mut bindings::sock,
    skb: *mut bindings::sk_buff,
    time: u64,
) {
    // SAFETY: By the safety requirements.
    let (sk, skb) = unsafe { (TcpSock::from_raw(sk), SkBuff::from_raw(skb)) };
    // SAFETY: Nothing else has an `Owner` while C calls this.
    if let Some(mut owner) = unsafe { Owner::of(sk) } {
        tx::capture(sk, &mut owner, skb, time);
    }
}

/// Sets `TCP_PCAP_IN` or `TCP_PCAP_OUT`; returns 0 or a negative errno, after which nothing has
/// changed.
///
/// # Safety
///
/// `sk` is a valid TCP socket that the caller does not own, in process context.
#[export]
pub(super) unsafe extern "C" fn tcp_pcap_setsockopt(
    sk: *mut bindings::sock,
    optname: c_int,
    val: c_int,
) -> c_int {
    // SAFETY: By the safety requirements.
    match unsafe { setsockopt(sk, optname, val) } {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// # Safety
///
/// As [`tcp_pcap_setsockopt`].
unsafe fn setsockopt(sk: *mut bindings::sock, optname: c_int, val: c_int) -> Result {
    let dir = config::dir_of_option(optname)?;
    // SAFETY: By the safety requirements.
    let netns = unsafe { Netns::from_raw(sk) };
    let n = config::check_size(val, netns.packets_max(), may_exceed_max)?;
    if n != 0 {
        enable();
    }

    loop {
        // SAFETY: By the safety requirements.
        let present = unsafe { present(sk, dir) };
        let prepared = lifecycle::Prepared::new(n, netns.payer(), present)?;
        // SAFETY: By the safety requirements.
        let outcome = unsafe {
            with_lock(sk, |sk| {
                // The socket was locked just now, and nothing here has an `Owner`.
                let owner = Owner::of(sk);
                lifecycle::set_size(sk, owner, dir, n, prepared)
            })
        };
        // What is left over is freed here, without the lock.
        match outcome? {
            Outcome::Done(left) => {
                left.free();
                return Ok(());
            }
            // Each further round means that a packet or another thread was faster.
            Outcome::Again(left) => left.free(),
        }
    }
}

/// Returns the size set with `TCP_PCAP_IN` or `TCP_PCAP_OUT`, or a negative errno.
///
/// # Safety
///
/// `sk` is a valid TCP socket.
#[export]
pub(super) unsafe extern "C" fn tcp_pcap_getsockopt(
    sk: *const bindings::sock,
    optname: c_int,
) -> c_int {
    // SAFETY: By the safety requirements.
    let (size_in, size_out) = unsafe { sizes_of(sk) };
    match config::dir_of_option(optname) {
        Ok(Dir::In) => size_in as c_int,
        Ok(Dir::Out) => size_out as c_int,
        Err(e) => e.to_errno(),
    }
}

/// # Safety
///
/// `sk` is a new TCP socket that nobody else knows, in process context.
#[export]
pub(super) unsafe extern "C" fn __tcp_pcap_init_sock(sk: *mut bindings::sock) {
    // SAFETY: By the safety requirements.
    let netns = unsafe { Netns::from_raw(sk) };
    let n = netns.packets();
    if let Some(capture) = lifecycle::prepare(&netns, n, n, GFP_KERNEL) {
        // Whoever lowers a limit finds the history in its shard, and asks for the lock.
        // SAFETY: By the safety requirements nobody has the socket locked, or uses it.
        unsafe { with_spin_lock(sk, || lifecycle::begin(TcpSock::from_raw(sk), capture)) }
    }
}

/// # Safety
///
/// `listener` is a valid TCP socket; `child` is a new one that nobody else knows and that has no
/// history.
#[export]
pub(super) unsafe extern "C" fn __tcp_pcap_inherit(
    listener: *const bindings::sock,
    child: *mut bindings::sock,
) {
    // SAFETY: By the safety requirements.
    let (size_in, size_out) = unsafe { sizes_of(listener) };
    // SAFETY: By the safety requirements.
    let child = unsafe { TcpSock::from_raw(child) };
    if let Some(capture) = lifecycle::prepare(&Netns::of(child), size_in, size_out, gfp_packet()) {
        lifecycle::begin(child, capture)
    }
}

/// # Safety
///
/// The caller owns `sk`.
#[export]
pub(super) unsafe extern "C" fn __tcp_pcap_listen(sk: *mut bindings::sock) {
    // SAFETY: By the safety requirements.
    let sk = unsafe { TcpSock::from_raw(sk) };
    // SAFETY: Nothing else has an `Owner` while C calls this.
    if let Some(mut owner) = unsafe { Owner::of(sk) } {
        lifecycle::listen(&mut owner);
    }
}

/// # Safety
///
/// The caller owns `sk`.
#[export]
pub(super) unsafe extern "C" fn __tcp_pcap_disconnect(sk: *mut bindings::sock) {
    // SAFETY: By the safety requirements.
    let sk = unsafe { TcpSock::from_raw(sk) };
    // SAFETY: Nothing else has an `Owner` while C calls this.
    if let Some(mut owner) = unsafe { Owner::of(sk) } {
        lifecycle::disconnect(sk, &mut owner);
    }
}

/// # Safety
///
/// The caller owns `sk`, which nobody can find any more but through its history.
#[export]
pub(super) unsafe extern "C" fn __tcp_pcap_destroy(sk: *mut bindings::sock) {
    let destroy = || {
        // SAFETY: By the safety requirements.
        let sk = unsafe { TcpSock::from_raw(sk) };
        // SAFETY: Nothing else has an `Owner` while C calls this, or we hold the lock.
        if let Some(owner) = unsafe { Owner::of(sk) } {
            lifecycle::destroy(sk, owner);
        }
    };
    // SAFETY: By the safety requirements. A socket that still has a `struct socket` was not handed
    // out (`inet_create()` failed), and nobody has it locked; see `HeldSock::try_own()`.
    unsafe {
        if is_attached(sk) {
            with_spin_lock(sk, destroy)
        } else {
            destroy()
        }
    }
}

/// Frees until a lowered limit holds; returns 0, `-EINTR` if a signal came first, or `-EBUSY` if
/// what is left cannot be freed.
///
/// # Safety
///
/// Called in process context, one call at a time.
#[export]
pub(super) unsafe extern "C" fn tcp_pcap_enforce(res: bindings::tcp_pcap_resource) -> c_int {
    let resource = match res {
        bindings::tcp_pcap_resource_TCP_PCAP_FRAGS => Resource::Frags,
        _ => Resource::Mem,
    };
    match lower::enforce(resource) {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// Frees a part of a history that was given to `tcp_pcap_free_later()`; returns false when that was
/// the last.
///
/// # Safety
///
/// Called in process context, by whoever took `pcap` from the list of those that wait, until it
/// returns false; nobody has `pcap` then.
#[export]
pub(super) unsafe extern "C" fn tcp_pcap_free_some(pcap: *mut bindings::tcp_pcap) -> bool {
    // SAFETY: By the safety requirements, and those that gave it to `tcp_pcap_free_later()`.
    unsafe { free_some(pcap) }
}

/// Lets memory reclaim find us; returns 0 or a negative errno.
///
/// # Safety
///
/// Called once, in process context.
#[export]
pub(super) unsafe extern "C" fn tcp_pcap_register_shrinker() -> c_int {
    match reclaim::register() {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Network namespaces: their sysctls and counters, and who pays for them.

use super::{
    account::Payer,
    layout::{Why, PACKETS_HARD_MAX},
};
use crate::config;
use core::{
    marker::PhantomData,
    ptr::{self, addr_of}, //
};
use kernel::{
    bindings,
    net::sock::TcpSock, //
};

/// A counter of a namespace, `TcpExtTCPPcap*`: one of `enum tcp_pcap_mib`.
#[derive(Clone, Copy)]
pub(crate) struct Mib(bindings::tcp_pcap_mib);

impl Mib {
    /// Packets not recorded for want of memory.
    pub(crate) const LOST: Self = Self(bindings::tcp_pcap_mib_TCP_PCAP_MIB_LOST);
    /// Sockets without a history for want of memory.
    pub(crate) const NO_HISTORY: Self = Self(bindings::tcp_pcap_mib_TCP_PCAP_MIB_NO_HISTORY);
    /// Packets given back by reclaim.
    pub(crate) const RECLAIMED_PACKETS: Self =
        Self(bindings::tcp_pcap_mib_TCP_PCAP_MIB_RECLAIMED_PACKETS);
    /// Pages given back by reclaim.
    pub(crate) const RECLAIMED_PAGES: Self =
        Self(bindings::tcp_pcap_mib_TCP_PCAP_MIB_RECLAIMED_PAGES);

    /// Packets recorded, with headers only for this reason, if there is one.
    #[inline]
    pub(crate) fn recorded(why: Why) -> Self {
        // Below TCP_PCAP_MIB_MAX, as each reason is below TCP_PCAP_WHY_MAX.
        Self(bindings::tcp_pcap_mib_TCP_PCAP_MIB_WHY.wrapping_add(why as u32))
    }
}

/// A network namespace.
///
/// # Invariants
///
/// The namespace is valid for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Netns<'a> {
    net: *mut bindings::net,
    _sock: PhantomData<&'a TcpSock>,
}

/// Reads a sysctl of the namespace, which may be written at any time.
macro_rules! sysctl {
    ($self:ident, $name:ident) => {
        // SAFETY: By the type invariant; the sysctl is a word that is read at once.
        unsafe { addr_of!((*$self.net).ipv4.$name).read_volatile() }
    };
}

impl<'a> Netns<'a> {
    /// That of a socket.
    pub(crate) fn of(sk: &'a TcpSock) -> Self {
        // INVARIANT: The namespace lives as long as the socket.
        Self {
            net: sk.net(),
            _sock: PhantomData,
        }
    }

    /// That of a socket that others may own.
    ///
    /// # Safety
    ///
    /// `sk` is a valid socket for `'a`.
    pub(super) unsafe fn from_raw(sk: *const bindings::sock) -> Self {
        // INVARIANT: The namespace lives as long as the socket, and never changes.
        Self {
            // SAFETY: By the safety requirements.
            net: unsafe { bindings::sock_net(sk) },
            _sock: PhantomData,
        }
    }

    /// Packets per direction for new sockets.
    pub(crate) fn packets(&self) -> u32 {
        u32::try_from(sysctl!(self, sysctl_tcp_pcap_packets))
            .unwrap_or(0)
            .min(PACKETS_HARD_MAX)
    }

    /// Largest size without privilege.
    pub(crate) fn packets_max(&self) -> u32 {
        u32::try_from(sysctl!(self, sysctl_tcp_pcap_packets_max)).unwrap_or(0)
    }

    /// Payload bytes to keep of each packet; -1, which is all, is more than a packet can have. What
    /// the host leaves out is left out in containers too.
    #[inline]
    pub(crate) fn snaplen(&self, payer: Payer) -> u32 {
        let own = sysctl!(self, sysctl_tcp_pcap_snaplen);
        if payer == Payer::Host {
            return config::snaplen(own, -1);
        }
        // SAFETY: The initial namespace is always there; the sysctl is a word that is read at once.
        let host =
            unsafe { addr_of!(bindings::init_net.ipv4.sysctl_tcp_pcap_snaplen).read_volatile() };
        config::snaplen(own, host)
    }

    /// Whose share its histories are charged to.
    pub(crate) fn payer(&self) -> Payer {
        // SAFETY: By the type invariant; the user namespace of a network namespace never changes.
        let initial = unsafe { ptr::eq((*self.net).user_ns, &raw const bindings::init_user_ns) };
        if initial {
            Payer::Host
        } else {
            Payer::Containers
        }
    }

    /// Adds to a counter.
    pub(crate) fn count(&self, mib: Mib, n: u64) {
        // SAFETY: By the type invariant.
        unsafe { bindings::tcp_pcap_count(self.net, mib.0, n as usize) }
    }
}

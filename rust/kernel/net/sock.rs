// SPDX-License-Identifier: GPL-2.0

//! TCP sockets, for reading.
//!
//! Two types wrap a TCP socket:
//!
//! - [`TcpSock`] is a socket owned by the caller: locked, or in softirq with nobody else at it. Its
//!   state stands still.
//! - [`Ipv4Output`] and [`Ipv6Output`] are what the network layer will write into the IP header of
//!   its next packet.
//!
//! C headers: [`include/linux/tcp.h`](srctree/include/linux/tcp.h),
//! [`include/net/inet_sock.h`](srctree/include/net/inet_sock.h),
//! [`include/net/ipv6.h`](srctree/include/net/ipv6.h)

use crate::{
    bindings,
    net::skbuff::SkBuff,
    prelude::*,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    ptr::addr_of,
    slice, //
};

// The C compiler and bindgen must agree on what lies where.
static_assert!(size_of::<bindings::tcp_sock>() == bindings::SIZEOF_TCP_SOCK);

/// A TCP socket that the caller owns.
///
/// # Invariants
///
/// Points at a valid `struct tcp_sock` whose owner is the caller.
#[repr(transparent)]
pub struct TcpSock(Opaque<bindings::tcp_sock>);

/// Reads a field of the socket that others may write.
macro_rules! read_once {
    ($place:expr) => {
        // SAFETY: By the type invariant the socket is valid; the field has a size that is read at
        // once.
        unsafe { addr_of!($place).read_volatile() }
    };
}

impl TcpSock {
    /// Borrows a socket.
    ///
    /// # Safety
    ///
    /// `ptr` is a valid, full TCP socket (not a request or a time-wait socket) for the duration of
    /// `'a`, and the caller owns it: it is locked by the caller, or locked for softirq without an
    /// owner, or not yet visible to others.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *const bindings::sock) -> &'a Self {
        // SAFETY: By the safety requirements; `struct tcp_sock` starts with its `struct sock`.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    fn tp(&self) -> *mut bindings::tcp_sock {
        self.0.get()
    }

    #[inline]
    fn icsk(&self) -> *mut bindings::inet_connection_sock {
        self.tp().cast()
    }

    #[inline]
    fn inet(&self) -> *mut bindings::inet_sock {
        self.tp().cast()
    }

    /// Returns the C pointer.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::sock {
        self.tp().cast()
    }

    /// TCP state (`TCP_ESTABLISHED`, ..).
    #[inline]
    pub fn state(&self) -> u8 {
        read_once!((*self.as_raw()).__sk_common.skc_state)
    }

    /// Whether TCP is short of memory (`net.ipv4.tcp_mem`), or the socket's memory cgroup is.
    #[inline]
    pub fn is_under_memory_pressure(&self) -> bool {
        // SAFETY: By the type invariant the socket is valid.
        unsafe { bindings::tcp_under_memory_pressure(self.as_raw()) }
    }

    /// Whether the socket listens for connections.
    #[inline]
    pub fn is_listener(&self) -> bool {
        u32::from(self.state()) == bindings::TCP_LISTEN
    }

    /// State of congestion control (`enum tcp_ca_state`).
    #[inline]
    pub fn ca_state(&self) -> u8 {
        // SAFETY: By the type invariant.
        unsafe { bindings::inet_connection_sock::icsk_ca_state_raw(self.icsk()) }
    }

    /// Congestion window in packets.
    #[inline]
    pub fn snd_cwnd(&self) -> u32 {
        read_once!((*self.tp()).snd_cwnd)
    }

    /// Slow start threshold in packets.
    #[inline]
    pub fn snd_ssthresh(&self) -> u32 {
        read_once!((*self.tp()).snd_ssthresh)
    }

    /// Smoothed round trip time in us, shifted left by 3.
    #[inline]
    pub fn srtt_us(&self) -> u32 {
        read_once!((*self.tp()).srtt_us)
    }

    /// Oldest unacknowledged sequence number.
    #[inline]
    pub fn snd_una(&self) -> u32 {
        read_once!((*self.tp()).snd_una)
    }

    /// Next sequence number to send.
    #[inline]
    pub fn snd_nxt(&self) -> u32 {
        read_once!((*self.tp()).snd_nxt)
    }

    /// Next sequence number expected.
    #[inline]
    pub fn rcv_nxt(&self) -> u32 {
        read_once!((*self.tp()).rcv_nxt)
    }

    /// Receive window in bytes.
    #[inline]
    pub fn rcv_wnd(&self) -> u32 {
        read_once!((*self.tp()).rcv_wnd)
    }

    /// The network namespace, as the C pointer.
    #[inline]
    pub fn net(&self) -> *mut bindings::net {
        // SAFETY: By the type invariant; a socket has a namespace as long as it lives.
        unsafe { bindings::sock_net(self.as_raw()) }
    }

    /// What identifies the network namespace, for as long as the machine runs.
    #[inline]
    pub fn net_cookie(&self) -> u64 {
        // SAFETY: The namespace lives as long as the socket; its cookie never changes.
        unsafe { (*self.net()).net_cookie }
    }

    /// Whether packets leave as IPv6. False for an IPv6 socket with v4-mapped addresses.
    #[inline]
    pub fn sends_ipv6(&self) -> bool {
        // SAFETY: By the type invariant; the operations are constant tables.
        let len = unsafe { (*(*self.icsk()).icsk_af_ops).net_header_len };
        usize::from(len) == size_of::<bindings::ipv6hdr>()
    }

    /// Whether the IPv4 header of its packets has options.
    #[inline]
    pub fn has_ipv4_options(&self) -> bool {
        // SAFETY: By the type invariant the caller owns the socket, whose options can then not be
        // exchanged.
        let opt = unsafe { (*self.inet()).inet_opt };
        // SAFETY: Null or valid, as above.
        unsafe { opt.as_ref() }.is_some_and(|opt| opt.opt.optlen != 0)
    }

    /// Whether its packets have IPv6 extension headers. It is a socket that sends IPv6.
    #[cfg(CONFIG_IPV6)]
    #[inline]
    pub fn has_ipv6_extensions(&self) -> bool {
        // SAFETY: By the type invariant; a socket that sends IPv6 has the IPv6 part, whose options
        // cannot be exchanged while the caller owns the socket.
        !unsafe { (*bindings::inet6_sk(self.as_raw())).opt }.is_null()
    }

    #[inline]
    fn dst(&self) -> *mut bindings::dst_entry {
        // SAFETY: By the type invariant the caller owns the socket, which keeps the cached route
        // alive.
        unsafe { bindings::__sk_dst_get(self.as_raw()) }
    }

    /// What the IPv4 header of `skb`, which is about to be sent, will hold (`__ip_queue_xmit()`).
    #[inline]
    pub fn ipv4_output(&self, skb: &SkBuff) -> Ipv4Output<'_> {
        let inet = self.inet();
        let dst = self.dst();
        // SAFETY: By the type invariant the caller owns the socket, whose options can then not be
        // exchanged.
        let opt = unsafe { (*inet).inet_opt };
        let (of_route, dont_fragment) = if dst.is_null() {
            let pmtudisc = u32::from(read_once!((*inet).pmtudisc));
            (
                0,
                pmtudisc == bindings::IP_PMTUDISC_DO || pmtudisc == bindings::IP_PMTUDISC_WANT,
            )
        } else {
            // SAFETY: By the type invariant socket and route are valid.
            unsafe {
                (
                    bindings::dst_metric_raw(dst, bindings::RTAX_HOPLIMIT as c_int),
                    bindings::ip_dont_fragment(self.as_raw(), dst) != 0,
                )
            }
        };
        // As ip_select_ttl(); the device of the route is in the namespace of the socket.
        let ttl = match i32::from(read_once!((*inet).uc_ttl)) {
            ..0 if of_route == 0 => read_once!((*self.net()).ipv4.sysctl_ip_default_ttl),
            ..0 => of_route as u8,
            ttl => ttl as u8,
        };
        // SAFETY: By the type invariant.
        let (saddr, daddr) = unsafe {
            (
                (*inet).inet_saddr,
                (*self.as_raw())
                    .__sk_common
                    .__bindgen_anon_1
                    .__bindgen_anon_1
                    .skc_daddr,
            )
        };
        Ipv4Output {
            tos: read_once!((*inet).tos),
            ttl,
            dont_fragment: dont_fragment && !skb.ignore_df(),
            saddr: saddr.to_ne_bytes(),
            daddr: daddr.to_ne_bytes(),
            opt,
            _sock: PhantomData,
        }
    }

    /// What the IPv6 header of `skb`, which is about to be sent, will hold (`ip6_xmit()`).
    #[cfg(CONFIG_IPV6)]
    #[inline]
    pub fn ipv6_output(&self, skb: &SkBuff) -> Ipv6Output<'_> {
        let sk = self.as_raw();
        let net = self.net();
        let dst = self.dst();
        // SAFETY: By the type invariant; a socket that sends IPv6 has the IPv6 part.
        let np = unsafe { bindings::inet6_sk(sk) };
        // SAFETY: By the type invariant the caller owns the socket, whose options can then not be
        // exchanged, and whose flow is the one the packet is sent with. `ip6_make_flowlabel()`
        // would fill in a missing hash, which must be left to the IP layer: it is not called then.
        unsafe {
            let fl6 = &raw mut (*self.inet()).cork.fl.u.ip6;
            // Without a route the flow is made anew, with the socket's own label.
            let label = if dst.is_null() {
                (*np).flow_label
            } else {
                (*fl6).flowlabel
            };
            let flow_label = if skb.has_hash() || u32::from_be(label) & 0xfffff != 0 {
                let auto = bindings::ip6_autoflowlabel(net, sk);
                bindings::ip6_make_flowlabel(net, skb.as_raw(), label, auto, fl6)
            } else {
                0
            };
            let hop_limit = i32::from(addr_of!((*np).hop_limit).read_volatile());
            let hop_limit = if hop_limit >= 0 {
                hop_limit
            } else if dst.is_null() {
                addr_of!((*(*net).ipv6.devconf_all).hop_limit).read_volatile()
            } else {
                bindings::ip6_dst_hoplimit(dst)
            };
            Ipv6Output {
                traffic_class: (*np).tclass,
                flow_label: u32::from_be(flow_label),
                hop_limit: hop_limit as u8,
                saddr: &(*np).saddr.in6_u.u6_addr8,
                daddr: &(*sk).__sk_common.skc_v6_daddr.in6_u.u6_addr8,
                opt: (*np).opt,
                _sock: PhantomData,
            }
        }
    }
}

/// Fields of an IPv4 header that the socket decides.
pub struct Ipv4Output<'a> {
    /// DSCP and ECN.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Whether the DF bit is set.
    pub dont_fragment: bool,
    /// Source address.
    pub saddr: [u8; 4],
    /// Address of the peer, even when a source route puts another one into the header.
    pub daddr: [u8; 4],
    opt: *const bindings::ip_options_rcu,
    _sock: PhantomData<&'a TcpSock>,
}

impl Ipv4Output<'_> {
    #[inline]
    fn opt(&self) -> Option<&bindings::ip_options> {
        // SAFETY: Options of a socket that the caller owns do not change.
        unsafe { self.opt.as_ref() }.map(|o| &o.opt)
    }

    /// IP options as the socket keeps them: what is filled in per packet is missing.
    #[inline]
    pub fn options(&self) -> &[u8] {
        let Some(opt) = self.opt() else { return &[] };
        // SAFETY: The kernel allocates options with `optlen` bytes of data; they live as long as
        // the borrow.
        unsafe {
            slice::from_raw_parts(
                addr_of!((*self.opt).opt.__data).cast(),
                usize::from(opt.optlen),
            )
        }
    }

    /// Where a source route starts, in bytes from the start of the IP header, and its first hop.
    #[inline]
    pub fn source_route(&self) -> Option<(usize, [u8; 4])> {
        let opt = self.opt()?;
        (opt.srr != 0).then(|| (usize::from(opt.srr), opt.faddr.to_ne_bytes()))
    }

    /// Where a record route option starts that takes this host's address, in bytes from the start
    /// of the IP header.
    #[inline]
    pub fn record_route(&self) -> Option<usize> {
        let opt = self.opt()?;
        (opt.rr_needaddr() != 0).then_some(usize::from(opt.rr))
    }

    /// Where a time stamp option starts, in bytes from the start of the IP header, and whether it
    /// takes this host's address.
    #[inline]
    pub fn timestamp(&self) -> Option<(usize, bool)> {
        let opt = self.opt()?;
        (opt.ts_needtime() != 0).then(|| (usize::from(opt.ts), opt.ts_needaddr() != 0))
    }
}

/// Fields of an IPv6 header that the socket decides.
#[cfg(CONFIG_IPV6)]
pub struct Ipv6Output<'a> {
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub saddr: &'a [u8; 16],
    /// Address of the peer, even when a routing header puts another one into the header.
    pub daddr: &'a [u8; 16],
    opt: *const bindings::ipv6_txoptions,
    _sock: PhantomData<&'a TcpSock>,
}

#[cfg(CONFIG_IPV6)]
impl<'a> Ipv6Output<'a> {
    fn header(&self, hdr: *const bindings::ipv6_opt_hdr) -> Option<&'a [u8]> {
        // SAFETY: Options of a socket that the caller owns do not change; an extension header is at
        // least 8 bytes, and its length, which the kernel checked when it was set, lies in its
        // second byte (RFC 8200, 4.2).
        let len = usize::from(unsafe { hdr.as_ref() }?.hdrlen);
        // SAFETY: As above.
        Some(unsafe { slice::from_raw_parts(hdr.cast(), (len + 1) * 8) })
    }

    fn opt(&self) -> Option<&'a bindings::ipv6_txoptions> {
        // SAFETY: Options of a socket that the caller owns do not change.
        unsafe { self.opt.as_ref() }
    }

    /// Hop-by-hop options header.
    pub fn hop_by_hop(&self) -> Option<&'a [u8]> {
        self.header(self.opt()?.hopopt)
    }

    /// Destination options header before the routing header; sent only together with that.
    pub fn routing_dest_opts(&self) -> Option<&'a [u8]> {
        self.header(self.opt()?.dst0opt)
    }

    /// Routing header, as the socket keeps it: the address of the peer is not in it.
    pub fn routing(&self) -> Option<&'a [u8]> {
        self.header(self.opt()?.srcrt.cast())
    }

    /// Destination options header after the routing header.
    pub fn dest_opts(&self) -> Option<&'a [u8]> {
        self.header(self.opt()?.dst1opt)
    }
}

#[macros::kunit_tests(rust_net_sock)]
mod tests {
    use super::*;
    use crate::error::to_result;

    /// A TCP socket of the kernel's own.
    struct Socket(*mut bindings::socket);

    impl Socket {
        fn new(family: u32) -> Result<Self> {
            let mut sock = core::ptr::null_mut();
            // SAFETY: The initial namespace is always there, `sock` can be written.
            to_result(unsafe {
                bindings::sock_create_kern(
                    &raw mut bindings::init_net,
                    family as c_int,
                    bindings::sock_type_SOCK_STREAM as c_int,
                    bindings::IPPROTO_TCP as c_int,
                    &mut sock,
                )
            })?;
            Ok(Self(sock))
        }

        fn sk(&self) -> &TcpSock {
            // SAFETY: Nobody else knows the socket.
            unsafe { TcpSock::from_raw((*self.0).sk) }
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            // SAFETY: The socket is not used any more.
            unsafe { bindings::sock_release(self.0) }
        }
    }

    #[test]
    fn state_of_a_new_socket() -> Result {
        let sock = Socket::new(bindings::AF_INET)?;
        let sk = sock.sk();
        assert_eq!(u32::from(sk.state()), bindings::TCP_CLOSE);
        assert!(!sk.is_listener());
        assert!(!sk.sends_ipv6());
        assert_eq!((sk.ca_state(), sk.snd_cwnd()), (0, 10));
        assert_eq!((sk.snd_una(), sk.snd_nxt(), sk.rcv_nxt()), (0, 0, 0));
        // SAFETY: The initial namespace is always there.
        assert_eq!(sk.net_cookie(), unsafe { bindings::init_net.net_cookie });
        Ok(())
    }

    #[cfg(CONFIG_IPV6)]
    #[test]
    fn ipv6_socket_sends_ipv6() -> Result {
        let sock = Socket::new(bindings::AF_INET6)?;
        assert!(sock.sk().sends_ipv6());
        Ok(())
    }
}

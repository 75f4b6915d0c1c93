// SPDX-License-Identifier: GPL-2.0

//! Sent packets, as `__tcp_transmit_skb()` is about to hand them to the network layer: with a
//! complete TCP header, but for the checksum, and without an IP header.

use crate::{
    abi::{
        charged::Room,
        history::Owner,
        layout::{Dir, F_SYNTH},
    },
    ip,
    record::{copy_headers, Given, Headers, Packet},
    ring::{self, RareClaim},
};
use kernel::{
    net::{skbuff::SkBuff, sock::TcpSock},
    sync::rcu, //
};

#[cfg(CONFIG_IPV6)]
use crate::abi::layout::F_IPV6;

/// Records a packet about to be sent, whose `data` is at its TCP header.
#[inline(always)]
pub(crate) fn capture(sk: &TcpSock, owner: &mut Owner<'_>, skb: &SkBuff, time: u64) {
    let rcu = rcu::read_lock();
    let Some(claim) = ring::claim(owner.ring(Dir::Out), &rcu, sk, time) else {
        return;
    };
    #[cfg(CONFIG_IPV6)]
    if sk.sends_ipv6() {
        if sk.has_ipv6_extensions() {
            return capture_long(claim.rarely(), sk, skb, time);
        }
        let packet = Packet::new(skb, PlainIpv6(sk));
        return claim.record(sk, time, packet, F_SYNTH | F_IPV6);
    }
    if sk.has_ipv4_options() {
        return capture_long(claim.rarely(), sk, skb, time);
    }
    let packet = Packet::new(skb, PlainIpv4(sk));
    claim.record(sk, time, packet, F_SYNTH)
}

/// As [`capture`], for an IP header with options or extension headers.
#[cold]
#[inline(never)]
fn capture_long(claim: RareClaim<'_>, sk: &TcpSock, skb: &SkBuff, time: u64) {
    let (header, flags) = long(sk, skb);
    let headers = Given::new(false, header.bytes(), header.wire_len(), None);
    let packet = Packet::new(skb, headers);
    claim.record(sk, time, packet, F_SYNTH | flags)
}

/// The header that the socket will send, without options.
#[derive(Clone, Copy)]
struct PlainIpv4<'a>(&'a TcpSock);

/// The header that the socket will send, without extension headers.
#[cfg(CONFIG_IPV6)]
#[derive(Clone, Copy)]
struct PlainIpv6<'a>(&'a TcpSock);

/// Headers of which the first is written by this, and has this length.
macro_rules! plain_headers {
    ($type:ident, $len:expr, $output:ident, $write:path) => {
        impl Headers for $type<'_> {
            #[inline(always)]
            fn is_received(&self) -> bool {
                false
            }

            #[inline(always)]
            fn net_len(&self) -> u16 {
                $len as u16
            }

            #[inline(always)]
            fn write(&self, skb: &SkBuff, tcp: &[u8], room: Room<'_>) -> Result<usize, usize> {
                let (ip, room) = room.first().split_first_chunk_mut().ok_or(0usize)?;
                // First, so that it need not be remembered where it is.
                let has_tcp = copy_headers(room, tcp);
                $write(&self.0.$output(skb), skb.len(), ip);
                match has_tcp {
                    true => Ok($len),
                    false => Err($len),
                }
            }
        }
    };
}

plain_headers!(PlainIpv4, ip::IPV4_LEN, ipv4_output, ip::plain_ipv4);
#[cfg(CONFIG_IPV6)]
plain_headers!(PlainIpv6, ip::IPV6_LEN, ipv6_output, ip::plain_ipv6);

/// The IP header of a packet, and the record's flags for it.
fn long(sk: &TcpSock, skb: &SkBuff) -> (ip::Header, u16) {
    let mut header = ip::Header::new();
    #[cfg(CONFIG_IPV6)]
    if sk.sends_ipv6() {
        ip::ipv6(&sk.ipv6_output(skb), skb, &mut header);
        return (header, F_IPV6);
    }
    ip::ipv4(&sk.ipv4_output(skb), skb, &mut header);
    (header, 0)
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(tcp_pcap_tx)]
mod tests {
    use super::*;
    use crate::abi::testing::{segment, TestSock};
    use kernel::prelude::*;

    // include/uapi/linux/in.h, in6.h
    const SOL_IP: u32 = 0;
    const IP_TOS: u32 = 1;
    const IP_TTL: u32 = 2;
    const IP_OPTIONS: u32 = 4;
    const IP_MTU_DISCOVER: u32 = 10;

    const SADDR: [u8; 4] = [10, 1, 2, 3];
    const DADDR: [u8; 4] = [10, 4, 5, 6];

    fn ipv4_sock() -> Result<TestSock> {
        let sock = TestSock::new()?;
        sock.set_ipv4_addresses(SADDR, DADDR);
        Ok(sock)
    }

    /// The header of a packet, and the record's flags for it.
    fn header_of(sock: &TestSock, skb: &SkBuff) -> (ip::Header, u16) {
        let mut found = (ip::Header::new(), 0);
        sock.locked(|sk| {
            let mut room = [0; 128];
            #[cfg(CONFIG_IPV6)]
            if sk.sends_ipv6() && !sk.has_ipv6_extensions() {
                let (Ok(len) | Err(len)) = PlainIpv6(sk).write(skb, &[], Room::of_test(&mut room));
                found = (ip::Header::copy_of(&room[..len]), F_IPV6);
                return;
            }
            if sk.sends_ipv6() || sk.has_ipv4_options() {
                found = long(sk, skb);
                return;
            }
            let (Ok(len) | Err(len)) = PlainIpv4(sk).write(skb, &[], Room::of_test(&mut room));
            found = (ip::Header::copy_of(&room[..len]), 0);
        });
        found
    }

    fn ipv4_header(sock: &TestSock, payload: usize) -> Result<ip::Header> {
        let skb = segment(payload, 0)?;
        let (header, flags) = header_of(sock, skb.as_skb());
        assert_eq!(flags, 0);
        assert_eq!(ip::checksum(header.bytes()), 0);
        Ok(header)
    }

    #[test]
    fn ipv4_without_a_route_takes_defaults() -> Result {
        let h = ipv4_header(&ipv4_sock()?, 100)?;
        let h = h.bytes();
        assert_eq!(h[..10], [0x45, 0, 0, 140, 0, 0, 0x40, 0, 64, 6]);
        assert_eq!(h[12..16], SADDR);
        assert_eq!(h[16..20], DADDR);
        assert_eq!(h.len(), 20);
        Ok(())
    }

    #[test]
    fn the_short_way_to_a_header_agrees_with_the_long_one() -> Result {
        let sock = ipv4_sock()?;
        for (tos, ttl, discover, payload) in [
            (0, 64, 0, 0),
            (0xff, 255, 2, 1),
            (4, 1, 1, 1448),
            (2, 9, 2, 65536),
        ] {
            sock.set_int(SOL_IP, IP_TOS, tos)?;
            sock.set_int(SOL_IP, IP_TTL, ttl)?;
            sock.set_int(SOL_IP, IP_MTU_DISCOVER, discover)?;
            let skb = segment(payload, 0)?;
            let mut long = ip::Header::new();
            sock.locked(|sk| ip::ipv4(&sk.ipv4_output(skb.as_skb()), skb.as_skb(), &mut long));
            assert_eq!(header_of(&sock, skb.as_skb()).0.bytes(), long.bytes());
        }
        Ok(())
    }

    #[test]
    fn ipv4_options_of_the_socket_count() -> Result {
        let sock = ipv4_sock()?;
        sock.set_int(SOL_IP, IP_TOS, 0x28)?;
        sock.set_int(SOL_IP, IP_TTL, 9)?;
        sock.set_int(SOL_IP, IP_MTU_DISCOVER, 0)?;
        let h = ipv4_header(&sock, 0)?;
        assert_eq!(h.bytes()[..10], [0x45, 0x28, 0, 40, 0, 0, 0, 0, 9, 6]);
        Ok(())
    }

    #[test]
    fn ipv4_record_route_takes_our_address() -> Result {
        let sock = ipv4_sock()?;
        sock.set_option(SOL_IP, IP_OPTIONS, &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        let h = ipv4_header(&sock, 10)?;
        let h = h.bytes();
        assert_eq!(h[..4], [0x48, 0, 0, 62]);
        assert_eq!(h[20..32], [7, 11, 8, 10, 1, 2, 3, 0, 0, 0, 0, 0]);
        Ok(())
    }

    #[test]
    fn ipv4_source_route_goes_to_the_first_hop() -> Result {
        let sock = ipv4_sock()?;
        // Loose source route over 10.9.9.9 and 10.8.8.8.
        let lsrr = [131, 11, 4, 10, 9, 9, 9, 10, 8, 8, 8, 0];
        sock.set_option(SOL_IP, IP_OPTIONS, &lsrr)?;
        let h = ipv4_header(&sock, 0)?;
        let h = h.bytes();
        assert_eq!(h[16..20], [10, 9, 9, 9]);
        assert_eq!(h[20..32], [131, 11, 4, 10, 8, 8, 8, 10, 4, 5, 6, 0]);
        Ok(())
    }

    #[test]
    fn above_64k_the_length_is_zero() -> Result {
        let h = ipv4_header(&ipv4_sock()?, 65536 - 40)?;
        assert_eq!(h.bytes()[2..4], [0, 0]);
        let h = ipv4_header(&ipv4_sock()?, 65535 - 40)?;
        assert_eq!(h.bytes()[2..4], [0xff, 0xff]);
        Ok(())
    }

    #[cfg(CONFIG_IPV6)]
    #[test]
    fn ipv6_headers() -> Result {
        const SOL_IPV6: u32 = 41;
        const IPV6_UNICAST_HOPS: u32 = 16;
        const IPV6_HOPOPTS: u32 = 54;
        const IPV6_DSTOPTS: u32 = 59;
        const IPV6_TCLASS: u32 = 67;
        const PADN: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

        let sock = TestSock::new_ipv6()?;
        let skb = segment(100, 0)?;
        let (h, flags) = header_of(&sock, skb.as_skb());
        assert_eq!(flags, F_IPV6);
        // No hash yet, so no flow label is made up; the namespace's default hop limit.
        assert_eq!(h.bytes()[..8], [0x60, 0, 0, 0, 0, 120, 6, 64]);
        assert_eq!(h.wire_len(), 40);

        sock.set_int(SOL_IPV6, IPV6_TCLASS, 0x5c)?;
        let mut long = ip::Header::new();
        sock.locked(|sk| ip::ipv6(&sk.ipv6_output(skb.as_skb()), skb.as_skb(), &mut long));
        assert_eq!(header_of(&sock, skb.as_skb()).0.bytes(), long.bytes());

        // The ECN bits are TCP's own.
        sock.set_int(SOL_IPV6, IPV6_TCLASS, 0xa7)?;
        sock.set_int(SOL_IPV6, IPV6_UNICAST_HOPS, 5)?;
        sock.set_option(SOL_IPV6, IPV6_HOPOPTS, &PADN)?;
        sock.set_option(SOL_IPV6, IPV6_DSTOPTS, &PADN)?;
        let (h, _) = header_of(&sock, skb.as_skb());
        let h = h.bytes();
        assert_eq!(h[..8], [0x6a, 0x40, 0, 0, 0, 136, 0, 5]);
        assert_eq!(h[40..48], [60, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(h[48..56], [6, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(h.len(), 56);
        Ok(())
    }
}

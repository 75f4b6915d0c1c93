// SPDX-License-Identifier: GPL-2.0

//! Sent packets, as `__tcp_transmit_skb()` is about to hand them to the network layer: with a
//! complete TCP header, but for the checksum, and without an IP header.

use crate::{
    abi::layout::{Dir, Owner, Sysctls, F_IPV6, F_SYNTH},
    ip,
    record::Packet,
    ring, //
};
use kernel::net::{
    skbuff::SkBuff,
    sock::TcpSock, //
};

/// Records a packet about to be sent, whose `data` is at its TCP header.
pub(crate) fn capture(sk: &TcpSock, owner: &mut Owner<'_>, skb: &SkBuff, time: u64) {
    if !ring::is_recorded(owner, Dir::Out) {
        return;
    }
    let snaplen = Sysctls::of(sk).snaplen();
    let (header, flags) = header(sk, skb);
    let packet = Packet {
        skb,
        ip: header.bytes(),
        ip_len: header.wire_len(),
        ack_and_flags: None,
    };
    ring::record(sk, owner, Dir::Out, time, &packet, flags | F_SYNTH, snaplen)
}

fn header(sk: &TcpSock, skb: &SkBuff) -> (ip::Header, u16) {
    #[cfg(CONFIG_IPV6)]
    if sk.sends_ipv6() {
        return (ip::ipv6(&sk.ipv6_output(skb), skb), F_IPV6);
    }
    (ip::ipv4(&sk.ipv4_output(skb), skb), 0)
}

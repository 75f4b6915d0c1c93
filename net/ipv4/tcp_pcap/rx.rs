// SPDX-License-Identifier: GPL-2.0

//! Received packets, as `tcp_rcv_established()` and `tcp_rcv_state_process()` find them: before any
//! check of sequence numbers, so that what is about to be rejected is kept too.

use crate::{
    abi::{
        charged::Room,
        history::Owner,
        layout::{Dir, F_IPV6, F_LEN_FIXED, F_MERGED},
        stack::merged_ack_and_flags,
    },
    ip,
    record::{copy_headers, tcp_header, Given, Headers, Packet},
    ring::{self, RareClaim},
};
use kernel::{
    net::{
        skbuff::{ReceivedSkBuff, SkBuff},
        sock::TcpSock, //
    },
    sync::rcu, //
};

/// Records a received packet whose `data` is at its TCP header.
#[inline(always)]
pub(crate) fn capture(sk: &TcpSock, owner: &mut Owner<'_>, skb: &ReceivedSkBuff, time: u64) {
    let rcu = rcu::read_lock();
    let Some(claim) = ring::claim(owner.ring(Dir::In), &rcu, sk, time) else {
        return;
    };
    let header = skb.network_to_data();
    let Some(version) = ip::plain_version(header, skb.len()) else {
        return capture_fixed(claim.rarely(), sk, skb, time);
    };
    if merged_ack_and_flags(skb).is_some() {
        return capture_fixed(claim.rarely(), sk, skb, time);
    }
    let len = header.len().saturating_add(tcp_header(skb).len());
    let Some(bytes) = skb.network_to_tail().get(..len) else {
        return capture_fixed(claim.rarely(), sk, skb, time);
    };
    let net_len = header.len();
    let packet = Packet::new(skb, Received { bytes, net_len });
    claim.record(sk, time, packet, flag(version == 6, F_IPV6))
}

/// Headers as they were received, one behind the other, the first without options or extension
/// headers.
#[derive(Clone, Copy)]
struct Received<'a> {
    /// Both.
    bytes: &'a [u8],
    net_len: usize,
}

impl Headers for Received<'_> {
    #[inline(always)]
    fn is_received(&self) -> bool {
        true
    }

    #[inline(always)]
    fn net_len(&self) -> u16 {
        self.net_len as u16
    }

    #[inline(always)]
    fn tcp<'s>(&self, _: &'s SkBuff) -> &'s [u8]
    where
        Self: 's,
    {
        self.bytes.get(self.net_len..).unwrap_or(&[])
    }

    #[inline(always)]
    fn write(&self, _: &SkBuff, _: &[u8], room: Room<'_>) -> Result<usize, usize> {
        match copy_headers(room.first(), self.bytes) {
            true => Ok(self.net_len),
            false => Err(0),
        }
    }
}

/// As [`capture`], where the IP header is long or must be corrected: segments were merged, or
/// `ip_options_compile()` filled in our address and the time, and left the checksum as it was.
#[cold]
#[inline(never)]
fn capture_fixed(claim: RareClaim<'_>, sk: &TcpSock, skb: &ReceivedSkBuff, time: u64) {
    let header = skb.network_to_data();
    let version = ip::version(header);
    let total = header.len().saturating_add(skb.len());
    let ack_and_flags = merged_ack_and_flags(skb);
    let mut flags = flag(version == Some(6), F_IPV6) | flag(ack_and_flags.is_some(), F_MERGED);
    let record = |ip: &[u8], flags| {
        let headers = Given::new(true, ip, header.len(), ack_and_flags);
        claim.record(sk, time, Packet::new(skb, headers), flags)
    };
    if ip::has_length(version, header, total) && ip::has_checksum(version, header) {
        return record(header, flags);
    }
    // Else a socket filter has cut the packet.
    let grown = !ip::claims_at_least(header, total);
    let mut fixed = ip::Header::copy_of(header);
    let was_wrong = ip::fix(fixed.bytes_mut(), total);
    flags |= flag(was_wrong && grown, F_MERGED) | flag(was_wrong, F_LEN_FIXED);
    record(fixed.bytes(), flags)
}

#[inline]
fn flag(set: bool, flag: u16) -> u16 {
    if set {
        flag
    } else {
        0
    }
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(tcp_pcap_rx)]
mod tests {
    use super::*;
    use crate::{
        abi::testing::{StackPacket, TestSock},
        lifecycle,
    };
    use kernel::prelude::*;

    /// An IPv4 header for a packet of `total` bytes.
    fn header(total: u16) -> [u8; 20] {
        let mut h = [
            0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        ip::fix(&mut h, usize::from(total));
        h
    }

    /// Receives a packet; its flags, the length in its IP header, and acknowledgement and flags of
    /// its TCP header.
    fn received(packet: &StackPacket) -> Result<(u16, u16, u32, u8)> {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 1, 0)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        capture(sock.sk(), &mut owner, packet.skb(), 1);
        let record = owner.ring(Dir::In).take_if(0).ok_or(EINVAL)?;
        let bytes = record.skb().linear();
        assert_eq!(ip::checksum(&bytes[..20]), 0);
        let len = u16::from_be_bytes([bytes[2], bytes[3]]);
        let ack = u32::from_be_bytes(bytes[28..32].try_into().map_err(|_| EINVAL)?);
        Ok((record.rec().ok_or(EINVAL)?.flags, len, ack, bytes[33]))
    }

    #[test]
    fn plain_packet_is_kept_as_it_is() -> Result {
        let packet = StackPacket::new(&header(140), &[7; 100])?;
        assert_eq!(received(&packet)?, (0, 140, 0, 0));
        Ok(())
    }

    #[test]
    fn packet_too_long_for_the_length_field_is_kept_as_it_is() -> Result {
        // BIG TCP, include/net/ip.h: iph_set_totlen()
        let packet = StackPacket::new(&header(0), &KVec::from_elem(7, 66_000, GFP_KERNEL)?)?;
        assert_eq!(received(&packet)?, (0, 0, 0, 0));
        Ok(())
    }

    #[test]
    fn merged_packet_gets_length_and_acknowledgement() -> Result {
        let mut packet = StackPacket::new(&header(90), &[7; 100])?;
        packet.set_gso(50, 2);
        packet.set_merged(77, 0x18);
        assert_eq!(received(&packet)?, (F_MERGED | F_LEN_FIXED, 140, 77, 0x18));
        Ok(())
    }

    #[test]
    fn header_whose_options_were_filled_in_is_summed_again_and_no_more() -> Result {
        // Record route, with an address since the sum was made.
        let mut h = [0; 32];
        h[..20].copy_from_slice(&header(152));
        h[0] = 0x48;
        h[20..].copy_from_slice(&[7, 11, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert!(ip::checksum(&h) != 0);
        let packet = StackPacket::new(&h, &[7; 100])?;

        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 1, 0)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        capture(sock.sk(), &mut owner, packet.skb(), 1);
        let record = owner.ring(Dir::In).take_if(0).ok_or(EINVAL)?;
        assert_eq!(ip::checksum(&record.skb().linear()[..32]), 0);
        assert_eq!(record.skb().linear()[20..32], h[20..]);
        assert_eq!(record.rec().ok_or(EINVAL)?.flags, 0);
        Ok(())
    }

    #[test]
    fn cut_packet_is_not_called_merged() -> Result {
        let packet = StackPacket::new(&header(200), &[7; 100])?;
        assert_eq!(received(&packet)?, (F_LEN_FIXED, 140, 0, 0));
        Ok(())
    }

    #[test]
    fn segments_without_partial_checksum_are_merged() -> Result {
        let mut packet = StackPacket::new(&header(140), &[7; 100])?;
        packet.set_gso(50, 2);
        assert_eq!(received(&packet)?.0, F_MERGED);
        Ok(())
    }

    #[test]
    fn a_tcp_header_that_was_cut_is_kept_as_far_as_it_goes() -> Result {
        // What `sk_filter_trim_cap()` may leave: the TCP header, which promises more than there is.
        let mut packet = StackPacket::new(&header(60), &[7; 20])?;
        packet.set_doff(15);
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 1, 0)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        capture(sock.sk(), &mut owner, packet.skb(), 1);
        let record = owner.ring(Dir::In).take_if(0).ok_or(EINVAL)?;
        assert_eq!(record.rec().ok_or(EINVAL)?.orig_len, 60);
        assert_eq!(record.skb().len(), 60);
        assert!(record.skb().linear()[40..].iter().all(|b| *b == 7));
        Ok(())
    }

    #[test]
    fn nothing_is_kept_of_a_direction_of_size_zero() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let packet = StackPacket::new(&header(140), &[7; 100])?;
        capture(sock.sk(), &mut owner, packet.skb(), 1);
        assert_eq!(owner.ring(Dir::In).next(), 0);
        Ok(())
    }
}

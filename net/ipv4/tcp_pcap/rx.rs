// SPDX-License-Identifier: GPL-2.0

//! Received packets, as `tcp_rcv_established()` and `tcp_rcv_state_process()` find them: before any
//! check of sequence numbers, so that what is about to be rejected is kept too.

use crate::{
    abi::{
        history::Owner,
        layout::{Dir, F_IPV6, F_LEN_FIXED, F_MERGED},
        stack::merged_ack_and_flags,
    },
    ip,
    record::Packet,
    ring, //
};
use kernel::net::{
    skbuff::{IpSummed, SkBuff},
    sock::TcpSock, //
};

/// Records a received packet whose `data` is at its TCP header.
#[inline(always)]
pub(crate) fn capture(sk: &TcpSock, owner: &mut Owner<'_>, skb: &SkBuff, time: u64) {
    if owner.ring(Dir::In).size() == 0 {
        return;
    }
    let header = skb.network_to_data();
    let version = ip::version(header);
    let total = header.len().saturating_add(skb.len());
    if !ip::has_length(version, header, total) || !ip::has_checksum(version, header) {
        return capture_fixed(sk, owner, skb, time);
    }
    let ack_and_flags = merged_ack_and_flags(skb);
    let packet = Packet::new(skb, header, header.len(), ack_and_flags);
    let merged = ack_and_flags.is_some() || is_merged(&packet, skb);
    let flags = flag(version == Some(6), F_IPV6) | flag(merged, F_MERGED);
    ring::record(sk, owner, Dir::In, time, packet, flags)
}

/// As [`capture`], where the IP header must be corrected: segments were merged, or
/// `ip_options_compile()` filled in our address and the time, and left the checksum as it was.
#[cold]
#[inline(never)]
fn capture_fixed(sk: &TcpSock, owner: &mut Owner<'_>, skb: &SkBuff, time: u64) {
    let header = skb.network_to_data();
    let total = header.len().saturating_add(skb.len());
    // Else a socket filter has cut the packet.
    let grown = !ip::claims_at_least(header, total);
    let mut fixed = ip::Header::copy_of(header);
    let was_wrong = ip::fix(fixed.bytes_mut(), total);
    let ack_and_flags = merged_ack_and_flags(skb);
    let packet = Packet::new(skb, fixed.bytes(), header.len(), ack_and_flags);
    let merged = ack_and_flags.is_some() || (was_wrong && grown) || is_merged(&packet, skb);
    let flags = flag(ip::version(header) == Some(6), F_IPV6)
        | flag(merged, F_MERGED)
        | flag(was_wrong, F_LEN_FIXED);
    ring::record_rarely(sk, owner, Dir::In, time, packet, flags)
}

/// Whether segments were merged, as far as their number tells: by GRO, which leaves the checksum of
/// the first unless a device is to finish it, or, if there is no payload, by `tcp_add_backlog()`.
#[inline]
fn is_merged(packet: &Packet<'_>, skb: &SkBuff) -> bool {
    packet.segments() > 1 && (skb.ip_summed() != IpSummed::Partial || packet.payload() == 0)
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
    fn merged_packet_gets_length_and_acknowledgement() -> Result {
        let packet = StackPacket::new(&header(90), &[7; 100])?;
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
        let packet = StackPacket::new(&header(140), &[7; 100])?;
        packet.set_gso(50, 2);
        assert_eq!(received(&packet)?.0, F_MERGED);
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

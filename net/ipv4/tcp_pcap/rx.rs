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
pub(crate) fn capture(sk: &TcpSock, owner: &mut Owner<'_>, skb: &SkBuff, time: u64) {
    let header = skb.network_to_data();
    let total = header.len().saturating_add(skb.len());
    if ip::has_length(header, total) && ip::has_checksum(header) {
        capture_with(sk, owner, skb, time, header, header.len(), Length::Right)
    } else {
        capture_fixed(sk, owner, skb, time, header, total)
    }
}

/// What the length in the IP header said.
enum Length {
    /// What it should.
    Right,
    /// Something else.
    Fixed {
        /// Less than there is.
        grown: bool,
    },
}

/// As [`capture`], where the IP header must be corrected: segments were merged, or
/// `ip_options_compile()` filled in our address and the time, and left the checksum as it was.
#[cold]
fn capture_fixed(
    sk: &TcpSock,
    owner: &mut Owner<'_>,
    skb: &SkBuff,
    time: u64,
    header: &[u8],
    total: usize,
) {
    let grown = !ip::claims_at_least(header, total);
    let mut fixed = ip::Header::copy_of(header);
    let length = match ip::fix(fixed.bytes_mut(), total) {
        true => Length::Fixed { grown },
        false => Length::Right,
    };
    capture_with(sk, owner, skb, time, fixed.bytes(), header.len(), length)
}

/// As [`capture`], with an IP header that is right, of which a part may be missing.
#[inline(always)]
fn capture_with(
    sk: &TcpSock,
    owner: &mut Owner<'_>,
    skb: &SkBuff,
    time: u64,
    header: &[u8],
    ip_len: usize,
    length: Length,
) {
    let packet = Packet {
        skb,
        ip: header,
        ip_len,
        ack_and_flags: merged_ack_and_flags(skb),
    };

    // Segments merged on their way here: by GRO, which leaves the checksum of the first unless a
    // device is to finish it, or by tcp_add_backlog(), which changes the headers of the first only
    // in part. A socket filter may have cut the packet instead.
    let merged = packet.ack_and_flags.is_some()
        || matches!(length, Length::Fixed { grown: true })
        || (packet.segments() > 1
            && (skb.ip_summed() != IpSummed::Partial || packet.payload() == 0));
    let flag = |set: bool, flag: u16| if set { flag } else { 0 };
    let flags = flag(ip::version(header) == Some(6), F_IPV6)
        | flag(merged, F_MERGED)
        | flag(matches!(length, Length::Fixed { .. }), F_LEN_FIXED);
    ring::record(sk, owner, Dir::In, time, &packet, flags)
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

// SPDX-License-Identifier: GPL-2.0

//! Received packets, as `tcp_rcv_established()` and `tcp_rcv_state_process()` find them: before any
//! check of sequence numbers, so that what is about to be rejected is kept too.

use crate::{
    abi::layout::{merged_ack_and_flags, Dir, Owner, Sysctls, F_IPV6, F_LEN_FIXED, F_MERGED},
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
    let snaplen = Sysctls::of(sk).snaplen();
    let header = skb.network_to_data();
    let total = header.len().saturating_add(skb.len());
    let mut flags = match ip::version(header) {
        Some(6) => F_IPV6,
        _ => 0,
    };
    // Segments merged on their way here: by GRO, which leaves the checksum of the first unless a
    // device is to finish it, or by tcp_add_backlog(), which changes the headers of the first only
    // in part.
    let length_differs = !ip::has_length(header, total);
    let merged = merged_ack_and_flags(skb);
    if length_differs
        || merged.is_some()
        || (skb.gso_segs() > 1 && (skb.ip_summed() != IpSummed::Partial || is_pure_ack(skb)))
    {
        flags |= F_MERGED;
    }

    // ip_options_compile() fills in our address and the time, and leaves the checksum as it was.
    let checksum_differs = !ip::has_checksum(header);
    let fixed = (length_differs || checksum_differs).then(|| {
        let mut fixed = ip::Header::copy_of(header);
        if ip::fix(fixed.bytes_mut(), total) {
            flags |= F_LEN_FIXED;
        }
        fixed
    });
    let packet = Packet {
        skb,
        ip: fixed.as_ref().map_or(header, |h| h.bytes()),
        ip_len: header.len(),
        ack_and_flags: merged,
    };
    ring::record(sk, owner, Dir::In, time, &packet, flags, snaplen)
}

/// Whether the packet has no payload; several segments in such a packet come from a merge.
fn is_pure_ack(skb: &SkBuff) -> bool {
    let tcp_len = skb.linear().get(12).map_or(0, |b| usize::from(b >> 4) * 4);
    skb.len() <= tcp_len
}

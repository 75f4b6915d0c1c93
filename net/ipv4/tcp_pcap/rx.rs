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
    if !ring::is_recorded(owner, Dir::In) {
        return;
    }
    let header = skb.network_to_data();
    let total = header.len().saturating_add(skb.len());
    // ip_options_compile() fills in our address and the time, and leaves the checksum as it was.
    let fixed = (!ip::has_length(header, total) || !ip::has_checksum(header)).then(|| {
        let mut fixed = ip::Header::copy_of(header);
        let length_differs = ip::fix(fixed.bytes_mut(), total);
        (fixed, length_differs)
    });
    let length_differs = matches!(fixed, Some((_, true)));
    let packet = Packet {
        skb,
        ip: fixed.as_ref().map_or(header, |(h, _)| h.bytes()),
        ip_len: header.len(),
        ack_and_flags: merged_ack_and_flags(skb),
    };

    // Segments merged on their way here: by GRO, which leaves the checksum of the first unless a
    // device is to finish it, or by tcp_add_backlog(), which changes the headers of the first only
    // in part. A socket filter may have cut the packet instead.
    let grown = length_differs && !ip::claims_at_least(header, total);
    let several = packet.segments() > 1;
    let merged = grown
        || packet.ack_and_flags.is_some()
        || (several && (skb.ip_summed() != IpSummed::Partial || packet.payload() == 0));
    let mut flags = 0;
    for (flag, set) in [
        (F_IPV6, ip::version(header) == Some(6)),
        (F_MERGED, merged),
        (F_LEN_FIXED, length_differs),
    ] {
        if set {
            flags |= flag;
        }
    }
    let snaplen = Sysctls::of(sk).snaplen();
    ring::record(sk, owner, Dir::In, time, &packet, flags, snaplen)
}

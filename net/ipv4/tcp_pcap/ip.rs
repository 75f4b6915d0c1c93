// SPDX-License-Identifier: GPL-2.0

//! IP headers: written for packets that have none yet, and corrected for packets that were merged.
//!
//! `__tcp_transmit_skb()` hands packets to the network layer without an IP header. What that layer
//! will write follows from the socket, except for the IPv4 identification, which is taken from a
//! counter that must not be touched.

use kernel::net::{
    skbuff::SkBuff,
    sock::Ipv4Output, //
};

#[cfg(CONFIG_IPV6)]
use kernel::net::sock::Ipv6Output;
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
use kernel::prelude::*;

const IPPROTO_TCP: u8 = 6;
#[cfg(CONFIG_IPV6)]
const NEXTHDR_HOP: u8 = 0;
#[cfg(CONFIG_IPV6)]
const NEXTHDR_ROUTING: u8 = 43;
#[cfg(CONFIG_IPV6)]
const NEXTHDR_DEST: u8 = 60;

pub(crate) const IPV4_LEN: usize = 20;
pub(crate) const IPV6_LEN: usize = 40;

/// `IPV6_SRCRT_TYPE_4`: segment routing header (RFC 8754).
#[cfg(CONFIG_IPV6)]
const SRCRT_TYPE_4: u8 = 4;

/// Room for a header that is written here; an IPv6 packet with more extension headers keeps the
/// first of them.
pub(crate) const HEADER_MAX: usize = 160;

/// An IP header written here.
pub(crate) struct Header {
    buf: [u8; HEADER_MAX],
    len: usize,
}

impl Header {
    /// An empty header.
    pub(crate) const fn new() -> Self {
        Self {
            buf: [0; HEADER_MAX],
            len: 0,
        }
    }

    /// A copy of `header`, of which only the first [`HEADER_MAX`] bytes are kept.
    pub(crate) fn copy_of(header: &[u8]) -> Self {
        let mut h = Self::new();
        h.push(header);
        h
    }

    /// The header, for changes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len.min(HEADER_MAX);
        self.buf.get_mut(..len).unwrap_or(&mut [])
    }

    /// The header; shorter than [`Self::wire_len`] if it did not fit.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buf.get(..self.len).unwrap_or(&self.buf)
    }

    /// Length of the header that is sent.
    pub(crate) fn wire_len(&self) -> usize {
        self.len
    }

    /// Appends bytes, as many as fit, and counts all.
    fn push(&mut self, bytes: &[u8]) {
        put(&mut self.buf, self.len, bytes);
        self.len = self.len.saturating_add(bytes.len());
    }
}

/// Writes `bytes` at `at`, as far as there is room.
fn put(buf: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = buf.get_mut(at..) {
        for (to, from) in to.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

/// The value of a 16-bit length field: 0 stands for a super-segment above 64 KiB.
#[inline]
fn len16(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(0).to_be_bytes()
}

/// Internet checksum (RFC 1071) of a header.
pub(crate) fn checksum(header: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in header.chunks(2) {
        let hi = pair.first().copied().unwrap_or(0);
        let lo = pair.get(1).copied().unwrap_or(0);
        // A header has at most 30 words, which is far from an overflow.
        sum = sum.wrapping_add(u32::from(u16::from_be_bytes([hi, lo])));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    !(sum as u16)
}

fn finish_ipv4(header: &mut [u8]) {
    put(header, 10, &[0, 0]);
    let sum = checksum(header);
    put(header, 10, &sum.to_be_bytes());
}

/// Writes the IPv4 header that `__ip_queue_xmit()` will write for a packet of `len` bytes, without
/// identification. It has no options.
#[inline(always)]
pub(crate) fn plain_ipv4(out: &Ipv4Output<'_>, len: usize, to: &mut [u8; IPV4_LEN]) {
    let [hi, lo] = len16(len.saturating_add(IPV4_LEN));
    let df = if out.dont_fragment { 0x40 } else { 0 };
    // As they lie in memory: a sum of words is right in whatever order their bytes are.
    let first = u32::from_ne_bytes([0x45, out.tos, hi, lo]);
    let second = u32::from_ne_bytes([0, 0, df, 0]);
    let third = u32::from_ne_bytes([out.ttl, IPPROTO_TCP, 0, 0]);
    let (saddr, daddr) = (u32::from_ne_bytes(out.saddr), u32::from_ne_bytes(out.daddr));
    // One's complement sums of 32 bits fold to those of 16.
    let sum = [first, second, third, saddr, daddr]
        .into_iter()
        .fold(0u64, |sum, word| sum.wrapping_add(u64::from(word)));
    let sum = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = sum.wrapping_add(sum >> 16) as u16;
    let [c0, c1] = (!sum).to_ne_bytes();
    let third = u32::from_ne_bytes([out.ttl, IPPROTO_TCP, c0, c1]);
    let words = [first, second, third, saddr, daddr];
    for (to, word) in to.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
}

/// Writes the IPv6 header that `ip6_xmit()` will write for a packet of `len` bytes. It has no
/// extension headers.
#[cfg(CONFIG_IPV6)]
#[inline(always)]
pub(crate) fn plain_ipv6(out: &Ipv6Output<'_>, len: usize, to: &mut [u8; IPV6_LEN]) {
    let first = u64::from(ipv6_word(out)) << 32
        | u64::from(u16::from_be_bytes(len16(len))) << 16
        | u64::from(IPPROTO_TCP) << 8
        | u64::from(out.hop_limit);
    let (words, addrs) = to.split_at_mut(8);
    words.copy_from_slice(&first.to_be_bytes());
    let (saddr, daddr) = addrs.split_at_mut(16);
    saddr.copy_from_slice(out.saddr);
    daddr.copy_from_slice(out.daddr);
}

/// Version, traffic class and flow label.
#[cfg(CONFIG_IPV6)]
fn ipv6_word(out: &Ipv6Output<'_>) -> u32 {
    6 << 28 | u32::from(out.traffic_class) << 20 | (out.flow_label & 0xfffff)
}

/// Writes into the empty `h` the IPv4 header that `__ip_queue_xmit()` will write for `skb`, without
/// identification, and without the time in a time stamp option.
pub(crate) fn ipv4(out: &Ipv4Output<'_>, skb: &SkBuff, h: &mut Header) {
    let options = out.options();
    let hlen = IPV4_LEN.saturating_add(options.len()).min(60);
    let frag_off = if out.dont_fragment { 0x40 } else { 0 };
    let daddr = out.source_route().map_or(out.daddr, |(_, hop)| hop);

    h.push(&[0x40 | (hlen / 4) as u8, out.tos]);
    h.push(&len16(hlen.saturating_add(skb.len())));
    h.push(&[0, 0, frag_off, 0, out.ttl, IPPROTO_TCP, 0, 0]);
    h.push(&out.saddr);
    h.push(&daddr);
    h.push(options.get(..hlen.saturating_sub(IPV4_LEN)).unwrap_or(&[]));

    let buf = h.buf.get_mut(..hlen).unwrap_or(&mut []);
    if let Some((at, _)) = out.source_route() {
        // The last address of the route is the peer's.
        let len = usize::from(buf.get(at.saturating_add(1)).copied().unwrap_or(0));
        put(buf, at.saturating_add(len).saturating_sub(4), &out.daddr);
    }
    if let Some(at) = out.record_route() {
        let ptr = usize::from(buf.get(at.saturating_add(2)).copied().unwrap_or(0));
        put(buf, at.saturating_add(ptr).saturating_sub(5), &out.saddr);
    }
    if let Some((at, true)) = out.timestamp() {
        let ptr = usize::from(buf.get(at.saturating_add(2)).copied().unwrap_or(0));
        put(buf, at.saturating_add(ptr).saturating_sub(9), &out.saddr);
    }
    finish_ipv4(buf);
}

/// Writes into the empty `h` the IPv6 header, with extension headers, that `ip6_xmit()` will write
/// for `skb`.
#[cfg(CONFIG_IPV6)]
pub(crate) fn ipv6(out: &Ipv6Output<'_>, skb: &SkBuff, h: &mut Header) {
    let routing = out.routing();
    // RFC 8200, 4.1: the order on the wire. The kernel sends the first destination options with a
    // route only.
    let chain = [
        (NEXTHDR_HOP, out.hop_by_hop()),
        (NEXTHDR_DEST, routing.and(out.routing_dest_opts())),
        (NEXTHDR_ROUTING, routing),
        (NEXTHDR_DEST, out.dest_opts()),
    ];
    let first_hop = routing.and_then(first_hop).unwrap_or(*out.daddr);
    let ext_len: usize = chain
        .iter()
        .filter_map(|(_, hdr)| *hdr)
        .fold(0, |sum, hdr| sum.saturating_add(hdr.len()));
    // The header that comes after the first `n` of the chain.
    let next = |n: usize| {
        chain
            .iter()
            .skip(n)
            .find(|(_, hdr)| hdr.is_some())
            .map_or(IPPROTO_TCP, |(proto, _)| *proto)
    };

    h.push(&ipv6_word(out).to_be_bytes());
    h.push(&len16(ext_len.saturating_add(skb.len())));
    h.push(&[next(0), out.hop_limit]);
    h.push(out.saddr);
    h.push(&first_hop);
    for (i, (proto, hdr)) in chain.iter().enumerate() {
        let Some(hdr) = hdr else { continue };
        let at = h.len;
        h.push(hdr);
        put(&mut h.buf, at, &[next(i.saturating_add(1))]);
        if *proto == NEXTHDR_ROUTING {
            put(&mut h.buf, at.saturating_add(last_hop_at(hdr)), out.daddr);
        }
    }
}

/// The address that a routing header puts into the IPv6 header.
#[cfg(CONFIG_IPV6)]
fn first_hop(routing: &[u8]) -> Option<[u8; 16]> {
    let at = if *routing.get(2)? == SRCRT_TYPE_4 {
        usize::from(*routing.get(3)?)
            .checked_mul(16)?
            .checked_add(8)?
    } else {
        8
    };
    routing.get(at..at.checked_add(16)?)?.try_into().ok()
}

/// Where a routing header takes the address of the peer.
#[cfg(CONFIG_IPV6)]
fn last_hop_at(routing: &[u8]) -> usize {
    if routing.get(2) == Some(&SRCRT_TYPE_4) {
        8
    } else {
        routing.len().saturating_sub(16)
    }
}

/// Whether `header` starts like an IP header, and of which version.
#[inline]
pub(crate) fn version(header: &[u8]) -> Option<u8> {
    match header.first()? >> 4 {
        4 if header.len() >= IPV4_LEN => Some(4),
        6 if header.len() >= IPV6_LEN => Some(6),
        _ => None,
    }
}

/// The version of a header without options or extension headers whose length covers a packet of
/// `len` bytes behind it; `None` if it is another one.
#[inline]
pub(crate) fn plain_version(header: &[u8], len: usize) -> Option<u8> {
    let length = |len| u16::from_be_bytes(len16(len));
    // Both fields at once.
    if header.len() == IPV4_LEN {
        let first = u32::from_be_bytes(*header.first_chunk()?);
        let length = length(len.saturating_add(IPV4_LEN));
        return (first & 0xf000_ffff == 4 << 28 | u32::from(length)).then_some(4);
    }
    if header.len() == IPV6_LEN {
        let first = u64::from_be_bytes(*header.first_chunk()?);
        let is = first & 0xf000_0000_ffff_0000 == 6 << 60 | u64::from(length(len)) << 16;
        return is.then_some(6);
    }
    None
}

/// Whether the length in `header`, of that [`version`], covers a packet of `total` bytes.
#[inline]
pub(crate) fn has_length(version: Option<u8>, header: &[u8], total: usize) -> bool {
    let (field, want) = match version {
        Some(4) => (header.get(2..4), len16(total)),
        Some(6) => (header.get(4..6), len16(total.saturating_sub(IPV6_LEN))),
        _ => return true,
    };
    field == Some(&want)
}

/// Whether the length in `header` is that of `total` bytes or more.
pub(crate) fn claims_at_least(header: &[u8], total: usize) -> bool {
    let field = |at: usize| {
        let hi = header.get(at).copied().unwrap_or(0);
        let lo = header.get(at.saturating_add(1)).copied().unwrap_or(0);
        usize::from(u16::from_be_bytes([hi, lo]))
    };
    match version(header) {
        Some(4) => field(2) >= total,
        Some(6) => field(4).saturating_add(IPV6_LEN) >= total,
        _ => true,
    }
}

/// Whether the checksum of an IPv4 header with options, which may have been changed on the way, is
/// right. Any other header, and one of another [`version`], is as the IP layer has it.
#[inline]
pub(crate) fn has_checksum(version: Option<u8>, header: &[u8]) -> bool {
    header.len() <= IPV4_LEN || version != Some(4) || checksum(header) == 0
}

/// Makes the checksum right, and the length in `header` cover a packet of `total` bytes; returns
/// whether it did not before.
///
/// The backlog merges segments without telling the IP header of the first.
pub(crate) fn fix(header: &mut [u8], total: usize) -> bool {
    let version = version(header);
    let length_differs = !has_length(version, header, total);
    match version {
        Some(4) => {
            put(header, 2, &len16(total));
            finish_ipv4(header);
        }
        Some(6) => put(header, 4, &len16(total.saturating_sub(IPV6_LEN))),
        _ => {}
    }
    length_differs
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_ip)]
mod tests {
    use super::*;

    /// The example of RFC 1071 implementations: a header with the checksum 0xb861.
    const V4: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];

    #[test]
    fn checksum_of_a_known_header() {
        let mut h = V4;
        assert_eq!(checksum(&h), 0);
        h[10] = 0;
        h[11] = 0;
        assert_eq!(checksum(&h), 0xb861);
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }

    #[test]
    fn longer_and_shorter_than_claimed() {
        assert!(claims_at_least(&V4, 0x73));
        assert!(claims_at_least(&V4, 0x40));
        assert!(!claims_at_least(&V4, 0x74));
        let mut h = [0u8; 40];
        h[0] = 0x60;
        h[5] = 10;
        assert!(claims_at_least(&h, 50));
        assert!(!claims_at_least(&h, 51));
    }

    #[test]
    fn right_length_stays() {
        let mut h = V4;
        assert!(!fix(&mut h, 0x73));
        assert_eq!(h, V4);
    }

    #[test]
    fn changed_options_are_summed_again() {
        // Record route: its pointer moved on, and an address was written.
        let mut h = [0u8; 32];
        h[..20].copy_from_slice(&V4);
        h[0] = 0x48;
        h[20..].copy_from_slice(&[7, 11, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert!(!has_checksum(version(&h), &h));
        assert!(!fix(&mut h, 0x73));
        assert!(has_checksum(version(&h), &h));
        assert_eq!(checksum(&h), 0);
        assert!(has_checksum(version(&V4), &V4));
    }

    #[test]
    fn merged_length_is_fixed_and_summed() {
        let mut h = V4;
        assert!(fix(&mut h, 3000));
        assert_eq!(h[2..4], 3000u16.to_be_bytes());
        assert_eq!(checksum(&h), 0);
        assert!(fix(&mut h, 70000));
        assert_eq!(h[2..4], [0, 0]);
        assert_eq!(checksum(&h), 0);

        let mut h = [0u8; 40];
        h[0] = 0x60;
        assert!(fix(&mut h, 1040));
        assert_eq!(h[4..6], 1000u16.to_be_bytes());
        assert!(!fix(&mut h, 1040));
    }

    #[test]
    fn what_is_no_ip_header_is_left_alone() {
        for bad in [&[][..], &[0x45; 19], &[0x60; 39], &[0x55; 60]] {
            let mut h = [0u8; 64];
            h[..bad.len()].copy_from_slice(bad);
            let h = &mut h[..bad.len()];
            assert_eq!(version(h), None);
            assert!(!fix(h, 1000));
            assert_eq!(h, bad);
        }
        assert_eq!(version(&V4), Some(4));
    }

    #[test]
    fn header_that_does_not_fit_is_cut_and_counted() {
        let mut h = Header::new();
        h.push(&[1; HEADER_MAX - 1]);
        h.push(&[2; 3]);
        assert_eq!(h.wire_len(), HEADER_MAX + 2);
        assert_eq!(h.bytes().len(), HEADER_MAX);
        assert_eq!(h.bytes()[HEADER_MAX - 1], 2);
    }

    #[test]
    fn length_above_64k_is_zero() {
        assert_eq!(len16(65535), [0xff, 0xff]);
        assert_eq!(len16(65536), [0, 0]);
    }

    #[cfg(CONFIG_IPV6)]
    #[test]
    fn routing_headers() {
        // Type 2 (RFC 6275): one address, exchanged with that of the header.
        let mut t2 = [0u8; 24];
        t2[2] = 2;
        t2[8..24].copy_from_slice(&[7; 16]);
        assert_eq!(first_hop(&t2), Some([7; 16]));
        assert_eq!(last_hop_at(&t2), 8);
        // Segment routing: the active segment is the one that segments_left names.
        let mut t4 = [0u8; 40];
        t4[2] = SRCRT_TYPE_4;
        t4[3] = 1;
        t4[24..40].copy_from_slice(&[9; 16]);
        assert_eq!(first_hop(&t4), Some([9; 16]));
        assert_eq!(last_hop_at(&t4), 8);
        t4[3] = 200;
        assert_eq!(first_hop(&t4), None);
    }
}

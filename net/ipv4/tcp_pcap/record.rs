// SPDX-License-Identifier: GPL-2.0

//! A retained packet: headers copied, payload referenced.
//!
//! A record is an skb of our own. Its head holds the description (`struct tcp_pcap_rec`), the IP
//! and TCP headers, and payload that fits the rest; payload that does not is referenced where it
//! lies, page by page. A clone of the stack's skb would hold the payload too, but change what the
//! stack may do with it.

use crate::{
    abi::layout::{
        gfp_packet, read_rec, write_rec, Account, Rec, Why, F_TRUNC, KIND_PACKET, MAGIC, REC_LEN,
        VERSION,
    },
    limit::Charge,
};
use core::mem;
use kernel::{
    net::skbuff::{Frag, PrivateSkBuff, SkBuff},
    prelude::*,
};

/// Largest TCP header in bytes.
const TCP_MAX: usize = 60;

/// Head to ask for. What the allocator gives for it is the one size of `skb_small_head`.
const HEAD_MIN: u32 = 224;

/// Bytes that a record is never larger than: skb and head together.
const RECORD_MAX: usize = 2048;

const _: () = assert!(REC_LEN + 60 + TCP_MAX <= HEAD_MIN as usize);

/// A retained packet, charged to the accounts.
pub(crate) struct Record {
    // Dropped before the charges are.
    skb: PrivateSkBuff,
    charges: Charges,
}

/// What a record is charged with.
struct Charges {
    /// Bytes.
    mem: usize,
    /// Pages.
    pages: usize,
}

impl Drop for Charges {
    fn drop(&mut self) {
        Charge::release(Account::mem(), self.mem);
        Charge::release(Account::frags(), self.pages);
    }
}

/// A packet as a hook found it.
pub(crate) struct Packet<'a> {
    /// The packet from its TCP header on.
    pub(crate) skb: &'a SkBuff,
    /// Its IP header with options and extension headers, as far as known.
    pub(crate) ip: &'a [u8],
    /// Length of that on the wire.
    pub(crate) ip_len: usize,
    /// Acknowledgement number and flags that replace those of the TCP header.
    pub(crate) ack_and_flags: Option<(u32, u8)>,
}

impl Packet<'_> {
    /// Bytes of the TCP header, as far as it is there.
    fn tcp_len(&self) -> usize {
        let linear = self.skb.linear();
        linear
            .get(12)
            .map_or(0, |b| usize::from(b >> 4) * 4)
            .min(linear.len())
    }

    /// Bytes of payload.
    pub(crate) fn payload(&self) -> usize {
        self.skb.len().saturating_sub(self.tcp_len())
    }

    /// Segments that it stands for. Some drivers tell only how large these are.
    pub(crate) fn segments(&self) -> u16 {
        match (self.skb.gso_segs(), self.skb.gso_size()) {
            (0, 0) => 1,
            (0, size) => u16::try_from(self.payload().div_ceil(usize::from(size)))
                .unwrap_or(u16::MAX)
                .max(1),
            (segs, _) => segs,
        }
    }
}

impl Record {
    /// Allocates an empty record, without sleeping.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory.
    pub(crate) fn new() -> Result<Self> {
        // Charged before it is allocated: at the limit nothing is, not even for a moment.
        let most = Charge::new(Account::mem(), RECORD_MAX).ok_or(ENOBUFS)?;
        let skb = PrivateSkBuff::new(HEAD_MIN, gfp_packet())?;
        let mem = skb.truesize();
        if mem > RECORD_MAX {
            return Err(ENOBUFS);
        }
        most.keep();
        Charge::release(Account::mem(), RECORD_MAX - mem);
        Ok(Self {
            skb,
            charges: Charges { mem, pages: 0 },
        })
    }

    /// Takes over what [`Self::into_skb`] returned, from a slot.
    pub(crate) fn from_skb(skb: PrivateSkBuff) -> Self {
        let charges = Charges {
            mem: skb.truesize(),
            pages: read_rec(skb.head()).map_or(0, |r| r.pages as usize),
        };
        Self { skb, charges }
    }

    /// Gives the skb to a slot; it stays charged.
    pub(crate) fn into_skb(self) -> PrivateSkBuff {
        let Self { skb, charges } = self;
        mem::forget(charges);
        skb
    }

    /// The description.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn rec(&self) -> Option<Rec> {
        read_rec(self.skb.head())
    }

    /// The packet.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn skb(&self) -> &SkBuff {
        self.skb.as_skb()
    }

    /// The head, with what is behind the packet.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn head(&self) -> &[u8] {
        self.skb.head()
    }

    /// Gives back the pages, and then what was charged for them.
    fn clear(&mut self) {
        self.skb.clear_frags();
        Charge::release(Account::frags(), mem::take(&mut self.charges.pages));
    }

    /// Makes this the record of `packet`; what it held before is given back.
    ///
    /// `rec` describes the packet but for what this function finds out: what of it is kept, and why
    /// not all. At most `snaplen` bytes of payload are kept. Returns why there is less.
    pub(crate) fn fill(&mut self, rec: Rec, packet: &Packet<'_>, snaplen: Option<usize>) -> Why {
        self.clear();

        let old_end = REC_LEN.saturating_add(self.skb.as_skb().len());
        let skb = packet.skb;
        let linear = skb.linear();
        let tcp_len = packet.tcp_len();
        let payload = packet.payload();
        let want = snaplen.map_or(payload, |s| payload.min(s));

        // Headers.
        let head = self.skb.head_mut();
        let mut at = REC_LEN;
        let ip = packet
            .ip
            .get(..head.len().saturating_sub(REC_LEN + TCP_MAX))
            .unwrap_or(packet.ip);
        at = append(head, at, ip);
        let whole = ip.len() == packet.ip_len;
        if whole {
            let tcp_at = at;
            at = append(head, at, linear.get(..tcp_len).unwrap_or(linear));
            if let Some((ack, flags)) = packet.ack_and_flags {
                append(head, tcp_at.saturating_add(8), &ack.to_be_bytes());
                append(head, tcp_at.saturating_add(13), &[flags]);
            }
        }

        // Payload.
        let kept = if whole {
            self.payload(skb, tcp_len, want, at)
        } else {
            Kept::nothing(Why::Linear)
        };
        let why = match kept.why {
            Why::Not if want < payload => Why::Snaplen,
            why => why,
        };
        let short = !whole || kept.copied.saturating_add(kept.referenced) < payload;

        let end = at.saturating_add(kept.copied);
        self.skb.set_linear(REC_LEN, end.saturating_sub(REC_LEN));
        self.skb
            .set_transport_header(u16::try_from(ip.len()).unwrap_or(0));
        // What the head held before may be payload that must not be kept any longer.
        if let Some(rest) = self.skb.head_mut().get_mut(end..old_end) {
            rest.fill(0);
        }
        self.charges.pages = kept.pages;
        let rec = Rec {
            magic: MAGIC,
            version: VERSION,
            kind: KIND_PACKET,
            why: why as u8,
            flags: rec.flags | if short { F_TRUNC } else { 0 },
            orig_len: u32::try_from(packet.ip_len.saturating_add(skb.len())).unwrap_or(u32::MAX),
            net_len: u16::try_from(packet.ip_len).unwrap_or(u16::MAX),
            pages: u32::try_from(kept.pages).unwrap_or(u32::MAX),
            ..rec
        };
        write_rec(self.skb.head_mut(), rec);
        why
    }

    /// Keeps `want` bytes of the payload that starts `offset` bytes into `skb`: in the head, from
    /// `at` on, or in frags.
    fn payload(&mut self, skb: &SkBuff, offset: usize, want: usize, at: usize) -> Kept {
        if want == 0 {
            return Kept::nothing(Why::Not);
        }
        if skb.is_decrypted() {
            return Kept::nothing(Why::Decrypted);
        }

        let in_linear = skb.linear().len().saturating_sub(offset).min(want);
        let room = self.skb.head_len().saturating_sub(at);

        // Small requests and responses: cheaper to copy than to reference, and no page is pinned.
        if want <= room && (in_linear == want || skb.frags_readable()) {
            return self.copy(skb, offset, want, at, Why::Not);
        }
        match self.reference(skb, offset, want, in_linear, room) {
            Ok(pages) => {
                // Linear payload is copied if it fits, else its page was referenced above.
                let copied = if in_linear <= room { in_linear } else { 0 };
                let kept = self.copy(skb, offset, copied, at, Why::Not);
                let referenced = self.skb.as_skb().data_len();
                let missing = kept.copied.saturating_add(referenced) < want;
                let why = match missing {
                    true if skb.has_frag_list() => Why::FragList,
                    true => Why::Linear,
                    false => kept.why,
                };
                Kept {
                    referenced,
                    pages,
                    why,
                    ..kept
                }
            }
            Err(why) => {
                let readable = if skb.frags_readable() {
                    want
                } else {
                    in_linear
                };
                self.copy(skb, offset, readable.min(room), at, why)
            }
        }
    }

    /// Copies `len` bytes into the head.
    fn copy(&mut self, skb: &SkBuff, offset: usize, len: usize, at: usize, why: Why) -> Kept {
        let end = at.saturating_add(len);
        let copied = self
            .skb
            .head_mut()
            .get_mut(at..end)
            .is_some_and(|to| len == 0 || skb.copy_bits(offset, to).is_ok());
        Kept {
            copied: if copied { len } else { 0 },
            why: if copied { why } else { Why::Unreadable },
            ..Kept::nothing(why)
        }
    }

    /// References the pages of the payload that does not go into the head. Returns the pages
    /// charged for them.
    ///
    /// # Errors
    ///
    /// Why there must be no reference to them.
    fn reference(
        &mut self,
        skb: &SkBuff,
        offset: usize,
        want: usize,
        in_linear: usize,
        room: usize,
    ) -> Result<usize, Why> {
        if !skb.frags_readable() {
            return Err(Why::Unreadable);
        }
        if skb.is_zerocopy() {
            return Err(Why::Zerocopy);
        }
        if skb.has_shared_frag() {
            return Err(Why::Shared);
        }
        if skb.is_pfmemalloc() {
            return Err(Why::Pfmemalloc);
        }

        let head = if in_linear > room {
            Some(skb.linear_frag(offset).ok_or(Why::Linear)?)
        } else {
            None
        };
        let skip = if head.is_some() { 0 } else { in_linear };
        // Bytes of linear payload behind what is wanted belong to no frag.
        let frags = || {
            parts(
                Iterator::chain(head.into_iter(), skb.frags()),
                want.saturating_sub(skip),
            )
        };

        let mut pages = 0usize;
        let mut last: Option<Frag<'_>> = None;
        for frag in frags() {
            if frag.is_pfmemalloc() {
                return Err(Why::Pfmemalloc);
            }
            pages = pages.saturating_add(additional_pages(&frag, last.as_ref()));
            last = Some(frag);
        }
        let charge = Charge::new(Account::frags(), pages).ok_or(Why::Limit)?;
        let mut pinned = 0usize;
        last = None;
        for frag in frags() {
            if self.skb.push_frag(frag).is_err() {
                break;
            }
            pinned = pinned.saturating_add(additional_pages(&frag, last.as_ref()));
            last = Some(frag);
        }
        charge.keep();
        Charge::release(Account::frags(), pages.saturating_sub(pinned));
        Ok(pinned)
    }
}

/// Pages that `frag` pins beyond those that the frag before it does.
fn additional_pages(frag: &Frag<'_>, last: Option<&Frag<'_>>) -> usize {
    if last.is_some_and(|last| last.same_compound_page(frag)) {
        0
    } else {
        frag.pinned_pages()
    }
}

/// What of a payload was kept.
struct Kept {
    /// Bytes in the head.
    copied: usize,
    /// Bytes in frags.
    referenced: usize,
    /// Pages charged for the frags.
    pages: usize,
    /// Why not all that was wanted.
    why: Why,
}

impl Kept {
    fn nothing(why: Why) -> Self {
        Self {
            copied: 0,
            referenced: 0,
            pages: 0,
            why,
        }
    }
}

/// Writes `bytes` at `at`, if they fit; returns where they end.
fn append(head: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let end = at.saturating_add(bytes.len());
    match head.get_mut(at..end) {
        Some(to) => {
            to.copy_from_slice(bytes);
            end
        }
        None => at,
    }
}

/// The first `len` bytes of a sequence of frags.
fn parts<'a>(frags: impl Iterator<Item = Frag<'a>>, len: usize) -> impl Iterator<Item = Frag<'a>> {
    let mut left = len;
    frags
        .map_while(move |frag| {
            let frag = (left != 0).then(|| frag.truncated(left))?;
            left = left.saturating_sub(frag.len());
            Some(frag)
        })
        .filter(|frag| !frag.is_empty())
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_record)]
mod tests {
    use super::*;
    use crate::{
        abi::{
            layout::{Counter, Dir},
            testing::{with_frags_max, StackPacket, TestSock},
        },
        lifecycle,
        ring, //
    };
    use kernel::sync::atomic::Relaxed;

    const IP: [u8; 20] = [
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];

    fn payload(len: usize) -> Result<KVec<u8>> {
        let mut v = KVec::with_capacity(len, GFP_KERNEL)?;
        for i in 0..len {
            v.push((i % 251) as u8, GFP_KERNEL)?;
        }
        Ok(v)
    }

    fn pages() -> i64 {
        Account::frags().used().load(Relaxed)
    }

    /// Records a packet and returns its record, and how many had headers only.
    fn recorded(packet: &StackPacket, snaplen: Option<usize>) -> Result<(Record, u64)> {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 2)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let packet = Packet {
            skb: packet.skb(),
            ip: &IP,
            ip_len: IP.len(),
            ack_and_flags: None,
        };
        ring::record(sock.sk(), &mut owner, Dir::Out, 5, &packet, 0, snaplen);
        let mut ring = owner.ring(Dir::Out);
        let record = ring.take_if(0).ok_or(EINVAL)?;
        Ok((record, ring.get(Counter::HeaderOnly)))
    }

    #[test]
    fn payload_in_pages_is_referenced_and_charged() -> Result {
        let start = pages();
        let bytes = payload(5000)?;
        let packet = StackPacket::new(&IP, &bytes)?;
        let (record, header_only) = recorded(&packet, None)?;
        let rec = record.rec().ok_or(EINVAL)?;
        assert_eq!((rec.why, rec.pages, header_only), (Why::Not as u8, 2, 0));
        assert_eq!((rec.orig_len, rec.flags & F_TRUNC), (5040, 0));
        assert_eq!(record.skb().len(), 5040);
        assert_eq!(record.skb().data_len(), 5000);
        assert_eq!(pages(), start + 2);
        // The pages live on without the packet that they came with.
        drop(packet);
        let mut kept = payload(5000)?;
        kept.iter_mut().for_each(|b| *b = 0);
        record.skb().copy_bits(40, &mut kept)?;
        assert!(kept.iter().eq(bytes.iter()));
        drop(record);
        assert_eq!(pages(), start);
        Ok(())
    }

    #[test]
    fn snaplen_cuts_references() -> Result {
        let packet = StackPacket::new(&IP, &payload(5000)?)?;
        for (snaplen, pages) in [(4500, 2), (4096, 1), (1000, 1), (10, 0), (0, 0)] {
            let (record, header_only) = recorded(&packet, Some(snaplen))?;
            let rec = record.rec().ok_or(EINVAL)?;
            assert_eq!(record.skb().len(), 40 + snaplen);
            assert_eq!((rec.why, rec.pages), (Why::Snaplen as u8, pages));
            assert_eq!((rec.orig_len, rec.flags & F_TRUNC), (5040, F_TRUNC));
            assert_eq!(header_only, 0);
        }
        Ok(())
    }

    #[test]
    fn at_the_limit_headers_are_kept_and_what_fits_beside_them() -> Result {
        let start = pages();
        let packet = StackPacket::new(&IP, &payload(5000)?)?;
        let (record, header_only) = with_frags_max(1, || recorded(&packet, None))?;
        let rec = record.rec().ok_or(EINVAL)?;
        assert_eq!((rec.why, rec.pages, header_only), (Why::Limit as u8, 0, 1));
        assert_eq!(record.skb().data_len(), 0);
        assert!(record.skb().len() > 40);
        assert!(record.skb().linear()[40..]
            .iter()
            .enumerate()
            .all(|(i, b)| usize::from(*b) == i % 251));
        assert_eq!(pages(), start);
        Ok(())
    }

    #[test]
    fn describes_socket_and_segments() -> Result {
        let packet = StackPacket::new(&IP, &payload(2500)?)?;
        for (size, segs, expected) in [(0, 0, 1), (1000, 3, 3), (1000, 0, 3), (2500, 0, 1)] {
            packet.set_gso(size, segs);
            let rec = recorded(&packet, None)?.0.rec().ok_or(EINVAL)?;
            assert_eq!((rec.gso_size, rec.gso_segs), (size, expected));
        }
        let rec = recorded(&packet, None)?.0.rec().ok_or(EINVAL)?;
        // A socket that was never connected: TCP_CLOSE, TCP_INIT_CWND, TCP_INFINITE_SSTHRESH.
        assert_eq!((rec.state, rec.ca_state), (7, 0));
        assert_eq!((rec.snd_cwnd, rec.ssthresh), (10, 0x7fffffff));
        assert_eq!((rec.snd_una, rec.snd_nxt, rec.rcv_nxt), (0, 0, 0));
        assert_eq!((rec.ip_summed, rec.csum_start, rec.csum_offset), (0, 0, 0));
        assert_eq!((rec.time, rec.dir, rec.kind), (5, 2, KIND_PACKET));
        assert_eq!((rec.magic, rec.version), (MAGIC, VERSION));
        Ok(())
    }
}

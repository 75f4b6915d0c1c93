// SPDX-License-Identifier: GPL-2.0

//! A retained packet: headers copied, payload referenced.
//!
//! A record is an skb of our own. Its head holds the description (`struct tcp_pcap_rec`), the IP
//! and TCP headers, and payload that fits the rest; payload that does not is referenced where it
//! lies, page by page. A clone of the stack's skb would hold the payload too, but change what the
//! stack may do with it.

use crate::{
    abi::{
        account::{Payer, Resource, Stock},
        layout::{
            rec, rec_mut, split_mut, Dir, Rec, Why, F_CONTAINER, F_TRUNC, KIND_PACKET, MAGIC,
            REC_LEN, VERSION,
        },
        stack::gfp_packet,
    },
    limit::{self, Charge},
};
use core::mem;
use kernel::{
    net::{
        skbuff::{Frag, IpSummed, PageRefs, PrivateSkBuff, PrivateSkBuffList, SkBuff},
        sock::TcpSock,
    },
    prelude::*,
    sync::atomic::Relaxed,
};

/// Largest TCP header in bytes.
const TCP_MAX: usize = 60;

/// Where the checksum is in a TCP header, in bytes.
const CSUM_OFFSET: u16 = 16;

/// Head to ask for. What the allocator gives for it is the one size of `skb_small_head`.
const HEAD_MIN: u32 = 224;

/// Bytes of a head that are cleared at a time.
const CLEARED: usize = 32;

/// Bytes that a record is never larger than: skb and head together.
const RECORD_MAX: usize = 2048;

/// What there is at least of it for the packet.
const ROOM_MIN: usize = HEAD_MIN as usize - REC_LEN;

const _: () = assert!(ROOM_MIN >= 60 + TCP_MAX);

/// A retained packet, charged to the accounts.
///
/// `data` is [`REC_LEN`] into the head; what all descriptions have in common is written; behind the
/// packet the head is zero.
pub(crate) struct Record {
    // Dropped before the charges are.
    skb: PrivateSkBuff,
    charges: Charges,
}

/// What a record is charged with, and counted as.
struct Charges {
    payer: Payer,
    /// Bytes.
    mem: usize,
    /// Pages.
    pages: usize,
}

impl Charges {
    /// Those of a new record, which has no pages.
    fn new(payer: Payer, mem: usize) -> Self {
        Stock::here().packets().add(1i64, Relaxed);
        Self {
            payer,
            mem,
            pages: 0,
        }
    }

    /// Charges more pages, so that it is `pages`, if it is less.
    fn raise(&mut self, pages: usize) -> Option<()> {
        let more = pages.saturating_sub(self.pages);
        if more != 0 {
            Charge::new(Resource::Frags, self.payer, more)?.keep();
            self.set_pages(pages);
        }
        Some(())
    }

    /// Releases pages that have been given back, so that it is `pages`, if it is more.
    ///
    /// A record that is filled again mostly needs as many as before, and then nobody else hears of
    /// it.
    fn lower(&mut self, pages: usize) {
        self.split_pages(pages);
    }

    /// As [`Self::lower`], but returns the charge, to be dropped when the pages are given back.
    fn split_pages(&mut self, pages: usize) -> Option<Charge> {
        let less = self.pages.saturating_sub(pages);
        if less == 0 {
            return None;
        }
        self.set_pages(pages);
        Some(Charge::from_kept(Resource::Frags, self.payer, less))
    }

    fn set_pages(&mut self, pages: usize) {
        let before = mem::replace(&mut self.pages, pages);
        match (before, pages) {
            (0, 0) => {}
            (0, _) => Stock::here().payloads().add(1i64, Relaxed),
            (_, 0) => Stock::here().payloads().add(-1i64, Relaxed),
            _ => {}
        }
    }
}

impl Drop for Charges {
    fn drop(&mut self) {
        self.lower(0);
        Stock::here().packets().add(-1i64, Relaxed);
        Charge::release(Resource::Mem, self.payer, self.mem);
    }
}

/// Where a packet belongs: direction and number in ring and connection, time, flags.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) dir: Dir,
    pub(crate) time: u64,
    pub(crate) serial: u64,
    pub(crate) order: u64,
    pub(crate) flags: u16,
}

/// A packet as a hook found it.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    /// From its TCP header on.
    skb: &'a SkBuff,
    /// Its IP header, as far as known.
    ip: &'a [u8],
    /// Length of that on the wire, at most 65,535.
    net_len: u16,
    /// What replaces acknowledgement number and flags of the TCP header.
    ack_and_flags: Option<(u32, u8)>,
    /// Of `skb`: its linear part, all bytes, those of the TCP header as far as they are there, and
    /// how it is segmented.
    linear: &'a [u8],
    len: u32,
    tcp_len: usize,
    gso_size: u16,
    gso_segs: u16,
}

impl<'a> Packet<'a> {
    /// A packet, whose `data` is at its TCP header.
    ///
    /// `ip` is its IP header with options and extension headers, as far as known, `ip_len` the
    /// length of that on the wire. `ack_and_flags` replace those of the TCP header.
    #[inline(always)]
    pub(crate) fn new(
        skb: &'a SkBuff,
        ip: &'a [u8],
        ip_len: usize,
        ack_and_flags: Option<(u32, u8)>,
    ) -> Self {
        let linear = skb.linear();
        // As far as it is there.
        let tcp_len = linear
            .get(12)
            .map_or(0, |b| usize::from(b >> 4) * 4)
            .min(linear.len());
        Self {
            skb,
            ip,
            net_len: u16::try_from(ip_len).unwrap_or(u16::MAX),
            ack_and_flags,
            linear,
            // struct sk_buff has 32 bits for it.
            len: skb.len() as u32,
            tcp_len,
            gso_size: skb.gso_size(),
            gso_segs: skb.gso_segs(),
        }
    }

    /// Bytes of payload.
    #[inline]
    pub(crate) fn payload(&self) -> u32 {
        // A TCP header has 60 bytes at most.
        self.len.saturating_sub(self.tcp_len as u32)
    }

    /// Segments that it stands for. Some drivers tell only how large these are.
    #[inline]
    pub(crate) fn segments(&self) -> u16 {
        match (self.gso_segs, self.gso_size) {
            (0, 0) => 1,
            // 64 bits wide, where rounding up cannot overflow.
            (0, size) => u16::try_from(u64::from(self.payload()).div_ceil(u64::from(size)))
                .unwrap_or(u16::MAX)
                .max(1),
            (segs, _) => segs,
        }
    }

    /// Writes what is known of it, and of its socket.
    #[inline(always)]
    fn describe(&self, rec: &mut Rec, place: Place, sk: &TcpSock) {
        rec.dir = place.dir as u8;
        rec.serial = place.serial;
        rec.time = place.time;
        rec.order = place.order;
        rec.orig_len = self.len.saturating_add(u32::from(self.net_len));
        rec.gso_segs = self.segments();
        rec.gso_size = self.gso_size;
        let ip_summed = self.skb.ip_summed();
        let (start, offset) = match ip_summed {
            IpSummed::Partial => (self.net_len, CSUM_OFFSET),
            _ => (0, 0),
        };
        rec.ip_summed = ip_summed as u8;
        rec.csum_start = start;
        rec.csum_offset = offset;
        rec.net_len = self.net_len;
        rec.state = sk.state();
        rec.ca_state = sk.ca_state();
        rec.verdict = 0;
        rec.snd_cwnd = sk.snd_cwnd();
        rec.ssthresh = sk.snd_ssthresh();
        rec.srtt_us = sk.srtt_us();
        rec.snd_una = sk.snd_una();
        rec.snd_nxt = sk.snd_nxt();
        rec.rcv_nxt = sk.rcv_nxt();
        rec.rcv_wnd = sk.rcv_wnd();
    }
}

impl Record {
    /// An empty record: one that was kept for this, or a new one. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory.
    #[inline(never)]
    pub(crate) fn new(payer: Payer) -> Result<Self> {
        match Stock::here().spares(payer).take() {
            Some(skb) => Ok(Self::from_empty(skb, payer)),
            None => Self::alloc(payer),
        }
    }

    /// Makes a record of an skb that is charged and has a head of zeroes, as [`Self::retire`] keeps
    /// them. What is the same in all records is written here.
    fn from_empty(mut skb: PrivateSkBuff, payer: Payer) -> Self {
        let mem = skb.truesize();
        skb.set_linear(REC_LEN, 0);
        if let Some(rec) = rec_mut(skb.head_mut()) {
            rec.magic = MAGIC;
            rec.version = VERSION;
            rec.kind = KIND_PACKET;
        }
        Self {
            skb,
            charges: Charges::new(payer, mem),
        }
    }

    /// Allocates a record.
    fn alloc(payer: Payer) -> Result<Self> {
        // Charged before it is allocated: at the limit nothing is, not even for a moment.
        let most = Charge::new(Resource::Mem, payer, RECORD_MAX).ok_or(ENOBUFS)?;
        let skb = PrivateSkBuff::new(HEAD_MIN, gfp_packet())?;
        let mem = skb.truesize();
        if mem > RECORD_MAX || skb.head_len() < HEAD_MIN as usize {
            return Err(ENOBUFS);
        }
        most.keep();
        Charge::release(Resource::Mem, payer, RECORD_MAX - mem);
        Ok(Self::from_empty(skb, payer))
    }

    /// Gives back what it holds. The record itself is kept for a later connection if `keep` says
    /// so ([`limit::wants_spares`]) and there is room.
    pub(crate) fn retire(mut self, keep: bool) {
        if !keep || !limit::has_spare_room(self.charges.payer) {
            return;
        }
        self.skb.clear_frags();
        self.charges.lower(0);
        let used = REC_LEN.saturating_add(self.skb.as_skb().len());
        clear_start(self.skb.head_mut(), used);
        self.skb.set_linear_len(0);
        let Self { skb, charges } = self;
        match limit::keep_spare(charges.payer, skb) {
            Ok(()) => {
                Stock::here().packets().add(-1i64, Relaxed);
                mem::forget(charges);
            }
            // The charges are dropped after it.
            Err(skb) => drop(skb),
        }
    }

    /// Takes over what [`Self::into_skb`] returned, from a slot.
    #[inline]
    pub(crate) fn from_skb(skb: PrivateSkBuff) -> Self {
        let (pages, flags) = rec(skb.head()).map_or((0, 0), |rec| (rec.pages as usize, rec.flags));
        let payer = if flags & F_CONTAINER != 0 {
            Payer::Containers
        } else {
            Payer::Host
        };
        let charges = Charges {
            payer,
            mem: skb.truesize(),
            pages,
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
        rec(self.skb.head()).copied()
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

    /// Whether it keeps pages in memory.
    pub(crate) fn has_payload(&self) -> bool {
        self.charges.pages != 0
    }

    /// Pages that it keeps in memory.
    pub(crate) fn pages(&self) -> usize {
        self.charges.pages
    }

    /// Moves the references to its pages to `freed`, and says so in the description.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if `freed` has no room for them; nothing has changed then.
    pub(crate) fn strip(&mut self, freed: &mut Freed) -> Result {
        self.skb.detach_frags(&mut freed.pages)?;
        let payer = self.charges.payer;
        if let Some(charge) = self.charges.split_pages(0) {
            freed.charged(payer, charge);
        }
        if let Some(rec) = rec_mut(self.skb.head_mut()) {
            rec.why = Why::Reclaimed as u8;
            rec.flags |= F_TRUNC;
            rec.pages = 0;
        }
        Ok(())
    }

    /// Makes this the record of `packet`; what it held before is given back.
    ///
    /// At most `snaplen` bytes of payload are kept. Returns why there is less.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the head is too small, which [`Self::new`] takes care of; it is no record then.
    #[inline(always)]
    pub(crate) fn fill(
        &mut self,
        place: Place,
        sk: &TcpSock,
        packet: Packet<'_>,
        snaplen: u32,
    ) -> Result<Why> {
        // What was charged for these pages pays for the new ones.
        if self.has_payload() {
            self.skb.clear_frags();
        }
        let old_len = self.skb.as_skb().len();
        let container = match self.charges.payer {
            Payer::Containers => F_CONTAINER,
            Payer::Host => 0,
        };
        // In place, since nobody sees it until it is in its slot.
        let (rec, room) = split_mut(self.skb.head_mut()).ok_or(EINVAL)?;
        // So that the compiler knows what fits for certain.
        if room.len() < ROOM_MIN {
            return Err(EINVAL);
        }
        packet.describe(rec, place, sk);

        // Headers. There is always room for that of TCP.
        let tcp_len = packet.tcp_len.min(TCP_MAX);
        let ip = packet
            .ip
            .get(..room.len().saturating_sub(tcp_len))
            .unwrap_or(packet.ip);
        let tcp_at = append(room, 0, ip);
        let whole = ip.len() == usize::from(packet.net_len);
        let mut len = tcp_at;
        if whole {
            let tcp = packet.linear.get(..packet.tcp_len);
            len = append(room, tcp_at, tcp.unwrap_or(packet.linear));
            if let Some((ack, flags)) = packet.ack_and_flags {
                append(room, tcp_at.saturating_add(8), &ack.to_be_bytes());
                append(room, tcp_at.saturating_add(13), &[flags]);
            }
        }

        // Payload.
        let payload = packet.payload();
        let want = payload.min(snaplen);
        let mut why = match want < payload {
            true => Why::Snaplen,
            false => Why::Not,
        };
        let flags = place.flags | container;
        let mut pages = 0;
        if want == 0 || !whole {
            let short = !whole || payload != 0;
            if !whole {
                why = Why::Linear;
            }
            rec.why = why as u8;
            rec.flags = flags | if short { F_TRUNC } else { 0 };
            rec.pages = 0;
        } else {
            let kept = self.payload(sk, packet.skb, packet.tcp_len, want as usize, len);
            if kept.why != Why::Not {
                why = kept.why;
            }
            len = len.saturating_add(kept.copied);
            pages = kept.pages;
            let short = kept.copied.saturating_add(kept.referenced) < payload as usize;
            let (rec, _) = split_mut(self.skb.head_mut()).ok_or(EINVAL)?;
            rec.why = why as u8;
            rec.flags = flags | if short { F_TRUNC } else { 0 };
            rec.pages = u32::try_from(pages).unwrap_or(u32::MAX);
        }

        self.skb.set_linear_len(len);
        self.skb.set_transport_header(tcp_at as u16);
        // What the head held before may be payload that must not be kept any longer.
        if len < old_len {
            self.clear(len, old_len);
        }
        self.charges.lower(pages);
        Ok(why)
    }

    /// Clears what lies in the head between these offsets from the start of the packet.
    #[inline(never)]
    fn clear(&mut self, start: usize, end: usize) {
        if let Some((_, room)) = split_mut(self.skb.head_mut()) {
            if let Some(part) = room.get_mut(start..end) {
                part.fill(0);
            }
        }
    }

    /// Keeps `want` bytes of the payload that starts `offset` bytes into `skb`: in the head, from
    /// `at` bytes behind the start of the packet on, or in frags.
    #[inline(never)]
    fn payload(
        &mut self,
        sk: &TcpSock,
        skb: &SkBuff,
        offset: usize,
        want: usize,
        at: usize,
    ) -> Kept {
        if skb.is_decrypted() {
            return Kept::nothing(Why::Decrypted);
        }

        let in_linear = skb.linear().len().saturating_sub(offset).min(want);
        let room = self
            .skb
            .head_len()
            .saturating_sub(REC_LEN)
            .saturating_sub(at);

        // Small requests and responses: cheaper to copy than to reference, and no page is pinned.
        if want <= room && (in_linear == want || skb.frags_readable()) {
            return self.copy(skb, offset, want, at, Why::Not);
        }
        let referenced = if sk.is_under_memory_pressure() {
            Err(Why::Pressure)
        } else {
            self.reference(skb, offset, want, in_linear, room)
        };
        match referenced {
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
        let start = REC_LEN.saturating_add(at);
        let end = start.saturating_add(len);
        let copied = self.skb.head_mut().get_mut(start..end).is_some_and(|to| {
            let copied = len == 0 || skb.copy_bits(offset, to).is_ok();
            if !copied {
                // A part of it may be there: nothing is behind the end of a packet.
                to.fill(0);
            }
            copied
        });
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
        // Bytes of linear payload behind what is wanted belong to no frag.
        let len = match head {
            Some(_) => want,
            None => want.saturating_sub(in_linear),
        };
        let referenced = self.reference_frags(skb, head, len);
        if referenced.is_err() {
            self.skb.clear_frags();
        }
        referenced
    }

    /// References the pages of [`wanted`] frags. Returns how many of the pages charged that needs:
    /// all, unless there was no room for all frags.
    ///
    /// # Errors
    ///
    /// Why there must be no reference to them; those that were taken are to be given back.
    #[inline]
    fn reference_frags(
        &mut self,
        skb: &SkBuff,
        head: Option<Frag<'_>>,
        len: usize,
    ) -> Result<usize, Why> {
        let mut pinned = Pinned::default();
        for frag in wanted(skb, head, len) {
            let with = pinned.with(frag);
            if with.pages > self.charges.pages {
                // More than what it was filled with before, so for all of them at once.
                self.charge_frags(skb, head, len)?;
            }
            if frag.is_pfmemalloc() {
                return Err(Why::Pfmemalloc);
            }
            if self.skb.push_frag(frag).is_err() {
                break;
            }
            pinned = with;
        }
        Ok(pinned.pages)
    }

    /// Charges the pages of [`wanted`] frags, all of them or none.
    ///
    /// # Errors
    ///
    /// Why there must be no reference to them.
    #[inline(never)]
    fn charge_frags(
        &mut self,
        skb: &SkBuff,
        head: Option<Frag<'_>>,
        len: usize,
    ) -> Result<(), Why> {
        let mut pinned = Pinned::default();
        for frag in wanted(skb, head, len) {
            if frag.is_pfmemalloc() {
                return Err(Why::Pfmemalloc);
            }
            pinned = pinned.with(frag);
        }
        self.charges.raise(pinned.pages).ok_or(Why::Limit)
    }
}

/// Frags, one after the other, as they pin pages.
#[derive(Clone, Copy, Default)]
struct Pinned<'a> {
    /// Frags of one compound page that follow each other pin it once.
    pages: usize,
    last: Option<Frag<'a>>,
}

impl<'a> Pinned<'a> {
    /// These, and another one.
    #[inline]
    fn with(self, frag: Frag<'a>) -> Self {
        let more = match self.last {
            Some(last) if last.same_compound_page(&frag) => 0,
            _ => frag.pinned_pages(),
        };
        Self {
            pages: self.pages.saturating_add(more),
            last: Some(frag),
        }
    }
}

/// The first `len` bytes of a part of the linear part, if there is one, and the frags.
#[inline]
fn wanted<'a>(
    skb: &'a SkBuff,
    head: Option<Frag<'a>>,
    len: usize,
) -> impl Iterator<Item = Frag<'a>> {
    let mut left = len;
    Iterator::chain(head.into_iter(), skb.frags())
        .map_while(move |frag| {
            let frag = (left != 0).then(|| frag.truncated(left))?;
            left = left.saturating_sub(frag.len());
            Some(frag)
        })
        .filter(|frag| !frag.is_empty())
}

/// What reclaim took out of slots, or off records, under a lock; given back when dropped, without
/// it.
pub(crate) struct Freed {
    // Dropped before the charges are.
    pages: PageRefs<PAGES_AT_ONCE>,
    charges: [usize; Payer::ALL.len()],
    records: PrivateSkBuffList,
}

/// Pages of records that are stripped under one lock; those of one record must fit.
const PAGES_AT_ONCE: usize = 48;

impl Freed {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self {
            pages: PageRefs::new(),
            charges: [0; Payer::ALL.len()],
            records: PrivateSkBuffList::new(),
        }
    }

    /// Takes a record.
    pub(crate) fn push(&mut self, record: Record) {
        self.records.push(record.into_skb());
    }

    fn charged(&mut self, payer: Payer, charge: Charge) {
        if let Some(n) = self.charges.get_mut(payer as usize) {
            *n = n.saturating_add(charge.n());
            charge.keep();
        }
    }

    /// Gives all back. Returns how many pages this freed.
    pub(crate) fn release(&mut self) -> usize {
        let mut freed = 0usize;
        while let Some(skb) = self.records.pop() {
            let mut record = Record::from_skb(skb);
            if record.strip(self).is_err() {
                freed = freed.saturating_add(self.release_pages());
                let _ = record.strip(self);
            }
        }
        freed.saturating_add(self.release_pages())
    }

    fn release_pages(&mut self) -> usize {
        let freed = self.pages.release();
        for (payer, n) in Payer::ALL.into_iter().zip(&mut self.charges) {
            Charge::release(Resource::Frags, payer, mem::take(n));
        }
        freed
    }
}

impl Drop for Freed {
    fn drop(&mut self) {
        self.release();
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

/// Clears the first `len` bytes, and some behind them: whole pieces take no call.
fn clear_start(head: &mut [u8], len: usize) {
    let mut pieces = head.chunks_exact_mut(CLEARED);
    let nr = len.div_ceil(CLEARED);
    pieces.by_ref().take(nr).for_each(|piece| piece.fill(0));
    let rest = pieces.into_remainder();
    if !rest.is_empty() {
        rest.fill(0);
    }
}

/// Writes `bytes` at `at`, if they fit; returns where they end.
#[inline(always)]
fn append(room: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let to = room.get_mut(at..).and_then(|to| to.get_mut(..bytes.len()));
    let Some(to) = to else {
        return at;
    };
    if !copy_header(to, bytes) {
        to.copy_from_slice(bytes);
    }
    at.saturating_add(bytes.len())
}

/// Copies what is as long as most headers are, without a call: three pieces, which overlap if need
/// be.
#[inline(always)]
fn copy_header(to: &mut [u8], from: &[u8]) -> bool {
    const PIECE: usize = 16;
    let last = match from.len().checked_sub(PIECE) {
        Some(last) if last <= 2 * PIECE => last,
        _ => return false,
    };
    for at in [0, last.min(PIECE), last] {
        let to = to.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<PIECE>);
        let from = from.get(at..).and_then(<[u8]>::first_chunk::<PIECE>);
        let (Some(to), Some(from)) = (to, from) else {
            return false;
        };
        *to = *from;
    }
    true
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_record)]
mod tests {
    use super::*;
    use crate::{
        abi::{
            history::Counter,
            layout::Dir,
            spares::SPARES,
            testing::{used, with_max, with_snaplen, StackPacket, TestSock},
        },
        lifecycle,
        ring, //
    };

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

    fn pages() -> usize {
        used(Resource::Frags, Payer::Host)
    }

    /// Records a packet and returns its record, and how many had headers only.
    fn recorded(packet: &StackPacket, snaplen: Option<usize>) -> Result<(Record, u64)> {
        recorded_as(Packet::new(packet.skb(), &IP, IP.len(), None), snaplen)
    }

    fn recorded_as(packet: Packet<'_>, snaplen: Option<usize>) -> Result<(Record, u64)> {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 2)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        with_snaplen(snaplen, || {
            ring::record(sock.sk(), &mut owner, Dir::Out, 5, packet, 0)
        });
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
    fn a_long_ip_header_may_take_all_but_the_tcp_header() -> Result {
        let (packet, ip) = (StackPacket::new(&IP, &[])?, payload(2000)?);
        let room = Record::new(Payer::Host)?.skb.head_len() - REC_LEN;
        for (ip_len, fits) in [(100, true), (room - 20, true), (room - 19, false)] {
            let ip = ip.get(..ip_len).ok_or(EINVAL)?;
            let (record, header_only) =
                recorded_as(Packet::new(packet.skb(), ip, ip_len, None), None)?;
            let rec = record.rec().ok_or(EINVAL)?;
            let (why, flags, len) = match fits {
                true => (Why::Not, 0, ip_len + 20),
                false => (Why::Linear, F_TRUNC, room - 20),
            };
            assert_eq!((rec.why, rec.flags & F_TRUNC), (why as u8, flags));
            assert_eq!(record.skb().len(), len);
            assert_eq!(header_only, u64::from(!fits));
            assert_eq!(usize::from(rec.net_len), ip_len);
        }
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
        let (record, header_only) = with_max(Resource::Frags, 1, || recorded(&packet, None))?;
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
    fn retired_it_is_kept_empty_and_not_in_use() -> Result {
        limit::free_spares();
        let packet = StackPacket::new(&IP, &payload(5000)?)?;
        let (record, _) = recorded(&packet, None)?;
        let mem = record.charges.mem;
        let before = (used(Resource::Mem, Payer::Host), pages(), limit::present());
        record.retire(limit::wants_spares(Payer::Host));
        assert_eq!(used(Resource::Mem, Payer::Host), before.0 - mem);
        assert_eq!(pages(), before.1 - 2);
        assert_eq!(limit::present(), (before.2 .0 - 1, before.2 .1 - 1));
        assert_eq!(limit::spare_bytes(), mem);

        // We may have come to another CPU since.
        let skb = Stock::all().find_map(|stock| stock.spares(Payer::Host).take());
        let skb = skb.ok_or(EINVAL)?;
        assert!(skb.head().iter().all(|b| *b == 0));
        let record = Record::from_empty(skb, Payer::Host);
        assert_eq!(limit::spare_bytes(), 0);
        assert_eq!((record.skb().len(), record.pages()), (0, 0));
        assert_eq!(used(Resource::Mem, Payer::Host), before.0);
        Ok(())
    }

    #[test]
    fn what_is_cleared_is_cleared_to_the_end() -> Result {
        for len in [0, 1, 31, 32, 33, 96, 99, 100] {
            let mut head = [1; 100];
            clear_start(&mut head, len);
            assert!(head[..len].iter().all(|b| *b == 0));
        }
        Ok(())
    }

    #[test]
    fn few_are_kept_and_these_go_before_a_charge_is_refused() -> Result {
        const MAX: usize = 1 << 24;
        const MANY: usize = 3 * SPARES;
        let retire_many = || -> Result<usize> {
            let mut records = KVec::new();
            for _ in 0..MANY {
                records.push(Record::alloc(Payer::Host)?, GFP_KERNEL)?;
            }
            let mem = records.first().map_or(0, |r| r.charges.mem);
            let keep = limit::wants_spares(Payer::Host);
            records.into_iter().for_each(|record| record.retire(keep));
            Ok(mem)
        };
        with_max(Resource::Mem, MAX, || {
            let start = used(Resource::Mem, Payer::Host);
            let mem = retire_many()?;
            // We may have come to another CPU in between.
            assert!((1..=2 * SPARES).contains(&(limit::spare_bytes() / mem)));
            assert_eq!(used(Resource::Mem, Payer::Host), start);
            let all = Charge::new(Resource::Mem, Payer::Host, MAX - start);
            assert!(all.is_some());
            assert_eq!(limit::spare_bytes(), 0);
            drop(all);

            retire_many()?;
            assert!(limit::spare_bytes() != 0);
            assert!(limit::exceeded(Resource::Mem).is_none());
            assert_eq!(limit::spare_bytes(), 0);

            // Nothing is kept where little is left.
            let used = used(Resource::Mem, Payer::Host);
            let most = Charge::new(Resource::Mem, Payer::Host, MAX - used - 2 * MANY * mem);
            assert!(most.is_some());
            retire_many()?;
            assert_eq!(limit::spare_bytes(), 0);
            Ok(())
        })
    }

    #[test]
    fn filled_again_it_is_charged_for_what_it_holds_now() -> Result {
        let packets = [3000, 2500, 50, 5000, 4097, 0, 9000];
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let start = pages();
        for len in packets {
            let packet = StackPacket::new(&IP, &payload(len)?)?;
            let packet = Packet::new(packet.skb(), &IP, IP.len(), None);
            ring::record(sock.sk(), &mut owner, Dir::Out, 5, packet, 0);
            // 50 bytes fit the head.
            let pinned = if len > 50 { len.div_ceil(4096) } else { 0 };
            assert_eq!(pages(), start + pinned);
            assert_eq!(limit::present().1, usize::from(pinned > 0));
        }
        Ok(())
    }

    #[test]
    fn stripped_record_says_so_and_its_pages_live_as_long_as_the_batch() -> Result {
        let (start, present) = (pages(), limit::present());
        let packet = StackPacket::new(&IP, &payload(5000)?)?;
        let (mut record, _) = recorded(&packet, None)?;
        let mut freed = Freed::new();
        record.strip(&mut freed)?;
        let rec = record.rec().ok_or(EINVAL)?;
        assert_eq!((rec.why, rec.pages), (Why::Reclaimed as u8, 0));
        assert_eq!((rec.orig_len, rec.flags & F_TRUNC), (5040, F_TRUNC));
        assert_eq!((record.skb().len(), record.skb().data_len()), (40, 0));
        assert_eq!(limit::present(), (present.0 + 1, present.1));
        assert_eq!(pages(), start + 2);
        // The packet still has them.
        assert_eq!(freed.release(), 0);
        assert_eq!(pages(), start);
        drop(record);

        let (mut record, _) = recorded(&packet, None)?;
        drop(packet);
        record.strip(&mut freed)?;
        freed.push(record);
        assert_eq!(freed.release(), 2);
        assert_eq!((pages(), limit::present()), (start, present));
        Ok(())
    }

    #[test]
    fn a_container_pays_with_its_own() -> Result {
        let record = Record::new(Payer::Containers)?;
        let mem = used(Resource::Mem, Payer::Containers);
        assert!(mem > 0);
        drop(record);
        assert!(used(Resource::Mem, Payer::Containers) < mem);
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

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
        charged::{Charged, Room, ROOM_MIN},
        history::{Payloads, Ring},
        layout::{Rec, Why, F_CONTAINER, F_MERGED, F_TRUNC, KIND_PACKET, MAGIC, REC_LEN, VERSION},
        netns::Netns,
        stack::gfp_packet,
    },
    limit::{self, Charge},
};
use core::mem;
use kernel::{
    net::{
        skbuff::{Frag, IpSummed, PageRefs, PagedData, PrivateSkBuff, PrivateSkBuffList, SkBuff},
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

/// What the skb of a record notes if there may be payload in its head.
const HAS_PAYLOAD: u8 = 1;

/// Bytes that a record is never larger than: skb and head together.
pub(crate) const RECORD_MAX: usize = 2048;

const _: () = assert!(HEAD_MIN as usize >= REC_LEN + ROOM_MIN && ROOM_MIN >= 60 + TCP_MAX);

/// A retained packet, charged to the accounts.
///
/// `data` is [`REC_LEN`] into the head; what all descriptions have in common is written, and what
/// it is charged with; behind the packet the head is zero.
pub(crate) struct Record {
    skb: Charged,
}

/// What a record is charged with, as its description and its size say.
#[derive(Clone, Copy)]
pub(crate) struct Charges {
    payer: Payer,
    /// Bytes.
    mem: usize,
    /// Pages.
    pages: usize,
}

impl Charges {
    /// Those of the skb of a record.
    pub(crate) fn of(skb: &Charged) -> Self {
        let rec = skb.rec();
        Self {
            payer: payer_of(rec.flags),
            mem: skb.truesize(),
            pages: rec.pages as usize,
        }
    }

    /// Releases them, after what they are for was given back.
    pub(crate) fn release(self) {
        Charge::release(Resource::Frags, self.payer, self.pages);
        count_payload(self.pages, 0);
        Stock::here().packets().add(-1i64, Relaxed);
        Charge::release(Resource::Mem, self.payer, self.mem);
    }
}

/// Whom the flags of a record name.
#[inline]
fn payer_of(flags: u16) -> Payer {
    if flags & F_CONTAINER != 0 {
        Payer::Containers
    } else {
        Payer::Host
    }
}

/// Counts a record among those that keep pages in memory, or no more.
fn count_payload(before: usize, now: usize) {
    match (before, now) {
        (0, 0) => {}
        (0, _) => Stock::here().payloads().add(1i64, Relaxed),
        (_, 0) => Stock::here().payloads().add(-1i64, Relaxed),
        _ => {}
    }
}

/// The headers of a packet, and where they come from.
pub(crate) trait Headers: Copy {
    /// Whether the packet was received.
    fn is_received(&self) -> bool;

    /// Length of the IP header on the wire, at most 65,535.
    fn net_len(&self) -> u16;

    /// The TCP header of `skb`, as far as it is there.
    #[inline(always)]
    fn tcp<'s>(&self, skb: &'s SkBuff) -> &'s [u8]
    where
        Self: 's,
    {
        tcp_header(skb)
    }

    /// Writes the IP header, and `tcp`, the TCP header, of `skb` to the start of `room`. Returns
    /// where the IP header ends.
    ///
    /// # Errors
    ///
    /// The same, if not all of the IP header is there, and so nothing of the TCP header.
    fn write(&self, skb: &SkBuff, tcp: &[u8], room: Room<'_>) -> Result<usize, usize>;
}

/// The TCP header at the start of a packet, as far as it is there.
#[inline(always)]
pub(crate) fn tcp_header(skb: &SkBuff) -> &[u8] {
    let linear = skb.linear();
    let len = linear.get(12).map_or(0, |b| usize::from(b >> 4) * 4);
    linear.get(..len).unwrap_or(linear)
}

/// A packet as a hook found it.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a, H> {
    /// From its TCP header on.
    skb: &'a SkBuff,
    headers: H,
}

impl<'a, H: Headers> Packet<'a, H> {
    /// A packet, whose `data` is at its TCP header.
    #[inline(always)]
    pub(crate) fn new(skb: &'a SkBuff, headers: H) -> Self {
        Self { skb, headers }
    }

    /// Segments that it stands for, and bytes of payload in each.
    #[inline(always)]
    fn segments(&self, payload: u32) -> (u16, u16) {
        let (segs, size) = (self.skb.gso_segs(), self.skb.gso_size());
        match (segs, size) {
            (0, 0) => (1, 0),
            (0, _) => (count_segments(payload, size), size),
            _ => (segs, size),
        }
    }

    /// Writes what is known of it, and of its socket. `flags` are those of the record so far.
    #[inline(always)]
    fn describe(&self, rec: &mut Rec, sk: &TcpSock, payload: u32, flags: u16) -> u16 {
        rec.state = sk.state();
        rec.ca_state = sk.ca_state();
        rec.snd_cwnd = sk.snd_cwnd();
        rec.ssthresh = sk.snd_ssthresh();
        rec.srtt_us = sk.srtt_us();
        rec.snd_una = sk.snd_una();
        rec.snd_nxt = sk.snd_nxt();
        rec.rcv_nxt = sk.rcv_nxt();
        rec.rcv_wnd = sk.rcv_wnd();

        let net_len = self.headers.net_len();
        rec.net_len = net_len;
        rec.orig_len = (self.skb.len() as u32).wrapping_add(u32::from(net_len));
        let (segs, size) = self.segments(payload);
        rec.gso_segs = segs;
        rec.gso_size = size;
        let ip_summed = self.skb.ip_summed();
        rec.ip_summed = ip_summed as u8;
        let is_partial = ip_summed == IpSummed::Partial;
        // In one word, which most machines write at once.
        let csum = match is_partial {
            true => u32::from(CSUM_OFFSET) << 16 | u32::from(net_len),
            false => 0,
        };
        rec.csum_start = csum as u16;
        rec.csum_offset = (csum >> 16) as u16;
        // As far as the number of segments tells: by GRO, which leaves the checksum of the first
        // unless a device is to finish it, or, if there is no payload, by tcp_add_backlog().
        let merged = segs > 1 && self.headers.is_received() && (!is_partial || payload == 0);
        flags | if merged { F_MERGED } else { 0 }
    }
}

/// Segments of a packet of which the driver told only how large they are.
#[cold]
fn count_segments(payload: u32, size: u16) -> u16 {
    // 64 bits wide, where rounding up cannot overflow.
    let n = u64::from(payload).checked_div(u64::from(size)).unwrap_or(0);
    let rest = u64::from(payload).checked_rem(u64::from(size)).unwrap_or(0);
    let n = n.saturating_add(u64::from(rest != 0));
    u16::try_from(n).unwrap_or(u16::MAX).max(1)
}

/// An IP header that is at hand, and corrections of the TCP header.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    is_received: bool,
    /// As far as known.
    ip: &'a [u8],
    net_len: u16,
    /// What replaces acknowledgement number and flags of the TCP header.
    ack_and_flags: Option<(u32, u8)>,
}

impl<'a> Given<'a> {
    /// An IP header with options and extension headers, as far as known; `net_len` is its length on
    /// the wire. `ack_and_flags` replace those of the TCP header.
    pub(crate) fn new(
        is_received: bool,
        ip: &'a [u8],
        net_len: usize,
        ack_and_flags: Option<(u32, u8)>,
    ) -> Self {
        Self {
            is_received,
            ip,
            net_len: u16::try_from(net_len).unwrap_or(u16::MAX),
            ack_and_flags,
        }
    }
}

/// The IP header of a packet that a test sends.
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) fn given(ip: &[u8], net_len: usize) -> Given<'_> {
    Given::new(false, ip, net_len, None)
}

impl Headers for Given<'_> {
    fn is_received(&self) -> bool {
        self.is_received
    }

    fn net_len(&self) -> u16 {
        self.net_len
    }

    fn write(&self, _: &SkBuff, tcp: &[u8], room: Room<'_>) -> Result<usize, usize> {
        let room = room.all();
        // There is always room for the TCP header.
        let ip = self.ip.get(..room.len().saturating_sub(tcp.len()));
        let ip = ip.unwrap_or(self.ip);
        let tcp_at = append(room, 0, ip);
        if ip.len() != usize::from(self.net_len) {
            return Err(tcp_at);
        }
        append(room, tcp_at, tcp);
        if let Some((ack, flags)) = self.ack_and_flags {
            append(room, tcp_at.saturating_add(8), &ack.to_be_bytes());
            append(room, tcp_at.saturating_add(13), &[flags]);
        }
        Ok(tcp_at)
    }
}

impl Record {
    /// A record to be filled: one that was kept for this, or a new one. Does not sleep. `None`
    /// without memory, and at the limit of memory.
    #[inline(never)]
    pub(crate) fn new(payer: Payer) -> Option<Self> {
        match limit::take_record(payer) {
            Some(skb) => Some(Self { skb }),
            None => Self::alloc(payer).ok(),
        }
    }

    /// Allocates an empty record. What is the same in all records of a payer is written here.
    #[inline(never)]
    fn alloc(payer: Payer) -> Result<Self> {
        // Charged before it is allocated: at the limit nothing is, not even for a moment.
        let most = Charge::new(Resource::Mem, payer, RECORD_MAX).ok_or(ENOBUFS)?;
        let mut skb = PrivateSkBuff::new(HEAD_MIN, gfp_packet())?;
        let mem = skb.truesize();
        skb.set_linear(REC_LEN, 0);
        if mem > RECORD_MAX || skb.head_len() < HEAD_MIN as usize {
            return Err(ENOBUFS);
        }
        let mut skb = Charged::new(skb).ok_or(ENOBUFS)?;
        most.keep();
        Charge::release(Resource::Mem, payer, RECORD_MAX - mem);
        let rec = skb.rec_mut();
        rec.magic = MAGIC;
        rec.version = VERSION;
        rec.kind = KIND_PACKET;
        rec.flags = match payer {
            Payer::Containers => F_CONTAINER,
            Payer::Host => 0,
        };
        Stock::here().packets().add(1i64, Relaxed);
        Ok(Self { skb })
    }

    /// Gives back what it holds. The record itself is kept for a later connection, if there is
    /// room.
    #[inline]
    pub(crate) fn retire(mut self, spares: &mut limit::Spares<'_>) {
        if self.has_payload() {
            self.give_pages_back();
        }
        // What an application has sent is not kept longer than its connection.
        if self.skb.note() != 0 {
            self.clear_payload();
        }
        drop(spares.keep(self.skb));
    }

    /// Bytes of both headers, 0 if they are not all there.
    fn headers_len(&self) -> usize {
        let tcp_at = usize::from(self.skb.rec().net_len);
        let doff = self.skb.as_skb().linear().get(tcp_at.wrapping_add(12));
        doff.map_or(0, |b| tcp_at.wrapping_add(usize::from(b >> 4) * 4))
    }

    /// Clears what the head holds behind the headers.
    #[cold]
    #[inline(never)]
    fn clear_payload(&mut self) {
        let (start, end) = (self.headers_len(), self.skb.as_skb().len());
        if let Some(payload) = self.skb.split_mut().1.all().get_mut(start..end) {
            payload.fill(0);
        }
        self.skb.set_note(0);
    }

    /// Gives back the pages that it holds, if it does.
    #[cold]
    #[inline(never)]
    fn give_pages_back(&mut self) {
        self.skb.clear_frags();
        self.lower(0);
    }

    /// Takes over what [`Self::into_charged`] returned, from a slot.
    #[inline]
    pub(crate) fn from_charged(skb: Charged) -> Self {
        Self { skb }
    }

    /// Gives the skb to a slot; it stays charged.
    #[inline]
    pub(crate) fn into_charged(self) -> Charged {
        self.skb
    }

    /// Whose share it is charged to.
    fn payer(&self) -> Payer {
        payer_of(self.skb.rec().flags)
    }

    /// Charges more pages, so that it is `pages`, if it is less.
    #[inline(never)]
    fn raise(&mut self, pages: usize) -> Option<()> {
        let more = pages.saturating_sub(self.pages());
        if more != 0 {
            let charge = Charge::new(Resource::Frags, self.payer(), more)?;
            self.set_pages(pages)?;
            charge.keep();
        }
        Some(())
    }

    /// Releases pages that have been given back, so that it is `pages`, if it is more.
    ///
    /// A record that is filled again mostly needs as many as before, and then nobody else hears of
    /// it.
    #[inline(never)]
    fn lower(&mut self, pages: usize) {
        self.split_pages(pages);
    }

    /// As [`Self::lower`], but returns the charge, to be dropped when the pages are given back.
    fn split_pages(&mut self, pages: usize) -> Option<Charge> {
        let less = self.pages().saturating_sub(pages);
        if less == 0 {
            return None;
        }
        self.set_pages(pages)?;
        Some(Charge::from_kept(Resource::Frags, self.payer(), less))
    }

    fn set_pages(&mut self, pages: usize) -> Option<()> {
        let now = u32::try_from(pages).ok()?;
        let before = mem::replace(&mut self.skb.rec_mut().pages, now);
        count_payload(before as usize, pages);
        Some(())
    }

    /// The description.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn rec(&self) -> Option<Rec> {
        Some(*self.skb.rec())
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
    #[inline]
    pub(crate) fn has_payload(&self) -> bool {
        self.pages() != 0
    }

    /// Pages that it keeps in memory.
    #[inline]
    pub(crate) fn pages(&self) -> usize {
        self.skb.rec().pages as usize
    }

    /// Moves the references to its pages to `freed`, and says so in the description.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if `freed` has no room for them; nothing has changed then.
    pub(crate) fn strip(&mut self, freed: &mut Freed) -> Result {
        self.skb.detach_frags(&mut freed.pages)?;
        let payer = self.payer();
        if let Some(charge) = self.split_pages(0) {
            freed.charged(payer, charge);
        }
        let rec = self.skb.rec_mut();
        rec.why = Why::Reclaimed as u8;
        rec.flags |= F_TRUNC;
        Ok(())
    }

    /// Makes this the record of `packet`, the next one of `ring`, where it counts from here on;
    /// what it held before is given back.
    ///
    /// As many bytes of payload are kept as the network namespace wants. Also returns why there is
    /// less.
    //
    // What is known is written at once, so that little is to be remembered.
    #[inline(always)]
    pub(crate) fn fill<H: Headers>(
        mut self,
        ring: &Ring<'_>,
        time: u64,
        sk: &TcpSock,
        packet: Packet<'_, H>,
        flags: u16,
    ) -> (Self, Why) {
        // In place, since nobody sees it until it is in its slot.
        let (rec, room) = self.skb.split_mut();
        rec.dir = ring.dir() as u8;
        rec.time = time;
        rec.serial = ring.next();
        rec.order = ring.next_order(time);
        let tcp = packet.headers.tcp(packet.skb);
        // struct sk_buff has 32 bits for its length.
        let payload = (packet.skb.len() as u32).wrapping_sub(tcp.len() as u32);
        let flags = packet.describe(rec, sk, payload, flags) | rec.flags & F_CONTAINER;
        rec.flags = flags;
        let want = payload.min(Netns::of(sk).snaplen(payer_of(flags)));
        let why = match packet.headers.write(packet.skb, tcp, room) {
            Ok(tcp_at) => {
                if want != 0 {
                    let payloads = ring.payloads();
                    return self.fill_payload(payloads, sk, packet.skb, tcp_at, tcp.len(), want);
                }
                self.finish(tcp_at, tcp_at.wrapping_add(tcp.len()));
                match payload {
                    0 => Why::Not,
                    _ => Why::Snaplen,
                }
            }
            Err(tcp_at) => {
                self.finish(tcp_at, tcp_at);
                Why::Linear
            }
        };
        let rec = self.skb.rec_mut();
        rec.why = why as u8;
        if why != Why::Not {
            rec.flags |= F_TRUNC;
        }
        match rec.pages {
            0 => (self, why),
            _ => (self.without_pages(ring.payloads()), why),
        }
    }

    /// Goes on where [`Self::fill`] finds payload: keeps `want` bytes of what starts `tcp_len`
    /// bytes into `skb`. Returns why there is less than all.
    #[inline(never)]
    fn fill_payload(
        mut self,
        payloads: Payloads<'_>,
        sk: &TcpSock,
        skb: &SkBuff,
        tcp_at: usize,
        tcp_len: usize,
        want: u32,
    ) -> (Self, Why) {
        // Both headers are in the head already.
        let at = tcp_at.wrapping_add(tcp_len);
        // Small requests and responses: cheaper to copy than to reference, and no page is pinned.
        if want as usize <= self.room(at) {
            return self.fill_in_head(payloads, skb, tcp_at, tcp_len, want, Why::Not);
        }
        let Some(frag) = self.like_before(sk, skb, tcp_len, want as usize) else {
            return self.fill_in_frags(payloads, sk, skb, tcp_at, tcp_len, want);
        };
        let kept = frag.len();
        self.skb.set_frag(frag);
        self.end(skb, tcp_at, tcp_len, 0, kept, Why::Not)
    }

    /// All that is wanted of the payload, if it is one frag that may be referenced, and the charge
    /// for what the record held before is what this one needs: the usual case, where nobody else
    /// hears of it.
    #[inline(always)]
    fn like_before<'a>(
        &self,
        sk: &TcpSock,
        skb: &'a SkBuff,
        tcp_len: usize,
        want: usize,
    ) -> Option<Frag<'a>> {
        let has_linear = skb.data_len() != skb.len().wrapping_sub(tcp_len);
        if has_linear || sk.is_under_memory_pressure() || !may_reference(skb) {
            return None;
        }
        let frag = skb.only_frag()?;
        let is_alike = frag.len() >= want && frag.pinned_pages() == self.pages();
        (is_alike && !frag.is_pfmemalloc()).then(|| frag.truncated(want))
    }

    /// As [`Self::fill_payload`]: in frags what may be, with what is before them in the head.
    #[inline(never)]
    fn fill_in_frags(
        mut self,
        payloads: Payloads<'_>,
        sk: &TcpSock,
        skb: &SkBuff,
        tcp_at: usize,
        tcp_len: usize,
        want: u32,
    ) -> (Self, Why) {
        let before = self.pages();
        let at = tcp_at.wrapping_add(tcp_len);
        let room = self.room(at);
        let in_linear = in_linear(skb, tcp_len).min(want as usize);
        let pages = match self.reference(sk, skb, tcp_len, want as usize, in_linear, room) {
            Ok(pages) => pages,
            Err(why) => return self.fill_in_head(payloads, skb, tcp_at, tcp_len, want, why),
        };
        if pages != before {
            // What was charged for the pages before pays for the new ones.
            self.lower(pages);
            payloads.change(before != 0, pages != 0);
        }
        // Linear payload is copied if it fits, else its page is among these.
        let copied = match in_linear {
            0 => 0,
            _ if in_linear > room => 0,
            _ => self.copy(skb, tcp_len, in_linear, at),
        };
        let kept = self.skb.as_skb().data_len().wrapping_add(copied);
        let why = match kept < want as usize {
            true if skb.has_frag_list() => Why::FragList,
            true => Why::Linear,
            false => Why::Not,
        };
        self.end(skb, tcp_at, tcp_len, copied, kept, why)
    }

    /// As [`Self::fill_payload`]: in the head only, as far as it fits. `why` says why there is
    /// nothing in frags.
    #[inline(never)]
    fn fill_in_head(
        mut self,
        payloads: Payloads<'_>,
        skb: &SkBuff,
        tcp_at: usize,
        tcp_len: usize,
        want: u32,
        why: Why,
    ) -> (Self, Why) {
        if self.has_payload() {
            self = self.without_pages(payloads);
        }
        if skb.is_decrypted() {
            return self.end(skb, tcp_at, tcp_len, 0, 0, Why::Decrypted);
        }
        let at = tcp_at.wrapping_add(tcp_len);
        let len = self.room(at).min(want as usize);
        let (len, why) = match in_linear(skb, tcp_len) {
            in_linear if len > in_linear && !skb.frags_readable() => (in_linear, Why::Unreadable),
            _ => (len, why),
        };
        let copied = self.copy(skb, tcp_len, len, at);
        let why = match copied == len {
            true => why,
            false => Why::Unreadable,
        };
        self.end(skb, tcp_at, tcp_len, copied, copied, why)
    }

    /// Makes the packet end behind `copied` bytes of payload, and says whether and why the `kept`
    /// bytes are less than all.
    #[inline(always)]
    fn end(
        mut self,
        skb: &SkBuff,
        tcp_at: usize,
        tcp_len: usize,
        copied: usize,
        kept: usize,
        why: Why,
    ) -> (Self, Why) {
        let is_cut = kept < skb.len().wrapping_sub(tcp_len);
        let why = match why {
            Why::Not if is_cut => Why::Snaplen,
            why => why,
        };
        let rec = self.skb.rec_mut();
        rec.why = why as u8;
        if is_cut {
            rec.flags |= F_TRUNC;
        }
        self.finish(tcp_at, tcp_at.wrapping_add(tcp_len).wrapping_add(copied));
        (self, why)
    }

    /// Bytes that the head has room for behind `at` bytes of a packet, which are in it.
    #[inline(always)]
    fn room(&self, at: usize) -> usize {
        self.skb.head_len().wrapping_sub(REC_LEN).wrapping_sub(at)
    }

    /// Gives the pages back that it held before it became a packet without.
    #[cold]
    #[inline(never)]
    fn without_pages(mut self, payloads: Payloads<'_>) -> Self {
        self.give_pages_back();
        payloads.change(true, false);
        self
    }

    /// Makes the packet end after `len` bytes in the head, with its TCP header at `tcp_at`.
    #[inline(always)]
    fn finish(&mut self, tcp_at: usize, len: usize) {
        let before = self.skb.set_linear_len(len);
        self.skb.set_transport_header(tcp_at as u16);
        // What the head held before may be payload that must not be kept any longer.
        if len < before {
            if let Some(part) = self.skb.split_mut().1.all().get_mut(len..before) {
                part.fill(0);
            }
        }
    }

    /// Copies `len` bytes into the head, `at` bytes behind the start of the packet. Returns how
    /// many it has: all or none.
    #[inline(always)]
    fn copy(&mut self, skb: &SkBuff, offset: usize, len: usize, at: usize) -> usize {
        let room = self.skb.split_mut().1.all();
        let copied = room.get_mut(at..at.wrapping_add(len)).is_some_and(|to| {
            let copied = skb.copy_bits(offset, to).is_ok();
            if !copied {
                // A part of it may be there: nothing is behind the end of a packet.
                to.fill(0);
            }
            copied
        });
        match copied {
            true => {
                // It may hold payload from here on, until that is cleared.
                self.skb.set_note(HAS_PAYLOAD);
                len
            }
            false => 0,
        }
    }

    /// References the pages of the payload that does not go into the head, instead of those that it
    /// held before. Returns the pages charged for them.
    ///
    /// # Errors
    ///
    /// Why there must be no reference to them; it holds what it held before.
    #[inline(always)]
    fn reference(
        &mut self,
        sk: &TcpSock,
        skb: &SkBuff,
        offset: usize,
        want: usize,
        in_linear: usize,
        room: usize,
    ) -> Result<usize, Why> {
        if !may_reference(skb) {
            return Err(obstacle(skb));
        }
        if sk.is_under_memory_pressure() {
            return Err(Why::Pressure);
        }
        let (linear, len) = match in_linear > room {
            true => (Some(skb.linear_frag(offset).ok_or(Why::Linear)?), want),
            // Bytes of linear payload behind what is wanted belong to no frag.
            false => (None, want.wrapping_sub(in_linear)),
        };
        let data = PagedData::new(skb, linear, len).ok_or(Why::Pfmemalloc)?;
        if data.pages() > self.pages() {
            self.raise(data.pages()).ok_or(Why::Limit)?;
        }
        self.skb.set_frags(&data);
        Ok(data.pages())
    }
}

/// Bytes behind the TCP header, which is in the linear part, that are there too.
#[inline(always)]
fn in_linear(skb: &SkBuff, tcp_len: usize) -> usize {
    skb.linear().len().wrapping_sub(tcp_len)
}

/// Whether the pages of a buffer may be referenced, as far as the buffer tells.
#[inline(always)]
fn may_reference(skb: &SkBuff) -> bool {
    skb.has_plain_pages() && !skb.is_decrypted()
}

/// Why [`may_reference`] says no.
#[cold]
#[inline(never)]
fn obstacle(skb: &SkBuff) -> Why {
    if skb.is_decrypted() {
        Why::Decrypted
    } else if !skb.frags_readable() {
        Why::Unreadable
    } else if skb.is_zerocopy() {
        Why::Zerocopy
    } else if skb.has_shared_frag() {
        Why::Shared
    } else {
        Why::Pfmemalloc
    }
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
        self.records.push(record.into_charged().into_inner());
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
            // Its head has not become smaller.
            let Some(skb) = Charged::new(skb) else {
                continue;
            };
            let mut record = Record::from_charged(skb);
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

/// Writes `bytes` at `at`, if they fit; returns where they end.
fn append(room: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let fits = room.get_mut(at..).is_some_and(|to| copy_headers(to, bytes));
    at.saturating_add(if fits { bytes.len() } else { 0 })
}

/// Copies headers, without a call if they are as long as most. Returns whether there is room.
#[inline(always)]
pub(crate) fn copy_headers(to: &mut [u8], from: &[u8]) -> bool {
    let Some(to) = to.get_mut(..from.len()) else {
        return false;
    };
    // Pieces that overlap if need be.
    let last = from.len().wrapping_sub(PIECE);
    match from.len() {
        16..=32 => copy_pieces(to, from, [0, last]),
        33..=64 => copy_pieces(to, from, [0, PIECE, last.min(2 * PIECE), last]),
        65..=96 => copy_pieces(
            to,
            from,
            [0, PIECE, 2 * PIECE, 3 * PIECE, last.min(4 * PIECE), last],
        ),
        _ => {
            to.copy_from_slice(from);
            true
        }
    }
}

/// What headers are copied by.
const PIECE: usize = 16;

/// Copies pieces that begin there. Returns whether all of them lie within both.
#[inline(always)]
fn copy_pieces<const N: usize>(to: &mut [u8], from: &[u8], starts: [usize; N]) -> bool {
    for at in starts {
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
            account::Account,
            history::Counter,
            layout::Dir,
            shard,
            spares::SPARES,
            testing::{used, with_max, with_snaplen, Mark, StackPacket, TestSock},
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
        recorded_as(Packet::new(packet.skb(), given(&IP, IP.len())), snaplen)
    }

    fn recorded_as(packet: Packet<'_, Given<'_>>, snaplen: Option<usize>) -> Result<(Record, u64)> {
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
    fn payload_that_must_not_be_kept_is_not() -> Result {
        let start = pages();
        let bytes = payload(5000)?;
        let cases = [
            (Mark::Unreadable, Why::Unreadable, false),
            (Mark::Pfmemalloc, Why::Pfmemalloc, true),
            (Mark::PfmemallocPage, Why::Pfmemalloc, true),
            #[cfg(CONFIG_SKB_DECRYPTED)]
            (Mark::Decrypted, Why::Decrypted, false),
        ];
        for (mark, why, is_copied) in cases {
            // Little payload would be copied, much referenced.
            for len in [10, 5000] {
                let mut packet = StackPacket::new(&IP, bytes.get(..len).ok_or(EINVAL)?)?;
                packet.mark(mark);
                let (record, header_only) = recorded(&packet, None)?;
                let rec = record.rec().ok_or(EINVAL)?;
                assert_eq!((rec.pages, record.skb().data_len()), (0, 0));
                assert_eq!(pages(), start);
                let (why, kept) = match is_copied {
                    false => (why, 0),
                    true if len == 10 => (Why::Not, 10),
                    true => (why, record.skb().len() - 40),
                };
                assert_eq!(rec.why, why as u8);
                assert_eq!(header_only, u64::from(why != Why::Not));
                assert_eq!(record.skb().len(), 40 + kept);
                let is_cut = rec.flags & F_TRUNC != 0;
                assert_eq!(is_cut, kept != len);
                let head = record.head();
                let found = head.windows(8).any(|part| part == &bytes[1..9]);
                assert_eq!(found, is_copied);
            }
        }
        Ok(())
    }

    #[test]
    fn pages_that_were_taken_before_the_limit_was_met_are_given_back() -> Result {
        let start = pages();
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let mut fill = |len: usize| -> Result {
            let packet = StackPacket::new(&IP, &payload(len)?)?;
            let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
            ring::record(sock.sk(), &mut owner, Dir::Out, 5, packet, 0);
            Ok(())
        };
        // The page of the first packet pays for the first one of the next, but not for the second.
        with_max(Resource::Frags, 1, || fill(3000).and_then(|()| fill(5000)))?;
        let mut ring = owner.ring(Dir::Out);
        assert_eq!(ring.get(Counter::HeaderOnly), 1);
        let record = ring.take_if(1).ok_or(EINVAL)?;
        let rec = record.rec().ok_or(EINVAL)?;
        assert_eq!((rec.why, rec.pages), (Why::Limit as u8, 0));
        assert_eq!((record.skb().data_len(), record.skb().nr_frags()), (0, 0));
        assert_eq!(pages(), start);
        Ok(())
    }

    #[test]
    fn a_full_ring_turns_over_without_what_cpus_share() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 4)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let packets = [
            StackPacket::new(&IP, &payload(3000)?)?,
            StackPacket::new(&IP, &payload(5000)?)?,
            StackPacket::new(&IP, &payload(9000)?)?,
        ];
        let shared = || {
            [Resource::Frags, Resource::Mem].map(|resource| {
                let account = Account::of(resource, Payer::Host);
                let words = [account.reserved(), account.peak()];
                words.map(|word| word.load(Relaxed))
            })
        };
        let (mut before, mut changes) = (shared(), 0);
        let (mut least, mut most) = (usize::MAX, 0);
        // So much that each CPU has a stock.
        with_max(Resource::Frags, 1 << 22, || -> Result {
            for i in 0..300 {
                let packet = packets.get(i % packets.len()).ok_or(EINVAL)?;
                let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
                ring::record(sock.sk(), &mut owner, Dir::Out, 5, packet, 0);
                let now = shared();
                if i >= 8 {
                    changes += u32::from(now != before);
                    (least, most) = (least.min(pages()), most.max(pages()));
                }
                before = now;
            }
            Ok(())
        })?;
        // Each packet gives some pages back, or takes some more. A CPU that we come to while it has
        // nothing in stock reserves once.
        assert!(least < most);
        assert!(changes <= shard::count());
        Ok(())
    }

    #[test]
    fn a_long_ip_header_may_take_all_but_the_tcp_header() -> Result {
        let (packet, ip) = (StackPacket::new(&IP, &[])?, payload(2000)?);
        let room = Record::new(Payer::Host).ok_or(ENOMEM)?.skb.head_len() - REC_LEN;
        for (ip_len, fits) in [(100, true), (room - 20, true), (room - 19, false)] {
            let ip = ip.get(..ip_len).ok_or(EINVAL)?;
            let (record, header_only) =
                recorded_as(Packet::new(packet.skb(), given(ip, ip_len)), None)?;
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

    fn retire(record: Record) -> Result {
        record.retire(&mut limit::spares(Payer::Host).ok_or(EBUSY)?);
        Ok(())
    }

    #[test]
    fn retired_it_is_kept_without_pages_and_not_in_use() -> Result {
        limit::free_spares();
        let packet = StackPacket::new(&IP, &payload(5000)?)?;
        let (record, _) = recorded(&packet, None)?;
        limit::free_spares();
        let mem = record.skb.truesize();
        let before = (used(Resource::Mem, Payer::Host), pages(), limit::present());
        retire(record)?;
        assert_eq!(used(Resource::Mem, Payer::Host), before.0 - mem);
        assert_eq!(pages(), before.1 - 2);
        assert_eq!(limit::present(), (before.2 .0 - 1, before.2 .1 - 1));
        assert_eq!(limit::spare_bytes(), mem);

        // We may have come to another CPU since.
        let skb = Stock::all().find_map(|stock| stock.spares(Payer::Host).try_open()?.pop());
        let record = Record {
            skb: skb.ok_or(EINVAL)?,
        };
        Stock::here().packets().add(1i64, Relaxed);
        assert_eq!(limit::spare_bytes(), 0);
        assert_eq!((record.skb().data_len(), record.pages()), (0, 0));
        assert_eq!(used(Resource::Mem, Payer::Host), before.0);
        Ok(())
    }

    #[test]
    fn nothing_of_a_closed_connection_is_behind_a_packet() -> Result {
        for (before, now) in [(60, 0), (60, 10), (5000, 0), (0, 0), (1, 0)] {
            limit::free_spares();
            let packet = StackPacket::new(&IP, &KVec::from_elem(0xab, before, GFP_KERNEL)?)?;
            let (record, _) = recorded(&packet, None)?;
            retire(record)?;
            let packet = StackPacket::new(&IP, &KVec::from_elem(0xcd, now, GFP_KERNEL)?)?;
            let (record, _) = recorded(&packet, None)?;
            let (packet, rest) = record.head()[REC_LEN..].split_at(40 + now);
            assert!(packet.iter().all(|b| *b != 0xab));
            assert!(rest.iter().all(|b| *b == 0));
        }
        Ok(())
    }

    #[test]
    fn payload_does_not_survive_its_connection() -> Result {
        for len in [60, 1, 5000] {
            let packet = StackPacket::new(&IP, &KVec::from_elem(0xab, len, GFP_KERNEL)?)?;
            let (record, _) = recorded(&packet, None)?;
            limit::free_spares();
            retire(record)?;
            // We may have come to another CPU since.
            let skb = Stock::all().find_map(|stock| stock.spares(Payer::Host).try_open()?.pop());
            let skb = skb.ok_or(EINVAL)?;
            assert!(skb.head().iter().all(|b| *b != 0xab));
            Stock::here().packets().add(1i64, Relaxed);
        }
        Ok(())
    }

    #[test]
    fn headers_of_any_length_are_copied_and_nothing_behind_them() -> Result {
        let from = payload(ROOM_MIN)?;
        for len in 0..=ROOM_MIN {
            let mut to = [0xff; ROOM_MIN];
            assert!(copy_headers(&mut to, &from[..len]));
            assert_eq!(to[..len], from[..len]);
            assert!(to[len..].iter().all(|b| *b == 0xff));
        }
        assert!(!copy_headers(&mut [0; 39], &from[..40]));
        Ok(())
    }

    #[test]
    fn segments_are_counted_where_only_their_size_is_known() {
        for (payload, size, expected) in [
            (0, 1000, 1),
            (1, 1000, 1),
            (1000, 1000, 1),
            (1001, 1000, 2),
            (u32::MAX, 1, u16::MAX),
        ] {
            assert_eq!(count_segments(payload, size), expected);
        }
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
            let mem = records.first().map_or(0, |r| r.skb.truesize());
            for record in records {
                // At the limit none is kept.
                match limit::spares(Payer::Host) {
                    Some(mut spares) => record.retire(&mut spares),
                    None => drop(record),
                }
            }
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
            // It is not to blame as long as the limit holds, and others would keep more at once.
            let kept = limit::spare_bytes();
            assert!(limit::exceeded(Resource::Mem).is_none());
            assert_eq!(limit::spare_bytes(), kept);
            limit::flush(Resource::Mem);
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
        let packets = [3000, 2500, 50, 5000, 4097, 0, 9000, 3000, 12000];
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let start = pages();
        for len in packets {
            let packet = StackPacket::new(&IP, &payload(len)?)?;
            let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
            ring::record(sock.sk(), &mut owner, Dir::Out, 5, packet, 0);
            // 50 bytes fit the head.
            let pinned = if len > 50 { len.div_ceil(4096) } else { 0 };
            assert_eq!(pages(), start + pinned);
            assert_eq!(limit::present().1, usize::from(pinned > 0));
        }
        Ok(())
    }

    #[test]
    fn a_compound_page_is_charged_as_a_whole() -> Result {
        const LARGE: usize = 8 * 4096;
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let start = pages();
        for (len, order, pinned) in [
            (LARGE, 3, 8),
            (3000, 0, 1),
            (LARGE, 3, 8),
            (LARGE, 3, 8),
            (9000, 0, 3),
            (3000, 0, 1),
        ] {
            let packet = StackPacket::of_order(&IP, &payload(len)?, order)?;
            assert_eq!(packet.skb().nr_frags(), if order == 0 { pinned } else { 1 });
            let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
            ring::record(sock.sk(), &mut owner, Dir::Out, 5, packet, 0);
            assert_eq!(pages(), start + pinned);
        }
        Ok(())
    }

    #[test]
    fn filled_again_with_as_many_pages_it_holds_the_new_ones() -> Result {
        let cases = [
            (None, 3000, None, Why::Not),
            (None, 3000, Some(2000), Why::Snaplen),
            (None, 2000, Some(2001), Why::Not),
            (None, 5000, Some(3000), Why::Snaplen),
            (None, 3000, Some(10), Why::Snaplen),
            (Some(Mark::Unreadable), 3000, None, Why::Unreadable),
            (Some(Mark::Pfmemalloc), 3000, None, Why::Pfmemalloc),
            (Some(Mark::PfmemallocPage), 3000, None, Why::Pfmemalloc),
            #[cfg(CONFIG_SKB_DECRYPTED)]
            (Some(Mark::Decrypted), 3000, None, Why::Decrypted),
        ];
        let start = (pages(), limit::present().1);
        let bytes = payload(5000)?;
        for (mark, len, snaplen, why) in cases {
            let sock = TestSock::new()?;
            lifecycle::begin_for_test(sock.sk(), 0, 1)?;
            let mut owner = sock.owner().ok_or(EINVAL)?;
            let mut fill = |packet: &StackPacket, snaplen: Option<usize>| {
                let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
                with_snaplen(snaplen, || {
                    ring::record(sock.sk(), &mut owner, Dir::Out, 5, packet, 0)
                })
            };
            let mut other = payload(3000)?;
            other.iter_mut().for_each(|b| *b = !*b);
            let before = StackPacket::new(&IP, &other)?;
            let mut packet = StackPacket::new(&IP, bytes.get(..len).ok_or(EINVAL)?)?;
            if let Some(mark) = mark {
                packet.mark(mark);
            }
            // Twice, as the second one has the page that is there.
            fill(&before, None);
            fill(&packet, snaplen);
            fill(&packet, snaplen);
            drop((before, packet));
            let record = owner.ring(Dir::Out).take_if(2).ok_or(EINVAL)?;
            let rec = record.rec().ok_or(EINVAL)?;
            let in_pages = record.skb().data_len();
            assert_eq!((rec.why, rec.pages), (why as u8, u32::from(in_pages != 0)));
            assert_eq!(pages(), start.0 + usize::from(in_pages != 0));
            let kept = record.skb().len() - 40;
            let is_cut = rec.flags & F_TRUNC != 0;
            assert_eq!(is_cut, (kept < len));
            if matches!(why, Why::Not | Why::Snaplen) {
                assert_eq!(kept, snaplen.unwrap_or(len).min(len));
                assert_eq!((in_pages != 0), (kept > 10));
            }
            let mut found = payload(kept)?;
            found.fill(0);
            record.skb().copy_bits(40, &mut found)?;
            assert!(found.iter().eq(bytes.iter().take(kept)));
            assert_eq!(record.skb().nr_frags(), usize::from(in_pages != 0));
        }
        assert_eq!((pages(), limit::present().1), start);
        Ok(())
    }

    #[test]
    fn a_frag_list_is_not_kept() -> Result {
        let bytes = payload(3000)?;
        let mut packet = StackPacket::new(&IP, &bytes)?;
        packet.append(StackPacket::new(&IP, &bytes)?);
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        // With no page before, and with as many.
        for serial in 0..2 {
            let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
            ring::record(sock.sk(), &mut owner, Dir::Out, 5, packet, 0);
            let mut ring = owner.ring(Dir::Out);
            assert_eq!(ring.get(Counter::HeaderOnly), serial + 1);
            if serial == 1 {
                let record = ring.take_if(serial).ok_or(EINVAL)?;
                let rec = record.rec().ok_or(EINVAL)?;
                assert_eq!((rec.why, rec.pages), (Why::FragList as u8, 1));
                assert_eq!((rec.orig_len, record.skb().len()), (3000 + 3020 + 40, 3040));
            }
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
        let record = Record::new(Payer::Containers).ok_or(ENOMEM)?;
        let mem = used(Resource::Mem, Payer::Containers);
        assert!(mem > 0);
        drop(record);
        assert!(used(Resource::Mem, Payer::Containers) < mem);
        Ok(())
    }

    #[test]
    fn describes_socket_and_segments() -> Result {
        let mut packet = StackPacket::new(&IP, &payload(2500)?)?;
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

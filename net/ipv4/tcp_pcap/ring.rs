// SPDX-License-Identifier: GPL-2.0

//! The last packets of one direction.
//!
//! A packet goes to the slot that its serial number names, and so pushes out the oldest. The old
//! record is taken out of the slot, filled again, and put back: a full ring turns over without an
//! allocation. In between the slot is empty, so that whoever looks, on another CPU or in a vmcore,
//! sees whole records or none.

use crate::{
    abi::{
        history::{Counter, NextSlot, Owner, Ring},
        layout::{Dir, Why},
        netns::{Mib, Netns},
        slots::{Gone, Met, Slots},
        stack::gfp_packet,
    },
    record::{Given, Headers, Packet, Record},
};
use kernel::{
    net::sock::TcpSock,
    sync::rcu, //
};

/// The slot of the next packet, and the record that it will be, which is not counted yet.
#[must_use = "the packet is neither recorded nor lost"]
pub(crate) struct Claim<'a> {
    slot: NextSlot<'a>,
    record: Record,
}

/// What the next packet of a ring needs, if its direction is recorded. Without memory the packet is
/// lost and counted.
///
/// Before anything else is done for a packet, so that little is to be remembered on the way to the
/// first ones, which need memory.
///
/// Context: softirq, or process context with the socket locked. Does not sleep. Reclaim may take
/// slots away, which then live on until the end of the RCU read side section.
#[inline(always)]
pub(crate) fn claim<'a>(
    ring: Ring<'a>,
    rcu: &'a rcu::Guard,
    sk: &TcpSock,
    time: u64,
) -> Option<Claim<'a>> {
    let slot = match NextSlot::of(ring, rcu) {
        Ok(slot) => slot,
        Err(ring) if ring.size() == 0 => return None,
        Err(mut ring) => {
            let _ = ring.lend().provide();
            match NextSlot::of(ring, rcu) {
                Ok(slot) => slot,
                // No memory, or reclaim was quick.
                Err(ring) => {
                    miss(ring, sk, time);
                    return None;
                }
            }
        }
    };
    match slot.take() {
        Some(record) => {
            slot.ring().add(Counter::Evicted, 1);
            Some(Claim { slot, record })
        }
        None => match Record::new(slot.ring().payer()) {
            Some(record) => Some(Claim { slot, record }),
            None => {
                miss(slot.into_ring(), sk, time);
                None
            }
        },
    }
}

/// A [`Claim`] for code that is not a part of the hooks, and gets it in memory: that of the hooks
/// is in registers.
#[must_use = "the packet is neither recorded nor lost"]
pub(crate) struct RareClaim<'a>(Claim<'a>);

impl<'a> Claim<'a> {
    /// For packets that are recorded in a way of their own.
    #[inline(always)]
    pub(crate) fn rarely(self) -> RareClaim<'a> {
        RareClaim(self)
    }

    /// Records a packet. A part of each hook.
    #[inline(always)]
    pub(crate) fn record<H: Headers>(
        self,
        sk: &TcpSock,
        time: u64,
        packet: Packet<'_, H>,
        flags: u16,
    ) {
        let Self { slot, record } = self;
        let (record, why) = record.fill(slot.ring(), time, sk, packet, flags);
        match slot.put(record) {
            Ok(()) => recorded(slot.ring(), sk, why),
            Err(met) => settle(slot.into_ring(), sk, why, met),
        }
    }
}

impl RareClaim<'_> {
    /// Records a packet.
    #[cold]
    #[inline(never)]
    pub(crate) fn record(self, sk: &TcpSock, time: u64, packet: Packet<'_, Given<'_>>, flags: u16) {
        self.0.record(sk, time, packet, flags)
    }
}

/// Records a packet, as the hooks do.
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) fn record(
    sk: &TcpSock,
    owner: &mut Owner<'_>,
    dir: Dir,
    time: u64,
    packet: Packet<'_, Given<'_>>,
    flags: u16,
) {
    let rcu = rcu::read_lock();
    if let Some(claim) = claim(owner.ring(dir), &rcu, sk, time) {
        claim.rarely().record(sk, time, packet, flags);
    }
}

/// Counts a packet whose record has met with reclaim on its way into the slot.
#[cold]
#[inline(never)]
fn settle(ring: Ring<'_>, sk: &TcpSock, why: Why, met: Met) {
    let (back, lost) = match met {
        Ok(back) => (back, None),
        Err(Gone { back, lost }) => (back, Some(lost)),
    };
    if let Some(back) = back {
        // Reclaim had it in hand when we looked for it.
        ring.add(Counter::Evicted, 1);
        ring.payloads().change(back.has_payload(), false);
    }
    if let Some(lost) = lost {
        ring.payloads().change(lost.has_payload(), false);
        return lose(ring, sk);
    }
    recorded(&ring, sk, why)
}

/// A packet is in its slot.
#[inline(always)]
fn recorded(ring: &Ring<'_>, sk: &TcpSock, why: Why) {
    ring.add(Counter::Captured, 1);
    Netns::of(sk).count(Mib::recorded(why), 1);
    if !matches!(why, Why::Not | Why::Snaplen) {
        ring.add(Counter::HeaderOnly, 1);
    }
    ring.advance();
}

/// There was no memory for a packet, which had no number in its connection yet.
#[cold]
#[inline(never)]
fn miss(ring: Ring<'_>, sk: &TcpSock, time: u64) {
    ring.next_order(time);
    lose(ring, sk)
}

/// There was no memory for a packet.
#[cold]
#[inline(never)]
fn lose(ring: Ring<'_>, sk: &TcpSock) {
    ring.add(Counter::Lost, 1);
    Netns::of(sk).count(Mib::LOST, 1);
    ring.advance();
}

/// Exchanges the slots of one direction for `new`, and moves the youngest records over, as many as
/// fit.
///
/// Returns the old slots with what is left in them, to be dropped where that takes no lock's time.
pub(crate) fn resize(owner: &mut Owner<'_>, dir: Dir, new: Slots) -> Slots {
    let mut ring = owner.ring(dir);
    let next = ring.next();
    let size = new.size();
    let old = ring.swap_slots(new);
    let kept = u64::from(size.min(old.size()));
    for serial in next.saturating_sub(kept)..next {
        let Some(record) = old.take(serial) else {
            continue;
        };
        let payloads = i64::from(record.has_payload());
        ring.payloads().add(payloads);
        // Reclaim may work on the new slots already, but puts nothing where nothing was.
        if ring
            .put(serial, record, gfp_packet(), &rcu::read_lock())
            .is_err()
        {
            ring.payloads().add(payloads.wrapping_neg());
            ring.add(Counter::Evicted, 1);
        }
    }
    ring.add(Counter::Evicted, old.count());
    old
}

/// Takes all slots away, so that the direction is not recorded.
pub(crate) fn clear(owner: &mut Owner<'_>, dir: Dir) -> Slots {
    let none = Slots::new(0, owner.payer());
    owner.ring(dir).swap_slots(none)
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(tcp_pcap_ring)]
mod tests {
    use super::*;
    use crate::{
        abi::{
            account::{Payer, Resource},
            testing::{self, segment, with_snaplen, StackPacket, TestSock},
        },
        lifecycle, limit,
        record::given,
    };
    use kernel::prelude::*;

    const IP: [u8; 20] = [
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];

    fn send(sk: &TcpSock, owner: &mut Owner<'_>, n: usize) -> Result {
        for i in 0..n {
            let skb = segment(i % 7, i as u8)?;
            let packet = Packet::new(skb.as_skb(), given(&IP, IP.len()));
            record(sk, owner, Dir::Out, i as u64, packet, 0);
        }
        Ok(())
    }

    /// Serials of the ring, oldest first, taken out of it.
    fn drain(owner: &mut Owner<'_>, dir: Dir) -> Result<KVec<u64>> {
        let mut serials = KVec::new();
        let mut ring = owner.ring(dir);
        let next = ring.next();
        for s in 0..next {
            let Some(r) = ring.take_if(s) else {
                continue;
            };
            serials.push(r.rec().ok_or(EINVAL)?.serial, GFP_KERNEL)?;
        }
        Ok(serials)
    }

    fn range(from: u64, to: u64) -> Result<KVec<u64>> {
        let mut v = KVec::new();
        for s in from..to {
            v.push(s, GFP_KERNEL)?;
        }
        Ok(v)
    }

    /// What is charged.
    fn used() -> (usize, usize) {
        (
            testing::used(Resource::Mem, Payer::Host),
            testing::used(Resource::Frags, Payer::Host),
        )
    }

    #[test]
    fn keeps_the_last_n_and_counts_the_rest() -> Result {
        for (size, sent) in [
            (1, 0),
            (1, 1),
            (1, 5),
            (5, 4),
            (5, 5),
            (5, 6),
            (64, 200),
            (600, 1300),
        ] {
            let start = used();
            let sock = TestSock::new()?;
            lifecycle::begin_for_test(sock.sk(), 0, size)?;
            let mut owner = sock.owner().ok_or(EINVAL)?;
            send(sock.sk(), &mut owner, sent)?;
            let (size, sent) = (u64::from(size), sent as u64);
            let ring = owner.ring(Dir::Out);
            assert_eq!(ring.next(), sent);
            assert_eq!(ring.get(Counter::Captured), sent);
            assert_eq!(ring.get(Counter::Evicted), sent.saturating_sub(size));
            assert_eq!(ring.get(Counter::Lost), 0);
            assert_eq!(
                drain(&mut owner, Dir::Out)?,
                range(sent.saturating_sub(size), sent)?
            );
            drop(sock);
            assert_eq!(used(), start);
        }
        Ok(())
    }

    #[test]
    fn a_disconnected_history_goes_on_while_a_worker_frees_its_packets() -> Result {
        let start = used();
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 600)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let empty = used();
        for _ in 0..2 {
            send(sock.sk(), &mut owner, 700)?;
            lifecycle::disconnect(sock.sk(), &mut owner);
            assert_eq!(used(), empty);
        }
        send(sock.sk(), &mut owner, 3)?;
        assert_eq!(drain(&mut owner, Dir::Out)?, range(0, 3)?);
        drop(sock);
        assert_eq!(used(), start);
        Ok(())
    }

    #[test]
    fn a_new_socket_takes_over_slots_and_records_of_the_last_one() -> Result {
        limit::free_spares();
        let (start, mut taken_over) = (used(), 0);
        for sent in [5, 3, 9, 20, 1, 0, 8, 2] {
            let sock = TestSock::new()?;
            // Of other sizes in between.
            lifecycle::begin_for_test(sock.sk(), 3, 9)?;
            drop(sock);

            let sock = TestSock::new()?;
            lifecycle::begin_for_test(sock.sk(), 2, 8)?;
            let mut owner = sock.owner().ok_or(EINVAL)?;
            assert!(!owner.ring(Dir::In).is_populated());
            // Unless we came to another CPU meanwhile.
            taken_over += u32::from(owner.ring(Dir::Out).is_populated());
            assert_eq!((owner.size(Dir::In), owner.size(Dir::Out)), (2, 8));
            send(sock.sk(), &mut owner, sent)?;
            let (sent, evicted) = (sent as u64, sent.saturating_sub(8) as u64);
            let ring = owner.ring(Dir::Out);
            assert_eq!((ring.next(), ring.get(Counter::Captured)), (sent, sent));
            assert_eq!(ring.get(Counter::Evicted), evicted);
            assert_eq!(ring.get(Counter::Lost), 0);
            assert_eq!(drain(&mut owner, Dir::Out)?, range(evicted, sent)?);
            drop(sock);
            assert_eq!(used(), start);
        }
        assert!(taken_over != 0);
        assert!(limit::free_spares() != 0);
        assert_eq!((limit::spare_bytes(), used()), (0, start));
        Ok(())
    }

    #[test]
    fn nobody_takes_over_a_history_of_other_sizes() -> Result {
        limit::free_spares();
        for (size_in, size_out) in [(0, 8), (8, 8), (8, 0), (2, 600), (0, 9)] {
            let sock = TestSock::new()?;
            lifecycle::begin_for_test(sock.sk(), size_in, size_out)?;
            let mut owner = sock.owner().ok_or(EINVAL)?;
            for (dir, size) in [(Dir::In, size_in), (Dir::Out, size_out)] {
                assert_eq!(owner.ring(dir).size(), size);
                assert!(!owner.ring(dir).is_populated());
            }
            send(sock.sk(), &mut owner, 3)?;
        }
        Ok(())
    }

    #[test]
    fn a_full_ring_turns_over_without_memory() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 8)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        send(sock.sk(), &mut owner, 8)?;
        let full = used();
        send(sock.sk(), &mut owner, 100)?;
        assert_eq!(used(), full);
        Ok(())
    }

    #[test]
    fn no_slots_for_packets_that_do_not_fit() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 64)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let empty = used();
        // Slots would fit, and a record would not.
        testing::with_max(Resource::Mem, empty.0 + 1000, || {
            send(sock.sk(), &mut owner, 2)
        })?;
        assert_eq!(used(), empty);
        let ring = owner.ring(Dir::Out);
        assert!(!ring.is_populated());
        assert_eq!((ring.next(), ring.get(Counter::Lost)), (2, 2));
        send(sock.sk(), &mut owner, 1)?;
        let record = owner.ring(Dir::Out).take_if(2).ok_or(EINVAL)?;
        assert_eq!(record.rec().ok_or(EINVAL)?.order, 2);
        Ok(())
    }

    #[test]
    fn directions_do_not_touch_each_other() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 3, 2)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        send(sock.sk(), &mut owner, 10)?;
        assert_eq!(owner.ring(Dir::In).next(), 0);
        assert_eq!(drain(&mut owner, Dir::In)?.len(), 0);
        assert_eq!(drain(&mut owner, Dir::Out)?, range(8, 10)?);
        assert_eq!((owner.size(Dir::In), owner.size(Dir::Out)), (3, 2));
        Ok(())
    }

    #[test]
    fn size_zero_records_nothing() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 4, 0)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        send(sock.sk(), &mut owner, 3)?;
        assert_eq!(owner.ring(Dir::Out).next(), 0);
        Ok(())
    }

    #[test]
    fn resize_keeps_the_youngest() -> Result {
        for (from, sent, to, first) in [
            (8, 20, 8, 12),
            (8, 20, 3, 17),
            (8, 20, 1, 19),
            (8, 20, 0, 20),
            (8, 20, 50, 12),
            (8, 5, 50, 0),
            (8, 5, 6, 0),
            (600, 1300, 700, 700),
            (700, 1300, 600, 700),
            (1024, 1300, 5, 1295),
        ] {
            let start = used();
            let sock = TestSock::new()?;
            lifecycle::begin_for_test(sock.sk(), 0, from)?;
            let mut owner = sock.owner().ok_or(EINVAL)?;
            send(sock.sk(), &mut owner, sent)?;
            let mut new = Slots::new(to, Payer::Host);
            new.populate(GFP_KERNEL)?;
            drop(resize(&mut owner, Dir::Out, new));
            let sent = sent as u64;
            let ring = owner.ring(Dir::Out);
            assert_eq!(ring.get(Counter::Lost), 0);
            assert_eq!(ring.get(Counter::Evicted), first);
            if to == 0 {
                continue;
            }
            assert_eq!(drain(&mut owner, Dir::Out)?, range(first, sent)?);
            drop(sock);
            assert_eq!(used(), start);
        }
        Ok(())
    }

    #[test]
    fn goes_on_after_a_resize() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 4)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        send(sock.sk(), &mut owner, 6)?;
        let mut new = Slots::new(7, Payer::Host);
        new.populate(GFP_KERNEL)?;
        drop(resize(&mut owner, Dir::Out, new));
        send(sock.sk(), &mut owner, 2)?;
        assert_eq!(drain(&mut owner, Dir::Out)?, range(2, 8)?);
        Ok(())
    }

    #[test]
    fn listener_and_disconnect_free_packets_and_keep_sizes() -> Result {
        let start = used();
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 4, 4)?;
        let empty = used();
        let mut owner = sock.owner().ok_or(EINVAL)?;
        send(sock.sk(), &mut owner, 6)?;
        lifecycle::disconnect(sock.sk(), &mut owner);
        assert_eq!(used(), empty);
        assert_eq!(owner.ring(Dir::Out).next(), 0);
        send(sock.sk(), &mut owner, 3)?;
        assert_eq!(owner.ring(Dir::Out).get(Counter::Captured), 3);
        lifecycle::listen(&mut owner);
        assert_eq!(used(), empty);
        assert_eq!((owner.size(Dir::In), owner.size(Dir::Out)), (4, 4));
        send(sock.sk(), &mut owner, 3)?;
        assert_eq!(owner.ring(Dir::Out).next(), 0);
        drop(sock);
        assert_eq!(used(), start);
        Ok(())
    }

    #[test]
    fn record_holds_headers_payload_and_description() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 2)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let skb = segment(6, 0xab)?;
        let packet = Packet::new(
            skb.as_skb(),
            Given::new(false, &IP, IP.len(), Some((0x01020304, 0x19))),
        );
        for snaplen in [None, Some(6), Some(4), Some(0)] {
            with_snaplen(snaplen, || {
                record(sock.sk(), &mut owner, Dir::Out, 77, packet, 0)
            });
            let mut ring = owner.ring(Dir::Out);
            let serial = ring.next() - 1;
            let r = ring.take_if(serial).ok_or(EINVAL)?;
            let rec = r.rec().ok_or(EINVAL)?;
            let kept = snaplen.map_or(6, |s| s.min(6));
            assert_eq!(r.skb().len(), 40 + kept);
            assert_eq!(&r.skb().linear()[..20], &IP);
            assert_eq!(r.skb().linear()[28..32], [1, 2, 3, 4]);
            assert_eq!(r.skb().linear()[33], 0x19);
            assert!(r.skb().linear()[40..].iter().all(|b| *b == 0xab));
            assert_eq!((rec.orig_len, rec.net_len, rec.time), (46, 20, 77));
            assert_eq!((rec.serial, rec.order), (serial, serial));
            let why = if kept < 6 { Why::Snaplen } else { Why::Not };
            assert_eq!(rec.why, why as u8);
            let cut = rec.flags & crate::abi::layout::F_TRUNC != 0;
            assert_eq!(cut, kept < 6);
            assert_eq!(ring.get(Counter::HeaderOnly), 0);
        }
        Ok(())
    }

    #[test]
    fn refilled_head_keeps_nothing_of_before() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        for (payload, snaplen) in [(60, None), (60, Some(0)), (3, None)] {
            let skb = segment(payload, 0xab)?;
            let packet = Packet::new(skb.as_skb(), given(&IP, IP.len()));
            with_snaplen(snaplen, || {
                record(sock.sk(), &mut owner, Dir::Out, 0, packet, 0)
            });
        }
        let r = owner.ring(Dir::Out).take_if(2).ok_or(EINVAL)?;
        let secret = r.head().iter().filter(|b| **b == 0xab).count();
        assert_eq!(secret, 3);
        Ok(())
    }

    #[test]
    fn head_that_held_much_keeps_nothing_of_it_beside_pages() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let mut send = |payload: &[u8]| -> Result {
            let packet = StackPacket::new(&IP, payload)?;
            let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
            record(sock.sk(), &mut owner, Dir::Out, 0, packet, 0);
            Ok(())
        };
        send(&[0xab; 60])?;
        send(&KVec::from_elem(0xcd, 5000, GFP_KERNEL)?)?;
        let r = owner.ring(Dir::Out).take_if(1).ok_or(EINVAL)?;
        assert_eq!((r.skb().len(), r.pages()), (5040, 2));
        assert!(r.head().iter().all(|b| *b != 0xab && *b != 0xcd));
        Ok(())
    }

    #[test]
    fn what_reclaim_put_back_meanwhile_comes_out() -> Result {
        limit::free_spares();
        let start = used();
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        send(sock.sk(), &mut owner, 1)?;
        {
            let rcu = rcu::read_lock();
            let slot = NextSlot::of(owner.ring(Dir::Out), &rcu);
            let slot = slot.map_err(|_| EINVAL)?;
            let new = slot.take().ok_or(EINVAL)?;
            // Reclaim, which had another one in hand.
            let other = Record::new(Payer::Host).ok_or(ENOMEM)?;
            assert!(slot.put(other).is_ok());
            let Err(Ok(Some(back))) = slot.put(new) else {
                return Err(EINVAL);
            };
            assert_eq!(back.skb().len(), 0);
            assert_eq!(slot.take().ok_or(EINVAL)?.rec().ok_or(EINVAL)?.serial, 0);
        }
        drop(sock);
        assert_eq!(used(), start);
        Ok(())
    }

    #[test]
    fn payload_that_cannot_be_referenced_is_cut_and_counted() -> Result {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 1)?;
        let mut owner = sock.owner().ok_or(EINVAL)?;
        // A linear part in slab memory, larger than a head.
        let skb = segment(2000, 1)?;
        let packet = Packet::new(skb.as_skb(), given(&IP, IP.len()));
        record(sock.sk(), &mut owner, Dir::Out, 0, packet, 0);
        let mut ring = owner.ring(Dir::Out);
        assert_eq!(ring.get(Counter::HeaderOnly), 1);
        let r = ring.take_if(0).ok_or(EINVAL)?;
        let rec = r.rec().ok_or(EINVAL)?;
        assert_eq!(rec.why, Why::Linear as u8);
        assert_eq!(rec.orig_len, 2040);
        assert!(r.skb().len() > 40 && r.skb().len() < 2040);
        Ok(())
    }
}

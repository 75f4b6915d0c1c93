// SPDX-License-Identifier: GPL-2.0

//! What is given back when memory is short, and in which order.
//!
//! An object, to memory reclaim, is a record, or the payload that a record keeps in memory.
//!
//! # Order
//!
//! Payload goes before records; within that, what belongs to sockets that have been idle for long
//! goes first. A *pass* goes through all histories in *rounds*, one for each age class of each kind
//! of object, oldest first. One of the limits between the classes is the start of the pass before,
//! so that a socket which was active since then loses nothing while one that was not has something
//! of that kind.
//!
//! A round finds the histories of its class by going through the lists of all shards. Each one that
//! it was at is marked with its number and put at the end of its list, so that a round goes on
//! where it stopped, and has seen a list when it finds a marked one at its head.
//!
//! Payload that comes while records are being freed goes before more records, as soon as it is
//! worth the way: looking for it takes two rounds, which with many sockets cost more than what is
//! found. Records then go on in the shard where they stopped.
//!
//! # Locks
//!
//! A *step* holds the mutex of the state and the lock of a shard, looks at a limited number of
//! histories and slots, and puts what it takes into a [`Freed`], which is given back when both are
//! released. The state belongs to all who reclaim: two at the same time take turns in one pass.
//! Nothing is allocated meanwhile, which could enter reclaim again.
//!
//! Reclaim can be entered from any allocation, with sockets locked, so it takes no socket's lock.

use crate::{
    abi::{
        account::{Payer, Stock},
        layout::Dir,
        netns::Mib,
        reclaim::{is_wanted, with_state},
        shard::{self, Listed, Scanned},
        slots::Slots,
        stack::{cond_resched, now},
    },
    limit,
    record::{Freed, Record},
};
use kernel::{
    prelude::*,
    shrinker::{account_reclaimed_pages, Count, Registration, Scan, ShrinkControl, Shrinker},
    sync::atomic::Relaxed,
};

pub(crate) const NS_PER_SEC: u64 = 1_000_000_000;

/// A pass that is older may be ended, because sockets have become idle since it began.
const PASS_AGE: u64 = NS_PER_SEC;

/// A pass that is older when it takes records, or that nobody went on with for so long, is ended.
const STALE_AGE: u64 = 64 * NS_PER_SEC;

/// What a step looks at, at most.
const SLOTS_PER_STEP: u32 = 512;
const HISTORIES_PER_STEP: u32 = 64;

/// Steps of one call by memory reclaim, which calls again if it wants more.
const STEPS_PER_SCAN: usize = 4096;

/// Objects that memory reclaim asks for at once: `SHRINK_BATCH` of mm/shrinker.c.
const OBJECTS_PER_SCAN: u64 = 128;

/// Histories that may be looked at for payload that came meanwhile, for each record freed.
const VISITS_PER_RECORD: u64 = 8;

/// What a round takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Payload; the records stay.
    Payload,
    /// Records, with payload that they got since.
    Record,
}

/// Number of age classes.
pub(crate) const CLASSES: usize = 6;
pub(crate) const LAST_CLASS: usize = CLASSES - 1;

/// Age classes: class `i` is what was active before `ends[i]`, and not before `ends[i - 1]`.
#[derive(Clone, Copy)]
pub(crate) struct Ages {
    ends: [u64; CLASSES],
}

impl Ages {
    /// Classes at the time `now`, when the pass before began at `last`.
    fn new(now: u64, last: u64) -> Self {
        let ago = |seconds: u64| now.saturating_sub(seconds.saturating_mul(NS_PER_SEC));
        let mut ends = [ago(64), ago(8), ago(1), last.min(now), now, u64::MAX];
        ends.sort_unstable();
        Self { ends }
    }

    /// The class of what was active at `stamp` last.
    pub(crate) fn class(&self, stamp: u64) -> usize {
        self.ends
            .iter()
            .position(|end| stamp < *end)
            .unwrap_or(LAST_CLASS)
    }
}

/// Goes through the shards, once.
pub(crate) struct Round {
    /// Marks the histories that it is done with.
    pub(crate) id: u32,
    shard: u32,
}

impl Round {
    /// The shard that it is at; `None` if it is through.
    pub(crate) fn shard(&self) -> Option<u16> {
        (self.shard < shard::count()).then_some(self.shard as u16)
    }

    /// Goes on to the next shard.
    pub(crate) fn next_shard(&mut self) {
        self.shard = self.shard.saturating_add(1);
    }

    /// Leaves out the shards before that one.
    fn starting_at(self, shard: u32) -> Self {
        Self { shard, ..self }
    }
}

/// Goes through all histories: a round for each age class of each kind of object.
pub(crate) struct Pass {
    start: u64,
    ages: Ages,
    /// Classes in which there was something, by bit; known after the first round.
    classes: u32,
    kind: Kind,
    /// The last kind of this pass.
    last_kind: Kind,
    class: usize,
    /// The class from which it takes records next, and the shard.
    record_class: usize,
    record_shard: u32,
    /// What `freed` was, and what looking for payload would have cost, in histories, when it began
    /// to take records.
    freed_before: u64,
    detour: u64,
    /// What looking for payload has cost since.
    detours: u64,
    /// When memory reclaim went on with it last.
    last_used: u64,
    /// Who has to give, `None` for all.
    payer: Option<Payer>,
    round: Round,
    /// Histories that it was at, those of them that this round is done with, and objects that it
    /// freed.
    visited: u64,
    in_round: u64,
    freed: u64,
}

/// What reclaim remembers.
pub(crate) struct State {
    pass: Option<Pass>,
    /// When the last pass began.
    last_start: u64,
    /// Number of the last round.
    last_round: u32,
    /// Whether a limit is being lowered.
    is_lowering: bool,
}

impl State {
    pub(crate) const fn new() -> Self {
        Self {
            pass: None,
            last_start: 0,
            last_round: 0,
            is_lowering: false,
        }
    }

    /// A number that no history is marked with.
    pub(crate) fn new_round(&mut self) -> Round {
        // 0 is that of a history that nobody was at.
        self.last_round = self.last_round.wrapping_add(1).max(1);
        Round {
            id: self.last_round,
            shard: 0,
        }
    }

    /// Age classes at this moment.
    pub(crate) fn ages(&self) -> Ages {
        Ages::new(now(), self.last_start)
    }

    /// A pass that takes objects `from` one kind on, `to` another.
    pub(crate) fn new_pass(&mut self, from: Kind, to: Kind, payer: Option<Payer>) -> Pass {
        let now = now();
        let pass = Pass {
            start: now,
            ages: Ages::new(now, self.last_start),
            classes: 0,
            kind: from,
            last_kind: to,
            class: 0,
            record_class: 0,
            record_shard: 0,
            freed_before: 0,
            detour: 0,
            detours: 0,
            last_used: now,
            payer,
            round: self.new_round(),
            visited: 0,
            in_round: 0,
            freed: 0,
        };
        self.last_start = now;
        pass
    }

    /// Keeps memory reclaim out, or lets it in again. Ends the pass under way, whose marks are not
    /// valid any more.
    pub(crate) fn set_lowering(&mut self, is_lowering: bool) {
        self.pass = None;
        self.is_lowering = is_lowering;
    }

    /// What memory reclaim does in one step: frees up to `objects`, takes from that what it frees,
    /// and adds to `visited` how many histories it looked at. Returns whether that was the end of a
    /// pass, or `None` if it is kept out.
    fn step(&mut self, objects: &mut usize, freed: &mut Freed, visited: &mut u64) -> Option<bool> {
        if self.is_lowering {
            return None;
        }
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None => self.new_pass(Kind::Payload, Kind::Record, None),
        };
        let before = pass.visited;
        let is_over = !pass.step(self, objects, freed);
        *visited = visited.saturating_add(pass.visited.saturating_sub(before));
        if !is_over {
            self.pass = Some(pass);
        }
        Some(is_over)
    }

    /// Before memory reclaim goes on with a pass: looks whether it is still in the right place.
    fn refresh(&mut self) {
        let Some(mut pass) = self.pass.take().filter(|_| !self.is_lowering) else {
            return;
        };
        let now = now();
        if !pass.is_over(now) {
            pass.last_used = now;
            pass.look_for_payload(self);
            self.pass = Some(pass);
        }
    }
}

impl Pass {
    /// Whether memory reclaim had better begin anew: because sockets have become idle since.
    fn is_over(&self, now: u64) -> bool {
        let age = now.saturating_sub(self.start);
        // Not before it was worth the way: else, with many sockets, none would ever get far.
        let is_paid = self.freed >= self.visited.saturating_sub(self.detours);
        match self.kind {
            _ if now.saturating_sub(self.last_used) >= STALE_AGE => true,
            // Who has nothing left is gone through quickly the next time.
            Kind::Record if age >= STALE_AGE => true,
            _ => age >= PASS_AGE && is_paid,
        }
    }

    /// Frees up to `objects`, and takes from that what it frees, as far as one step goes. Returns
    /// whether there is more.
    pub(crate) fn step(
        &mut self,
        state: &mut State,
        objects: &mut usize,
        freed: &mut Freed,
    ) -> bool {
        let mut slots = SLOTS_PER_STEP;
        let mut histories = HISTORIES_PER_STEP;
        let before = *objects;
        while let Some(i) = self.round.shard() {
            let mut shard = shard::lock(i);
            loop {
                let first = shard.first();
                let id = self.round.id;
                let at = first.as_ref().and_then(|listed| listed.scanned(id));
                let (Some(mut listed), Some(at)) = (first, at) else {
                    break;
                };
                let taken = if self.concerns(&listed) {
                    self.take(&mut listed, at, &mut slots, objects, freed)
                } else {
                    Ok(())
                };
                match taken {
                    Ok(()) => {
                        listed.finish(id);
                        self.in_round = self.in_round.saturating_add(1);
                    }
                    Err(at) => {
                        listed.set_scanned(id, at);
                        histories = 0;
                    }
                }
                self.visited = self.visited.saturating_add(1);
                histories = histories.saturating_sub(1);
                if histories == 0 {
                    self.freed = self
                        .freed
                        .saturating_add((before.saturating_sub(*objects)) as u64);
                    return true;
                }
            }
            self.round.next_shard();
        }
        self.freed = self
            .freed
            .saturating_add((before.saturating_sub(*objects)) as u64);
        self.next_round(state)
    }

    /// Whether this round takes from a history.
    fn concerns(&mut self, listed: &Listed<'_>) -> bool {
        if !listed.has_slots() {
            return false;
        }
        let class = self.ages.class(listed.stamp());
        self.classes |= 1u32.wrapping_shl(class as u32);
        class == self.class && self.payer.is_none_or(|payer| payer == listed.payer())
    }

    /// The first class from `class` on in which there can be something. Who is active gets into the
    /// last one.
    fn class_from(&self, class: usize) -> Option<usize> {
        (class..CLASSES)
            .find(|i| *i == LAST_CLASS || self.classes & 1u32.wrapping_shl(*i as u32) != 0)
    }

    /// Goes on to the next class, or kind. Returns whether there is one.
    fn next_round(&mut self, state: &mut State) -> bool {
        let (packets, payloads) = limit::present();
        let next = match self.kind {
            Kind::Payload if payloads == 0 => None,
            _ => self.class_from(self.class.saturating_add(1)),
        };
        let mut shard = 0;
        match next {
            Some(class) => self.class = class,
            None if self.kind == self.last_kind => return false,
            None => {
                self.kind = Kind::Record;
                self.class = self.class_from(self.record_class).unwrap_or(LAST_CLASS);
                if self.class == self.record_class {
                    shard = self.record_shard;
                }
                self.freed_before = self.freed;
                self.detour = self.in_round.saturating_mul(2);
            }
        }
        self.round = state.new_round().starting_at(shard);
        self.in_round = 0;
        packets != 0
    }

    /// Goes back to payload if packets came with some meanwhile, and it is worth the way; their
    /// sockets have been active since about the start of the pass.
    fn look_for_payload(&mut self, state: &mut State) {
        let freed = self.freed.saturating_sub(self.freed_before);
        let affordable = VISITS_PER_RECORD.saturating_mul(freed.saturating_add(OBJECTS_PER_SCAN));
        if self.kind == Kind::Payload || self.detour > affordable || limit::present().1 == 0 {
            return;
        }
        self.detours = self.detours.saturating_add(self.detour);
        self.record_class = self.class;
        self.record_shard = self.round.shard;
        self.kind = Kind::Payload;
        self.class = LAST_CLASS.saturating_sub(1);
        self.round = state.new_round();
        self.in_round = 0;
    }

    /// Takes objects from a history, from `at` on.
    ///
    /// # Errors
    ///
    /// Where to go on, if it could not look at all.
    fn take(
        &self,
        listed: &mut Listed<'_>,
        at: Scanned,
        slots: &mut u32,
        objects: &mut usize,
        freed: &mut Freed,
    ) -> Result<(), Scanned> {
        let [first, second] = Dir::ALL;
        for (rings, dir) in [(0, first), (1, second)] {
            let has_some = match self.kind {
                Kind::Payload => listed.has_payloads(dir),
                Kind::Record => listed.has_packets(dir),
            };
            if rings < at.rings || !has_some {
                continue;
            }
            let (ring, mut serials) = listed.slots(dir);
            if rings == at.rings {
                // What came meanwhile has taken the place of the oldest.
                serials.start = serials.start.max(at.serial);
            }
            for serial in serials {
                let here = Scanned { rings, serial };
                *slots = slots.checked_sub(1).ok_or(here)?;
                if *objects == 0 {
                    return Err(here);
                }
                let Some(record) = ring.take(serial) else {
                    continue;
                };
                match self.take_from(record, objects, freed) {
                    Outcome::Keep(record) => put_back(&ring, serial, record, listed, dir, freed),
                    Outcome::Stripped(record, pages) => {
                        listed.count_stripped(dir);
                        listed.netns().count(Mib::RECLAIMED_PAGES, pages as u64);
                        Stock::here().reclaimed_payloads().add(1i64, Relaxed);
                        Stock::here().reclaimed_pages().add(pages as i64, Relaxed);
                        put_back(&ring, serial, record, listed, dir, freed);
                    }
                    Outcome::NoRoom(record) => {
                        put_back(&ring, serial, record, listed, dir, freed);
                        return Err(here);
                    }
                    Outcome::Freed(record) => free(record, listed, dir, freed),
                }
            }
        }
        Ok(())
    }

    /// What becomes of a record that was taken out of its slot.
    fn take_from(&self, mut record: Record, objects: &mut usize, freed: &mut Freed) -> Outcome {
        let pages = record.pages();
        if pages != 0 && (self.kind == Kind::Payload || *objects == 1) {
            if record.strip(freed).is_err() {
                return Outcome::NoRoom(record);
            }
            *objects = objects.saturating_sub(1);
            return Outcome::Stripped(record, pages);
        }
        if self.kind == Kind::Payload {
            return Outcome::Keep(record);
        }
        *objects = objects.saturating_sub(if pages == 0 { 1 } else { 2 });
        Outcome::Freed(record)
    }
}

/// What becomes of a record.
enum Outcome {
    /// It stays as it is.
    Keep(Record),
    /// It stays without its payload, which had so many pages.
    Stripped(Record, usize),
    /// It stays as it is until there is room for its pages.
    NoRoom(Record),
    /// It goes.
    Freed(Record),
}

/// Puts a record back into its slot, if the owner has not used that for another.
fn put_back(
    ring: &Slots,
    serial: u64,
    record: Record,
    listed: &mut Listed<'_>,
    dir: Dir,
    freed: &mut Freed,
) {
    if let Err(record) = ring.put_back(serial, record) {
        free(record, listed, dir, freed);
    }
}

/// Lets a record go, and counts it.
pub(crate) fn free(record: Record, listed: &mut Listed<'_>, dir: Dir, freed: &mut Freed) {
    let pages = record.pages();
    let stock = Stock::here();
    listed.count_reclaimed(dir, pages != 0);
    listed.netns().count(Mib::RECLAIMED_PACKETS, 1);
    stock.reclaimed_packets().add(1i64, Relaxed);
    if pages != 0 {
        listed.netns().count(Mib::RECLAIMED_PAGES, pages as u64);
        stock.reclaimed_payloads().add(1i64, Relaxed);
        stock.reclaimed_pages().add(pages as i64, Relaxed);
    }
    freed.push(record);
}

/// Frees up to `n` objects for memory reclaim. Returns how many, or `None` if there can be none at
/// this time.
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) fn scan(n: usize) -> Option<usize> {
    scan_and_count(n, &mut 0)
}

/// As [`scan`]; adds to `visited` how many histories it looked at.
fn scan_and_count(n: usize, visited: &mut u64) -> Option<usize> {
    let mut left = n;
    // The pass under way may be near its end; then another one may find more.
    let mut ends = 0;
    with_state(State::refresh);
    for _ in 0..STEPS_PER_SCAN.saturating_add(n) {
        let mut freed = Freed::new();
        let step = with_state(|state| state.step(&mut left, &mut freed, visited));
        account_reclaimed_pages(freed.release());
        cond_resched();
        match step {
            None if left == n => return None,
            None => break,
            Some(true) => ends += 1,
            Some(false) => {}
        }
        if left == 0 || ends == 2 {
            break;
        }
    }
    Some(n.saturating_sub(left))
}

/// The shrinker.
struct Histories;

impl Shrinker for Histories {
    type Data = ();

    // Nothing brings a packet back.
    const SEEKS: u32 = 4;

    fn count((): (), _: &ShrinkControl<'_>) -> Count {
        if !is_wanted() {
            return Count::Empty;
        }
        let (packets, payloads) = limit::present();
        match packets.saturating_add(payloads) {
            // What is kept for later goes with the first scan; without packets let there be one.
            0 if limit::spare_bytes() != 0 => Count::objects(1),
            n => Count::objects(n),
        }
    }

    fn scan((): (), control: &ShrinkControl<'_>) -> Scan {
        if !is_wanted() {
            return Scan::Stop;
        }
        // Nobody has a use for these now.
        let spares = limit::free_spares();
        let mut visited = 0;
        let scanned = scan_and_count(control.nr_to_scan(), &mut visited);
        // Where the way is long, this was more work than was asked for.
        let visited = usize::try_from(visited).unwrap_or(usize::MAX);
        control.set_nr_scanned(visited.max(control.nr_to_scan()));
        match scanned {
            Some(freed) => Scan::Freed(freed),
            None if spares != 0 => Scan::Freed(spares),
            None => Scan::Stop,
        }
    }
}

/// Makes the shrinker known, for good.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn register() -> Result {
    core::mem::forget(Registration::<Histories>::new(c"tcp-pcap", ())?);
    Ok(())
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) mod testing {
    use super::*;
    use crate::{
        abi::{
            history::Counter,
            testing::{StackPacket, TestSock},
        },
        lifecycle,
        record::{given, Packet},
        ring, //
    };

    pub(crate) const IP: [u8; 20] = [
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];

    /// A socket with `n` packets of which each keeps two pages.
    pub(crate) fn history(size: u32, n: usize, time: u64) -> Result<TestSock> {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, size)?;
        send(&sock, n, time)?;
        Ok(sock)
    }

    pub(crate) fn send(sock: &TestSock, n: usize, time: u64) -> Result {
        let mut owner = sock.owner().ok_or(EINVAL)?;
        for _ in 0..n {
            let packet = StackPacket::new(&IP, &[7; 5000])?;
            let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
            ring::record(sock.sk(), &mut owner, Dir::Out, time, packet, 0);
        }
        Ok(())
    }

    /// Captured, evicted, reclaimed and stripped packets; the first three add up.
    pub(crate) fn counters(sock: &TestSock) -> Result<(u64, u64, u64, u64)> {
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let ring = owner.ring(Dir::Out);
        Ok((
            ring.get(Counter::Captured),
            ring.get(Counter::Evicted),
            ring.get(Counter::Reclaimed),
            ring.get(Counter::Stripped),
        ))
    }
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_reclaim)]
mod tests {
    use super::{testing::*, *};
    use crate::abi::{
        account::Resource,
        history::Counter,
        slots::Chunk,
        testing::{used, with_control, StackPacket, TestSock},
    };
    use crate::{
        record::{given, Packet},
        ring, //
    };
    use kernel::sync::rcu;

    #[test]
    fn age_classes_are_in_order_and_complete() {
        let ages = Ages::new(100 * NS_PER_SEC, 97 * NS_PER_SEC);
        let mut last = 0;
        for stamp in [0, 36, 91, 92, 97, 98, 99, 100, 200] {
            let class = ages.class(stamp * NS_PER_SEC);
            assert!(class < CLASSES && class >= last);
            last = class;
        }
        assert_eq!((ages.class(0), ages.class(u64::MAX)), (0, LAST_CLASS));
        // Idle since the last pass began, and active since then.
        assert!(ages.class(97 * NS_PER_SEC - 1) < ages.class(97 * NS_PER_SEC));
    }

    #[test]
    fn frees_exactly_what_is_asked_payload_first() -> Result {
        let start = limit::present();
        assert_eq!(start, (0, 0));
        let sock = history(8, 10, now())?;
        assert_eq!(limit::present(), (8, 8));
        assert_eq!(used(Resource::Frags, Payer::Host), 16);
        assert_eq!(scan(3), Some(3));
        assert_eq!(limit::present(), (8, 5));
        assert_eq!(counters(&sock)?, (10, 2, 0, 3));
        assert_eq!(used(Resource::Frags, Payer::Host), 10);
        assert_eq!(scan(6), Some(6));
        assert_eq!(limit::present(), (7, 0));
        assert_eq!(counters(&sock)?, (10, 2, 1, 8));
        assert_eq!(scan(100), Some(7));
        assert_eq!(limit::present(), (0, 0));
        assert_eq!(counters(&sock)?, (10, 2, 8, 8));
        assert_eq!(scan(1), Some(0));
        // The ring goes on.
        send(&sock, 9, now())?;
        assert_eq!(limit::present(), (8, 8));
        assert_eq!(counters(&sock)?, (19, 3, 8, 8));
        drop(sock);
        assert_eq!(limit::present(), start);
        assert_eq!(used(Resource::Frags, Payer::Host), 0);
        Ok(())
    }

    #[test]
    fn the_oldest_packets_of_a_ring_go_first() -> Result {
        let sock = history(4, 6, now())?;
        assert_eq!(scan(4 + 2), Some(6));
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let mut ring = owner.ring(Dir::Out);
        for (serial, there) in [(2, false), (3, false), (4, true), (5, true)] {
            assert_eq!(ring.take_if(serial).is_some(), there);
        }
        Ok(())
    }

    #[test]
    fn idle_sockets_first_and_active_ones_last() -> Result {
        let now = now();
        let busy = history(4, 4, now + NS_PER_SEC)?;
        let idle = history(4, 4, now.saturating_sub(20 * NS_PER_SEC))?;
        let recent = history(4, 4, now.saturating_sub(2 * NS_PER_SEC))?;
        with_state(|state| {
            state.pass = None;
            state.last_start = now;
        });
        let stripped =
            || -> Result<_> { Ok((counters(&idle)?.3, counters(&recent)?.3, counters(&busy)?.3)) };
        for (n, expected) in [
            (3, (3, 0, 0)),
            (2, (4, 1, 0)),
            (3, (4, 4, 0)),
            (1, (4, 4, 1)),
        ] {
            assert_eq!(scan(n), Some(n));
            assert_eq!(stripped()?, expected);
        }
        // Payload of an active socket goes before records of an idle one.
        assert_eq!(scan(3), Some(3));
        assert_eq!(counters(&idle)?.2, 0);
        assert_eq!(scan(5), Some(5));
        assert_eq!((counters(&idle)?.2, counters(&recent)?.2), (4, 1));
        assert_eq!(counters(&busy)?.2, 0);
        Ok(())
    }

    #[test]
    fn payload_that_came_meanwhile_is_looked_for_when_that_is_worth_the_way() -> Result {
        const SOCKS: usize = 600;
        // Detours of 600 histories, twice, are worth it after so many records.
        const DUE: usize = 2 * (SOCKS + 1) / VISITS_PER_RECORD as usize + 1 - 128;
        let mut socks = KVec::new();
        for _ in 0..SOCKS {
            socks.push(history(1, 1, now())?, GFP_KERNEL)?;
        }
        let busy = history(4, 0, now())?;
        with_state(|state| state.pass = None);
        assert_eq!(scan(SOCKS + 1), Some(SOCKS + 1));
        assert_eq!(limit::present(), (SOCKS - 1, 0));
        for _ in 0..2 {
            send(&busy, 1, now())?;
            let (packets, payloads) = limit::present();
            assert_eq!(payloads, 1);
            assert_eq!(scan(DUE - 2), Some(DUE - 2));
            assert_eq!(limit::present(), (packets + 2 - DUE, 1));
            assert_eq!(scan(2), Some(2));
            assert_eq!(limit::present(), (packets - DUE, 1));
            // Before the next record.
            assert_eq!(scan(2), Some(2));
            assert_eq!(limit::present(), (packets - DUE - 1, 0));
        }
        // It has left nobody out: what there is, is found in the same pass.
        let (packets, payloads) = limit::present();
        assert_eq!(scan(packets + payloads), Some(packets + payloads));
        assert_eq!(limit::present(), (0, 0));
        let freed = with_state(|state| state.pass.as_ref().map(|pass| pass.freed));
        assert_eq!(freed, Some(2 * (SOCKS as u64 + 2)));
        Ok(())
    }

    #[test]
    fn records_go_on_in_the_shard_where_they_stopped() -> Result {
        const STOPPED: usize = 2;
        const THERE: u32 = 1 << STOPPED;
        for stopped in 0..=shard::count() {
            for (classes, class, shard) in [
                (THERE, STOPPED, stopped),
                // Of that class nobody is left, so it begins with the next one.
                (0, LAST_CLASS, 0),
            ] {
                // Active since, so in the last class.
                let sock = history(4, 4, now() + NS_PER_SEC)?;
                let mut freed = Freed::new();
                let (back, left, on, is_through) = with_state(|state| {
                    let mut pass = state.new_pass(Kind::Payload, Kind::Record, None);
                    (pass.kind, pass.class, pass.classes) = (Kind::Record, STOPPED, classes);
                    pass.round = state.new_round().starting_at(stopped);
                    pass.look_for_payload(state);
                    let back = (pass.kind, pass.round.shard);
                    // Payload is taken wherever it is.
                    let mut objects = 4;
                    while pass.kind == Kind::Payload && pass.step(state, &mut objects, &mut freed) {
                    }
                    let (left, on) = (objects, (pass.kind, pass.class, pass.round.shard));
                    // In the class of the socket: that round takes nothing from shards before.
                    pass.class = LAST_CLASS;
                    objects = 100;
                    while pass.step(state, &mut objects, &mut freed) {}
                    (back, left, on, objects == 100)
                });
                freed.release();
                assert_eq!((back, left), ((Kind::Payload, 0), 0));
                assert_eq!(on, (Kind::Record, class, shard));
                assert_eq!(counters(&sock)?.3, 4);
                if shard == shard::count() {
                    assert!(is_through);
                } else if shard == 0 {
                    assert!(!is_through);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn work_is_what_it_frees_or_the_way_to_it() -> Result {
        const SOCKS: usize = 300;
        // All of one class.
        let (time, mut socks) = (now(), KVec::new());
        for _ in 0..SOCKS {
            socks.push(history(1, 1, time)?, GFP_KERNEL)?;
        }
        with_state(|state| state.pass = None);
        let ask = |n| with_control(n, |control| Histories::scan((), control));
        // The first round looks at all to find out which classes there are.
        let (scan, work) = ask(1);
        assert_eq!(scan, Scan::Freed(1));
        assert!(work > SOCKS && work < 2 * SOCKS);
        // The next one goes on where that stopped.
        let (scan, work) = ask(100);
        assert_eq!(scan, Scan::Freed(100));
        assert!((100..110).contains(&work));
        // What it did not find was asked for all the same.
        socks.clear();
        assert_eq!(ask(100), (Scan::Freed(0), 100));
        Ok(())
    }

    #[test]
    fn counting_takes_no_lock_of_a_shard() -> Result {
        let sock = history(2, 2, now())?;
        for i in 0..shard::count() {
            // If it did take the lock it would not come back.
            let (count, _) = {
                let _locked = shard::lock(i as u16);
                with_control(0, |control| Histories::count((), control))
            };
            assert!(matches!(count, Count::Objects(4)));
        }
        drop(sock);
        Ok(())
    }

    #[test]
    fn a_step_is_short_and_frees_nothing_under_a_lock() -> Result {
        let sock = history(2000, 1200, now())?;
        let charged = used(Resource::Frags, Payer::Host);
        let mut freed = Freed::new();
        let mut objects = usize::MAX;
        with_state(|state| {
            let mut pass = state.new_pass(Kind::Record, Kind::Record, None);
            while objects == usize::MAX && pass.step(state, &mut objects, &mut freed) {}
        });
        assert_eq!(counters(&sock)?.2, 512);
        // They are out of their slots, and there.
        assert_eq!(used(Resource::Frags, Payer::Host), charged);
        freed.release();
        assert!(used(Resource::Frags, Payer::Host) < charged);

        let mut socks = KVec::new();
        for _ in 0..200 {
            socks.push(history(1, 1, now())?, GFP_KERNEL)?;
        }
        let visited = with_state(|state| {
            let mut pass = state.new_pass(Kind::Record, Kind::Record, None);
            pass.step(state, &mut objects, &mut freed);
            pass.visited
        });
        assert_eq!(visited, 64);
        // A worker frees what had so many packets: not beside the next test.
        drop(sock);
        assert_eq!(used(Resource::Frags, Payer::Host), 2 * socks.len());
        Ok(())
    }

    /// Does something to the one history that there is.
    fn with_history<R>(f: impl FnOnce(&mut Listed<'_>) -> R) -> Result<R> {
        let is_there = |i: &u16| shard::lock(*i).first().is_some();
        let i = (0..shard::count() as u16).find(is_there).ok_or(EINVAL)?;
        let mut shard = shard::lock(i);
        let mut listed = shard.first().ok_or(EINVAL)?;
        Ok(f(&mut listed))
    }

    /// As reclaim does: takes the first packet out of its slot.
    fn take_first() -> Result<Record> {
        with_history(|listed| listed.slots(Dir::Out).0.take(0))?.ok_or(EINVAL)
    }

    /// As reclaim does: puts the first packet back.
    fn put_first_back(record: Record) -> Result {
        let mut freed = Freed::new();
        with_history(|listed| {
            let (ring, _) = listed.slots(Dir::Out);
            put_back(&ring, 0, record, listed, Dir::Out, &mut freed);
        })
    }

    fn has_payloads() -> Result<bool> {
        with_history(|listed| listed.has_payloads(Dir::Out))
    }

    #[test]
    fn a_packet_in_hand_gives_way_to_the_next_one() -> Result {
        let sock = history(1, 1, now())?;
        let first = take_first()?;
        send(&sock, 1, now())?;
        put_first_back(first)?;
        assert_eq!(counters(&sock)?, (2, 0, 1, 0));
        assert_eq!(limit::present(), (1, 1));
        assert!(has_payloads()?);
        assert_eq!(scan(1), Some(1));
        assert!(!has_payloads()?);
        let mut owner = sock.owner().ok_or(EINVAL)?;
        assert!(owner.ring(Dir::Out).take_if(1).is_some());
        Ok(())
    }

    /// Lets `meanwhile` happen when the slot of the second packet was found empty, and the packet
    /// is not in it yet.
    fn send_second(sock: &TestSock, meanwhile: impl FnOnce() -> Result) -> Result {
        let packet = StackPacket::new(&IP, &[7; 5000])?;
        let packet = Packet::new(packet.skb(), given(&IP, IP.len()));
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let rcu = rcu::read_lock();
        let claim = ring::claim(owner.ring(Dir::Out), &rcu, sock.sk(), now());
        let claim = claim.ok_or(ENOMEM)?;
        meanwhile()?;
        claim.rarely().record(sock.sk(), now(), packet, 0);
        Ok(())
    }

    #[test]
    fn a_packet_that_is_put_back_first_is_pushed_out() -> Result {
        let sock = history(1, 1, now())?;
        let first = take_first()?;
        send_second(&sock, || put_first_back(first))?;
        assert_eq!(counters(&sock)?, (2, 1, 0, 0));
        assert_eq!(limit::present(), (1, 1));
        assert_eq!(scan(1), Some(1));
        assert!(!has_payloads()?);
        let mut owner = sock.owner().ok_or(EINVAL)?;
        assert!(owner.ring(Dir::Out).take_if(1).is_some());
        Ok(())
    }

    #[test]
    fn a_packet_whose_slots_are_taken_away_is_lost_and_counted() -> Result {
        let sock = history(2, 1, now())?;
        let mut chunk = None;
        send_second(&sock, || {
            chunk = with_history(|listed| listed.take_chunk(Dir::Out))?;
            Ok(())
        })?;
        let chunk = chunk.ok_or(EINVAL)?;
        let mut freed = Freed::new();
        with_history(|listed| {
            for record in chunk.records(usize::MAX) {
                free(record, listed, Dir::Out, &mut freed);
            }
        })?;
        freed.release();
        Chunk::free(core::iter::once(chunk));
        assert_eq!(counters(&sock)?, (1, 0, 1, 0));
        let mut owner = sock.owner().ok_or(EINVAL)?;
        assert_eq!(owner.ring(Dir::Out).get(Counter::Lost), 1);
        assert_eq!(limit::present(), (0, 0));
        assert_eq!(used(Resource::Frags, Payer::Host), 0);
        assert!(!has_payloads()?);
        // The ring gets slots again.
        send(&sock, 2, now())?;
        assert_eq!(counters(&sock)?, (3, 0, 1, 0));
        Ok(())
    }

    #[test]
    fn a_pass_is_ended_when_it_is_old() {
        use Kind::*;
        let mut pass = with_state(|state| state.new_pass(Payload, Record, None));
        (pass.start, pass.freed) = (NS_PER_SEC, 5);
        for (kind, age, unused, visited, expected) in [
            (Payload, PASS_AGE - 1, 0, 5, false),
            (Payload, PASS_AGE, 0, 6, false),
            (Payload, PASS_AGE, 0, 5, true),
            (Payload, STALE_AGE, 0, 6, false),
            (Payload, STALE_AGE, STALE_AGE, 6, true),
            (Record, PASS_AGE, 0, 6, false),
            (Record, PASS_AGE, 0, 5, true),
            (Record, STALE_AGE - 1, 0, 6, false),
            (Record, STALE_AGE, 0, 6, true),
        ] {
            let now = pass.start + age;
            (pass.kind, pass.last_used) = (kind, now - unused);
            for detours in [0, 7] {
                (pass.visited, pass.detours) = (visited + detours, detours);
                assert_eq!(pass.is_over(now), expected);
            }
        }
    }

    #[test]
    fn more_slots_than_a_step_looks_at() -> Result {
        let sock = history(3000, 0, now())?;
        let empty = used(Resource::Mem, Payer::Host);
        send(&sock, 1500, now())?;
        assert_eq!(limit::present(), (1500, 1500));
        assert_eq!(scan(1200), Some(1200));
        assert_eq!(counters(&sock)?, (1500, 0, 0, 1200));
        assert_eq!(scan(4000), Some(1800));
        assert_eq!(counters(&sock)?, (1500, 0, 1500, 1500));
        // The chunks stay.
        assert!(used(Resource::Mem, Payer::Host) > empty);
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What is given back, and in which order: under memory pressure, and when a limit is lowered.
//!
//! An object, to memory reclaim, is a record, or the payload that a record keeps in memory.
//!
//! # Order
//!
//! Payload goes before records; within that, what belongs to sockets that have been idle for long
//! goes first. A *pass* goes through all histories: once for each kind of object and age class,
//! oldest first. One of the limits between the classes is the start of the pass before, so that a
//! socket which was active since then loses nothing while one that was not has something of that
//! kind. The histories of a class are found by going through the lists of all shards; each one that
//! was looked at is marked with the number of the round and put at the end of its list, so that a
//! round goes on where it stopped, and has seen a list when it finds a marked one at its head.
//!
//! # Locks
//!
//! A *step* holds the lock of the state and that of a shard, looks at a limited number of histories
//! and slots, and puts what it takes into a [`Freed`], which is given back when both locks are
//! released. The state belongs to all who reclaim: two at the same time take turns in one pass.
//! When a limit is lowered, only that goes on, because it may concern containers only.
//!
//! Reclaim can be entered from any allocation, with a socket locked, so no lock of a socket is
//! taken, except when the administrator lowers a limit so far that slots and histories have to go.

use crate::{
    abi::{
        account::{Payer, Resource, Stock},
        history::{Counter, Owner},
        layout::Dir,
        netns::Mib,
        reclaim::{is_wanted, with_state},
        shard::{self, HeldSock, Listed},
        stack::now,
    },
    lifecycle, limit,
    record::{Freed, Record},
};
use core::convert::Infallible;
use kernel::{
    net::sock::TcpSock,
    prelude::*,
    shrinker::{account_reclaimed_pages, Count, Registration, Scan, ShrinkControl, Shrinker},
    sync::atomic::Relaxed,
    time::{delay::fsleep, Delta},
};

const NS_PER_SEC: u64 = 1_000_000_000;

/// A pass that is older than this is ended early: sockets have become idle since.
const PASS_MAX: u64 = NS_PER_SEC;

/// What a step looks at, at most.
const SLOTS_PER_STEP: u32 = 1024;
const HISTORIES_PER_STEP: u32 = 64;

/// Steps of one call by memory reclaim, which calls again if it wants more.
const STEPS_PER_SCAN: usize = 1024;

/// Objects freed at a time for a lowered limit, which is checked in between.
const OBJECTS_AT_ONCE: usize = 16;

/// What a round takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Payload; the records stay.
    Payload,
    /// Records, with payload that they got since.
    Record,
}

/// Age classes: class `i` is what was active before `ends[i]`, and not before `ends[i - 1]`.
#[derive(Clone, Copy)]
struct Ages {
    ends: [u64; 6],
}

impl Ages {
    /// Classes at the time `now`, when the pass before began at `last`.
    fn new(now: u64, last: u64) -> Self {
        let ago = |seconds: u64| now.saturating_sub(seconds.saturating_mul(NS_PER_SEC));
        let mut ends = [ago(64), ago(8), ago(1), last.min(now), now, u64::MAX];
        ends.sort_unstable();
        Self { ends }
    }

    /// Whether `stamp` is in class `i`; `None` if there is no such class.
    fn has(&self, i: usize, stamp: u64) -> Option<bool> {
        let end = *self.ends.get(i)?;
        let start = i.checked_sub(1).and_then(|i| self.ends.get(i)).copied();
        Some(stamp < end && stamp >= start.unwrap_or(0))
    }
}

/// Goes through the shards, once.
struct Round {
    /// Marks the histories that it is done with.
    id: u32,
    shard: u32,
}

impl Round {
    /// The shard that it is at; `None` if it is through.
    fn shard(&self) -> Option<u16> {
        (self.shard < shard::count()).then_some(self.shard as u16)
    }
}

/// Goes through all histories: a round for each age class of each kind of object.
struct Pass {
    start: u64,
    ages: Ages,
    kind: Kind,
    /// The last kind of this pass.
    last_kind: Kind,
    age: usize,
    /// The age class at which it takes records next.
    record_age: usize,
    /// Who has to give, `None` for all.
    payer: Option<Payer>,
    round: Round,
}

/// How far a step came.
enum Step {
    /// There is more.
    More,
    /// That was the end of the pass.
    End,
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
    fn new_round(&mut self) -> Round {
        // 0 is that of a history which nobody has looked at.
        self.last_round = self.last_round.wrapping_add(1).max(1);
        Round {
            id: self.last_round,
            shard: 0,
        }
    }

    fn new_pass(&mut self, kinds: (Kind, Kind), payer: Option<Payer>) -> Pass {
        let now = now();
        let pass = Pass {
            start: now,
            ages: Ages::new(now, self.last_start),
            kind: kinds.0,
            last_kind: kinds.1,
            age: 0,
            record_age: 0,
            payer,
            round: self.new_round(),
        };
        self.last_start = now;
        pass
    }

    /// Takes a step in the pass under way, or in a new one of these kinds.
    fn step(
        &mut self,
        kinds: (Kind, Kind),
        payer: Option<Payer>,
        objects: &mut usize,
        freed: &mut Freed,
    ) -> Step {
        let fresh = |pass: &Pass| now().saturating_sub(pass.start) < PASS_MAX;
        let mut pass = match self.pass.take().filter(fresh) {
            Some(pass) => pass,
            None => self.new_pass(kinds, payer),
        };
        pass.step(objects, freed);
        if pass.round.shard().is_none() && !pass.next_round(self) {
            return Step::End;
        }
        self.pass = Some(pass);
        Step::More
    }
}

impl Pass {
    /// Frees up to `objects`, and takes from that what it frees, as far as one step goes.
    fn step(&mut self, objects: &mut usize, freed: &mut Freed) {
        let mut slots = SLOTS_PER_STEP;
        let mut histories = HISTORIES_PER_STEP;
        while let Some(i) = self.round.shard() {
            let mut shard = shard::lock(i);
            loop {
                let Some(left) = histories.checked_sub(1) else {
                    return;
                };
                histories = left;
                let id = self.round.id;
                let first = shard.first();
                let scanned = first.as_ref().and_then(|listed| listed.scanned(id));
                let (Some(mut listed), Some(scanned)) = (first, scanned) else {
                    break;
                };
                if self.concerns(&listed) {
                    let taken = self.take(&mut listed, scanned, &mut slots, objects, freed);
                    if let Err(scanned) = taken {
                        listed.set_scanned(id, scanned);
                        return;
                    }
                }
                listed.finish(id);
            }
            self.round.shard = self.round.shard.saturating_add(1);
        }
    }

    fn concerns(&self, listed: &Listed<'_>) -> bool {
        self.ages.has(self.age, listed.stamp()) == Some(true)
            && self.payer.is_none_or(|payer| payer == listed.payer())
    }

    /// Goes on to the next age class, or kind. Returns whether there is one.
    fn next_round(&mut self, state: &mut State) -> bool {
        self.age = self.age.saturating_add(1);
        let (packets, payloads) = limit::present();
        if self.ages.has(self.age, 0).is_none() || (self.kind == Kind::Payload && payloads == 0) {
            if self.kind == self.last_kind {
                return false;
            }
            self.kind = Kind::Record;
            self.age = self.record_age;
        }
        self.round = state.new_round();
        packets != 0
    }

    /// Goes back to payload if packets came with some meanwhile; their sockets have been active
    /// since about the start of the pass.
    fn look_for_payload(&mut self, state: &mut State) {
        if self.kind == Kind::Payload || limit::present().1 == 0 {
            return;
        }
        self.record_age = self.age;
        self.kind = Kind::Payload;
        self.age = self.ages.ends.len().saturating_sub(2);
        self.round = state.new_round();
    }

    /// Takes objects from a history, of which `scanned` slots were looked at before.
    ///
    /// # Errors
    ///
    /// If it could not look at all: how many were looked at by now.
    fn take(
        &self,
        listed: &mut Listed<'_>,
        scanned: u32,
        slots: &mut u32,
        objects: &mut usize,
        freed: &mut Freed,
    ) -> Result<(), u32> {
        let mut before = 0u32;
        for dir in Dir::ALL {
            let (ring, oldest) = listed.slots(dir);
            let size = ring.size();
            for i in scanned.saturating_sub(before).min(size)..size {
                let here = before.saturating_add(i);
                *slots = slots.checked_sub(1).ok_or(here)?;
                if *objects == 0 {
                    return Err(here);
                }
                let serial = oldest.saturating_add(u64::from(i));
                let Some(record) = ring.take(serial) else {
                    continue;
                };
                match self.take_from(record, objects, freed) {
                    // Looked at in vain: it goes where it was.
                    Outcome::Keep(record) => give_back(&ring, serial, record, listed, dir, freed),
                    Outcome::Stripped(record, pages) => {
                        listed.count(dir, Counter::Stripped);
                        listed.netns().count(Mib::ReclaimedPages, pages as u64);
                        Stock::here().reclaimed_payloads().add(1i64, Relaxed);
                        Stock::here().reclaimed_pages().add(pages as i64, Relaxed);
                        give_back(&ring, serial, record, listed, dir, freed);
                    }
                    Outcome::NoRoom(record) => {
                        give_back(&ring, serial, record, listed, dir, freed);
                        return Err(here);
                    }
                    Outcome::Freed(record) => free(record, listed, dir, freed),
                }
            }
            before = before.saturating_add(size);
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
fn give_back(
    ring: &crate::abi::slots::Slots,
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
fn free(record: Record, listed: &mut Listed<'_>, dir: Dir, freed: &mut Freed) {
    let pages = record.pages();
    listed.count(dir, Counter::Reclaimed);
    listed.netns().count(Mib::ReclaimedPackets, 1);
    let stock = Stock::here();
    stock.reclaimed_packets().add(1i64, Relaxed);
    if pages != 0 {
        listed.netns().count(Mib::ReclaimedPages, pages as u64);
        stock.reclaimed_payloads().add(1i64, Relaxed);
        stock.reclaimed_pages().add(pages as i64, Relaxed);
    }
    freed.push(record);
}

/// Frees up to `n` objects for memory reclaim. Returns how many, or `None` if there are none to
/// free at this time.
fn scan(n: usize) -> Option<usize> {
    const KINDS: (Kind, Kind) = (Kind::Payload, Kind::Record);
    let mut left = n;
    // The pass under way may be near its end; then another one may find more.
    let mut ends = 0;
    with_state(|state| {
        if let Some(mut pass) = state.pass.take() {
            if !state.is_lowering {
                pass.look_for_payload(state);
            }
            state.pass = Some(pass);
        }
    });
    for _ in 0..STEPS_PER_SCAN.saturating_add(n) {
        if left == 0 || ends == 2 {
            break;
        }
        let mut freed = Freed::new();
        let step = with_state(|state| {
            (!state.is_lowering).then(|| state.step(KINDS, None, &mut left, &mut freed))
        })?;
        account_reclaimed_pages(freed.release());
        if matches!(step, Step::End) {
            ends += 1;
        }
    }
    Some(n.saturating_sub(left))
}

/// The shrinker.
struct Histories;

impl Shrinker for Histories {
    type Data = ();

    // Nothing brings a packet back.
    const SEEKS: c_int = 4;

    fn count(_: (), _: &ShrinkControl<'_>) -> Count {
        if !is_wanted() {
            return Count::Empty;
        }
        let (packets, payloads) = limit::present();
        Count::objects(packets.saturating_add(payloads))
    }

    fn scan(_: (), control: &ShrinkControl<'_>) -> Scan {
        match is_wanted().then(|| scan(control.nr_to_scan())).flatten() {
            Some(freed) => Scan::Freed(freed),
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

/// Keeps others from reclaiming, and ends the pass under way.
struct Lowering;

impl Lowering {
    fn new() -> Self {
        with_state(|state| {
            state.pass = None;
            state.is_lowering = true;
        });
        Self
    }
}

impl Drop for Lowering {
    fn drop(&mut self) {
        with_state(|state| {
            state.pass = None;
            state.is_lowering = false;
        });
    }
}

/// Frees until a lowered limit holds, idle sockets first.
///
/// Context: process, one at a time. May sleep.
///
/// # Errors
///
/// `EINTR` if a signal came before it held; what is kept then only gets less until it holds.
pub(crate) fn enforce(resource: Resource) -> Result {
    if limit::exceeded(resource).is_none() {
        return Ok(());
    }
    let _lowering = Lowering::new();
    match try_enforce(resource) {
        Err(Stop::Holds) => Ok(()),
        Err(Stop::Signal) => Err(EINTR),
        Ok(never) => match never {},
    }
}

/// Why lowering a limit ends.
enum Stop {
    /// It holds.
    Holds,
    /// A signal came.
    Signal,
}

/// The payer who has to give.
///
/// # Errors
///
/// A reason to stop.
fn exceeded(resource: Resource) -> Result<Payer, Stop> {
    let payer = limit::exceeded(resource).ok_or(Stop::Holds)?;
    if kernel::current!().signal_pending() {
        return Err(Stop::Signal);
    }
    Ok(payer)
}

fn try_enforce(resource: Resource) -> Result<Infallible, Stop> {
    loop {
        let kind = match resource {
            Resource::Frags => Kind::Payload,
            Resource::Mem => Kind::Record,
        };
        give_back_objects(resource, kind)?;
        if resource == Resource::Mem {
            let slots = |_: &TcpSock, mut owner: Owner<'_>| lifecycle::give_back_slots(&mut owner);
            give_back_locked(resource, slots)?;
            give_back_locked(resource, lifecycle::give_back)?;
        }
        // What is left is in the hands of others at this moment.
        fsleep(Delta::from_millis(1));
        exceeded(resource)?;
    }
}

/// Who has to give, if the host's account holds, is containers alone.
fn only(payer: Payer) -> Option<Payer> {
    (payer == Payer::Containers).then_some(payer)
}

/// A pass that frees objects of one kind until the limit holds.
fn give_back_objects(resource: Resource, kind: Kind) -> Result<(), Stop> {
    let mut payer = exceeded(resource)?;
    with_state(|state| state.pass = None);
    loop {
        let mut left = OBJECTS_AT_ONCE;
        let mut freed = Freed::new();
        let step = with_state(|state| state.step((kind, kind), only(payer), &mut left, &mut freed));
        drop(freed);
        if matches!(step, Step::End) {
            return Ok(());
        }
        if left != OBJECTS_AT_ONCE {
            let before = payer;
            payer = exceeded(resource)?;
            if payer != before {
                with_state(|state| state.pass = None);
            }
        }
    }
}

/// Calls `f` for one socket after the other, idle ones first, until the limit holds.
fn give_back_locked(resource: Resource, f: impl Fn(&TcpSock, Owner<'_>)) -> Result<(), Stop> {
    let mut payer = exceeded(resource)?;
    let ages = with_state(|state| Ages::new(now(), state.last_start));
    for age in 0..ages.ends.len() {
        let mut round = with_state(State::new_round);
        while let Some(i) = round.shard() {
            let concerns = |listed: &Listed<'_>| {
                ages.has(age, listed.stamp()) == Some(true)
                    && only(payer).is_none_or(|payer| payer == listed.payer())
            };
            match next_socket(i, round.id, concerns) {
                Next::Socket(Some(sock)) => sock.with_lock(&f),
                // It is on its way out, and takes its history along.
                Next::Socket(None) => {}
                Next::Look => continue,
                Next::End => round.shard = round.shard.saturating_add(1),
            }
            payer = exceeded(resource)?;
        }
    }
    Ok(())
}

/// What [`next_socket`] finds.
enum Next {
    Socket(Option<HeldSock>),
    /// None among those that it looked at.
    Look,
    /// No more histories.
    End,
}

/// Finds the next history of a shard that a round has not seen and that `f` is true for.
fn next_socket(shard: u16, round: u32, f: impl Fn(&Listed<'_>) -> bool) -> Next {
    let mut shard = shard::lock(shard);
    for _ in 0..HISTORIES_PER_STEP {
        let unseen = |listed: &Listed<'_>| listed.scanned(round).is_some();
        let Some(listed) = shard.first().filter(unseen) else {
            return Next::End;
        };
        let found = f(&listed).then(|| listed.hold());
        listed.finish(round);
        if let Some(sock) = found {
            return Next::Socket(sock);
        }
    }
    Next::Look
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_reclaim)]
mod tests {
    use super::*;
    use crate::{
        abi::testing::{used, with_max, StackPacket, TestSock},
        record::Packet,
        ring,
    };

    const IP: [u8; 20] = [
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];

    /// A socket with `n` packets of which each keeps two pages.
    fn history(size: u32, n: usize, time: u64) -> Result<TestSock> {
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, size)?;
        send(&sock, n, time)?;
        Ok(sock)
    }

    fn send(sock: &TestSock, n: usize, time: u64) -> Result {
        let mut owner = sock.owner().ok_or(EINVAL)?;
        for _ in 0..n {
            let packet = StackPacket::new(&IP, &[7; 5000])?;
            let packet = Packet {
                skb: packet.skb(),
                ip: &IP,
                ip_len: IP.len(),
                ack_and_flags: None,
            };
            ring::record(sock.sk(), &mut owner, Dir::Out, time, &packet, 0);
        }
        Ok(())
    }

    /// Captured, evicted, reclaimed and stripped packets; the first three add up.
    fn counters(sock: &TestSock) -> Result<(u64, u64, u64, u64)> {
        let mut owner = sock.owner().ok_or(EINVAL)?;
        let ring = owner.ring(Dir::Out);
        Ok((
            ring.get(Counter::Captured),
            ring.get(Counter::Evicted),
            ring.get(Counter::Reclaimed),
            ring.get(Counter::Stripped),
        ))
    }

    #[test]
    fn age_classes_are_disjoint_and_complete() {
        let ages = Ages::new(100 * NS_PER_SEC, 97 * NS_PER_SEC);
        for stamp in [0, 36, 91, 92, 97, 98, 99, 100, 200] {
            let classes = (0..ages.ends.len())
                .filter(|i| ages.has(*i, stamp * NS_PER_SEC) == Some(true))
                .count();
            assert_eq!(classes, 1);
        }
        assert_eq!(ages.has(ages.ends.len(), 0), None);
        // Active since the last pass, and idle since then.
        let class = |stamp| (0..6).find(|i| ages.has(*i, stamp) == Some(true));
        assert!(class(97 * NS_PER_SEC) > class(97 * NS_PER_SEC - 1));
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

    #[test]
    fn a_lowered_page_limit_strips_until_it_holds() -> Result {
        let sock = history(20, 20, now())?;
        let all = used(Resource::Frags, Payer::Host);
        with_max(Resource::Frags, all - 5, || enforce(Resource::Frags))?;
        assert!(used(Resource::Frags, Payer::Host) <= all - 5);
        // Not more than need be, by what is freed at once.
        assert!(used(Resource::Frags, Payer::Host) + 2 * OBJECTS_AT_ONCE > all - 5);
        assert_eq!(limit::present().0, 20);
        with_max(Resource::Frags, 0, || enforce(Resource::Frags))?;
        assert_eq!(used(Resource::Frags, Payer::Host), 0);
        assert_eq!(limit::present(), (20, 0));
        assert_eq!(counters(&sock)?.3, 20);
        Ok(())
    }

    #[test]
    fn a_lowered_memory_limit_takes_records_then_slots_then_histories() -> Result {
        let start = used(Resource::Mem, Payer::Host);
        let sock = TestSock::new()?;
        lifecycle::begin_for_test(sock.sk(), 0, 20)?;
        let bare = used(Resource::Mem, Payer::Host);
        send(&sock, 1, now())?;
        let one = used(Resource::Mem, Payer::Host);
        send(&sock, 19, now())?;
        with_max(Resource::Mem, one, || enforce(Resource::Mem))?;
        let (packets, _) = limit::present();
        assert!(packets < 20);
        assert_eq!(counters(&sock)?.2 + packets as u64, 20);

        with_max(Resource::Mem, bare, || enforce(Resource::Mem))?;
        assert_eq!(limit::present(), (0, 0));
        assert_eq!(used(Resource::Mem, Payer::Host), bare);
        assert_eq!(counters(&sock)?, (20, 0, 20, 0));
        send(&sock, 2, now())?;
        assert_eq!(limit::present(), (2, 2));

        with_max(Resource::Mem, start, || enforce(Resource::Mem))?;
        assert_eq!(used(Resource::Mem, Payer::Host), start);
        assert!(sock.owner().is_none());
        Ok(())
    }

    #[test]
    fn nobody_else_reclaims_while_a_limit_is_lowered() -> Result {
        let sock = history(2, 2, now())?;
        let lowering = Lowering::new();
        assert_eq!(scan(1), None);
        drop(lowering);
        assert_eq!(scan(1), Some(1));
        drop(sock);
        Ok(())
    }
}

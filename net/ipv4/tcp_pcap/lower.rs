// SPDX-License-Identifier: GPL-2.0

//! A limit is lowered below what is kept: as much is freed as is too much, of idle sockets first.
//!
//! For pages that is payload. For memory it is records; then the slots of rings, chunk by chunk;
//! and at last whole histories, whose sockets then are as if nobody had asked for any. A history
//! can be taken only from a socket that nobody works on at this moment.
//!
//! Memory reclaim is kept out while histories are gone through: it would disturb the marks of a
//! pass that concerns containers only, and what it could free is being freed.

use crate::{
    abi::{
        account::{set_batch, Payer, Resource},
        history::wait_for_free,
        layout::Dir,
        reclaim::with_state,
        shard::{self, HeldSock, Listed},
        slots::Chunk,
        stack::{cond_resched, now},
    },
    lifecycle, limit,
    reclaim::{free, Kind, State, CLASSES, LAST_CLASS, NS_PER_SEC},
    record::Freed,
};
use core::convert::Infallible;
use kernel::{
    prelude::*,
    time::{delay::fsleep, Delta},
};

/// Objects freed at a time; after that it looks whether the limit holds.
const OBJECTS_AT_ONCE: usize = 16;

/// Histories looked at under one lock.
const HISTORIES_AT_ONCE: u32 = 64;

/// Chunks that wait for one grace period.
const CHUNKS_AT_ONCE: usize = 1024;

/// How long it tries to get what is in the hands of others, and how often at least: where there is
/// more to do than processors can, whoever has a socket in hand waits for one, and so does this.
const PATIENCE: u64 = 2 * NS_PER_SEC;
const LEAST_TRIES: u32 = 32;

/// For how long, and how often, it has tried.
#[derive(Default)]
struct Patience {
    end: Option<u64>,
    tries: u32,
}

impl Patience {
    /// Whether it is over, after one more that ended at `now` in vain.
    fn is_over(&mut self, now: u64) -> bool {
        let end = *self.end.get_or_insert(now.saturating_add(PATIENCE));
        self.tries = self.tries.saturating_add(1);
        now >= end && self.tries >= LEAST_TRIES
    }
}

/// Keeps memory reclaim out.
struct Lowering;

impl Lowering {
    fn new() -> Self {
        with_state(|state| state.set_lowering(true));
        Self
    }
}

impl Drop for Lowering {
    fn drop(&mut self) {
        with_state(|state| state.set_lowering(false));
    }
}

/// Frees until a lowered limit holds; first what is kept for later, also when it holds already.
///
/// Context: process, one at a time. May sleep.
///
/// # Errors
///
/// `EINTR` if a signal came before it held; `EBUSY` if it does not hold because of histories that
/// are in the hands of others all the time.
pub(crate) fn enforce(resource: Resource) -> Result {
    limit::flush(resource);
    let ret = match limit::exceeded(resource) {
        Some(_) => try_enforce(resource),
        None => Err(Stop::Holds),
    };
    set_batch(resource);
    match ret {
        Err(Stop::Holds) => Ok(()),
        Err(Stop::Signal) => Err(EINTR),
        Err(Stop::Busy) => Err(EBUSY),
        Ok(never) => match never {},
    }
}

/// Why it ends.
enum Stop {
    /// The limit holds.
    Holds,
    /// A signal came.
    Signal,
    /// The rest cannot be freed.
    Busy,
}

fn try_enforce(resource: Resource) -> Result<Infallible, Stop> {
    let mut patience = Patience::default();
    loop {
        // What nobody has any more goes first.
        wait_for_free();
        let lowering = Lowering::new();
        match resource {
            Resource::Frags => free_objects(resource, Kind::Payload)?,
            Resource::Mem => {
                free_objects(resource, Kind::Record)?;
                free_slots(resource)?;
                free_histories(resource)?;
            }
        }
        // What is left is in the hands of others at this moment. They may need memory.
        drop(lowering);
        fsleep(Delta::from_millis(1));
        wait_for_free();
        exceeded(resource)?;
        if patience.is_over(now()) {
            return Err(Stop::Busy);
        }
    }
}

/// Who has to give: `None` for all, or containers alone.
///
/// # Errors
///
/// A reason to stop.
fn exceeded(resource: Resource) -> Result<Option<Payer>, Stop> {
    let payer = limit::exceeded(resource).ok_or(Stop::Holds)?;
    if kernel::current!().signal_pending() {
        return Err(Stop::Signal);
    }
    cond_resched();
    Ok((payer == Payer::Containers).then_some(payer))
}

/// Frees objects of one kind until the limit holds or there are no more.
fn free_objects(resource: Resource, kind: Kind) -> Result<(), Stop> {
    let mut payer = exceeded(resource)?;
    let mut pass = with_state(|state| state.new_pass(kind, kind, payer));
    loop {
        let mut left = OBJECTS_AT_ONCE;
        let mut freed = Freed::new();
        let more = with_state(|state| pass.step(state, &mut left, &mut freed));
        drop(freed);
        let now = exceeded(resource)?;
        if now != payer {
            // The host's limit holds, that of containers does not yet.
            payer = now;
            pass = with_state(|state| state.new_pass(kind, kind, payer));
        } else if !more {
            return Ok(());
        }
    }
}

/// Calls `f` for the histories that have to give, idle ones first, under the lock of their shard,
/// and `after` each time when that is released, until the limit holds. `f` says whether it is done
/// with a history.
fn for_each_history<C>(
    resource: Resource,
    context: &mut C,
    f: fn(&mut C, &mut Listed<'_>) -> bool,
    after: fn(&mut C),
) -> Result<(), Stop> {
    let ages = with_state(|state| state.ages());
    for class in 0..CLASSES {
        let mut round = with_state(State::new_round);
        while let Some(i) = round.shard() {
            let payer = exceeded(resource)?;
            let mut shard = shard::lock(i);
            let mut is_over = false;
            for _ in 0..HISTORIES_AT_ONCE {
                let unseen = |listed: &Listed<'_>| listed.scanned(round.id).is_some();
                let Some(mut listed) = shard.first().filter(unseen) else {
                    is_over = true;
                    break;
                };
                // A listener records nothing, but its children do.
                let its_class = match listed.is_listener() {
                    true => LAST_CLASS,
                    false => ages.class(listed.stamp()),
                };
                let concerns =
                    its_class == class && payer.is_none_or(|payer| payer == listed.payer());
                if !concerns {
                    listed.finish(round.id);
                    continue;
                }
                if f(context, &mut listed) {
                    listed.finish(round.id);
                }
                break;
            }
            drop(shard);
            after(context);
            if is_over {
                round.next_shard();
            }
        }
    }
    Ok(())
}

/// Chunks that were taken away, and the records that were in them.
struct Chunks {
    chunks: KVec<Chunk>,
    /// How many are freed together.
    at_once: usize,
    records: Freed,
}

impl Chunks {
    /// Takes the next chunk of a history.
    fn take(&mut self, listed: &mut Listed<'_>) -> bool {
        for dir in Dir::ALL {
            let Some(chunk) = listed.take_chunk(dir) else {
                continue;
            };
            for record in chunk.records(usize::MAX) {
                free(record, listed, dir, &mut self.records);
            }
            // There is room, as `release_full` makes some.
            let _ = self.chunks.push_within_capacity(chunk);
            return false;
        }
        true
    }

    /// Frees them when there are many. More each time, since each time takes a grace period.
    fn release_full(&mut self) {
        self.records.release();
        if self.chunks.len() >= self.at_once {
            self.release();
            self.at_once = self.at_once.saturating_mul(2).min(CHUNKS_AT_ONCE);
        }
    }

    fn release(&mut self) {
        if !self.chunks.is_empty() {
            Chunk::free(self.chunks.drain_all());
        }
    }
}

/// Takes chunks of slots away until the limit holds or there are no more.
fn free_slots(resource: Resource) -> Result<(), Stop> {
    let mut chunks = Chunks {
        // They are put there under a lock, so there must be room.
        chunks: KVec::with_capacity(CHUNKS_AT_ONCE, GFP_KERNEL).map_err(|_| Stop::Busy)?,
        at_once: 1,
        records: Freed::new(),
    };
    let ret = for_each_history(resource, &mut chunks, Chunks::take, Chunks::release_full);
    chunks.release();
    ret
}

/// Takes histories away until the limit holds or there are no more that can be taken.
fn free_histories(resource: Resource) -> Result<(), Stop> {
    let hold = |sock: &mut Option<HeldSock>, listed: &mut Listed<'_>| {
        *sock = listed.hold();
        true
    };
    for_each_history(resource, &mut None, hold, |sock| {
        let mut is_freed_later = false;
        if let Some(sock) = sock.take() {
            sock.try_own(|sk, owner| is_freed_later = lifecycle::give_back(sk, owner));
        }
        if is_freed_later {
            // So that not another one is taken for what a worker is about to free.
            wait_for_free();
        }
    })
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_lower)]
mod tests {
    use super::*;
    use crate::{
        abi::{
            history::{NextSlot, Owner},
            testing::{used, with_max, TestSock},
        },
        reclaim::{
            scan,
            testing::{counters, history, send},
        },
    };
    use kernel::sync::rcu;

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
        // Else the history may have slots from the start.
        limit::free_spares();
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

        // Where the one chunk of slots was is a null pointer now, which stays.
        let no_slots = bare + size_of::<*const ()>();
        with_max(Resource::Mem, no_slots, || enforce(Resource::Mem))?;
        assert_eq!(limit::present(), (0, 0));
        assert_eq!(used(Resource::Mem, Payer::Host), no_slots);
        assert_eq!(counters(&sock)?, (20, 0, 20, 0));
        send(&sock, 2, now())?;
        assert_eq!(limit::present(), (2, 2));

        with_max(Resource::Mem, start, || enforce(Resource::Mem))?;
        assert_eq!(used(Resource::Mem, Payer::Host), start);
        assert!(sock.owner().is_none());
        Ok(())
    }

    #[test]
    fn no_more_histories_are_taken_than_need_be() -> Result {
        const SOCKS: usize = 4;
        limit::free_spares();
        let mut socks = KVec::new();
        for _ in 0..SOCKS {
            let sock = TestSock::new()?;
            lifecycle::begin_for_test(sock.sk(), 0, 300)?;
            socks.push(sock, GFP_KERNEL)?;
        }
        let no_slots = used(Resource::Mem, Payer::Host) + SOCKS * size_of::<*const ()>();
        for sock in &socks {
            send(sock, 300, now())?;
        }
        with_max(Resource::Mem, no_slots - 1, || enforce(Resource::Mem))?;
        let left = socks.iter().filter(|sock| sock.owner().is_some()).count();
        assert_eq!(left, SOCKS - 1);
        Ok(())
    }

    #[test]
    fn idle_sockets_lose_their_slots_and_histories_first() -> Result {
        const SOCKS: usize = 4;
        const IDLE: usize = 2;
        limit::free_spares();
        let mut socks = KVec::new();
        for _ in 0..SOCKS {
            socks.push(history(300, 0, 0)?, GFP_KERNEL)?;
        }
        let no_slots = used(Resource::Mem, Payer::Host) + SOCKS * size_of::<*const ()>();
        for (i, sock) in socks.iter().enumerate() {
            let time = match i {
                IDLE => now().saturating_sub(20 * NS_PER_SEC),
                _ => now() + NS_PER_SEC,
            };
            send(sock, 2, time)?;
        }
        assert_eq!(scan(1000), Some(2 * 2 * SOCKS));
        let lacking = |has: fn(Owner<'_>) -> bool| {
            let lacks = |(_, sock): &(usize, &TestSock)| !sock.owner().is_some_and(has);
            let mut lacking = socks.iter().enumerate().filter(lacks).map(|(i, _)| i);
            (lacking.next(), lacking.next())
        };
        let has_slots = |mut owner: Owner<'_>| {
            let rcu = rcu::read_lock();
            NextSlot::of(owner.ring(Dir::Out), &rcu).is_ok()
        };
        assert_eq!(lacking(has_slots), (None, None));
        let all = used(Resource::Mem, Payer::Host);
        with_max(Resource::Mem, all - 1, || enforce(Resource::Mem))?;
        assert_eq!(lacking(has_slots), (Some(IDLE), None));
        with_max(Resource::Mem, no_slots - 1, || enforce(Resource::Mem))?;
        assert_eq!(lacking(|_| true), (Some(IDLE), None));
        Ok(())
    }

    #[test]
    fn a_history_in_the_hands_of_others_is_tried_again_and_again() -> Result {
        limit::free_spares();
        let start = used(Resource::Mem, Payer::Host);
        let sock = history(2, 2, now())?;
        let lower = || with_max(Resource::Mem, start, || enforce(Resource::Mem));
        let begin = now();
        assert_eq!(sock.locked(|_| lower()), Err(EBUSY));
        assert!(now() >= begin.saturating_add(PATIENCE));
        assert!(sock.owner().is_some());
        lower()?;
        assert!(sock.owner().is_none());
        Ok(())
    }

    #[test]
    fn patience_is_a_time_and_a_number_of_tries() {
        let mut hurried = Patience::default();
        for i in 1..LEAST_TRIES {
            assert!(!hurried.is_over(u64::from(i) * PATIENCE));
        }
        assert!(hurried.is_over(u64::from(LEAST_TRIES) * PATIENCE));

        let mut patient = Patience::default();
        for _ in 0..2 * LEAST_TRIES {
            assert!(!patient.is_over(1));
        }
        assert!(!patient.is_over(PATIENCE));
        assert!(patient.is_over(1 + PATIENCE));
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

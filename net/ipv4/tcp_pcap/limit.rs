// SPDX-License-Identifier: GPL-2.0

//! Hard limits: what all histories together may hold.
//!
//! An [`Account`] is charged before something is kept and released after it was given back, so that
//! what is kept is never more than what is charged, and what is charged never more than the
//! maximum.
//!
//! So that not every charge writes the same cache line, each CPU reserves more than it needs and
//! keeps the rest in stock. What is limited is what is *reserved*: the sum over all CPUs of what is
//! charged and what is in stock. Before a charge is refused all CPUs' stocks are given back. CPUs
//! that may have something in stock are marked, so that a refusal looks at the marks only while
//! nothing is released. What another CPU gives back at this very moment may be missed.
//!
//! Each CPU also keeps some records of closed connections for the next ones, and some histories
//! with their slots. These stay charged, but are not in use: they are given back before the stocks
//! are.
//!
//! What a container charges is reserved in the containers' account and in that of the host.

use crate::abi::{
    account::{Account, Payer, Resource, Stock},
    charged::Charged,
    history::Capture,
    spares::Open,
};
use core::mem;
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Full, Relaxed},
};

/// Something charged, released when dropped.
pub(crate) struct Charge {
    resource: Resource,
    payer: Payer,
    n: usize,
}

impl Charge {
    /// Charges `n`, or counts the refusal.
    ///
    /// Context: any but hard interrupts.
    pub(crate) fn new(resource: Resource, payer: Payer, n: usize) -> Option<Self> {
        let amount = i64::try_from(n).ok()?;
        let stock = Stock::here();
        if take(stock.left(resource, payer), amount) || reserve(resource, payer, amount) {
            return Some(Self { resource, payer, n });
        }
        stock.refused(resource, payer).add(1i64, Relaxed);
        None
    }

    /// What [`Self::keep`] left charged.
    pub(crate) fn from_kept(resource: Resource, payer: Payer, n: usize) -> Self {
        Self { resource, payer, n }
    }

    /// How much it is.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Leaves it charged, until it is released by [`Self::release`] or through
    /// [`Self::from_kept`].
    pub(crate) fn keep(self) {
        mem::forget(self)
    }

    /// Takes `n` off an account, which an earlier charge put there.
    pub(crate) fn release(resource: Resource, payer: Payer, n: usize) {
        drop(Self::from_kept(resource, payer, n))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Self { resource, payer, n } = *self;
        if n == 0 {
            return;
        }
        let batch = Account::of(resource, payer).batch();
        let stock = Stock::here();
        let left = stock.left(resource, payer);
        let before = left.fetch_add(n as i64, Full);
        if before == 0 {
            stock.mark(resource, payer);
        }
        let excess = before
            .saturating_add(n as i64)
            .saturating_sub(batch.saturating_mul(2));
        if excess > 0 {
            // Down to one batch, so that the next charge finds some and the next release room.
            let excess = excess.saturating_add(batch);
            if take(left, excess) {
                give_back(resource, payer, excess);
            }
        }
    }
}

/// Takes `n` from a stock, if it has as many.
#[inline]
fn take(left: &Atomic<i64>, n: i64) -> bool {
    let mut now = left.load(Relaxed);
    while now >= n {
        match left.cmpxchg(now, now.saturating_sub(n), Full) {
            Ok(_) => return true,
            Err(other) => now = other,
        }
    }
    false
}

/// Reserves `n` for a charge, and some for the stock if there is enough.
#[cold]
fn reserve(resource: Resource, payer: Payer, n: i64) -> bool {
    let batch = Account::of(resource, payer).batch();
    let more = n.checked_add(batch).filter(|_| batch != 0);
    if more.is_some_and(|more| grow(resource, payer, more).is_ok()) {
        let stock = Stock::here();
        if stock.left(resource, payer).fetch_add(batch, Full) == 0 {
            stock.mark(resource, payer);
        }
        return true;
    }
    match grow(resource, payer, n) {
        Ok(()) => true,
        Err(full) => {
            let mut lacking = full;
            let mut fits = || {
                grow(resource, payer, n)
                    .map_err(|full| lacking = full)
                    .is_ok()
            };
            if drain(resource, full, &mut fits) {
                return true;
            }
            // With room in the containers' account, the host's may be full.
            lacking != full && drain(resource, lacking, || grow(resource, payer, n).is_ok())
        }
    }
}

/// Reserves `n`, or tells whose account is full.
fn grow(resource: Resource, payer: Payer, n: i64) -> Result<(), Payer> {
    if payer == Payer::Containers && !grow_one(Account::of(resource, payer), n) {
        return Err(payer);
    }
    if !grow_one(Account::of(resource, Payer::Host), n) {
        if payer == Payer::Containers {
            Account::of(resource, payer)
                .reserved()
                .add(n.wrapping_neg(), Relaxed);
        }
        return Err(Payer::Host);
    }
    Ok(())
}

/// Reserves `n` in one account, if that does not exceed its maximum.
fn grow_one(account: &Account, n: i64) -> bool {
    let reserved = account.reserved();
    let mut now = reserved.load(Relaxed);
    loop {
        let Some(more) = now.checked_add(n).filter(|more| *more <= account.max()) else {
            return false;
        };
        match reserved.cmpxchg(now, more, Full) {
            // The maximum may have been lowered since it was read; whoever did that has not seen
            // this if it is seen here.
            Ok(_) if more > account.max() => {
                reserved.add(n.wrapping_neg(), Relaxed);
                return false;
            }
            Ok(_) => {
                raise(account.peak(), more);
                return true;
            }
            Err(other) => now = other,
        }
    }
}

/// Makes a counter at least `n`.
fn raise(counter: &Atomic<i64>, n: i64) {
    let mut now = counter.load(Relaxed);
    while now < n {
        match counter.cmpxchg(now, n, Relaxed) {
            Ok(_) => return,
            Err(other) => now = other,
        }
    }
}

/// The opposite of [`grow`].
fn give_back(resource: Resource, payer: Payer, n: i64) {
    Account::of(resource, Payer::Host)
        .reserved()
        .add(n.wrapping_neg(), Relaxed);
    if payer == Payer::Containers {
        Account::of(resource, payer)
            .reserved()
            .add(n.wrapping_neg(), Relaxed);
    }
}

/// What this CPU keeps of closed connections for the next ones of the same payer, to be filled.
pub(crate) struct Spares<'a> {
    open: Open<'a>,
    stock: &'a Stock,
    payer: Payer,
    /// Bytes up to which it is filled.
    most: i64,
    was_empty: bool,
    records: i64,
}

/// What this CPU keeps, if more should be kept: all that is charged is not much of what may be
/// used, so nobody is short of memory, and nobody else has it in hand.
pub(crate) fn spares(payer: Payer) -> Option<Spares<'static>> {
    let has_room = |payer| {
        let account = Account::of(Resource::Mem, payer);
        let max = account.max();
        account.reserved().load(Relaxed) <= max.saturating_sub(max / 8)
    };
    if !has_room(Payer::Host) || payer != Payer::Host && !has_room(payer) {
        return None;
    }
    let stock = Stock::here();
    let open = stock.spares(payer).try_open()?;
    Some(Spares {
        was_empty: open.bytes() == 0,
        open,
        stock,
        payer,
        most: Account::of(Resource::Mem, payer).batch(),
        records: 0,
    })
}

impl Spares<'_> {
    /// Keeps the skb of a record that holds no pages, and is in use no more.
    ///
    /// # Errors
    ///
    /// The skb, if there is no room for it; it is still in use.
    #[inline]
    pub(crate) fn keep(&mut self, skb: Charged) -> Result<(), Charged> {
        if self.open.bytes() >= self.most {
            return Err(skb);
        }
        self.open.push(skb)?;
        self.records = self.records.wrapping_add(1);
        Ok(())
    }

    /// Keeps a history without records, charged with `mem` bytes, or frees it. One of other sizes
    /// makes room for it: they seem to be in use no more.
    pub(crate) fn keep_history(&mut self, history: Capture, mem: usize) {
        let suits = |kept: &Capture| kept.ring_sizes() != history.ring_sizes();
        drop(self.open.pop_history_if(suits));
        if self.open.bytes().saturating_add(mem as i64) <= self.most {
            drop(self.open.push_history(history, mem));
        }
    }
}

impl Drop for Spares<'_> {
    #[inline]
    fn drop(&mut self) {
        self.stock
            .packets()
            .add(self.records.wrapping_neg(), Relaxed);
        // Before others may have it: what they find in it is not empty.
        if self.was_empty && self.open.bytes() != 0 {
            self.stock.mark(Resource::Mem, self.payer);
        }
    }
}

/// The skb of a record that was kept, and is in use from now on.
#[inline]
pub(crate) fn take_record(payer: Payer) -> Option<Charged> {
    let stock = Stock::here();
    let skb = stock.spares(payer).try_open()?.pop()?;
    stock.packets().add(1i64, Relaxed);
    Some(skb)
}

/// A history that was kept, if the last one suits.
#[inline]
pub(crate) fn take_history(payer: Payer, suits: impl FnOnce(&Capture) -> bool) -> Option<Capture> {
    let mut open = Stock::here().spares(payer).try_open()?;
    open.pop_history_if(suits)
}

/// Whether what a payer's charges are reserved for counts for the account that is full.
#[inline]
fn counts_for(full: Payer, payer: Payer) -> bool {
    // The host's stock is not reserved in the account of the containers.
    full == Payer::Host || payer == Payer::Containers
}

/// Frees what a CPU keeps for later. Returns how many records and histories. What the histories
/// were charged with is in a stock then, maybe of another CPU.
fn free_spares_of(stock: &Stock, payer: Payer) -> (usize, usize) {
    let mut freed = (0usize, 0usize);
    // Before it is looked at: whoever has it may make something of nothing.
    let Some(mut open) = stock.spares(payer).try_open() else {
        // For whoever comes next.
        stock.mark(Resource::Mem, payer);
        return freed;
    };
    while let Some(skb) = open.pop() {
        let mem = skb.truesize() as i64;
        drop(skb.into_inner());
        give_back(Resource::Mem, payer, mem);
        freed.0 = freed.0.saturating_add(1);
    }
    while let Some(history) = open.pop_history_if(|_| true) {
        drop(history);
        freed.1 = freed.1.saturating_add(1);
    }
    freed
}

/// Frees all that is kept for later. Returns how many records and histories.
pub(crate) fn free_spares() -> usize {
    let mut freed = 0usize;
    for stock in Stock::all() {
        for payer in Payer::ALL {
            // Looked at first, so that a CPU that keeps nothing is left alone.
            if stock.spares(payer).bytes().load(Relaxed) == 0 {
                continue;
            }
            let (records, histories) = free_spares_of(stock, payer);
            freed = freed.saturating_add(records).saturating_add(histories);
        }
    }
    freed
}

/// Bytes of all that is kept for later.
pub(crate) fn spare_bytes() -> usize {
    let mut sum = 0i64;
    for stock in Stock::all() {
        for payer in Payer::ALL {
            sum = sum.saturating_add(stock.spares(payer).bytes().load(Relaxed));
        }
    }
    usize::try_from(sum).unwrap_or(0)
}

/// What came of looking at all stocks once.
#[derive(PartialEq)]
enum Drained {
    /// It fits.
    Fits,
    /// It does not, but histories were freed, and what they were charged with may be where this
    /// has been already.
    NotYet,
    /// It does not, and there is no more.
    All,
}

/// Gives back what CPUs have in stock of the account that is full, one CPU's after the other, until
/// `fits`.
fn drain_once(resource: Resource, full: Payer, mut fits: impl FnMut() -> bool) -> Drained {
    let mut drained = Drained::All;
    for payer in Payer::ALL {
        if !counts_for(full, payer) {
            continue;
        }
        for stock in Stock::marked(resource, payer) {
            let (records, histories) = match resource {
                Resource::Mem => free_spares_of(stock, payer),
                Resource::Frags => (0, 0),
            };
            if histories != 0 {
                drained = Drained::NotYet;
            }
            let left = stock.left(resource, payer).xchg(0, Full);
            give_back(resource, payer, left);
            if (records != 0 || histories != 0 || left != 0) && fits() {
                return Drained::Fits;
            }
        }
    }
    drained
}

/// Gives back what CPUs have in stock of the account that is full until `fits`, which is asked at
/// least once.
///
/// It ends: an account that something does not fit into is so full that nobody keeps more for
/// later.
fn drain(resource: Resource, full: Payer, mut fits: impl FnMut() -> bool) -> bool {
    loop {
        match drain_once(resource, full, &mut fits) {
            Drained::Fits => return true,
            Drained::NotYet => {}
            Drained::All => return fits(),
        }
    }
}

/// Gives back what all CPUs have in stock and keep for later. What they go on to reserve and keep
/// meanwhile stays.
pub(crate) fn flush(resource: Resource) {
    if drain_once(resource, Payer::Host, || false) == Drained::NotYet {
        drain_once(resource, Payer::Host, || false);
    }
}

/// The payer whose account holds more than its maximum, after that was lowered, although all is
/// given back that CPUs have in stock of it. The stock of an account that holds is left alone.
pub(crate) fn exceeded(resource: Resource) -> Option<Payer> {
    Payer::ALL.into_iter().find(|payer| {
        let account = Account::of(resource, *payer);
        let holds = || account.reserved().load(Relaxed) <= account.max();
        !holds() && !drain(resource, *payer, holds)
    })
}

/// Records that there are, and those of them that keep pages in memory.
pub(crate) fn present() -> (usize, usize) {
    let (mut packets, mut payloads) = (0i64, 0i64);
    for stock in Stock::all() {
        packets = packets.saturating_add(stock.packets().load(Relaxed));
        payloads = payloads.saturating_add(stock.payloads().load(Relaxed));
    }
    // The CPUs are not read at one moment, so a sum can be off, and negative.
    let clamp = |n| usize::try_from(n).unwrap_or(0);
    (clamp(packets), clamp(payloads))
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_limit)]
mod tests {
    use super::*;
    use crate::abi::{
        account::set_batch,
        testing::{used, with_max},
    };
    use Payer::*;
    use Resource::*;

    fn refused(payer: Payer) -> i64 {
        Stock::all()
            .map(|stock| stock.refused(Frags, payer).load(Relaxed))
            .sum()
    }

    #[test]
    fn charges_up_to_the_maximum_and_not_one_more() {
        for max in [3, 4000, 1 << 20] {
            with_max(Frags, max, || {
                let start = refused(Host);
                let most = Charge::new(Frags, Host, max - 1);
                assert!(most.is_some());
                assert!(Charge::new(Frags, Host, 2).is_none());
                assert_eq!(refused(Host), start + 1);
                let one = Charge::new(Frags, Host, 1);
                assert!(one.is_some());
                assert!(Charge::new(Frags, Host, 1).is_none());
                assert_eq!(used(Frags, Host), max);
            });
        }
    }

    #[test]
    fn one_by_one_up_to_the_maximum() {
        const MAX: usize = 5000;
        with_max(Frags, MAX, || {
            let mut charged = 0;
            while let Some(charge) = Charge::new(Frags, Host, 1) {
                charge.keep();
                charged += 1;
                assert_eq!(used(Frags, Host), charged);
                let account = Account::of(Frags, Host);
                assert!(account.reserved().load(Relaxed) <= MAX as i64);
            }
            assert_eq!(charged, MAX);
            for left in (0..MAX).rev() {
                Charge::release(Frags, Host, 1);
                assert_eq!(used(Frags, Host), left);
            }
            // What is left in stock is little.
            let account = Account::of(Frags, Host);
            assert!(account.reserved().load(Relaxed) <= 2 * account.batch());
            assert_eq!(account.peak().load(Relaxed), MAX as i64);
        });
    }

    #[test]
    fn stocks_are_given_back_before_a_charge_is_refused() {
        // So much that each of many CPUs may have a stock.
        const MAX: usize = 1 << 20;
        with_max(Frags, MAX, || {
            let batch = Account::of(Frags, Host).batch();
            assert!(batch > 0);
            for (i, stock) in Stock::all().enumerate() {
                // Another CPU's stock.
                if i == 0 {
                    assert!(grow(Frags, Host, batch).is_ok());
                    stock.left(Frags, Host).add(batch, Relaxed);
                    stock.mark(Frags, Host);
                }
            }
            assert_eq!(used(Frags, Host), 0);
            assert!(Charge::new(Frags, Host, MAX).is_some());
        });
    }

    #[test]
    fn a_refusal_looks_at_no_stock_until_something_is_released() {
        with_max(Frags, 8192, || {
            let all = Charge::new(Frags, Host, 8192);
            assert!(all.is_some());
            assert!(Charge::new(Frags, Host, 1).is_none());
            assert!(Stock::marked(Frags, Host).next().is_none());
            drop(all);
            // The stock is found, and given back, though there was none a moment ago.
            assert!(Charge::new(Frags, Host, 8192).is_some());
        });
    }

    #[test]
    fn spares_in_hand_stay_in_hand_until_they_are_let_go() {
        for spares in Stock::all().map(|stock| stock.spares(Containers)) {
            let open = spares.try_open();
            assert!(open.is_some());
            assert!(spares.try_open().is_none());
            assert!(spares.try_open().is_none());
            drop(open);
            assert!(spares.try_open().is_some());
            assert!(spares.try_open().is_some());
        }
    }

    #[test]
    fn gives_back_when_dropped_but_not_when_kept() {
        with_max(Frags, 10, || {
            drop(Charge::new(Frags, Host, 4));
            assert_eq!(used(Frags, Host), 0);
            if let Some(c) = Charge::new(Frags, Host, 4) {
                c.keep();
            }
            assert_eq!(used(Frags, Host), 4);
            Charge::release(Frags, Host, 4);
            assert_eq!(used(Frags, Host), 0);
        });
    }

    #[test]
    fn containers_have_a_quarter_and_the_host_the_rest() {
        for max in [8, 8192] {
            with_max(Frags, max, || {
                assert!(Charge::new(Frags, Containers, max / 4 + 1).is_none());
                let quarter = Charge::new(Frags, Containers, max / 4);
                assert!(quarter.is_some());
                assert!(Charge::new(Frags, Containers, 1).is_none());
                assert_eq!(used(Frags, Containers), max / 4);
                assert_eq!(used(Frags, Host), max / 4);
                assert!(Charge::new(Frags, Host, max).is_none());
                let rest = Charge::new(Frags, Host, max - max / 4);
                assert!(rest.is_some());
                drop(quarter);
                assert_eq!(used(Frags, Containers), 0);
                assert_eq!(used(Frags, Host), max - max / 4);
                let all = Charge::new(Frags, Host, max / 4);
                assert!(all.is_some());
                // Room in the quarter, but none at all.
                assert!(Charge::new(Frags, Containers, 1).is_none());
                assert_eq!(used(Frags, Containers), 0);
            });
        }
    }

    #[test]
    fn nothing_fits_an_account_of_zero_and_huge_charges_do_not_wrap() {
        with_max(Frags, 0, || {
            assert!(Charge::new(Frags, Host, 1).is_none());
            assert!(Charge::new(Frags, Host, 0).is_some());
            assert!(Charge::new(Frags, Host, usize::MAX).is_none());
        });
        with_max(Frags, usize::MAX, || {
            let most = Charge::new(Frags, Host, i64::MAX as usize);
            assert!(most.is_some());
            assert!(Charge::new(Frags, Host, 1).is_none());
        });
    }

    #[test]
    fn what_is_released_while_a_maximum_is_exceeded_is_not_charged_again() {
        const MAX: usize = 1 << 20;
        with_max(Frags, 2 * MAX, || {
            let charge = Charge::new(Frags, Host, MAX);
            let more = Charge::new(Frags, Host, 10);
            assert!(charge.is_some() && more.is_some());
            with_max(Frags, MAX, || {
                drop(more);
                let stocked = |payer| Account::of(Frags, payer).batch() != 0;
                assert!(!stocked(Host) && !stocked(Containers));
                assert!(Charge::new(Frags, Host, 1).is_none());
                set_batch(Frags);
                assert!(stocked(Host) && stocked(Containers));
                assert!(Charge::new(Frags, Host, 1).is_none());
            });
        });
    }

    #[test]
    fn a_lowered_maximum_is_exceeded_until_enough_is_released() {
        with_max(Frags, 8192, || {
            let charge = Charge::new(Frags, Containers, 1000);
            assert!(charge.is_some());
            assert_eq!(exceeded(Frags), None);
            with_max(Frags, 3999, || {
                assert_eq!(exceeded(Frags), Some(Containers));
            });
            with_max(Frags, 999, || assert_eq!(exceeded(Frags), Some(Host)));
            drop(charge);
            with_max(Frags, 0, || assert_eq!(exceeded(Frags), None));
        });
    }
}

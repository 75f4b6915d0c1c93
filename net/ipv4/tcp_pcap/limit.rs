// SPDX-License-Identifier: GPL-2.0

//! Hard limits: what all histories together may hold.
//!
//! An [`Account`] is charged before something is kept and released after it was given back, so that
//! what is kept is never more than what is charged, and what is charged never more than the
//! maximum.

use crate::abi::layout::Account;
use core::mem;
use kernel::{
    prelude::*,
    sync::atomic::{Full, Relaxed},
};

/// Something charged to an account, released when dropped.
pub(crate) struct Charge<'a> {
    account: &'a Account,
    n: usize,
}

impl<'a> Charge<'a> {
    /// Charges `n`, or counts the refusal.
    pub(crate) fn new(account: &'a Account, n: usize) -> Option<Self> {
        let max = i64::try_from(account.max()).unwrap_or(i64::MAX);
        let charge = i64::try_from(n).ok()?;
        let used = account.used();
        let mut old = used.load(Relaxed);
        loop {
            let new = old.checked_add(charge).filter(|new| *new <= max);
            let Some(new) = new else {
                account.refused().add(1i64, Relaxed);
                return None;
            };
            match used.cmpxchg(old, new, Full) {
                Ok(_) => return Some(Self { account, n }),
                Err(now) => old = now,
            }
        }
    }

    /// Leaves it charged, until [`Self::release`].
    pub(crate) fn keep(self) {
        mem::forget(self)
    }

    /// Takes `n` off the account, which an earlier charge put there.
    pub(crate) fn release(account: &Account, n: usize) {
        if n != 0 {
            account.used().add(-(n as i64), Relaxed);
        }
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        Self::release(self.account, self.n)
    }
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_limit)]
mod tests {
    use super::*;

    #[test]
    fn charges_up_to_the_maximum_and_not_one_more() {
        let account = Account::new_for_test(3);
        let two = Charge::new(&account, 2);
        assert!(two.is_some());
        assert!(Charge::new(&account, 2).is_none());
        assert_eq!(account.refused().load(Relaxed), 1);
        let one = Charge::new(&account, 1);
        assert!(one.is_some());
        assert!(Charge::new(&account, 1).is_none());
        assert_eq!(account.used().load(Relaxed), 3);
    }

    #[test]
    fn gives_back_when_dropped_but_not_when_kept() {
        let account = Account::new_for_test(10);
        drop(Charge::new(&account, 4));
        assert_eq!(account.used().load(Relaxed), 0);
        if let Some(c) = Charge::new(&account, 4) {
            c.keep();
        }
        assert_eq!(account.used().load(Relaxed), 4);
        Charge::release(&account, 4);
        assert_eq!(account.used().load(Relaxed), 0);
    }

    #[test]
    fn nothing_fits_an_account_of_zero_and_huge_charges_do_not_wrap() {
        let account = Account::new_for_test(0);
        assert!(Charge::new(&account, 1).is_none());
        assert!(Charge::new(&account, usize::MAX).is_none());
        let account = Account::new_for_test(usize::MAX);
        let most = Charge::new(&account, i64::MAX as usize);
        assert!(most.is_some());
        assert!(Charge::new(&account, 1).is_none());
    }
}

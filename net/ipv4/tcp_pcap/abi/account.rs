// SPDX-License-Identifier: GPL-2.0

//! The accounts of the limits, and what each CPU has in stock of them.

use super::spares::Spares;
use core::ptr::{addr_of, addr_of_mut};
use kernel::{bindings, cpu, sync::atomic::Atomic, types::Opaque};

/// What is limited: `enum tcp_pcap_resource`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Resource {
    /// Pages that frags keep in memory: `net.ipv4.tcp_pcap_frags`.
    Frags = bindings::tcp_pcap_resource_TCP_PCAP_FRAGS as usize,
    /// Bytes of records, slots and histories: `net.ipv4.tcp_pcap_mem`.
    Mem = bindings::tcp_pcap_resource_TCP_PCAP_MEM as usize,
}

/// Whose share a charge is taken from: `enum tcp_pcap_payer`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Payer {
    /// The host.
    Host = bindings::tcp_pcap_payer_TCP_PCAP_HOST as usize,
    /// Containers, which together may have a quarter.
    Containers = bindings::tcp_pcap_payer_TCP_PCAP_CONTAINERS as usize,
}

impl Payer {
    /// All there are.
    pub(crate) const ALL: [Self; 2] = [Self::Host, Self::Containers];
}

type Count = Atomic<i64>;

/// One limit: `struct tcp_pcap_account`.
#[repr(transparent)]
pub(crate) struct Account(Opaque<bindings::tcp_pcap_account>);

// SAFETY: Counters are accessed atomically, the others are words that are read at once.
unsafe impl Sync for Account {}

/// Lets CPUs have stocks again if a limit holds that was exceeded when it was set.
///
/// Context: process, one at a time.
pub(crate) fn set_batch(resource: Resource) {
    // SAFETY: No requirement.
    unsafe { bindings::tcp_pcap_set_batch(resource as bindings::tcp_pcap_resource) }
}

impl Account {
    /// The account of a resource that a payer's charges go to first.
    pub(crate) fn of(resource: Resource, payer: Payer) -> &'static Self {
        // SAFETY: C variables, never freed; `Account` is transparent over their type and allows any
        // change.
        unsafe {
            &*match (resource, payer) {
                (Resource::Frags, Payer::Host) => addr_of!(bindings::tcp_pcap_frags),
                (Resource::Frags, Payer::Containers) => {
                    addr_of!(bindings::tcp_pcap_frags_containers)
                }
                (Resource::Mem, Payer::Host) => addr_of!(bindings::tcp_pcap_mem),
                (Resource::Mem, Payer::Containers) => addr_of!(bindings::tcp_pcap_mem_containers),
            }
            .cast()
        }
    }

    /// What is charged or in stock.
    pub(crate) fn reserved(&self) -> &Count {
        // SAFETY: The account is valid as long as `self`; C too accesses the counter atomically.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.get()).reserved.counter)) }
    }

    /// The highest that was ever reserved.
    pub(crate) fn peak(&self) -> &Count {
        // SAFETY: As in `reserved`.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.get()).peak.counter)) }
    }

    /// The limit.
    pub(crate) fn max(&self) -> i64 {
        // SAFETY: The account is valid as long as `self`; the sysctl writes the word at once.
        let max = unsafe { addr_of!((*self.0.get()).max).read_volatile() };
        i64::try_from(max).unwrap_or(i64::MAX)
    }

    /// What a CPU reserves for its stock. Nothing while more is reserved than the limit, so that
    /// what is released then is not charged again.
    pub(crate) fn batch(&self) -> i64 {
        // SAFETY: As in `max`.
        let batch = unsafe { addr_of!((*self.0.get()).batch).read_volatile() };
        i64::try_from(batch).unwrap_or(0)
    }
}

/// What one CPU has in stock and counted: `struct tcp_pcap_stock`.
///
/// All of it is atomic, or taken in hand by [`Spares::try_open`]: a stock may be used on another
/// CPU, if not as quickly.
#[repr(transparent)]
pub(crate) struct Stock(Opaque<bindings::tcp_pcap_stock>);

// SAFETY: All of it is accessed atomically, but for what is `Sync` itself.
unsafe impl Sync for Stock {}

/// Reaches a counter of a stock.
macro_rules! counter {
    ($self:ident, $($field:tt)+) => {
        // SAFETY: The stock is valid as long as `self`; C too accesses the counter atomically. An
        // index is that of an enum whose number of values is the length of the array.
        unsafe { Atomic::from_ptr(addr_of_mut!((*$self.0.get()).$($field)+.counter)) }
    };
}

impl Stock {
    /// That of the CPU we run on at this moment.
    #[inline]
    pub(crate) fn here() -> &'static Self {
        // SAFETY: Each CPU has one, which is never freed; `Stock` is transparent over its type.
        unsafe { &*bindings::tcp_pcap_this_stock().cast() }
    }

    /// Those of all CPUs.
    pub(crate) fn all() -> impl Iterator<Item = &'static Self> {
        (0..cpu::nr_cpu_ids()).filter_map(|cpu| {
            // SAFETY: Returns null, or what is never freed.
            unsafe { bindings::tcp_pcap_stock_of(cpu).cast::<Self>().as_ref() }
        })
    }

    /// Those of the CPUs that may have something in stock of this; each is unmarked before it is
    /// returned, and is to be emptied.
    pub(crate) fn marked(resource: Resource, payer: Payer) -> impl Iterator<Item = &'static Self> {
        let mut next = 0;
        core::iter::from_fn(move || {
            // SAFETY: No requirement but that the indices are in range.
            let cpu = unsafe {
                bindings::tcp_pcap_next_stocked(
                    resource as bindings::tcp_pcap_resource,
                    payer as bindings::tcp_pcap_payer,
                    next,
                )
            };
            next = cpu.saturating_add(1);
            // SAFETY: Returns null, or what is never freed.
            unsafe { bindings::tcp_pcap_stock_of(cpu).cast::<Self>().as_ref() }
        })
    }

    /// Marks it, after something was put where nothing had been.
    #[cold]
    pub(crate) fn mark(&self, resource: Resource, payer: Payer) {
        // SAFETY: The stock is valid as long as `self`; its number never changes.
        unsafe {
            bindings::tcp_pcap_mark_stocked(
                self.0.get(),
                resource as bindings::tcp_pcap_resource,
                payer as bindings::tcp_pcap_payer,
            )
        }
    }

    /// Reserved and not charged.
    #[inline]
    pub(crate) fn left(&self, resource: Resource, payer: Payer) -> &Count {
        match payer {
            Payer::Host => counter!(self, left[resource as usize]),
            Payer::Containers => counter!(self, left_containers[resource as usize]),
        }
    }

    /// What is kept for the next connections.
    #[inline]
    pub(crate) fn spares(&self, payer: Payer) -> &Spares {
        // SAFETY: Valid as long as `self`; `Spares` is transparent over its type, and nobody else
        // writes it; at first it is empty. The index is that of an enum whose number of values is
        // the length of the array.
        unsafe { &*addr_of!((*self.0.get()).spares[payer as usize]).cast() }
    }

    /// Charges refused.
    pub(crate) fn refused(&self, resource: Resource, payer: Payer) -> &Count {
        counter!(self, refused[resource as usize][payer as usize])
    }

    /// Records made less records freed.
    pub(crate) fn packets(&self) -> &Count {
        counter!(self, packets)
    }

    /// As [`Self::packets`], of records that keep pages in memory.
    pub(crate) fn payloads(&self) -> &Count {
        counter!(self, payloads)
    }

    /// Records given back by reclaim.
    pub(crate) fn reclaimed_packets(&self) -> &Count {
        counter!(self, reclaimed_packets)
    }

    /// Records of which the payload was given back by reclaim.
    pub(crate) fn reclaimed_payloads(&self) -> &Count {
        counter!(self, reclaimed_payloads)
    }

    /// Pages given back with both.
    pub(crate) fn reclaimed_pages(&self) -> &Count {
        counter!(self, reclaimed_pages)
    }
}

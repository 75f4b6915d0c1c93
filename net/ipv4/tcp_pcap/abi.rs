// SPDX-License-Identifier: GPL-2.0

//! Where C meets Rust: the only `unsafe` code of TCP_PCAP.
//!
//! Safe types over the structures of `include/net/tcp_pcap.h`: [`layout`] is what debuggers read,
//! [`slots`] where records change hands, [`history`] what the owner of a socket has, [`shard`] what
//! reclaim finds, [`account`] the limits, [`charged`] what counts for them, [`spares`] what is kept
//! for later. [`netns`] and [`stack`] ask the stack around us; [`entry`] holds the functions that C
//! calls.

#![allow(unsafe_code)]

pub(crate) mod account;
pub(crate) mod charged;
mod entry;
pub(crate) mod history;
pub(crate) mod layout;
pub(crate) mod netns;
pub(crate) mod reclaim;
pub(crate) mod shard;
pub(crate) mod slots;
pub(crate) mod spares;
pub(crate) mod stack;
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) mod testing;

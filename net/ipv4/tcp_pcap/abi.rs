// SPDX-License-Identifier: GPL-2.0

//! Where C meets Rust: the only `unsafe` code of TCP_PCAP.
//!
//! [`layout`] puts safe types over the structures of `include/net/tcp_pcap.h`; [`entry`] holds the
//! functions that C calls.

#![allow(unsafe_code)]

mod entry;
pub(crate) mod layout;
#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
pub(crate) mod testing;

// SPDX-License-Identifier: GPL-2.0

//! TCP_PCAP: the last packets of every TCP connection.
//!
//! A packet comes in through [`abi`], where C meets Rust; [`ring`] finds the slot it goes to and
//! takes the oldest packet out of it; [`rx`] or [`tx`] sees what lies before its TCP header;
//! [`record`] refills that record with the new packet's headers and references to its payload,
//! within the limits of [`limit`].
//!
//! [`config`] holds what a socket may ask for, [`lifecycle`] when a history begins and ends,
//! [`reclaim`] and [`lower`] what is given back when memory is short or a limit is lowered.
//!
//! C header: [`include/net/tcp_pcap.h`](srctree/include/net/tcp_pcap.h), which decides the layout
//! in memory.

#![deny(unsafe_code)]

mod abi;
mod config;
mod ip;
mod lifecycle;
mod limit;
mod lower;
mod reclaim;
mod record;
mod ring;
mod rx;
mod tx;

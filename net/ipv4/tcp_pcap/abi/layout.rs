// SPDX-License-Identifier: GPL-2.0

//! What debuggers read: constants, and the description of a record.
//!
//! C header: [`include/net/tcp_pcap.h`](srctree/include/net/tcp_pcap.h)

use kernel::{
    bindings,
    net::skbuff::HEAD_ALIGN,
    prelude::*,
    transmute::{AsBytes, FromBytes}, //
};

/// `struct tcp_pcap_rec`.
pub(crate) type Rec = bindings::tcp_pcap_rec;

pub(crate) const MAGIC: u32 = bindings::tcp_pcap_const_TCP_PCAP_MAGIC;
pub(crate) const VERSION: u8 = bindings::tcp_pcap_const_TCP_PCAP_VERSION as u8;
pub(crate) const KIND_PACKET: u8 = bindings::tcp_pcap_kind_TCP_PCAP_KIND_PACKET as u8;
pub(crate) const PACKETS_HARD_MAX: u32 = bindings::tcp_pcap_const_TCP_PCAP_PACKETS_HARD_MAX;
pub(crate) const OPT_IN: c_int = bindings::TCP_PCAP_IN as c_int;
pub(crate) const OPT_OUT: c_int = bindings::TCP_PCAP_OUT as c_int;
pub(super) const CHUNK_SLOTS: usize = bindings::tcp_pcap_const_TCP_PCAP_CHUNK_SLOTS as usize;
pub(super) const SHARDS: u32 = bindings::tcp_pcap_const_TCP_PCAP_SHARDS;
pub(super) const SCANNED_ALL: u32 = bindings::tcp_pcap_const_TCP_PCAP_SCANNED_ALL;
pub(super) const CAPTURE_CONTAINER: u16 =
    bindings::tcp_pcap_capture_flags_TCP_PCAP_CAPTURE_CONTAINER as u16;

pub(crate) const F_IPV6: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_IPV6 as u16;
pub(crate) const F_SYNTH: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_SYNTH as u16;
pub(crate) const F_TRUNC: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_TRUNC as u16;
pub(crate) const F_MERGED: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_MERGED as u16;
pub(crate) const F_LEN_FIXED: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_LEN_FIXED as u16;
pub(crate) const F_CONTAINER: u16 = bindings::tcp_pcap_flags_TCP_PCAP_F_CONTAINER as u16;

/// Why a record holds less than the packet: `enum tcp_pcap_why`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Why {
    Not = bindings::tcp_pcap_why_TCP_PCAP_WHY_NOT as u8,
    Snaplen = bindings::tcp_pcap_why_TCP_PCAP_WHY_SNAPLEN as u8,
    Unreadable = bindings::tcp_pcap_why_TCP_PCAP_WHY_UNREADABLE as u8,
    Zerocopy = bindings::tcp_pcap_why_TCP_PCAP_WHY_ZEROCOPY as u8,
    Shared = bindings::tcp_pcap_why_TCP_PCAP_WHY_SHARED as u8,
    Pfmemalloc = bindings::tcp_pcap_why_TCP_PCAP_WHY_PFMEMALLOC as u8,
    Limit = bindings::tcp_pcap_why_TCP_PCAP_WHY_LIMIT as u8,
    Decrypted = bindings::tcp_pcap_why_TCP_PCAP_WHY_DECRYPTED as u8,
    Linear = bindings::tcp_pcap_why_TCP_PCAP_WHY_LINEAR as u8,
    FragList = bindings::tcp_pcap_why_TCP_PCAP_WHY_FRAG_LIST as u8,
    Reclaimed = bindings::tcp_pcap_why_TCP_PCAP_WHY_RECLAIMED as u8,
    Pressure = bindings::tcp_pcap_why_TCP_PCAP_WHY_PRESSURE as u8,
}

/// Direction of a packet, seen from the socket: `enum tcp_pcap_dir`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Dir {
    In = bindings::tcp_pcap_dir_TCP_PCAP_DIR_IN as u8,
    Out = bindings::tcp_pcap_dir_TCP_PCAP_DIR_OUT as u8,
}

impl Dir {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::In, Self::Out];
}

/// Bytes of a [`Rec`] at the start of each record's head.
pub(crate) const REC_LEN: usize = size_of::<Rec>();

// So that a description at the start of a head is aligned.
const _: () = assert!(align_of::<Rec>() <= HEAD_ALIGN);

/// A [`Rec`] as bytes.
#[repr(transparent)]
struct RecBytes(Rec);

// SAFETY: `struct tcp_pcap_rec` is made of integers, without padding: each is aligned by those
// before it, and a C assertion says that the last ends where the structure does.
unsafe impl AsBytes for RecBytes {}
// SAFETY: As above; any bits are valid integers.
unsafe impl FromBytes for RecBytes {}

/// A record's description, at the start of its head; heads are aligned as slab memory is.
#[inline]
pub(super) fn rec(head: &[u8]) -> Option<&Rec> {
    Some(&RecBytes::from_bytes(head.get(..REC_LEN)?)?.0)
}

/// A record's description, and the room for the packet behind it, both to be written.
#[inline]
pub(super) fn split_mut(head: &mut [u8]) -> Option<(&mut Rec, &mut [u8])> {
    let (rec, room) = head.split_at_mut_checked(REC_LEN)?;
    Some((&mut RecBytes::from_bytes_mut(rec)?.0, room))
}

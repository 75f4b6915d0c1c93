// SPDX-License-Identifier: GPL-2.0

//! Real sockets and buffers for unit tests.

use super::{
    account::{set_batch, Account, Payer, Resource},
    history::{wait_for_free, Owner},
    stack,
};
use crate::limit;
use core::{
    mem::ManuallyDrop,
    ptr::{self, addr_of_mut}, //
};
use kernel::{
    bindings,
    error::to_result,
    net::{
        skbuff::{PrivateSkBuff, ReceivedSkBuff},
        sock::TcpSock, //
    },
    prelude::*,
    shrinker::ShrinkControl,
    sync::atomic::Relaxed, //
};

/// A TCP socket that belongs to a test.
///
/// # Invariants
///
/// Points at a socket that only this value knows.
pub(crate) struct TestSock(*mut bindings::socket);

impl TestSock {
    /// An IPv4 socket.
    pub(crate) fn new() -> Result<Self> {
        Self::of_family(bindings::AF_INET)
    }

    /// An IPv6 socket.
    #[cfg(CONFIG_IPV6)]
    pub(crate) fn new_ipv6() -> Result<Self> {
        Self::of_family(bindings::AF_INET6)
    }

    fn of_family(family: u32) -> Result<Self> {
        let mut sock = ptr::null_mut();
        // SAFETY: The initial namespace is always there, `sock` can be written.
        to_result(unsafe {
            bindings::sock_create_kern(
                &raw mut bindings::init_net,
                family as c_int,
                bindings::sock_type_SOCK_STREAM as c_int,
                bindings::IPPROTO_TCP as c_int,
                &mut sock,
            )
        })?;
        stack::enable();
        // INVARIANT: A new socket.
        Ok(Self(sock))
    }

    pub(crate) fn sk(&self) -> &TcpSock {
        // SAFETY: By the type invariant nobody else can own the socket.
        unsafe { TcpSock::from_raw((*self.0).sk) }
    }
}

impl TestSock {
    /// The history of the socket; a test has one at a time.
    pub(crate) fn owner(&self) -> Option<Owner<'_>> {
        // SAFETY: By the type invariant only the test itself can have another one.
        unsafe { Owner::of(self.sk()) }
    }
}

impl TestSock {
    /// Runs `f` with the socket locked.
    pub(crate) fn locked<R>(&self, f: impl FnOnce(&TcpSock) -> R) -> R {
        // SAFETY: By the type invariant nobody else has the socket, so nobody has locked it.
        unsafe { stack::with_lock((*self.0).sk, f) }
    }

    /// Sets an option of any level, as a program would.
    pub(crate) fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result {
        let mut optval = bindings::sockptr_t::default();
        optval.__bindgen_anon_1.kernel = value.as_ptr().cast_mut().cast();
        optval.set_is_kernel(true);
        // SAFETY: By the type invariant nobody else has the socket; `value` can be read.
        to_result(unsafe {
            bindings::tcp_setsockopt(
                (*self.0).sk,
                level as c_int,
                name as c_int,
                optval,
                value.len() as c_uint,
            )
        })
    }

    /// Sets an option that is an int.
    pub(crate) fn set_int(&self, level: u32, name: u32, value: c_int) -> Result {
        self.set_option(level, name, &value.to_ne_bytes())
    }

    /// Gives an IPv4 socket addresses, without a connection.
    pub(crate) fn set_ipv4_addresses(&self, saddr: [u8; 4], daddr: [u8; 4]) {
        // SAFETY: By the type invariant nobody else has the socket.
        unsafe {
            let sk = (*self.0).sk;
            (*sk.cast::<bindings::inet_sock>()).inet_saddr = u32::from_ne_bytes(saddr);
            (*sk)
                .__sk_common
                .__bindgen_anon_1
                .__bindgen_anon_1
                .skc_daddr = u32::from_ne_bytes(daddr);
        }
    }
}

impl Drop for TestSock {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; it is not used any more.
        unsafe { bindings::sock_release(self.0) }
    }
}

/// A TCP header of 20 bytes and `payload` bytes of `fill`, all of it linear.
pub(crate) fn segment(payload: usize, fill: u8) -> Result<PrivateSkBuff> {
    let mut skb = PrivateSkBuff::new(u32::try_from(payload + 20)?, GFP_KERNEL)?;
    let head = skb.head_mut();
    head[12] = 5 << 4;
    head[20..20 + payload].fill(fill);
    skb.set_linear(0, 20 + payload);
    Ok(skb)
}

/// A packet as the stack has it: `data` at a TCP header of 20 bytes, behind an IP header, and
/// payload in pages.
///
/// # Invariants
///
/// Points at a valid buffer that belongs to this value.
pub(crate) struct StackPacket(*mut bindings::sk_buff);

/// What is special about the payload of a packet.
#[derive(Clone, Copy)]
pub(crate) enum Mark {
    /// It is in device memory.
    Unreadable,
    /// It is in pages of the emergency reserves.
    Pfmemalloc,
    /// Its last page is one of those, and the buffer does not tell.
    PfmemallocPage,
    /// A device has decrypted it, or is to encrypt it.
    #[cfg(CONFIG_SKB_DECRYPTED)]
    Decrypted,
}

impl StackPacket {
    /// A packet with this IP header, and `payload` bytes in pages.
    pub(crate) fn new(ip: &[u8], payload: &[u8]) -> Result<Self> {
        Self::of_order(ip, payload, 0)
    }

    /// As [`Self::new`], in compound pages of at most that order; of that order where the payload
    /// fills them, and there is memory.
    pub(crate) fn of_order(ip: &[u8], payload: &[u8], order: c_int) -> Result<Self> {
        let mut err = 0;
        let headers = ip.len() + 20;
        // SAFETY: No requirement but that it may sleep.
        let skb = unsafe {
            bindings::alloc_skb_with_frags(
                headers,
                payload.len(),
                order,
                &mut err,
                bindings::GFP_KERNEL,
            )
        };
        if skb.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: A new buffer, with room for the headers and pages for the payload.
        // INVARIANT: It is ours.
        unsafe {
            let head = bindings::skb_put(skb, headers as c_uint).cast::<u8>();
            head.write_bytes(0, headers);
            ip.as_ptr().copy_to_nonoverlapping(head, ip.len());
            head.add(ip.len() + 12).write(5 << 4);
            (*skb).data_len = payload.len() as u32;
            (*skb).len += payload.len() as u32;
            bindings::skb_set_network_header(skb, 0);
            bindings::skb_pull(skb, ip.len() as c_uint);
            let mut packet = Self(skb);
            packet.set_merged(0, 0);
            to_result(bindings::skb_store_bits(
                skb,
                20,
                payload.as_ptr().cast(),
                payload.len() as c_int,
            ))?;
            Ok(packet)
        }
    }

    /// Marks it, as the stack does.
    pub(crate) fn mark(&mut self, mark: Mark) {
        // SAFETY: By the type invariant; bits of a buffer that nobody else has.
        unsafe {
            let headers = addr_of_mut!((*self.0).__bindgen_anon_4)
                .cast::<bindings::sk_buff__bindgen_ty_4__bindgen_ty_1>();
            match mark {
                Mark::Unreadable => (*headers).set_unreadable(1),
                Mark::Pfmemalloc => (*self.0).set_pfmemalloc(1),
                Mark::PfmemallocPage => {
                    let info = bindings::skb_shinfo(self.0);
                    let last = usize::from((*info).nr_frags).saturating_sub(1);
                    let page = bindings::skb_frag_page((*info).frags.as_ptr().add(last));
                    // As set_page_pfmemalloc() does.
                    let lru = addr_of_mut!((*page).__bindgen_anon_1).cast::<bindings::list_head>();
                    (*lru).next = ptr::without_provenance_mut(1 << 1);
                }
                #[cfg(CONFIG_SKB_DECRYPTED)]
                Mark::Decrypted => (*headers).set_decrypted(1),
            }
        }
    }

    /// Hangs another one, with its TCP header, behind it: in the frag list.
    pub(crate) fn append(&mut self, list: Self) {
        let list = ManuallyDrop::new(list).0;
        // SAFETY: By the type invariant; the list belongs to the buffer now, and has no list.
        unsafe {
            (*bindings::skb_shinfo(self.0)).frag_list = list;
            (*self.0).len += (*list).len;
            (*self.0).data_len += (*list).len;
        }
    }

    /// What `TCP_SKB_CB()` says of a received packet.
    pub(crate) fn set_merged(&mut self, ack: u32, flags: u8) {
        // SAFETY: By the type invariant; the control buffer is large enough.
        unsafe {
            let cb = addr_of_mut!((*self.0).cb).cast::<bindings::tcp_skb_cb>();
            (*cb).ack_seq = ack;
            (*cb).tcp_flags = u16::from(flags);
        }
    }

    /// Length of its TCP header in words, whatever there is of it.
    pub(crate) fn set_doff(&mut self, words: u8) {
        // SAFETY: By the type invariant; there are 20 bytes from `data` on in the linear part.
        unsafe { (*self.0).data.add(12).write(words << 4) }
    }

    /// Size and number of its segments, as a driver gives them.
    pub(crate) fn set_gso(&mut self, size: u16, segs: u16) {
        // SAFETY: By the type invariant.
        unsafe {
            let info = bindings::skb_shinfo(self.0);
            (*info).gso_size = size;
            (*info).gso_segs = segs;
        }
    }

    pub(crate) fn skb(&self) -> &ReceivedSkBuff {
        // SAFETY: By the type invariant; the network header lies in the linear part.
        unsafe { ReceivedSkBuff::from_raw(self.0) }
    }
}

impl Drop for StackPacket {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; it is not used any more.
        unsafe { bindings::consume_skb(self.0) }
    }
}

/// Runs `f` with another limit, which is not enforced.
pub(crate) fn with_max<R>(resource: Resource, max: usize, f: impl FnOnce() -> R) -> R {
    let account = Account::of(resource, Payer::Host);
    let (old, peak) = (account.max() as usize, account.peak().load(Relaxed));
    let set_max = |max| {
        // SAFETY: No requirement; unit tests run one by one.
        unsafe { bindings::tcp_pcap_set_max(resource as bindings::tcp_pcap_resource, max) }
    };
    set_max(max);
    wait_for_free();
    // As when it is lowered: nothing is charged to what was in stock before.
    limit::flush(Resource::Frags);
    limit::flush(Resource::Mem);
    set_batch(resource);
    account.peak().store(0, Relaxed);
    let ret = f();
    set_max(old);
    account.peak().store(peak, Relaxed);
    ret
}

/// What is charged.
pub(crate) fn used(resource: Resource, payer: Payer) -> usize {
    wait_for_free();
    // SAFETY: No requirement.
    let used = unsafe { bindings::tcp_pcap_used(resource as u32, payer as u32) };
    // One that is negative is like no other.
    used as usize
}

/// Runs `f` with a snap length, `None` for no limit.
pub(crate) fn with_snaplen<R>(snaplen: Option<usize>, f: impl FnOnce() -> R) -> R {
    let snaplen = snaplen.map_or(-1, |len| len as c_int);
    // SAFETY: A word that the sysctl writes in the same way; unit tests run one by one.
    unsafe {
        let cell = addr_of_mut!(bindings::init_net.ipv4.sysctl_tcp_pcap_snaplen);
        let old = cell.read();
        cell.write_volatile(snaplen);
        let ret = f();
        cell.write_volatile(old);
        ret
    }
}

/// Asks a shrinker, of which `f` is a callback, as memory reclaim does, for `n` objects. Returns
/// also how much work it says that was, in objects.
pub(crate) fn with_control<R>(n: usize, f: impl FnOnce(&ShrinkControl<'_>) -> R) -> (R, usize) {
    let mut control = bindings::shrink_control {
        nr_to_scan: n as c_ulong,
        nr_scanned: n as c_ulong,
        ..Default::default()
    };
    // SAFETY: It is valid, and used by `f` alone until that returns.
    let result = f(&unsafe { ShrinkControl::from_raw(&mut control) });
    (result, control.nr_scanned)
}

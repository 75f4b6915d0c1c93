// SPDX-License-Identifier: GPL-2.0
/*
 * What a BPF program would do in the place of TCP_PCAP: on entry of the functions in which TCP_PCAP records
 * a packet, write its headers to a ring buffer in which new records overwrite old ones. It does less:
 * one ring for the whole host, no payload, no state of the connection, no counters, and of a sent packet, which
 * has no headers yet, what is in the socket and in its control block. Nothing reads the ring buffer meanwhile.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define HEADERS			80	/* IPv6 and TCP with time stamps, and a bit */
#define F_RB_OVERWRITE		(1U << 19)
#define AF_INET6		10

char LICENSE[] SEC("license") = "GPL";

/* Of these, what is used; the rest is found when the program is loaded. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

struct sock_common {
	__u64 skc_addrpair;
	__u32 skc_portpair;
	unsigned short skc_family;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
};

struct sk_buff {
	unsigned int len;
	__u16 network_header;
	unsigned char *head;
	char cb[48];
};

#pragma clang attribute pop

struct event {
	__u64 time;
	__u64 sk;
	__u32 len;
	__u32 dir;
	union {
		__u8 headers[HEADERS];
		struct {
			__u64 addr;
			__u32 ports;
			__u32 rcv_nxt;
			__u64 cb[3];		/* seq, end_seq, .., flags */
			__u64 v6[4];
		} sent;
	};
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(map_flags, F_RB_OVERWRITE);
	__uint(max_entries, 1 << 20);
} ring SEC(".maps");

static __always_inline struct event *reserve(struct sock *sk, struct sk_buff *skb, __u32 dir)
{
	struct event *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);

	if (!e)
		return NULL;
	e->time = bpf_ktime_get_ns();
	e->sk = (__u64)sk;
	e->len = skb->len;
	e->dir = dir;
	return e;
}

static __always_inline int received(struct sock *sk, struct sk_buff *skb)
{
	struct event *e = reserve(sk, skb, 1);

	if (!e)
		return 0;
	bpf_probe_read_kernel(e->headers, HEADERS, skb->head + skb->network_header);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("fentry/tcp_rcv_established")
int BPF_PROG(rx_established, struct sock *sk, struct sk_buff *skb)
{
	return received(sk, skb);
}

SEC("fentry/tcp_rcv_state_process")
int BPF_PROG(rx_other, struct sock *sk, struct sk_buff *skb)
{
	return received(sk, skb);
}

SEC("fentry/__tcp_transmit_skb")
int BPF_PROG(tx, struct sock *sk, struct sk_buff *skb, int clone_it, __u32 gfp, __u32 rcv_nxt)
{
	struct event *e = reserve(sk, skb, 2);
	const __u64 *cb = (const __u64 *)skb->cb;
	const __u64 *daddr = (const __u64 *)sk->__sk_common.skc_v6_daddr.in6_u.u6_addr8;
	const __u64 *saddr = (const __u64 *)sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8;

	if (!e)
		return 0;
	e->sent.addr = sk->__sk_common.skc_addrpair;
	e->sent.ports = sk->__sk_common.skc_portpair;
	e->sent.rcv_nxt = rcv_nxt;
	e->sent.cb[0] = cb[0];
	e->sent.cb[1] = cb[1];
	e->sent.cb[2] = cb[2];
	if (sk->__sk_common.skc_family == AF_INET6) {
		e->sent.v6[0] = daddr[0];
		e->sent.v6[1] = daddr[1];
		e->sent.v6[2] = saddr[0];
		e->sent.v6[3] = saddr[1];
	}
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TCP_PCAP: the last packets of every TCP connection, kept in the kernel and
 * read from a vmcore.
 *
 * What lies in memory is declared here, in C, because debuggers know the kernel
 * by its C types: Rust types reach neither BTF nor crash. The code that works
 * on it is in net/ipv4/tcp_pcap/. The way to a packet is
 *
 *	tcp_pcap_shards[i].captures -> struct tcp_pcap -> in / out
 *		-> chunks[][] -> struct sk_buff -> head
 *
 * and at &sk_buff.head lies a struct tcp_pcap_rec, then (at &sk_buff.data) the
 * packet from its IP header on.
 *
 * Readers depend on this layout. Whoever changes what a released kernel has
 * raises TCP_PCAP_VERSION.
 */
#ifndef _NET_TCP_PCAP_H
#define _NET_TCP_PCAP_H

#include <linux/atomic.h>
#include <linux/build_bug.h>
#include <linux/cache.h>
#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/jump_label.h>
#include <linux/list.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <net/net_namespace.h>
#include <net/tcp.h>

struct net;
struct seq_file;
struct sk_buff;
struct sock;

/**
 * enum tcp_pcap_const - constants that a reader of the memory needs
 * @TCP_PCAP_MAGIC: first word of every record, "TPCR" in a hex dump of a
 *   little-endian machine
 * @TCP_PCAP_VERSION: version of the layout of this file
 * @TCP_PCAP_CHUNK_SLOTS: slots in one chunk; slot s is chunks[s / 512][s % 512]
 * @TCP_PCAP_SPARES: most records that a CPU keeps for one payer's next
 *   connections
 * @TCP_PCAP_SPARE_HISTORIES: most histories that it keeps so
 * @TCP_PCAP_PACKETS_HARD_MAX: largest size of a ring, in packets
 * @TCP_PCAP_SHARDS: number of shards
 * @TCP_PCAP_SCANNED_ALL: see &tcp_pcap.scanned
 */
enum tcp_pcap_const {
	TCP_PCAP_MAGIC			= 0x52435054,
	TCP_PCAP_VERSION		= 1,
	TCP_PCAP_CHUNK_SLOTS		= 512,
	TCP_PCAP_SPARES			= 32,
	TCP_PCAP_SPARE_HISTORIES	= 8,
	TCP_PCAP_PACKETS_HARD_MAX	= 65535,
	TCP_PCAP_SHARDS			= (NR_CPUS < 256 ? NR_CPUS : 256),
	TCP_PCAP_SCANNED_ALL		= 0x7fffffff,
};

/**
 * enum tcp_pcap_kind - what a record holds
 * @TCP_PCAP_KIND_NONE: not a record
 * @TCP_PCAP_KIND_PACKET: a packet, from its IP header on
 */
enum tcp_pcap_kind {
	TCP_PCAP_KIND_NONE		= 0,
	TCP_PCAP_KIND_PACKET		= 1,
};

/**
 * enum tcp_pcap_dir - direction of a packet, seen from this socket; the values
 * are those of pcapng's epb_flags
 * @TCP_PCAP_DIR_IN: received
 * @TCP_PCAP_DIR_OUT: sent
 */
enum tcp_pcap_dir {
	TCP_PCAP_DIR_IN			= 1,
	TCP_PCAP_DIR_OUT		= 2,
};

/**
 * enum tcp_pcap_why - why a record holds headers (and what fits the head) only
 * @TCP_PCAP_WHY_NOT: it holds all that was asked for
 * @TCP_PCAP_WHY_SNAPLEN: net.ipv4.tcp_pcap_snaplen cut the payload
 * @TCP_PCAP_WHY_UNREADABLE: the frags are device memory
 * @TCP_PCAP_WHY_ZEROCOPY: MSG_ZEROCOPY or io_uring pages, which belong to user
 *   space
 * @TCP_PCAP_WHY_SHARED: pages of sendfile() or vmsplice(), whose content may
 *   still change
 * @TCP_PCAP_WHY_PFMEMALLOC: pages from the emergency reserves
 * @TCP_PCAP_WHY_LIMIT: net.ipv4.tcp_pcap_frags_max is reached
 * @TCP_PCAP_WHY_DECRYPTED: plain text of an offloaded TLS or PSP connection
 * @TCP_PCAP_WHY_LINEAR: payload in a linear part that cannot be referenced or in
 *   too many frags, or an IP header so long that the TCP header does not fit
 * @TCP_PCAP_WHY_FRAG_LIST: payload in a frag_list
 * @TCP_PCAP_WHY_RECLAIMED: payload given back under memory pressure, or because
 *   a limit was lowered
 * @TCP_PCAP_WHY_PRESSURE: TCP was under memory pressure (tcp_mem, or its memcg)
 * @TCP_PCAP_WHY_MAX: number of reasons
 */
enum tcp_pcap_why {
	TCP_PCAP_WHY_NOT		= 0,
	TCP_PCAP_WHY_SNAPLEN		= 1,
	TCP_PCAP_WHY_UNREADABLE		= 2,
	TCP_PCAP_WHY_ZEROCOPY		= 3,
	TCP_PCAP_WHY_SHARED		= 4,
	TCP_PCAP_WHY_PFMEMALLOC		= 5,
	TCP_PCAP_WHY_LIMIT		= 6,
	TCP_PCAP_WHY_DECRYPTED		= 7,
	TCP_PCAP_WHY_LINEAR		= 8,
	TCP_PCAP_WHY_FRAG_LIST		= 9,
	TCP_PCAP_WHY_RECLAIMED		= 10,
	TCP_PCAP_WHY_PRESSURE		= 11,
	TCP_PCAP_WHY_MAX		= 12,
};

/**
 * enum tcp_pcap_flags - &tcp_pcap_rec.flags
 * @TCP_PCAP_F_IPV6: the packet starts with an IPv6 header, else with an IPv4
 *   header
 * @TCP_PCAP_F_SYNTH: the IP header was written from the socket, the real one
 *   did not exist yet
 * @TCP_PCAP_F_TRUNC: the record holds less than the packet's payload
 * @TCP_PCAP_F_MERGED: segments were merged (backlog, GRO) and the TCP checksum
 *   covers another packet
 * @TCP_PCAP_F_LEN_FIXED: the length in the IP header was made to cover what was
 *   merged
 * @TCP_PCAP_F_CONTAINER: charged to the accounts of containers too
 */
enum tcp_pcap_flags {
	TCP_PCAP_F_IPV6			= 1 << 0,
	TCP_PCAP_F_SYNTH		= 1 << 1,
	TCP_PCAP_F_TRUNC		= 1 << 2,
	TCP_PCAP_F_MERGED		= 1 << 3,
	TCP_PCAP_F_LEN_FIXED		= 1 << 4,
	TCP_PCAP_F_CONTAINER		= 1 << 5,
};

/**
 * enum tcp_pcap_capture_flags - &tcp_pcap.flags
 * @TCP_PCAP_CAPTURE_CONTAINER: the network namespace of the socket belongs to a
 *   user namespace other than the initial one
 */
enum tcp_pcap_capture_flags {
	TCP_PCAP_CAPTURE_CONTAINER	= 1 << 0,
};

/**
 * struct tcp_pcap_rec - what is known of a retained packet, at the start of its
 * skb's head
 * @magic: %TCP_PCAP_MAGIC
 * @version: %TCP_PCAP_VERSION
 * @kind: enum tcp_pcap_kind
 * @dir: enum tcp_pcap_dir
 * @why: enum tcp_pcap_why
 * @serial: number of the packet in its ring, from 0; the slot is serial % size
 * @time: CLOCK_MONOTONIC in ns: the stamp TCP itself has for this packet, see
 *   Documentation/networking/tcp_pcap.rst
 * @order: number of the packet in its connection, both directions together,
 *   from 0
 * @orig_len: bytes of the packet from its IP header on, as TCP saw it
 * @gso_segs: segments in it: 1, or more for TSO, GRO and backlog merges
 * @gso_size: payload bytes of each of these segments, 0 if there is one
 * @flags: enum tcp_pcap_flags
 * @ip_summed: sk_buff.ip_summed (CHECKSUM_*)
 * @state: TCP state of the socket, before the packet took effect (RX), or when
 *   it was sent (TX)
 * @csum_start: for CHECKSUM_PARTIAL: where the checksum begins, in bytes from
 *   the IP header
 * @csum_offset: for CHECKSUM_PARTIAL: where it belongs, in bytes from
 *   @csum_start
 * @net_len: bytes of the IP header with options and extension headers
 * @ca_state: enum tcp_ca_state
 * @reserved: 0
 * @verdict: 0; for the fate of the packet
 * @snd_cwnd: congestion window in packets
 * @ssthresh: slow start threshold in packets
 * @srtt_us: smoothed round trip time in us, << 3
 * @snd_una: oldest unacknowledged sequence number
 * @snd_nxt: next sequence number to send
 * @rcv_nxt: next sequence number expected
 * @rcv_wnd: receive window in bytes
 * @pages: pages charged to net.ipv4.tcp_pcap_frags for this record
 * @reserved2: 0
 */
struct tcp_pcap_rec {
	__u32	magic;
	__u8	version;
	__u8	kind;
	__u8	dir;
	__u8	why;
	__u64	serial;
	__u64	time;
	__u64	order;
	__u32	orig_len;
	__u16	gso_segs;
	__u16	gso_size;
	__u16	flags;
	__u8	ip_summed;
	__u8	state;
	__u16	csum_start;
	__u16	csum_offset;
	__u16	net_len;
	__u8	ca_state;
	__u8	reserved;
	__u32	verdict;
	__u32	snd_cwnd;
	__u32	ssthresh;
	__u32	srtt_us;
	__u32	snd_una;
	__u32	snd_nxt;
	__u32	rcv_nxt;
	__u32	rcv_wnd;
	__u32	pages;
	__u32	reserved2[2];
};

static_assert(sizeof(struct tcp_pcap_rec) <= 96);
/* No padding: it is written as bytes, and must not carry any of the stack. */
static_assert(offsetofend(struct tcp_pcap_rec, reserved2) ==
	      sizeof(struct tcp_pcap_rec));

/**
 * struct tcp_pcap_ring - the last packets of one direction
 * @chunks: slots, %TCP_PCAP_CHUNK_SLOTS in each chunk but the last; NULL, as is
 *   each chunk, as long as no slot of it was needed
 * @size: number of slots
 * @nr_chunks: number of chunks
 * @next: serial of the next packet; retained are serials in [@next - @size,
 *   @next), and seldom an older one, which reclaim had in hand when the next one
 *   for its slot was lost
 * @captured: packets recorded
 * @evicted: packets overwritten by younger ones, or dropped when the ring was
 *   made smaller
 * @header_only: packets recorded with headers only, for a reason other than the
 *   snap length
 * @lost: packets not recorded for want of memory; their serials are missing
 * @reclaimed: packets given back under memory pressure, or because a limit was
 *   lowered
 * @stripped: packets of which the payload was given back so
 * @payloads: about how many records in the slots keep pages in memory; not less
 *   than there are
 * @head: for the records of SYN and SYN-ACK; unused
 *
 * Written by the owner of the socket, but for @reclaimed and @stripped, which
 * are written under the lock of the shard, and @payloads; slots change hands by
 * xchg(). When nobody is at work: @captured == @evicted + @reclaimed + records
 * in the slots.
 */
struct tcp_pcap_ring {
	struct sk_buff	***chunks;
	u32		size;
	u32		nr_chunks;
	u64		next;
	u64		captured;
	u64		evicted;
	u64		header_only;
	u64		lost;
	u64		reclaimed;
	u64		stripped;
	atomic64_t	payloads;
	struct sk_buff	*head[2];
};

/**
 * struct tcp_pcap - history of one socket
 * @in: received packets
 * @out: sent packets
 * @order: &tcp_pcap_rec.order of the next packet
 * @sk: the socket
 * @size_in: packets to keep of those received, as configured; a listener has
 *   sizes and no slots
 * @size_out: packets to keep of those sent, as configured
 * @shard: index of the shard that lists it
 * @flags: enum tcp_pcap_capture_flags
 * @round: the round of reclaim that looked at it last; this and the next two
 *   under the shard's lock
 * @scanned: rings that @round is done with, %TCP_PCAP_SCANNED_ALL when it is
 *   done with all
 * @scan_serial: packet at which @round goes on in the next ring
 * @stamp: last activity, CLOCK_MONOTONIC in ns
 * @netns_cookie: &net.net_cookie of the socket
 * @node: in &tcp_pcap_shard.captures, or among those that wait to be freed
 * @rcu: frees it; tcp_create_openreq_child() reads a listener's sizes under RCU
 *   only
 */
struct tcp_pcap {
	struct tcp_pcap_ring	in;
	struct tcp_pcap_ring	out;
	u64			order;
	struct sock		*sk;
	u32			size_in;
	u32			size_out;
	u16			shard;
	u16			flags;
	u32			round;
	u32			scanned;
	u64			scan_serial;
	u64			stamp;
	u64			netns_cookie;
	struct list_head	node;
	struct rcu_head		rcu;
};

/**
 * struct tcp_pcap_shard - captures of sockets that got theirs on one CPU
 * @lock: protects @captures, and keeps the owners of their sockets from taking
 *   slots away; taken with BH off
 * @captures: list of struct tcp_pcap
 */
struct tcp_pcap_shard {
	spinlock_t		lock;
	struct list_head	captures;
} ____cacheline_aligned_in_smp;

/**
 * struct tcp_pcap_account - one limit
 * @reserved: charged, and what the CPUs have in stock: never above @max, but
 *   while a lowered @max is being enforced
 * @peak: highest @reserved so far
 * @max: the limit; this and the next are written when it is set, and when that
 *   was enforced, only
 * @batch: what a CPU reserves for its stock, 0 if @max is too small for stocks,
 *   or is exceeded
 *
 * What is charged is @reserved less all stocks. A container's charges go to its
 * own account and to that of the host.
 */
struct tcp_pcap_account {
	atomic_long_t	reserved;
	atomic_long_t	peak;
	unsigned long	max ____cacheline_aligned_in_smp;
	unsigned long	batch;
} ____cacheline_aligned_in_smp;

/**
 * enum tcp_pcap_payer - whose share a charge is taken from
 * @TCP_PCAP_HOST: the host, which may have all
 * @TCP_PCAP_CONTAINERS: network namespaces of other user namespaces, which
 *   together may have a quarter
 * @TCP_PCAP_PAYERS: number of payers
 */
enum tcp_pcap_payer {
	TCP_PCAP_HOST			= 0,
	TCP_PCAP_CONTAINERS		= 1,
	TCP_PCAP_PAYERS			= 2,
};

/**
 * enum tcp_pcap_resource - what is limited
 * @TCP_PCAP_FRAGS: pages that frags keep in memory
 * @TCP_PCAP_MEM: bytes of records, slots and histories
 * @TCP_PCAP_RESOURCES: number of resources
 */
enum tcp_pcap_resource {
	TCP_PCAP_FRAGS			= 0,
	TCP_PCAP_MEM			= 1,
	TCP_PCAP_RESOURCES		= 2,
};

/**
 * struct tcp_pcap_spares - what a CPU keeps of closed connections for the next
 * ones of one payer: charged, but not in use
 * @bytes: what it is charged with
 * @busy: 1 while somebody has the rest in hand; nobody waits for it
 * @nr: number of records
 * @nr_histories: number of histories
 * @skbs: records without pages; what else is in them is of no meaning
 * @histories: histories of no socket, with slots and without records
 * @history_bytes: what each history is charged with, slots included
 */
struct tcp_pcap_spares {
	atomic_long_t	bytes;
	atomic_t	busy;
	u32		nr;
	u32		nr_histories;
	struct sk_buff	*skbs[TCP_PCAP_SPARES];
	struct tcp_pcap	*histories[TCP_PCAP_SPARE_HISTORIES];
	u32		history_bytes[TCP_PCAP_SPARE_HISTORIES];
};

/**
 * struct tcp_pcap_stock - what a CPU reserved in the accounts and has not
 * charged, what it counted, and what it keeps of closed connections
 * @left: reserved by this CPU for the host and not charged, by enum
 *   tcp_pcap_resource
 * @left_containers: the same for containers
 * @packets: records taken into use on this CPU less those freed or kept for
 *   later; only the sum of all CPUs counts
 * @payloads: the same of records that keep pages in memory
 * @cpu: the CPU
 * @refused: charges refused
 * @reclaimed_packets: records given back by reclaim
 * @reclaimed_payloads: records of which the payload was given back
 * @reclaimed_pages: pages given back with both
 * @spares: what is kept for later, by enum tcp_pcap_payer
 */
struct tcp_pcap_stock {
	atomic_long_t	left[TCP_PCAP_RESOURCES];
	atomic_long_t	packets;
	atomic_long_t	payloads;
	unsigned int	cpu;
	/* At the limit others look for stock, and these are written: each has a
	 * line of its own.
	 */
	atomic_long_t	left_containers[TCP_PCAP_RESOURCES]
			____cacheline_aligned_in_smp;
	atomic_long_t	refused[TCP_PCAP_RESOURCES][TCP_PCAP_PAYERS]
			____cacheline_aligned_in_smp;
	atomic_long_t	reclaimed_packets;
	atomic_long_t	reclaimed_payloads;
	atomic_long_t	reclaimed_pages;
	struct tcp_pcap_spares	spares[TCP_PCAP_PAYERS]
			____cacheline_aligned_in_smp;
} ____cacheline_aligned_in_smp;

/**
 * enum tcp_pcap_mib - counters of a network namespace, TcpExtTCPPcap*
 * @TCP_PCAP_MIB_LOST: packets not recorded for want of memory
 * @TCP_PCAP_MIB_NO_HISTORY: sockets without a history for want of memory
 * @TCP_PCAP_MIB_RECLAIMED_PACKETS: packets given back by reclaim
 * @TCP_PCAP_MIB_RECLAIMED_PAGES: pages given back by reclaim
 * @TCP_PCAP_MIB_WHY: the first of %TCP_PCAP_WHY_MAX: packets recorded, by enum
 *   tcp_pcap_why; TCPPcapCaptured is the sum
 * @TCP_PCAP_MIB_MAX: number of counters
 */
enum tcp_pcap_mib {
	TCP_PCAP_MIB_LOST,
	TCP_PCAP_MIB_NO_HISTORY,
	TCP_PCAP_MIB_RECLAIMED_PACKETS,
	TCP_PCAP_MIB_RECLAIMED_PAGES,
	TCP_PCAP_MIB_WHY,
	TCP_PCAP_MIB_MAX = TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_MAX,
};

/**
 * struct tcp_pcap_mibs - counters of one network namespace on one CPU
 * @mibs: by enum tcp_pcap_mib
 */
struct tcp_pcap_mibs {
	unsigned long	mibs[TCP_PCAP_MIB_MAX];
};

#ifdef CONFIG_TCP_PCAP

extern struct tcp_pcap_shard tcp_pcap_shards[TCP_PCAP_SHARDS];
extern struct tcp_pcap_account tcp_pcap_frags;	/* pages */
extern struct tcp_pcap_account tcp_pcap_frags_containers;
extern struct tcp_pcap_account tcp_pcap_mem;	/* bytes */
extern struct tcp_pcap_account tcp_pcap_mem_containers;
DECLARE_PER_CPU_ALIGNED(struct tcp_pcap_stock, tcp_pcap_stocks);
extern int sysctl_tcp_pcap_aggressive_free;
extern struct mutex tcp_pcap_reclaim_lock;

DECLARE_STATIC_KEY_FALSE(tcp_pcap_key);

/* net/ipv4/tcp_pcap/abi/entry.rs */
void tcp_pcap_capture_rx(struct sock *sk, struct sk_buff *skb, u64 time);
void tcp_pcap_capture_tx(struct sock *sk, struct sk_buff *skb, u64 time);
int tcp_pcap_setsockopt(struct sock *sk, int optname, int val);
int tcp_pcap_getsockopt(const struct sock *sk, int optname);
void __tcp_pcap_init_sock(struct sock *sk);
void __tcp_pcap_inherit(const struct sock *listener, struct sock *child);
void __tcp_pcap_listen(struct sock *sk);
void __tcp_pcap_disconnect(struct sock *sk);
void __tcp_pcap_destroy(struct sock *sk);
int tcp_pcap_enforce(enum tcp_pcap_resource res);
int tcp_pcap_register_shrinker(void);
bool tcp_pcap_free_some(struct tcp_pcap *pcap);

/* net/ipv4/tcp_pcap/glue.c */
void tcp_pcap_set_max(enum tcp_pcap_resource res, unsigned long max);
void tcp_pcap_set_batch(enum tcp_pcap_resource res);
long tcp_pcap_used(enum tcp_pcap_resource res, enum tcp_pcap_payer payer);
void tcp_pcap_enable(void);
void tcp_pcap_free_rcu(struct tcp_pcap *pcap);
void tcp_pcap_free_later(struct tcp_pcap *pcap);
void tcp_pcap_wait_for_free(void);
void tcp_pcap_mark_stocked(const struct tcp_pcap_stock *stock,
			   enum tcp_pcap_resource res,
			   enum tcp_pcap_payer payer);
unsigned int tcp_pcap_next_stocked(enum tcp_pcap_resource res,
				   enum tcp_pcap_payer payer,
				   unsigned int cpu);

/* All of it is atomic, or taken in hand without waiting, so that it does not
 * matter when the caller migrates.
 */
static inline struct tcp_pcap_stock *tcp_pcap_this_stock(void)
{
	return raw_cpu_ptr(&tcp_pcap_stocks);
}

/* NULL if there can be no such CPU. */
static inline struct tcp_pcap_stock *tcp_pcap_stock_of(unsigned int cpu)
{
	if (cpu >= nr_cpu_ids || !cpu_possible(cpu))
		return NULL;
	return per_cpu_ptr(&tcp_pcap_stocks, cpu);
}

/* Counts in the network namespace of a socket. */
static inline void tcp_pcap_count(const struct net *net, enum tcp_pcap_mib mib,
				  unsigned long n)
{
	struct tcp_pcap_mibs __percpu *mibs;

	/* NULL once the namespace is on its way out. */
	mibs = READ_ONCE(net->ipv4.tcp_pcap_mibs);
	if (likely(mibs))
		this_cpu_add(mibs->mibs[mib], n);
}

#ifdef CONFIG_SYSCTL
int tcp_pcap_sysctl_net_init(struct net *net);
void tcp_pcap_sysctl_net_exit(struct net *net);
#else
static inline int tcp_pcap_sysctl_net_init(struct net *net)
{
	return 0;
}

static inline void tcp_pcap_sysctl_net_exit(struct net *net) { }
#endif

/* net/ipv4/tcp_pcap/proc.c */
int tcp_pcap_proc_init(void);
void tcp_pcap_netstat_names(struct seq_file *seq);
void tcp_pcap_netstat_values(struct seq_file *seq, const struct net *net);

/* Whether a socket option of TCP is one of ours. */
static inline bool tcp_pcap_is_sockopt(int optname)
{
	return optname == TCP_PCAP_OUT || optname == TCP_PCAP_IN;
}

/* The history of a socket that we own. */
static inline struct tcp_pcap *tcp_pcap_owned(const struct sock *sk)
{
	return rcu_dereference_protected(tcp_sk(sk)->pcap,
					 lockdep_sock_is_held(sk));
}

/**
 * tcp_pcap_rx() - record a received packet
 * @sk: socket, owned by the caller, tcp_mstamp refreshed for this packet
 * @skb: packet, &sk_buff.data at its TCP header; not changed
 *
 * Context: softirq, or process context with the socket locked. Does not sleep.
 */
static inline void tcp_pcap_rx(struct sock *sk, struct sk_buff *skb)
{
	if (static_branch_unlikely(&tcp_pcap_key) &&
	    unlikely(tcp_pcap_owned(sk)))
		tcp_pcap_capture_rx(sk, skb, tcp_sk(sk)->tcp_clock_cache);
}

/**
 * tcp_pcap_rx_fastopen() - record the SYN with data that created a socket
 * @sk: the new socket, owned by the caller
 * @skb: the SYN, &sk_buff.data at its TCP header; not changed
 *
 * The socket has no time stamp of its own yet.
 *
 * Context: softirq. Does not sleep.
 */
static inline void tcp_pcap_rx_fastopen(struct sock *sk, struct sk_buff *skb)
{
	if (static_branch_unlikely(&tcp_pcap_key) &&
	    unlikely(tcp_pcap_owned(sk)))
		tcp_pcap_capture_rx(sk, skb, tcp_clock_ns());
}

/**
 * tcp_pcap_tx() - record a packet on its way to the network layer
 * @sk: socket, owned by the caller
 * @skb: packet, complete from the TCP header at &sk_buff.data on, without IP
 *   header; not changed
 *
 * Context: softirq, or process context with the socket locked. Does not sleep.
 */
static inline void tcp_pcap_tx(struct sock *sk, struct sk_buff *skb)
{
	if (static_branch_unlikely(&tcp_pcap_key) &&
	    unlikely(tcp_pcap_owned(sk)))
		tcp_pcap_capture_tx(sk, skb, tcp_sk(sk)->tcp_clock_cache);
}

/**
 * tcp_pcap_init_sock() - give a new socket the history that
 * net.ipv4.tcp_pcap_packets asks for
 * @sk: new socket, not yet visible to others
 *
 * Context: process. May sleep. On failure the socket has no history.
 */
static inline void tcp_pcap_init_sock(struct sock *sk)
{
	if (static_branch_unlikely(&tcp_pcap_key))
		__tcp_pcap_init_sock(sk);
}

/**
 * tcp_pcap_inherit() - give a child the sizes of its listener
 * @listener: listener, which may be closed on another CPU at this moment
 * @child: child, a raw copy of the listener, not yet visible to others
 *
 * Context: softirq. Does not sleep. On failure the child has no history.
 */
static inline void tcp_pcap_inherit(const struct sock *listener,
				    struct sock *child)
{
	RCU_INIT_POINTER(tcp_sk(child)->pcap, NULL);
	if (static_branch_unlikely(&tcp_pcap_key))
		__tcp_pcap_inherit(listener, child);
}

/**
 * tcp_pcap_listen() - a socket becomes a listener: keep the sizes for its
 * children, free the packets
 * @sk: locked socket
 *
 * Context: process.
 */
static inline void tcp_pcap_listen(struct sock *sk)
{
	if (static_branch_unlikely(&tcp_pcap_key) && tcp_pcap_owned(sk))
		__tcp_pcap_listen(sk);
}

/**
 * tcp_pcap_disconnect() - a connection ends, its socket may be used again: free
 * the packets, keep the sizes
 * @sk: socket, owned by the caller
 *
 * Context: process or softirq. Does not sleep.
 */
static inline void tcp_pcap_disconnect(struct sock *sk)
{
	if (static_branch_unlikely(&tcp_pcap_key) && tcp_pcap_owned(sk))
		__tcp_pcap_disconnect(sk);
}

/**
 * tcp_pcap_destroy() - free the history with its socket
 * @sk: socket that nobody can find any more
 *
 * Context: process or softirq. Does not sleep.
 */
static inline void tcp_pcap_destroy(struct sock *sk)
{
	if (static_branch_unlikely(&tcp_pcap_key) &&
	    rcu_access_pointer(tcp_sk(sk)->pcap))
		__tcp_pcap_destroy(sk);
}

#else /* CONFIG_TCP_PCAP */

static inline void tcp_pcap_rx(struct sock *sk, struct sk_buff *skb) { }
static inline void tcp_pcap_rx_fastopen(struct sock *sk,
					struct sk_buff *skb) { }
static inline void tcp_pcap_tx(struct sock *sk, struct sk_buff *skb) { }
static inline void tcp_pcap_init_sock(struct sock *sk) { }
static inline void tcp_pcap_inherit(const struct sock *listener,
				    struct sock *child) { }
static inline void tcp_pcap_listen(struct sock *sk) { }
static inline void tcp_pcap_disconnect(struct sock *sk) { }
static inline void tcp_pcap_destroy(struct sock *sk) { }

static inline void tcp_pcap_netstat_names(struct seq_file *seq) { }
static inline void tcp_pcap_netstat_values(struct seq_file *seq,
					   const struct net *net) { }

static inline bool tcp_pcap_is_sockopt(int optname)
{
	return false;
}

static inline int tcp_pcap_setsockopt(struct sock *sk, int optname, int val)
{
	return -ENOPROTOOPT;
}

static inline int tcp_pcap_getsockopt(const struct sock *sk, int optname)
{
	return -ENOPROTOOPT;
}

#endif /* CONFIG_TCP_PCAP */
#endif /* _NET_TCP_PCAP_H */

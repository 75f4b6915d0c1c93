// SPDX-License-Identifier: GPL-2.0
/*
 * TCP_PCAP: what has to be C.
 *
 * The root of everything that a debugger reads, because it finds C symbols
 * only; the static key; and one mention of each type and constant of
 * include/net/tcp_pcap.h, because a compiler writes to BTF and DWARF only what
 * a C unit uses.
 */
#include <linux/btf.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <net/net_namespace.h>
#include <net/tcp.h>
#include <net/tcp_pcap.h>

DEFINE_STATIC_KEY_FALSE(tcp_pcap_key);

struct tcp_pcap_shard tcp_pcap_shards[TCP_PCAP_SHARDS];
struct tcp_pcap_account tcp_pcap_frags;
struct tcp_pcap_account tcp_pcap_mem;

/* Switched on with the first history, and never off: neither a packet nor a
 * close has to wait for it.
 */
void tcp_pcap_enable(void)
{
	static_branch_enable(&tcp_pcap_key);
}

void tcp_pcap_free_rcu(struct tcp_pcap *pcap)
{
	kfree_rcu(pcap, rcu);
}

static int __net_init tcp_pcap_net_init(struct net *net)
{
	/* As with tcp_rmem, a new namespace starts with the host's values: otherwise no container
	 * would ever be covered.
	 */
	if (net_eq(net, &init_net)) {
		net->ipv4.sysctl_tcp_pcap_packets = 0;
		net->ipv4.sysctl_tcp_pcap_packets_max = 1024;
		net->ipv4.sysctl_tcp_pcap_snaplen = -1;
	} else {
		net->ipv4.sysctl_tcp_pcap_packets =
			READ_ONCE(init_net.ipv4.sysctl_tcp_pcap_packets);
		net->ipv4.sysctl_tcp_pcap_packets_max =
			READ_ONCE(init_net.ipv4.sysctl_tcp_pcap_packets_max);
		net->ipv4.sysctl_tcp_pcap_snaplen =
			READ_ONCE(init_net.ipv4.sysctl_tcp_pcap_snaplen);
	}
	return tcp_pcap_sysctl_net_init(net);
}

static void __net_exit tcp_pcap_net_exit(struct net *net)
{
	tcp_pcap_sysctl_net_exit(net);
}

static struct pernet_operations tcp_pcap_net_ops = {
	.init = tcp_pcap_net_init,
	.exit = tcp_pcap_net_exit,
};

static void __init tcp_pcap_emit_types(void)
{
	BTF_TYPE_EMIT(struct tcp_pcap);
	BTF_TYPE_EMIT(struct tcp_pcap_account);
	BTF_TYPE_EMIT(struct tcp_pcap_rec);
	BTF_TYPE_EMIT(struct tcp_pcap_ring);
	BTF_TYPE_EMIT(struct tcp_pcap_shard);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_MAGIC);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_KIND_PACKET);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_DIR_IN);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_WHY_NOT);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_F_IPV6);
	BTF_TYPE_EMIT(enum tcp_pcap_const);
	BTF_TYPE_EMIT(enum tcp_pcap_kind);
	BTF_TYPE_EMIT(enum tcp_pcap_dir);
	BTF_TYPE_EMIT(enum tcp_pcap_why);
	BTF_TYPE_EMIT(enum tcp_pcap_flags);
}

static int __init tcp_pcap_init(void)
{
	unsigned long pages = totalram_pages();
	int i;

	tcp_pcap_emit_types();

	for (i = 0; i < TCP_PCAP_SHARDS; i++) {
		spin_lock_init(&tcp_pcap_shards[i].lock);
		INIT_LIST_HEAD(&tcp_pcap_shards[i].captures);
	}
	tcp_pcap_frags.max = pages / 32;
	tcp_pcap_mem.max = pages / 64 * PAGE_SIZE;

	return 0;
}

/* Before anybody can have a socket. */
core_initcall(tcp_pcap_init);

static int __init tcp_pcap_net_ops_init(void)
{
	return register_pernet_subsys(&tcp_pcap_net_ops);
}

/* After the namespace set-up of sockets and sysctls (fs_initcall). */
fs_initcall_sync(tcp_pcap_net_ops_init);

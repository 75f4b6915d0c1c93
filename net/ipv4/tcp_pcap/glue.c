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
#include <linux/cpumask.h>
#include <linux/init.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <net/net_namespace.h>
#include <net/tcp.h>
#include <net/tcp_pcap.h>

DEFINE_STATIC_KEY_FALSE(tcp_pcap_key);

struct tcp_pcap_shard tcp_pcap_shards[TCP_PCAP_SHARDS];
struct tcp_pcap_account tcp_pcap_frags;
struct tcp_pcap_account tcp_pcap_frags_containers;
struct tcp_pcap_account tcp_pcap_mem;
struct tcp_pcap_account tcp_pcap_mem_containers;
DEFINE_PER_CPU_ALIGNED(struct tcp_pcap_stock, tcp_pcap_stocks);
int sysctl_tcp_pcap_aggressive_free = 1;
/* Protects the state of reclaim, which Rust has; taken before that of a shard. */
DEFINE_MUTEX(tcp_pcap_reclaim_lock);

/* Switched on with the first history, and never off: neither a packet nor a
 * close has to wait for it.
 */
void tcp_pcap_enable(void)
{
	if (!static_key_enabled(&tcp_pcap_key))
		static_branch_enable(&tcp_pcap_key);
}

void tcp_pcap_free_rcu(struct tcp_pcap *pcap)
{
	kfree_rcu(pcap, rcu);
}

/* Histories that hold so much that it is not freed in softirq. No socket has
 * them any more, and they are in no shard.
 */
struct tcp_pcap_waiting {
	spinlock_t		lock;	/* protects @histories */
	struct list_head	histories;
	struct work_struct	work;
};

static DEFINE_PER_CPU(struct tcp_pcap_waiting, tcp_pcap_waiting);
/* Frees memory, so it must get on without any. */
static struct workqueue_struct *tcp_pcap_wq;

/* What comes meanwhile is for the next time: who waits for this does not wait
 * for ever.
 */
static void tcp_pcap_free_waiting(struct work_struct *work)
{
	struct tcp_pcap_waiting *waiting;
	struct tcp_pcap *pcap, *next;
	LIST_HEAD(histories);

	waiting = container_of(work, struct tcp_pcap_waiting, work);
	spin_lock_bh(&waiting->lock);
	list_splice_init(&waiting->histories, &histories);
	spin_unlock_bh(&waiting->lock);

	list_for_each_entry_safe(pcap, next, &histories, node) {
		while (tcp_pcap_free_some(pcap))
			cond_resched();
		cond_resched();
	}
}

/* All of it stays charged until it is freed. */
void tcp_pcap_free_later(struct tcp_pcap *pcap)
{
	struct tcp_pcap_waiting *waiting = raw_cpu_ptr(&tcp_pcap_waiting);

	spin_lock_bh(&waiting->lock);
	list_add_tail(&pcap->node, &waiting->histories);
	spin_unlock_bh(&waiting->lock);
	queue_work(tcp_pcap_wq, &waiting->work);
}

/* Until what tcp_pcap_free_later() was given before is freed. May sleep. */
void tcp_pcap_wait_for_free(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		flush_work(&per_cpu_ptr(&tcp_pcap_waiting, cpu)->work);
}

static void __init tcp_pcap_waiting_init(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct tcp_pcap_waiting *waiting;

		waiting = per_cpu_ptr(&tcp_pcap_waiting, cpu);
		spin_lock_init(&waiting->lock);
		INIT_LIST_HEAD(&waiting->histories);
		INIT_WORK(&waiting->work, tcp_pcap_free_waiting);
	}
	tcp_pcap_wq = alloc_workqueue("tcp_pcap",
				      WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!tcp_pcap_wq)
		tcp_pcap_wq = system_dfl_wq;
}

/* CPUs that may have something in stock. A mark is made after something is put
 * into an empty stock, and removed before the stock is emptied, with a full
 * barrier in between on both sides: so a stock is empty, or marked, or one of
 * the two is under way.
 */
static struct tcp_pcap_stocked {
	struct cpumask	cpus;
} ____cacheline_aligned_in_smp
tcp_pcap_stocked[TCP_PCAP_RESOURCES][TCP_PCAP_PAYERS];

void tcp_pcap_mark_stocked(const struct tcp_pcap_stock *stock,
			   enum tcp_pcap_resource res,
			   enum tcp_pcap_payer payer)
{
	struct cpumask *mask = &tcp_pcap_stocked[res][payer].cpus;

	/* Pairs with cpumask_test_and_clear_cpu() below. */
	smp_mb();
	/* Shared by all CPUs, so it is not written without need. */
	if (!cpumask_test_cpu(stock->cpu, mask))
		cpumask_set_cpu(stock->cpu, mask);
}

/* The first marked CPU from @cpu on, the mark of which is removed; nr_cpu_ids or
 * more if there is none.
 */
unsigned int tcp_pcap_next_stocked(enum tcp_pcap_resource res,
				   enum tcp_pcap_payer payer, unsigned int cpu)
{
	struct cpumask *mask = &tcp_pcap_stocked[res][payer].cpus;

	if (cpu >= nr_cpu_ids)
		return nr_cpu_ids;
	cpu = cpumask_next((int)cpu - 1, mask);
	if (cpu < nr_cpu_ids)
		cpumask_test_and_clear_cpu(cpu, mask);
	return cpu;
}

/* What a CPU reserves at a time, in pages and bytes. It keeps up to twice as
 * much for each payer.
 */
#define FRAGS_BATCH_MAX	128
#define MEM_BATCH_MAX	(64 * 1024)

static struct tcp_pcap_account *const tcp_pcap_accounts[][TCP_PCAP_PAYERS] = {
	[TCP_PCAP_FRAGS] = { &tcp_pcap_frags, &tcp_pcap_frags_containers },
	[TCP_PCAP_MEM]	 = { &tcp_pcap_mem, &tcp_pcap_mem_containers },
};

/* While more is reserved than the limit, CPUs get no stock, so that what is
 * released then is not charged again. Who releases reads nothing that others
 * write: hence this is found out here, when a limit is set and when that was
 * enforced, by one caller at a time.
 */
void tcp_pcap_set_batch(enum tcp_pcap_resource res)
{
	unsigned long batch_max = res == TCP_PCAP_FRAGS ? FRAGS_BATCH_MAX :
							  MEM_BATCH_MAX;
	bool holds = true;
	int payer;

	for (payer = 0; payer < TCP_PCAP_PAYERS; payer++) {
		struct tcp_pcap_account *account;
		unsigned long batch;

		account = tcp_pcap_accounts[res][payer];
		/* With one payer, all stocks are an eighth of a small limit at
		 * most.
		 */
		batch = account->max / (16 * num_possible_cpus());
		/* What a container charges is reserved in both accounts. */
		holds = holds && atomic_long_read(&account->reserved) <=
				 account->max;
		WRITE_ONCE(account->batch, holds ? min(batch, batch_max) : 0);
	}
}

/* Sets a limit; tcp_pcap_enforce() makes it hold when it was lowered. */
void tcp_pcap_set_max(enum tcp_pcap_resource res, unsigned long max)
{
	WRITE_ONCE(tcp_pcap_accounts[res][TCP_PCAP_CONTAINERS]->max, max / 4);
	WRITE_ONCE(tcp_pcap_accounts[res][TCP_PCAP_HOST]->max, max);
	/* Whoever reserves more either sees the new limit afterwards, and takes
	 * that back, or is seen here and by tcp_pcap_enforce().
	 */
	smp_mb();
	tcp_pcap_set_batch(res);
}

/* What a CPU keeps of closed connections. */
static long spare_bytes(const struct tcp_pcap_stock *stock,
			enum tcp_pcap_payer payer)
{
	long n = atomic_long_read(&stock->spares[TCP_PCAP_CONTAINERS].bytes);

	if (payer == TCP_PCAP_HOST)
		n += atomic_long_read(&stock->spares[TCP_PCAP_HOST].bytes);
	return n;
}

/* What is charged to an account and in use; never more than what is reserved in
 * it. While CPUs are at work, some of them may be seen with more in stock than
 * they have, and the sum be negative.
 */
long tcp_pcap_used(enum tcp_pcap_resource res, enum tcp_pcap_payer payer)
{
	long used = atomic_long_read(&tcp_pcap_accounts[res][payer]->reserved);
	int cpu;

	for_each_possible_cpu(cpu) {
		const struct tcp_pcap_stock *stock;

		stock = per_cpu_ptr(&tcp_pcap_stocks, cpu);
		used -= atomic_long_read(&stock->left_containers[res]);
		/* The host's account has what all have in stock. */
		if (payer == TCP_PCAP_HOST)
			used -= atomic_long_read(&stock->left[res]);
		if (res == TCP_PCAP_MEM)
			used -= spare_bytes(stock, payer);
	}
	return used;
}

static int __net_init tcp_pcap_mibs_net_init(struct net *net)
{
	net->ipv4.tcp_pcap_mibs = alloc_percpu(struct tcp_pcap_mibs);
	return net->ipv4.tcp_pcap_mibs ? 0 : -ENOMEM;
}

/* Sockets of the kernel's own may be left in the namespace, and their histories
 * in the shards: from here on nobody counts for it.
 */
static void __net_exit tcp_pcap_mibs_net_pre_exit(struct net *net)
{
	net->ipv4.tcp_pcap_dying_mibs = net->ipv4.tcp_pcap_mibs;
	WRITE_ONCE(net->ipv4.tcp_pcap_mibs, NULL);
}

static void __net_exit tcp_pcap_mibs_net_exit(struct net *net)
{
	/* Not NULL if another part of the namespace could not be set up. */
	free_percpu(net->ipv4.tcp_pcap_mibs);
	free_percpu(net->ipv4.tcp_pcap_dying_mibs);
}

static struct pernet_operations tcp_pcap_mibs_ops = {
	.init = tcp_pcap_mibs_net_init,
	.pre_exit = tcp_pcap_mibs_net_pre_exit,
	.exit = tcp_pcap_mibs_net_exit,
};

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
	BTF_TYPE_EMIT(struct tcp_pcap_mibs);
	BTF_TYPE_EMIT(struct tcp_pcap_rec);
	BTF_TYPE_EMIT(struct tcp_pcap_ring);
	BTF_TYPE_EMIT(struct tcp_pcap_shard);
	BTF_TYPE_EMIT(struct tcp_pcap_stock);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_MAGIC);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_KIND_PACKET);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_DIR_IN);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_WHY_NOT);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_F_IPV6);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_CAPTURE_CONTAINER);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_FRAGS);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_HOST);
	BTF_TYPE_EMIT_ENUM(TCP_PCAP_MIB_WHY);
	BTF_TYPE_EMIT(enum tcp_pcap_const);
	BTF_TYPE_EMIT(enum tcp_pcap_kind);
	BTF_TYPE_EMIT(enum tcp_pcap_dir);
	BTF_TYPE_EMIT(enum tcp_pcap_why);
	BTF_TYPE_EMIT(enum tcp_pcap_flags);
	BTF_TYPE_EMIT(enum tcp_pcap_capture_flags);
	BTF_TYPE_EMIT(enum tcp_pcap_resource);
	BTF_TYPE_EMIT(enum tcp_pcap_payer);
	BTF_TYPE_EMIT(enum tcp_pcap_mib);
}

static int __init tcp_pcap_init(void)
{
	unsigned long pages = totalram_pages();
	int cpu, i;

	tcp_pcap_emit_types();
	tcp_pcap_waiting_init();

	for (i = 0; i < TCP_PCAP_SHARDS; i++) {
		spin_lock_init(&tcp_pcap_shards[i].lock);
		INIT_LIST_HEAD(&tcp_pcap_shards[i].captures);
	}
	for_each_possible_cpu(cpu)
		per_cpu_ptr(&tcp_pcap_stocks, cpu)->cpu = cpu;
	tcp_pcap_set_max(TCP_PCAP_FRAGS, pages / 32);
	tcp_pcap_set_max(TCP_PCAP_MEM, pages / 64 * PAGE_SIZE);

	/* The first to come is the last to go when a namespace ends. Without
	 * it nothing is counted.
	 */
	return register_pernet_subsys(&tcp_pcap_mibs_ops);
}

/* Before anybody can have a socket. */
core_initcall(tcp_pcap_init);

static int __init tcp_pcap_late_init(void)
{
	int err = tcp_pcap_register_shrinker();

	if (err)
		pr_warn("TCP: tcp_pcap: no shrinker (error %d): memory pressure will free no packets; lower net.ipv4.tcp_pcap_frags_max and tcp_pcap_mem_max\n",
			err);
	if (IS_ENABLED(CONFIG_PROC_FS) && tcp_pcap_proc_init())
		pr_warn("TCP: tcp_pcap: no /proc/net/tcp_pcap; see net.ipv4.tcp_pcap_frags and tcp_pcap_mem\n");
	return register_pernet_subsys(&tcp_pcap_net_ops);
}

/* After the namespace set-up of sockets and sysctls (fs_initcall). */
fs_initcall_sync(tcp_pcap_late_init);

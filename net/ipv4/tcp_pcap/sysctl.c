// SPDX-License-Identifier: GPL-2.0
/*
 * TCP_PCAP: net.ipv4.tcp_pcap_*, see Documentation/networking/ip-sysctl.rst.
 */
#include <linux/capability.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/sysctl.h>
#include <net/net_namespace.h>
#include <net/tcp_pcap.h>

static int packets_hard_max = TCP_PCAP_PACKETS_HARD_MAX;
static int snaplen_all = -1;

/* Neither setting may give the root of a container more than the host's administrator allows. */
static int tcp_pcap_packets_handler(const struct ctl_table *ctl, int write, void *buffer,
				    size_t *lenp, loff_t *ppos)
{
	int *max = ctl->extra2 ?: &packets_hard_max;
	int val = READ_ONCE(*(int *)ctl->data);
	struct ctl_table tmp = {
		.procname = ctl->procname,
		.data = &val,
		.maxlen = sizeof(val),
		.mode = ctl->mode,
		.extra1 = SYSCTL_ZERO,
		.extra2 = &packets_hard_max,
	};
	int err;

	err = proc_dointvec_minmax(&tmp, write, buffer, lenp, ppos);
	if (err || !write)
		return err;
	if (val > READ_ONCE(*max) && !capable(CAP_NET_ADMIN))
		return -EPERM;
	if (val)
		tcp_pcap_enable();
	WRITE_ONCE(*(int *)ctl->data, val);
	return 0;
}

static int tcp_pcap_packets_max_handler(const struct ctl_table *ctl, int write, void *buffer,
					size_t *lenp, loff_t *ppos)
{
	if (write && !capable(CAP_NET_ADMIN))
		return -EPERM;
	return proc_dointvec_minmax(ctl, write, buffer, lenp, ppos);
}

/* What the host's administrator leaves out, the root of a container cannot
 * bring back.
 */
static int tcp_pcap_snaplen_handler(const struct ctl_table *ctl, int write, void *buffer,
				    size_t *lenp, loff_t *ppos)
{
	int host = READ_ONCE(init_net.ipv4.sysctl_tcp_pcap_snaplen);
	int val = READ_ONCE(*(int *)ctl->data);
	struct ctl_table tmp = {
		.procname = ctl->procname,
		.data = &val,
		.maxlen = sizeof(val),
		.mode = ctl->mode,
		.extra1 = &snaplen_all,
		.extra2 = &packets_hard_max,
	};
	int err;

	err = proc_dointvec_minmax(&tmp, write, buffer, lenp, ppos);
	if (err || !write)
		return err;
	if (host >= 0 && (val < 0 || val > host) && !capable(CAP_NET_ADMIN))
		return -EPERM;
	WRITE_ONCE(*(int *)ctl->data, val);
	return 0;
}

/* One limit is lowered at a time. */
static DEFINE_MUTEX(tcp_pcap_max_mutex);

static int set_max(const struct ctl_table *ctl, enum tcp_pcap_resource res,
		   const struct tcp_pcap_account *account, int write,
		   void *buffer, size_t *lenp, loff_t *ppos)
{
	unsigned long val;
	struct ctl_table tmp = {
		.procname = ctl->procname,
		.data = &val,
		.maxlen = sizeof(val),
		.mode = ctl->mode,
	};
	int err;

	if (!write) {
		val = READ_ONCE(account->max);
		return proc_doulongvec_minmax(&tmp, write, buffer, lenp, ppos);
	}
	err = mutex_lock_interruptible(&tcp_pcap_max_mutex);
	if (err)
		return err;
	/* A write of nothing sets what is there. */
	val = READ_ONCE(account->max);
	err = proc_doulongvec_minmax(&tmp, write, buffer, lenp, ppos);
	if (!err && val > LONG_MAX)
		err = -EINVAL;
	if (!err) {
		tcp_pcap_set_max(res, val);
		err = tcp_pcap_enforce(res);
	}
	mutex_unlock(&tcp_pcap_max_mutex);
	return err;
}

static int tcp_pcap_frags_max_handler(const struct ctl_table *ctl, int write, void *buffer,
				      size_t *lenp, loff_t *ppos)
{
	return set_max(ctl, TCP_PCAP_FRAGS, &tcp_pcap_frags, write, buffer, lenp, ppos);
}

static int tcp_pcap_mem_max_handler(const struct ctl_table *ctl, int write, void *buffer,
				    size_t *lenp, loff_t *ppos)
{
	return set_max(ctl, TCP_PCAP_MEM, &tcp_pcap_mem, write, buffer, lenp, ppos);
}

static int tcp_pcap_used_handler(const struct ctl_table *ctl, int write, void *buffer,
				 size_t *lenp, loff_t *ppos)
{
	long used = tcp_pcap_used((uintptr_t)ctl->extra1, TCP_PCAP_HOST);
	unsigned long val = max(used, 0L);
	struct ctl_table tmp = {
		.procname = ctl->procname,
		.data = &val,
		.maxlen = sizeof(val),
		.mode = ctl->mode,
	};

	return proc_doulongvec_minmax(&tmp, write, buffer, lenp, ppos);
}

static const struct ctl_table tcp_pcap_net_table[] = {
	{
		.procname	= "tcp_pcap_packets",
		.data		= &init_net.ipv4.sysctl_tcp_pcap_packets,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= tcp_pcap_packets_handler,
		.extra2		= &init_net.ipv4.sysctl_tcp_pcap_packets_max,
	},
	{
		.procname	= "tcp_pcap_packets_max",
		.data		= &init_net.ipv4.sysctl_tcp_pcap_packets_max,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= tcp_pcap_packets_max_handler,
		.extra1		= SYSCTL_ZERO,
		.extra2		= &packets_hard_max,
	},
	{
		.procname	= "tcp_pcap_snaplen",
		.data		= &init_net.ipv4.sysctl_tcp_pcap_snaplen,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= tcp_pcap_snaplen_handler,
	},
	/* The host's, not copied to other namespaces. */
	{
		.procname	= "tcp_pcap_frags_max",
		.maxlen		= sizeof(unsigned long),
		.mode		= 0644,
		.proc_handler	= tcp_pcap_frags_max_handler,
	},
	{
		.procname	= "tcp_pcap_frags",
		.maxlen		= sizeof(unsigned long),
		.mode		= 0444,
		.proc_handler	= tcp_pcap_used_handler,
		.extra1		= (void *)TCP_PCAP_FRAGS,
	},
	{
		.procname	= "tcp_pcap_mem_max",
		.maxlen		= sizeof(unsigned long),
		.mode		= 0644,
		.proc_handler	= tcp_pcap_mem_max_handler,
	},
	{
		.procname	= "tcp_pcap_mem",
		.maxlen		= sizeof(unsigned long),
		.mode		= 0444,
		.proc_handler	= tcp_pcap_used_handler,
		.extra1		= (void *)TCP_PCAP_MEM,
	},
	{
		.procname	= "tcp_pcap_aggressive_free",
		.data		= &sysctl_tcp_pcap_aggressive_free,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= proc_dointvec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
};

#define TCP_PCAP_NETNS_ENTRIES	3

int tcp_pcap_sysctl_net_init(struct net *net)
{
	const struct ctl_table *table = tcp_pcap_net_table;
	size_t size = ARRAY_SIZE(tcp_pcap_net_table);
	struct ctl_table *copy;
	int i;

	if (!net_eq(net, &init_net)) {
		size = TCP_PCAP_NETNS_ENTRIES;
		copy = kmemdup_array(table, size, sizeof(*table), GFP_KERNEL);
		if (!copy)
			return -ENOMEM;
		for (i = 0; i < size; i++)
			copy[i].data += (void *)net - (void *)&init_net;
		copy[0].extra2 += (void *)net - (void *)&init_net;
		table = copy;
	}

	net->ipv4.tcp_pcap_hdr = register_net_sysctl_sz(net, "net/ipv4", table, size);
	if (!net->ipv4.tcp_pcap_hdr) {
		if (table != tcp_pcap_net_table)
			kfree(table);
		return -ENOMEM;
	}
	return 0;
}

void tcp_pcap_sysctl_net_exit(struct net *net)
{
	const struct ctl_table *table = net->ipv4.tcp_pcap_hdr->ctl_table_arg;

	unregister_net_sysctl_table(net->ipv4.tcp_pcap_hdr);
	if (table != tcp_pcap_net_table)
		kfree(table);
}

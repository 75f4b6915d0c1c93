// SPDX-License-Identifier: GPL-2.0
/*
 * TCP_PCAP: /proc/net/tcp_pcap, the limits of the host; and TcpExtTCPPcap* in
 * /proc/net/netstat, the counters of a network namespace.
 */
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <net/net_namespace.h>
#include <net/tcp_pcap.h>

static const struct {
	const char *name;
	enum tcp_pcap_mib mib;
	unsigned int more;	/* this many that follow count too */
} mib_names[] = {
	{ "TCPPcapCaptured", TCP_PCAP_MIB_WHY, TCP_PCAP_WHY_MAX - 1 },
	{ "TCPPcapLost", TCP_PCAP_MIB_LOST },
	{ "TCPPcapNoHistory", TCP_PCAP_MIB_NO_HISTORY },
	{ "TCPPcapReclaimedPackets", TCP_PCAP_MIB_RECLAIMED_PACKETS },
	{ "TCPPcapReclaimedPages", TCP_PCAP_MIB_RECLAIMED_PAGES },
	{ "TCPPcapHdrSnaplen", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_SNAPLEN },
	{ "TCPPcapHdrUnreadable", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_UNREADABLE },
	{ "TCPPcapHdrZerocopy", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_ZEROCOPY },
	{ "TCPPcapHdrShared", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_SHARED },
	{ "TCPPcapHdrPfmemalloc", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_PFMEMALLOC },
	{ "TCPPcapHdrLimit", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_LIMIT },
	{ "TCPPcapHdrDecrypted", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_DECRYPTED },
	{ "TCPPcapHdrLinear", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_LINEAR },
	{ "TCPPcapHdrFragList", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_FRAG_LIST },
	{ "TCPPcapHdrPressure", TCP_PCAP_MIB_WHY + TCP_PCAP_WHY_PRESSURE },
};

/* Further fields of the TcpExt line, since readers expect one line of that name. */
void tcp_pcap_netstat_names(struct seq_file *seq)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(mib_names); i++)
		seq_printf(seq, " %s", mib_names[i].name);
}

/* Whoever reads it holds the namespace, so that @mibs does not go meanwhile. */
static unsigned long mib_sum(struct tcp_pcap_mibs __percpu *mibs, unsigned int mib)
{
	unsigned long sum = 0;
	int cpu;

	if (!mibs)
		return 0;
	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(mibs, cpu)->mibs[mib]);
	return sum;
}

void tcp_pcap_netstat_values(struct seq_file *seq, const struct net *net)
{
	int i, j;

	for (i = 0; i < ARRAY_SIZE(mib_names); i++) {
		unsigned long sum = 0;

		for (j = 0; j <= mib_names[i].more; j++)
			sum += mib_sum(net->ipv4.tcp_pcap_mibs,
				       mib_names[i].mib + j);
		seq_printf(seq, " %lu", sum);
	}
}

/* The CPUs are not read at one moment, so a sum can be negative; with unit tests
 * it is shown as it is, for tests to see whether it stays so.
 */
static long shown(long sum)
{
	return IS_ENABLED(CONFIG_TCP_PCAP_KUNIT_TEST) ? sum : max(sum, 0L);
}

static void show_account(struct seq_file *seq, const char *name,
			 const struct tcp_pcap_account *account,
			 enum tcp_pcap_resource res, enum tcp_pcap_payer payer)
{
	unsigned long refused = 0;
	int cpu;

	for_each_possible_cpu(cpu) {
		const struct tcp_pcap_stock *stock;

		stock = per_cpu_ptr(&tcp_pcap_stocks, cpu);
		refused += atomic_long_read(&stock->refused[res][payer]);
	}
	seq_printf(seq, "%-16s %12ld %12lu %12lu %12lu\n", name,
		   shown(tcp_pcap_used(res, payer)), READ_ONCE(account->max),
		   (unsigned long)atomic_long_read(&account->peak), refused);
}

static int tcp_pcap_seq_show(struct seq_file *seq, void *v)
{
	long packets = 0, payloads = 0;
	unsigned long reclaimed_packets = 0, reclaimed_payloads = 0;
	unsigned long reclaimed_pages = 0;
	int cpu;

	seq_printf(seq, "%-16s %12s %12s %12s %12s\n",
		   "account", "used", "max", "peak", "refused");
	show_account(seq, "frags", &tcp_pcap_frags,
		     TCP_PCAP_FRAGS, TCP_PCAP_HOST);
	show_account(seq, "frags_containers", &tcp_pcap_frags_containers,
		     TCP_PCAP_FRAGS, TCP_PCAP_CONTAINERS);
	show_account(seq, "mem", &tcp_pcap_mem,
		     TCP_PCAP_MEM, TCP_PCAP_HOST);
	show_account(seq, "mem_containers", &tcp_pcap_mem_containers,
		     TCP_PCAP_MEM, TCP_PCAP_CONTAINERS);

	for_each_possible_cpu(cpu) {
		const struct tcp_pcap_stock *stock;

		stock = per_cpu_ptr(&tcp_pcap_stocks, cpu);
		packets += atomic_long_read(&stock->packets);
		payloads += atomic_long_read(&stock->payloads);
		reclaimed_packets += atomic_long_read(&stock->reclaimed_packets);
		reclaimed_payloads += atomic_long_read(&stock->reclaimed_payloads);
		reclaimed_pages += atomic_long_read(&stock->reclaimed_pages);
	}
	seq_printf(seq, "packets %ld\npayloads %ld\n",
		   shown(packets), shown(payloads));
	seq_printf(seq, "reclaimed_packets %lu\nreclaimed_payloads %lu\n",
		   reclaimed_packets, reclaimed_payloads);
	seq_printf(seq, "reclaimed_pages %lu\n", reclaimed_pages);
	return 0;
}

/* In the initial namespace only: the limits are those of the host. */
int __init tcp_pcap_proc_init(void)
{
	if (!proc_create_single("tcp_pcap", 0444, init_net.proc_net,
				tcp_pcap_seq_show))
		return -ENOMEM;
	return 0;
}

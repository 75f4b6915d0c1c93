// SPDX-License-Identifier: GPL-2.0

#ifdef CONFIG_TCP_PCAP

#include <linux/capability.h>
#include <net/tcp_pcap.h>

#ifndef CONFIG_MULTIUSER
__rust_helper bool rust_helper_capable(int cap)
{
	return capable(cap);
}
#endif

__rust_helper struct tcp_pcap_stock *rust_helper_tcp_pcap_this_stock(void)
{
	return tcp_pcap_this_stock();
}

__rust_helper struct tcp_pcap_stock *rust_helper_tcp_pcap_stock_of(unsigned int cpu)
{
	return tcp_pcap_stock_of(cpu);
}

__rust_helper void rust_helper_tcp_pcap_count(const struct net *net, enum tcp_pcap_mib mib,
					      unsigned long n)
{
	tcp_pcap_count(net, mib, n);
}

#endif

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fixture of the tests of TCP_PCAP: a network namespace for each test, each test for three
 * kinds of address, and after each test a look whether everything that was kept is free again.
 */
#ifndef TCP_PCAP_FIXTURE_H
#define TCP_PCAP_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>

#include "kselftest_harness.h"
#include "pcap.h"

FIXTURE(tcp_pcap)
{
	struct pcap_host host;
};

FIXTURE_VARIANT(tcp_pcap)
{
	int family;
	const char *addr;
};

FIXTURE_VARIANT_ADD(tcp_pcap, ipv4)
{
	.family	= AF_INET,
	.addr	= "127.0.0.1",
};

FIXTURE_VARIANT_ADD(tcp_pcap, ipv6)
{
	.family	= AF_INET6,
	.addr	= "::1",
};

/* An IPv6 socket that speaks IPv4. */
FIXTURE_VARIANT_ADD(tcp_pcap, v4mapped)
{
	.family	= AF_INET6,
	.addr	= "::ffff:127.0.0.1",
};

FIXTURE_SETUP(tcp_pcap)
{
	int fd, ret;

	if (geteuid())
		SKIP(return, "must run as root");

	fd = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
	ASSERT_LE(0, fd);
	ret = pcap_set(fd, TCP_PCAP_IN, 0);
	close(fd);
	if (ret == -ENOPROTOOPT)
		SKIP(return, "this kernel has no CONFIG_TCP_PCAP");
	ASSERT_EQ(0, ret);

	ret = pcap_host_open();
	if (ret == -ENOENT)
		SKIP(return, "must run in the initial network namespace");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, pcap_host_save(&self->host));

	ASSERT_EQ(0, pcap_new_netns());
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 0));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", 1024));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", -1));
}

/*
 * In the parent, which stays in the initial network namespace: when it gets here the test's process
 * is gone, and with it each socket that the test left open.
 */
FIXTURE_TEARDOWN_PARENT(tcp_pcap)
{
	if (!self->host.saved)
		return;

	EXPECT_EQ(0, pcap_host_open());
	EXPECT_EQ(0, pcap_host_restore(&self->host));
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS])) {
		TH_LOG("pages leaked: %ld pinned, %ld before the test",
		       pcap_frags(), self->host.host[PCAP_FRAGS]);
	}
	EXPECT_TRUE(pcap_settles(PCAP_MEM, self->host.host[PCAP_MEM])) {
		TH_LOG("memory leaked: %ld bytes used, %ld before the test",
		       pcap_mem(), self->host.host[PCAP_MEM]);
	}
}

#endif /* TCP_PCAP_FIXTURE_H */

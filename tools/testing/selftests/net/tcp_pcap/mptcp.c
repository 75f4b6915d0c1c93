// SPDX-License-Identifier: GPL-2.0
/* MPTCP: the options are refused, the subflows are covered by the sysctl. */
#include "fixture.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP	262
#endif

static int mptcp_socket(int family)
{
	const struct timeval timeout = { .tv_sec = 20 };
	const int one = 1;
	int fd;

	fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void expect_refused(struct __test_metadata *_metadata, int fd)
{
	EXPECT_EQ(-ENOPROTOOPT, pcap_set(fd, TCP_PCAP_IN, 5));
	EXPECT_EQ(-ENOPROTOOPT, pcap_set(fd, TCP_PCAP_OUT, 5));
	EXPECT_EQ(-EOPNOTSUPP, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(-EOPNOTSUPP, pcap_get(fd, TCP_PCAP_OUT));
}

TEST_F(tcp_pcap, options_are_refused)
{
	int fd;

	fd = mptcp_socket(variant->family);
	ASSERT_LE(0, fd);
	expect_refused(_metadata, fd);
}

TEST_F(tcp_pcap, subflows)
{
	int listener, client, server;
	long start;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 16));
	listener = mptcp_socket(variant->family);
	ASSERT_LE(0, listener);
	ASSERT_EQ(0, pcap_bind(listener, variant->family, variant->addr));
	ASSERT_EQ(0, listen(listener, 8));
	client = mptcp_socket(variant->family);
	ASSERT_LE(0, client);
	ASSERT_EQ(0, pcap_connect_fd(client, listener));
	server = pcap_accept(listener);
	ASSERT_LE(0, server);

	ASSERT_EQ(0, pcap_rounds(client, server, 50));
	ASSERT_EQ(0, pcap_bulk(client, server, 1000 * 1000));
	ASSERT_EQ(0, pcap_bulk(server, client, 1000 * 1000));
	ASSERT_EQ(0, pcap_rounds(client, server, 20));
	expect_refused(_metadata, client);
	expect_refused(_metadata, server);

	/* Both ends, both directions. */
	EXPECT_LE(start + 4 * 16 * PCAP_RECORD_MIN, pcap_mem());
	EXPECT_LT(0, pcap_mib("MPCapableSYNRX"));

	close(client);
	close(server);
	close(listener);
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
}

/* A peer that knows no MPTCP: one plain subflow remains. */
TEST_F(tcp_pcap, fallback)
{
	int listener, client, server;
	long start;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 16));
	listener = pcap_listener(variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT);
	ASSERT_LE(0, listener);
	client = mptcp_socket(variant->family);
	ASSERT_LE(0, client);
	ASSERT_EQ(0, pcap_connect_fd(client, listener));
	server = pcap_accept(listener);
	ASSERT_LE(0, server);
	EXPECT_EQ(16, pcap_get(server, TCP_PCAP_IN));
	EXPECT_EQ(-ENOPROTOOPT, pcap_set(client, TCP_PCAP_IN, 5));

	ASSERT_EQ(0, pcap_rounds(client, server, 50));
	EXPECT_LE(start + 4 * 16 * PCAP_RECORD_MIN, pcap_mem());
	close(client);
	close(server);
	close(listener);
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/* Accepted sockets take the sizes of their listener, whatever the sysctl says. */
#include "fixture.h"

/* A new connection to @listener is accepted with these sizes, and its packets are kept. */
static void check_child(struct __test_metadata *_metadata, int listener, int in, int out)
{
	int client, server;
	long start, mem;

	start = pcap_mem();
	client = pcap_connect(listener, 0, 0);
	ASSERT_LE(0, client);
	server = pcap_accept(listener);
	ASSERT_LE(0, server);
	EXPECT_EQ(in, pcap_get(server, TCP_PCAP_IN));
	EXPECT_EQ(out, pcap_get(server, TCP_PCAP_OUT));

	ASSERT_EQ(0, pcap_rounds(client, server, (in > out ? in : out) + 5));
	mem = pcap_mem();
	EXPECT_LE(start + (in + out) * PCAP_RECORD_MIN, mem);
	if (!in && !out)
		EXPECT_EQ(start, mem);

	close(client);
	close(server);
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
}

TEST_F(tcp_pcap, sizes_of_the_listener)
{
	int listener;

	listener = pcap_listener(variant->family, variant->addr, 3, 9);
	ASSERT_LE(0, listener);
	check_child(_metadata, listener, 3, 9);
	EXPECT_EQ(3, pcap_get(listener, TCP_PCAP_IN));
	EXPECT_EQ(9, pcap_get(listener, TCP_PCAP_OUT));
}

TEST_F(tcp_pcap, one_direction)
{
	int listener;

	listener = pcap_listener(variant->family, variant->addr, 8, 0);
	ASSERT_LE(0, listener);
	check_child(_metadata, listener, 8, 0);
	ASSERT_EQ(0, pcap_set_both(listener, 0, 8));
	check_child(_metadata, listener, 0, 8);
	ASSERT_EQ(0, pcap_set_both(listener, 0, 0));
	check_child(_metadata, listener, 0, 0);
}

TEST_F(tcp_pcap, set_after_listen)
{
	int listener;

	listener = pcap_listener(variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT);
	ASSERT_LE(0, listener);
	check_child(_metadata, listener, 0, 0);
	ASSERT_EQ(0, pcap_set_both(listener, 5, 7));
	check_child(_metadata, listener, 5, 7);
	ASSERT_EQ(0, pcap_set_both(listener, 12, 1));
	check_child(_metadata, listener, 12, 1);
}

TEST_F(tcp_pcap, not_the_sysctl)
{
	int without, with, own;

	without = pcap_listener(variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT);
	ASSERT_LE(0, without);
	own = pcap_listener(variant->family, variant->addr, 2, 4);
	ASSERT_LE(0, own);

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 16));
	check_child(_metadata, without, 0, 0);
	check_child(_metadata, own, 2, 4);

	with = pcap_listener(variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT);
	ASSERT_LE(0, with);
	check_child(_metadata, with, 16, 16);

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 0));
	check_child(_metadata, with, 16, 16);

	/* And one that refuses although the sysctl is on. */
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 16));
	ASSERT_EQ(0, pcap_set_both(with, 0, 0));
	check_child(_metadata, with, 0, 0);
}

/* Sizes are taken when the handshake ends, not by accept(). */
TEST_F(tcp_pcap, waiting_for_accept)
{
	int listener, client, server;

	listener = pcap_listener(variant->family, variant->addr, 3, 9);
	ASSERT_LE(0, listener);
	client = pcap_connect(listener, 0, 0);
	ASSERT_LE(0, client);
	ASSERT_EQ(0, pcap_set_both(listener, 100, 200));
	server = pcap_accept(listener);
	ASSERT_LE(0, server);
	EXPECT_EQ(3, pcap_get(server, TCP_PCAP_IN));
	EXPECT_EQ(9, pcap_get(server, TCP_PCAP_OUT));

	/* From now on each has its own. */
	ASSERT_EQ(0, pcap_set_both(server, 1, 2));
	EXPECT_EQ(100, pcap_get(listener, TCP_PCAP_IN));
	EXPECT_EQ(200, pcap_get(listener, TCP_PCAP_OUT));
	ASSERT_EQ(0, pcap_set_both(listener, 0, 0));
	EXPECT_EQ(1, pcap_get(server, TCP_PCAP_IN));
	EXPECT_EQ(2, pcap_get(server, TCP_PCAP_OUT));
	ASSERT_EQ(0, pcap_rounds(client, server, 10));
}

TEST_F(tcp_pcap, never_accepted)
{
	int listener, client[16];
	long start;
	size_t i;

	start = pcap_mem();
	listener = pcap_listener(variant->family, variant->addr, 32, 32);
	ASSERT_LE(0, listener);
	for (i = 0; i < ARRAY_SIZE(client); i++) {
		client[i] = pcap_connect(listener, 0, 0);
		ASSERT_LE(0, client[i]);
		ASSERT_EQ(5, send(client[i], "hello", 5, 0));
	}
	EXPECT_LE(start + (long)ARRAY_SIZE(client) * PCAP_RECORD_MIN, pcap_mem());
	close(listener);
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
}

/* A listener has sizes and no packets, also if it was something else before. */
TEST_F(tcp_pcap, listener_keeps_nothing)
{
	const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	struct pcap_pair pair;
	long start, full;
	int second;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 20, 30));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 40));
	full = pcap_mem();
	ASSERT_LE(start + 50 * PCAP_RECORD_MIN, full);

	ASSERT_EQ(0, connect(pair.client, &unspec, sizeof(unspec)));
	ASSERT_EQ(0, pcap_bind(pair.client, variant->family, variant->addr));
	ASSERT_EQ(0, listen(pair.client, 8));
	EXPECT_EQ(20, pcap_get(pair.client, TCP_PCAP_IN));
	EXPECT_EQ(30, pcap_get(pair.client, TCP_PCAP_OUT));
	/* What remains has no room for a record. */
	EXPECT_TRUE(pcap_settles_below(PCAP_MEM, start + 2 * PCAP_RECORD_MIN));
	check_child(_metadata, pair.client, 20, 30);

	/* listen() again changes the backlog only. */
	ASSERT_EQ(0, listen(pair.client, 16));
	check_child(_metadata, pair.client, 20, 30);

	/* And back from listener to client. */
	ASSERT_EQ(0, connect(pair.client, &unspec, sizeof(unspec)));
	EXPECT_EQ(20, pcap_get(pair.client, TCP_PCAP_IN));
	EXPECT_EQ(30, pcap_get(pair.client, TCP_PCAP_OUT));
	ASSERT_EQ(0, pcap_connect_fd(pair.client, pair.listener));
	second = pcap_accept(pair.listener);
	ASSERT_LE(0, second);
	ASSERT_EQ(0, pcap_rounds(pair.client, second, 40));
	EXPECT_LE(start + 50 * PCAP_RECORD_MIN, pcap_mem());
}

TEST_F(tcp_pcap, syncookies)
{
	long before, after;
	int listener;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_syncookies", 2));
	listener = pcap_listener(variant->family, variant->addr, 3, 9);
	ASSERT_LE(0, listener);
	before = pcap_mib("SyncookiesRecv");
	ASSERT_LE(0, before);
	check_child(_metadata, listener, 3, 9);
	after = pcap_mib("SyncookiesRecv");
	EXPECT_EQ(before + 1, after);
}

TEST_F(tcp_pcap, fastopen)
{
	struct sockaddr_storage sa = {};
	socklen_t len = sizeof(sa);
	int listener, client, server;
	const int backlog = 8;
	char buf[8] = {};
	long start;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_fastopen", 0x207));
	listener = pcap_bound(variant->family, variant->addr, 3, 9);
	ASSERT_LE(0, listener);
	ASSERT_EQ(0, setsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN, &backlog, sizeof(backlog)));
	ASSERT_EQ(0, listen(listener, backlog));
	ASSERT_EQ(0, getsockname(listener, (struct sockaddr *)&sa, &len));

	start = pcap_mem();
	client = pcap_socket(variant->family);
	ASSERT_LE(0, client);
	ASSERT_EQ(0, pcap_set_both(client, 4, 6));
	ASSERT_EQ(5, sendto(client, "hello", 5, MSG_FASTOPEN, (struct sockaddr *)&sa, len));
	server = pcap_accept(listener);
	ASSERT_LE(0, server);
	ASSERT_EQ(5, recv(server, buf, sizeof(buf), 0));
	EXPECT_STREQ("hello", buf);
	EXPECT_EQ(1, pcap_mib("TCPFastOpenPassive"));

	EXPECT_EQ(3, pcap_get(server, TCP_PCAP_IN));
	EXPECT_EQ(9, pcap_get(server, TCP_PCAP_OUT));
	EXPECT_EQ(4, pcap_get(client, TCP_PCAP_IN));
	EXPECT_EQ(6, pcap_get(client, TCP_PCAP_OUT));
	ASSERT_EQ(0, pcap_rounds(client, server, 20));
	EXPECT_LE(start + (3 + 9 + 4 + 6) * PCAP_RECORD_MIN, pcap_mem());

	close(client);
	close(server);
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/* A ring made larger or smaller with packets in it. */
#include <pthread.h>

#include "fixture.h"

static const int sizes[] = { 1, 5, 64, 1024, 64, 1024, 5, 1, 1024, 1 };

TEST_F(tcp_pcap, up_and_down)
{
	struct pcap_pair pair;
	long start, mem;
	size_t i;
	int n;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 0, 0));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 10));
	EXPECT_EQ(start, pcap_mem());

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		n = sizes[i];
		ASSERT_EQ(0, pcap_set_both(pair.client, n, n));
		EXPECT_EQ(n, pcap_get(pair.client, TCP_PCAP_IN));
		EXPECT_EQ(n, pcap_get(pair.client, TCP_PCAP_OUT));

		/* Fill it, then turn it over once more: nothing is added. */
		ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, n + 3));
		mem = pcap_mem();
		EXPECT_LE(start + 2 * n * PCAP_RECORD_MIN, mem);
		ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, n / 2 + 3));
		EXPECT_EQ(mem, pcap_mem());
	}

	ASSERT_EQ(0, pcap_set_both(pair.client, 0, 0));
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 10));
	EXPECT_EQ(start, pcap_mem());
}

/* The same size costs the same, whichever way it was reached. */
TEST_F(tcp_pcap, same_size_same_memory)
{
	struct pcap_pair pair;
	long start, small, large;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 5, 5));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 20));
	small = pcap_mem() - start;
	ASSERT_EQ(0, pcap_set_both(pair.client, 64, 64));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 80));
	large = pcap_mem() - start;
	EXPECT_LE(small + 2 * 59 * PCAP_RECORD_MIN, large);
	ASSERT_EQ(0, pcap_set_both(pair.client, 5, 5));
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start + small));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 20));
	EXPECT_EQ(start + small, pcap_mem());
	ASSERT_EQ(0, pcap_set_both(pair.client, 64, 64));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 80));
	EXPECT_EQ(start + large, pcap_mem());
}

/* Lowering drops the oldest: what stays is there before the next packet comes. */
TEST_F(tcp_pcap, lowering_keeps_the_youngest)
{
	struct pcap_pair pair;
	long start, full;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 80));
	full = pcap_mem() - start;

	ASSERT_EQ(0, pcap_set_both(pair.client, 32, 32));
	EXPECT_TRUE(pcap_settles_below(PCAP_MEM, start + full - 2 * 32 * PCAP_RECORD_MIN));
	EXPECT_LE(start + 2 * 32 * PCAP_RECORD_MIN, pcap_mem());
	ASSERT_EQ(0, pcap_set_both(pair.client, 1, 1));
	EXPECT_TRUE(pcap_settles_below(PCAP_MEM, start + full - 2 * 63 * PCAP_RECORD_MIN));
	EXPECT_LE(start + 2 * PCAP_RECORD_MIN, pcap_mem());
}

TEST_F(tcp_pcap, one_direction_only)
{
	struct pcap_pair pair;
	long start, both;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 32, 32));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 50));
	both = pcap_mem() - start;

	ASSERT_EQ(0, pcap_set(pair.client, TCP_PCAP_IN, 0));
	EXPECT_TRUE(pcap_settles_below(PCAP_MEM, start + both - 32 * PCAP_RECORD_MIN));
	EXPECT_LE(start + 32 * PCAP_RECORD_MIN, pcap_mem());
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 50));
	EXPECT_GE(start + both - 32 * PCAP_RECORD_MIN, pcap_mem());

	ASSERT_EQ(0, pcap_set(pair.client, TCP_PCAP_IN, 32));
	ASSERT_EQ(0, pcap_set(pair.client, TCP_PCAP_OUT, 0));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 50));
	EXPECT_TRUE(pcap_settles_below(PCAP_MEM, start + both - 32 * PCAP_RECORD_MIN));
	EXPECT_LE(start + 32 * PCAP_RECORD_MIN, pcap_mem());

	ASSERT_EQ(0, pcap_set(pair.client, TCP_PCAP_IN, 0));
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
}

/* Pages go with the records that hold them. */
TEST_F(tcp_pcap, payload)
{
	struct pcap_pair pair;
	long start;

	start = pcap_frags();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 2 * 1000 * 1000));
	EXPECT_LT(start, pcap_frags());

	ASSERT_EQ(0, pcap_set(pair.client, TCP_PCAP_OUT, 0));
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, start));
	ASSERT_EQ(0, pcap_bulk(pair.server, pair.client, 2 * 1000 * 1000));
	EXPECT_LT(start, pcap_frags());

	/* Small packets push the large ones out. */
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 100));
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, start));
}

/* A large ring costs nothing before there are packets. */
TEST_F(tcp_pcap, slots_come_with_packets)
{
	long start;
	int fd;

	start = pcap_mem();
	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pcap_set_both(fd, PCAP_PACKETS_HARD_MAX, PCAP_PACKETS_HARD_MAX));
	EXPECT_GE(start + 16384, pcap_mem());
}

TEST_F(tcp_pcap, largest_ring)
{
	struct pcap_pair pair;
	long start, full;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 65535, 65535));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 3000));
	full = pcap_mem();
	EXPECT_LE(start + 6000 * PCAP_RECORD_MIN, full);
	ASSERT_EQ(0, pcap_set_both(pair.client, 1, 1));
	EXPECT_TRUE(pcap_settles_below(PCAP_MEM, full - 5900 * PCAP_RECORD_MIN));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 5));
}

struct sender {
	int from;
	int to;
	int ret;
};

static void *send_much(void *arg)
{
	struct sender *s = arg;

	s->ret = pcap_bulk(s->from, s->to, 20 * 1000 * 1000);
	return NULL;
}

/* While another thread is busy with both ends. */
TEST_F_TIMEOUT(tcp_pcap, under_traffic, 120)
{
	struct pcap_pair pair;
	struct sender s = {};
	pthread_t thread;
	unsigned int i;
	int n;

	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	s.from = pair.client;
	s.to = pair.server;
	ASSERT_EQ(0, pthread_create(&thread, NULL, send_much, &s));
	for (i = 0; i < 400; i++) {
		n = sizes[i % ARRAY_SIZE(sizes)] - (i % 7 == 0);
		EXPECT_EQ(0, pcap_set(pair.client, i & 1 ? TCP_PCAP_IN : TCP_PCAP_OUT, n));
		EXPECT_EQ(0, pcap_set(pair.server, i & 2 ? TCP_PCAP_IN : TCP_PCAP_OUT, n));
		usleep(1000);
	}
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, s.ret);
}

TEST_HARNESS_MAIN

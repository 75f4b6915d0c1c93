// SPDX-License-Identifier: GPL-2.0
/* Host-wide limits: never exceeded, and no connection dies of them. */
#include "fixture.h"

#define BULK	(4 * 1000 * 1000)

/* A limit is meant for all of the host; here, for what the test adds. */
static long limit_to(struct __test_metadata *_metadata, enum pcap_host_sysctl max, long more)
{
	long now = pcap_host_get(max == PCAP_FRAGS_MAX ? PCAP_FRAGS : PCAP_MEM);

	ASSERT_EQ(0, pcap_host_set(max, now + more));
	pcap_peak_reset();
	return now + more;
}

TEST_F_TIMEOUT(tcp_pcap, pages, 120)
{
	/* A page of TCP's own is part of a compound of up to eight. */
	const long limits[] = { 0, 1, 7, 8, 9, 64, 500 };
	struct pcap_pair pair;
	long limit;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		limit = limit_to(_metadata, PCAP_FRAGS_MAX, limits[i]);
		ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 256, 256));
		ASSERT_EQ(0, pcap_set_both(pair.server, 256, 256));
		ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, BULK));
		ASSERT_EQ(0, pcap_bulk(pair.server, pair.client, BULK));
		EXPECT_GE(limit, pcap_peak(PCAP_FRAGS)) {
			TH_LOG("%ld pages pinned, the limit was %ld", pcap_peak(PCAP_FRAGS), limit);
		}
		if (limits[i] >= 64)
			EXPECT_LT(self->host.host[PCAP_FRAGS], pcap_peak(PCAP_FRAGS));
		/* Headers are still kept. */
		EXPECT_LE(self->host.host[PCAP_MEM] + 256 * PCAP_RECORD_MIN, pcap_peak(PCAP_MEM));
		pcap_pair_close(&pair);
		EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
		EXPECT_TRUE(pcap_settles(PCAP_MEM, self->host.host[PCAP_MEM]));
	}
}

/* Payload is kept again when there is room again. */
TEST_F(tcp_pcap, pages_come_back)
{
	struct pcap_pair pair;
	long start;

	start = pcap_frags();
	limit_to(_metadata, PCAP_FRAGS_MAX, 0);
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, BULK));
	EXPECT_EQ(start, pcap_frags());
	limit_to(_metadata, PCAP_FRAGS_MAX, 1000);
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, BULK));
	EXPECT_LT(start, pcap_frags());
}

/* A limit below the present use holds at once, and the connection goes on within it. */
TEST_F(tcp_pcap, limit_lowered)
{
	struct pcap_pair pair;
	long frags, mem;

	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, BULK));
	frags = pcap_frags();
	mem = pcap_mem();
	ASSERT_LT(self->host.host[PCAP_FRAGS], frags);

	/* Payload alone is given back, the records stay. */
	frags /= 2;
	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, frags));
	EXPECT_GE(frags, pcap_frags());
	EXPECT_EQ(mem, pcap_mem());
	pcap_peak_reset();
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 5 * BULK));
	EXPECT_GE(frags, pcap_peak(PCAP_FRAGS));
	EXPECT_EQ(mem, pcap_mem());

	mem /= 2;
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, mem));
	EXPECT_GE(mem, pcap_mem());
	pcap_peak_reset();
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 5 * BULK));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 100));
	EXPECT_GE(mem, pcap_peak(PCAP_MEM));

	/* With nothing at all there is no history. */
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, 0));
	EXPECT_EQ(0, pcap_mem());
	EXPECT_EQ(0, pcap_frags());
	EXPECT_EQ(0, pcap_get(pair.client, TCP_PCAP_IN));
	EXPECT_EQ(0, pcap_get(pair.client, TCP_PCAP_OUT));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, BULK));
	EXPECT_EQ(0, pcap_mem());
}

/* A ring can be made smaller also when no memory can be had. */
TEST_F(tcp_pcap, smaller_without_memory)
{
	struct pcap_pair pair;
	long full;

	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 80));
	full = pcap_mem();
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, full));
	EXPECT_EQ(-ENOBUFS, pcap_set(pair.client, TCP_PCAP_IN, 128));
	EXPECT_EQ(64, pcap_get(pair.client, TCP_PCAP_IN));
	EXPECT_EQ(full, pcap_mem());
	EXPECT_EQ(0, pcap_set_both(pair.client, 5, 0));
	EXPECT_EQ(5, pcap_get(pair.client, TCP_PCAP_IN));
	EXPECT_EQ(0, pcap_get(pair.client, TCP_PCAP_OUT));
	EXPECT_GE(full - (59 + 64) * PCAP_RECORD_MIN, pcap_mem());
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 20));
}

/* No room for anything: the option says so, the sysctl does not stand in the way of connections. */
TEST_F(tcp_pcap, memory_none)
{
	struct pcap_pair pair;
	int fd;

	limit_to(_metadata, PCAP_MEM_MAX, 0);

	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-ENOBUFS, pcap_set(fd, TCP_PCAP_IN, 5));
	EXPECT_EQ(0, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(0, pcap_get(fd, TCP_PCAP_OUT));
	EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_IN, 0));
	close(fd);

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 64));
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, BULK));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 20));
	EXPECT_EQ(self->host.host[PCAP_MEM], pcap_mem());
	EXPECT_GE(self->host.host[PCAP_MEM], pcap_peak(PCAP_MEM));
	EXPECT_EQ(self->host.host[PCAP_FRAGS], pcap_frags());
}

/* Room for some records: packets are lost, the connections live. */
TEST_F_TIMEOUT(tcp_pcap, memory_some, 120)
{
	const long limits[] = { 1, 512, 2048, 4096, 16384, 65536 };
	struct pcap_pair pair;
	long limit;
	size_t i;
	int ret;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 64));
	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		limit = limit_to(_metadata, PCAP_MEM_MAX, limits[i]);
		ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, PCAP_DEFAULT,
				       PCAP_DEFAULT));
		ret = pcap_set_both(pair.server, 512, 512);
		if (ret)
			EXPECT_EQ(-ENOBUFS, ret);
		ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, BULK));
		ASSERT_EQ(0, pcap_bulk(pair.server, pair.client, BULK));
		ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 100));
		EXPECT_GE(limit, pcap_peak(PCAP_MEM)) {
			TH_LOG("%ld bytes used, the limit was %ld", pcap_peak(PCAP_MEM), limit);
		}
		EXPECT_GE(limit, pcap_mem());
		if (limits[i] >= 65536)
			EXPECT_LE(self->host.host[PCAP_MEM] + limits[i] / 2, pcap_mem());
		pcap_pair_close(&pair);
		EXPECT_TRUE(pcap_settles(PCAP_MEM, self->host.host[PCAP_MEM]));
		EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
	}
}

/* A ring that was starved fills up when there is memory again. */
TEST_F(tcp_pcap, memory_comes_back)
{
	struct pcap_pair pair;

	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	limit_to(_metadata, PCAP_MEM_MAX, 2048);
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 100));
	EXPECT_GE(pcap_host_get(PCAP_MEM_MAX), pcap_mem());
	limit_to(_metadata, PCAP_MEM_MAX, 1 << 20);
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 100));
	EXPECT_LE(self->host.host[PCAP_MEM] + 128 * PCAP_RECORD_MIN, pcap_mem());
}

/* Accepted sockets that cannot have a history are accepted without. */
TEST_F(tcp_pcap, memory_and_accept)
{
	int listener, client, server;

	listener = pcap_listener(variant->family, variant->addr, 16, 16);
	ASSERT_LE(0, listener);
	limit_to(_metadata, PCAP_MEM_MAX, 0);
	client = pcap_connect(listener, 0, 0);
	ASSERT_LE(0, client);
	server = pcap_accept(listener);
	ASSERT_LE(0, server);
	ASSERT_EQ(0, pcap_rounds(client, server, 50));
	EXPECT_GE(pcap_host_get(PCAP_MEM_MAX), pcap_mem());

	/* A listener keeps its sizes, and the next child is covered again. */
	close(client);
	close(server);
	limit_to(_metadata, PCAP_MEM_MAX, 1 << 20);
	client = pcap_connect(listener, 0, 0);
	ASSERT_LE(0, client);
	server = pcap_accept(listener);
	ASSERT_LE(0, server);
	ASSERT_EQ(0, pcap_rounds(client, server, 50));
	EXPECT_EQ(16, pcap_get(server, TCP_PCAP_IN));
	EXPECT_LE(self->host.host[PCAP_MEM] + 32 * PCAP_RECORD_MIN, pcap_mem());
}

TEST_HARNESS_MAIN

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fixture of tests that count exactly what the whole host keeps: nothing else is captured
 * meanwhile. Families are mixed, each test runs once.
 */
#ifndef TCP_PCAP_HOST_H
#define TCP_PCAP_HOST_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kselftest_harness.h"
#include "pcap.h"

FIXTURE(host)
{
	struct pcap_host host;
	struct pcap_status start;
};

FIXTURE_SETUP(host)
{
	int ret;

	if (geteuid())
		SKIP(return, "must run as root");
	ret = pcap_host_open();
	if (ret == -ENOENT)
		SKIP(return, "needs CONFIG_TCP_PCAP and the initial network namespace");
	ASSERT_EQ(0, ret);
	if (!pcap_all_free())
		SKIP(return, "there are captures of others on this host");
	ASSERT_EQ(0, pcap_host_save(&self->host));
	ASSERT_EQ(0, pcap_status(&self->start));

	ASSERT_EQ(0, pcap_new_netns());
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 0));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", 1024));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", -1));
	/* Room for what a test holds, however small the machine is. */
	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, 1 << 17));
}

FIXTURE_TEARDOWN_PARENT(host)
{
	struct pcap_status s;

	if (!self->host.saved)
		return;

	EXPECT_EQ(0, pcap_host_open());
	EXPECT_EQ(0, pcap_host_restore(&self->host));
	EXPECT_TRUE(pcap_all_free()) {
		EXPECT_EQ(0, pcap_status(&s));
		TH_LOG("left over: %ld pages (%ld of containers), %ld bytes (%ld of containers)",
		       s.frags.used, s.frags_containers.used, s.mem.used, s.mem_containers.used);
		TH_LOG("left over: %ld packets, %ld payloads", s.packets, s.payloads);
	}
}

static inline struct pcap_status host_status(struct __test_metadata *_metadata)
{
	struct pcap_status s = {};

	EXPECT_EQ(0, pcap_status(&s));
	return s;
}

static inline void to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static inline int host_pair(struct pcap_pair *pair, bool ipv6, int packets)
{
	return pcap_pair(pair, ipv6 ? AF_INET6 : AF_INET, ipv6 ? "::1" : "127.0.0.1",
			 packets, packets);
}

/* An acknowledgment that is delayed would be captured at any later time: it goes now. */
static inline int host_quiet(struct pcap_pair *pair)
{
	const int one = 1;

	if (setsockopt(pair->client, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one)) ||
	    setsockopt(pair->server, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one)))
		return -errno;
	return 0;
}

/* @bytes from the client to the server, and then nothing more. */
static inline int host_bulk(struct pcap_pair *pair, size_t bytes)
{
	int ret = pcap_bulk(pair->client, pair->server, bytes);

	return ret ?: host_quiet(pair);
}

static inline int host_rounds(struct pcap_pair *pair, unsigned int n)
{
	int ret = pcap_rounds(pair->client, pair->server, n);

	return ret ?: host_quiet(pair);
}

/* A connection whose client has payload in its ring, and what that client holds. */
struct held {
	struct pcap_pair	pair;
	long			packets;
	long			payloads;
	long			pages;
};

/* The ring of 256 does not turn over: nothing that is noted here goes away by itself. */
static inline void hold(struct __test_metadata *_metadata, struct held *h, bool ipv6, size_t bytes)
{
	struct pcap_status before, after;

	before = host_status(_metadata);
	ASSERT_EQ(0, host_pair(&h->pair, ipv6, 256));
	ASSERT_EQ(0, host_bulk(&h->pair, bytes));
	after = host_status(_metadata);
	h->packets = after.packets - before.packets;
	h->payloads = after.payloads - before.payloads;
	h->pages = after.frags.used - before.frags.used;
	ASSERT_LE(8, h->payloads);
	ASSERT_LE(h->payloads, h->pages);
	ASSERT_LT(h->payloads, h->packets);
	ASSERT_GT(400, h->packets);
}

/*
 * What is active is a question of when the last pass of reclaim began. With nothing to free one
 * ends at once, so that the next one begins when it is wanted: by make_a_pass(), which takes one
 * payload from whom it likes.
 */
static inline void end_passes(struct __test_metadata *_metadata)
{
	EXPECT_EQ(0, host_status(_metadata).packets);
	EXPECT_EQ(0, pcap_shrinker_scan(1));
}

static inline void make_a_pass(struct __test_metadata *_metadata)
{
	/* Where time is virtual it passes in sleep only. */
	usleep(1000);
	ASSERT_EQ(0, pcap_shrinker_scan(1));
}

/* Traffic that leaves the payloads alone: what fits a record's head is copied there. */
static inline void be_active(struct __test_metadata *_metadata, struct held *h)
{
	usleep(1000);
	ASSERT_EQ(0, host_rounds(&h->pair, 3));
}

/* Ends the client's history; returns what it held until now. */
static inline struct held let_go(struct __test_metadata *_metadata, struct held *h)
{
	struct pcap_status before, after;
	struct held now = {};

	before = host_status(_metadata);
	EXPECT_EQ(0, pcap_set_both(h->pair.client, 0, 0));
	after = host_status(_metadata);
	now.packets = before.packets - after.packets;
	now.payloads = before.payloads - after.payloads;
	now.pages = before.frags.used - after.frags.used;

	/* It lives, whatever was taken from it. */
	EXPECT_EQ(0, host_bulk(&h->pair, 100 * 1000));
	EXPECT_EQ(0, pcap_rounds(h->pair.server, h->pair.client, 2));
	pcap_pair_close(&h->pair);
	return now;
}

#endif /* TCP_PCAP_HOST_H */

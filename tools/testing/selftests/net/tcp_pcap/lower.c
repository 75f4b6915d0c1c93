// SPDX-License-Identifier: GPL-2.0
/* A maximum below the present use: it holds when the write returns, and idle sockets pay first. */
#include "host.h"

#define BULK	(1000 * 1000)

/* Payload comes back when pages do: nobody has to set anything. */
TEST_F(host, payload_resumes)
{
	struct pcap_status full, s;
	struct held first, second;
	long limit;

	hold(_metadata, &first, false, BULK);
	full = host_status(_metadata);
	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, full.frags.used));

	ASSERT_EQ(0, host_pair(&second.pair, true, 256));
	ASSERT_EQ(0, host_bulk(&second.pair, BULK));
	s = host_status(_metadata);
	EXPECT_EQ(full.payloads, s.payloads);
	EXPECT_EQ(full.frags.used, s.frags.used);
	EXPECT_LT(full.packets, s.packets);
	EXPECT_LT(full.frags.refused, s.frags.refused);
	limit = pcap_mib("TCPPcapHdrLimit");
	EXPECT_LT(0, limit);

	let_go(_metadata, &first);
	EXPECT_EQ(0, pcap_frags());
	ASSERT_EQ(0, host_bulk(&second.pair, BULK / 4));
	s = host_status(_metadata);
	EXPECT_LT(0, s.payloads);
	EXPECT_LT(0, s.frags.used);
	EXPECT_EQ(limit, pcap_mib("TCPPcapHdrLimit"));
	let_go(_metadata, &second);
}

TEST_F(host, pages_step_by_step)
{
	struct pcap_status full, before, after;
	struct held h[4];
	long max;
	int i;

	for (i = 0; i < 4; i++)
		hold(_metadata, &h[i], i & 1, 4 * BULK);
	full = host_status(_metadata);

	before = full;
	for (i = 7; i >= 0; i--) {
		max = full.frags.used * i / 8;
		ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, max));
		after = host_status(_metadata);
		EXPECT_EQ(max, after.frags.max);
		EXPECT_GE(max, after.frags.used);
		EXPECT_GT(before.payloads, after.payloads);
		/* Only payload goes, and each page that goes is counted. */
		EXPECT_EQ(full.packets, after.packets);
		EXPECT_EQ(before.payloads - after.payloads,
			  after.reclaimed_payloads - before.reclaimed_payloads);
		EXPECT_EQ(before.frags.used - after.frags.used,
			  after.reclaimed_pages - before.reclaimed_pages);
		EXPECT_EQ(before.reclaimed_packets, after.reclaimed_packets);
		before = after;
	}
	EXPECT_EQ(0, after.frags.used);
	EXPECT_EQ(0, after.payloads);

	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, full.frags.used));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, host_bulk(&h[i].pair, BULK / 10));
		after = host_status(_metadata);
		EXPECT_LT(before.payloads, after.payloads);
		before = after;
	}
	for (i = 0; i < 4; i++)
		let_go(_metadata, &h[i]);
}

/* Not more is taken than what is asked for needs: a payload at most, and what one batch is. */
TEST_F(host, pages_not_more_than_needed)
{
	struct pcap_status full, s;
	struct held h[2];
	int i;

	for (i = 0; i < 2; i++)
		hold(_metadata, &h[i], i & 1, 4 * BULK);
	full = host_status(_metadata);
	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, full.frags.used - 1));
	s = host_status(_metadata);
	EXPECT_GT(full.frags.used, s.frags.used);
	EXPECT_LE(full.frags.used * 3 / 4, s.frags.used);
	for (i = 0; i < 2; i++)
		let_go(_metadata, &h[i]);
}

/* Two sockets on one or two CPUs, of which the first or the second is active. */
static void idle_first(struct __test_metadata *_metadata, bool pages)
{
	struct held h[2], *idle, *active, left;
	struct pcap_status full, s;
	int variant, i;
	long max;

	for (variant = 0; variant < 4; variant++) {
		ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, 1L << 30));
		ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, 1L << 40));
		end_passes(_metadata);
		for (i = 0; i < 2; i++) {
			to_cpu(variant & 2 ? i : 0);
			hold(_metadata, &h[i], i, BULK);
		}
		active = &h[variant & 1];
		idle = &h[!(variant & 1)];

		make_a_pass(_metadata);
		be_active(_metadata, active);
		full = host_status(_metadata);

		if (pages) {
			max = full.frags.used - idle->pages / 2;
			ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, max));
			s = host_status(_metadata);
			EXPECT_GE(max, s.frags.used);
			EXPECT_EQ(full.packets, s.packets);
		} else {
			/*
			 * Room for all but some records of a socket with more than twice as
			 * many.
			 */
			max = full.mem.used - idle->packets / 2 * PCAP_RECORD_MIN;
			ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, max));
			s = host_status(_metadata);
			EXPECT_GE(max, s.mem.used);
			EXPECT_GT(full.packets, s.packets);
		}
		left = let_go(_metadata, active);
		/* Also what became active by it. */
		EXPECT_LE(active->packets, left.packets);
		EXPECT_LE(active->payloads - 1, left.payloads) {
			TH_LOG("variant %d: %ld of %ld payloads left", variant, left.payloads,
			       active->payloads);
		}
		left = let_go(_metadata, idle);
		EXPECT_GT(pages ? idle->payloads - 1 : idle->packets,
			  pages ? left.payloads : left.packets);
	}
}

TEST_F(host, pages_idle_first)
{
	idle_first(_metadata, true);
}

TEST_F(host, memory_idle_first)
{
	idle_first(_metadata, false);
}

TEST_F(host, memory_step_by_step)
{
	struct pcap_status full, before, after;
	struct held h[4];
	long max, mib;
	int i;

	for (i = 0; i < 4; i++)
		hold(_metadata, &h[i], i & 1, BULK);
	full = host_status(_metadata);

	before = full;
	for (i = 7; i >= 0; i--) {
		max = full.mem.used * i / 8;
		mib = pcap_mib("TCPPcapReclaimedPackets");
		ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, max));
		after = host_status(_metadata);
		EXPECT_EQ(max, after.mem.max);
		EXPECT_GE(max, after.mem.used);
		EXPECT_GE(before.packets, after.packets);
		EXPECT_EQ(before.packets - after.packets,
			  after.reclaimed_packets - before.reclaimed_packets);
		EXPECT_EQ(before.packets - after.packets,
			  pcap_mib("TCPPcapReclaimedPackets") - mib);
		before = after;
	}
	EXPECT_EQ(0, after.mem.used);
	EXPECT_EQ(0, after.packets);
	EXPECT_EQ(0, after.payloads);
	EXPECT_EQ(0, after.frags.used);

	/* With nothing left they live on without, and get a history again when it is asked for. */
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(0, pcap_get(h[i].pair.client, TCP_PCAP_IN));
		EXPECT_EQ(0, pcap_get(h[i].pair.client, TCP_PCAP_OUT));
		ASSERT_EQ(0, host_bulk(&h[i].pair, BULK));
		EXPECT_EQ(-ENOBUFS, pcap_set(h[i].pair.client, TCP_PCAP_OUT, 64));
	}
	EXPECT_EQ(0, pcap_mem());
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, self->host.host[PCAP_MEM_MAX]));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, pcap_set_both(h[i].pair.client, 64, 64));
		ASSERT_EQ(0, host_bulk(&h[i].pair, BULK));
		after = host_status(_metadata);
		EXPECT_LT(before.packets, after.packets);
		EXPECT_LT(before.payloads, after.payloads);
		before = after;
		EXPECT_EQ(64, pcap_get(h[i].pair.client, TCP_PCAP_OUT));
	}
	for (i = 0; i < 4; i++)
		let_go(_metadata, &h[i]);
}

/* By the sysctl, too: new sockets are covered as soon as there is memory. */
TEST_F(host, memory_zero_and_new_sockets)
{
	struct pcap_pair pair;
	int i;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 32));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, 0));
		ASSERT_EQ(0, host_pair(&pair, i & 1, PCAP_DEFAULT));
		ASSERT_EQ(0, host_bulk(&pair, BULK));
		EXPECT_EQ(0, pcap_mem());
		EXPECT_EQ(0, pcap_get(pair.client, TCP_PCAP_OUT));
		pcap_pair_close(&pair);

		ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, self->host.host[PCAP_MEM_MAX]));
		ASSERT_EQ(0, host_pair(&pair, i & 1, PCAP_DEFAULT));
		ASSERT_EQ(0, host_bulk(&pair, BULK));
		EXPECT_EQ(32, pcap_get(pair.client, TCP_PCAP_OUT));
		EXPECT_LE(32 * PCAP_RECORD_MIN, pcap_mem());
		pcap_pair_close(&pair);
	}
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/* net.ipv4.tcp_pcap_snaplen: how much payload is kept. */
#include "fixture.h"

TEST_F(tcp_pcap, headers_only)
{
	struct pcap_pair pair;
	long start;

	start = pcap_frags();
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", 0));
	pcap_peak_reset();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	ASSERT_EQ(0, pcap_set_both(pair.server, 64, 64));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 2 * 1000 * 1000));
	ASSERT_EQ(0, pcap_bulk(pair.server, pair.client, 2 * 1000 * 1000));
	EXPECT_GE(start, pcap_peak(PCAP_FRAGS));
	EXPECT_LE(self->host.host[PCAP_MEM] + 4 * 10 * PCAP_RECORD_MIN, pcap_mem());
}

/* It is looked at for each packet: connections that exist follow it. */
TEST_F(tcp_pcap, takes_effect_at_once)
{
	struct pcap_pair pair;
	long start;

	start = pcap_frags();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 1000 * 1000));
	EXPECT_LT(start, pcap_frags());

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", 0));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 20 * 1000 * 1000));
	EXPECT_EQ(start, pcap_frags());

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", -1));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 1000 * 1000));
	EXPECT_LT(start, pcap_frags());
}

TEST_F(tcp_pcap, some_payload)
{
	const long snaplens[] = { 1, 100, 1000, 20000, 65535 };
	struct pcap_pair pair;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(snaplens); i++) {
		ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", snaplens[i]));
		ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 64, 64));
		ASSERT_EQ(0, pcap_set_both(pair.server, 64, 64));
		ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 1000 * 1000));
		ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 10));
		pcap_pair_close(&pair);
		EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
	}
}

TEST_HARNESS_MAIN

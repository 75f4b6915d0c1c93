// SPDX-License-Identifier: GPL-2.0
/*
 * Pages whose payload was captured are free again when the captures are gone: no reference is left.
 *
 * User space sees no reference counts. It sees free memory: pages are pinned and given back in
 * several rounds, so that a reference left on a few in a hundred would add up to more than what
 * else comes and goes. That pinned pages do show there is tested, too.
 */
#include "memory.h"

#define PAIRS	4
#define ROUNDS	6
#define BYTES	(6 << 20)
#define PAGES	((long)(PAIRS * BYTES / getpagesize()))

/* What happens to the packets of a round while they are there. */
static void stir(const struct pcap_pair *pairs)
{
	struct pcap_status s;
	int i;

	must(pcap_shrinker_scan(20), "scan");
	s = memory_status();
	must(pcap_host_set(PCAP_FRAGS_MAX, s.frags.used / 2), "frags_max");
	for (i = 0; i < PAIRS; i++)
		must(pcap_bulk(pairs[i].client, pairs[i].server, BYTES / 8), "bulk data");
	must(pcap_host_set(PCAP_FRAGS_MAX, 1 << 20), "frags_max");
	for (i = 0; i < PAIRS; i++) {
		must(pcap_set_both(pairs[i].client, 10, 10), "smaller rings");
		must(pcap_bulk(pairs[i].client, pairs[i].server, BYTES / 8), "bulk data");
		must(pcap_set_both(pairs[i].client, 16, 16), "larger rings");
		must(pcap_bulk(pairs[i].client, pairs[i].server, BYTES / 8), "bulk data");
	}
	must(pcap_shrinker_scan(20), "scan");
}

/*
 * Rounds of connections with rings of @packets. Returns how many pages less are free after the last
 * round than after the first, which is for what is allocated once. @pinned: pages charged, @seen:
 * pages that were not free meanwhile.
 */
static long rounds(int packets, bool is_stirred, long *pinned, long *seen)
{
	long first = 0, now = 0, before, during;
	struct pcap_pair *pairs;
	struct pcap_status s;
	int round;

	for (round = 0; round < ROUNDS; round++) {
		settle();
		before = meminfo_pages("MemFree");
		pairs = memory_pairs(PAIRS, packets, BYTES);
		if (is_stirred)
			stir(pairs);
		settle();
		during = meminfo_pages("MemFree");
		s = memory_status();
		memory_close(pairs, PAIRS);
		must(pcap_all_free() ? 0 : -EBUSY, "captures left over");
		settle();
		now = meminfo_pages("MemFree");
		ksft_print_msg("%d packets, round %d: %ld pages charged, free %ld -> %ld -> %ld\n",
			       packets, round, s.frags.used, before, during, now);
		if (!round) {
			first = now;
			continue;
		}
		*pinned += s.frags.used;
		*seen += now - during;
	}
	return first - now;
}

int main(void)
{
	long pinned = 0, seen = 0, kept = 0, passed, missing, ignored = 0;
	struct pcap_status s;

	ksft_print_header();
	ksft_set_plan(6);
	memory_begin();
	must(pcap_new_netns(), "network namespace");
	must(pcap_host_set(PCAP_FRAGS_MAX, 1 << 20), "frags_max");

	missing = rounds(512, false, &pinned, &seen);
	ksft_test_result(pinned > 3L * ROUNDS * PAGES / 4,
			 "payload is captured (%ld pages in all rounds)\n", pinned);
	/* Neighbours share a compound page, which is charged to each of them. */
	ksft_test_result(seen > pinned / 2 && seen < pinned * 5 / 4,
			 "pinned pages are missing in free memory (%ld)\n", seen);
	ksft_test_result(missing < seen / 100,
			 "and come back (%ld of %ld missing)\n", missing, seen);

	/* Records are filled again, stripped, moved and cut many times before they go. */
	missing = rounds(16, true, &kept, &ignored);
	passed = (ROUNDS - 1) * PAGES;
	ksft_test_result(kept > 0 && kept < passed / 4,
			 "small rings keep few of %ld pages (%ld)\n", passed, kept);
	ksft_test_result(missing < passed / 100,
			 "and all come back (%ld of %ld missing)\n", missing, passed);
	s = memory_status();
	ksft_test_result(!s.frags.used && !s.mem.used && !s.packets && !s.payloads,
			 "the accounts are at zero\n");
	ksft_finished();
}

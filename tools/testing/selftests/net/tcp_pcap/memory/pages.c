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
#define PACKETS	512
#define BYTES	(6 << 20)

int main(void)
{
	long first = 0, now = 0, pinned = 0, seen = 0, before, during;
	struct pcap_pair *pairs;
	struct pcap_status s;
	int round;

	ksft_print_header();
	ksft_set_plan(4);
	memory_begin();
	must(pcap_new_netns(), "network namespace");
	must(pcap_host_set(PCAP_FRAGS_MAX, 1 << 20), "frags_max");

	for (round = 0; round < ROUNDS; round++) {
		settle();
		before = meminfo_pages("MemFree");
		pairs = memory_pairs(PAIRS, PACKETS, BYTES);
		settle();
		during = meminfo_pages("MemFree");
		s = memory_status();
		memory_close(pairs, PAIRS);
		must(pcap_all_free() ? 0 : -EBUSY, "captures left over");
		settle();
		now = meminfo_pages("MemFree");
		ksft_print_msg("round %d: %ld pages charged, free %ld -> %ld -> %ld\n", round,
			       s.frags.used, before, during, now);

		/* The first is for what is allocated once. */
		if (!round) {
			first = now;
			continue;
		}
		pinned += s.frags.used;
		seen += now - during;
	}

	ksft_test_result(pinned > 3L * ROUNDS * PAIRS * BYTES / 4 / getpagesize(),
			 "payload is captured (%ld pages in all rounds)\n", pinned);
	/* Neighbours share a compound page, which is charged to each of them. */
	ksft_test_result(seen > pinned / 2 && seen < pinned * 5 / 4,
			 "pinned pages are missing in free memory (%ld)\n", seen);
	ksft_test_result(first - now < seen / 100,
			 "and come back (%ld of %ld missing)\n", first - now, seen);
	s = memory_status();
	ksft_test_result(!s.frags.used && !s.mem.used && !s.packets && !s.payloads,
			 "the accounts are at zero\n");
	ksft_finished();
}

// SPDX-License-Identifier: GPL-2.0
/*
 * 3,000 sockets with 5 packets per direction, several times: what it costs, and that all of it is
 * given back. Slab caches are counted after they were shrunk, so that a free object does not count.
 */
#include "memory.h"

#define SOCKETS	3000
#define PACKETS	5
#define PASSES	3
#define CACHES	512

struct cache {
	char	name[40];
	long	objects;
};

struct usage {
	long		free;
	long		slab;
	unsigned int	nr;
	struct cache	cache[CACHES];
};

/* Those that debugging takes for what it remembers of the past are not looked at. */
static bool is_watched(const char *name)
{
	return strncmp(name, "debug_objects", 13) && strncmp(name, "kmemleak_", 9);
}

static void measure(struct usage *u)
{
	char line[256];
	FILE *slabs;

	settle();
	u->free = meminfo_pages("MemFree");
	u->slab = meminfo_pages("Slab");
	slabs = fopen("/proc/slabinfo", "r");
	if (!slabs)
		ksft_exit_fail_msg("no /proc/slabinfo\n");
	for (u->nr = 0; u->nr < CACHES && fgets(line, sizeof(line), slabs);) {
		struct cache *c = &u->cache[u->nr];

		if (sscanf(line, "%39s %ld", c->name, &c->objects) == 2 && is_watched(c->name))
			u->nr++;
	}
	fclose(slabs);
	if (u->nr < 5)
		ksft_exit_fail_msg("only %u slab caches\n", u->nr);
}

static long objects(const struct usage *u, const char *name)
{
	unsigned int i;

	for (i = 0; i < u->nr; i++) {
		if (!strcmp(u->cache[i].name, name))
			return u->cache[i].objects;
	}
	ksft_exit_fail_msg("no slab cache %s\n", name);
}

/* Makes the sockets, measures while they live, and closes them; @packets = 0: without capture. */
static struct pcap_status pass(int packets, struct usage *during, struct usage *after)
{
	int (*socks)[2] = calloc(SOCKETS / 2, sizeof(*socks));
	struct pcap_status s;
	int listener[2], i;

	must(pcap_sysctl_set("tcp_pcap_packets", packets), "tcp_pcap_packets");
	listener[0] = pcap_listener(AF_INET, "127.0.0.1", PCAP_DEFAULT, PCAP_DEFAULT);
	listener[1] = pcap_listener(AF_INET6, "::1", PCAP_DEFAULT, PCAP_DEFAULT);
	for (i = 0; i < SOCKETS / 2; i++) {
		socks[i][0] = pcap_connect(listener[i & 1], PCAP_DEFAULT, PCAP_DEFAULT);
		must(socks[i][0], "connect");
		socks[i][1] = pcap_accept(listener[i & 1]);
		must(socks[i][1], "accept");
		must(pcap_rounds(socks[i][0], socks[i][1], PACKETS), "round trip");
		must(pcap_bulk(socks[i][0], socks[i][1], 2000), "data");
		must(pcap_bulk(socks[i][1], socks[i][0], 2000), "data");
	}
	measure(during);
	s = memory_status();
	for (i = 0; i < SOCKETS / 2; i++) {
		pcap_reset(socks[i][0]);
		close(socks[i][1]);
	}
	close(listener[0]);
	close(listener[1]);
	free(socks);
	if (!pcap_all_free())
		ksft_exit_fail_msg("captures left over\n");
	measure(after);
	return s;
}

int main(void)
{
	const long ring = PACKETS * SOCKETS * 2;
	struct usage during[2], after[PASSES];
	struct pcap_status off, on;
	bool same = true;
	long grown, all;
	unsigned int i;

	ksft_print_header();
	ksft_set_plan(4);
	memory_begin();
	must(pcap_host_set(PCAP_MEM_MAX, 1L << 30), "mem_max");
	must(pcap_host_set(PCAP_FRAGS_MAX, 1L << 20), "frags_max");
	must(pcap_new_netns(), "network namespace");

	/* The first pass of each kind is for what is allocated once. */
	pass(0, &during[0], &after[0]);
	off = pass(0, &during[0], &after[0]);
	for (i = 0; i < PASSES; i++)
		on = pass(PACKETS, &during[1], &after[i]);

	ksft_print_msg("without: %ld pages of slab, %ld pages free\n", during[0].slab,
		       during[0].free);
	ksft_print_msg("with:    %ld pages of slab, %ld pages free, %ld bytes, %ld pages charged\n",
		       during[1].slab, during[1].free, on.mem.used, on.frags.used);
	ksft_print_msg("a socket with %d packets per direction: %ld bytes, and %ld of payload\n",
		       PACKETS, (during[1].slab - during[0].slab) * getpagesize() / SOCKETS,
		       (during[0].free - during[1].free - during[1].slab + during[0].slab) *
		       getpagesize() / SOCKETS);

	ksft_test_result(!off.packets && !off.mem.used, "without capture nothing is kept\n");
	/* A ring is full on both sides, or nearly so. */
	ksft_test_result(on.packets >= ring * 9 / 10 && on.packets <= ring,
			 "with it rings are full (%ld of %ld packets)\n", on.packets, ring);
	all = objects(&during[1], "skbuff_small_head") - objects(&during[0], "skbuff_small_head");
	ksft_test_result(all >= on.packets * 9 / 10 && all <= on.packets * 11 / 10,
			 "each packet is one object of skbuff_small_head (%ld)\n", all);

	/*
	 * Each CPU keeps some free skbs for itself. One object that is lost for every eighth socket
	 * of a pass would be more.
	 */
	for (i = 0; i < after[0].nr; i++) {
		const struct cache *c = &after[0].cache[i];

		grown = objects(&after[PASSES - 1], c->name) - c->objects;
		if (grown > (PASSES - 1) * SOCKETS / 8) {
			ksft_print_msg("%s has grown by %ld objects\n", c->name, grown);
			same = false;
		}
		if (!strncmp(c->name, "skbuff_", 7))
			ksft_print_msg("%s: %ld objects, %ld before\n", c->name,
				       objects(&after[PASSES - 1], c->name), c->objects);
	}
	ksft_test_result(same, "slab counts return to the start (%u caches)\n", after[0].nr);
	ksft_finished();
}

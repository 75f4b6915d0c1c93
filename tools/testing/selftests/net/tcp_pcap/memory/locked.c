// SPDX-License-Identifier: GPL-2.0
/*
 * locked [-s]: captures may pin more than there is. Memory runs out in the middle of send(), and
 * reclaim is entered by an allocation under the very socket's lock. The trace shows that it was: by
 * the process, which does nothing but send and receive, or with -s by the stack, on architectures
 * where the trace has one.
 */
#include "memory.h"

#define TRACING	"/sys/kernel/tracing/"
#define PAIRS	4

static void trace(const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), TRACING "%s", file);
	must(memory_write(path, text), path);
}

struct turns {
	/* Of our shrinker, by anybody, by this process, and below tcp_sendmsg(). */
	unsigned long	all;
	unsigned long	here;
	unsigned long	locked;
	/* The stack of the last of these. */
	char		stack[64][128];
	unsigned int	depth;
};

static bool has(const struct turns *t, const char *word)
{
	unsigned int i;

	for (i = 0; i < t->depth; i++) {
		if (strstr(t->stack[i], word))
			return true;
	}
	return false;
}

static struct turns read_trace(void)
{
	struct turns now = {}, found = {};
	char line[1024], pid[32];
	bool ours = false;
	FILE *f;

	snprintf(pid, sizeof(pid), " pid: %d ", getpid());
	f = fopen(TRACING "trace", "r");
	if (!f)
		ksft_exit_fail_msg("no trace\n");
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, " => ", 4)) {
			if (now.depth < 64)
				snprintf(now.stack[now.depth++], 128, "%.120s", line);
			continue;
		}
		/* Another event, or the line that says that a stack follows. */
		if (ours && has(&now, "tcp_sendmsg") && has(&now, "shrink_slab")) {
			memcpy(found.stack, now.stack, sizeof(now.stack));
			found.depth = now.depth;
			found.locked++;
		}
		now.depth = 0;
		if (!strstr(line, "mm_shrink_slab_start:"))
			continue;
		ours = strstr(line, "tcp_pcap");
		found.all += ours;
		found.here += ours && strstr(line, pid);
	}
	fclose(f);
	return found;
}

int main(int argc, char **argv)
{
	struct pcap_status start, s;
	struct pcap_pair pairs[PAIRS];
	bool stacks = argc > 1 && !strcmp(argv[1], "-s");
	struct turns turns;
	long total, part, sent = 0;
	unsigned int i;
	char text[64];

	ksft_print_header();
	ksft_set_plan(4);
	memory_begin();
	must(pcap_new_netns(), "network namespace");
	total = meminfo_pages("MemTotal");
	must(pcap_host_set(PCAP_FRAGS_MAX, 4 * total), "frags_max");
	must(pcap_host_set(PCAP_MEM_MAX, total * getpagesize() / 4), "mem_max");
	start = memory_status();

	trace("tracing_on", "0");
	trace("trace", "\n");
	snprintf(text, sizeof(text), "%d\n", 4096);
	trace("buffer_size_kb", text);
	trace("options/stacktrace", "1");
	trace("events/vmscan/mm_shrink_slab_start/enable", "1");
	trace("tracing_on", "1");

	/* Twice the memory there is goes through rings that would hold all of it; and
	 * again, if the kernel's own threads freed enough in time for each allocation.
	 */
	for (i = 0; i < PAIRS; i++)
		must(pcap_pair(&pairs[i], i & 1 ? AF_INET6 : AF_INET, i & 1 ? "::1" : "127.0.0.1",
			       0, 65535), "connection");
	do {
		for (part = 0; part < 2 * total; part += 256, sent += 256) {
			i = sent / 256 % PAIRS;
			must(pcap_bulk(pairs[i].client, pairs[i].server, 256L * getpagesize()),
			     "bulk");
		}
		turns = read_trace();
	} while (!(stacks ? turns.locked : turns.here) && sent < 12 * total);
	trace("tracing_on", "0");
	trace("events/vmscan/mm_shrink_slab_start/enable", "0");
	trace("options/stacktrace", "0");
	s = memory_status();
	turns = read_trace();

	ksft_print_msg("%ld pages of memory, %ld sent, %ld reclaimed, %ld charged at most\n", total,
		       sent, s.reclaimed_pages, s.frags.peak);
	ksft_print_msg("%lu turns of the shrinker, %lu by this process, %lu with a stack, last:\n",
		       turns.all, turns.here, turns.locked);
	for (i = 0; i < turns.depth; i++)
		ksft_print_msg("%s", turns.stack[i]);
	ksft_test_result(s.frags.peak > total / 4, "captures filled the memory\n");
	ksft_test_result(s.reclaimed_payloads > start.reclaimed_payloads &&
			 s.reclaimed_pages > start.reclaimed_pages, "payload was reclaimed\n");
	if (stacks)
		ksft_test_result(turns.locked, "from an allocation in tcp_sendmsg()\n");
	else
		ksft_test_result(turns.here, "by the process that sends\n");
	for (i = 0; i < PAIRS; i++) {
		must(pcap_rounds(pairs[i].server, pairs[i].client, 10), "round trip");
		pcap_pair_close(&pairs[i]);
	}
	ksft_test_result(pcap_all_free(), "all is given back\n");
	ksft_finished();
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Captures fill half of the memory. A process that then takes what is free and half of what they
 * hold is killed if they may not be reclaimed, and gets it if they may.
 */
#include "memory.h"

#define PAIRS	16

/* Touches @pages; true if it lived. */
static bool take_memory(long pages)
{
	const size_t page = getpagesize();
	int status;
	pid_t pid;
	long i;

	pid = fork();
	must(pid < 0 ? -errno : 0, "fork");
	if (!pid) {
		char *mem;

		must(memory_write("/proc/self/oom_score_adj", "1000\n"), "oom_score_adj");
		mem = mmap(NULL, pages * page, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (mem == MAP_FAILED)
			_exit(2);
		for (i = 0; i < pages; i++)
			mem[i * page] = (char)(i % 251 + 1);
		for (i = 0; i < pages; i++) {
			if (mem[i * page] != (char)(i % 251 + 1))
				_exit(3);
		}
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_msg("waitpid\n");
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return false;
	if (status)
		ksft_exit_fail_msg("the hog ended with status %#x\n", status);
	return true;
}

int main(void)
{
	struct pcap_status full, killed, lived;
	struct pcap_pair *pairs;
	long total, before, free, held, size;
	bool lives[2];

	ksft_print_header();
	ksft_set_plan(6);
	memory_begin();
	must(pcap_new_netns(), "network namespace");
	total = meminfo_pages("MemTotal");
	must(pcap_host_set(PCAP_AGGRESSIVE_FREE, 0), "aggressive_free");
	must(pcap_host_set(PCAP_FRAGS_MAX, total / 2), "frags_max");
	must(pcap_host_set(PCAP_MEM_MAX, total * getpagesize() / 4), "mem_max");

	settle();
	before = meminfo_pages("MemAvailable");
	/* A third more than what fits. */
	pairs = memory_pairs(PAIRS, 4096, total * getpagesize() * 2 / 3 / PAIRS);
	settle();
	free = meminfo_pages("MemAvailable");
	held = before - free;
	full = memory_status();
	size = free + held / 2;
	ksft_print_msg("%ld pages in all, %ld charged of %ld, %ld held, %ld free, hog takes %ld\n",
		       total, full.frags.used, full.frags.max, held, free, size);
	ksft_test_result(full.frags.refused && full.frags.used > full.frags.max * 9 / 10 &&
			 held > total / 4, "captures fill their maximum\n");

	lives[0] = take_memory(size);
	killed = memory_status();
	ksft_test_result(!lives[0], "with aggressive_free = 0 the hog is killed\n");
	ksft_test_result(killed.packets == full.packets && killed.payloads == full.payloads &&
			 killed.frags.used == full.frags.used && !killed.reclaimed_pages,
			 "and nothing was reclaimed\n");

	must(pcap_host_set(PCAP_AGGRESSIVE_FREE, 1), "aggressive_free");
	lives[1] = take_memory(size);
	lived = memory_status();
	ksft_print_msg("%ld payloads, %ld packets, %ld pages reclaimed\n", lived.reclaimed_payloads,
		       lived.reclaimed_packets, lived.reclaimed_pages);
	ksft_test_result(lives[1], "with 1 it lives\n");
	ksft_test_result(lived.reclaimed_pages > held / 4, "because captures were reclaimed\n");

	memory_close(pairs, PAIRS);
	ksft_test_result(pcap_all_free(), "the connections live, and all is given back\n");
	ksft_finished();
}

// SPDX-License-Identifier: GPL-2.0
#include <glob.h>
#include <sys/resource.h>

#include "memory.h"

void must(int ret, const char *what)
{
	if (ret < 0)
		ksft_exit_fail_msg("%s: %s\n", what, strerror(-ret));
}

void memory_begin(void)
{
	struct rlimit files = { .rlim_cur = 1 << 20, .rlim_max = 1 << 20 };

	must(pcap_host_open(), "the host's settings of TCP_PCAP");
	if (!pcap_all_free())
		ksft_exit_fail_msg("there are captures of others on this host\n");
	must(memory_write("/proc/sys/fs/file-max", "1000000\n"), "file-max");
	must(setrlimit(RLIMIT_NOFILE, &files) ? -errno : 0, "number of open files");
}

int memory_write(const char *path, const char *text)
{
	int fd, ret;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

long meminfo_pages(const char *field)
{
	size_t len = strlen(field);
	char line[128];
	long kib = -1;
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	while (f && kib < 0 && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, field, len) && line[len] == ':')
			kib = atol(line + len + 1);
	}
	if (f)
		fclose(f);
	if (kib < 0)
		ksft_exit_fail_msg("no %s in /proc/meminfo\n", field);
	return kib / (getpagesize() / 1024);
}

/* Slab caches give back free objects, also those that a debug kernel keeps to find late users. */
static void shrink_slabs(void)
{
	glob_t found;
	size_t i;

	if (glob("/sys/kernel/slab/[a-z]*/shrink", 0, NULL, &found))
		ksft_exit_fail_msg("no /sys/kernel/slab\n");
	for (i = 0; i < found.gl_pathc; i++)
		must(memory_write(found.gl_pathv[i], "1\n"), found.gl_pathv[i]);
	globfree(&found);
}

void settle(void)
{
	long free = pcap_host_get(PCAP_AGGRESSIVE_FREE);
	int i;

	/* Not ours: what is to be measured must not go away by that. */
	must(pcap_host_set(PCAP_AGGRESSIVE_FREE, 0), "aggressive_free");
	/* Records kept for the next connections go with any write of the limit. */
	must(pcap_host_set(PCAP_MEM_MAX, pcap_host_get(PCAP_MEM_MAX)), "mem_max");
	sync();
	for (i = 0; i < 3; i++) {
		must(memory_write("/proc/sys/vm/drop_caches", "3\n"), "drop_caches");
		usleep(200 * 1000);
	}
	shrink_slabs();
	must(pcap_host_set(PCAP_AGGRESSIVE_FREE, free), "aggressive_free");
}

struct pcap_status memory_status(void)
{
	struct pcap_status s = {};

	must(pcap_status(&s), "/proc/net/tcp_pcap");
	return s;
}

struct pcap_pair *memory_pairs(unsigned int n, int packets, size_t bytes)
{
	struct pcap_pair *pairs = calloc(n, sizeof(*pairs));
	unsigned int i;

	for (i = 0; i < n; i++) {
		must(pcap_pair(&pairs[i], i & 1 ? AF_INET6 : AF_INET, i & 1 ? "::1" : "127.0.0.1",
			       packets, packets), "connection");
		must(pcap_bulk(pairs[i].client, pairs[i].server, bytes), "bulk data");
	}
	return pairs;
}

void memory_close(struct pcap_pair *pairs, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		/* With data both ways after all that happened, and then without traces. */
		must(pcap_rounds(pairs[i].client, pairs[i].server, 2), "round trip");
		pcap_reset(pairs[i].client);
		close(pairs[i].server);
		close(pairs[i].listener);
	}
	free(pairs);
}

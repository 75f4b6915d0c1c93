// SPDX-License-Identifier: GPL-2.0
/* Files of /proc: settings, counters, and what is used. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define MAX_COUNTERS 512

struct counter {
	char name[48];
	long before;
	long after;
};

static struct counter counters[MAX_COUNTERS];
static unsigned int nr_counters;

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* In the network namespace that we are in; -ENOENT if there is no such setting. */
int sysctl_set(const char *name, long value)
{
	char path[PATH_LEN], text[32];

	snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
	snprintf(text, sizeof(text), "%ld", value);
	return write_file(path, text);
}

/* In both network namespaces. A kernel without the setting has it at 0 already. */
void sysctl_all(const char *name, long value)
{
	int i, ret;

	for (i = 0; i < 2; i++) {
		net_enter(i, "veth");
		ret = sysctl_set(name, value);
		if (ret && !(ret == -ENOENT && !value)) {
			errno = -ret;
			die("sysctl %s=%ld", name, value);
		}
	}
	net_enter(false, "veth");
}

static void count(const char *name, long value, bool after)
{
	unsigned int i;

	for (i = 0; i < nr_counters; i++)
		if (!strcmp(counters[i].name, name))
			break;
	if (i == MAX_COUNTERS)
		die("too many counters");
	if (i == nr_counters) {
		snprintf(counters[i].name, sizeof(counters[i].name), "%s", name);
		nr_counters++;
	}
	if (after)
		counters[i].after += value;
	else
		counters[i].before += value;
}

/* Pairs of lines: "TcpExt: name name .." and "TcpExt: value value ..". */
static void read_pairs(const char *path, bool after)
{
	static char names[16384], values[16384];
	FILE *f = fopen(path, "r");

	if (!f)
		die("%s", path);
	while (fgets(names, sizeof(names), f) && fgets(values, sizeof(values), f)) {
		char *n, *v, *save_n = NULL, *save_v = NULL;

		if (strncmp(names, "Tcp", 3))
			continue;
		n = strtok_r(names, " \n", &save_n);
		v = strtok_r(values, " \n", &save_v);
		while ((n = strtok_r(NULL, " \n", &save_n)) &&
		       (v = strtok_r(NULL, " \n", &save_v)))
			count(n, strtol(v, NULL, 10), after);
	}
	fclose(f);
}

/* Both network namespaces together. */
static void read_all(bool after)
{
	int i;

	for (i = 0; i < 2; i++) {
		net_enter(i, "veth");
		read_pairs("/proc/net/snmp", after);
		read_pairs("/proc/net/netstat", after);
	}
	net_enter(false, "veth");
}

void counters_before(void)
{
	nr_counters = 0;
	memset(counters, 0, sizeof(counters));
	read_all(false);
}

void counters_after(unsigned int id)
{
	unsigned int i;

	read_all(true);
	for (i = 0; i < nr_counters; i++)
		if (counters[i].after != counters[i].before)
			say("counter %u %s %ld\n", id, counters[i].name,
			    counters[i].after - counters[i].before);
}

static void show(unsigned int id, const char *stage, const char *path, const char *const *wanted)
{
	char line[512], name[64], rest[384];
	FILE *f = fopen(path, "r");
	int i;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%63s %383[^\n]", name, rest) != 2)
			continue;
		for (i = 0; !wanted || wanted[i]; i++) {
			if (wanted && strcmp(wanted[i], name))
				continue;
			say("gauge %u %s %s %s\n", id, stage, name, rest);
			break;
		}
	}
	if (f)
		fclose(f);
}

/* What is used at this moment. */
void gauges(unsigned int id, const char *stage)
{
	static const char *const memory[] = { "MemFree:", "Slab:", "Percpu:", NULL };
	static const char *const slabs[] = {
		"TCP", "TCPv6", "skbuff_small_head", "skbuff_head_cache", NULL
	};

	show(id, stage, "/proc/meminfo", memory);
	show(id, stage, "/proc/slabinfo", slabs);
	show(id, stage, "/proc/net/tcp_pcap", NULL);
	show(id, stage, "/proc/net/sockstat", (const char *const[]){ "TCP:", NULL });
}

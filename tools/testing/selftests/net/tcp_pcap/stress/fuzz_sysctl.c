// SPDX-License-Identifier: GPL-2.0
/* Sysctls out of range fail and change nothing; those of the host are the host's. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"

static const char * const garbage[] = {
	"x\n", "-\n", "1x\n", "99999999999999999999\n", "--1\n", "0x\n",
};

static const struct {
	const char	*name;
	long		min;
} netns_sysctls[] = {
	{ "tcp_pcap_packets",		0 },
	{ "tcp_pcap_packets_max",	0 },
	{ "tcp_pcap_snaplen",		-1 },
};

/* Whether @ret is what a write of @val to sysctl @i may say. */
static bool right_answer(const struct fuzz_process *p, int i, long val, int ret)
{
	const bool in_range = val >= netns_sysctls[i].min && val <= PCAP_PACKETS_HARD_MAX;

	if (p->container && i == 1)
		return ret == -EPERM || (!in_range && ret == -EINVAL);
	if (!in_range)
		return ret == -EINVAL;
	if (p->container && i == 0 && val > p->packets_max)
		return ret == -EPERM;
	return !ret;
}

static void write_number(struct fuzz_process *p, int i, uint64_t *seed)
{
	const char *name = netns_sysctls[i].name;
	const int val = fuzz_value(seed);
	long before, after;
	int ret;

	if (pcap_sysctl_get(name, &before))
		return;
	ret = pcap_sysctl_set(name, val);
	if (!right_answer(p, i, val, ret))
		stress_fail("%s=%d%s: %s", name, val, p->container ? " in a container" : "",
			    strerror(-ret));
	if (pcap_sysctl_get(name, &after) || after != (ret ? before : val))
		stress_fail("%s is %ld after %d was written to %ld: %s", name, after, val, before,
			    strerror(-ret));
}

static void write_garbage(int i, uint64_t *seed)
{
	const char *name = netns_sysctls[i].name;
	const char *text = stress_pick(seed, garbage);
	long before, after;
	int ret;

	if (pcap_sysctl_get(name, &before))
		return;
	ret = pcap_sysctl_write(name, text);
	if ((ret != -EINVAL && ret != -EPERM) || pcap_sysctl_get(name, &after) || after != before)
		stress_fail("%s=%.20s: %s", name, text, strerror(-ret));
}

void fuzz_sysctl(struct fuzz_process *p, uint64_t *seed)
{
	const int i = stress_below(seed, ARRAY_SIZE(netns_sysctls));
	const int h = stress_below(seed, PCAP_HOST_SYSCTLS);
	int ret;

	/* Each process is alone in its namespace. */
	pthread_mutex_lock(&p->sysctl_lock);
	switch (stress_below(seed, 8)) {
	case 0:
		write_garbage(i, seed);
		break;
	case 1:
		ret = pcap_sysctl_set(pcap_host_name[h], 1);
		if (ret != -ENOENT)
			stress_fail("%s in a network namespace: %s", pcap_host_name[h],
				    strerror(-ret));
		break;
	case 2 ... 4:
		pcap_sysctl_set("tcp_pcap_packets", stress_below(seed, 200));
		break;
	default:
		write_number(p, i, seed);
	}
	pthread_mutex_unlock(&p->sysctl_lock);
	atomic_fetch_add(&stress->checks, 1);
}

/* The host's limits, written as text: a negative one may be ignored, it is never a limit. */
static void limit(enum pcap_host_sysctl max, enum pcap_host_sysctl used, uint64_t *seed)
{
	static const long values[] = {
		0, 1, 7, 100, 1000, 4000, 100000, 1 << 20, 8 << 20, 8 << 20, LONG_MAX,
		-1, -65536, LONG_MIN,
	};
	const long val = stress_pick(seed, values);
	const long before = pcap_host_get(max);
	const char *text = stress_pick(seed, garbage);
	const bool number = stress_below(seed, 4);
	long now;
	int ret;

	atomic_fetch_add(fuzz_limit_changes, 1);
	ret = number ? pcap_host_set(max, val) : pcap_sysctl_write(pcap_host_name[max], text);
	atomic_fetch_add(fuzz_limit_changes, 1);

	now = pcap_host_get(max);
	if (number && val >= 0) {
		if (ret || now != val)
			stress_fail("%s=%ld: %s, is %ld", pcap_host_name[max], val, strerror(-ret),
				    now);
	} else if ((ret != -EINVAL && (!number || ret)) || now != before) {
		stress_fail("%s=%s (%ld): %s, is %ld, was %ld", pcap_host_name[max],
			    number ? "" : text, val, strerror(-ret), now, before);
	}
	if (pcap_host_get(used) > now)
		stress_fail("%s above %ld", pcap_host_name[used], now);
}

void fuzz_host_sysctl(uint64_t *seed)
{
	long before, after;
	int val, ret;

	switch (stress_below(seed, 6)) {
	case 0:
		limit(PCAP_FRAGS_MAX, PCAP_FRAGS, seed);
		break;
	case 1:
		limit(PCAP_MEM_MAX, PCAP_MEM, seed);
		break;
	case 2:
		val = fuzz_value(seed);
		if (stress_below(seed, 2))
			val &= 1;
		before = pcap_host_get(PCAP_AGGRESSIVE_FREE);
		ret = pcap_host_set(PCAP_AGGRESSIVE_FREE, val);
		after = pcap_host_get(PCAP_AGGRESSIVE_FREE);
		if (ret != (val == 0 || val == 1 ? 0 : -EINVAL) || after != (ret ? before : val))
			stress_fail("tcp_pcap_aggressive_free=%d: %s, is %ld, was %ld", val,
				    strerror(-ret), after, before);
		break;
	case 3:
		/* Now and then much room, so that much is kept. */
		pcap_host_set(PCAP_FRAGS_MAX, 4000);
		pcap_host_set(PCAP_MEM_MAX, 8 << 20);
		usleep(20000);
		break;
	default:
		usleep(5000);
	}
	atomic_fetch_add(&stress->checks, 1);
}

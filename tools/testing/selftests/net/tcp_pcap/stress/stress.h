/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the stress programs of TCP_PCAP share: failures and sums over all their processes, a
 * generator of random numbers, and the look at what is left in the end.
 */
#ifndef TCP_PCAP_STRESS_H
#define TCP_PCAP_STRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "pcap.h"

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#endif

/* Shared by all processes of a program. */
struct stress_shared {
	/* Set when it is time to end. */
	atomic_int	stop;
	/* Set before that, for a few seconds. */
	atomic_int	calm;
	/* Who has stopped, and keeps what it has. */
	atomic_int	held;
	/* What failed. */
	atomic_int	failures;
	/* Sums over the network namespaces. */
	atomic_long	mib[PCAP_MIBS];
	/* What was done. */
	atomic_long	sockets;
	atomic_long	calls;
	atomic_long	checks;
	atomic_long	scans;
};

extern struct stress_shared *stress;

/* To be called in the initial network namespace, before anything else; nothing may be kept then. */
int stress_init(void);

/* Something is wrong: printed and counted. */
void stress_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Wait until nothing is charged and nothing is kept any more; complains and counts if not. */
long stress_leaks(int seconds);

/* No counter of this network namespace goes back; @before is updated. */
void stress_mib_check(struct pcap_mibs *before);
/*
 * Add the counters of this network namespace, which ends, to the sums; complain if they are
 * absurd.
 */
void stress_mib_sum(void);

/*
 * The line of statistics with which each program ends: @format and what follows it are more of
 * them. Returns the program's exit status.
 */
int stress_report(long faults, long leaks, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Sysctls of this network namespace that let closed connections go soon. */
void stress_quick_close(void);

double stress_now(void);

/* xorshift64*; the seed is not 0. */
static inline uint32_t stress_random(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return (*seed * 0x2545f4914f6cdd1dULL) >> 32;
}

static inline uint32_t stress_below(uint64_t *seed, uint32_t n)
{
	return stress_random(seed) % n;
}

#define stress_pick(seed, array)	((array)[stress_below(seed, ARRAY_SIZE(array))])

/* A seed for part @n of what has @seed. */
static inline uint64_t stress_seed(uint64_t seed, uint64_t n)
{
	uint64_t s = (seed + 1) * 0x9e3779b97f4a7c15ULL ^ (n + 1) * 0xbf58476d1ce4e5b9ULL;

	s = s ? s : 1;
	stress_random(&s);
	return s;
}

/* The kinds of address. */
struct stress_kind {
	int		family;
	const char	*addr;
};

#define STRESS_KINDS	3
extern const struct stress_kind stress_kinds[STRESS_KINDS];

#endif /* TCP_PCAP_STRESS_H */

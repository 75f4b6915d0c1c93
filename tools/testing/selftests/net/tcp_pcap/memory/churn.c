// SPDX-License-Identifier: GPL-2.0
/*
 * churn [-t] SOCKETS: as many sockets with rings, IPv4 and IPv6, in several network namespaces;
 * then half as many are closed and replaced. With -t: a socket does not take longer to make the
 * more there are.
 *
 * Times are medians of tenths: the first, made again when all are closed in case the machine is
 * busier by then, against the last and what is replaced among all of them. A cost that grows with
 * the number of sockets would make these up to 19 times the first. What grows without us are the
 * chains of TCP's hash tables and the misses of the caches: a factor of two is allowed.
 */
#include <time.h>

#include "memory.h"

#define NETNS	8
#define CHUNKS	100
#define PACKETS	2
#define FACTOR	2

struct netns {
	int	fd;
	int	listener[2];
};

static struct netns netns[NETNS];
/* Connections: client, server, client, server .. */
static int *sockets;
static unsigned int nr;
static unsigned int seed = 1;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void make_netns(struct netns *n)
{
	must(pcap_new_netns(), "network namespace");
	must(pcap_sysctl_set("tcp_pcap_packets", PACKETS), "tcp_pcap_packets");
	n->fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	must(n->fd < 0 ? -errno : 0, "/proc/self/ns/net");
	n->listener[0] = pcap_listener(AF_INET, "127.0.0.1", PCAP_DEFAULT, PCAP_DEFAULT);
	must(n->listener[0], "listener");
	n->listener[1] = pcap_listener(AF_INET6, "::1", PCAP_DEFAULT, PCAP_DEFAULT);
	must(n->listener[1], "listener");
}

/* Connection @i; the family changes faster than the namespace, so that each has both. */
static void make(unsigned int i)
{
	struct netns *n = &netns[i / 16 % NETNS];
	int listener = n->listener[i & 1];

	must(setns(n->fd, CLONE_NEWNET) ? -errno : 0, "setns");
	sockets[2 * i] = pcap_connect(listener, PCAP_DEFAULT, PCAP_DEFAULT);
	must(sockets[2 * i], "connect");
	sockets[2 * i + 1] = pcap_accept(listener);
	must(sockets[2 * i + 1], "accept");
	must(pcap_rounds(sockets[2 * i], sockets[2 * i + 1], 1), "round trip");
}

static void end(unsigned int i)
{
	if (rand_r(&seed) & 1) {
		pcap_reset(sockets[2 * i]);
		close(sockets[2 * i + 1]);
	} else {
		pcap_reset(sockets[2 * i + 1]);
		close(sockets[2 * i]);
	}
}

/* The connections of one chunk of all; returns the seconds that each of its sockets took. */
static double each(unsigned int chunk, void (*f)(unsigned int i))
{
	unsigned int i = (unsigned long)nr * chunk / CHUNKS;
	unsigned int n = (unsigned long)nr * (chunk + 1) / CHUNKS - i;
	double start = now();
	unsigned int j;

	for (j = 0; j < n; j++)
		f(i + j);
	return (now() - start) / n / 2;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Microseconds for a socket, of the tenth of the chunks that starts at @from. */
static double median(const double *chunk, unsigned int from)
{
	double tenth[CHUNKS / 10];

	memcpy(tenth, chunk + from, sizeof(tenth));
	qsort(tenth, CHUNKS / 10, sizeof(*tenth), compare);
	return tenth[CHUNKS / 20] * 1e6;
}

static long counter(const char *name)
{
	long sum = 0, val;
	int i;

	for (i = 0; i < NETNS; i++) {
		must(setns(netns[i].fd, CLONE_NEWNET) ? -errno : 0, "setns");
		val = pcap_mib(name);
		must(val, name);
		sum += val;
	}
	return sum;
}

int main(int argc, char **argv)
{
	double grow[CHUNKS], churn[CHUNKS], shrink[CHUNKS], again[CHUNKS / 10], start;
	double first, last, replaced, second;
	bool timed = argc > 1 && !strcmp(argv[1], "-t");
	struct pcap_status s;
	unsigned int i, j, k, made;

	nr = argc > 1 + timed ? strtoul(argv[1 + timed], NULL, 10) / 2 : 0;
	if (nr < CHUNKS)
		ksft_exit_fail_msg("usage: churn [-t] SOCKETS (at least %u)\n", 2 * CHUNKS);
	sockets = calloc(2 * nr, sizeof(*sockets));
	ksft_print_header();
	ksft_set_plan(timed ? 5 : 4);
	memory_begin();
	must(pcap_host_set(PCAP_MEM_MAX, meminfo_pages("MemTotal") * getpagesize() / 2), "mem_max");
	for (i = 0; i < NETNS; i++)
		make_netns(&netns[i]);

	for (k = 0; k < CHUNKS; k++)
		grow[k] = each(k, make);
	s = memory_status();
	ksft_print_msg("%u sockets, %ld packets, %ld bytes, %ld MiB free\n", 2 * nr, s.packets,
		       s.mem.used, meminfo_pages("MemFree") * getpagesize() >> 20);
	/*
	 * Of PACKETS in each of the two rings, all but one of a server that had nothing to
	 * answer.
	 */
	ksft_test_result(s.packets >= 2L * nr * (2 * PACKETS - 1), "each socket has its rings\n");

	for (k = 0; k < CHUNKS; k++) {
		unsigned int n = nr / 2 / CHUNKS + 1;
		unsigned int which[n];

		for (j = 0; j < n; j++) {
			which[j] = rand_r(&seed) % nr;
			end(which[j]);
			start = now();
			make(which[j]);
			churn[k] = (j ? churn[k] : 0) + (now() - start) / n / 2;
		}
	}
	ksft_test_result(!counter("TCPPcapLost") && !counter("TCPPcapNoHistory"),
			 "nothing was lost in churn\n");
	for (i = 0; i < nr; i += 7)
		must(pcap_rounds(sockets[2 * i], sockets[2 * i + 1], 1), "round trip");

	for (k = 0; k < CHUNKS; k++)
		shrink[k] = each(k, end);
	for (k = 0; k < CHUNKS / 10; k++)
		again[k] = each(k, make);
	for (k = 0; k < CHUNKS / 10; k++)
		each(k, end);
	made = 2 * (nr + CHUNKS * (nr / 2 / CHUNKS + 1) + nr / 10);
	for (i = 0; i < NETNS; i++) {
		close(netns[i].listener[0]);
		close(netns[i].listener[1]);
	}
	s = memory_status();
	ksft_test_result(!s.packets && !s.payloads && !s.frags.used,
			 "with the last socket the last packet goes\n");
	ksft_test_result(pcap_all_free(), "all is given back\n");

	first = median(grow, 0);
	last = median(grow, CHUNKS - CHUNKS / 10);
	replaced = median(churn, CHUNKS / 2);
	second = median(again, 0);
	ksft_print_msg("us per socket made: %.1f first, %.1f last, %.1f in churn, %.1f again\n",
		       first, last, replaced, second);
	ksft_print_msg("us per socket closed: %.1f first, %.1f last\n", median(shrink, 0),
		       median(shrink, CHUNKS - CHUNKS / 10));
	if (second > first)
		first = second;
	if (timed)
		ksft_test_result(last < FACTOR * first && replaced < FACTOR * first,
				 "the time for a socket does not grow with their number\n");
	ksft_print_msg("sockets=%u captured=%ld failures=%u\n", made, counter("TCPPcapCaptured"),
		       ksft_get_fail_cnt());
	ksft_finished();
}

// SPDX-License-Identifier: GPL-2.0
/* The host's accounts at the edge: never above the maximum, and at zero in the end. */
#include "host.h"

#define WORKERS		8
#define CONNECTIONS	10

struct shared {
	int	stop;
	/* Parts of transfers that the workers have done. */
	long	parts;
	long	readings;
	long	too_high;
	/* The highest that was read. */
	long	pages;
	long	bytes;
};

static struct shared *share(struct __test_metadata *_metadata)
{
	struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, s);
	return s;
}

/* Gives way in between: in virtual time the scheduler has no clock that would make it. */
static int bulk(struct shared *shared, int from, int to, size_t bytes)
{
	const size_t part = 150 * 1000;
	size_t done;
	int ret = 0;

	for (done = 0; !ret && done < bytes; done += part) {
		ret = pcap_bulk(from, to, part);
		__atomic_add_fetch(&shared->parts, 1, __ATOMIC_RELAXED);
		sched_yield();
	}
	return ret;
}

/* Connections that come and go on one CPU, with more payload than the limits have room for. */
static int work(struct shared *shared, int worker)
{
	const size_t bytes = 600 * 1000;
	struct pcap_pair pair;
	unsigned int seed = worker + 1;
	int i, ret;

	to_cpu(worker);
	for (i = 0; i < CONNECTIONS; i++) {
		ret = host_pair(&pair, worker & 1, PCAP_DEFAULT);
		if (!ret)
			ret = bulk(shared, pair.client, pair.server,
				   bytes + rand_r(&seed) % bytes);
		/* At the limit a larger ring may be refused, which is no failure. */
		if (i % 3 == 1)
			pcap_set(pair.server, TCP_PCAP_IN, rand_r(&seed) % 300);
		if (!ret)
			ret = bulk(shared, pair.server, pair.client,
				   bytes + rand_r(&seed) % bytes);
		if (!ret)
			ret = pcap_rounds(pair.client, pair.server, 50);
		if (ret)
			return ret;
		if (i % 2)
			pcap_reset(pair.client);
		else
			close(pair.client);
		close(pair.server);
		close(pair.listener);
	}
	return 0;
}

struct limit {
	long	pages;
	long	bytes;
};

static void note(struct shared *shared, long pages, long bytes, const struct limit *limit)
{
	/* Kernels with unit tests do not hide that a sum was negative for a moment. */
	if (pages > limit->pages || bytes > limit->bytes)
		shared->too_high++;
	if (pages > shared->pages)
		shared->pages = pages;
	if (bytes > shared->bytes)
		shared->bytes = bytes;
	shared->readings++;
}

/* Reads all the time, in both places, until told to stop. */
static void watch(struct __test_metadata *_metadata, struct shared *shared,
		  const struct limit *limit)
{
	struct pcap_pace pace = {};
	struct pcap_status s;
	long pages, bytes;

	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED)) {
		ASSERT_EQ(0, pcap_status(&s));
		note(shared, s.frags.used, s.mem.used, limit);
		pages = pcap_frags();
		bytes = pcap_mem();
		shared->too_high += pages < 0 || bytes < 0;
		note(shared, pages, bytes, limit);
		pcap_give_way(&pace, &shared->parts);
	}
}

static pid_t start_worker(struct __test_metadata *_metadata, struct shared *shared,
			  int worker)
{
	pid_t pid = pcap_fork();

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(work(shared, worker) ? 1 : 0);
	return pid;
}

static void wait_for(struct __test_metadata *_metadata, pid_t pid)
{
	int status;

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

static struct shared *hammer(struct __test_metadata *_metadata, const struct limit *limit)
{
	struct shared *shared = share(_metadata);
	pid_t watcher, workers[WORKERS];
	int w;

	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, limit->pages));
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, limit->bytes));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 128));

	watcher = pcap_fork();
	ASSERT_LE(0, watcher);
	if (!watcher) {
		watch(_metadata, shared, limit);
		_exit(0);
	}
	for (w = 0; w < WORKERS; w++)
		workers[w] = start_worker(_metadata, shared, w);
	for (w = 0; w < WORKERS; w++)
		wait_for(_metadata, workers[w]);
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
	wait_for(_metadata, watcher);

	TH_LOG("%ld readings, at most %ld of %ld pages, %ld of %ld bytes", shared->readings,
	       shared->pages, limit->pages, shared->bytes, limit->bytes);
	EXPECT_EQ(0, shared->too_high);
	EXPECT_LE(100, shared->readings);
	return shared;
}

/*
 * @seen was near @max, or nobody has seen the edge. Peak use was never above it, if an earlier test
 * of this machine did not have more.
 */
static void expect_edge(struct __test_metadata *_metadata, long max, long seen,
			const struct pcap_account *start, const struct pcap_account *end)
{
	EXPECT_LE(max * 3 / 4, seen);
	EXPECT_LE(max * 3 / 4, end->peak);
	EXPECT_GE(max > start->peak ? max : start->peak, end->peak);
	EXPECT_LT(start->refused, end->refused);
}

#define PAGES	311
#define BYTES	300011

TEST_F_TIMEOUT(host, both_at_the_edge, 900)
{
	const struct limit limit = { PAGES, BYTES };
	struct shared *shared;
	struct pcap_status s;

	shared = hammer(_metadata, &limit);
	s = host_status(_metadata);
	expect_edge(_metadata, PAGES, shared->pages, &self->start.frags, &s.frags);
	expect_edge(_metadata, BYTES, shared->bytes, &self->start.mem, &s.mem);
}

TEST_F_TIMEOUT(host, memory_at_the_edge, 900)
{
	const struct limit limit = { 0, BYTES };
	struct shared *shared;
	struct pcap_status s;

	shared = hammer(_metadata, &limit);
	s = host_status(_metadata);
	expect_edge(_metadata, BYTES, shared->bytes, &self->start.mem, &s.mem);
	EXPECT_LT(0, pcap_mib("TCPPcapLost"));
	EXPECT_LT(0, pcap_mib("TCPPcapCaptured"));
}

TEST_F_TIMEOUT(host, pages_at_the_edge, 900)
{
	const struct limit limit = { PAGES, 1 << 30 };
	struct shared *shared;
	struct pcap_status s;

	shared = hammer(_metadata, &limit);
	s = host_status(_metadata);
	expect_edge(_metadata, PAGES, shared->pages, &self->start.frags, &s.frags);
	EXPECT_LT(0, pcap_mib("TCPPcapHdrLimit"));
	EXPECT_EQ(0, pcap_mib("TCPPcapLost"));
}

/* The maximum goes up and down under the workers: each time it holds at once. */
TEST_F_TIMEOUT(host, lowered_under_traffic, 900)
{
	struct shared *shared = share(_metadata);
	pid_t workers[WORKERS];
	struct pcap_status s;
	long frags, mem;
	int w, i, busy = 0;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 128));
	for (w = 0; w < WORKERS; w++)
		workers[w] = start_worker(_metadata, shared, w);
	for (i = 0; i < 40 || (busy < 5 && i < 1000); i++) {
		s = host_status(_metadata);
		frags = s.frags.used * (i % 4) / 4;
		mem = s.mem.used * (i % 5) / 5;
		busy += frags > 0 && mem > 0;

		ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, frags));
		s = host_status(_metadata);
		EXPECT_GE(frags, s.frags.used);
		if (i & 1) {
			ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, mem));
			s = host_status(_metadata);
			EXPECT_GE(mem, s.mem.used);
		}
		sched_yield();
		EXPECT_GE(frags, pcap_frags());

		ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, self->host.host[PCAP_FRAGS_MAX]));
		ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, self->host.host[PCAP_MEM_MAX]));
		for (w = 0; w < 5; w++)
			sched_yield();
	}
	for (w = 0; w < WORKERS; w++)
		wait_for(_metadata, workers[w]);
	/* There was something to be given back. */
	EXPECT_LE(5, busy);
}

TEST_HARNESS_MAIN

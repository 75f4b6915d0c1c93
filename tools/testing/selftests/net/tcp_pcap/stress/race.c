// SPDX-License-Identifier: GPL-2.0
/*
 * Everything that may touch a slot, at once: race SECONDS SEED [hold]
 *
 * Some groups of connections, each group a process with a network namespace of its own, the
 * last one also with a user namespace: threads turn packets over, change sizes, disconnect,
 * close and connect again. Beside them threads of the host that lower and raise the limits,
 * scan through the shrinker's debugfs files, two at once, drop caches, and read the accounts:
 * no reading may be above a limit that is not being changed at that moment. In the end nothing
 * may be left.
 *
 * hold: in the end nothing is closed. "# held" says that all is at rest, for somebody who compares
 * what lies in memory with the accounts; then the program waits to be killed. No limit is so low
 * that it takes all histories, less is reclaimed at once, connections live longer, and in the last
 * seconds limits are not changed and caches not dropped.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

#define SLOTS		9
#define TRAFFIC		2
#define GROUPS_MAX	8
#define SETTLE_S	60
#define CALM_S		4

static const int sizes[] = { 0, 1, 2, 5, 16, 64, 100, 511, 512, 513, 1024 };

static uint64_t main_seed;
static bool hold;

/*
 * A connection of a group: used under @lock by many threads at once, replaced with it held
 * alone.
 */
struct slot {
	pthread_rwlock_t	lock;
	int			listener;
	int			client;
	int			server;
};

static struct slot slots[SLOTS];

static int random_size(uint64_t *seed)
{
	return stress_pick(seed, sizes);
}

static int connect_slot(struct slot *s, uint64_t *seed)
{
	const bool own = stress_below(seed, 2);

	s->client = pcap_connect(s->listener, own ? random_size(seed) : PCAP_DEFAULT,
				 own ? random_size(seed) : PCAP_DEFAULT);
	if (s->client == -ENOBUFS)
		s->client = pcap_connect(s->listener, PCAP_DEFAULT, PCAP_DEFAULT);
	if (s->client < 0)
		return s->client;
	s->server = pcap_accept(s->listener);
	if (s->server < 0) {
		close(s->client);
		return s->server;
	}
	atomic_fetch_add(&stress->sockets, 2);
	return 0;
}

static void close_slot(struct slot *s, uint64_t *seed)
{
	switch (stress_below(seed, 5)) {
	case 0:
		pcap_reset(s->client);
		close(s->server);
		break;
	case 1:
		pcap_reset(s->server);
		close(s->client);
		break;
	case 2:
		/* FINs that meet. */
		shutdown(s->client, SHUT_WR);
		shutdown(s->server, SHUT_WR);
		close(s->server);
		close(s->client);
		break;
	case 3:
		/* Unread data makes a reset of it. */
		send(s->client, "unread", 6, MSG_NOSIGNAL | MSG_DONTWAIT);
		close(s->server);
		close(s->client);
		break;
	default:
		close(s->client);
		close(s->server);
	}
}

/* The same socket once more. */
static int reconnect_slot(struct slot *s)
{
	const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	int ret;

	if (connect(s->client, &unspec, sizeof(unspec)))
		return -errno;
	close(s->server);
	ret = pcap_connect_fd(s->client, s->listener);
	if (ret) {
		s->server = -1;
		return ret;
	}
	s->server = pcap_accept(s->listener);
	if (s->server < 0)
		return s->server;
	atomic_fetch_add(&stress->sockets, 1);
	return 0;
}

static _Thread_local char out[65536], in[65536];

static void *turn_over(void *arg)
{
	static const int lengths[] = { 1, 100, 400, 1448, 9000, 65536 };
	uint64_t seed = stress_seed(main_seed, (uintptr_t)arg);
	int i, j, from, to;
	struct slot *s;

	while (!atomic_load(&stress->stop)) {
		s = &slots[stress_below(&seed, SLOTS)];
		pthread_rwlock_rdlock(&s->lock);
		for (i = stress_below(&seed, 12); i >= 0; i--) {
			from = stress_below(&seed, 2) ? s->client : s->server;
			to = from == s->client ? s->server : s->client;
			send(from, out, stress_pick(&seed, lengths), MSG_DONTWAIT | MSG_NOSIGNAL);
			for (j = 0; j < 4; j++) {
				if (recv(to, in, sizeof(in), MSG_DONTWAIT) <= 0)
					break;
			}
		}
		pthread_rwlock_unlock(&s->lock);
		atomic_fetch_add(&stress->calls, 1);
	}
	return NULL;
}

static void *resize(void *arg)
{
	uint64_t seed = stress_seed(main_seed, (uintptr_t)arg);
	struct pcap_mibs mibs = {};
	struct slot *s;
	int fd, ret;

	while (!atomic_load(&stress->stop)) {
		s = &slots[stress_below(&seed, SLOTS)];
		pthread_rwlock_rdlock(&s->lock);
		fd = stress_below(&seed, 8) ? stress_below(&seed, 2) ? s->client : s->server :
					      s->listener;
		ret = pcap_set(fd, stress_below(&seed, 2) ? TCP_PCAP_IN : TCP_PCAP_OUT,
			       random_size(&seed));
		pthread_rwlock_unlock(&s->lock);
		if (ret && ret != -ENOBUFS && ret != -ENOMEM)
			stress_fail("setsockopt: %s", strerror(-ret));

		switch (stress_below(&seed, 64)) {
		case 0:
			pcap_sysctl_set("tcp_pcap_packets", random_size(&seed));
			break;
		case 1:
			pcap_sysctl_set("tcp_pcap_snaplen", stress_below(&seed, 4) ? -1 : 1000);
			break;
		case 2:
			stress_mib_check(&mibs);
			break;
		}
		usleep(stress_below(&seed, atomic_load(&stress->calm) ? 200000 : 500));
	}
	return NULL;
}

static void *replace(void *arg)
{
	uint64_t seed = stress_seed(main_seed, (uintptr_t)arg);
	struct slot *s;
	int ret;

	while (!atomic_load(&stress->stop)) {
		s = &slots[stress_below(&seed, SLOTS)];
		pthread_rwlock_wrlock(&s->lock);
		ret = stress_below(&seed, 4) ? -1 : reconnect_slot(s);
		if (ret) {
			close_slot(s, &seed);
			ret = connect_slot(s, &seed);
		}
		pthread_rwlock_unlock(&s->lock);
		if (ret) {
			stress_fail("no connection: %s", strerror(-ret));
			break;
		}
		/* Else all are young, and have few packets. */
		usleep(stress_below(&seed, atomic_load(&stress->calm) ? 1000000 :
						   hold ? 50000 : 2000));
	}
	return NULL;
}

/* So that something is there in the end. */
static void fill_slot(struct slot *s)
{
	int i, ret;

	ret = pcap_set_both(s->client, 64, 64);
	if (!ret)
		ret = pcap_set_both(s->server, 16, 100);
	/* Containers may have used their part. */
	if (ret && ret != -ENOBUFS)
		stress_fail("setsockopt: %s", strerror(-ret));
	for (i = 0; i < 100; i++) {
		send(i & 1 ? s->client : s->server, out, i % 3 ? 300 : 9000,
		     MSG_DONTWAIT | MSG_NOSIGNAL);
		while (recv(s->client, in, sizeof(in), MSG_DONTWAIT) > 0 ||
		       recv(s->server, in, sizeof(in), MSG_DONTWAIT) > 0)
			;
	}
}

static int group_begin(bool container, uint64_t *seed)
{
	pthread_rwlockattr_t attr;
	struct slot *s;
	int i, ret;

	if (container && unshare(CLONE_NEWUSER))
		return -errno;
	ret = pcap_new_netns();
	if (ret)
		return ret;
	stress_quick_close();
	pcap_sysctl_set("tcp_pcap_packets", 64);

	/* Else those who use a connection would never let anybody replace it. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	for (i = 0; i < SLOTS; i++) {
		s = &slots[i];
		pthread_rwlock_init(&s->lock, &attr);
		/* A limit may be low at this moment. */
		do {
			s->listener = pcap_listener(stress_kinds[i % STRESS_KINDS].family,
						    stress_kinds[i % STRESS_KINDS].addr, 16, 16);
		} while (s->listener == -ENOBUFS);
		if (s->listener < 0)
			return s->listener;
		ret = connect_slot(s, seed);
		if (ret)
			return ret;
	}
	return 0;
}

static int run_group(int nr, bool container)
{
	uint64_t seed = stress_seed(main_seed, 1000 * nr);
	pthread_t thread[TRAFFIC + 2];
	uintptr_t i;
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = group_begin(container, &seed);
	if (ret) {
		stress_fail("group %d: %s", nr, strerror(-ret));
		return 1;
	}
	for (i = 0; i < ARRAY_SIZE(thread); i++) {
		pthread_create(&thread[i], NULL,
			       i < TRAFFIC ? turn_over : i == TRAFFIC ? resize : replace,
			       (void *)(1000 * nr + i + 1));
	}
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);

	for (i = 0; i < SLOTS && hold; i++)
		fill_slot(&slots[i]);
	/* Nobody reclaims any more: the host's threads end first. */
	while (atomic_load(&stress->stop) < 2)
		usleep(1000);
	stress_mib_sum();
	if (hold) {
		atomic_fetch_add(&stress->held, 1);
		while (atomic_load(&stress->stop) < 3)
			usleep(1000);
		/* CPUs keep something of these for later. */
		for (i = 0; i < SLOTS / 3; i++)
			close_slot(&slots[i], &seed);
		atomic_fetch_add(&stress->held, 1);
		for (;;)
			pause();
	}
	return 0;
}

/*
 * A limit that one thread changes and others look at. @changes is odd while it is being
 * changed: what a reader saw counts only if it was even and the same before and after.
 */
struct limit {
	enum pcap_host_sysctl	used;
	enum pcap_host_sysctl	max;
	const long		*values;
	int			nr_values;
	atomic_ulong		changes;
};

static const long frags_values[] = { 0, 1, 8, 64, 64, 300, 300, 1000, 1000, 4000, 4000 };
/* The first of these leave no room for all histories. */
#define MEM_VALUES_LOW	3
static const long mem_values[] = { 0, 1000, 50000, 300000, 1 << 20, 1 << 20, 4 << 20, 4 << 20 };

static struct limit limits[] = {
	{ PCAP_FRAGS, PCAP_FRAGS_MAX, frags_values, ARRAY_SIZE(frags_values), 0 },
	{ PCAP_MEM, PCAP_MEM_MAX, mem_values, ARRAY_SIZE(mem_values), 0 },
};

static void check_limit(const struct limit *l, const struct pcap_status *s, const char *when)
{
	const struct pcap_account *host = l->used == PCAP_FRAGS ? &s->frags : &s->mem;
	const struct pcap_account *containers = l->used == PCAP_FRAGS ? &s->frags_containers :
									&s->mem_containers;
	const char *name = pcap_host_name[l->used];

	/* Kernels with unit tests do not hide that a sum was negative for a moment. */
	if (host->used > host->max)
		stress_fail("%s, %s: %ld used, the limit is %ld", name, when, host->used,
			    host->max);
	if (containers->used > containers->max ||
	    containers->max > host->max / 4)
		stress_fail("%s of containers, %s: %ld used, the limit is %ld, a quarter of %ld",
			    name, when, containers->used, containers->max, host->max);
	atomic_fetch_add(&stress->checks, 1);
}

static void *change_limit(void *arg)
{
	struct limit *l = arg;
	uint64_t seed = stress_seed(main_seed, 1 << 20 | l->used);
	struct pcap_status s;
	long max;
	int ret;

	while (!atomic_load(&stress->stop) && !atomic_load(&stress->calm)) {
		max = l->values[stress_below(&seed, l->nr_values)];
		atomic_fetch_add(&l->changes, 1);
		ret = pcap_host_set(l->max, max);
		atomic_fetch_add(&l->changes, 1);
		if (ret || pcap_host_get(l->max) != max)
			stress_fail("%s=%ld: %s", pcap_host_name[l->max], max, strerror(-ret));

		/* At return it holds. */
		ret = pcap_status(&s);
		if (ret)
			stress_fail("/proc/net/tcp_pcap: %s", strerror(-ret));
		else
			check_limit(l, &s, "just changed");
		usleep(1000 + stress_below(&seed, max ? 30000 : 3000));
	}
	return NULL;
}

static void *read_accounts(void *arg)
{
	uint64_t seed = stress_seed(main_seed, 2 << 20 | (uintptr_t)arg);
	unsigned long before[ARRAY_SIZE(limits)];
	struct pcap_status s;
	long used, max;
	size_t i;

	while (!atomic_load(&stress->stop)) {
		for (i = 0; i < ARRAY_SIZE(limits); i++)
			before[i] = atomic_load(&limits[i].changes);
		if (pcap_status(&s)) {
			stress_fail("/proc/net/tcp_pcap cannot be read");
			break;
		}
		for (i = 0; i < ARRAY_SIZE(limits); i++) {
			if (!(before[i] & 1) && atomic_load(&limits[i].changes) == before[i])
				check_limit(&limits[i], &s, "all the time");
		}

		for (i = 0; i < ARRAY_SIZE(limits); i++) {
			before[i] = atomic_load(&limits[i].changes);
			used = pcap_host_get(limits[i].used);
			max = pcap_host_get(limits[i].max);
			if (before[i] & 1 || atomic_load(&limits[i].changes) != before[i])
				continue;
			if (used < 0 || used > max)
				stress_fail("%s = %ld, the limit is %ld",
					    pcap_host_name[limits[i].used], used, max);
		}
		usleep(stress_below(&seed, 300));
	}
	return NULL;
}

static void *reclaim(void *arg)
{
	static const int batches[] = { 1, 2, 10, 100, 128, 1000 };
	uint64_t seed = stress_seed(main_seed, 3 << 20 | (uintptr_t)arg);
	int ret, n;

	while (!atomic_load(&stress->stop)) {
		if (pcap_shrinker_count() < 0)
			stress_fail("the shrinker's count cannot be read");
		n = stress_below(&seed, 50) ? stress_pick(&seed, batches) : 1000000;
		/* Else there is next to nothing at any moment. */
		if (hold)
			n = 1 + n % 10;
		ret = pcap_shrinker_scan(n);
		if (ret)
			stress_fail("the shrinker's scan: %s", strerror(-ret));
		atomic_fetch_add(&stress->scans, 1);
		usleep(stress_below(&seed, hold ? 20000 : 4000));
	}
	return NULL;
}

static void *drop(void *arg)
{
	uint64_t seed = stress_seed(main_seed, 4 << 20 | (uintptr_t)arg);
	int fd;

	fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	/* No line in the kernel log each time. */
	if (pwrite(fd, "4\n", 2, 0) != 2)
		stress_fail("drop_caches: %s", strerror(errno));
	while (!atomic_load(&stress->stop) && !atomic_load(&stress->calm)) {
		if (pwrite(fd, "2\n", 2, 0) != 2)
			stress_fail("drop_caches: %s", strerror(errno));
		if (pcap_host_set(PCAP_AGGRESSIVE_FREE, stress_below(&seed, 4) != 0))
			stress_fail("tcp_pcap_aggressive_free cannot be set");
		usleep((hold ? 1000000 : 100000) + stress_below(&seed, 200000));
	}
	close(fd);
	return NULL;
}

/* The host's sums and those of the namespaces are the same packets. */
static void check_reclaimed(const struct pcap_status *before)
{
	const long packets = stress->mib[PCAP_MIB_RECLAIMED_PACKETS];
	const long pages = stress->mib[PCAP_MIB_RECLAIMED_PAGES];
	struct pcap_status s;

	if (pcap_status(&s)) {
		stress_fail("/proc/net/tcp_pcap cannot be read");
		return;
	}
	if (s.reclaimed_packets - before->reclaimed_packets != packets ||
	    s.reclaimed_pages - before->reclaimed_pages != pages)
		stress_fail("reclaimed: host %ld packets, %ld pages, namespaces %ld and %ld",
			    s.reclaimed_packets - before->reclaimed_packets,
			    s.reclaimed_pages - before->reclaimed_pages, packets, pages);
	if (!stress->mib[PCAP_MIB_CAPTURED] || !packets || !pages || !stress->checks ||
	    s.reclaimed_payloads == before->reclaimed_payloads)
		stress_fail("nothing was captured, reclaimed or checked");
}

static void wait_for_held(int n)
{
	const double end = stress_now() + SETTLE_S;

	while (stress->held < n && stress_now() < end)
		usleep(10 * 1000);
	if (stress->held < n)
		stress_fail("%d of %d steps are done", stress->held, n);
}

static void hold_all(int nr_groups)
{
	const long mem_max = pcap_host_get(PCAP_MEM_MAX);

	wait_for_held(nr_groups);
	/* Some without payload, some gaps. */
	if (pcap_shrinker_scan(100) || pcap_host_set(PCAP_MEM_MAX, pcap_mem() * 7 / 8) ||
	    pcap_host_set(PCAP_MEM_MAX, mem_max))
		stress_fail("no reclaim");
	atomic_store(&stress->stop, 3);
	wait_for_held(2 * nr_groups);
	/* Traffic and grace periods that were under way come to their end. */
	sleep(3);
	printf("# held failures=%d captured=%ld lost=%ld reclaimed_packets=%ld\n", stress->failures,
	       stress->mib[PCAP_MIB_CAPTURED], stress->mib[PCAP_MIB_LOST],
	       stress->mib[PCAP_MIB_RECLAIMED_PACKETS]);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	void *(*const host[])(void *) = { read_accounts, read_accounts, reclaim, reclaim, drop };
	pthread_t thread[ARRAY_SIZE(host) + ARRAY_SIZE(limits)];
	const int seconds = argc > 1 ? atoi(argv[1]) : 30;
	int nr_groups = sysconf(_SC_NPROCESSORS_ONLN) + 1;
	struct pcap_status before;
	int i, ret, status, joined = 0;
	pid_t child[GROUPS_MAX];
	struct pcap_host saved;

	main_seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	hold = argc > 3 && !strcmp(argv[3], "hold");
	if (hold) {
		limits[1].values += MEM_VALUES_LOW;
		limits[1].nr_values -= MEM_VALUES_LOW;
	}
	ret = stress_init();
	if (!ret)
		ret = pcap_host_save(&saved);
	if (!ret)
		ret = pcap_status(&before);
	if (ret) {
		printf("FAILED: %s\n", strerror(-ret));
		return 1;
	}
	if (nr_groups > GROUPS_MAX)
		nr_groups = GROUPS_MAX;
	printf("race: seed %llu, %d s, %d groups\n", (unsigned long long)main_seed, seconds,
	       nr_groups);
	for (i = 0; i < nr_groups; i++) {
		child[i] = fork();
		if (!child[i])
			_exit(run_group(i + 1, i + 1 == nr_groups));
	}
	for (i = 0; i < (int)ARRAY_SIZE(limits); i++)
		pthread_create(&thread[i], NULL, change_limit, &limits[i]);
	for (i = 0; i < (int)ARRAY_SIZE(host); i++)
		pthread_create(&thread[ARRAY_SIZE(limits) + i], NULL, host[i],
			       (void *)(uintptr_t)i);

	for (i = 0; i < seconds * 10 && !atomic_load(&stress->failures); i++)
		usleep(100000);
	if (hold) {
		atomic_store(&stress->calm, 1);
		for (joined = 0; joined < (int)ARRAY_SIZE(limits); joined++)
			pthread_join(thread[joined], NULL);
		for (i = 0; i < joined; i++)
			atomic_fetch_add(&limits[i].changes, 1);
		if (pcap_host_restore(&saved))
			stress_fail("the limits cannot be restored");
		for (i = 0; i < joined; i++)
			atomic_fetch_add(&limits[i].changes, 1);
		sleep(CALM_S);
	}
	atomic_store(&stress->stop, 1);
	for (i = joined; i < (int)ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	if (pcap_host_restore(&saved))
		stress_fail("the limits cannot be restored");
	atomic_store(&stress->stop, 2);
	if (hold)
		hold_all(nr_groups);
	for (i = 0; i < nr_groups; i++) {
		if (waitpid(child[i], &status, 0) != child[i] || status)
			stress_fail("group %d ended with status %#x", i + 1, status);
	}
	check_reclaimed(&before);
	return stress_report(0, stress_leaks(SETTLE_S), "scans=%ld", stress->scans);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * The traffic. One process has both ends of each connection, so that what is counted is TCP and
 * little else: there is no switch from task to task that would make the cost of a packet look small.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define SCAN_EVERY	16
#define WRITE_SIZE	65536
#define TIME_WAIT_SECS	61
#define QUIET_SECS	60

static char buffer[1 << 20];
static struct conn *conns;
static int *listeners;
static unsigned int nr_conns, nr_listeners;
static int scan_fd = -1;

static void wait_for(int fd, short events)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	if (poll(&pfd, 1, 30000) != 1)
		die("nothing comes");
}

static void send_all(int fd, size_t len)
{
	ssize_t n = send(fd, buffer, len, 0);

	if (n != (ssize_t)len)
		die("send: %zd", n);
}

static void recv_all(int fd, size_t len)
{
	ssize_t n;

	while (len) {
		n = recv(fd, buffer, len, MSG_DONTWAIT);
		if (n > 0)
			len -= n;
		else if (n < 0 && errno == EAGAIN)
			wait_for(fd, POLLIN);
		else
			die("recv: %zd", n);
	}
}

static void transaction(const struct phase *p, const struct conn *c)
{
	send_all(c->client, p->size);
	recv_all(c->server, p->size);
	send_all(c->server, p->size);
	recv_all(c->client, p->size);
}

/* Counted apart, but not before all is counted. */
static void scan(const struct phase *p, bool marked)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "0 0 %u", p->scan);

	if (marked)
		mark_start(p->id, PART_SCAN);
	if (write(scan_fd, text, len) != len)
		die("scan");
	if (marked)
		mark_stop(p->id, PART_SCAN);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("CPU %d", cpu);
}

static void rr(const struct phase *p, unsigned int n, bool marked)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		if (p->hop)
			pin(i % 2);
		transaction(p, &conns[i % p->conns]);
		/* The emulator runs a CPU for long, unless that says that it waits: here they take turns. */
		if (p->cpus > 1)
			__builtin_ia32_pause();
		if (p->scan && i % SCAN_EVERY == SCAN_EVERY - 1)
			scan(p, marked);
	}
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/*
 * One way: the writer writes what goes, the reader reads what is there. Now and then, in every setting,
 * the writer waits for the reader: then nothing but the shrinker runs while it is counted.
 */
static void bulk(const struct phase *p, const struct conn *c, size_t bytes, bool marked)
{
	const size_t stretch = SCAN_EVERY * WRITE_SIZE;
	size_t sent = 0, received = 0, pause = stretch;
	ssize_t n;

	while (received < bytes) {
		bool moved = false;
		size_t len = least(least(bytes, pause) - sent, WRITE_SIZE);

		if (len) {
			n = send(c->client, buffer, len, MSG_DONTWAIT);
			if (n < 0 && errno != EAGAIN)
				die("send");
			if (n > 0) {
				sent += n;
				moved = true;
			}
		}
		while ((n = recv(c->server, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
			received += n;
			moved = true;
		}
		if (!n || (n < 0 && errno != EAGAIN))
			die("recv");
		if (received == pause) {
			pause += stretch;
			if (p->scan)
				scan(p, marked);
		}
		if (!moved)
			wait_for(c->server, POLLIN);
	}
}

/* Connect, ask, answer, close. */
static void crr(const struct phase *p, unsigned int n, bool marked)
{
	struct conn c;
	unsigned int i;

	for (i = 0; i < n; i++) {
		if (marked)
			mark_start(p->id, PART_CONNECT);
		net_open(p, listeners[0], 0, &c);
		if (marked)
			mark_stop(p->id, PART_CONNECT);
		transaction(p, &c);
		if (marked)
			mark_start(p->id, PART_CLOSE);
		close(c.client);
		close(c.server);
		if (marked)
			mark_stop(p->id, PART_CLOSE);
	}
}

static void open_all(const struct phase *p, unsigned int n)
{
	unsigned int i;
	int fd;

	nr_conns = 0;
	nr_listeners = 0;
	conns = calloc(n + 1, sizeof(*conns));
	listeners = calloc(n / 1000 + 2, sizeof(*listeners));
	if (!conns || !listeners)
		die("calloc");
	for (i = 0; i < n || !i; i++) {
		fd = net_listen(p, i);
		if (fd >= 0)
			listeners[nr_listeners++] = fd;
		if (i == n)
			break;
		net_open(p, listeners[nr_listeners - 1], i, &conns[i]);
		nr_conns++;
	}
}

static void close_all(void)
{
	unsigned int i;

	for (i = 0; i < nr_conns; i++)
		net_abort(&conns[i]);
	for (i = 0; i < nr_listeners; i++)
		close(listeners[i]);
	free(conns);
	free(listeners);
}

static void open_scan(void)
{
	static const char dir[] = "/sys/kernel/debug/shrinker";
	char path[PATH_LEN];
	struct dirent *entry;
	DIR *d = opendir(dir);

	while (d && (entry = readdir(d))) {
		if (strncmp(entry->d_name, "tcp-pcap", 8))
			continue;
		snprintf(path, sizeof(path), "%s/%.100s/scan", dir, entry->d_name);
		scan_fd = open(path, O_WRONLY);
	}
	if (d)
		closedir(d);
	if (scan_fd < 0)
		die("%s: no tcp-pcap", dir);
}

static void configure(const struct phase *p)
{
	if (p->key && !p->packets) {
		sysctl_all("ipv4/tcp_pcap_packets", 1);
		close(socket(p->family == 4 ? AF_INET : AF_INET6, SOCK_STREAM, 0));
	}
	if (p->packets > 1024)
		sysctl_all("ipv4/tcp_pcap_packets_max", p->packets);
	sysctl_all("ipv4/tcp_pcap_packets", p->packets);
	if (p->packets)
		sysctl_all("ipv4/tcp_pcap_snaplen", p->snaplen);
	if (p->frags_max && sysctl_set("ipv4/tcp_pcap_frags_max", p->frags_max))
		die("tcp_pcap_frags_max");
	if (p->mem_max && sysctl_set("ipv4/tcp_pcap_mem_max", p->mem_max))
		die("tcp_pcap_mem_max");
	net_gso(p->dev, p->gso);
	if (p->scan && scan_fd < 0)
		open_scan();
}

/* The same work on several CPUs at once, each with connections of its own. */
static void on_cpus(const struct phase *p)
{
	struct {
		atomic_uint warm, done, go, end;
	} *all = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned int cpu;

	if (all == MAP_FAILED)
		die("mmap");
	for (cpu = 0; cpu < p->cpus; cpu++) {
		struct phase mine = *p;
		unsigned int i;

		if (fork())
			continue;
		pin(cpu);
		conns = calloc(p->conns, sizeof(*conns));
		for (i = 0; i < p->conns; i++)
			net_open(p, listeners[cpu], cpu * 20000, &conns[i]);
		rr(&mine, p->warm, false);
		atomic_fetch_add(&all->warm, 1);
		while (!atomic_load(&all->go)) {
			if (!cpu && atomic_load(&all->warm) == p->cpus) {
				mark_start(p->id, PART_ALL);
				atomic_store(&all->go, 1);
			}
		}
		rr(&mine, p->n, true);
		atomic_fetch_add(&all->done, 1);
		while (!atomic_load(&all->end)) {
			if (!cpu && atomic_load(&all->done) == p->cpus) {
				mark_stop(p->id, PART_ALL);
				atomic_store(&all->end, 1);
			}
		}
		for (i = 0; i < p->conns; i++)
			net_abort(&conns[i]);
		_exit(0);
	}
	while (wait(NULL) > 0 || errno != ECHILD)
		;
	if (!atomic_load(&all->end))
		die("a CPU did not end");
	mark_dump(p->id, PART_ALL);
	munmap(all, 4096);
}

static void counted(const struct phase *p)
{
	bool is_crr = !strcmp(p->work, "crr");
	struct conn *one = &conns[0];
	struct timespec start, stop;

	/* The last ones are idle. */
	if (is_crr)
		crr(p, p->warm, false);
	else if (!strcmp(p->work, "bulk"))
		bulk(p, one, (size_t)p->warm << 20, false);
	else
		rr(p, p->warm, false);
	peer_start(p);
	/* Until what the start of a peer leaves to be done later is done, as giving back pages. */
	if (p->settle)
		sleep(QUIET_SECS);
	gauges(p->id, "warm");
	counters_before();
	clock_gettime(CLOCK_MONOTONIC, &start);
	mark_start(p->id, PART_ALL);
	if (is_crr)
		crr(p, p->n, true);
	else if (!strcmp(p->work, "bulk"))
		bulk(p, one, (size_t)p->n << 20, true);
	else
		rr(p, p->n, true);
	if (p->settle)
		usleep(p->settle * 1000);
	mark_stop(p->id, PART_ALL);
	clock_gettime(CLOCK_MONOTONIC, &stop);
	say("time %u %ld\n", p->id, (stop.tv_sec - start.tv_sec) * 1000000000L +
	    stop.tv_nsec - start.tv_nsec);
	counters_after(p->id);
	gauges(p->id, "end");
	peer_stop(p);
	mark_dump(p->id, PART_ALL);
	if (is_crr) {
		mark_dump(p->id, PART_CONNECT);
		mark_dump(p->id, PART_CLOSE);
	}
	if (p->scan)
		mark_dump(p->id, PART_SCAN);
}

void work_run(const struct phase *p)
{
	bool is_crr = !strcmp(p->work, "crr");

	if (!is_crr && strcmp(p->work, "bulk") && strcmp(p->work, "rr"))
		die("no such work: %s", p->work);
	if (p->size > sizeof(buffer) || !p->conns)
		die("phase %u", p->id);
	configure(p);
	gauges(p->id, "before");
	if (p->cpus > 1) {
		unsigned int cpu;

		listeners = calloc(p->cpus, sizeof(*listeners));
		for (cpu = 0; cpu < p->cpus; cpu++)
			listeners[cpu] = net_listen(p, cpu * 20000);
		on_cpus(p);
		for (cpu = 0; cpu < p->cpus; cpu++)
			close(listeners[cpu]);
		free(listeners);
		return;
	}
	open_all(p, (is_crr ? 0 : p->conns) + p->idle);
	gauges(p->id, "open");
	counted(p);
	close_all();
	/* A sleep costs no time of the host's. */
	sleep(p->rest >= 0 ? p->rest : is_crr ? TIME_WAIT_SECS : 2);
}

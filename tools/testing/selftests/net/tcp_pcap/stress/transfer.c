// SPDX-License-Identifier: GPL-2.0
/*
 * Connections while allocations fail: transfer FAULT PERCENT CONNECTIONS SEED [PACKETS]
 *
 * FAULT is failslab, fail_page_alloc or none. Calls that fail for want of memory are made
 * again, as a program would; apart from that each connection must come about, deliver its data
 * whole, both ways, while the sizes of its rings change, and still be usable in the end. What
 * could not be recorded must be counted, and nothing may be left. PACKETS is the size of the
 * rings, 0: nothing is captured.
 *
 * Wants a kernel with virtual time: what TCP loses it sends again after some time.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fault.h"
#include "stress.h"

#define KEPT		24
#define LIMIT_S		3000
#define SETTLE_S	900

/* One direction of a connection. */
struct flow {
	uint32_t	key;
	size_t		len;
	size_t		sent;
	size_t		got;
};

struct conn {
	int		client;
	int		server;
	struct flow	up;
	struct flow	down;
};

static int listeners[STRESS_KINDS];
static int listeners_plain[STRESS_KINDS];
static struct conn kept[KEPT];
static bool armed;
static int packets;
/* Calls that failed for want of memory. */
static long retries;
/* Connections reset before the server had them. */
static long aborted;
static uint64_t seed;

/*
 * That of a file, too, if the call makes one. IPv6 that has no memory for this CPU's copy of a
 * route says that there is none.
 */
static bool no_memory(int err)
{
	const bool yes = err == ENOMEM || err == ENOBUFS || err == ENFILE || err == ENETUNREACH;

	retries += yes;
	return yes;
}

/* Let time go on; false when it is too late. */
static bool wait_more(double *since, unsigned int *turns)
{
	if (!*since)
		*since = stress_now();
	usleep(1000 << (*turns < 8 ? (*turns)++ : 8));
	return stress_now() - *since < LIMIT_S;
}

static void set_sizes(int fd)
{
	static const int sizes[] = { 0, 1, 5, 64, 64, 64, 200, 512, 600, 1024 };
	const int opt = stress_below(&seed, 2) ? TCP_PCAP_IN : TCP_PCAP_OUT;
	const int before = pcap_get(fd, opt), val = packets ? stress_pick(&seed, sizes) : 0;
	const int ret = pcap_set(fd, opt, val), after = pcap_get(fd, opt);

	if (ret && !(armed && no_memory(-ret)))
		stress_fail("setsockopt: %s", strerror(-ret));
	if (after != (ret ? before : val))
		stress_fail("option %d is %d: it was %d, %d was set: %s", opt, after, before, val,
			    strerror(-ret));
	atomic_fetch_add(&stress->checks, 1);
}

static void set_up(int fd)
{
	/* An end whose FIN could not be allocated finds out that the other end is gone. */
	static const struct {
		int	level;
		int	name;
		int	val;
	} options[] = {
		{ SOL_SOCKET,	SO_KEEPALIVE,	1 },
		{ IPPROTO_TCP,	TCP_KEEPIDLE,	2 },
		/* Longer than TCP may need to get through. */
		{ IPPROTO_TCP,	TCP_KEEPINTVL,	30 },
		{ IPPROTO_TCP,	TCP_KEEPCNT,	127 },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].val, sizeof(int));
	fcntl(fd, F_SETFL, O_NONBLOCK);
}

static int state_of(int fd)
{
	socklen_t len = sizeof(struct tcp_info);
	struct tcp_info info = {};

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ? -errno : info.tcpi_state;
}

/* 0: connected; a positive number: try again with another socket. */
static int finish_connect(int fd)
{
	socklen_t len = sizeof(int);
	unsigned int turns = 0;
	double since = 0;
	int err = 0;

	do {
		switch (state_of(fd)) {
		case TCP_ESTABLISHED:
			return 0;
		case TCP_CLOSE:
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
			return no_memory(err) ? 1 : -err;
		}
	} while (wait_more(&since, &turns));
	return -ETIMEDOUT;
}

static int start_connect(int listener)
{
	int fd, ret, i, family;
	socklen_t len = sizeof(int);

	getsockopt(listener, SOL_SOCKET, SO_DOMAIN, &family, &len);
	for (i = 0; i < 10000; i++) {
		fd = pcap_socket(family);
		if (fd < 0) {
			if (!no_memory(-fd))
				return fd;
			continue;
		}
		set_up(fd);
		if (stress_below(&seed, 2))
			set_sizes(fd);
		ret = pcap_connect_fd(fd, listener);
		if (!ret || ret == -EINPROGRESS)
			ret = finish_connect(fd);
		else if (no_memory(-ret))
			ret = 1;
		if (!ret)
			return fd;
		close(fd);
		if (ret < 0)
			return ret;
	}
	return -ENOMEM;
}

static in_port_t port_of(int fd, int (*get)(int, struct sockaddr *, socklen_t *))
{
	struct sockaddr_in6 sa = {};
	socklen_t len = sizeof(sa);

	return get(fd, (struct sockaddr *)&sa, &len) ? 0 : sa.sin6_port;
}

/* The other end of @client; those of connections that were given up come in between. */
static int accept_from(int listener, int client)
{
	const in_port_t port = port_of(client, getsockname);
	unsigned int turns = 0;
	double since = 0;
	int fd;

	do {
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0 && port_of(fd, getpeername) == port) {
			set_up(fd);
			return fd;
		}
		if (fd >= 0)
			close(fd);
		else if (errno != EAGAIN && !no_memory(errno))
			return -errno;
	} while (state_of(client) != TCP_CLOSE && wait_more(&since, &turns));
	return state_of(client) == TCP_CLOSE ? -ECONNABORTED : -ETIMEDOUT;
}

static char byte_at(const struct flow *f, size_t pos)
{
	return f->key + pos + (pos >> 8) * 31;
}

/* 1: something moved; 0: nothing; negative: the connection is broken. */
static int move(struct flow *f, int from, int to)
{
	static char buf[32768];
	int moved = 0;
	size_t i, n;
	ssize_t ret;

	n = 1 + stress_below(&seed, stress_below(&seed, 4) ? 1500 : sizeof(buf));
	if (n > f->len - f->sent)
		n = f->len - f->sent;
	for (i = 0; i < n; i++)
		buf[i] = byte_at(f, f->sent + i);
	if (n) {
		ret = send(from, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (ret < 0 && errno != EAGAIN && !no_memory(errno))
			return -errno;
		if (ret > 0) {
			f->sent += ret;
			moved = 1;
		}
	}
	ret = recv(to, buf, sizeof(buf), MSG_DONTWAIT);
	if (!ret)
		return -EPIPE;
	if (ret < 0)
		return errno == EAGAIN || no_memory(errno) ? moved : -errno;
	for (i = 0; i < (size_t)ret; i++) {
		if (buf[i] != byte_at(f, f->got + i))
			return -EBADMSG;
	}
	f->got += ret;
	return 1;
}

static int deliver(struct conn *c, size_t up, size_t down)
{
	unsigned int turns = 0;
	double since = 0;
	int a, b;

	c->up.len += up;
	c->down.len += down;
	while (c->up.got < c->up.len || c->down.got < c->down.len) {
		a = move(&c->up, c->client, c->server);
		b = move(&c->down, c->server, c->client);
		if (a < 0 || b < 0)
			return a < 0 ? a : b;
		if (!stress_below(&seed, 16))
			set_sizes(stress_below(&seed, 2) ? c->client : c->server);
		if (a || b) {
			since = 0;
			turns = 0;
		} else if (!wait_more(&since, &turns)) {
			return -ETIMEDOUT;
		}
	}
	return 0;
}

static void close_conn(struct conn *c)
{
	if (stress_below(&seed, 2))
		pcap_reset(c->client);
	else
		close(c->client);
	close(c->server);
	c->client = -1;
	c->server = -1;
}

static int connect_and_deliver(struct conn *c)
{
	const int i = stress_below(&seed, STRESS_KINDS);
	const int listener = stress_below(&seed, 2) ? listeners[i] : listeners_plain[i];
	int ret;

	memset(c, 0, sizeof(*c));
	c->up.key = stress_random(&seed);
	c->down.key = stress_random(&seed);
	c->server = -1;
	do {
		c->client = start_connect(listener);
		if (c->client < 0)
			return c->client;
		c->server = accept_from(listener, c->client);
		if (c->server < 0)
			close(c->client);
		/* What a server may do under load; TCP does it with or without captures. */
		aborted += c->server == -ECONNABORTED;
	} while (armed && c->server == -ECONNABORTED);
	if (c->server < 0)
		return c->server;
	atomic_fetch_add(&stress->sockets, 2);
	ret = deliver(c, stress_below(&seed, 100000), stress_below(&seed, 100000));
	if (!ret)
		ret = deliver(c, 100, 100);
	return ret;
}

static int begin(void)
{
	size_t i;
	int ret;

	ret = pcap_new_netns();
	if (!ret)
		ret = pcap_sysctl_set("tcp_pcap_packets", packets);
	if (ret)
		return ret;
	stress_quick_close();
	pcap_sysctl_set("tcp_orphan_retries", 30);
	/* How long TCP tries is not what we test. */
	pcap_sysctl_set("tcp_syn_retries", 60);
	pcap_sysctl_set("tcp_synack_retries", 60);
	pcap_sysctl_set("tcp_retries2", 60);
	for (i = 0; i < STRESS_KINDS; i++) {
		const int family = stress_kinds[i].family;
		const char *addr = stress_kinds[i].addr;

		listeners[i] = pcap_listener(family, addr, packets, packets);
		listeners_plain[i] = pcap_listener(family, addr, 0, 0);
		if (listeners[i] < 0 || listeners_plain[i] < 0)
			return -EIO;
		set_up(listeners[i]);
		set_up(listeners_plain[i]);
	}
	/* A page of ours that cannot be had would be another test. */
	return mlockall(MCL_CURRENT | MCL_FUTURE) ? -errno : 0;
}

static void check_counters(const char *fault, int percent, long faults)
{
	const long captured = stress->mib[PCAP_MIB_CAPTURED];
	const long losses = stress->mib[PCAP_MIB_LOST] + stress->mib[PCAP_MIB_NO_HISTORY];

	if (percent && !faults)
		stress_fail("no allocation failed");
	if (packets ? !captured : captured || losses)
		stress_fail("%ld packets captured, %ld losses, %d packets asked for", captured,
			    losses, packets);
	/* A page that cannot be had can often be done without. */
	if (percent && packets && !strcmp(fault, "failslab") && !losses)
		stress_fail("%ld allocations failed, and nothing was lost", faults);
	if (!percent && losses)
		stress_fail("%ld losses without any fault", losses);
}

int main(int argc, char **argv)
{
	int percent, connections, i, ret;
	struct conn *c;
	long faults = 0, leaks;

	if (argc < 5) {
		fprintf(stderr, "usage: transfer FAULT PERCENT CONNECTIONS SEED [PACKETS]\n");
		return 1;
	}
	percent = atoi(argv[2]);
	connections = atoi(argv[3]);
	seed = stress_seed(strtoull(argv[4], NULL, 0), 0);
	packets = argc > 5 ? atoi(argv[5]) : 64;

	ret = stress_init();
	if (!ret && percent)
		ret = fault_open(argv[1]);
	if (!ret)
		ret = begin();
	if (ret) {
		printf("FAILED: %s\n", strerror(-ret));
		return 1;
	}
	for (i = 0; i < KEPT; i++)
		kept[i].client = -1;

	armed = percent;
	if (percent && fault_arm(percent))
		return 1;
	for (i = 0; i < connections; i++) {
		c = &kept[i % KEPT];
		if (c->client >= 0)
			close_conn(c);
		ret = connect_and_deliver(c);
		if (ret) {
			stress_fail("connection %d: %s", i, strerror(-ret));
			break;
		}
	}
	if (percent)
		faults = fault_disarm();
	armed = false;
	/* Without captures it is one in a thousand at 10 percent. */
	if (aborted > 2 + connections / 50)
		stress_fail("%ld of %d connections aborted", aborted, connections);

	for (i = 0; i < KEPT && !ret; i++) {
		c = &kept[i];
		ret = c->client < 0 ? 0 : deliver(c, 5000, 5000);
		if (ret)
			stress_fail("connection %d, afterwards: %s", i, strerror(-ret));
	}
	stress_mib_sum();
	check_counters(argv[1], percent, faults);
	for (i = 0; i < KEPT; i++) {
		if (kept[i].client >= 0)
			close_conn(&kept[i]);
	}
	for (i = 0; i < STRESS_KINDS; i++) {
		close(listeners[i]);
		close(listeners_plain[i]);
	}
	leaks = stress_leaks(SETTLE_S);
	return stress_report(faults, leaks, "retries=%ld aborted=%ld", retries, aborted);
}

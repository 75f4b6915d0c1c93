// SPDX-License-Identifier: GPL-2.0
/*
 * Each allocation of a call fails once, one after the other (/proc/thread-self/fail-nth): the
 * call says so or does without, and its socket is as before or as asked for. What runs in
 * softirq is not reached; that is for transfer.c. The shrinker is registered when the kernel
 * starts, so its turn comes by a unit test that is run once more: the kernel wants
 * KUnit, and kunit.enable=1.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fault.h"
#include "stress.h"

#define SETTLE_S	60
#define NTH_MAX		300

static const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
static struct pcap_pair pair;
static int nth_fd;
static long faults;

/* A call: what is there before, the call, and what is there after. */
struct call {
	const char	*name;
	int		before;
	int		(*make)(void);
	int		after;
};

static int set_16(void)
{
	return pcap_set(pair.client, TCP_PCAP_IN, 16);
}

static int set_600(void)
{
	return pcap_set(pair.client, TCP_PCAP_IN, 600);
}

static int set_1(void)
{
	return pcap_set(pair.client, TCP_PCAP_IN, 1);
}

static int set_0(void)
{
	return pcap_set(pair.client, TCP_PCAP_IN, 0);
}

static int send_bulk(void)
{
	static const char data[40000];

	return send(pair.client, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int disconnect(void)
{
	return connect(pair.client, &unspec, sizeof(unspec)) ? -errno : 0;
}

static int open_and_close(void)
{
	int fd = pcap_socket(AF_INET6);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

static int connect_another(void)
{
	int fd = pcap_connect(pair.listener, 20, 20);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

static const struct call calls[] = {
	{ "a history where none was",		0,	set_16,			16 },
	{ "a larger ring",			16,	set_600,		600 },
	{ "a smaller ring",			16,	set_1,			1 },
	{ "a ring that crosses a page",		513,	set_600,		600 },
	{ "no ring any more",			16,	set_0,			0 },
	{ "send()",				64,	send_bulk,		64 },
	{ "disconnect",				16,	disconnect,		16 },
	{ "socket() with a history",		0,	open_and_close,		0 },
	{ "connect() with a history",		0,	connect_another,	0 },
};

static bool no_memory(int ret)
{
	return ret == -ENOMEM || ret == -ENOBUFS || ret == -EAGAIN || ret == -ENFILE;
}

/* Returns whether a fault was left over, because the call makes fewer allocations than @n. */
static bool one(const struct call *c, int n)
{
	char text[16] = {};
	int ret, size;
	bool over;

	if (pcap_pair(&pair, AF_INET, "127.0.0.1", c->before, 0) ||
	    pcap_rounds(pair.client, pair.server, 20)) {
		stress_fail("%s: no connection", c->name);
		return true;
	}
	atomic_fetch_add(&stress->sockets, 3);

	snprintf(text, sizeof(text), "%d", n);
	if (pwrite(nth_fd, text, strlen(text), 0) < 0)
		stress_fail("fail-nth: %s", strerror(errno));
	ret = c->make();
	memset(text, 0, sizeof(text));
	if (pread(nth_fd, text, sizeof(text) - 1, 0) < 0)
		stress_fail("fail-nth: %s", strerror(errno));
	over = atoi(text) != 0;
	if (pwrite(nth_fd, "0", 1, 0) < 0)
		stress_fail("fail-nth: %s", strerror(errno));

	/* To make it smaller or to end it always works. */
	if (ret && (over || !no_memory(ret) || c->after < c->before))
		stress_fail("%s, allocation %d: %s", c->name, n, strerror(-ret));
	size = pcap_get(pair.client, TCP_PCAP_IN);
	if (size != (ret ? c->before : c->after))
		stress_fail("%s, allocation %d: the size is %d", c->name, n, size);
	if (c->make != disconnect && c->make != send_bulk &&
	    pcap_rounds(pair.server, pair.client, 20))
		stress_fail("%s, allocation %d: the connection is dead", c->name, n);
	atomic_fetch_add(&stress->checks, 1);
	faults += !over;
	pcap_reset(pair.client);
	close(pair.server);
	close(pair.listener);
	return over;
}

#define SUITE "/sys/kernel/debug/kunit/rust_shrinker/"

static void check_results(void)
{
	char text[4096] = "no results";
	int fd = open(SUITE "results", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (len > 0)
		text[len] = '\0';
	if (strstr(text, "not ok") || !strstr(text, "\nok 1 rust_shrinker"))
		stress_fail("the unit tests of rust_shrinker: %s", text);
	close(fd);
}

/* The numbers of a message of the kernel's log; -1 without it. */
static void read_message(int log, int *allocations, int *errors)
{
	static const char start[] = "shrinker: ";
	char text[4096];
	ssize_t len;
	char *at;

	*allocations = -1;
	*errors = -1;
	while ((len = read(log, text, sizeof(text) - 1)) > 0) {
		text[len] = '\0';
		at = strstr(text, start);
		if (at)
			sscanf(at + strlen(start), "%d allocations failed, %d",
			       allocations, errors);
	}
}

/*
 * The suite of rust/kernel/shrinker.rs has a test which lets one allocation after the other fail,
 * and a message of how many did; here allocations that may sleep are allowed to.
 */
static void register_shrinker(void)
{
	int run = open(SUITE "run", O_WRONLY | O_CLOEXEC);
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int allocations, errors;

	if (run < 0 || log < 0 || lseek(log, 0, SEEK_END) < 0 || write(run, "1", 1) != 1) {
		stress_fail("the unit tests of rust_shrinker cannot run: %s", strerror(errno));
		return;
	}
	check_results();
	read_message(log, &allocations, &errors);
	printf("nth: registering a shrinker: %d allocations, %d of them are errors\n",
	       allocations, errors);
	/* The shrinker itself, and what it defers; debugfs can be done without. */
	if (errors < 2 || allocations < errors)
		stress_fail("registering a shrinker: too few errors");
	else
		faults += allocations;
	close(run);
	close(log);
}

int main(void)
{
	size_t i;
	int n, ret;
	long leaks;

	ret = stress_init();
	if (!ret)
		ret = fault_open("failslab");
	if (!ret)
		ret = fault_open("fail_page_alloc");
	if (!ret)
		ret = pcap_new_netns();
	nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (ret || nth_fd < 0) {
		printf("FAILED: %s\n", strerror(ret ? -ret : errno));
		return 1;
	}
	stress_quick_close();

	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		pcap_sysctl_set("tcp_pcap_packets", calls[i].make == open_and_close ? 64 : 0);
		for (n = 1; n < NTH_MAX && !one(&calls[i], n); n++)
			;
		printf("nth: %s: %d allocations\n", calls[i].name, n - 1);
		/* Even free() may allocate, in a debug kernel; but these must in any. */
		if (n == 1 && calls[i].after > calls[i].before)
			stress_fail("%s: no allocation", calls[i].name);
		if (n == NTH_MAX)
			stress_fail("%s: no end", calls[i].name);
	}
	register_shrinker();
	stress_mib_sum();
	leaks = stress_leaks(SETTLE_S);
	return stress_report(faults, leaks, "calls=%zu", ARRAY_SIZE(calls));
}

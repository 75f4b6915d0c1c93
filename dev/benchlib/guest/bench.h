/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The first and only program of a measured guest: it carries out a plan, one phase per line, and marks
 * what the plugin counts. See ../plan.py for what is in a plan.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdint.h>

#define PATH_LEN 256

/* One line of the plan. */
struct phase {
	unsigned int id;
	char work[16];
	int family;		/* af: 4 or 6 */
	char dev[8];		/* lo or veth */
	int gso;		/* large packets on the device, and GRO */
	unsigned int n;		/* transactions, or MB of bulk */
	unsigned int size;	/* bytes of a request, of a response, of a write */
	unsigned int conns;	/* connections that take turns */
	unsigned int idle;	/* more connections that do nothing */
	unsigned int warm;	/* transactions before the marker */
	int packets;		/* net.ipv4.tcp_pcap_packets, 0: off */
	int key;		/* 1: history somewhere on this host, not on these sockets */
	int snaplen;
	long frags_max;		/* 0: leave it as it is */
	long mem_max;
	unsigned int scan;	/* objects to reclaim every 16 transactions */
	char peer[16];		/* none, tcpdump, tcpdump-full, bpf */
	int rest;		/* seconds to wait when all is closed; -1: as long as TIME_WAIT lasts */
	unsigned int settle;	/* ms to wait at the end, within what is counted */
	unsigned int cpus;	/* 2: the same work on two CPUs at once, rr only */
	int hop;		/* 1: each transaction on the other of two CPUs, rr only */
};

/* A phase's own number, and those of the parts that are counted besides. */
enum part {
	PART_ALL,
	PART_CONNECT,
	PART_CLOSE,
	PART_SCAN,
	PARTS,
};

struct conn {
	int client;
	int server;
};

/* init.c */
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* mark.c */
void mark_start(unsigned int id, enum part part);
void mark_stop(unsigned int id, enum part part);
void mark_dump(unsigned int id, enum part part);

/* sys.c */
int write_file(const char *path, const char *text);
int sysctl_set(const char *name, long value);
void sysctl_all(const char *name, long value);
void counters_before(void);
void counters_after(unsigned int id);
void gauges(unsigned int id, const char *stage);

/* net.c */
void net_init(void);
void net_gso(const char *dev, bool on);
void net_enter(bool server, const char *dev);
int net_listen(const struct phase *p, unsigned int number);
void net_open(const struct phase *p, int listener, unsigned int number, struct conn *c);
void net_abort(struct conn *c);

/* work.c */
void work_run(const struct phase *p);

/* peer.c */
void peer_start(const struct phase *p);
void peer_stop(const struct phase *p);

#endif /* BENCH_H */

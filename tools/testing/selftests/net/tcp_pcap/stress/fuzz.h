/* SPDX-License-Identifier: GPL-2.0 */
#ifndef TCP_PCAP_FUZZ_H
#define TCP_PCAP_FUZZ_H

#include <pthread.h>

#include "stress.h"

#define FUZZ_SLOTS	48
#define FUZZ_THREADS	4

enum fuzz_kind {
	FUZZ_FREE,
	FUZZ_TCP,
	FUZZ_MPTCP,
	FUZZ_OTHER,
};

/* A descriptor: used under @lock by many threads at once, replaced with it held alone. */
struct fuzz_slot {
	pthread_rwlock_t	lock;
	int			fd;
	enum fuzz_kind		kind;
	/* From another process: that network namespace's maximum is not known here. */
	bool			foreign;
	int			domain;
	/* In network byte order; not 0 if it listens. */
	_Atomic in_port_t	port;
};

/* One fuzzing process; its threads share all of it. */
struct fuzz_process {
	struct fuzz_slot	slot[FUZZ_SLOTS];
	pthread_mutex_t		sysctl_lock;
	/* Root of a container only. */
	bool			container;
	/* net.ipv4.tcp_pcap_packets_max, which a container cannot change. */
	long			packets_max;
	/* Descriptors go from process to process here. */
	int			bus[2];
	/* A file for sendfile(). */
	int			file;
};

/*
 * Odd while the host's limit of memory is being written: then, and only then, a socket can lose its
 * whole history.
 */
extern atomic_ulong *fuzz_limit_changes;

/* Values at the edges of each range, and beyond. */
int fuzz_value(uint64_t *seed);

/* fuzz_socket.c: one call on sockets of the process. */
int fuzz_begin(struct fuzz_process *p);
void fuzz_socket(struct fuzz_process *p, uint64_t *seed);
void fuzz_end(struct fuzz_process *p);
/* Set and get an option of a socket of this kind, and compare with the rules. */
void fuzz_set(const struct fuzz_process *p, const struct fuzz_slot *s, uint64_t *seed);
void fuzz_get(const struct fuzz_slot *s, uint64_t *seed);
/* Pass a descriptor on; not an error if there is no room. */
void fuzz_pass(int bus, int fd);
int fuzz_receive(int bus);

/* fuzz_sysctl.c: a write and what must come of it. */
void fuzz_sysctl(struct fuzz_process *p, uint64_t *seed);
void fuzz_host_sysctl(uint64_t *seed);

/* fuzz_netns.c: namespaces that end while their sockets live on. */
int fuzz_netns(uint64_t seed);

#endif /* TCP_PCAP_FUZZ_H */

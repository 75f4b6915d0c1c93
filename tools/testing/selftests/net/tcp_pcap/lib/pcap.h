/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of TCP_PCAP share: sysctls, sockets, traffic. Functions that can fail return a
 * negative errno.
 */
#ifndef TCP_PCAP_LIB_H
#define TCP_PCAP_LIB_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

/* The C library's header may be older than the options. */
#ifndef TCP_PCAP_OUT
#define TCP_PCAP_OUT	47
#endif
#ifndef TCP_PCAP_IN
#define TCP_PCAP_IN	48
#endif

#define PCAP_PACKETS_HARD_MAX	65535

/* Leave a size to the sysctl or to the listener. */
#define PCAP_DEFAULT		(-1)

/* No record is smaller, whatever the kernel's configuration: an sk_buff and its head. */
#define PCAP_RECORD_MIN		512L

/* Sysctls of the whole host, seen in the initial network namespace only. */
enum pcap_host_sysctl {
	PCAP_FRAGS,
	PCAP_MEM,
	PCAP_FRAGS_MAX,
	PCAP_MEM_MAX,
	PCAP_AGGRESSIVE_FREE,
	PCAP_HOST_SYSCTLS,
};

/* Sysctls of each network namespace. */
enum pcap_net_sysctl {
	PCAP_PACKETS,
	PCAP_PACKETS_MAX,
	PCAP_SNAPLEN,
	PCAP_NET_SYSCTLS,
};

/* What a test may change in the initial network namespace, and what its accounts show. */
struct pcap_host {
	bool	saved;
	long	host[PCAP_HOST_SYSCTLS];
	long	net[PCAP_NET_SYSCTLS];
};

/* A line of /proc/net/tcp_pcap. */
struct pcap_account {
	long	used;
	long	max;
	long	peak;
	long	refused;
};

/* All of /proc/net/tcp_pcap. */
struct pcap_status {
	struct pcap_account	frags;
	struct pcap_account	frags_containers;
	struct pcap_account	mem;
	struct pcap_account	mem_containers;
	long			packets;
	long			payloads;
	long			reclaimed_packets;
	long			reclaimed_payloads;
	long			reclaimed_pages;
};

/* TCPPcap* of /proc/net/netstat. */
enum pcap_mib {
	PCAP_MIB_CAPTURED,
	PCAP_MIB_LOST,
	PCAP_MIB_NO_HISTORY,
	PCAP_MIB_RECLAIMED_PACKETS,
	PCAP_MIB_RECLAIMED_PAGES,
	PCAP_MIB_HDR_SNAPLEN,
	PCAP_MIB_HDR_UNREADABLE,
	PCAP_MIB_HDR_ZEROCOPY,
	PCAP_MIB_HDR_SHARED,
	PCAP_MIB_HDR_PFMEMALLOC,
	PCAP_MIB_HDR_LIMIT,
	PCAP_MIB_HDR_DECRYPTED,
	PCAP_MIB_HDR_LINEAR,
	PCAP_MIB_HDR_FRAG_LIST,
	PCAP_MIB_HDR_PRESSURE,
	PCAP_MIBS,
};

struct pcap_mibs {
	long	val[PCAP_MIBS];
};

struct pcap_pair {
	int	listener;
	int	client;
	int	server;
};

extern const char * const pcap_host_name[PCAP_HOST_SYSCTLS];
extern const char * const pcap_net_name[PCAP_NET_SYSCTLS];
extern const char * const pcap_mib_name[PCAP_MIBS];

/*
 * pcap_host_open() is called in the initial network namespace; from then on the calling process
 * reads and writes the host's sysctls, and reads /proc/net/tcp_pcap, wherever it goes.
 */
int pcap_host_open(void);
long pcap_host_get(enum pcap_host_sysctl which);
int pcap_host_set(enum pcap_host_sysctl which, long val);
int pcap_host_save(struct pcap_host *host);
int pcap_host_restore(const struct pcap_host *host);

static inline long pcap_frags(void)
{
	return pcap_host_get(PCAP_FRAGS);
}

static inline long pcap_mem(void)
{
	return pcap_host_get(PCAP_MEM);
}

int pcap_status(struct pcap_status *status);
/* Wait until nothing is kept any more. */
bool pcap_all_free(void);

/* Wait until an account shows @val; what is freed by RCU needs a moment. */
bool pcap_settles(enum pcap_host_sysctl which, long val);
bool pcap_settles_below(enum pcap_host_sysctl which, long max);

/* Sysctls of the network namespace we are in, below net/ipv4. */
int pcap_sysctl_get(const char *name, long *val);
int pcap_sysctl_write(const char *name, const char *text);
int pcap_sysctl_set(const char *name, long val);
/* A counter of /proc/net/netstat, such as TCPFastOpenPassive. */
long pcap_mib(const char *name);
/* All of TCP_PCAP, of the network namespace we are in. */
int pcap_mibs(struct pcap_mibs *mibs);

/* The shrinker by debugfs: objects that it can free, and free @n of them. */
long pcap_shrinker_count(void);
int pcap_shrinker_scan(long n);

/* Move to a new network namespace with loopback up. */
int pcap_new_netns(void);

int pcap_set(int fd, int opt, int val);
int pcap_get(int fd, int opt);
int pcap_set_both(int fd, int in, int out);
/* Wait until a connection is in a TCP state; the peer's answer needs a moment. */
bool pcap_reaches(int fd, int state);

/* A socket for @family that fails rather than hangs. */
int pcap_socket(int family);
int pcap_bind(int fd, int family, const char *addr);
/* A bound socket that does not listen yet; @in and @out can be PCAP_DEFAULT. */
int pcap_bound(int family, const char *addr, int in, int out);
int pcap_listener(int family, const char *addr, int in, int out);
int pcap_connect_fd(int fd, int listener);
int pcap_connect(int listener, int in, int out);
int pcap_accept(int listener);
/* A connection; the sizes are those of the client, the listener has no history. */
int pcap_pair(struct pcap_pair *pair, int family, const char *addr, int in, int out);
void pcap_pair_close(struct pcap_pair *pair);
/* Close without FIN. */
void pcap_reset(int fd);

/* @n times one byte from @a to @b and one back: at least @n packets in each direction. */
int pcap_rounds(int a, int b, unsigned int n);
/* @len bytes from @from to @to, checked; the highest accounts seen meanwhile are noted. */
int pcap_bulk(int from, int to, size_t len);
long pcap_peak(enum pcap_host_sysctl which);
void pcap_peak_reset(void);

/* As fork(); the child does not outlive a test that gave up. */
pid_t pcap_fork(void);

/*
 * Gives way to those whose progress is counted in @progress, and sleeps while it stands still: they
 * wait for a timer of TCP then, and virtual time does not pass as long as somebody runs.
 */
struct pcap_pace {
	long		seen;
	unsigned int	still;
};

void pcap_give_way(struct pcap_pace *pace, const long *progress);

#endif /* TCP_PCAP_LIB_H */

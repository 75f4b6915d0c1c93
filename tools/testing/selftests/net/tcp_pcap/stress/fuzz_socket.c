// SPDX-License-Identifier: GPL-2.0
/* Random calls on sockets; what TCP_PCAP_IN and TCP_PCAP_OUT may answer. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tls.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP	262
#endif
#ifndef SOL_TLS
#define SOL_TLS		282
#endif

#define FILE_SIZE	100000

static const int both[] = { TCP_PCAP_IN, TCP_PCAP_OUT };
static char data[65536];
static _Thread_local char received[65536];

static bool no_memory(int err)
{
	return err == ENOBUFS || err == ENOMEM;
}

/* Whether errno @err (0: success) is what setting @val on @s may say. */
static bool may_say(const struct fuzz_process *p, const struct fuzz_slot *s, int val, int err)
{
	switch (s->kind) {
	case FUZZ_TCP:
		break;
	case FUZZ_MPTCP:
		return err == ENOPROTOOPT;
	default:
		return err == ENOPROTOOPT || err == EOPNOTSUPP;
	}
	if (val < 0 || val > PCAP_PACKETS_HARD_MAX)
		return err == EINVAL;
	if (!val)
		return !err;
	if (p->container && s->foreign && err == EPERM)
		return true;
	if (p->container && !s->foreign && val > p->packets_max)
		return err == EPERM;
	return !err || no_memory(err);
}

void fuzz_set(const struct fuzz_process *p, const struct fuzz_slot *s, uint64_t *seed)
{
	const int opt = stress_pick(seed, both);
	const long long wide = 5;
	int val, err;

	atomic_fetch_add(&stress->checks, 1);
	if (s->kind == FUZZ_TCP && !stress_below(seed, 16)) {
		val = stress_below(seed, 5) - 1;
		err = setsockopt(s->fd, IPPROTO_TCP, opt, &wide, val) ? errno : 0;
		if (err != (val == sizeof(int) ? 0 : EINVAL) &&
		    (val != sizeof(int) || (!no_memory(err) && err != EPERM)))
			stress_fail("option of %d bytes: %s", val, strerror(err));
		return;
	}
	if (s->kind == FUZZ_TCP && !stress_below(seed, 16)) {
		err = setsockopt(s->fd, IPPROTO_TCP, opt, (void *)8, sizeof(int)) ? errno : 0;
		if (err != EFAULT)
			stress_fail("option at a bad address: %s", strerror(err));
		return;
	}
	val = fuzz_value(seed);
	err = -pcap_set(s->fd, opt, val);
	if (!may_say(p, s, val, err))
		stress_fail("kind %d%s%s, option %d = %d: %s", s->kind,
			    p->container ? ", container" : "", s->foreign ? ", foreign" : "", opt,
			    val, strerror(err));
}

void fuzz_get(const struct fuzz_slot *s, uint64_t *seed)
{
	const int opt = stress_pick(seed, both);
	int val = stress_random(seed), err, i;
	socklen_t len = sizeof(int);

	atomic_fetch_add(&stress->checks, 1);
	switch (stress_below(seed, 12)) {
	case 0:
		len = -1 - stress_below(seed, 100);
		err = getsockopt(s->fd, IPPROTO_TCP, opt, &val, &len) ? errno : 0;
		if (s->kind == FUZZ_TCP && err != EINVAL)
			stress_fail("getsockopt with a negative length: %s", strerror(err));
		return;
	case 1:
		err = getsockopt(s->fd, IPPROTO_TCP, opt, (void *)8, &len) ? errno : 0;
		if (s->kind == FUZZ_TCP && err != EFAULT)
			stress_fail("getsockopt to a bad address: %s", strerror(err));
		return;
	case 2:
		i = stress_below(seed, 4);
		len = i;
		err = getsockopt(s->fd, IPPROTO_TCP, opt, &val, &len) ? errno : 0;
		if (s->kind == FUZZ_TCP && (err || len != (socklen_t)i))
			stress_fail("getsockopt of %d bytes: %s, %d bytes", i, strerror(err), len);
		return;
	}
	val = pcap_get(s->fd, opt);
	/* An MPTCP socket that fell back shows its one subflow's. */
	if (s->kind == FUZZ_MPTCP && val == -EOPNOTSUPP)
		return;
	if (s->kind == FUZZ_OTHER && (val == -ENOPROTOOPT || val == -EOPNOTSUPP))
		return;
	if (s->kind == FUZZ_OTHER || val < 0 || val > PCAP_PACKETS_HARD_MAX)
		stress_fail("kind %d: getsockopt says %d", s->kind, val);
}

/* A socket that nobody else has: what was set is there, and nothing else changed. */
static void exact(const struct fuzz_process *p, uint64_t *seed)
{
	struct fuzz_slot s = { .kind = FUZZ_TCP };
	unsigned long changes;
	int want[2], o, i, val, err;

	s.fd = pcap_socket(stress_below(seed, 2) ? AF_INET : AF_INET6);
	if (s.fd < 0)
		return;
	atomic_fetch_add(&stress->sockets, 1);
	changes = atomic_load(fuzz_limit_changes);
	for (o = 0; o < 2; o++)
		want[o] = pcap_get(s.fd, both[o]);
	for (i = 0; i < 6; i++) {
		o = stress_below(seed, 2);
		val = fuzz_value(seed);
		err = -pcap_set(s.fd, both[o], val);
		if (!may_say(p, &s, val, err))
			stress_fail("own socket, option %d = %d: %s", both[o], val, strerror(err));
		if (!err)
			want[o] = val;
		for (o = 0; o < 2; o++) {
			val = pcap_get(s.fd, both[o]);
			if (val == want[o])
				continue;
			/* Taken away by a limit that was lowered meanwhile. */
			if (!val && (changes & 1 || atomic_load(fuzz_limit_changes) != changes)) {
				want[o] = 0;
				continue;
			}
			stress_fail("own socket, option %d is %d, not %d", both[o], val, want[o]);
		}
		atomic_fetch_add(&stress->checks, 1);
	}
	close(s.fd);
}

static int domain_of(int fd)
{
	socklen_t len = sizeof(int);
	int val = -1;

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &val, &len);
	return val;
}

static enum fuzz_kind kind_of(int fd)
{
	socklen_t len = sizeof(int);
	int val = -1;

	getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &val, &len);
	if (domain_of(fd) == AF_UNIX)
		return FUZZ_OTHER;
	return val == IPPROTO_TCP ? FUZZ_TCP : val == IPPROTO_MPTCP ? FUZZ_MPTCP : FUZZ_OTHER;
}

static void close_some_way(int fd, uint64_t *seed)
{
	switch (stress_below(seed, 4)) {
	case 0:
		pcap_reset(fd);
		return;
	case 1:
		shutdown(fd, stress_below(seed, 3));
		break;
	}
	close(fd);
}

/* Put a new descriptor (or none) into a slot, and close the one that was there. */
static void replace(struct fuzz_process *p, int fd, bool foreign, uint64_t *seed)
{
	struct fuzz_slot *s = &p->slot[stress_below(seed, FUZZ_SLOTS)];
	int old;

	pthread_rwlock_wrlock(&s->lock);
	old = s->kind == FUZZ_FREE ? -1 : s->fd;
	s->fd = fd;
	s->kind = fd < 0 ? FUZZ_FREE : kind_of(fd);
	s->domain = fd < 0 ? -1 : domain_of(fd);
	s->foreign = foreign;
	s->port = 0;
	pthread_rwlock_unlock(&s->lock);
	if (old >= 0)
		close_some_way(old, seed);
	if (fd >= 0)
		atomic_fetch_add(&stress->sockets, 1);
}

static int random_socket(uint64_t *seed)
{
	const int domain = stress_below(seed, 2) ? AF_INET : AF_INET6;
	const int type = SOCK_NONBLOCK | SOCK_CLOEXEC;

	switch (stress_below(seed, 12)) {
	case 0:
		return socket(domain, SOCK_DGRAM | type, 0);
	case 1:
		return socket(AF_UNIX, SOCK_STREAM | type, 0);
	case 2 ... 4:
		return socket(domain, SOCK_STREAM | type, IPPROTO_MPTCP);
	default:
		return socket(domain, SOCK_STREAM | type, IPPROTO_TCP);
	}
}

static void start_listening(struct fuzz_slot *s, uint64_t *seed)
{
	struct sockaddr_in6 sa = { .sin6_family = s->domain };
	socklen_t len = sizeof(sa);

	if (s->domain != AF_INET && s->domain != AF_INET6)
		return;
	/* Any address, any port; the two families have that in the same place. */
	bind(s->fd, (struct sockaddr *)&sa,
	     s->domain == AF_INET ? sizeof(struct sockaddr_in) : len);
	if (!listen(s->fd, stress_below(seed, 20)) &&
	    !getsockname(s->fd, (struct sockaddr *)&sa, &len))
		s->port = sa.sin6_port;
}

static void start_connecting(struct fuzz_process *p, struct fuzz_slot *s, uint64_t *seed)
{
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr *sa = (struct sockaddr *)&v6;
	socklen_t len = sizeof(v6);
	in_port_t port = 0;
	int i;

	for (i = 0; i < 20 && !port; i++)
		port = p->slot[stress_below(seed, FUZZ_SLOTS)].port;
	v4.sin_port = port;
	v6.sin6_port = port;
	v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	inet_pton(AF_INET6, stress_below(seed, 2) ? "::1" : "::ffff:127.0.0.1", &v6.sin6_addr);
	if (s->domain == AF_INET) {
		sa = (struct sockaddr *)&v4;
		len = sizeof(v4);
	}
	if (stress_below(seed, 4))
		connect(s->fd, sa, len);
	else
		sendto(s->fd, data, stress_below(seed, 3000), MSG_FASTOPEN | MSG_NOSIGNAL, sa, len);
}

static void other_option(int fd, uint64_t *seed)
{
	static const struct {
		int	level;
		int	name;
		int	max;
	} options[] = {
		{ IPPROTO_TCP,	TCP_NODELAY,		2 },
		{ IPPROTO_TCP,	TCP_CORK,		2 },
		{ IPPROTO_TCP,	TCP_MAXSEG,		1500 },
		{ IPPROTO_TCP,	TCP_DEFER_ACCEPT,	2 },
		{ IPPROTO_TCP,	TCP_QUICKACK,		2 },
		{ IPPROTO_TCP,	TCP_WINDOW_CLAMP,	70000 },
		{ IPPROTO_TCP,	TCP_FASTOPEN,		20 },
		{ IPPROTO_TCP,	TCP_FASTOPEN_CONNECT,	2 },
		{ IPPROTO_TCP,	TCP_SAVE_SYN,		2 },
		{ IPPROTO_TCP,	TCP_LINGER2,		3 },
		{ SOL_SOCKET,	SO_RCVBUF,		100000 },
		{ SOL_SOCKET,	SO_SNDBUF,		100000 },
		{ SOL_SOCKET,	SO_ZEROCOPY,		2 },
		{ SOL_SOCKET,	SO_KEEPALIVE,		2 },
		{ IPPROTO_IPV6,	IPV6_V6ONLY,		2 },
		{ IPPROTO_IPV6,	IPV6_TCLASS,		256 },
		{ IPPROTO_IP,	IP_TOS,			256 },
	};
	const int i = stress_below(seed, ARRAY_SIZE(options));
	const int val = stress_below(seed, options[i].max);

	setsockopt(fd, options[i].level, options[i].name, &val, sizeof(val));
}

static void start_tls(int fd, uint64_t *seed)
{
	struct tls12_crypto_info_aes_gcm_128 info = {
		.info.version = TLS_1_3_VERSION,
		.info.cipher_type = TLS_CIPHER_AES_GCM_128,
	};

	setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3);
	if (stress_below(seed, 2))
		setsockopt(fd, SOL_TLS, TLS_TX, &info, sizeof(info));
	if (stress_below(seed, 2))
		setsockopt(fd, SOL_TLS, TLS_RX, &info, sizeof(info));
}

static void send_some(int fd, uint64_t *seed)
{
	static const int flags[] = { 0, 0, 0, MSG_MORE, MSG_OOB, MSG_ZEROCOPY, MSG_EOR };

	send(fd, data, stress_below(seed, stress_below(seed, 2) ? 200 : sizeof(data)),
	     stress_pick(seed, flags) | MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void receive_some(int fd, uint64_t *seed)
{
	static const int flags[] = { 0, 0, 0, MSG_PEEK, MSG_TRUNC, MSG_OOB, MSG_ERRQUEUE };

	recv(fd, received, stress_below(seed, sizeof(received)),
	     stress_pick(seed, flags) | MSG_DONTWAIT);
}

/*
 * The descriptors of a process that ends at once; no locks here, their owners are not here
 * either.
 */
static void fork_and_use(struct fuzz_process *p, uint64_t *seed)
{
	uint64_t own = *seed;
	int i, fd, status;
	pid_t child;

	stress_random(seed);
	child = fork();
	if (child < 0)
		return;
	if (!child) {
		alarm(20);
		for (i = 0; i < 20; i++) {
			fd = p->slot[stress_below(&own, FUZZ_SLOTS)].fd;
			switch (stress_below(&own, 5)) {
			case 0:
				send(fd, data, 1000, MSG_DONTWAIT | MSG_NOSIGNAL);
				break;
			case 1:
				recv(fd, data, 1000, MSG_DONTWAIT);
				break;
			case 2:
				pcap_get(fd, TCP_PCAP_IN);
				break;
			case 3:
				close(fd);
				break;
			default:
				pcap_set(fd, stress_pick(&own, both), fuzz_value(&own));
			}
		}
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (status)
		stress_fail("a forked process ended with status %#x", status);
}

void fuzz_pass(int bus, int fd)
{
	char space[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = space, .msg_controllen = sizeof(space),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	sendmsg(bus, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int fuzz_receive(int bus)
{
	char space[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = space, .msg_controllen = sizeof(space),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(bus, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1)
		return -1;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

/* Calls that make a descriptor or end one. */
static void change_slot(struct fuzz_process *p, uint64_t *seed)
{
	struct fuzz_slot *s = &p->slot[stress_below(seed, FUZZ_SLOTS)];
	bool foreign = false;
	int fd = -1;

	switch (stress_below(seed, 8)) {
	case 0:
		break;
	case 1:
		foreign = true;
		fd = fuzz_receive(p->bus[1]);
		break;
	case 2:
		pthread_rwlock_rdlock(&s->lock);
		if (s->kind != FUZZ_FREE)
			fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);
		foreign = s->foreign;
		pthread_rwlock_unlock(&s->lock);
		break;
	default:
		fd = random_socket(seed);
	}
	replace(p, fd, foreign, seed);
}

static void try_accept(struct fuzz_process *p, uint64_t *seed)
{
	struct fuzz_slot *s = &p->slot[stress_below(seed, FUZZ_SLOTS)];
	bool foreign;
	int i, fd;

	for (i = 0; i < FUZZ_SLOTS && !s->port; i++)
		s = &p->slot[stress_below(seed, FUZZ_SLOTS)];
	pthread_rwlock_rdlock(&s->lock);
	fd = s->kind == FUZZ_FREE ? -1 : accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	foreign = s->foreign;
	pthread_rwlock_unlock(&s->lock);
	if (fd >= 0)
		replace(p, fd, foreign, seed);
}

/* Calls on a descriptor. */
static void use_slot(struct fuzz_process *p, struct fuzz_slot *s, uint64_t *seed)
{
	const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	off_t offset = stress_below(seed, FILE_SIZE);

	switch (stress_below(seed, 22)) {
	case 0 ... 4:
		fuzz_set(p, s, seed);
		break;
	case 5 ... 6:
		fuzz_get(s, seed);
		break;
	case 7 ... 8:
		start_connecting(p, s, seed);
		break;
	case 9:
		start_listening(s, seed);
		break;
	case 10:
		connect(s->fd, &unspec, sizeof(unspec));
		break;
	case 11 ... 13:
		send_some(s->fd, seed);
		break;
	case 14 ... 15:
		receive_some(s->fd, seed);
		break;
	case 16:
		sendfile(s->fd, p->file, &offset, stress_below(seed, FILE_SIZE));
		break;
	case 17:
		if (!stress_below(seed, 3))
			shutdown(s->fd, stress_below(seed, 3));
		break;
	case 18:
		if (!stress_below(seed, 4))
			start_tls(s->fd, seed);
		break;
	case 19:
		fuzz_pass(p->bus[0], s->fd);
		break;
	default:
		other_option(s->fd, seed);
	}
}

void fuzz_socket(struct fuzz_process *p, uint64_t *seed)
{
	struct fuzz_slot *s;

	switch (stress_below(seed, 100)) {
	case 0:
		fork_and_use(p, seed);
		return;
	case 1 ... 3:
		exact(p, seed);
		return;
	case 4 ... 12:
		change_slot(p, seed);
		return;
	case 13 ... 22:
		try_accept(p, seed);
		return;
	}
	s = &p->slot[stress_below(seed, FUZZ_SLOTS)];
	pthread_rwlock_rdlock(&s->lock);
	if (s->kind != FUZZ_FREE)
		use_slot(p, s, seed);
	pthread_rwlock_unlock(&s->lock);
}

int fuzz_begin(struct fuzz_process *p)
{
	int i;

	stress_quick_close();
	/* Both ends, with data, without cookies. */
	pcap_sysctl_set("tcp_fastopen", 0x607);
	if (pcap_sysctl_get("tcp_pcap_packets_max", &p->packets_max))
		return -ENOENT;
	pthread_mutex_init(&p->sysctl_lock, NULL);
	for (i = 0; i < FUZZ_SLOTS; i++) {
		pthread_rwlock_init(&p->slot[i].lock, NULL);
		p->slot[i].fd = -1;
	}
	p->file = memfd_create("data", MFD_CLOEXEC);
	if (p->file < 0 || ftruncate(p->file, FILE_SIZE))
		return -errno;
	return 0;
}

void fuzz_end(struct fuzz_process *p)
{
	int i;

	for (i = 0; i < FUZZ_SLOTS; i++) {
		if (p->slot[i].kind != FUZZ_FREE)
			close(p->slot[i].fd);
	}
}

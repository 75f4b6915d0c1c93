// SPDX-License-Identifier: GPL-2.0
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "pcap.h"

#define TIMEOUT_S	20

const char * const pcap_host_name[PCAP_HOST_SYSCTLS] = {
	[PCAP_FRAGS]		= "tcp_pcap_frags",
	[PCAP_MEM]		= "tcp_pcap_mem",
	[PCAP_FRAGS_MAX]	= "tcp_pcap_frags_max",
	[PCAP_MEM_MAX]		= "tcp_pcap_mem_max",
	[PCAP_AGGRESSIVE_FREE]	= "tcp_pcap_aggressive_free",
};

const char * const pcap_net_name[PCAP_NET_SYSCTLS] = {
	[PCAP_PACKETS]		= "tcp_pcap_packets",
	[PCAP_PACKETS_MAX]	= "tcp_pcap_packets_max",
	[PCAP_SNAPLEN]		= "tcp_pcap_snaplen",
};

const char * const pcap_mib_name[PCAP_MIBS] = {
	[PCAP_MIB_CAPTURED]		= "TCPPcapCaptured",
	[PCAP_MIB_LOST]			= "TCPPcapLost",
	[PCAP_MIB_NO_HISTORY]		= "TCPPcapNoHistory",
	[PCAP_MIB_RECLAIMED_PACKETS]	= "TCPPcapReclaimedPackets",
	[PCAP_MIB_RECLAIMED_PAGES]	= "TCPPcapReclaimedPages",
	[PCAP_MIB_HDR_SNAPLEN]		= "TCPPcapHdrSnaplen",
	[PCAP_MIB_HDR_UNREADABLE]	= "TCPPcapHdrUnreadable",
	[PCAP_MIB_HDR_ZEROCOPY]		= "TCPPcapHdrZerocopy",
	[PCAP_MIB_HDR_SHARED]		= "TCPPcapHdrShared",
	[PCAP_MIB_HDR_PFMEMALLOC]	= "TCPPcapHdrPfmemalloc",
	[PCAP_MIB_HDR_LIMIT]		= "TCPPcapHdrLimit",
	[PCAP_MIB_HDR_DECRYPTED]	= "TCPPcapHdrDecrypted",
	[PCAP_MIB_HDR_LINEAR]		= "TCPPcapHdrLinear",
	[PCAP_MIB_HDR_FRAG_LIST]	= "TCPPcapHdrFragList",
	[PCAP_MIB_HDR_PRESSURE]		= "TCPPcapHdrPressure",
};

/* A file belongs to the namespace in which it was opened. */
static int host_fd[PCAP_HOST_SYSCTLS] = { -1, -1, -1, -1, -1 };
static int status_fd = -1;
static long peak[PCAP_HOST_SYSCTLS];

static bool writable(enum pcap_host_sysctl which)
{
	return which != PCAP_FRAGS && which != PCAP_MEM;
}

static void sysctl_path(char *path, size_t len, const char *name)
{
	snprintf(path, len, "/proc/sys/net/ipv4/%s", name);
}

int pcap_host_open(void)
{
	char path[128];
	int i;

	for (i = 0; i < PCAP_HOST_SYSCTLS; i++) {
		if (host_fd[i] >= 0)
			continue;
		sysctl_path(path, sizeof(path), pcap_host_name[i]);
		host_fd[i] = open(path, (writable(i) ? O_RDWR : O_RDONLY) | O_CLOEXEC);
		if (host_fd[i] < 0)
			return -errno;
	}
	if (status_fd < 0)
		status_fd = open("/proc/self/net/tcp_pcap", O_RDONLY | O_CLOEXEC);
	return status_fd < 0 ? -errno : 0;
}

long pcap_host_get(enum pcap_host_sysctl which)
{
	char buf[64];
	ssize_t ret;

	ret = pread(host_fd[which], buf, sizeof(buf) - 1, 0);
	if (ret <= 0)
		return -EIO;
	buf[ret] = 0;
	return strtol(buf, NULL, 10);
}

int pcap_host_set(enum pcap_host_sysctl which, long val)
{
	char buf[64];
	int len;

	len = snprintf(buf, sizeof(buf), "%ld\n", val);
	return pwrite(host_fd[which], buf, len, 0) == len ? 0 : -errno;
}

int pcap_host_save(struct pcap_host *host)
{
	int i, ret;

	for (i = 0; i < PCAP_HOST_SYSCTLS; i++)
		host->host[i] = pcap_host_get(i);
	for (i = 0; i < PCAP_NET_SYSCTLS; i++) {
		ret = pcap_sysctl_get(pcap_net_name[i], &host->net[i]);
		if (ret)
			return ret;
	}
	host->saved = true;
	return 0;
}

int pcap_host_restore(const struct pcap_host *host)
{
	int i, ret, err = 0;

	for (i = 0; i < PCAP_HOST_SYSCTLS; i++) {
		if (!writable(i) || pcap_host_get(i) == host->host[i])
			continue;
		ret = pcap_host_set(i, host->host[i]);
		if (ret)
			err = ret;
	}
	for (i = 0; i < PCAP_NET_SYSCTLS; i++) {
		ret = pcap_sysctl_set(pcap_net_name[i], host->net[i]);
		if (ret)
			err = ret;
	}
	return err;
}

#define STATUS_LINES	9

static const struct {
	const char	*name;
	size_t		offset;
	bool		account;
} status_lines[STATUS_LINES] = {
	{ "frags",		offsetof(struct pcap_status, frags),			true },
	{ "frags_containers",	offsetof(struct pcap_status, frags_containers),		true },
	{ "mem",		offsetof(struct pcap_status, mem),			true },
	{ "mem_containers",	offsetof(struct pcap_status, mem_containers),		true },
	{ "packets",		offsetof(struct pcap_status, packets),			false },
	{ "payloads",		offsetof(struct pcap_status, payloads),			false },
	{ "reclaimed_packets",	offsetof(struct pcap_status, reclaimed_packets),	false },
	{ "reclaimed_payloads",	offsetof(struct pcap_status, reclaimed_payloads),	false },
	{ "reclaimed_pages",	offsetof(struct pcap_status, reclaimed_pages),		false },
};

/* One line into the field it belongs to; returns how many fields that filled. */
static int status_line(const char *line, struct pcap_status *status)
{
	char name[32] = "";
	long v[4];
	int n, i;

	n = sscanf(line, "%31s %ld %ld %ld %ld", name, &v[0], &v[1], &v[2], &v[3]);
	for (i = 0; i < STATUS_LINES; i++) {
		if (strcmp(name, status_lines[i].name) || n != (status_lines[i].account ? 5 : 2))
			continue;
		memcpy((char *)status + status_lines[i].offset, v, (n - 1) * sizeof(long));
		return 1;
	}
	return 0;
}

int pcap_status(struct pcap_status *status)
{
	char buf[4096], *line, *next;
	int found = 0;
	ssize_t ret;

	ret = pread(status_fd, buf, sizeof(buf) - 1, 0);
	if (ret <= 0)
		return ret ? -errno : -EIO;
	buf[ret] = 0;
	for (line = strtok_r(buf, "\n", &next); line; line = strtok_r(NULL, "\n", &next))
		found += status_line(line, status);
	return found == STATUS_LINES ? 0 : -EPROTO;
}

bool pcap_all_free(void)
{
	struct pcap_status s;
	int i;

	for (i = 0; i < TIMEOUT_S * 100; i++) {
		if (!pcap_status(&s) && !s.packets && !s.payloads &&
		    !s.frags.used && !s.frags_containers.used &&
		    !s.mem.used && !s.mem_containers.used)
			return true;
		usleep(10 * 1000);
	}
	return false;
}

static bool settles(enum pcap_host_sysctl which, long min, long max)
{
	long val;
	int i;

	for (i = 0; i < TIMEOUT_S * 100; i++) {
		val = pcap_host_get(which);
		if (val >= min && val <= max)
			return true;
		usleep(10 * 1000);
	}
	return false;
}

bool pcap_settles(enum pcap_host_sysctl which, long val)
{
	return settles(which, val, val);
}

bool pcap_settles_below(enum pcap_host_sysctl which, long max)
{
	return settles(which, 0, max);
}

int pcap_sysctl_get(const char *name, long *val)
{
	char path[128], buf[64];
	ssize_t ret;
	int fd;

	sysctl_path(path, sizeof(path), name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (ret <= 0)
		return -EIO;
	buf[ret] = 0;
	*val = strtol(buf, NULL, 10);
	return 0;
}

int pcap_sysctl_write(const char *name, const char *text)
{
	char path[128];
	int fd, ret;

	sysctl_path(path, sizeof(path), name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

int pcap_sysctl_set(const char *name, long val)
{
	char buf[64];

	snprintf(buf, sizeof(buf), "%ld\n", val);
	return pcap_sysctl_write(name, buf);
}

long pcap_mib(const char *name)
{
	static const char separators[] = "\n ";
	char names[8192], values[8192];
	char *n, *v, *ns, *vs;
	long val = -ENOENT;
	FILE *f;

	f = fopen("/proc/self/net/netstat", "r");
	if (!f)
		return -errno;

	/* A line of names, then a line of values, each with the group in front. */
	while (val == -ENOENT &&
	       fgets(names, sizeof(names), f) && fgets(values, sizeof(values), f)) {
		n = strtok_r(names, separators, &ns);
		v = strtok_r(values, separators, &vs);
		while (n && v) {
			if (!strcmp(n, name)) {
				val = strtol(v, NULL, 10);
				break;
			}
			n = strtok_r(NULL, separators, &ns);
			v = strtok_r(NULL, separators, &vs);
		}
	}
	fclose(f);
	return val;
}

int pcap_mibs(struct pcap_mibs *mibs)
{
	int i;

	for (i = 0; i < PCAP_MIBS; i++) {
		mibs->val[i] = pcap_mib(pcap_mib_name[i]);
		if (mibs->val[i] < 0)
			return mibs->val[i];
	}
	return 0;
}

static int shrinker_open(const char *file, int flags)
{
	char pattern[128];
	glob_t found;
	int fd, err;

	snprintf(pattern, sizeof(pattern), "/sys/kernel/debug/shrinker/tcp-pcap-*/%s", file);
	if (glob(pattern, 0, NULL, &found))
		return -ENOENT;
	fd = open(found.gl_pathv[0], flags | O_CLOEXEC);
	err = errno;
	globfree(&found);
	return fd < 0 ? -err : fd;
}

long pcap_shrinker_count(void)
{
	long total = 0, n;
	char buf[256], *pos;
	ssize_t ret;
	int fd, len;

	fd = shrinker_open("count", O_RDONLY);
	if (fd < 0)
		return fd;
	ret = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (ret < 0)
		return -EIO;
	buf[ret] = 0;

	/*
	 * The memory control group, then a number for each node; nothing at all if there is
	 * none.
	 */
	pos = strchr(buf, ' ');
	while (pos && sscanf(pos, "%ld%n", &n, &len) == 1) {
		total += n;
		pos += len;
	}
	return total;
}

int pcap_shrinker_scan(long n)
{
	char buf[64];
	int fd, ret;

	fd = shrinker_open("scan", O_WRONLY);
	if (fd < 0)
		return fd;
	ret = snprintf(buf, sizeof(buf), "0 0 %ld\n", n);
	ret = write(fd, buf, ret) == ret ? 0 : -errno;
	close(fd);
	return ret;
}

int pcap_new_netns(void)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd, ret = 0;

	if (unshare(CLONE_NEWNET))
		return -errno;

	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, SIOCGIFFLAGS, &ifr)) {
		ret = -errno;
	} else {
		ifr.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &ifr))
			ret = -errno;
	}
	close(fd);
	return ret;
}

int pcap_set(int fd, int opt, int val)
{
	return setsockopt(fd, IPPROTO_TCP, opt, &val, sizeof(val)) ? -errno : 0;
}

int pcap_get(int fd, int opt)
{
	socklen_t len = sizeof(int);
	int val = -1;

	if (getsockopt(fd, IPPROTO_TCP, opt, &val, &len))
		return -errno;
	return len == sizeof(int) ? val : -EPROTO;
}

int pcap_set_both(int fd, int in, int out)
{
	int ret = 0;

	if (in != PCAP_DEFAULT)
		ret = pcap_set(fd, TCP_PCAP_IN, in);
	if (!ret && out != PCAP_DEFAULT)
		ret = pcap_set(fd, TCP_PCAP_OUT, out);
	return ret;
}

static int tcp_state(int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return -errno;
	return info.tcpi_state;
}

bool pcap_reaches(int fd, int state)
{
	int i;

	for (i = 0; i < TIMEOUT_S * 100; i++) {
		if (tcp_state(fd) == state)
			return true;
		usleep(10 * 1000);
	}
	return false;
}

int pcap_socket(int family)
{
	const struct timeval timeout = { .tv_sec = TIMEOUT_S };
	const int one = 1;
	int fd;

	fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

int pcap_bind(int fd, int family, const char *addr)
{
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	int ret;

	if (family == AF_INET6) {
		inet_pton(AF_INET6, addr, &v6.sin6_addr);
		ret = bind(fd, (struct sockaddr *)&v6, sizeof(v6));
	} else {
		inet_pton(AF_INET, addr, &v4.sin_addr);
		ret = bind(fd, (struct sockaddr *)&v4, sizeof(v4));
	}
	return ret ? -errno : 0;
}

int pcap_bound(int family, const char *addr, int in, int out)
{
	int fd, ret;

	fd = pcap_socket(family);
	if (fd < 0)
		return fd;
	ret = pcap_set_both(fd, in, out);
	if (!ret)
		ret = pcap_bind(fd, family, addr);
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}

int pcap_listener(int family, const char *addr, int in, int out)
{
	int fd, ret;

	fd = pcap_bound(family, addr, in, out);
	if (fd >= 0 && listen(fd, 128)) {
		ret = -errno;
		close(fd);
		return ret;
	}
	return fd;
}

int pcap_connect_fd(int fd, int listener)
{
	struct sockaddr_storage sa = {};
	socklen_t len = sizeof(sa);

	if (getsockname(listener, (struct sockaddr *)&sa, &len))
		return -errno;
	return connect(fd, (struct sockaddr *)&sa, len) ? -errno : 0;
}

int pcap_connect(int listener, int in, int out)
{
	socklen_t len = sizeof(int);
	int family, fd, ret;

	if (getsockopt(listener, SOL_SOCKET, SO_DOMAIN, &family, &len))
		return -errno;
	fd = pcap_socket(family);
	if (fd < 0)
		return fd;
	ret = pcap_set_both(fd, in, out);
	if (!ret)
		ret = pcap_connect_fd(fd, listener);
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}

int pcap_accept(int listener)
{
	const struct timeval timeout = { .tv_sec = TIMEOUT_S };
	const int one = 1;
	int fd;

	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

int pcap_pair(struct pcap_pair *pair, int family, const char *addr, int in, int out)
{
	pair->client = -1;
	pair->server = -1;
	pair->listener = pcap_listener(family, addr, 0, 0);
	if (pair->listener < 0)
		return pair->listener;
	pair->client = pcap_connect(pair->listener, in, out);
	if (pair->client < 0)
		return pair->client;
	pair->server = pcap_accept(pair->listener);
	return pair->server < 0 ? pair->server : 0;
}

void pcap_pair_close(struct pcap_pair *pair)
{
	close(pair->client);
	close(pair->server);
	close(pair->listener);
}

void pcap_reset(int fd)
{
	const struct linger linger = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd);
}

static int pass(int from, int to, char byte)
{
	ssize_t ret;
	char got;

	ret = send(from, &byte, 1, MSG_NOSIGNAL);
	if (ret != 1)
		return ret < 0 ? -errno : -EPIPE;
	ret = recv(to, &got, 1, 0);
	if (ret != 1)
		return ret < 0 ? -errno : -EPIPE;
	return got == byte ? 0 : -EBADMSG;
}

int pcap_rounds(int a, int b, unsigned int n)
{
	unsigned int i;
	int ret;

	for (i = 0; i < n; i++) {
		ret = pass(a, b, (char)i);
		if (!ret)
			ret = pass(b, a, (char)~i);
		if (ret)
			return ret;
	}
	return 0;
}

long pcap_peak(enum pcap_host_sysctl which)
{
	return peak[which];
}

void pcap_peak_reset(void)
{
	peak[PCAP_FRAGS] = 0;
	peak[PCAP_MEM] = 0;
}

static void note_peak(enum pcap_host_sysctl which)
{
	long now;

	if (host_fd[which] < 0)
		return;
	now = pcap_host_get(which);
	if (now > peak[which])
		peak[which] = now;
}

int pcap_bulk(int from, int to, size_t len)
{
	static char out[65536], in[65536];
	/* No multiple of a page or of an MSS: data that is misplaced shows. */
	const size_t period = 251 * 257;
	size_t sent = 0, got = 0, i;
	ssize_t ret;

	for (i = 0; i < period; i++)
		out[i] = (char)(i % 251 + i / 251);

	while (got < len) {
		struct pollfd pfd[2] = {
			{ .fd = to, .events = POLLIN },
			{ .fd = from, .events = POLLOUT },
		};

		/* A process that only wants to read is not woken by room to write. */
		ret = poll(pfd, sent < len ? 2 : 1, TIMEOUT_S * 1000);
		if (ret <= 0)
			return ret ? -errno : -ETIMEDOUT;

		if (sent < len && pfd[1].revents) {
			size_t pos = sent % period;
			size_t part = period - pos;

			if (part > len - sent)
				part = len - sent;
			ret = send(from, out + pos, part, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (ret < 0 && errno != EAGAIN)
				return -errno;
			if (ret > 0)
				sent += ret;
		}

		ret = recv(to, in, sizeof(in), MSG_DONTWAIT);
		if (ret < 0 && errno != EAGAIN)
			return -errno;
		if (!ret)
			return -EPIPE;
		for (i = 0; ret > 0 && i < (size_t)ret; i++) {
			if (in[i] != out[(got + i) % period])
				return -EBADMSG;
		}
		if (ret > 0)
			got += ret;

		note_peak(PCAP_FRAGS);
		note_peak(PCAP_MEM);
	}
	return 0;
}

pid_t pcap_fork(void)
{
	pid_t parent = getpid(), pid = fork();

	if (!pid && (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent))
		_exit(1);
	return pid;
}

void pcap_give_way(struct pcap_pace *pace, const long *progress)
{
	long now = __atomic_load_n(progress, __ATOMIC_RELAXED);

	pace->still = now == pace->seen ? pace->still + 1 : 0;
	pace->seen = now;
	if (pace->still < 50)
		sched_yield();
	else
		usleep(1000);
}

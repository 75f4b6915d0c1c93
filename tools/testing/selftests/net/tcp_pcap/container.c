// SPDX-License-Identifier: GPL-2.0
/* What containers may have: a quarter of either limit together, and no right of the host's. */
#include <sys/prctl.h>

#include "host.h"

#define BULK	(2 * 1000 * 1000)
#define NOBODY	65534

/* A process in a user and a network namespace of its own, as `unshare -Urn` makes them. */
struct container {
	pid_t	pid;
	int	talk;
};

/* What it did, told to the host when it has filled its rings; it holds them until told to end. */
struct report {
	int	err;
	long	captured;
	long	lost;
	long	no_history;
	long	hdr_limit;
};

static int write_file(const char *path, const char *text)
{
	int fd, ret;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* @uid of the host is root in there. */
static int unshare_user(int uid)
{
	char map[64];
	int ret;

	if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid) || unshare(CLONE_NEWUSER))
		return -errno;
	/* Whoever changed its ids has no access to its own files in /proc until it says so. */
	if (prctl(PR_SET_DUMPABLE, 1))
		return -errno;
	snprintf(map, sizeof(map), "0 %d 1\n", uid);
	ret = write_file("/proc/self/uid_map", map);
	if (!ret)
		ret = write_file("/proc/self/setgroups", "deny");
	if (!ret)
		ret = write_file("/proc/self/gid_map", map);
	return ret;
}

static int fill(struct pcap_pair *pairs, int n, bool ipv6)
{
	int i, ret;

	for (i = 0; i < n; i++) {
		ret = host_pair(&pairs[i], ipv6, PCAP_DEFAULT);
		if (!ret)
			ret = host_bulk(&pairs[i], BULK);
		if (!ret)
			ret = pcap_bulk(pairs[i].server, pairs[i].client, BULK);
		if (ret)
			return ret;
	}
	return 0;
}

static void contained(int talk, int pairs, bool ipv6)
{
	struct pcap_pair *p = calloc(pairs, sizeof(*p));
	struct report r;
	char byte;

	r.err = unshare_user(NOBODY);
	if (!r.err)
		r.err = pcap_new_netns();
	if (!r.err)
		r.err = pcap_sysctl_set("tcp_pcap_packets", 128);
	if (!r.err)
		r.err = fill(p, pairs, ipv6);
	r.captured = pcap_mib("TCPPcapCaptured");
	r.lost = pcap_mib("TCPPcapLost");
	r.no_history = pcap_mib("TCPPcapNoHistory");
	r.hdr_limit = pcap_mib("TCPPcapHdrLimit");
	if (write(talk, &r, sizeof(r)) != sizeof(r) || read(talk, &byte, 1) != 1)
		_exit(1);
	_exit(0);
}

static struct report start(struct __test_metadata *_metadata, struct container *c, int pairs,
			   bool ipv6)
{
	struct report r = { .err = -EPIPE };
	int talk[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, talk));
	c->pid = fork();
	ASSERT_LE(0, c->pid);
	if (!c->pid) {
		close(talk[0]);
		contained(talk[1], pairs, ipv6);
	}
	close(talk[1]);
	c->talk = talk[0];
	EXPECT_EQ((ssize_t)sizeof(r), read(c->talk, &r, sizeof(r)));
	EXPECT_EQ(0, r.err);
	return r;
}

static void end(struct __test_metadata *_metadata, struct container *c)
{
	int status;

	EXPECT_EQ(1, write(c->talk, "", 1));
	ASSERT_EQ(c->pid, waitpid(c->pid, &status, 0));
	EXPECT_EQ(0, status);
	close(c->talk);
}

/* @max was nearly used; peak use was that, if an earlier test of this machine did not have more. */
static void expect_peak(struct __test_metadata *_metadata, long max,
			const struct pcap_account *start, const struct pcap_account *end)
{
	EXPECT_LE(max * 3 / 4, end->peak);
	EXPECT_GE(max > start->peak ? max : start->peak, end->peak);
}

/* Containers fill their quarter, two together no more than one, and the host has its own. */
TEST_F_TIMEOUT(host, pages, 120)
{
	struct container first, second;
	struct pcap_status s, with_host;
	const long quarter = 800;
	struct held held;
	struct report r;

	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, 4 * quarter));
	s = host_status(_metadata);
	EXPECT_EQ(quarter, s.frags_containers.max);

	r = start(_metadata, &first, 4, false);
	EXPECT_LT(0, r.captured);
	EXPECT_LT(0, r.hdr_limit);
	EXPECT_EQ(0, r.lost);
	s = host_status(_metadata);
	EXPECT_LT(self->start.frags_containers.refused, s.frags_containers.refused);
	EXPECT_GE(quarter, s.frags_containers.used);
	EXPECT_LE(quarter * 3 / 4, s.frags_containers.used);
	/* Alone on the host, and yet not more than a quarter. */
	EXPECT_GE(quarter, s.frags.used);

	hold(_metadata, &held, true, BULK / 4);
	EXPECT_EQ(0, pcap_mib("TCPPcapHdrLimit"));
	with_host = host_status(_metadata);
	EXPECT_EQ(s.frags_containers.used, with_host.frags_containers.used);
	EXPECT_EQ(s.frags_containers.refused, with_host.frags_containers.refused);

	r = start(_metadata, &second, 2, true);
	EXPECT_LT(0, r.hdr_limit);
	s = host_status(_metadata);
	EXPECT_GE(quarter, s.frags_containers.used);
	expect_peak(_metadata, quarter, &self->start.frags_containers, &s.frags_containers);
	EXPECT_LT(with_host.frags_containers.refused, s.frags_containers.refused);

	/* The host's share is untouched: it goes on. */
	ASSERT_EQ(0, host_bulk(&held.pair, BULK / 4));
	EXPECT_EQ(0, pcap_mib("TCPPcapHdrLimit"));
	EXPECT_LT(with_host.frags.used - with_host.frags_containers.used,
		  pcap_frags() - host_status(_metadata).frags_containers.used);

	end(_metadata, &first);
	end(_metadata, &second);
	let_go(_metadata, &held);
}

TEST_F_TIMEOUT(host, memory, 120)
{
	const long quarter = 400 * 1000;
	struct container first, second;
	struct pcap_pair pair;
	struct pcap_status s;
	struct report r;

	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, 4 * quarter));
	s = host_status(_metadata);
	EXPECT_EQ(quarter, s.mem_containers.max);

	r = start(_metadata, &first, 16, true);
	EXPECT_LT(0, r.captured);
	EXPECT_LT(0, r.lost + r.no_history);
	s = host_status(_metadata);
	EXPECT_LT(self->start.mem_containers.refused, s.mem_containers.refused);
	EXPECT_GE(quarter, s.mem_containers.used);
	EXPECT_LE(quarter * 3 / 4, s.mem_containers.used);
	EXPECT_GE(quarter, s.mem.used);

	r = start(_metadata, &second, 4, false);
	EXPECT_LT(0, r.lost + r.no_history);
	s = host_status(_metadata);
	EXPECT_GE(quarter, s.mem_containers.used);
	expect_peak(_metadata, quarter, &self->start.mem_containers, &s.mem_containers);

	ASSERT_EQ(0, host_pair(&pair, false, 100));
	ASSERT_EQ(0, host_rounds(&pair, 120));
	EXPECT_EQ(0, pcap_mib("TCPPcapLost"));
	EXPECT_EQ(0, pcap_mib("TCPPcapNoHistory"));
	EXPECT_LE(s.mem.used + 200 * PCAP_RECORD_MIN, pcap_mem());
	pcap_pair_close(&pair);

	end(_metadata, &first);
	end(_metadata, &second);
}

/* A lower maximum lowers the quarter with it, and that holds at once, too. */
TEST_F_TIMEOUT(host, quarter_lowered, 120)
{
	struct container c;
	struct pcap_status s;
	struct held held;

	start(_metadata, &c, 4, false);
	hold(_metadata, &held, true, BULK / 4);
	s = host_status(_metadata);
	ASSERT_LT(40, s.frags_containers.used);

	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, s.frags_containers.used * 2));
	s = host_status(_metadata);
	EXPECT_GE(s.frags.max, s.frags.used);
	EXPECT_GE(s.frags.max / 4, s.frags_containers.used);

	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, s.mem_containers.used * 2));
	s = host_status(_metadata);
	EXPECT_GE(s.mem.max, s.mem.used);
	EXPECT_GE(s.mem.max / 4, s.mem_containers.used);

	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, 0));
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, 0));
	s = host_status(_metadata);
	EXPECT_EQ(0, s.frags.used + s.frags_containers.used);
	EXPECT_EQ(0, s.mem.used + s.mem_containers.used);
	end(_metadata, &c);
	let_go(_metadata, &held);
}

/* In a process of its own, as root of a user namespace, by whom @uid of the host is meant. */
static void as_root_of_a_container(struct __test_metadata *_metadata, int uid,
				   void (*test)(struct __test_metadata *_metadata))
{
	pid_t pid;
	int status;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, unshare_user(uid));
		ASSERT_EQ(0, pcap_new_netns());
		ASSERT_EQ(0U, geteuid());
		test(_metadata);
		_exit(_metadata->exit_code == KSFT_PASS ? 0 : 1);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

static void no_more_packets(struct __test_metadata *_metadata)
{
	long max, val;
	int fd;

	ASSERT_EQ(0, pcap_sysctl_get("tcp_pcap_packets_max", &max));
	EXPECT_EQ(1024, max);
	fd = pcap_socket(AF_INET);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_IN, max));
	EXPECT_EQ(-EPERM, pcap_set(fd, TCP_PCAP_IN, max + 1));
	EXPECT_EQ(-EPERM, pcap_set(fd, TCP_PCAP_OUT, PCAP_PACKETS_HARD_MAX));
	EXPECT_EQ(max, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(0, pcap_get(fd, TCP_PCAP_OUT));

	EXPECT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", max));
	EXPECT_EQ(-EPERM, pcap_sysctl_set("tcp_pcap_packets", max + 1));
	EXPECT_EQ(-EPERM, pcap_sysctl_set("tcp_pcap_packets_max", max + 1));
	EXPECT_EQ(-EPERM, pcap_sysctl_set("tcp_pcap_packets_max", max));
	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_packets_max", &val));
	EXPECT_EQ(max, val);
	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_packets", &val));
	EXPECT_EQ(max, val);
}

static void nothing_of_the_host(struct __test_metadata *_metadata)
{
	long val;
	int i;

	for (i = 0; i < PCAP_HOST_SYSCTLS; i++) {
		EXPECT_EQ(-ENOENT, pcap_sysctl_get(pcap_host_name[i], &val));
		EXPECT_EQ(-ENOENT, pcap_sysctl_set(pcap_host_name[i], 1));
	}
	EXPECT_EQ(-1, open("/proc/self/net/tcp_pcap", O_RDONLY));
	EXPECT_EQ(ENOENT, errno);
	EXPECT_EQ(-1, open("/proc/thread-self/net/tcp_pcap", O_RDONLY));
	EXPECT_EQ(ENOENT, errno);
	/* Its own counters it may see. */
	EXPECT_EQ(0, pcap_mib("TCPPcapCaptured"));
}

TEST_F(host, no_right_by_unshare)
{
	as_root_of_a_container(_metadata, NOBODY, no_more_packets);
	as_root_of_a_container(_metadata, 0, no_more_packets);
}

TEST_F(host, host_not_visible)
{
	as_root_of_a_container(_metadata, NOBODY, nothing_of_the_host);
	as_root_of_a_container(_metadata, 0, nothing_of_the_host);
	/* Nor from a network namespace of the host's own user namespace. */
	nothing_of_the_host(_metadata);
}

/* Root of a container that stays in the host's network namespace. */
TEST_F(host, host_not_writable)
{
	long before[PCAP_HOST_SYSCTLS];
	char path[64];
	int i, netns, status;
	pid_t pid;

	for (i = 0; i < PCAP_HOST_SYSCTLS; i++)
		before[i] = pcap_host_get(i);

	snprintf(path, sizeof(path), "/proc/%d/ns/net", getppid());
	netns = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, netns);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, setns(netns, CLONE_NEWNET));
		ASSERT_EQ(0, unshare_user(NOBODY));
		for (i = 0; i < PCAP_HOST_SYSCTLS; i++)
			EXPECT_EQ(-EACCES, pcap_sysctl_set(pcap_host_name[i], 1));
		for (i = 0; i < PCAP_NET_SYSCTLS; i++)
			EXPECT_EQ(-EACCES, pcap_sysctl_set(pcap_net_name[i], 1));
		_exit(_metadata->exit_code == KSFT_PASS ? 0 : 1);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);

	/* Each has the value that it had. */
	for (i = 0; i < PCAP_HOST_SYSCTLS; i++)
		EXPECT_EQ(before[i], pcap_host_get(i));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/* The sysctls of TCP_PCAP: ranges, who sees them, whom they affect. */
#include "fixture.h"

#define IPV4_SYSCTL	"/proc/sys/net/ipv4/"

struct range {
	const char	*name;
	long		min;
	long		max;
};

static const struct range ranges[] = {
	{ "tcp_pcap_packets",		0,	65535 },
	{ "tcp_pcap_packets_max",	0,	65535 },
	{ "tcp_pcap_snaplen",		-1,	65535 },
};

/* As booted: the test wants a machine on which nobody has set them. */
TEST(defaults)
{
	long pages = sysconf(_SC_PHYS_PAGES);
	long val;
	int ret;

	ret = pcap_sysctl_get("tcp_pcap_packets", &val);
	if (ret == -ENOENT)
		SKIP(return, "this kernel has no CONFIG_TCP_PCAP");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(0, val);
	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_packets_max", &val));
	EXPECT_EQ(1024, val);
	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_snaplen", &val));
	EXPECT_EQ(-1, val);

	/* 1/32 and 1/64 of what RAM there was at boot, which is a little more than there is now. */
	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_frags_max", &val));
	EXPECT_LE(pages / 40, val);
	EXPECT_GE(pages / 24, val);
	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_mem_max", &val));
	EXPECT_LE(pages / 80 * getpagesize(), val);
	EXPECT_GE(pages / 48 * getpagesize(), val);
}

TEST_F(tcp_pcap, range)
{
	static const char * const garbage[] = { "x\n", "-\n", "1x\n", "99999999999999999999\n" };
	const struct range *r;
	size_t i, j;
	long val;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		r = &ranges[i];
		EXPECT_EQ(0, pcap_sysctl_set(r->name, r->min));
		EXPECT_EQ(0, pcap_sysctl_get(r->name, &val));
		EXPECT_EQ(r->min, val);
		EXPECT_EQ(0, pcap_sysctl_set(r->name, r->max));
		EXPECT_EQ(0, pcap_sysctl_get(r->name, &val));
		EXPECT_EQ(r->max, val);

		ASSERT_EQ(0, pcap_sysctl_set(r->name, 77));
		EXPECT_EQ(-EINVAL, pcap_sysctl_set(r->name, r->min - 1));
		EXPECT_EQ(-EINVAL, pcap_sysctl_set(r->name, r->max + 1));
		EXPECT_EQ(-EINVAL, pcap_sysctl_set(r->name, INT_MIN));
		EXPECT_EQ(-EINVAL, pcap_sysctl_set(r->name, INT_MAX));
		EXPECT_EQ(-EINVAL, pcap_sysctl_set(r->name, 1L << 32));
		for (j = 0; j < ARRAY_SIZE(garbage); j++)
			EXPECT_EQ(-EINVAL, pcap_sysctl_write(r->name, garbage[j]));
		EXPECT_EQ(0, pcap_sysctl_get(r->name, &val));
		EXPECT_EQ(77, val);
	}
}

TEST_F(tcp_pcap, new_sockets_only)
{
	int before, between, after;

	before = pcap_socket(variant->family);
	ASSERT_LE(0, before);
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 16));
	between = pcap_socket(variant->family);
	ASSERT_LE(0, between);
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 0));
	after = pcap_socket(variant->family);
	ASSERT_LE(0, after);

	EXPECT_EQ(0, pcap_get(before, TCP_PCAP_IN));
	EXPECT_EQ(0, pcap_get(before, TCP_PCAP_OUT));
	EXPECT_EQ(16, pcap_get(between, TCP_PCAP_IN));
	EXPECT_EQ(16, pcap_get(between, TCP_PCAP_OUT));
	EXPECT_EQ(0, pcap_get(after, TCP_PCAP_IN));
	EXPECT_EQ(0, pcap_get(after, TCP_PCAP_OUT));
}

TEST_F(tcp_pcap, packets_are_kept)
{
	struct pcap_pair pair;
	long start, mem;

	start = pcap_mem();
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 20));
	EXPECT_EQ(start, pcap_mem());
	pcap_pair_close(&pair);

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 16));
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 20));
	mem = pcap_mem();
	EXPECT_LE(start + 2 * 16 * PCAP_RECORD_MIN, mem);

	/* The rings are full: nothing is added any more. */
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 50));
	EXPECT_EQ(mem, pcap_mem());

	/* Small payload lies in the record itself. */
	EXPECT_EQ(self->host.host[PCAP_FRAGS], pcap_frags());

	pcap_pair_close(&pair);
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
}

/* The sysctl is the administrator's: the maximum for setsockopt() does not limit it. */
TEST_F(tcp_pcap, packets_above_the_maximum)
{
	int fd;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", 10));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 65535));
	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	EXPECT_EQ(65535, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(65535, pcap_get(fd, TCP_PCAP_OUT));
}

/* Root of a user namespace sets its own sysctls, but nothing above the host's maximum. */
TEST_F(tcp_pcap, user_namespace)
{
	int own, host, status;
	pid_t child;
	long val;

	own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, own);
	host = open("/proc/1/ns/net", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, host);

	/* What the host leaves out for privacy stays out. */
	ASSERT_EQ(0, setns(host, CLONE_NEWNET));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", 100));

	child = fork();
	if (!child) {
		/* What init_net says now is what the new namespace starts with. */
		ASSERT_EQ(0, setresuid(65534, 65534, 65534));
		ASSERT_EQ(0, unshare(CLONE_NEWUSER));
		ASSERT_EQ(0, pcap_new_netns());
		ASSERT_EQ(0, pcap_sysctl_get("tcp_pcap_packets_max", &val));

		EXPECT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", val));
		EXPECT_EQ(-EPERM, pcap_sysctl_set("tcp_pcap_packets", val + 1));
		EXPECT_EQ(-EPERM, pcap_sysctl_set("tcp_pcap_packets_max", val + 1));
		EXPECT_EQ(-EINVAL, pcap_sysctl_set("tcp_pcap_packets", 65536));
		EXPECT_EQ(-EPERM, pcap_sysctl_set("tcp_pcap_snaplen", 101));
		EXPECT_EQ(-EPERM, pcap_sysctl_set("tcp_pcap_snaplen", -1));
		EXPECT_EQ(-EINVAL, pcap_sysctl_set("tcp_pcap_snaplen", 65536));
		EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_snaplen", &val));
		EXPECT_EQ(100, val);
		EXPECT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", 100));
		EXPECT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", 0));
		EXPECT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 0));
		EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_packets", &val));
		EXPECT_EQ(0, val);
		_exit(0);
	}
	ASSERT_LT(0, child);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", self->host.net[PCAP_SNAPLEN]));
	EXPECT_EQ(0, setns(own, CLONE_NEWNET));
	close(host);
	close(own);
}

TEST_F(tcp_pcap, host_limits)
{
	static const enum pcap_host_sysctl limits[] = { PCAP_FRAGS_MAX, PCAP_MEM_MAX };
	long val;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		val = pcap_host_get(limits[i]);
		EXPECT_LT(0, val);
		EXPECT_EQ(0, pcap_host_set(limits[i], val / 2));
		EXPECT_EQ(val / 2, pcap_host_get(limits[i]));
		EXPECT_EQ(0, pcap_host_set(limits[i], LONG_MAX));
		EXPECT_EQ(LONG_MAX, pcap_host_get(limits[i]));
		EXPECT_EQ(0, pcap_host_set(limits[i], val));

		/* procfs decides whether a negative number is an error; it is never a limit. */
		pcap_host_set(limits[i], -1);
		EXPECT_EQ(val, pcap_host_get(limits[i]));
		pcap_host_set(limits[i], LONG_MIN);
		EXPECT_EQ(val, pcap_host_get(limits[i]));
	}

	EXPECT_EQ(-EBADF, pcap_host_set(PCAP_FRAGS, 0));
	EXPECT_EQ(-EBADF, pcap_host_set(PCAP_MEM, 0));
}

TEST_F(tcp_pcap, host_only)
{
	long val;
	size_t i;

	for (i = 0; i < PCAP_HOST_SYSCTLS; i++) {
		EXPECT_EQ(-ENOENT, pcap_sysctl_get(pcap_host_name[i], &val));
		EXPECT_EQ(-ENOENT, pcap_sysctl_set(pcap_host_name[i], 1));
	}
}

TEST(accounts_are_read_only)
{
	if (access(IPV4_SYSCTL "tcp_pcap_frags", F_OK))
		SKIP(return, "this kernel has no CONFIG_TCP_PCAP");

	EXPECT_EQ(-1, open(IPV4_SYSCTL "tcp_pcap_frags", O_WRONLY));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(-1, open(IPV4_SYSCTL "tcp_pcap_mem", O_WRONLY));
	EXPECT_EQ(EACCES, errno);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/* TCP_PCAP and network namespaces. */
#include "fixture.h"

static int enter(int netns)
{
	return setns(netns, CLONE_NEWNET) ? -errno : 0;
}

static int here(void)
{
	int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static void expect_sysctls(struct __test_metadata *_metadata, long packets, long max, long snaplen)
{
	long val;

	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_packets", &val));
	EXPECT_EQ(packets, val);
	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_packets_max", &val));
	EXPECT_EQ(max, val);
	EXPECT_EQ(0, pcap_sysctl_get("tcp_pcap_snaplen", &val));
	EXPECT_EQ(snaplen, val);
}

static void set_sysctls(struct __test_metadata *_metadata, long packets, long max, long snaplen)
{
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", packets));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", max));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", snaplen));
}

/* The initial namespace: our parent never left it. */
static int initial_netns(void)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", getppid());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

TEST_F(tcp_pcap, starts_with_the_host_s_values)
{
	int initial, second;

	initial = initial_netns();
	ASSERT_LE(0, initial);

	/* Ours has values of its own; a new one made from here must not take them. */
	set_sysctls(_metadata, 11, 12, 13);
	ASSERT_EQ(0, enter(initial));
	set_sysctls(_metadata, 7, 500, 99);

	ASSERT_EQ(0, pcap_new_netns());
	expect_sysctls(_metadata, 7, 500, 99);
	set_sysctls(_metadata, 21, 22, 23);
	second = here();
	ASSERT_LE(0, second);

	ASSERT_EQ(0, pcap_new_netns());
	expect_sysctls(_metadata, 7, 500, 99);

	ASSERT_EQ(0, enter(second));
	expect_sysctls(_metadata, 21, 22, 23);
}

TEST_F(tcp_pcap, later_changes_stay_where_they_are)
{
	int initial, ours, second, fd;

	initial = initial_netns();
	ASSERT_LE(0, initial);
	ours = here();
	ASSERT_LE(0, ours);
	ASSERT_EQ(0, pcap_new_netns());
	second = here();
	ASSERT_LE(0, second);

	set_sysctls(_metadata, 31, 32, 33);
	ASSERT_EQ(0, enter(ours));
	expect_sysctls(_metadata, 0, 1024, -1);
	ASSERT_EQ(0, enter(initial));
	expect_sysctls(_metadata, self->host.net[PCAP_PACKETS], self->host.net[PCAP_PACKETS_MAX],
		       self->host.net[PCAP_SNAPLEN]);

	set_sysctls(_metadata, 41, 42, 43);
	ASSERT_EQ(0, enter(ours));
	expect_sysctls(_metadata, 0, 1024, -1);
	ASSERT_EQ(0, enter(second));
	expect_sysctls(_metadata, 31, 32, 33);

	/* A socket takes the value of the namespace in which it is made, and keeps it. */
	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, enter(ours));
	EXPECT_EQ(31, pcap_get(fd, TCP_PCAP_IN));
	close(fd);
	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, pcap_get(fd, TCP_PCAP_IN));
}

/* The maximum is that of the socket's namespace, not of the caller's. */
TEST_F(tcp_pcap, maximum_of_the_socket_s_namespace)
{
	int status, fd;
	pid_t child;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", 20));
	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pcap_new_netns());
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", 30));

	child = fork();
	if (!child) {
		ASSERT_EQ(0, setresuid(65534, 65534, 65534));
		EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_OUT, 20));
		EXPECT_EQ(-EPERM, pcap_set(fd, TCP_PCAP_OUT, 21));
		_exit(0);
	}
	ASSERT_LT(0, child);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

/* Only the sockets hold the namespace; when the last one goes, so do packets and namespace. */
TEST_F(tcp_pcap, sockets_outlive_the_namespace_s_last_process)
{
	struct pcap_pair pair;
	long start;
	int ours;

	start = pcap_mem();
	ours = here();
	ASSERT_LE(0, ours);
	ASSERT_EQ(0, pcap_new_netns());
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 32));
	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT));
	ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 300 * 1000));
	ASSERT_EQ(0, enter(ours));

	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 50));
	EXPECT_LE(start + 64 * PCAP_RECORD_MIN, pcap_mem());
	ASSERT_EQ(0, pcap_set_both(pair.client, 3, 3));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 10));
	pcap_pair_close(&pair);
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
}

/* Sockets that nobody holds any more, with data in flight, in a namespace that ends. */
TEST_F(tcp_pcap, namespace_ends_under_orphans)
{
	struct pcap_pair pair;
	long start;
	int i;

	start = pcap_mem();
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, pcap_new_netns());
		ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 16));
		ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, PCAP_DEFAULT,
				       PCAP_DEFAULT));
		ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 20));
		ASSERT_EQ(5, send(pair.client, "hello", 5, 0));
		pcap_pair_close(&pair);
	}
	ASSERT_EQ(0, pcap_new_netns());
	EXPECT_TRUE(pcap_settles(PCAP_MEM, start));
}

TEST_HARNESS_MAIN

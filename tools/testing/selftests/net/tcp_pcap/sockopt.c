// SPDX-License-Identifier: GPL-2.0
/* TCP_PCAP_IN and TCP_PCAP_OUT: values, errors, permissions. */
#include "fixture.h"

static const int options[] = { TCP_PCAP_IN, TCP_PCAP_OUT };

static int other(int opt)
{
	return opt == TCP_PCAP_IN ? TCP_PCAP_OUT : TCP_PCAP_IN;
}

TEST_F(tcp_pcap, default_is_zero)
{
	int fd;

	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(0, pcap_get(fd, TCP_PCAP_OUT));
}

TEST_F(tcp_pcap, each_value_and_the_other_untouched)
{
	const int values[] = { 0, 1, 5, 64, 1023, 1024, 1025, 65535, 5, 0 };
	const int aside = 7;
	size_t i, o;
	int fd;

	for (o = 0; o < ARRAY_SIZE(options); o++) {
		fd = pcap_socket(variant->family);
		ASSERT_LE(0, fd);

		for (i = 0; i < ARRAY_SIZE(values); i++) {
			ASSERT_EQ(0, pcap_set(fd, options[o], values[i]));
			EXPECT_EQ(values[i], pcap_get(fd, options[o]));
			EXPECT_EQ(0, pcap_get(fd, other(options[o])));
		}

		ASSERT_EQ(0, pcap_set(fd, other(options[o]), aside));
		for (i = 0; i < ARRAY_SIZE(values); i++) {
			ASSERT_EQ(0, pcap_set(fd, options[o], values[i]));
			EXPECT_EQ(values[i], pcap_get(fd, options[o]));
			EXPECT_EQ(aside, pcap_get(fd, other(options[o])));
		}
		close(fd);
	}
}

TEST_F(tcp_pcap, out_of_range)
{
	const int values[] = { -1, -2, -65535, INT_MIN, 65536, 131072, INT_MAX };
	size_t i, o;
	int fd;

	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);

	for (o = 0; o < ARRAY_SIZE(options); o++) {
		for (i = 0; i < ARRAY_SIZE(values); i++)
			EXPECT_EQ(-EINVAL, pcap_set(fd, options[o], values[i]));
		EXPECT_EQ(0, pcap_get(fd, options[o]));

		ASSERT_EQ(0, pcap_set(fd, options[o], 9));
		for (i = 0; i < ARRAY_SIZE(values); i++)
			EXPECT_EQ(-EINVAL, pcap_set(fd, options[o], values[i]));
		EXPECT_EQ(9, pcap_get(fd, options[o]));
	}
}

TEST_F(tcp_pcap, argument_length)
{
	const long long wide = 5;
	long long got;
	socklen_t len;
	size_t o;
	int fd;

	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);

	for (o = 0; o < ARRAY_SIZE(options); o++) {
		for (len = 0; len < sizeof(int); len++) {
			EXPECT_EQ(-1, setsockopt(fd, IPPROTO_TCP, options[o], &wide, len));
			EXPECT_EQ(EINVAL, errno);
		}
		EXPECT_EQ(0, pcap_get(fd, options[o]));

		EXPECT_EQ(-1, setsockopt(fd, IPPROTO_TCP, options[o], NULL, sizeof(int)));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ(0, pcap_get(fd, options[o]));

		/* As for each integer option of TCP, the rest is not looked at. */
		got = 5;
		EXPECT_EQ(0, setsockopt(fd, IPPROTO_TCP, options[o], &got, sizeof(got)));
		EXPECT_EQ(5, pcap_get(fd, options[o]));

		got = 0;
		len = sizeof(got);
		EXPECT_EQ(0, getsockopt(fd, IPPROTO_TCP, options[o], &got, &len));
		EXPECT_EQ(sizeof(int), len);

		len = -1;
		EXPECT_EQ(-1, getsockopt(fd, IPPROTO_TCP, options[o], &got, &len));
		EXPECT_EQ(EINVAL, errno);
	}
}

static void set_and_check(struct __test_metadata *_metadata, int fd, int state)
{
	EXPECT_TRUE(pcap_reaches(fd, state));
	EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_IN, 6));
	EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_OUT, 11));
	EXPECT_EQ(6, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(11, pcap_get(fd, TCP_PCAP_OUT));
	EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_IN, 0));
	EXPECT_EQ(0, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(11, pcap_get(fd, TCP_PCAP_OUT));
	EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_OUT, 0));
}

TEST_F(tcp_pcap, any_state)
{
	struct pcap_pair pair;
	int fd, filler[8];
	size_t i;
	char c;

	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, PCAP_DEFAULT, PCAP_DEFAULT));
	set_and_check(_metadata, pair.listener, TCP_LISTEN);
	set_and_check(_metadata, pair.client, TCP_ESTABLISHED);
	set_and_check(_metadata, pair.server, TCP_ESTABLISHED);

	ASSERT_EQ(0, shutdown(pair.client, SHUT_WR));
	ASSERT_EQ(0, recv(pair.server, &c, 1, 0));
	set_and_check(_metadata, pair.client, TCP_FIN_WAIT2);
	set_and_check(_metadata, pair.server, TCP_CLOSE_WAIT);

	ASSERT_EQ(0, shutdown(pair.server, SHUT_WR));
	ASSERT_EQ(0, recv(pair.client, &c, 1, 0));
	set_and_check(_metadata, pair.client, TCP_CLOSE);
	set_and_check(_metadata, pair.server, TCP_CLOSE);
	pcap_pair_close(&pair);

	/* With its queue full a listener leaves SYNs unanswered. */
	pair.listener = pcap_listener(variant->family, variant->addr, 0, 0);
	ASSERT_LE(0, pair.listener);
	ASSERT_EQ(0, listen(pair.listener, 0));
	for (i = 0; i < ARRAY_SIZE(filler); i++) {
		fd = pcap_socket(variant->family);
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, fcntl(fd, F_SETFL, O_NONBLOCK));
		ASSERT_EQ(-EINPROGRESS, pcap_connect_fd(fd, pair.listener));
		filler[i] = fd;
	}
	set_and_check(_metadata, filler[ARRAY_SIZE(filler) - 1], TCP_SYN_SENT);
}

/* The largest value that may be set is @max. */
static void check_maximum(struct __test_metadata *_metadata, int fd, int max)
{
	size_t o;

	for (o = 0; o < ARRAY_SIZE(options); o++) {
		EXPECT_EQ(0, pcap_set(fd, options[o], max));
		EXPECT_EQ(max, pcap_get(fd, options[o]));
		EXPECT_EQ(-EPERM, pcap_set(fd, options[o], max + 1));
		EXPECT_EQ(-EPERM, pcap_set(fd, options[o], 65535));
		EXPECT_EQ(-EINVAL, pcap_set(fd, options[o], 65536));
		EXPECT_EQ(-EINVAL, pcap_set(fd, options[o], -1));
		EXPECT_EQ(max, pcap_get(fd, options[o]));
		EXPECT_EQ(0, pcap_set(fd, options[o], 0));
	}
}

static void drop_root(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, setresgid(65534, 65534, 65534));
	ASSERT_EQ(0, setresuid(65534, 65534, 65534));
}

static void join(struct __test_metadata *_metadata, pid_t child)
{
	int status;

	ASSERT_LT(0, child);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_F(tcp_pcap, maximum_without_privilege)
{
	const int maxima[] = { 1024, 10, 0, 65534 };
	pid_t child;
	size_t i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(maxima); i++) {
		ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", maxima[i]));
		child = fork();
		if (!child) {
			drop_root(_metadata);
			fd = pcap_socket(variant->family);
			ASSERT_LE(0, fd);
			check_maximum(_metadata, fd, maxima[i]);
			_exit(0);
		}
		join(_metadata, child);
	}
}

TEST_F(tcp_pcap, maximum_with_privilege)
{
	int fd;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", 10));
	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_IN, 11));
	EXPECT_EQ(11, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_OUT, 65535));
	EXPECT_EQ(65535, pcap_get(fd, TCP_PCAP_OUT));
}

/* A size above the maximum, set with privilege, stays until somebody sets it again. */
TEST_F(tcp_pcap, maximum_lowered_later)
{
	pid_t child;
	int fd;

	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pcap_set(fd, TCP_PCAP_IN, 100));
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets_max", 10));
	EXPECT_EQ(100, pcap_get(fd, TCP_PCAP_IN));

	child = fork();
	if (!child) {
		drop_root(_metadata);
		EXPECT_EQ(-EPERM, pcap_set(fd, TCP_PCAP_IN, 99));
		EXPECT_EQ(100, pcap_get(fd, TCP_PCAP_IN));
		EXPECT_EQ(0, pcap_set(fd, TCP_PCAP_IN, 10));
		EXPECT_EQ(10, pcap_get(fd, TCP_PCAP_IN));
		_exit(0);
	}
	join(_metadata, child);
}

/* Root in a user namespace of one's own is everybody's right: it must not count. */
TEST_F(tcp_pcap, user_namespace)
{
	const int flags[] = { CLONE_NEWUSER, CLONE_NEWUSER | CLONE_NEWNET };
	int before, after;
	pid_t child;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		child = fork();
		if (!child) {
			before = pcap_socket(variant->family);
			ASSERT_LE(0, before);
			drop_root(_metadata);
			ASSERT_EQ(0, unshare(flags[i]));
			after = pcap_socket(variant->family);
			ASSERT_LE(0, after);
			check_maximum(_metadata, before, 1024);
			check_maximum(_metadata, after, 1024);
			_exit(0);
		}
		join(_metadata, child);
	}
}

TEST_HARNESS_MAIN

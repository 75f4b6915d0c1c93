// SPDX-License-Identifier: GPL-2.0
/* When a history begins, and when it ends. */
#include "fixture.h"

static const struct sockaddr unspec = { .sa_family = AF_UNSPEC };

/* A connection whose client has full rings: 20 packets received, 30 sent, some with pages. */
static void full_pair(struct __test_metadata *_metadata, struct pcap_pair *pair, int family,
		      const char *addr)
{
	long mem = pcap_mem(), frags = pcap_frags();

	ASSERT_EQ(0, pcap_pair(pair, family, addr, 20, 30));
	ASSERT_EQ(0, pcap_rounds(pair->client, pair->server, 40));
	ASSERT_EQ(0, pcap_bulk(pair->client, pair->server, 100 * 1000));
	EXPECT_LE(mem + 50 * PCAP_RECORD_MIN, pcap_mem());
	EXPECT_LT(frags, pcap_frags());
}

#define EXPECT_ALL_FREE()							\
do {										\
	EXPECT_TRUE(pcap_settles(PCAP_MEM, self->host.host[PCAP_MEM]));		\
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));	\
} while (0)

TEST_F(tcp_pcap, never_connected)
{
	int fd;

	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pcap_set_both(fd, 64, 64));
	close(fd);
	EXPECT_ALL_FREE();
}

TEST_F(tcp_pcap, close)
{
	struct pcap_pair pair;

	full_pair(_metadata, &pair, variant->family, variant->addr);
	close(pair.client);
	close(pair.server);
	EXPECT_ALL_FREE();
}

TEST_F(tcp_pcap, close_by_the_peer)
{
	struct pcap_pair pair;
	char c;

	full_pair(_metadata, &pair, variant->family, variant->addr);
	close(pair.server);
	ASSERT_EQ(0, recv(pair.client, &c, 1, 0));
	/* Ours is still open: so is its history. */
	EXPECT_LE(self->host.host[PCAP_MEM] + 50 * PCAP_RECORD_MIN, pcap_mem());
	close(pair.client);
	EXPECT_ALL_FREE();
}

TEST_F(tcp_pcap, reset)
{
	struct pcap_pair pair;

	full_pair(_metadata, &pair, variant->family, variant->addr);
	pcap_reset(pair.client);
	EXPECT_ALL_FREE();
}

TEST_F(tcp_pcap, reset_by_the_peer)
{
	struct pcap_pair pair;
	char c;

	full_pair(_metadata, &pair, variant->family, variant->addr);
	pcap_reset(pair.server);
	ASSERT_EQ(-1, recv(pair.client, &c, 1, 0));
	EXPECT_EQ(ECONNRESET, errno);
	EXPECT_TRUE(pcap_reaches(pair.client, TCP_CLOSE));
	/* Why it was reset is what one wants to read. */
	EXPECT_LE(self->host.host[PCAP_MEM] + 50 * PCAP_RECORD_MIN, pcap_mem());
	EXPECT_EQ(20, pcap_get(pair.client, TCP_PCAP_IN));
	EXPECT_EQ(30, pcap_get(pair.client, TCP_PCAP_OUT));
	close(pair.client);
	EXPECT_ALL_FREE();
}

TEST_F(tcp_pcap, refused)
{
	int listener, fd;

	listener = pcap_bound(variant->family, variant->addr, 0, 0);
	ASSERT_LE(0, listener);
	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pcap_set_both(fd, 20, 30));
	ASSERT_EQ(-ECONNREFUSED, pcap_connect_fd(fd, listener));
	EXPECT_EQ(20, pcap_get(fd, TCP_PCAP_IN));
	EXPECT_EQ(30, pcap_get(fd, TCP_PCAP_OUT));
	/* connect() has given the socket back as new. */
	EXPECT_TRUE(pcap_settles_below(PCAP_MEM, self->host.host[PCAP_MEM] + PCAP_RECORD_MIN));

	/* The same socket, now with success. */
	ASSERT_EQ(0, listen(listener, 8));
	ASSERT_EQ(0, pcap_connect_fd(fd, listener));
	EXPECT_LT(self->host.host[PCAP_MEM], pcap_mem());
	close(fd);
	EXPECT_ALL_FREE();
}

/* The answer comes after connect(): SYN and RST stay as long as the socket. */
TEST_F(tcp_pcap, refused_later)
{
	int listener, fd;

	listener = pcap_bound(variant->family, variant->addr, 0, 0);
	ASSERT_LE(0, listener);
	fd = pcap_socket(variant->family);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fcntl(fd, F_SETFL, O_NONBLOCK));
	ASSERT_EQ(0, pcap_set_both(fd, 20, 30));
	ASSERT_EQ(-EINPROGRESS, pcap_connect_fd(fd, listener));
	ASSERT_TRUE(pcap_reaches(fd, TCP_CLOSE));
	EXPECT_LE(self->host.host[PCAP_MEM] + 2 * PCAP_RECORD_MIN, pcap_mem());
	close(fd);
	EXPECT_ALL_FREE();
}

/* TIME_WAIT is no socket any more, and has no history. */
TEST_F(tcp_pcap, time_wait)
{
	struct sockaddr_storage sa = {};
	socklen_t len = sizeof(sa);
	struct pcap_pair pair;
	char c;
	int fd;

	full_pair(_metadata, &pair, variant->family, variant->addr);
	ASSERT_EQ(0, getsockname(pair.client, (struct sockaddr *)&sa, &len));
	ASSERT_EQ(0, shutdown(pair.client, SHUT_WR));
	ASSERT_EQ(0, recv(pair.server, &c, 1, 0));
	close(pair.server);
	ASSERT_EQ(0, recv(pair.client, &c, 1, 0));

	/* The descriptor is open: the packets can still be read. */
	EXPECT_TRUE(pcap_reaches(pair.client, TCP_CLOSE));
	EXPECT_LE(self->host.host[PCAP_MEM] + 50 * PCAP_RECORD_MIN, pcap_mem());
	close(pair.client);
	EXPECT_ALL_FREE();

	/* It is in TIME_WAIT indeed: its port is taken. */
	fd = socket(variant->family, SOCK_STREAM, 0);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, bind(fd, (struct sockaddr *)&sa, len));
	EXPECT_EQ(EADDRINUSE, errno);
}

TEST_F(tcp_pcap, simultaneous_close)
{
	struct pcap_pair pair;
	int i;

	for (i = 0; i < 20; i++) {
		full_pair(_metadata, &pair, variant->family, variant->addr);
		ASSERT_EQ(0, pcap_set_both(pair.server, 10, 10));
		ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 3));
		shutdown(pair.client, SHUT_WR);
		shutdown(pair.server, SHUT_WR);
		pcap_pair_close(&pair);
	}
	EXPECT_ALL_FREE();
}

/* The process is gone, the connection still has data to deliver. */
TEST_F(tcp_pcap, orphan)
{
	static char buf[1 << 20];
	struct pcap_pair pair;
	ssize_t ret;
	size_t sent;

	full_pair(_metadata, &pair, variant->family, variant->addr);
	ASSERT_EQ(0, fcntl(pair.client, F_SETFL, O_NONBLOCK));
	sent = 0;
	while ((ret = send(pair.client, buf, sizeof(buf), MSG_NOSIGNAL)) > 0)
		sent += ret;
	ASSERT_LT(0UL, sent);
	close(pair.client);
	EXPECT_LE(self->host.host[PCAP_MEM] + 50 * PCAP_RECORD_MIN, pcap_mem());

	while (sent) {
		ret = recv(pair.server, buf, sizeof(buf), 0);
		ASSERT_LT(0, ret);
		sent -= ret;
	}
	ASSERT_EQ(0, recv(pair.server, buf, 1, 0));
	close(pair.server);
	EXPECT_ALL_FREE();
}

TEST_F(tcp_pcap, disconnect_and_reconnect)
{
	struct pcap_pair pair;
	long start, full;
	int i;

	start = pcap_mem();
	full_pair(_metadata, &pair, variant->family, variant->addr);
	full = pcap_mem();

	for (i = 0; i < 5; i++) {
		/* The packets go, the sizes stay. */
		ASSERT_EQ(0, connect(pair.client, &unspec, sizeof(unspec)));
		EXPECT_EQ(20, pcap_get(pair.client, TCP_PCAP_IN));
		EXPECT_EQ(30, pcap_get(pair.client, TCP_PCAP_OUT));
		EXPECT_TRUE(pcap_settles_below(PCAP_MEM, full - 50 * PCAP_RECORD_MIN));
		EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
		close(pair.server);

		ASSERT_EQ(0, pcap_connect_fd(pair.client, pair.listener));
		pair.server = pcap_accept(pair.listener);
		ASSERT_LE(0, pair.server);
		ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 40));
		EXPECT_LE(start + 50 * PCAP_RECORD_MIN, pcap_mem());
		EXPECT_EQ(20, pcap_get(pair.client, TCP_PCAP_IN));
		EXPECT_EQ(30, pcap_get(pair.client, TCP_PCAP_OUT));
	}
	pcap_pair_close(&pair);
	EXPECT_ALL_FREE();
}

/* Sizes set between two connections hold for the second. */
TEST_F(tcp_pcap, resize_while_disconnected)
{
	struct pcap_pair pair;
	long start;

	start = pcap_mem();
	full_pair(_metadata, &pair, variant->family, variant->addr);
	ASSERT_EQ(0, connect(pair.client, &unspec, sizeof(unspec)));
	ASSERT_EQ(0, pcap_set_both(pair.client, 100, 2));
	close(pair.server);
	ASSERT_EQ(0, pcap_connect_fd(pair.client, pair.listener));
	pair.server = pcap_accept(pair.listener);
	ASSERT_LE(0, pair.server);
	EXPECT_EQ(100, pcap_get(pair.client, TCP_PCAP_IN));
	EXPECT_EQ(2, pcap_get(pair.client, TCP_PCAP_OUT));
	ASSERT_EQ(0, pcap_rounds(pair.client, pair.server, 120));
	EXPECT_LE(start + 102 * PCAP_RECORD_MIN, pcap_mem());

	ASSERT_EQ(0, connect(pair.client, &unspec, sizeof(unspec)));
	ASSERT_EQ(0, pcap_set_both(pair.client, 0, 0));
	EXPECT_ALL_FREE();
}

/* The history belongs to the socket, not to the process that set the option. */
TEST_F(tcp_pcap, shared_descriptor)
{
	struct pcap_pair pair;
	int status;
	pid_t child;

	full_pair(_metadata, &pair, variant->family, variant->addr);
	child = fork();
	if (!child) {
		EXPECT_EQ(20, pcap_get(pair.client, TCP_PCAP_IN));
		EXPECT_EQ(0, pcap_set(pair.client, TCP_PCAP_IN, 25));
		EXPECT_EQ(0, pcap_rounds(pair.client, pair.server, 40));
		_exit(0);
	}
	ASSERT_LT(0, child);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(25, pcap_get(pair.client, TCP_PCAP_IN));
	EXPECT_EQ(30, pcap_get(pair.client, TCP_PCAP_OUT));
	EXPECT_LE(self->host.host[PCAP_MEM] + 55 * PCAP_RECORD_MIN, pcap_mem());
}

/* One that a process leaves behind when it is killed. */
TEST_F(tcp_pcap, killed)
{
	struct pcap_pair pair;
	int status, ready[2];
	pid_t child;
	char c;

	ASSERT_EQ(0, pipe(ready));
	child = fork();
	if (!child) {
		full_pair(_metadata, &pair, variant->family, variant->addr);
		ASSERT_EQ(1, write(ready[1], "", 1));
		for (;;)
			pause();
	}
	ASSERT_LT(0, child);
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &c, 1));
	EXPECT_LE(self->host.host[PCAP_MEM] + 50 * PCAP_RECORD_MIN, pcap_mem());
	ASSERT_EQ(0, kill(child, SIGKILL));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_ALL_FREE();
}

TEST_HARNESS_MAIN

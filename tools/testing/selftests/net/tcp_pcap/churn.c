// SPDX-License-Identifier: GPL-2.0
/* Many connections come, change and go at once. */
#include <pthread.h>

#include "fixture.h"

#define WORKERS		6
#define CONNECTIONS	60

static int random_size(unsigned int *seed)
{
	static const int sizes[] = { 0, 1, 2, 5, 16, 64, 511, 512, 513, 1024 };

	return sizes[rand_r(seed) % ARRAY_SIZE(sizes)];
}

static int random_option(unsigned int *seed)
{
	return rand_r(seed) & 1 ? TCP_PCAP_IN : TCP_PCAP_OUT;
}

/* The life of one connection; a negative errno if anything went wrong. */
static int live(int listener, unsigned int *seed)
{
	const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	int client, server, ret, i;

	client = pcap_connect(listener, random_size(seed), random_size(seed));
	if (client < 0)
		return client;
	server = pcap_accept(listener);
	if (server < 0) {
		close(client);
		return server;
	}

	ret = 0;
	for (i = rand_r(seed) % 6; !ret && i > 0; i--) {
		switch (rand_r(seed) % 6) {
		case 0:
			ret = pcap_set(client, random_option(seed), random_size(seed));
			break;
		case 1:
			ret = pcap_set(server, random_option(seed), random_size(seed));
			break;
		case 2:
			ret = pcap_set(listener, random_option(seed), random_size(seed));
			break;
		case 3:
			ret = pcap_bulk(client, server, 1 + rand_r(seed) % 300000);
			break;
		case 4:
			ret = pcap_sysctl_set("tcp_pcap_packets", random_size(seed));
			break;
		default:
			ret = pcap_rounds(server, client, rand_r(seed) % 80);
			break;
		}
	}

	switch (rand_r(seed) % 5) {
	case 0:
		pcap_reset(client);
		close(server);
		return ret;
	case 1:
		close(server);
		pcap_reset(client);
		return ret;
	case 2:
		if (connect(client, &unspec, sizeof(unspec)) && !ret)
			ret = -errno;
		break;
	case 3:
		shutdown(server, SHUT_RDWR);
		break;
	default:
		send(client, "unread", 6, MSG_NOSIGNAL);
		break;
	}
	close(client);
	close(server);
	return ret;
}

TEST_F_TIMEOUT(tcp_pcap, connections, 200)
{
	pid_t workers[WORKERS];
	int w, i, listener, status, ret;
	unsigned int seed;

	for (w = 0; w < WORKERS; w++) {
		workers[w] = pcap_fork();
		if (workers[w])
			continue;

		/* Each has a listener of its own, so that it accepts its own connections. */
		seed = w + 1;
		listener = pcap_listener(variant->family, variant->addr, 16, 16);
		ASSERT_LE(0, listener);
		for (i = 0; i < CONNECTIONS; i++) {
			ret = live(listener, &seed);
			EXPECT_EQ(0, ret) {
				TH_LOG("worker %d, connection %d", w, i);
				break;
			}
		}
		_exit(0);
	}
	for (w = 0; w < WORKERS; w++) {
		ASSERT_LT(0, workers[w]);
		ASSERT_EQ(workers[w], waitpid(workers[w], &status, 0));
		EXPECT_EQ(0, status);
	}
	EXPECT_TRUE(pcap_settles(PCAP_MEM, self->host.host[PCAP_MEM]));
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
}

struct setter {
	struct pcap_pair	*pair;
	unsigned int		seed;
	int			err;
};

static void *set_often(void *arg)
{
	struct setter *s = arg;
	int i, fd, ret;

	for (i = 0; i < 500; i++) {
		fd = rand_r(&s->seed) & 1 ? s->pair->client : s->pair->server;
		ret = pcap_set(fd, random_option(&s->seed), random_size(&s->seed));
		if (ret)
			s->err = ret;
		if (i % 10 == 0)
			usleep(100);
	}
	return NULL;
}

/* Several threads set the options of the same two sockets, which are busy. */
TEST_F_TIMEOUT(tcp_pcap, same_socket, 120)
{
	struct setter setters[WORKERS] = {};
	pthread_t threads[WORKERS];
	struct pcap_pair pair;
	int i;

	ASSERT_EQ(0, pcap_pair(&pair, variant->family, variant->addr, 16, 16));
	for (i = 0; i < WORKERS; i++) {
		setters[i].pair = &pair;
		setters[i].seed = i + 1;
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, set_often, &setters[i]));
	}
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, pcap_bulk(pair.client, pair.server, 300 * 1000));
		ASSERT_EQ(0, pcap_rounds(pair.server, pair.client, 20));
		usleep(1000);
	}
	for (i = 0; i < WORKERS; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, setters[i].err);
	}

	ASSERT_EQ(0, pcap_set_both(pair.client, 0, 0));
	ASSERT_EQ(0, pcap_set_both(pair.server, 0, 0));
	EXPECT_TRUE(pcap_settles(PCAP_MEM, self->host.host[PCAP_MEM]));
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
}

/* A listener that closes while others connect to it: its sizes are read all the same. */
TEST_F_TIMEOUT(tcp_pcap, closing_listener, 200)
{
	struct sockaddr_storage sa = {};
	socklen_t len = sizeof(sa);
	pid_t workers[WORKERS];
	int listener, fd, w, i, j;
	unsigned int seed;
	long failed = 0;
	int status;

	/* Keeps the port for us, and does not listen. */
	fd = pcap_bound(variant->family, variant->addr, 0, 0);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, getsockname(fd, (struct sockaddr *)&sa, &len));

	for (w = 0; w < WORKERS; w++) {
		workers[w] = pcap_fork();
		if (workers[w])
			continue;
		for (;;) {
			fd = pcap_socket(variant->family);
			if (!connect(fd, (struct sockaddr *)&sa, len))
				send(fd, "hello", 5, MSG_NOSIGNAL);
			pcap_reset(fd);
			usleep(100);
		}
	}

	for (i = 0, seed = 1; i < 200; i++) {
		listener = pcap_socket(variant->family);
		ASSERT_LE(0, listener);
		ASSERT_EQ(0, pcap_set_both(listener, random_size(&seed), random_size(&seed)));
		ASSERT_EQ(0, bind(listener, (struct sockaddr *)&sa, len));
		ASSERT_EQ(0, listen(listener, 128));
		for (j = 0; j < 5; j++) {
			if (i % 3 == 0)
				failed += !!pcap_set(listener, random_option(&seed),
						     random_size(&seed));
			fd = pcap_accept(listener);
			if (fd >= 0)
				close(fd);
			else
				failed++;
		}
		close(listener);
	}
	EXPECT_EQ(0, failed);

	for (w = 0; w < WORKERS; w++) {
		ASSERT_LT(0, workers[w]);
		ASSERT_EQ(0, kill(workers[w], SIGKILL));
		ASSERT_EQ(workers[w], waitpid(workers[w], &status, 0));
	}
	EXPECT_TRUE(pcap_settles(PCAP_MEM, self->host.host[PCAP_MEM]));
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
}

/* As the first one, near the limits, which the workers of course reach at different moments. */
TEST_F_TIMEOUT(tcp_pcap, connections_at_the_limits, 200)
{
	const long mem = pcap_mem() + 200 * 1000, frags = pcap_frags() + 100;
	pid_t workers[WORKERS];
	int w, i, listener, status, ret;
	unsigned int seed;

	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, mem));
	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, frags));

	for (w = 0; w < WORKERS; w++) {
		workers[w] = pcap_fork();
		if (workers[w])
			continue;

		seed = w + 100;
		listener = pcap_listener(variant->family, variant->addr, 16, 16);
		for (i = 0; listener >= 0 && i < CONNECTIONS; i++) {
			ret = live(listener, &seed);
			if (ret && ret != -ENOBUFS) {
				EXPECT_EQ(0, ret);
				break;
			}
			EXPECT_GE(mem, pcap_mem());
			EXPECT_GE(frags, pcap_frags());
		}
		EXPECT_GE(mem, pcap_peak(PCAP_MEM));
		EXPECT_GE(frags, pcap_peak(PCAP_FRAGS));
		_exit(0);
	}
	for (w = 0; w < WORKERS; w++) {
		ASSERT_LT(0, workers[w]);
		ASSERT_EQ(workers[w], waitpid(workers[w], &status, 0));
		EXPECT_EQ(0, status);
	}
	EXPECT_TRUE(pcap_settles(PCAP_MEM, self->host.host[PCAP_MEM]));
	EXPECT_TRUE(pcap_settles(PCAP_FRAGS, self->host.host[PCAP_FRAGS]));
}

TEST_HARNESS_MAIN

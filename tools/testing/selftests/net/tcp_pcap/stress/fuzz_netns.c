// SPDX-License-Identifier: GPL-2.0
/* Network namespaces that are left by all but some sockets, and then end with these. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"

#define PAIRS	6

/* In a namespace of its own: connections, of which one end each goes to the parent. */
static void leave(uint64_t seed, int bus)
{
	const struct stress_kind *kind;
	static char data[100000];
	struct pcap_pair pair;
	int i, size;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (stress_below(&seed, 2) && unshare(CLONE_NEWUSER))
		_exit(1);
	if (pcap_new_netns())
		_exit(2);
	stress_quick_close();
	pcap_sysctl_set("tcp_pcap_packets", stress_below(&seed, 2) ? 64 : 0);
	for (i = 0; i < PAIRS; i++) {
		kind = &stress_kinds[i % STRESS_KINDS];
		size = stress_below(&seed, 3) ? 20 : PCAP_DEFAULT;
		if (pcap_pair(&pair, kind->family, kind->addr, size, size)) {
			/* At the limit the options say so. */
			size = PCAP_DEFAULT;
			if (pcap_pair(&pair, kind->family, kind->addr, size, size))
				continue;
		}
		atomic_fetch_add(&stress->sockets, 3);
		send(pair.client, data, stress_below(&seed, sizeof(data)),
		     MSG_DONTWAIT | MSG_NOSIGNAL);
		send(pair.server, data, stress_below(&seed, 1000), MSG_DONTWAIT | MSG_NOSIGNAL);
		switch (stress_below(&seed, 4)) {
		case 0:
			fuzz_pass(bus, pair.listener);
			break;
		case 1:
			/* Closed with data that the other end did not take yet. */
			break;
		case 2:
			fuzz_pass(bus, pair.server);
			break;
		default:
			fuzz_pass(bus, pair.client);
			fuzz_pass(bus, pair.server);
		}
		pcap_pair_close(&pair);
	}
	stress_mib_sum();
	_exit(0);
}

/* What came from there is used and closed, and with the last of them its namespace goes. */
static void use(int fd, uint64_t *seed)
{
	const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	static const struct fuzz_process host;
	struct fuzz_slot slot = {
		.fd = fd, .kind = FUZZ_TCP, .foreign = true,
	};
	char buf[1000];
	int i;

	for (i = 0; i < 4; i++) {
		fuzz_set(&host, &slot, seed);
		fuzz_get(&slot, seed);
		send(fd, buf, stress_below(seed, sizeof(buf)), MSG_DONTWAIT | MSG_NOSIGNAL);
		recv(fd, buf, stress_below(seed, sizeof(buf)), MSG_DONTWAIT);
	}
	if (!stress_below(seed, 4))
		connect(fd, &unspec, sizeof(unspec));
	if (stress_below(seed, 2))
		pcap_reset(fd);
	else
		close(fd);
}

int fuzz_netns(uint64_t seed)
{
	int fd, status, bus[2];
	pid_t child;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, bus))
		return 1;
	while (!atomic_load(&stress->stop)) {
		stress_random(&seed);
		child = fork();
		if (!child)
			leave(seed, bus[0]);
		waitpid(child, &status, 0);
		if (status) {
			stress_fail("a process in its own namespace ended with %#x", status);
			return 1;
		}
		while ((fd = fuzz_receive(bus[1])) >= 0)
			use(fd, &seed);
		usleep(20000);
	}
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Hostile use: fuzz SECONDS SEED
 *
 * Processes in network namespaces of their own, half of them in user namespaces of their own,
 * each with threads that make random calls on sockets they share, with what is near and beyond
 * the edges of each range. Each answer of TCP_PCAP_* and of the sysctls is compared with the
 * rules; the kernel's log and the accounts, which must be empty in the end, say the rest.
 */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"

#define PROCESSES	4
#define SETTLE_S	90

atomic_ulong *fuzz_limit_changes;

static struct fuzz_process process;
static uint64_t main_seed;
static int bus[2];

int fuzz_value(uint64_t *seed)
{
	static const int values[] = {
		0, 0, 1, 2, 3, 5, 16, 64, 511, 512, 513, 1023, 1024, 1025, 4096, 65534, 65535,
		65536, 65537, 131072, -1, -2, -65535, -65536, INT_MAX, INT_MAX - 1, INT_MIN,
	};

	switch (stress_below(seed, 8)) {
	case 0:
		return stress_random(seed);
	case 1 ... 3:
		return stress_below(seed, 200);
	default:
		return stress_pick(seed, values);
	}
}

static void *work(void *arg)
{
	uint64_t seed = stress_seed(main_seed, (uintptr_t)arg);

	while (!atomic_load(&stress->stop)) {
		if (stress_below(&seed, 40))
			fuzz_socket(&process, &seed);
		else
			fuzz_sysctl(&process, &seed);
		atomic_fetch_add(&stress->calls, 1);
	}
	return NULL;
}

static int run_process(int nr)
{
	pthread_t thread[FUZZ_THREADS];
	uintptr_t i;
	int ret;

	process.container = nr % 2;
	memcpy(process.bus, bus, sizeof(bus));
	/* Once as root of the host, which shall count for nothing, once as nobody. */
	if (nr == 3 && (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
		return 1;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = process.container && unshare(CLONE_NEWUSER) ? -errno : pcap_new_netns();
	if (!ret)
		ret = fuzz_begin(&process);
	if (ret) {
		stress_fail("process %d: %s", nr, strerror(-ret));
		return 1;
	}
	for (i = 0; i < FUZZ_THREADS; i++)
		pthread_create(&thread[i], NULL, work, (void *)(100 * nr + i));
	for (i = 0; i < FUZZ_THREADS; i++)
		pthread_join(thread[i], NULL);
	fuzz_end(&process);
	stress_mib_sum();
	return 0;
}

int main(int argc, char **argv)
{
	const int seconds = argc > 1 ? atoi(argv[1]) : 20;
	pid_t child[PROCESSES + 1];
	struct pcap_host saved;
	uint64_t seed;
	int i, ret, status;
	double end;
	long leaks;

	main_seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	signal(SIGPIPE, SIG_IGN);
	ret = stress_init();
	if (!ret)
		ret = pcap_host_save(&saved);
	if (!ret && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, bus))
		ret = -errno;
	if (ret) {
		printf("FAILED: %s\n", strerror(-ret));
		return 1;
	}
	fuzz_limit_changes = mmap(NULL, sizeof(*fuzz_limit_changes), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	printf("fuzz: seed %llu, %d s\n", (unsigned long long)main_seed, seconds);
	for (i = 0; i <= PROCESSES; i++) {
		child[i] = fork();
		if (!child[i]) {
			seed = stress_seed(main_seed, 1 << 20);
			_exit(i < PROCESSES ? run_process(i) : fuzz_netns(seed));
		}
	}
	close(bus[0]);
	close(bus[1]);

	seed = stress_seed(main_seed, 2 << 20);
	for (end = stress_now() + seconds; stress_now() < end; usleep(2000))
		fuzz_host_sysctl(&seed);
	atomic_store(&stress->stop, 1);
	for (i = 0; i <= PROCESSES; i++) {
		waitpid(child[i], &status, 0);
		if (status)
			stress_fail("process %d ended with status %#x", i, status);
	}
	if (pcap_host_restore(&saved))
		stress_fail("the limits cannot be restored");
	leaks = stress_leaks(SETTLE_S);
	if (!stress->mib[PCAP_MIB_CAPTURED] || !stress->sockets || !stress->checks)
		stress_fail("nothing was captured or checked");
	return stress_report(0, leaks, "calls=%ld", stress->calls);
}

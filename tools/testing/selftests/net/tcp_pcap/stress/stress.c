// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

#define FAILURES_SHOWN	20

const struct stress_kind stress_kinds[STRESS_KINDS] = {
	{ AF_INET,	"127.0.0.1" },
	{ AF_INET6,	"::1" },
	{ AF_INET6,	"::ffff:127.0.0.1" },
};

struct stress_shared *stress;

static struct pcap_status start;

int stress_init(void)
{
	int ret;

	setvbuf(stdout, NULL, _IOLBF, 0);
	stress = mmap(NULL, sizeof(*stress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (stress == MAP_FAILED)
		return -errno;
	ret = pcap_host_open();
	if (ret)
		return ret;
	if (!pcap_all_free())
		return -EBUSY;
	return pcap_status(&start);
}

void stress_fail(const char *fmt, ...)
{
	char text[512];
	va_list args;

	if (atomic_fetch_add(&stress->failures, 1) >= FAILURES_SHOWN)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	printf("FAILED: %s\n", text);
}

double stress_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* What is left: in packets if there are any, else 1 for each account that is not empty. */
static long left(const struct pcap_status *s)
{
	if (s->packets || s->payloads)
		return s->packets ? s->packets : s->payloads;
	return !!s->frags.used + !!s->frags_containers.used +
	       !!s->mem.used + !!s->mem_containers.used;
}

long stress_leaks(int seconds)
{
	const double end = stress_now() + seconds;
	struct pcap_status s;
	int ret;

	do {
		ret = pcap_status(&s);
		if (ret) {
			stress_fail("/proc/net/tcp_pcap: %s", strerror(-ret));
			return -1;
		}
		if (!left(&s) && !pcap_frags() && !pcap_mem())
			return 0;
		usleep(50 * 1000);
	} while (stress_now() < end);

	stress_fail("%d s: %ld packets, %ld payloads; used %ld/%ld pages, %ld/%ld bytes; %ld %ld",
		    seconds, s.packets, s.payloads, s.frags.used, s.frags_containers.used,
		    s.mem.used, s.mem_containers.used, pcap_frags(), pcap_mem());
	return left(&s) ? left(&s) : 1;
}

void stress_mib_check(struct pcap_mibs *before)
{
	struct pcap_mibs now;
	int i, ret;

	ret = pcap_mibs(&now);
	if (ret) {
		stress_fail("/proc/net/netstat: %s", strerror(-ret));
		return;
	}
	for (i = 0; i < PCAP_MIBS; i++) {
		if (now.val[i] < before->val[i])
			stress_fail("%s went from %ld to %ld", pcap_mib_name[i], before->val[i],
				    now.val[i]);
	}
	*before = now;
	atomic_fetch_add(&stress->checks, 1);
}

void stress_mib_sum(void)
{
	struct pcap_mibs mibs = {};
	long captured, header_only = 0;
	int i;

	if (pcap_mibs(&mibs))
		stress_fail("no TCPPcap* counters in /proc/net/netstat");
	for (i = 0; i < PCAP_MIBS; i++) {
		atomic_fetch_add(&stress->mib[i], mibs.val[i]);
		if (i >= PCAP_MIB_HDR_SNAPLEN)
			header_only += mibs.val[i];
	}
	captured = mibs.val[PCAP_MIB_CAPTURED];
	if (header_only > captured || mibs.val[PCAP_MIB_RECLAIMED_PACKETS] > captured)
		stress_fail("%ld packets captured, but %ld with headers only, %ld reclaimed",
			    captured, header_only, mibs.val[PCAP_MIB_RECLAIMED_PACKETS]);
}

int stress_report(long faults, long leaks, const char *format, ...)
{
	struct pcap_status now = start;
	va_list args;

	pcap_status(&now);
	printf("# captured=%ld sockets=%ld reclaimed_packets=%ld reclaimed_payloads=%ld ",
	       stress->mib[PCAP_MIB_CAPTURED], stress->sockets,
	       now.reclaimed_packets - start.reclaimed_packets,
	       now.reclaimed_payloads - start.reclaimed_payloads);
	printf("lost=%ld no_history=%ld ", stress->mib[PCAP_MIB_LOST],
	       stress->mib[PCAP_MIB_NO_HISTORY]);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf(" checks=%ld faults=%ld leaks=%ld failures=%d\n", stress->checks, faults, leaks,
	       stress->failures);
	return stress->failures != 0;
}

static void sysctl_other(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		stress_fail("%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

void stress_quick_close(void)
{
	sysctl_other("/proc/sys/net/ipv4/tcp_orphan_retries", "1");
	sysctl_other("/proc/sys/net/ipv4/tcp_fin_timeout", "1");
	sysctl_other("/proc/sys/net/ipv4/tcp_max_tw_buckets", "256");
	sysctl_other("/proc/sys/net/mptcp/close_timeout", "1");
}

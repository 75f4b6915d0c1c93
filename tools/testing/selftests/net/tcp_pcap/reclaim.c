// SPDX-License-Identifier: GPL-2.0
/* The shrinker, asked by debugfs: it counts exactly, frees exactly, and in the right order. */
#include "host.h"

#define BULK		(1000 * 1000)
#define DROP_CACHES	"/proc/sys/vm/drop_caches"

static void drop_slabs(struct __test_metadata *_metadata)
{
	int fd = open(DROP_CACHES, O_WRONLY | O_CLOEXEC);

	ASSERT_LE(0, fd);
	ASSERT_EQ(1, write(fd, "2", 1));
	close(fd);
}

static void expect_count(struct __test_metadata *_metadata, const struct pcap_status *s)
{
	EXPECT_EQ(s->packets + s->payloads, pcap_shrinker_count());
}

/*
 * Frees @n by the shrinker: that many objects go, payload before records, and all of it is counted,
 * for the host and for our network namespace, which is the only one that has captures.
 */
static struct pcap_status scan(struct __test_metadata *_metadata, long n)
{
	struct pcap_status before, after;
	struct pcap_mibs mib[2];
	long payloads, packets;

	before = host_status(_metadata);
	EXPECT_EQ(0, pcap_mibs(&mib[0]));
	ASSERT_EQ(0, pcap_shrinker_scan(n));
	after = host_status(_metadata);
	EXPECT_EQ(0, pcap_mibs(&mib[1]));

	payloads = n < before.payloads ? n : before.payloads;
	packets = n - payloads < before.packets ? n - payloads : before.packets;
	EXPECT_EQ(before.payloads - payloads, after.payloads);
	EXPECT_EQ(before.packets - packets, after.packets);
	EXPECT_EQ(before.reclaimed_payloads + payloads, after.reclaimed_payloads);
	EXPECT_EQ(before.reclaimed_packets + packets, after.reclaimed_packets);
	EXPECT_EQ(before.reclaimed_pages + before.frags.used - after.frags.used,
		  after.reclaimed_pages);
	EXPECT_LE(after.payloads, after.frags.used);
	EXPECT_EQ(!after.payloads, !after.frags.used);
	EXPECT_GE(before.mem.used - packets * PCAP_RECORD_MIN, after.mem.used);
	EXPECT_EQ(!packets, before.mem.used == after.mem.used);
	EXPECT_EQ(before.frags.refused, after.frags.refused);
	EXPECT_EQ(before.mem.refused, after.mem.refused);

	EXPECT_EQ(packets, mib[1].val[PCAP_MIB_RECLAIMED_PACKETS] -
			   mib[0].val[PCAP_MIB_RECLAIMED_PACKETS]);
	EXPECT_EQ(before.frags.used - after.frags.used,
		  mib[1].val[PCAP_MIB_RECLAIMED_PAGES] - mib[0].val[PCAP_MIB_RECLAIMED_PAGES]);
	expect_count(_metadata, &after);
	return after;
}

TEST_F(host, count_is_exact)
{
	struct pcap_pair small;
	struct pcap_status s;
	struct held h[2];

	/* Records kept for the next connections count where there are no packets, as one. */
	EXPECT_GE(1, pcap_shrinker_count());
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, self->host.host[PCAP_MEM_MAX]));
	EXPECT_EQ(0, pcap_shrinker_count());
	ASSERT_EQ(0, host_pair(&small, false, 64));
	s = host_status(_metadata);
	expect_count(_metadata, &s);
	ASSERT_EQ(0, host_rounds(&small, 10));
	s = host_status(_metadata);
	EXPECT_LE(20, s.packets);
	EXPECT_EQ(0, s.payloads);
	expect_count(_metadata, &s);

	hold(_metadata, &h[0], true, BULK);
	s = host_status(_metadata);
	expect_count(_metadata, &s);
	hold(_metadata, &h[1], false, BULK);
	s = host_status(_metadata);
	expect_count(_metadata, &s);

	/* Turned over, made smaller, disconnected, closed. */
	ASSERT_EQ(0, host_rounds(&small, 100));
	s = host_status(_metadata);
	EXPECT_EQ(128 + h[0].packets + h[1].packets, s.packets);
	expect_count(_metadata, &s);
	ASSERT_EQ(0, pcap_set_both(small.client, 3, 5));
	s = host_status(_metadata);
	EXPECT_EQ(8 + h[0].packets + h[1].packets, s.packets);
	expect_count(_metadata, &s);
	pcap_pair_close(&small);
	let_go(_metadata, &h[0]);
	s = host_status(_metadata);
	EXPECT_EQ(h[1].payloads, s.payloads);
	expect_count(_metadata, &s);
	let_go(_metadata, &h[1]);
	EXPECT_EQ(1, pcap_shrinker_count());
	ASSERT_EQ(0, pcap_shrinker_scan(1));
	EXPECT_EQ(0, pcap_shrinker_count());
}

TEST_F(host, scan_frees_exactly)
{
	static const long numbers[] = { 1, 2, 7, 16, 3, 64, 1, 100, 130, 1, 200 };
	struct pcap_status s, full;
	struct held h[4];
	size_t i;
	long n;

	for (i = 0; i < ARRAY_SIZE(h); i++) {
		to_cpu(i / 2);
		hold(_metadata, &h[i], i & 1, 2 * BULK);
	}
	full = host_status(_metadata);
	ASSERT_LE(100, full.payloads);
	ASSERT_LE(200, full.packets);

	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		scan(_metadata, numbers[i]);

	/* Over the border between the two, then more than there is. */
	for (i = 0; i < ARRAY_SIZE(h); i++)
		ASSERT_EQ(0, host_bulk(&h[i].pair, BULK / 2));
	s = host_status(_metadata);
	ASSERT_LE(8, s.payloads);
	s = scan(_metadata, s.payloads + 5);
	EXPECT_EQ(0, s.payloads);
	EXPECT_LT(0, s.packets);
	for (n = 1; n < 4; n++) {
		ASSERT_EQ(0, host_bulk(&h[n].pair, BULK / 2));
		s = host_status(_metadata);
		s = scan(_metadata, s.payloads + s.packets + n * n * n * 1000);
		EXPECT_EQ(0, s.packets);
		EXPECT_EQ(0, s.frags.used);
		EXPECT_EQ(0, pcap_shrinker_count());
	}
	/* The sizes stay, and so the history goes on. */
	for (i = 0; i < ARRAY_SIZE(h); i++) {
		EXPECT_EQ(256, pcap_get(h[i].pair.client, TCP_PCAP_OUT));
		ASSERT_EQ(0, host_bulk(&h[i].pair, BULK / 2));
	}
	s = host_status(_metadata);
	EXPECT_LE(ARRAY_SIZE(h), (size_t)s.payloads);
	EXPECT_LT(0, s.frags.used);
	expect_count(_metadata, &s);
	for (i = 0; i < ARRAY_SIZE(h); i++)
		let_go(_metadata, &h[i]);
}

/* Payload that came when records were being freed already goes before the next record. */
TEST_F(host, payload_first_again)
{
	struct held h[2];
	int i;

	end_passes(_metadata);
	for (i = 0; i < 2; i++)
		hold(_metadata, &h[i], i, BULK);
	scan(_metadata, h[0].payloads + h[1].payloads + 3);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, host_bulk(&h[i].pair, BULK / 2));
		usleep(1000);
		scan(_metadata, 2);
	}
	for (i = 0; i < 2; i++)
		let_go(_metadata, &h[i]);
}

/* Nothing is stripped of a socket active since the last pass, while an idle one holds payload. */
TEST_F(host, idle_first)
{
	struct held h[3], *active, left;
	struct pcap_status s;
	int which, cpus, i;
	long idle;

	for (which = 0; which < 3; which++) {
		for (cpus = 1; cpus <= 2; cpus++) {
			end_passes(_metadata);
			for (i = 0; i < 3; i++) {
				to_cpu(i % cpus);
				hold(_metadata, &h[i], i & 1, BULK);
			}
			make_a_pass(_metadata);
			active = &h[which];
			be_active(_metadata, active);
			s = host_status(_metadata);

			/* All that the others have, but for one; in two steps. */
			idle = s.payloads - active->payloads;
			scan(_metadata, idle / 2);
			be_active(_metadata, active);
			scan(_metadata, idle - idle / 2 - 1);
			be_active(_metadata, active);

			left = let_go(_metadata, active);
			EXPECT_LE(active->payloads - 1, left.payloads) {
				TH_LOG("socket %d of 3 on %d CPUs: %ld of %ld payloads left", which,
				       cpus, left.payloads, active->payloads);
			}
			for (i = 0; i < 3; i++) {
				if (&h[i] != active)
					let_go(_metadata, &h[i]);
			}
		}
	}
}

/* When the idle ones have nothing left, the active one's turn comes. */
TEST_F(host, active_last)
{
	struct held h[2], left;
	struct pcap_status s;

	end_passes(_metadata);
	hold(_metadata, &h[0], false, BULK);
	hold(_metadata, &h[1], true, BULK);
	make_a_pass(_metadata);
	be_active(_metadata, &h[0]);
	s = host_status(_metadata);
	s = scan(_metadata, s.payloads - 3);
	EXPECT_EQ(3, s.payloads);
	left = let_go(_metadata, &h[0]);
	EXPECT_EQ(3, left.payloads);
	EXPECT_LE(h[0].packets, left.packets);
	left = let_go(_metadata, &h[1]);
	EXPECT_EQ(0, left.payloads);
	EXPECT_EQ(h[1].packets, left.packets);
}

/* Records, too: those of an idle socket go before those of an active one. */
TEST_F(host, records_idle_first)
{
	struct held h[2], left;
	int active;

	for (active = 0; active < 2; active++) {
		end_passes(_metadata);
		hold(_metadata, &h[0], false, BULK);
		hold(_metadata, &h[1], true, BULK);
		usleep(1000);
		/* All payload, which is a pass, too. */
		scan(_metadata, h[0].payloads + h[1].payloads);
		be_active(_metadata, &h[active]);
		scan(_metadata, h[!active].packets - 1);
		left = let_go(_metadata, &h[active]);
		EXPECT_LE(h[active].packets, left.packets);
		left = let_go(_metadata, &h[!active]);
		EXPECT_EQ(1, left.packets);
	}
}

TEST_F(host, switched_off)
{
	struct pcap_status before, after;
	struct held h[2];
	int i;

	for (i = 0; i < 2; i++)
		hold(_metadata, &h[i], i, BULK);
	EXPECT_EQ(1, pcap_host_get(PCAP_AGGRESSIVE_FREE));
	EXPECT_LT(0, pcap_shrinker_count());

	ASSERT_EQ(0, pcap_host_set(PCAP_AGGRESSIVE_FREE, 0));
	before = host_status(_metadata);
	EXPECT_EQ(0, pcap_shrinker_count());
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, pcap_shrinker_scan(1 + 1000 * i));
	drop_slabs(_metadata);
	after = host_status(_metadata);
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(after)));

	/* A lowered limit is no question of memory pressure. */
	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, before.frags.used / 2));
	after = host_status(_metadata);
	EXPECT_GE(before.frags.used / 2, after.frags.used);

	EXPECT_EQ(-EINVAL, pcap_host_set(PCAP_AGGRESSIVE_FREE, 2));
	EXPECT_EQ(-EINVAL, pcap_host_set(PCAP_AGGRESSIVE_FREE, -1));
	EXPECT_EQ(0, pcap_host_get(PCAP_AGGRESSIVE_FREE));
	ASSERT_EQ(0, pcap_host_set(PCAP_AGGRESSIVE_FREE, 1));
	expect_count(_metadata, &after);
	scan(_metadata, 10);
	for (i = 0; i < 2; i++)
		let_go(_metadata, &h[i]);
}

TEST_F(host, drop_caches)
{
	struct pcap_status before, after;
	struct held h[3];
	int i;

	for (i = 0; i < 3; i++)
		hold(_metadata, &h[i], i & 1, 2 * BULK);
	be_active(_metadata, &h[1]);
	before = host_status(_metadata);
	drop_slabs(_metadata);
	after = host_status(_metadata);
	EXPECT_EQ(0, after.payloads);
	EXPECT_EQ(0, after.frags.used);
	/* vmscan.c asks in batches of 128 and leaves what is less, if it likes. */
	EXPECT_GE(128, after.packets);
	EXPECT_EQ(before.payloads, after.reclaimed_payloads - before.reclaimed_payloads);
	EXPECT_EQ(before.packets - after.packets,
		  after.reclaimed_packets - before.reclaimed_packets);
	EXPECT_EQ(before.frags.used, after.reclaimed_pages - before.reclaimed_pages);
	for (i = 0; i < 3; i++)
		let_go(_metadata, &h[i]);
}

/* Another process reclaims while connections are busy: data is intact, and nothing is left over. */
TEST_F(host, under_traffic)
{
	struct pcap_pace pace = {};
	struct pcap_status s;
	struct pcap_pair p[3];
	int i, status;
	long *parts;
	pid_t pid;

	parts = mmap(NULL, sizeof(*parts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		     -1, 0);
	ASSERT_NE(MAP_FAILED, parts);
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 64));
	pid = pcap_fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (i = 0;; i++) {
			pcap_shrinker_scan(1 + i % 50);
			pcap_give_way(&pace, parts);
		}
	}
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, host_pair(&p[i], i & 1, PCAP_DEFAULT));
	for (i = 0; i < 30; i++) {
		EXPECT_EQ(0, host_bulk(&p[i % 3], BULK / 2));
		__atomic_add_fetch(parts, 1, __ATOMIC_RELAXED);
		sched_yield();
		EXPECT_EQ(0, host_rounds(&p[i % 3], 10));
		__atomic_add_fetch(parts, 1, __ATOMIC_RELAXED);
		sched_yield();
	}
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));

	s = host_status(_metadata);
	EXPECT_LT(self->start.reclaimed_payloads, s.reclaimed_payloads);
	EXPECT_LT(self->start.reclaimed_packets, s.reclaimed_packets);
	EXPECT_LT(self->start.reclaimed_pages, s.reclaimed_pages);
	scan(_metadata, s.payloads + s.packets);
	for (i = 0; i < 3; i++)
		pcap_pair_close(&p[i]);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/* TcpExtTCPPcap*: each counter that can be provoked, and in its own network namespace only. */
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <sys/sendfile.h>

#include "host.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY	60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY	0x4000000
#endif

/* More than the head of a record has room for. */
#define PAYLOAD		20000

static char data[PAYLOAD];

static struct pcap_mibs mibs(struct __test_metadata *_metadata)
{
	struct pcap_mibs m = {};

	EXPECT_EQ(0, pcap_mibs(&m));
	return m;
}

static long grown(const struct pcap_mibs *from, const struct pcap_mibs *to, enum pcap_mib which)
{
	return to->val[which] - from->val[which];
}

/* Nothing but @but and @too, and that something was captured, may have changed. */
static void expect_no_other(struct __test_metadata *_metadata, const struct pcap_mibs *from,
			    enum pcap_mib but, enum pcap_mib too)
{
	struct pcap_mibs now = mibs(_metadata);
	int i;

	for (i = 0; i < PCAP_MIBS; i++) {
		if (i == PCAP_MIB_CAPTURED || i == (int)but || i == (int)too)
			continue;
		EXPECT_EQ(0, grown(from, &now, i)) {
			TH_LOG("%s", pcap_mib_name[i]);
		}
	}
}

static int initial_netns(void)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", getppid());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int take(int fd, size_t len)
{
	ssize_t ret;

	for (; len; len -= ret) {
		ret = recv(fd, data, len < sizeof(data) ? len : sizeof(data), 0);
		if (ret <= 0)
			return ret ? -errno : -EPIPE;
	}
	return 0;
}

TEST_F(host, captured)
{
	struct pcap_mibs start, now;
	struct pcap_pair pair;

	start = mibs(_metadata);
	ASSERT_EQ(0, host_pair(&pair, false, 200));
	ASSERT_EQ(0, host_rounds(&pair, 30));
	ASSERT_EQ(0, host_bulk(&pair, 100 * 1000));
	now = mibs(_metadata);
	EXPECT_LE(60, grown(&start, &now, PCAP_MIB_CAPTURED));
	/* Nothing was pushed out, so what was captured is there. */
	EXPECT_EQ(host_status(_metadata).packets, grown(&start, &now, PCAP_MIB_CAPTURED));

	/* What was pushed out has been captured all the same. */
	start = mibs(_metadata);
	ASSERT_EQ(0, host_rounds(&pair, 300));
	now = mibs(_metadata);
	EXPECT_LE(600, grown(&start, &now, PCAP_MIB_CAPTURED));
	EXPECT_EQ(400, host_status(_metadata).packets);
	expect_no_other(_metadata, &start, PCAP_MIB_CAPTURED, PCAP_MIB_CAPTURED);
	pcap_pair_close(&pair);
}

TEST_F(host, hdr_snaplen)
{
	struct pcap_mibs start, now;
	struct pcap_pair pair;

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", 0));
	ASSERT_EQ(0, host_pair(&pair, true, 64));
	start = mibs(_metadata);
	ASSERT_EQ(0, host_rounds(&pair, 10));
	now = mibs(_metadata);
	/* Ten each way, of one byte that was not kept. */
	EXPECT_EQ(20, grown(&start, &now, PCAP_MIB_HDR_SNAPLEN));
	expect_no_other(_metadata, &start, PCAP_MIB_HDR_SNAPLEN, PCAP_MIB_HDR_SNAPLEN);

	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_snaplen", 1));
	start = mibs(_metadata);
	ASSERT_EQ(0, host_rounds(&pair, 10));
	expect_no_other(_metadata, &start, PCAP_MIB_CAPTURED, PCAP_MIB_CAPTURED);
	pcap_pair_close(&pair);
}

TEST_F(host, hdr_zerocopy)
{
	struct pcap_pair pair;
	struct pcap_mibs start, now;
	int one = 1;

	ASSERT_EQ(0, host_pair(&pair, false, 64));
	ASSERT_EQ(0, setsockopt(pair.client, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)));
	start = mibs(_metadata);
	ASSERT_EQ(PAYLOAD, send(pair.client, data, PAYLOAD, MSG_ZEROCOPY));
	ASSERT_EQ(0, take(pair.server, PAYLOAD));
	now = mibs(_metadata);
	EXPECT_LT(0, grown(&start, &now, PCAP_MIB_HDR_ZEROCOPY));
	EXPECT_EQ(0, host_status(_metadata).payloads);
	expect_no_other(_metadata, &start, PCAP_MIB_HDR_ZEROCOPY, PCAP_MIB_HDR_ZEROCOPY);
	pcap_pair_close(&pair);
}

TEST_F(host, hdr_shared)
{
	struct pcap_pair pair;
	struct pcap_mibs start, now;
	int file;

	file = memfd_create("data", MFD_CLOEXEC);
	ASSERT_LE(0, file);
	ASSERT_EQ(PAYLOAD, pwrite(file, data, PAYLOAD, 0));
	ASSERT_EQ(0, host_pair(&pair, true, 64));
	start = mibs(_metadata);
	ASSERT_EQ(PAYLOAD, sendfile(pair.client, file, NULL, PAYLOAD));
	ASSERT_EQ(0, take(pair.server, PAYLOAD));
	now = mibs(_metadata);
	EXPECT_LT(0, grown(&start, &now, PCAP_MIB_HDR_SHARED));
	EXPECT_EQ(0, host_status(_metadata).payloads);
	expect_no_other(_metadata, &start, PCAP_MIB_HDR_SHARED, PCAP_MIB_HDR_SHARED);
	pcap_pair_close(&pair);
}

TEST_F(host, hdr_limit)
{
	struct pcap_pair pair;
	struct pcap_mibs start, now;

	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, 0));
	ASSERT_EQ(0, host_pair(&pair, false, 64));
	start = mibs(_metadata);
	ASSERT_EQ(0, host_bulk(&pair, PAYLOAD));
	now = mibs(_metadata);
	EXPECT_LT(0, grown(&start, &now, PCAP_MIB_HDR_LIMIT));
	expect_no_other(_metadata, &start, PCAP_MIB_HDR_LIMIT, PCAP_MIB_HDR_LIMIT);
	/* What fits the head is no loss. */
	start = mibs(_metadata);
	ASSERT_EQ(0, host_rounds(&pair, 10));
	expect_no_other(_metadata, &start, PCAP_MIB_CAPTURED, PCAP_MIB_CAPTURED);
	pcap_pair_close(&pair);
}

static uint32_t sum(const void *bytes, size_t len, uint32_t start)
{
	const uint8_t *b = bytes;
	size_t i;

	for (i = 0; i < len; i++)
		start += i & 1 ? b[i] : b[i] << 8;
	return start;
}

/*
 * A segment to the client, from nowhere near the window, as a raw socket makes it: all of it in a
 * linear part from the slab. With a @first part it comes in two IP fragments, of which the first
 * has that many bytes.
 */
static int inject(const struct pcap_pair *pair, size_t len, size_t first)
{
	struct {
		struct iphdr	ip;
		struct tcphdr	tcp;
		uint8_t		payload[3000];
	} p = {};
	struct sockaddr_in from = {}, to = {};
	socklen_t slen = sizeof(from);
	uint8_t fragment[4096];
	size_t tcp_len;
	uint32_t csum;
	int fd, ret = 0;

	if (getpeername(pair->client, (struct sockaddr *)&from, &slen) ||
	    getsockname(pair->client, (struct sockaddr *)&to, &slen))
		return -errno;
	tcp_len = sizeof(p.tcp) + len;
	p.tcp.source = from.sin_port;
	p.tcp.dest = to.sin_port;
	p.tcp.seq = htonl(1);
	p.tcp.doff = sizeof(p.tcp) / 4;
	p.tcp.ack = 1;
	p.tcp.window = htons(1000);
	memset(p.payload, 'x', len);
	csum = sum(&p.tcp, tcp_len, IPPROTO_TCP + tcp_len);
	csum = sum(&from.sin_addr, 4, sum(&to.sin_addr, 4, csum));
	while (csum >> 16)
		csum = (csum & 0xffff) + (csum >> 16);
	p.tcp.check = htons(~csum);
	p.ip.version = 4;
	p.ip.ihl = 5;
	p.ip.ttl = 64;
	p.ip.protocol = IPPROTO_TCP;
	p.ip.id = htons(0x1234);
	p.ip.saddr = from.sin_addr.s_addr;
	p.ip.daddr = to.sin_addr.s_addr;

	fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (fd < 0)
		return -errno;
	to.sin_port = 0;
	if (first) {
		p.ip.frag_off = htons(IP_MF);
		p.ip.tot_len = htons(sizeof(p.ip) + first);
		if (sendto(fd, &p, sizeof(p.ip) + first, 0, (struct sockaddr *)&to, slen) < 0)
			ret = -errno;
		p.ip.frag_off = htons(first / 8);
	}
	memcpy(fragment, &p.ip, sizeof(p.ip));
	memcpy(fragment + sizeof(p.ip), (uint8_t *)&p.tcp + first, tcp_len - first);
	tcp_len += sizeof(p.ip) - first;
	((struct iphdr *)fragment)->tot_len = htons(tcp_len);
	if (sendto(fd, fragment, tcp_len, 0, (struct sockaddr *)&to, slen) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

TEST_F(host, hdr_linear)
{
	struct pcap_pair pair;
	struct pcap_mibs start, now;

	ASSERT_EQ(0, host_pair(&pair, false, 64));
	start = mibs(_metadata);
	ASSERT_EQ(0, inject(&pair, 10, 0));
	now = mibs(_metadata);
	EXPECT_LE(1, grown(&start, &now, PCAP_MIB_CAPTURED));
	EXPECT_EQ(0, grown(&start, &now, PCAP_MIB_HDR_LINEAR));
	ASSERT_EQ(0, inject(&pair, 3000, 0));
	now = mibs(_metadata);
	EXPECT_EQ(1, grown(&start, &now, PCAP_MIB_HDR_LINEAR));
	expect_no_other(_metadata, &start, PCAP_MIB_HDR_LINEAR, PCAP_MIB_HDR_LINEAR);
	ASSERT_EQ(0, host_rounds(&pair, 3));
	pcap_pair_close(&pair);
}

TEST_F(host, hdr_frag_list)
{
	struct pcap_pair pair;
	struct pcap_mibs start, now;

	ASSERT_EQ(0, host_pair(&pair, false, 64));
	start = mibs(_metadata);
	/* The first has the TCP header and four bytes. */
	ASSERT_EQ(0, inject(&pair, 2900, 24));
	now = mibs(_metadata);
	EXPECT_EQ(1, grown(&start, &now, PCAP_MIB_HDR_FRAG_LIST));
	expect_no_other(_metadata, &start, PCAP_MIB_HDR_FRAG_LIST, PCAP_MIB_HDR_FRAG_LIST);
	ASSERT_EQ(0, host_rounds(&pair, 3));
	pcap_pair_close(&pair);
}

TEST_F(host, lost)
{
	struct pcap_mibs start, now;
	struct pcap_pair pair;

	ASSERT_EQ(0, host_pair(&pair, true, 64));
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, pcap_mem()));
	start = mibs(_metadata);
	ASSERT_EQ(0, host_rounds(&pair, 10));
	now = mibs(_metadata);
	/* Each of the rings had a slot or none with a record to take. */
	EXPECT_LE(20, grown(&start, &now, PCAP_MIB_LOST));
	EXPECT_EQ(0, grown(&start, &now, PCAP_MIB_CAPTURED));
	expect_no_other(_metadata, &start, PCAP_MIB_LOST, PCAP_MIB_LOST);

	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, self->host.host[PCAP_MEM_MAX]));
	start = mibs(_metadata);
	ASSERT_EQ(0, host_rounds(&pair, 10));
	now = mibs(_metadata);
	EXPECT_LE(20, grown(&start, &now, PCAP_MIB_CAPTURED));
	expect_no_other(_metadata, &start, PCAP_MIB_CAPTURED, PCAP_MIB_CAPTURED);
	pcap_pair_close(&pair);
}

TEST_F(host, no_history)
{
	struct pcap_mibs start, now;
	struct pcap_pair pair;
	int listener;

	/* Sizes of its own, from when there was memory. */
	listener = pcap_listener(AF_INET, "127.0.0.1", 16, 16);
	ASSERT_LE(0, listener);
	ASSERT_EQ(0, pcap_sysctl_set("tcp_pcap_packets", 16));
	ASSERT_EQ(0, pcap_host_set(PCAP_MEM_MAX, pcap_mem()));
	start = mibs(_metadata);
	ASSERT_EQ(0, host_pair(&pair, false, PCAP_DEFAULT));
	now = mibs(_metadata);
	/* Listener and client; the listener without a size has none for its child. */
	EXPECT_EQ(2, grown(&start, &now, PCAP_MIB_NO_HISTORY));
	pcap_pair_close(&pair);

	start = mibs(_metadata);
	pair.client = pcap_connect(listener, PCAP_DEFAULT, PCAP_DEFAULT);
	ASSERT_LE(0, pair.client);
	pair.server = pcap_accept(listener);
	ASSERT_LE(0, pair.server);
	ASSERT_EQ(0, host_rounds(&pair, 5));
	now = mibs(_metadata);
	EXPECT_EQ(2, grown(&start, &now, PCAP_MIB_NO_HISTORY));
	EXPECT_EQ(0, grown(&start, &now, PCAP_MIB_CAPTURED));
	expect_no_other(_metadata, &start, PCAP_MIB_NO_HISTORY, PCAP_MIB_NO_HISTORY);
	close(pair.client);
	close(pair.server);
	close(listener);
}

static int write_text(int fd, const char *text)
{
	return pwrite(fd, text, strlen(text), 0) < 0 ? -errno : 0;
}

/*
 * Data that nobody reads: more than what each CPU may have taken without TCP's account, and less
 * than what is pressure by itself.
 */
static int stuff(struct pcap_pair *pairs, int n)
{
	int i, j, ret, size = 4 << 20;

	for (i = 0; i < n; i++) {
		ret = host_pair(&pairs[i], i & 1, 0);
		if (ret)
			return ret;
		setsockopt(pairs[i].client, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
		for (j = 0; j < 100; j++) {
			if (send(pairs[i].client, data, sizeof(data), MSG_DONTWAIT) < 0)
				return -errno;
		}
	}
	return 0;
}

/* net.ipv4.tcp_mem below what is used: TCP is short of memory, and capture does not add to that. */
TEST_F_TIMEOUT(host, hdr_pressure, 60)
{
	struct pcap_mibs start, middle, now;
	struct pcap_pair stuffed[4], pair;
	int here, initial, fd, i, ret;
	struct pcap_status s;
	char before[128];
	long pinned;
	ssize_t len;

	here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, here);
	initial = initial_netns();
	ASSERT_LE(0, initial);
	ASSERT_EQ(0, setns(initial, CLONE_NEWNET));
	fd = open("/proc/sys/net/ipv4/tcp_mem", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, setns(here, CLONE_NEWNET));
	len = pread(fd, before, sizeof(before) - 1, 0);
	ASSERT_LT(0, len);
	before[len] = 0;

	ASSERT_EQ(0, stuff(stuffed, ARRAY_SIZE(stuffed)));
	ASSERT_EQ(0, host_pair(&pair, false, 256));
	ASSERT_EQ(0, host_bulk(&pair, 200 * 1000));
	start = mibs(_metadata);
	EXPECT_EQ(0, start.val[PCAP_MIB_HDR_PRESSURE]);
	s = host_status(_metadata);
	EXPECT_LT(0, s.payloads);

	/* No assertion until it is as it was. */
	EXPECT_EQ(0, write_text(fd, "1 2 1000000\n"));
	/* It notices with the next memory that it takes. */
	ret = host_bulk(&pair, 300 * 1000);
	EXPECT_EQ(0, ret);
	pinned = pcap_frags();
	/* Not one page more, whoever sends. */
	ret = host_bulk(&pair, 500 * 1000);
	EXPECT_EQ(0, ret);
	EXPECT_GE(pinned, pcap_frags());
	middle = mibs(_metadata);
	EXPECT_LT(0, grown(&start, &middle, PCAP_MIB_HDR_PRESSURE));
	ret = pcap_bulk(pair.server, pair.client, 500 * 1000);
	EXPECT_EQ(0, ret);
	EXPECT_GE(pinned, pcap_frags());
	now = mibs(_metadata);
	EXPECT_LT(0, grown(&middle, &now, PCAP_MIB_HDR_PRESSURE));
	expect_no_other(_metadata, &start, PCAP_MIB_HDR_PRESSURE, PCAP_MIB_HDR_PRESSURE);
	EXPECT_EQ(0, write_text(fd, before));

	for (i = 0; i < (int)ARRAY_SIZE(stuffed); i++)
		pcap_pair_close(&stuffed[i]);
	/* It notices with the next memory that it takes. */
	ASSERT_EQ(0, host_bulk(&pair, 1000 * 1000));
	start = mibs(_metadata);
	ASSERT_EQ(0, pcap_set_both(pair.client, 0, 0));
	ASSERT_EQ(0, pcap_set_both(pair.client, 64, 64));
	ASSERT_EQ(0, host_bulk(&pair, 200 * 1000));
	expect_no_other(_metadata, &start, PCAP_MIB_CAPTURED, PCAP_MIB_CAPTURED);
	EXPECT_LT(0, host_status(_metadata).payloads);
	pcap_pair_close(&pair);
}

TEST_F(host, reclaimed)
{
	struct pcap_mibs start, now;
	struct pcap_status s;
	struct held h;

	start = mibs(_metadata);
	hold(_metadata, &h, false, 500 * 1000);
	expect_no_other(_metadata, &start, PCAP_MIB_CAPTURED, PCAP_MIB_CAPTURED);

	s = host_status(_metadata);
	ASSERT_EQ(0, pcap_shrinker_scan(h.payloads));
	now = mibs(_metadata);
	EXPECT_EQ(host_status(_metadata).reclaimed_pages - s.reclaimed_pages,
		  grown(&start, &now, PCAP_MIB_RECLAIMED_PAGES));
	EXPECT_LT(0, grown(&start, &now, PCAP_MIB_RECLAIMED_PAGES));
	expect_no_other(_metadata, &start, PCAP_MIB_RECLAIMED_PAGES, PCAP_MIB_RECLAIMED_PAGES);

	ASSERT_EQ(0, pcap_shrinker_scan(5));
	now = mibs(_metadata);
	EXPECT_EQ(5, grown(&start, &now, PCAP_MIB_RECLAIMED_PACKETS));
	expect_no_other(_metadata, &start, PCAP_MIB_RECLAIMED_PAGES, PCAP_MIB_RECLAIMED_PACKETS);
	let_go(_metadata, &h);
}

/* Whatever happens in one network namespace, the counters of another stay. */
TEST_F(host, per_netns)
{
	struct pcap_mibs first, second, now;
	struct held h[2];
	int here, other;

	here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, here);
	end_passes(_metadata);
	hold(_metadata, &h[0], false, 500 * 1000);
	first = mibs(_metadata);
	EXPECT_LT(0, first.val[PCAP_MIB_CAPTURED]);

	ASSERT_EQ(0, pcap_new_netns());
	other = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, other);
	second = mibs(_metadata);
	EXPECT_EQ(0, second.val[PCAP_MIB_CAPTURED]);
	hold(_metadata, &h[1], true, 500 * 1000);
	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, pcap_frags()));
	ASSERT_EQ(0, host_bulk(&h[1].pair, 100 * 1000));
	now = mibs(_metadata);
	EXPECT_LT(0, grown(&second, &now, PCAP_MIB_CAPTURED));
	EXPECT_LT(0, grown(&second, &now, PCAP_MIB_HDR_LIMIT));

	ASSERT_EQ(0, setns(here, CLONE_NEWNET));
	expect_no_other(_metadata, &first, PCAP_MIBS, PCAP_MIBS);
	now = mibs(_metadata);
	EXPECT_EQ(0, grown(&first, &now, PCAP_MIB_CAPTURED));

	/* Reclaim counts where the socket is, not where it was asked for. */
	second = now;
	make_a_pass(_metadata);
	be_active(_metadata, &h[0]);
	first = mibs(_metadata);
	ASSERT_EQ(0, pcap_shrinker_scan(h[1].payloads - 1));
	now = mibs(_metadata);
	EXPECT_EQ(0, memcmp(&first, &now, sizeof(now)));
	ASSERT_EQ(0, setns(other, CLONE_NEWNET));
	now = mibs(_metadata);
	EXPECT_LT(0, now.val[PCAP_MIB_RECLAIMED_PAGES]);
	EXPECT_EQ(0, now.val[PCAP_MIB_RECLAIMED_PACKETS]);
	let_go(_metadata, &h[0]);
	let_go(_metadata, &h[1]);
}

/* What administrators look at has each of them, under the same name. */
TEST_F(host, nstat)
{
	unsigned int i, seen = 0;
	char line[256], name[128];
	struct pcap_pair pair;
	struct pcap_mibs now;
	FILE *nstat;
	int status;
	long val;

	ASSERT_EQ(0, pcap_host_set(PCAP_FRAGS_MAX, 0));
	ASSERT_EQ(0, host_pair(&pair, false, 64));
	ASSERT_EQ(0, host_bulk(&pair, PAYLOAD));
	pcap_pair_close(&pair);
	now = mibs(_metadata);
	EXPECT_LT(0, now.val[PCAP_MIB_CAPTURED]);
	EXPECT_LT(0, now.val[PCAP_MIB_HDR_LIMIT]);

	nstat = popen("nstat --ignore --noupdate --zeros 'TcpExtTCPPcap*'", "r");
	ASSERT_NE(NULL, nstat);
	while (fgets(line, sizeof(line), nstat)) {
		if (sscanf(line, "TcpExt%127s %ld", name, &val) != 2)
			continue;
		for (i = 0; i < PCAP_MIBS && strcmp(name, pcap_mib_name[i]); i++)
			;
		ASSERT_GT(PCAP_MIBS, i) {
			TH_LOG("a counter that is not known: %s", line);
		}
		EXPECT_EQ(now.val[i], val) {
			TH_LOG("%s", pcap_mib_name[i]);
		}
		seen |= 1U << i;
	}
	status = pclose(nstat);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		SKIP(return, "nstat is not installed");
	EXPECT_EQ(0, status);
	EXPECT_EQ((1U << PCAP_MIBS) - 1, seen);
}

TEST_HARNESS_MAIN

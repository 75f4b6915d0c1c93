// SPDX-License-Identifier: GPL-2.0
/* Two network namespaces joined by a veth pair, the loopback device, and connections over either. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

#define FIRST_PORT	5000
#define PER_LISTENER	20000

struct request {
	struct nlmsghdr nlh;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg addr;
	};
	char room[512];
};

static int client_ns, server_ns;

static int netlink(struct request *req, int type, int flags, size_t body)
{
	struct {
		struct nlmsghdr nlh;
		struct nlmsgerr err;
		char room[1024];
	} answer;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), ret = -1;

	req->nlh.nlmsg_type = type;
	req->nlh.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	if (!req->nlh.nlmsg_len)
		req->nlh.nlmsg_len = NLMSG_LENGTH(body);
	if (fd >= 0 && send(fd, req, req->nlh.nlmsg_len, 0) > 0 &&
	    recv(fd, &answer, sizeof(answer), 0) > 0 && answer.nlh.nlmsg_type == NLMSG_ERROR) {
		ret = answer.err.error;
		errno = -ret;
	}
	close(fd);
	return ret;
}

static struct rtattr *attr(struct request *req, int type, const void *data, size_t len)
{
	struct rtattr *rta = (void *)((char *)req + NLMSG_ALIGN(req->nlh.nlmsg_len));

	rta->rta_type = type;
	rta->rta_len = RTA_LENGTH(len);
	if (len)
		memcpy(RTA_DATA(rta), data, len);
	req->nlh.nlmsg_len = NLMSG_ALIGN(req->nlh.nlmsg_len) + RTA_ALIGN(rta->rta_len);
	return rta;
}

static void attr_end(struct request *req, struct rtattr *rta)
{
	rta->rta_len = (char *)req + req->nlh.nlmsg_len - (char *)rta;
}

static void veth_pair(void)
{
	struct request req = { .nlh.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)) };
	struct ifinfomsg none = { 0 };
	struct rtattr *info, *data, *peer;

	attr(&req, IFLA_IFNAME, "veth", 5);
	info = attr(&req, IFLA_LINKINFO, NULL, 0);
	attr(&req, IFLA_INFO_KIND, "veth", 4);
	data = attr(&req, IFLA_INFO_DATA, NULL, 0);
	peer = attr(&req, VETH_INFO_PEER, &none, sizeof(none));
	attr(&req, IFLA_IFNAME, "veth", 5);
	attr(&req, IFLA_NET_NS_FD, &server_ns, sizeof(server_ns));
	attr_end(&req, peer);
	attr_end(&req, data);
	attr_end(&req, info);
	if (netlink(&req, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0))
		die("veth");
}

static void link_up(const char *dev)
{
	struct request req = {
		.link = { .ifi_index = if_nametoindex(dev), .ifi_flags = IFF_UP, .ifi_change = IFF_UP },
	};

	if (netlink(&req, RTM_NEWLINK, 0, sizeof(req.link)))
		die("%s up", dev);
}

static void address(const char *dev, const char *text, int prefix)
{
	int family = strchr(text, ':') ? AF_INET6 : AF_INET;
	struct request req = {
		.nlh.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
		.addr = {
			.ifa_family = family, .ifa_prefixlen = prefix, .ifa_flags = IFA_F_NODAD,
			.ifa_index = if_nametoindex(dev),
		},
	};
	char addr[16];
	size_t len = family == AF_INET ? 4 : 16;

	if (inet_pton(family, text, addr) != 1)
		die("%s", text);
	attr(&req, IFA_LOCAL, addr, len);
	attr(&req, IFA_ADDRESS, addr, len);
	if (netlink(&req, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, 0))
		die("address %s", text);
}

static int this_ns(void)
{
	int fd = open("/proc/self/ns/net", O_RDONLY);

	if (fd < 0)
		die("/proc/self/ns/net");
	return fd;
}

/* Connections over lo are within the first namespace. */
void net_enter(bool server, const char *dev)
{
	static bool inside;
	bool want = server && !strcmp(dev, "veth");

	if (want != inside && setns(want ? server_ns : client_ns, CLONE_NEWNET))
		die("setns");
	inside = want;
}

static void settings(void)
{
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535");
	sysctl_set("ipv4/tcp_max_syn_backlog", 65536);
	sysctl_set("core/somaxconn", 65536);
}

void net_init(void)
{
	client_ns = this_ns();
	if (unshare(CLONE_NEWNET))
		die("unshare");
	server_ns = this_ns();
	link_up("lo");
	if (setns(client_ns, CLONE_NEWNET))
		die("setns");
	link_up("lo");
	veth_pair();
	link_up("veth");
	address("veth", "10.9.0.1", 24);
	address("veth", "fd09::1", 64);
	settings();
	net_enter(true, "veth");
	link_up("veth");
	address("veth", "10.9.0.2", 24);
	address("veth", "fd09::2", 64);
	settings();
	net_enter(false, "veth");
	/* Until both have carrier, and what IPv6 says at first is said. */
	sleep(5);
}

static void feature(const char *dev, unsigned int cmd, bool on)
{
	struct ethtool_value value = { .cmd = cmd, .data = on };
	struct ifreq ifr = { .ifr_data = (void *)&value };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	strncpy(ifr.ifr_name, dev, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, SIOCETHTOOL, &ifr))
		die("%s: ethtool %#x", dev, cmd);
	close(fd);
}

/* Large packets on the way out, and on veth GRO on the way in; off: each packet is one segment. */
void net_gso(const char *dev, bool on)
{
	int i;

	for (i = 0; i < 2; i++) {
		net_enter(i, dev);
		feature(dev, ETHTOOL_STSO, on);
		feature(dev, ETHTOOL_SGSO, on);
		if (!strcmp(dev, "veth"))
			feature(dev, ETHTOOL_SGRO, on);
	}
	net_enter(false, dev);
}

static socklen_t server_addr(const struct phase *p, unsigned int number, void *room)
{
	bool lo = !strcmp(p->dev, "lo");
	int port = FIRST_PORT + number / PER_LISTENER;

	if (p->family == 4) {
		struct sockaddr_in *in = room;

		*in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
		inet_pton(AF_INET, lo ? "127.0.0.1" : "10.9.0.2", &in->sin_addr);
		return sizeof(*in);
	} else {
		struct sockaddr_in6 *in6 = room;

		*in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(port) };
		inet_pton(AF_INET6, lo ? "::1" : "fd09::2", &in6->sin6_addr);
		return sizeof(*in6);
	}
}

/* The listener of connection `number`; -1 if that is an older one. */
int net_listen(const struct phase *p, unsigned int number)
{
	struct sockaddr_storage addr;
	int fd, one = 1;
	socklen_t len;

	if (number % PER_LISTENER)
		return -1;
	len = server_addr(p, number, &addr);
	net_enter(true, p->dev);
	fd = socket(addr.ss_family, SOCK_STREAM, IPPROTO_TCP);
	net_enter(false, p->dev);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, (void *)&addr, len) || listen(fd, 1024))
		die("listen");
	return fd;
}

void net_open(const struct phase *p, int listener, unsigned int number, struct conn *c)
{
	struct sockaddr_storage addr;
	socklen_t len = server_addr(p, number, &addr);
	int one = 1;

	c->client = socket(addr.ss_family, SOCK_STREAM, IPPROTO_TCP);
	if (c->client < 0 || connect(c->client, (void *)&addr, len))
		die("connection %u", number);
	c->server = accept(listener, NULL, NULL);
	if (c->server < 0 ||
	    setsockopt(c->client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    setsockopt(c->server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		die("connection %u", number);
}

/* Without TIME_WAIT, of which the next phase would know. */
void net_abort(struct conn *c)
{
	struct linger linger = { .l_onoff = 1 };

	setsockopt(c->client, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(c->client);
	close(c->server);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * A small HTTP/1.1 server and client that ask the kernel to keep the last packets of their
 * connections.
 *
 * The point is in keep_packets(): two socket options, set before listen() or connect(), and nothing
 * else. From then on the packets can be read from a vmcore. See
 * Documentation/networking/tcp_pcap.rst.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* A C library may be older than these. */
#ifndef TCP_PCAP_OUT
#define TCP_PCAP_OUT	47
#endif
#ifndef TCP_PCAP_IN
#define TCP_PCAP_IN	48
#endif

#define HEAD_MAX	4096
#define MIB		(1024ULL * 1024)

struct config {
	const char		*host;
	const char		*port;
	int			family;
	int			pcap_in;	/* -1: leave it to net.ipv4.tcp_pcap_packets */
	int			pcap_out;
	unsigned long long	stall;		/* stop after so many bytes of a body */
	unsigned int		count;
	bool			hold;
	bool			progress;
};

/* Bytes received and not yet used. */
struct input {
	int	fd;
	size_t	used;
	char	buf[65536];
};

static int usage(int status)
{
	fputs("Usage: tcp_pcap_http server [options]\n"
	      "       tcp_pcap_http client [options] PATH...\n"
	      "\n"
	      "An HTTP/1.1 server and client whose last packets the kernel keeps (TCP_PCAP).\n"
	      "The server answers GET /bytes/N with N bytes, and any other path with a greeting.\n"
	      "The client requests each PATH in turn on one connection.\n"
	      "\n"
	      "  -P, --pcap N       keep the last N packets received and the last N sent\n"
	      "      --pcap-in N    keep the last N packets received\n"
	      "      --pcap-out N   keep the last N packets sent\n"
	      "                     (without these, net.ipv4.tcp_pcap_packets decides)\n"
	      "  -a, --address A    address to listen on or to connect to\n"
	      "                     (default: all addresses for the server, localhost for the client)\n"
	      "  -p, --port P       port (default: 8080)\n"
	      "  -4, -6             IPv4 or IPv6 only\n"
	      "  -s, --stall N      client: stop reading after N bytes of a body; server: stop sending\n"
	      "                     after N bytes; the connection stays open, stuck half-way\n"
	      "  -c, --count N      client: request each PATH N times (default: 1)\n"
	      "  -H, --hold         client: keep the connection open after the last answer\n"
	      "  -v, --progress     client: one line for each MiB received\n"
	      "  -h, --help         this text\n"
	      "\n"
	      "Examples:\n"
	      "  tcp_pcap_http server --pcap 64 &\n"
	      "  tcp_pcap_http client --pcap 64 --hold / /bytes/1000000 &\n"
	      "  tcp_pcap_http client --pcap 64 -6 -a ::1 --stall 5000000 /bytes/100000000\n",
	      status ? stderr : stdout);
	return status;
}

static unsigned long long parse_number(const char *what, const char *text, unsigned long long max)
{
	unsigned long long val;
	char *end;

	errno = 0;
	val = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || val > max)
		errx(1, "%s takes a number from 0 to %llu, not '%s'", what, max, text);
	return val;
}

static int packets_max(void)
{
	FILE *f = fopen("/proc/sys/net/ipv4/tcp_pcap_packets_max", "r");
	int val = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%d", &val) != 1)
		val = -1;
	fclose(f);
	return val;
}

static void keep_packets_failed(const char *name, int val)
{
	switch (errno) {
	case ENOPROTOOPT:
		errx(1, "%s: this kernel keeps no packets, it needs CONFIG_TCP_PCAP=y", name);
	case EPERM:
		errx(1, "%s=%d is above net.ipv4.tcp_pcap_packets_max=%d: raise that or ask less",
		     name, val, packets_max());
	case EINVAL:
		errx(1, "%s=%d is out of range: it can be 0 to 65535", name, val);
	case ENOBUFS:
		errx(1, "%s=%d: net.ipv4.tcp_pcap_mem_max is reached: raise it, or ask for less",
		     name, val);
	default:
		err(1, "%s=%d", name, val);
	}
}

/*
 * Keep the last packets of this socket. Set on a socket that will listen, it is what accepted
 * sockets inherit. It can be changed at any time; 0 frees what is kept.
 */
static void keep_packets(int fd, const struct config *cfg)
{
	if (cfg->pcap_in >= 0 &&
	    setsockopt(fd, IPPROTO_TCP, TCP_PCAP_IN, &cfg->pcap_in, sizeof(cfg->pcap_in)))
		keep_packets_failed("TCP_PCAP_IN", cfg->pcap_in);
	if (cfg->pcap_out >= 0 &&
	    setsockopt(fd, IPPROTO_TCP, TCP_PCAP_OUT, &cfg->pcap_out, sizeof(cfg->pcap_out)))
		keep_packets_failed("TCP_PCAP_OUT", cfg->pcap_out);
}

/* What the kernel will keep, for the log: from our options, the listener's, or the sysctl. */
static void report(const char *who, int fd)
{
	socklen_t len = sizeof(int);
	int in = 0, out = 0;

	if (getsockopt(fd, IPPROTO_TCP, TCP_PCAP_IN, &in, &len) ||
	    getsockopt(fd, IPPROTO_TCP, TCP_PCAP_OUT, &out, &len)) {
		printf("%s: the kernel keeps no packets (%s)\n", who, strerror(errno));
		return;
	}
	printf("%s: the kernel keeps the last %d packets received and the last %d sent\n",
	       who, in, out);
}

static struct addrinfo *resolve(const struct config *cfg, bool passive)
{
	struct addrinfo hints = {
		.ai_family	= cfg->family,
		.ai_socktype	= SOCK_STREAM,
		.ai_protocol	= IPPROTO_TCP,
		.ai_flags	= passive ? AI_PASSIVE : 0,
	};
	const char *host = cfg->host;
	struct addrinfo *list;
	int ret;

	/* One socket for both families. */
	if (passive && !host && cfg->family == AF_UNSPEC)
		host = "::";

	ret = getaddrinfo(host, cfg->port, &hints, &list);
	if (ret)
		errx(1, "%s port %s: %s", host ? host : "any", cfg->port, gai_strerror(ret));
	return list;
}

static bool write_all(int fd, const void *buf, size_t len)
{
	const char *pos = buf;

	while (len) {
		ssize_t ret = send(fd, pos, len, MSG_NOSIGNAL);

		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			return false;
		pos += ret;
		len -= ret;
	}
	return true;
}

/* Read up to the empty line; the head is then a string in @head, what follows stays in @in. */
static bool read_head(struct input *in, char head[HEAD_MAX])
{
	for (;;) {
		char *end = memmem(in->buf, in->used, "\r\n\r\n", 4);
		ssize_t ret;

		if (end) {
			size_t len = end + 4 - in->buf;

			if (len >= HEAD_MAX)
				return false;
			memcpy(head, in->buf, len);
			head[len] = 0;
			in->used -= len;
			memmove(in->buf, in->buf + len, in->used);
			return true;
		}
		if (in->used == sizeof(in->buf))
			return false;
		ret = read(in->fd, in->buf + in->used, sizeof(in->buf) - in->used);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			return false;
		in->used += ret;
	}
}

static bool send_body(int fd, unsigned long long len, const struct config *cfg)
{
	unsigned long long sent = 0;
	static char block[65536];
	size_t i;

	if (!block[0]) {
		for (i = 0; i < sizeof(block); i++)
			block[i] = 'a' + i % 26;
	}

	while (sent < len) {
		unsigned long long part = len - sent;

		if (part > sizeof(block))
			part = sizeof(block);
		if (sent + part > cfg->stall)
			part = cfg->stall - sent;
		if (!part) {
			printf("server: stopped after %llu of %llu bytes\n", sent, len);
			for (;;)
				pause();
		}
		if (!write_all(fd, block, part))
			return false;
		sent += part;
	}
	return true;
}

static bool answer(int fd, const char *request, const struct config *cfg)
{
	static const char greeting[] = "Hello from TCP_PCAP\n";
	bool bytes, found = true;
	unsigned long long len;
	char head[256];
	char end;
	int ret;

	bytes = sscanf(request, "GET /bytes/%llu%c", &len, &end) == 2 && end == ' ';
	if (!bytes) {
		len = sizeof(greeting) - 1;
		found = !strncmp(request, "GET /", 5);
	}
	if (!found)
		len = 0;

	ret = snprintf(head, sizeof(head),
		       "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %llu\r\n\r\n",
		       found ? "200 OK" : "501 Not Implemented", len);
	if (!write_all(fd, head, ret))
		return false;
	if (bytes)
		return send_body(fd, len, cfg);
	return write_all(fd, greeting, len);
}

static void serve(int fd, const struct config *cfg)
{
	static struct input in;
	char head[HEAD_MAX];

	in.fd = fd;
	in.used = 0;
	while (read_head(&in, head)) {
		if (!answer(fd, head, cfg))
			break;
	}
}

static int run_server(const struct config *cfg)
{
	struct addrinfo *list = resolve(cfg, true);
	int one = 1, zero = 0;
	int listener;

	signal(SIGCHLD, SIG_IGN);

	listener = socket(list->ai_family, list->ai_socktype, list->ai_protocol);
	if (listener < 0)
		err(1, "socket (-4 or -6 chooses the family)");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (list->ai_family == AF_INET6 && cfg->family == AF_UNSPEC)
		setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));

	keep_packets(listener, cfg);

	if (bind(listener, list->ai_addr, list->ai_addrlen))
		err(1, "port %s", cfg->port);
	if (listen(listener, 128))
		err(1, "listen");
	freeaddrinfo(list);

	report("server", listener);
	printf("server: listening on port %s\n", cfg->port);

	for (;;) {
		int fd = accept(listener, NULL, NULL);
		pid_t child;

		if (fd < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			err(1, "accept");
		}
		child = fork();
		if (child < 0)
			warn("fork");
		if (!child) {
			close(listener);
			serve(fd, cfg);
			exit(0);
		}
		close(fd);
	}
}

static int connect_any(const struct config *cfg)
{
	struct addrinfo *list = resolve(cfg, false);
	struct addrinfo *ai;
	int fd = -1, last = 0;

	for (ai = list; ai; ai = ai->ai_next) {
		fd = socket(ai->ai_family, ai->ai_socktype, ai->ai_protocol);
		if (fd < 0) {
			last = errno;
			continue;
		}

		/* Before connect(), so that the handshake is kept as well. */
		keep_packets(fd, cfg);

		if (!connect(fd, ai->ai_addr, ai->ai_addrlen))
			break;
		last = errno;
		close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	if (fd < 0) {
		errno = last;
		err(1, "connect to %s port %s", cfg->host ? cfg->host : "localhost", cfg->port);
	}
	return fd;
}

/* Length of the body, from the head of the answer. */
static bool body_length(const char *head, unsigned long long *len)
{
	const char *line = head;

	while ((line = strstr(line, "\r\n"))) {
		line += 2;
		if (!strncasecmp(line, "Content-Length:", 15))
			return sscanf(line + 15, "%llu", len) == 1;
	}
	return false;
}

static unsigned long long read_body(struct input *in, unsigned long long len,
				    const struct config *cfg)
{
	unsigned long long got = in->used < len ? in->used : len;
	unsigned long long told = 0;

	in->used -= got;
	memmove(in->buf, in->buf + got, in->used);

	while (got < len) {
		unsigned long long part = len - got;
		ssize_t ret;

		if (got >= cfg->stall) {
			printf("client: stopped reading after %llu of %llu bytes\n", got, len);
			for (;;)
				pause();
		}
		if (part > sizeof(in->buf))
			part = sizeof(in->buf);
		if (part > cfg->stall - got)
			part = cfg->stall - got;
		ret = read(in->fd, in->buf, part);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			break;
		got += ret;
		if (cfg->progress && got / MIB > told) {
			told = got / MIB;
			printf("client: %llu MiB of %llu bytes\n", told, len);
		}
	}
	return got;
}

static void get(struct input *in, const char *path, const struct config *cfg)
{
	unsigned long long len = 0, got;
	char head[HEAD_MAX];
	int ret;

	if (*path != '/')
		errx(1, "a PATH starts with '/', unlike '%s'", path);
	ret = snprintf(head, sizeof(head), "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path,
		       cfg->host ? cfg->host : "localhost");
	if (ret >= (int)sizeof(head))
		errx(1, "the path is too long");
	if (!write_all(in->fd, head, ret))
		err(1, "GET %s", path);
	if (!read_head(in, head))
		errx(1, "GET %s: the server closed the connection before it answered", path);
	if (!body_length(head, &len))
		errx(1, "GET %s: the answer has no Content-Length", path);

	got = read_body(in, len, cfg);
	if (got < len)
		errx(1, "GET %s: the connection ended after %llu of %llu bytes", path, got, len);
	printf("client: GET %s: %.*s, %llu bytes\n", path, (int)strcspn(head, "\r\n"), head, got);
}

static int run_client(const struct config *cfg, char **paths)
{
	static struct input in;
	unsigned int i;

	in.fd = connect_any(cfg);
	report("client", in.fd);

	for (; *paths; paths++) {
		for (i = 0; i < cfg->count; i++)
			get(&in, *paths, cfg);
	}

	if (cfg->hold) {
		puts("client: done, the connection stays open");
		for (;;)
			pause();
	}
	close(in.fd);
	return 0;
}

enum { OPT_PCAP_IN = 256, OPT_PCAP_OUT };

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "pcap",	required_argument,	NULL, 'P' },
		{ "pcap-in",	required_argument,	NULL, OPT_PCAP_IN },
		{ "pcap-out",	required_argument,	NULL, OPT_PCAP_OUT },
		{ "address",	required_argument,	NULL, 'a' },
		{ "port",	required_argument,	NULL, 'p' },
		{ "stall",	required_argument,	NULL, 's' },
		{ "count",	required_argument,	NULL, 'c' },
		{ "hold",	no_argument,		NULL, 'H' },
		{ "progress",	no_argument,		NULL, 'v' },
		{ "help",	no_argument,		NULL, 'h' },
		{ }
	};
	struct config cfg = {
		.port		= "8080",
		.family		= AF_UNSPEC,
		.pcap_in	= -1,
		.pcap_out	= -1,
		.stall		= ULLONG_MAX,
		.count		= 1,
	};
	const char *mode = argv[1];
	int opt;

	/* The log is read while the connection is stuck. */
	setvbuf(stdout, NULL, _IOLBF, 0);

	if (!mode)
		return usage(2);
	if (!strcmp(mode, "-h") || !strcmp(mode, "--help"))
		return usage(0);
	argc--;
	argv++;

	while ((opt = getopt_long(argc, argv, "P:a:p:46s:c:Hvh", options, NULL)) != -1) {
		switch (opt) {
		case 'P':
			/* The kernel checks the range. */
			cfg.pcap_in = parse_number("--pcap", optarg, INT_MAX);
			cfg.pcap_out = cfg.pcap_in;
			break;
		case OPT_PCAP_IN:
			cfg.pcap_in = parse_number("--pcap-in", optarg, INT_MAX);
			break;
		case OPT_PCAP_OUT:
			cfg.pcap_out = parse_number("--pcap-out", optarg, INT_MAX);
			break;
		case 'a':
			cfg.host = optarg;
			break;
		case 'p':
			cfg.port = optarg;
			break;
		case '4':
			cfg.family = AF_INET;
			break;
		case '6':
			cfg.family = AF_INET6;
			break;
		case 's':
			cfg.stall = parse_number("--stall", optarg, ULLONG_MAX);
			break;
		case 'c':
			cfg.count = parse_number("--count", optarg, UINT_MAX);
			break;
		case 'H':
			cfg.hold = true;
			break;
		case 'v':
			cfg.progress = true;
			break;
		case 'h':
			return usage(0);
		default:
			return usage(2);
		}
	}

	if (!strcmp(mode, "server") && optind == argc)
		return run_server(&cfg);
	if (!strcmp(mode, "client") && optind < argc)
		return run_client(&cfg, argv + optind);
	return usage(2);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * To be preloaded: the program begins with FAULT_PERCENT of the allocations failing, in
 * FAULT_ATTR, not before, since then it could hardly be started. And its sockets have
 * keepalives: TCP that finds no memory for a FIN does not send it again, and the socket would
 * stay for ever, with its history. And mmap() is tried again: kselftest_harness.h, which has its
 * results in a mapping, does not look whether it got one.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static void __attribute__((constructor)) arm(void)
{
	const char *percent = getenv("FAULT_PERCENT"), *attr = getenv("FAULT_ATTR");
	int fd;

	if (!percent || !attr || chdir(attr))
		_exit(125);
	fd = open("probability", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || chdir("/") || write(fd, percent, strlen(percent)) < 0)
		_exit(125);
	close(fd);
}

#define TRIES	1000

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	static void *(*real)(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
	void *p;
	int i;

	if (!real)
		real = dlsym(RTLD_NEXT, "mmap");
	for (i = 0; i < TRIES; i++) {
		p = real(addr, length, prot, flags, fd, offset);
		if (p != MAP_FAILED || errno != ENOMEM)
			break;
	}
	return p;
}

int socket(int domain, int type, int protocol)
{
	static int (*real)(int domain, int type, int protocol);
	const int on = 1, seconds = 30;
	int fd;

	if (!real)
		real = dlsym(RTLD_NEXT, "socket");
	fd = real(domain, type, protocol);
	if (fd >= 0 && domain != AF_UNIX) {
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
		setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
		setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds));
	}
	return fd;
}

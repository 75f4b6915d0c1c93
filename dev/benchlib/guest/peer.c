// SPDX-License-Identifier: GPL-2.0
/* Other recorders of packets, at work during a phase. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static pid_t child;
static FILE *words;

/* Its standard error, until a line that contains `wanted`. */
static void read_until(const struct phase *p, const char *wanted, bool show)
{
	char line[512];

	while (fgets(line, sizeof(line), words)) {
		if (show)
			say("peer %u %s", p->id, line);
		if (wanted && strstr(line, wanted))
			return;
	}
	if (wanted)
		die("%s: did not start", p->peer);
}

void peer_start(const struct phase *p)
{
	char *tcpdump[] = {
		"/usr/bin/tcpdump", "-Z", "root", "-n", "-i", (char *)p->dev, "-B", "131072",
		"-s", strcmp(p->peer, "tcpdump-full") ? "128" : "0", "-w", "/tmp/peer.pcap", NULL,
	};
	char *bpf[] = { "/recorder", "/recorder.bpf.o", NULL };
	bool is_bpf = !strcmp(p->peer, "bpf");
	char **argv = is_bpf ? bpf : tcpdump;
	int fds[2];

	if (!strcmp(p->peer, "none"))
		return;
	if (pipe(fds))
		die("pipe");
	child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		dup2(fds[1], 2);
		close(fds[0]);
		close(fds[1]);
		execv(argv[0], argv);
		fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	close(fds[1]);
	words = fdopen(fds[0], "r");
	read_until(p, "listening", true);
	/* Whatever it still does before it waits for packets. */
	sleep(2);
}

/* It tells how many packets it has, and how many it lost. */
void peer_stop(const struct phase *p)
{
	int status;

	if (!child)
		return;
	kill(child, SIGINT);
	read_until(p, NULL, true);
	fclose(words);
	if (waitpid(child, &status, 0) != child || status)
		die("%s: status %#x", p->peer, status);
	child = 0;
	unlink("/tmp/peer.pcap");
}

// SPDX-License-Identifier: GPL-2.0
/* The guest's first process: mounts, network, the plan, the end. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"

static void end(void)
{
	fflush(stdout);
	sync();
	if (getpid() == 1)
		reboot(RB_AUTOBOOT);
	_exit(1);
}

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("\nFAILED: ");
	vprintf(fmt, args);
	printf(" (%s)\n", strerror(errno));
	va_end(args);
	end();
	abort();
}

void say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	fflush(stdout);
}

struct key {
	const char *name;
	char type;		/* i, u, l or s */
	size_t offset, size;
};

#define KEY(type, name, field) \
	{ name, type, offsetof(struct phase, field), sizeof(((struct phase *)0)->field) }

static const struct key keys[] = {
	KEY('u', "id", id),
	KEY('s', "work", work),
	KEY('i', "af", family),
	KEY('s', "dev", dev),
	KEY('i', "gso", gso),
	KEY('u', "n", n),
	KEY('u', "size", size),
	KEY('u', "conns", conns),
	KEY('u', "idle", idle),
	KEY('u', "warm", warm),
	KEY('i', "packets", packets),
	KEY('i', "key", key),
	KEY('i', "snaplen", snaplen),
	KEY('l', "frags_max", frags_max),
	KEY('l', "mem_max", mem_max),
	KEY('u', "scan", scan),
	KEY('s', "peer", peer),
	KEY('i', "rest", rest),
	KEY('u', "settle", settle),
	KEY('u', "cpus", cpus),
	KEY('i', "hop", hop),
};

static void parse_word(struct phase *p, char *word)
{
	char *value = strchr(word, '='), *end = NULL;
	size_t i;
	long number;

	if (!value)
		die("plan: %s", word);
	*value++ = '\0';
	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		char *field = (char *)p + keys[i].offset;

		if (strcmp(keys[i].name, word))
			continue;
		if (keys[i].type == 's') {
			if (strlen(value) >= keys[i].size)
				die("plan: %s is too long", word);
			strcpy(field, value);
			return;
		}
		number = strtol(value, &end, 0);
		if (end == value || *end)
			die("plan: %s is no number", word);
		if (keys[i].type == 'l')
			*(long *)field = number;
		else
			*(int *)field = number;
		return;
	}
	die("plan: unknown word %s", word);
}

static void parse(struct phase *p, char *text)
{
	char *word, *save = NULL;

	*p = (struct phase){
		.family = 4, .dev = "lo", .gso = 1, .size = 128, .conns = 1, .snaplen = -1,
		.peer = "none", .cpus = 1, .rest = -1,
	};
	for (word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		parse_word(p, word);
	if (!p->id || !p->work[0])
		die("plan: a phase needs id and work");
}

int main(void)
{
	static const char *const mounts[][2] = {
		{ "proc", "/proc" }, { "sysfs", "/sys" }, { "devtmpfs", "/dev" },
		{ "tmpfs", "/tmp" }, { "debugfs", "/sys/kernel/debug" },
		{ "tracefs", "/sys/kernel/tracing" }, { "bpf", "/sys/fs/bpf" },
	};
	struct rlimit files = { 1 << 20, 1 << 20 }, lock = { RLIM_INFINITY, RLIM_INFINITY };
	char line[512];
	struct phase p;
	FILE *plan;
	size_t i;

	for (i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i][1], 0755);
		/* Not every kernel has the last ones. */
		if (mount(mounts[i][0], mounts[i][1], mounts[i][0], 0, NULL) && i < 2 &&
		    errno != EBUSY)
			die("mount %s", mounts[i][1]);
	}
	/* The kernel found no console in the initramfs. */
	if (!freopen("/dev/console", "r", stdin) || !freopen("/dev/console", "w", stdout) ||
	    !freopen("/dev/console", "w", stderr))
		die("console");
	if (setrlimit(RLIMIT_NOFILE, &files)) {
		/* What there is may do; else a socket cannot be opened, which is seen. */
		getrlimit(RLIMIT_NOFILE, &files);
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	setrlimit(RLIMIT_MEMLOCK, &lock);
	write_file("/proc/sys/fs/file-max", "4000000");
	net_init();

	plan = fopen("/plan", "r");
	if (!plan)
		die("/plan");
	say("bench: ready\n");
	while (fgets(line, sizeof(line), plan)) {
		if (line[0] == '#' || line[0] == '\n')
			continue;
		parse(&p, line);
		say("begin %u\n", p.id);
		work_run(&p);
		say("done %u\n", p.id);
	}
	say("bench: end\n");
	end();
	return 0;
}

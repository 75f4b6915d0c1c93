// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fault.h"
#include "stress.h"

#define TRIES	1000

static int probability = -1, times = -1;

static int setting_open(const char *name, const char *setting)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", name, setting);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* While faults are injected a write may fail of one. */
static int setting_write(int fd, const char *text)
{
	int i;

	for (i = 0; i < TRIES; i++) {
		if (write(fd, text, strlen(text)) == (ssize_t)strlen(text))
			return 0;
	}
	return -errno;
}

static int setting(const char *name, const char *setting, const char *text)
{
	int fd, ret;

	fd = setting_open(name, setting);
	if (fd < 0)
		return fd;
	ret = setting_write(fd, text);
	close(fd);
	return ret;
}

int fault_open(const char *name)
{
	static const struct {
		const char	*name;
		const char	*text;
	} settings[] = {
		{ "probability",	"0" },
		{ "interval",		"1" },
		{ "space",		"0" },
		{ "verbose",		"0" },
		{ "task-filter",	"N" },
		{ "ignore-gfp-wait",	"N" },
	};
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		ret = setting(name, settings[i].name, settings[i].text);
		if (ret)
			return ret;
	}
	ret = strcmp(name, "failslab") ? setting(name, "min-order", "0") :
					 setting(name, "cache-filter", "N");
	if (ret)
		return ret;
	probability = setting_open(name, "probability");
	times = setting_open(name, "times");
	return probability < 0 ? probability : times < 0 ? times : 0;
}

int fault_arm(int percent)
{
	char text[16];
	int ret;

	snprintf(text, sizeof(text), "%d", INT_MAX);
	ret = setting_write(times, text);
	if (ret)
		return ret;
	snprintf(text, sizeof(text), "%d", percent);
	return setting_write(probability, text);
}

long fault_disarm(void)
{
	char text[32] = {};

	if (setting_write(probability, "0"))
		stress_fail("fault injection cannot be switched off");
	if (read(times, text, sizeof(text) - 1) <= 0)
		stress_fail("the number of faults cannot be read");
	return INT_MAX - strtol(text, NULL, 10);
}

// SPDX-License-Identifier: GPL-2.0
/* Loads recorder.bpf.o, waits for SIGINT, and tells how many packets the ring buffer took. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static void on_signal(int signal)
{
	(void)signal;
}

int main(int argc, char **argv)
{
	struct bpf_object *object;
	struct bpf_program *program;
	const unsigned long *producer;
	sigset_t set, old;
	int fd;

	if (argc != 2)
		return 2;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, &old);
	signal(SIGINT, on_signal);
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	object = bpf_object__open_file(argv[1], NULL);
	if (!object || bpf_object__load(object)) {
		fprintf(stderr, "recorder: cannot load %s\n", argv[1]);
		return 1;
	}
	bpf_object__for_each_program(program, object)
		if (!bpf_program__attach(program)) {
			fprintf(stderr, "recorder: cannot attach %s\n", bpf_program__name(program));
			return 1;
		}
	fd = bpf_object__find_map_fd_by_name(object, "ring");
	/* The producer's position lies in the second page. */
	producer = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4096);
	if (fd < 0 || producer == MAP_FAILED) {
		fprintf(stderr, "recorder: no ring\n");
		return 1;
	}
	fprintf(stderr, "recorder: listening\n");
	sigsuspend(&old);
	fprintf(stderr, "recorder: %lu bytes written\n", *producer);
	return 0;
}

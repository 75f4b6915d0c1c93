/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs share that look at the memory of the whole machine. */
#ifndef TCP_PCAP_MEMORY_H
#define TCP_PCAP_MEMORY_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest.h"
#include "pcap.h"

/* As root, in the initial network namespace, with nothing captured; else the program ends. */
void memory_begin(void);
/* End the program if @ret is a negative errno. */
void must(int ret, const char *what);

/* A field of /proc/meminfo, in pages. */
long meminfo_pages(const char *field);
/* Wait for RCU, and drop all caches but the captures, so that free memory is comparable. */
void settle(void);
/* Write to a file; returns 0 or a negative errno. */
int memory_write(const char *path, const char *text);

struct pcap_status memory_status(void);
/* Connections with @packets per direction on the client, each with @bytes sent. */
struct pcap_pair *memory_pairs(unsigned int n, int packets, size_t bytes);
void memory_close(struct pcap_pair *pairs, unsigned int n);

#endif /* TCP_PCAP_MEMORY_H */

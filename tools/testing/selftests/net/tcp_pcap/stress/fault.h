/* SPDX-License-Identifier: GPL-2.0 */
/* Fault injection by debugfs. */
#ifndef TCP_PCAP_FAULT_H
#define TCP_PCAP_FAULT_H

/* @name: failslab or fail_page_alloc. Every allocation may fail, of whatever task or interrupt. */
int fault_open(const char *name);
/* From here to fault_disarm() @percent of them do. */
int fault_arm(int percent);
/* The number of allocations that failed. */
long fault_disarm(void);

#endif /* TCP_PCAP_FAULT_H */

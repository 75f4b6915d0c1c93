// SPDX-License-Identifier: GPL-2.0
/*
 * Markers for ../plugin/count.c. An instruction's displacement is fixed when the program is linked, so
 * there is one instruction for each operation and number, and a call to the right one.
 */
#include "bench.h"

#define NUMBERS 4096

/* nopl DISP(%rax); ret: eight bytes each. */
asm(".pushsection .text\n"
    ".balign 64\n"
    "marks:\n"
    ".set op, 1\n"
    ".rept 3\n"
    "  .set id, 0\n"
    "  .rept 4096\n"
    "    .byte 0x0f, 0x1f, 0x80\n"
    "    .long 0x50430000 | (op << 12) | id\n"
    "    ret\n"
    "    .set id, id + 1\n"
    "  .endr\n"
    "  .set op, op + 1\n"
    ".endr\n"
    ".popsection\n");

extern const char marks[];

static void mark(unsigned int op, unsigned int id, enum part part)
{
	unsigned int number = id * PARTS + part;

	if (number >= NUMBERS)
		die("phase %u: no such marker", id);
	((void (*)(void))(marks + 8 * ((op - 1) * NUMBERS + number)))();
}

void mark_start(unsigned int id, enum part part)
{
	mark(1, id, part);
}

void mark_stop(unsigned int id, enum part part)
{
	mark(2, id, part);
}

void mark_dump(unsigned int id, enum part part)
{
	mark(3, id, part);
}

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A multiboot program of known length, to test count.c. The marker that starts a phase is counted, the
 * one that stops it is not: phase 1 has 3002 instructions, phase 2 has 4 and another 4, and phase 3 has 7,
 * of which one is a string instruction that TCG runs 64 times more. Phase 4 has two calls of seven instructions each,
 * the marker, and one between the calls.
 */
	.set MAGIC, 0x1badb002
	.code32
	.section .text
	.align 4
	.long MAGIC, 0, -MAGIC

	/* nopl disp32(%eax) */
	.macro mark op, id
	.byte 0x0f, 0x1f, 0x80
	.long 0x50430000 | \op << 12 | \id
	.endm

	.globl _start
_start:
	mark 1, 1
	mov $1000, %ecx
1:	nop
	dec %ecx
	jnz 1b
	mark 2, 1
	mark 1, 4
call_1:	call two
back_1:	nop
call_2:	call two
back_2:	mark 2, 4
	mark 3, 4
	mark 1, 3
	mov $64, %ecx
	mov $0x200000, %edi
	xor %eax, %eax
	cld
	rep stosb
	nop
	mark 2, 3
	mark 3, 1
	mark 3, 2
	mark 3, 3
	/* End of QEMU: -device isa-debug-exit,iobase=0xf4 */
	mov $0xf4, %edx
	out %al, %dx
2:	hlt
	jmp 2b

two:
	mark 1, 2
	nop
point:	nop
	nop
	mark 2, 2
	ret

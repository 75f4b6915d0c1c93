/* SPDX-License-Identifier: GPL-2.0 */
/* What the walk must find: each entry has one fault, the clean ones none. */
#define FUNCTION(name) .globl name; .type name, @function; name:

	.text
FUNCTION(_RNvCs0_4core9panicking9panic_fmt)
	jmp	_RNvCs0_4core9panicking9panic_fmt
FUNCTION(_RNvCs0_4core6option13unwrap_failed)
	jmp	_RNvCs0_4core9panicking9panic_fmt
FUNCTION(c_function)
	subq	$4096, %rsp
	call	_RNvCs0_4core9panicking9panic_fmt
	ud2
	addq	$4096, %rsp
	ret
FUNCTION(_RNvCs0_7control5inner)
	testl	%edi, %edi
	jne	_RNvCs0_4core6option13unwrap_failed
	ret

FUNCTION(clean)
	pushq	%rbx
	subq	$504, %rsp
	call	c_function
	jmp	*table(,%rax,8)
1:	ud2
	addq	$504, %rsp
	popq	%rbx
	ret
FUNCTION(panic_called)
	call	_RNvCs0_7control5inner
	ret
FUNCTION(panic_by_pointer)
	leaq	_RNvCs0_7control5inner(%rip), %rdi
	jmp	c_function
FUNCTION(panic_by_constant)
	movq	$_RNvCs0_7control5inner, 8(%rdi)
	ret
FUNCTION(frame_sub)
	pushq	%rbx
	subq	$512, %rsp
	ret
FUNCTION(frame_add)
	subq	$0x180, %rsp
	addq	$-128, %rsp
	pushq	%rbx
	ret
FUNCTION(frame_unknown)
	subq	%rax, %rsp
	ret
FUNCTION(frame_below)
	call	frame_sub
	ret
FUNCTION(trap)
	ret
2:	ud2
FUNCTION(trap_unlisted)
	ret
	ud2
FUNCTION(pointer)
	call	*8(%rdi)
	ret

	.section .rodata
table:	.quad	1b

	/* struct bug_entry: address, format, flags (BUGFLAG_WARNING, none). */
	.section __bug_table, "aw"
	.long	1b - ., 0, 1
	.long	2b - ., 0, 0

// SPDX-License-Identifier: GPL-2.0
/*
 * A QEMU plugin that counts the guest's instructions, symbol by symbol, between markers that the
 * guest's program executes.
 *
 *	-plugin count.so,table=FILE,out=FILE[,profile=on][,lines=on][,image=ADDRESS]
 *
 * A marker is an instruction without effect that no compiler writes: nopl DISP(%rax) with
 * DISP = 0x50430000 | operation << 12 | phase. Operation 1 starts a phase, 2 stops it, 3 writes it out.
 * Phases may overlap, and a phase that is started again goes on. The marker that starts a phase is
 * counted, the one that stops it is not.
 *
 * table: lines "HEX-ADDRESS KIND NAME", sorted by address. Kinds:
 *	s	a symbol: what is executed from here to the next symbol is counted for it
 *	e	the same, and how often it is entered is counted, and how often within inclusive functions
 *	c	the address of a call of function NAME, which is counted with all it calls ("inclusive")
 *	r	the address behind such a call
 *	x	an instruction of which it is counted how often it is executed within inclusive functions
 *	d	a data symbol: names cache lines
 *
 * out: for each phase that is written out:
 *	phase ID STARTS INSTRUCTIONS REP-ITERATIONS
 *	sym NAME INSTRUCTIONS
 *	entry NAME TIMES INSIDE
 *	point NAME TIMES
 *	incl NAME CALLS INSTRUCTIONS LOWEST HIGHEST
 *	at NAME ADDRESS TIMES	(profile=on: the instructions in it, of the outermost phase)
 *	lines ACCESSES TRANSFERS INSIDE-ACCESSES INSIDE-TRANSFERS	(lines=on)
 *	xfer SYMBOL STORES LOADS INSIDE-STORES INSIDE-LOADS
 *	line ADDRESS NAME TRANSFERS INSIDE
 *
 * A string instruction with a repeat prefix counts once per execution, as a processor retires it, not
 * once per iteration, as TCG runs it; the iterations are told apart.
 *
 * lines=on: each load and store of the kernel goes through a model of caches that never evict: a
 * transfer is a store to a line that another CPU has touched since this one stored to it last, or a
 * load of a line that another CPU stored to since. "Inside" is within an inclusive function.
 *
 * image: where the kernel is, if not where Linux has it.
 *
 * QEMU must run all CPUs in one thread (-accel tcg,thread=single).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin-v1.h"

#define API __attribute__((visibility("default")))

#define MARKER		0x50430000u
#define MARKER_MASK	0xffff0000u
#define MAX_PHASES	4096
#define MAX_CPUS	8
#define MAX_DEPTH	16
#define MAX_INCL	32
#define MAX_POINTS	32
#define JIT		0xffffffffa0000000ull
#define WORK_END	0x10000000ull
#define TOP_LINES	40
#define IMAGE_SIZE	(64u << 20)

enum { OTHER_KERNEL, OTHER_JIT, USER_WORK, USER_OTHER, PSEUDO };

struct sym {
	uint64_t addr;
	char *name;
	bool entry;
};

struct site {
	uint64_t addr;
	int func;
	bool call;
};

struct point {
	uint64_t addr;
	char *name;
	uint64_t times;
};

struct incl {
	char *name;
	uint64_t calls;
	uint64_t insns;
	uint64_t lowest;
	uint64_t highest;
	uint32_t *hits;		/* by the byte of the kernel's image */
	uint32_t *hit_list;
	uint32_t nr_hits;
};

struct frame {
	int func;
	uint64_t back;
	uint64_t total;
};

struct cpu {
	int depth;
	struct frame stack[MAX_DEPTH];
	uint64_t rep_at;
	uint64_t rep_total;
};

struct line {
	uint64_t line;
	uint64_t vaddr;
	uint8_t owner;		/* CPU that stored last, + 1 */
	uint8_t sharers;	/* CPUs that touched it since */
	uint32_t phase;
	uint64_t transfers;
	uint64_t inside;
};

struct xfer {
	uint64_t accesses;
	uint64_t transfers[2];
	uint64_t inside_accesses;
	uint64_t inside[2];
};

struct incl_sum {
	uint64_t calls;
	uint64_t insns;
};

struct phase {
	bool running;
	unsigned int starts;
	uint64_t total0, total;
	uint64_t reps0, reps;
	uint64_t *counts0, *counts;
	uint64_t *entries0, *entries;
	uint64_t *nested0, *nested;
	struct incl_sum incl0[MAX_INCL], incl[MAX_INCL];
	uint64_t points0[MAX_POINTS], points[MAX_POINTS];
};

API int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static FILE *out;
static struct sym *syms;	/* text, from index PSEUDO on */
static struct sym *datas;
static struct site *sites;
static size_t nr_syms, nr_datas, nr_sites;
static struct incl incls[MAX_INCL];
static int nr_incls;
static struct point points[MAX_POINTS];
static int nr_points;
static uint64_t *counts, *entries, *nested;
static uint64_t total, reps;
static struct cpu cpus[MAX_CPUS];
static struct phase *phases[MAX_PHASES];
static int nr_running;
static bool profile, track;
/* Where the kernel's half of the address space and its image begin. */
static uint64_t kernel = 0xffff800000000000ull, image = 0xffffffff81000000ull;

static struct line *table;
static size_t table_size, table_used;
static struct xfer *xfers;
static uint32_t epoch;

static void die(const char *what)
{
	fprintf(stderr, "count.so: %s\n", what);
	exit(1);
}

static void *zalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);

	if (!p)
		die("out of memory");
	return p;
}

/* The index of the last of n symbols at or below addr, -1 if there is none. */
static long find_sym(const struct sym *s, size_t n, uint64_t addr)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (s[mid].addr <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return (long)low - 1;
}

static size_t sym_of(uint64_t addr)
{
	long i;

	if (addr < kernel)
		return addr < WORK_END ? USER_WORK : USER_OTHER;
	if (addr >= JIT)
		return OTHER_JIT;
	i = find_sym(syms + PSEUDO, nr_syms - PSEUDO, addr);
	return i < 0 ? OTHER_KERNEL : PSEUDO + i;
}

static const struct site *site_at(uint64_t addr)
{
	size_t low = 0, high = nr_sites;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (sites[mid].addr < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low < nr_sites && sites[low].addr == addr ? &sites[low] : NULL;
}

/* Phases */

static void phase_start(struct phase *p)
{
	int i;

	p->running = true;
	p->starts++;
	p->total0 = total;
	p->reps0 = reps;
	memcpy(p->counts0, counts, nr_syms * sizeof(*counts));
	memcpy(p->entries0, entries, nr_syms * sizeof(*entries));
	memcpy(p->nested0, nested, nr_syms * sizeof(*nested));
	for (i = 0; i < nr_incls; i++)
		p->incl0[i] = (struct incl_sum){ incls[i].calls, incls[i].insns };
	for (i = 0; i < nr_points; i++)
		p->points0[i] = points[i].times;
	/* These are of the outermost phase. */
	if (nr_running++)
		return;
	for (i = 0; i < nr_incls; i++) {
		incls[i].lowest = UINT64_MAX;
		incls[i].highest = 0;
		while (incls[i].nr_hits)
			incls[i].hits[incls[i].hit_list[--incls[i].nr_hits]] = 0;
	}
	if (track) {
		epoch++;
		memset(xfers, 0, nr_syms * sizeof(*xfers));
	}
}

static int by_transfers(const void *a, const void *b)
{
	const struct line *const *x = a, *const *y = b;

	if ((*x)->transfers != (*y)->transfers)
		return (*x)->transfers < (*y)->transfers ? 1 : -1;
	return (*x)->line < (*y)->line ? -1 : 1;
}

static void print_lines(void)
{
	struct line **hot = zalloc(table_used, sizeof(*hot));
	size_t i, n = 0, shown = 0;
	struct xfer sum = { 0 };

	for (i = 0; i < nr_syms; i++) {
		sum.accesses += xfers[i].accesses;
		sum.inside_accesses += xfers[i].inside_accesses;
		sum.transfers[0] += xfers[i].transfers[0] + xfers[i].transfers[1];
		sum.inside[0] += xfers[i].inside[0] + xfers[i].inside[1];
	}
	fprintf(out, "lines %lu %lu %lu %lu\n", sum.accesses, sum.transfers[0],
		sum.inside_accesses, sum.inside[0]);
	for (i = 0; i < nr_syms; i++)
		if (xfers[i].transfers[0] + xfers[i].transfers[1])
			fprintf(out, "xfer %s %lu %lu %lu %lu\n", syms[i].name,
				xfers[i].transfers[1], xfers[i].transfers[0],
				xfers[i].inside[1], xfers[i].inside[0]);
	for (i = 0; i < table_size; i++)
		if (table[i].line && table[i].phase == epoch && table[i].transfers)
			hot[n++] = &table[i];
	qsort(hot, n, sizeof(*hot), by_transfers);
	for (i = 0; i < n; i++) {
		long d = find_sym(datas, nr_datas, hot[i]->vaddr);

		/* All that is inside, and the hottest of the others. */
		if (shown++ >= TOP_LINES && !hot[i]->inside)
			continue;
		fprintf(out, "line %lx %s %lu %lu\n", hot[i]->vaddr,
			d < 0 || hot[i]->vaddr < datas[0].addr ? "-" : datas[d].name,
			hot[i]->transfers, hot[i]->inside);
	}
	free(hot);
}

static void phase_stop(struct phase *p)
{
	size_t i;

	p->running = false;
	nr_running--;
	p->total += total - p->total0;
	p->reps += reps - p->reps0;
	for (i = 0; i < nr_syms; i++) {
		p->counts[i] += counts[i] - p->counts0[i];
		p->entries[i] += entries[i] - p->entries0[i];
		p->nested[i] += nested[i] - p->nested0[i];
	}
	for (i = 0; i < (size_t)nr_incls; i++) {
		p->incl[i].calls += incls[i].calls - p->incl0[i].calls;
		p->incl[i].insns += incls[i].insns - p->incl0[i].insns;
	}
	for (i = 0; i < (size_t)nr_points; i++)
		p->points[i] += points[i].times - p->points0[i];
}

static void phase_dump(const struct phase *p, unsigned int id)
{
	size_t i, j;

	fprintf(out, "phase %u %u %lu %lu\n", id, p->starts, p->total, p->reps);
	for (i = 0; i < nr_syms; i++) {
		if (p->counts[i])
			fprintf(out, "sym %s %lu\n", syms[i].name, p->counts[i]);
		if (p->entries[i])
			fprintf(out, "entry %s %lu %lu\n", syms[i].name, p->entries[i],
				p->nested[i]);
	}
	for (i = 0; i < (size_t)nr_points; i++)
		if (p->points[i])
			fprintf(out, "point %s %lu\n", points[i].name, p->points[i]);
	for (i = 0; i < (size_t)nr_incls; i++) {
		if (!p->incl[i].calls)
			continue;
		fprintf(out, "incl %s %lu %lu %lu %lu\n", incls[i].name, p->incl[i].calls,
			p->incl[i].insns, incls[i].lowest, incls[i].highest);
		for (j = 0; j < incls[i].nr_hits; j++)
			fprintf(out, "at %s %lx %u\n", incls[i].name, image + incls[i].hit_list[j],
				incls[i].hits[incls[i].hit_list[j]]);
	}
	if (track)
		print_lines();
	fprintf(out, "end %u\n", id);
	fflush(out);
}

static void on_marker(unsigned int vcpu, void *udata)
{
	uintptr_t marker = (uintptr_t)udata;
	unsigned int id = marker & 0xfff, op = marker >> 12 & 0xf;
	struct phase *p = phases[id];

	(void)vcpu;
	if (!p) {
		p = phases[id] = zalloc(1, sizeof(*p));
		p->counts0 = zalloc(nr_syms, sizeof(uint64_t));
		p->counts = zalloc(nr_syms, sizeof(uint64_t));
		p->entries0 = zalloc(nr_syms, sizeof(uint64_t));
		p->entries = zalloc(nr_syms, sizeof(uint64_t));
		p->nested0 = zalloc(nr_syms, sizeof(uint64_t));
		p->nested = zalloc(nr_syms, sizeof(uint64_t));
	}
	if (op == 1 && !p->running)
		phase_start(p);
	else if (op == 2 && p->running)
		phase_stop(p);
	else if (op == 3 && !p->running)
		phase_dump(p, id);
	else
		fprintf(out, "bad marker %u of phase %u\n", op, id);
}

/* Functions with all they call */

static void on_call(unsigned int vcpu, void *udata)
{
	const struct site *site = udata;
	struct cpu *cpu = &cpus[vcpu];
	struct frame *f;

	if (cpu->depth == MAX_DEPTH)
		return;
	f = &cpu->stack[cpu->depth++];
	f->func = site->func;
	f->back = site[1].addr;
	f->total = total;
}

/* The place behind a call is also reached without the call. */
static void on_return(unsigned int vcpu, void *udata)
{
	const struct site *site = udata;
	struct cpu *cpu = &cpus[vcpu];
	struct frame *f;
	struct incl *in;
	uint64_t insns;

	if (!cpu->depth || cpu->stack[cpu->depth - 1].back != site->addr)
		return;
	f = &cpu->stack[--cpu->depth];
	in = &incls[f->func];
	insns = total - f->total;
	in->calls++;
	in->insns += insns;
	if (insns < in->lowest)
		in->lowest = insns;
	if (insns > in->highest)
		in->highest = insns;
}

static void on_hit(unsigned int vcpu, void *udata)
{
	uint32_t at = (uintptr_t)udata - image;
	struct incl *in;

	if (!nr_running || !cpus[vcpu].depth)
		return;
	in = &incls[cpus[vcpu].stack[0].func];
	if (!in->hits) {
		/* What is not touched takes no memory. */
		in->hits = zalloc(IMAGE_SIZE, sizeof(*in->hits));
		in->hit_list = zalloc(IMAGE_SIZE, sizeof(*in->hit_list));
	}
	if (!in->hits[at]++)
		in->hit_list[in->nr_hits++] = at;
}

static void on_point(unsigned int vcpu, void *udata)
{
	((struct point *)udata)->times += cpus[vcpu].depth > 0;
}

static void on_entry(unsigned int vcpu, void *udata)
{
	entries[(uintptr_t)udata]++;
	nested[(uintptr_t)udata] += cpus[vcpu].depth > 0;
}

/* String instructions */

static void on_rep(unsigned int vcpu, void *udata)
{
	struct cpu *cpu = &cpus[vcpu];
	uint64_t addr = (uintptr_t)udata;

	if (cpu->rep_at == addr && cpu->rep_total == total) {
		reps++;
		return;
	}
	counts[sym_of(addr)]++;
	total++;
	if (profile && addr - image < IMAGE_SIZE)
		on_hit(vcpu, udata);
	cpu->rep_at = addr;
	cpu->rep_total = total;
}

static bool is_rep(const uint8_t *insn, size_t size)
{
	bool prefix = false;
	size_t i;

	for (i = 0; i < size; i++) {
		if (insn[i] == 0xf2 || insn[i] == 0xf3)
			prefix = true;
		else if (insn[i] != 0x66 && insn[i] != 0x67 && (insn[i] & 0xf0) != 0x40)
			break;
	}
	if (!prefix || i >= size)
		return false;
	switch (insn[i]) {
	case 0x6c ... 0x6f:
	case 0xa4 ... 0xa7:
	case 0xaa ... 0xaf:
		return true;
	default:
		return false;
	}
}

/* Cache lines */

static struct line *line_of(uint64_t number);

static void grow(void)
{
	struct line *old = table;
	size_t i, size = table_size;

	table_size = size ? size * 2 : 1 << 16;
	table = zalloc(table_size, sizeof(*table));
	table_used = 0;
	for (i = 0; i < size; i++)
		if (old[i].line)
			*line_of(old[i].line) = old[i];
	free(old);
}

static struct line *line_of(uint64_t number)
{
	size_t i;

	if (table_used * 2 >= table_size)
		grow();
	i = (number * 0x9e3779b97f4a7c15ull >> 20) & (table_size - 1);
	while (table[i].line && table[i].line != number)
		i = (i + 1) & (table_size - 1);
	if (!table[i].line) {
		table[i].line = number;
		table_used++;
	}
	return &table[i];
}

static void on_access(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *udata)
{
	struct qemu_plugin_hwaddr *hw = qemu_plugin_get_hwaddr(info, vaddr);
	struct xfer *x = &xfers[(uintptr_t)udata];
	bool store = qemu_plugin_mem_is_store(info), inside = cpus[vcpu].depth;
	uint8_t self = 1 << vcpu;
	struct line *line;
	bool transfer;

	if (!hw || qemu_plugin_hwaddr_is_io(hw))
		return;
	/* Physical lines, as several addresses may name one; 0 is an empty place. */
	line = line_of((qemu_plugin_hwaddr_phys_addr(hw) >> 6) + 1);
	if (store) {
		transfer = line->sharers & ~self;
		line->owner = vcpu + 1;
		line->sharers = self;
	} else {
		transfer = line->owner && line->owner != vcpu + 1 && !(line->sharers & self);
		line->sharers |= self;
	}
	x->accesses++;
	x->inside_accesses += inside;
	if (!transfer)
		return;
	if (line->phase != epoch) {
		line->phase = epoch;
		line->transfers = line->inside = 0;
	}
	line->vaddr = vaddr;
	line->transfers++;
	line->inside += inside;
	x->transfers[store]++;
	x->inside[store] += inside;
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t i, j, n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const uint8_t *bytes = qemu_plugin_insn_data(insn);
		uint64_t addr = qemu_plugin_insn_vaddr(insn);
		size_t size = qemu_plugin_insn_size(insn), s = sym_of(addr);
		const struct site *site;
		uint32_t disp;

		if (addr >= kernel) {
			site = site_at(addr);
			if (site)
				qemu_plugin_register_vcpu_insn_exec_cb(insn,
					site->call ? on_call : on_return, QEMU_PLUGIN_CB_NO_REGS,
					(void *)site);
			for (j = 0; j < (size_t)nr_points; j++)
				if (points[j].addr == addr)
					qemu_plugin_register_vcpu_insn_exec_cb(insn, on_point,
						QEMU_PLUGIN_CB_NO_REGS, &points[j]);
			if (syms[s].entry && syms[s].addr == addr)
				qemu_plugin_register_vcpu_insn_exec_cb(insn, on_entry,
					QEMU_PLUGIN_CB_NO_REGS, (void *)s);
			if (track)
				qemu_plugin_register_vcpu_mem_cb(insn, on_access,
					QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, (void *)s);
		}
		if (size == 7 && bytes[0] == 0x0f && bytes[1] == 0x1f && bytes[2] == 0x80) {
			memcpy(&disp, bytes + 3, sizeof(disp));
			if ((disp & MARKER_MASK) == MARKER)
				qemu_plugin_register_vcpu_insn_exec_cb(insn, on_marker,
					QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)disp);
		}
		if (is_rep(bytes, size)) {
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_rep,
				QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)addr);
			continue;
		}
		if (profile && addr - image < IMAGE_SIZE)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_hit, QEMU_PLUGIN_CB_NO_REGS,
				(void *)(uintptr_t)addr);
		qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64,
			&counts[s], 1);
		qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64,
			&total, 1);
	}
}

static int incl_named(const char *name)
{
	int i;

	for (i = 0; i < nr_incls; i++)
		if (!strcmp(incls[i].name, name))
			return i;
	if (nr_incls == MAX_INCL)
		die("too many inclusive functions");
	incls[nr_incls].name = strdup(name);
	return nr_incls++;
}

static void read_table(const char *path)
{
	static const char *const pseudo[] = { "[kernel]", "[jit]", "[work]", "[user]" };
	FILE *f = path ? fopen(path, "r") : NULL;
	size_t room = 1 << 18, i;
	char name[1024], kind;
	uint64_t addr;

	if (!f)
		die("table=FILE: cannot read it");
	syms = zalloc(room, sizeof(*syms));
	datas = zalloc(room, sizeof(*datas));
	sites = zalloc(room, sizeof(*sites));
	for (i = 0; i < PSEUDO; i++)
		syms[nr_syms++].name = strdup(pseudo[i]);
	while (fscanf(f, "%lx %c %1023s", &addr, &kind, name) == 3) {
		if (nr_syms == room || nr_datas == room || nr_sites == room || nr_points == MAX_POINTS)
			die("table too large");
		if (kind == 's' || kind == 'e')
			syms[nr_syms++] = (struct sym){ .addr = addr, .name = strdup(name),
							   .entry = kind == 'e' };
		else if (kind == 'd')
			datas[nr_datas++] = (struct sym){ .addr = addr, .name = strdup(name) };
		else if (kind == 'x')
			points[nr_points++] = (struct point){ .addr = addr, .name = strdup(name) };
		else if (kind == 'c' || kind == 'r')
			sites[nr_sites++] = (struct site){ addr, incl_named(name), kind == 'c' };
		else
			die("table: unknown kind");
	}
	if (!feof(f))
		die("table: bad line");
	fclose(f);
	/* A call is followed by its return address; two calls in a row would share one. */
	for (i = 0; i < nr_sites; i++)
		if (sites[i].call && (i + 1 == nr_sites || sites[i + 1].call))
			die("table: a call without the place behind it");
}

API int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
	const char *path = NULL;
	int i;

	if (!info->system_emulation || info->system.max_vcpus > MAX_CPUS)
		die("for system emulation with at most 8 CPUs");
	for (i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "table=", 6))
			path = argv[i] + 6;
		else if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
		else if (!strcmp(argv[i], "profile=on"))
			profile = true;
		else if (!strcmp(argv[i], "lines=on"))
			track = true;
		else if (!strncmp(argv[i], "image=", 6))
			kernel = image = strtoull(argv[i] + 6, NULL, 16);
		else
			die("unknown argument");
	}
	if (!out)
		die("out=FILE: cannot write it");
	read_table(path);
	counts = zalloc(nr_syms, sizeof(*counts));
	entries = zalloc(nr_syms, sizeof(*entries));
	nested = zalloc(nr_syms, sizeof(*nested));
	xfers = zalloc(nr_syms, sizeof(*xfers));
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
	return 0;
}

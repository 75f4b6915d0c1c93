#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
What lies in memory against what is counted, in the vmcore of a guest in which everything raced: rings, records, pages, accounts.

Environment: VMCORE and VMLINUX; MOMENT: "rest", when nobody was at work any more, so that all has to agree, or "race", when
other processors were stopped in the middle of it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "drgn"))

from drgn import Object, Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.mm import compound_head, compound_nr
from drgn.helpers.linux.net import skb_shinfo
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.slab import find_containing_slab_cache
from tcp_pcap_reader.layout import Layout
from tcp_pcap_reader.limits import CONTAINERS, FRAGS, HOST, MEM
from tcp_pcap_reader.memory import read_pointers
from tcp_pcap_reader.records import Record, Slot, records
from tcp_pcap_reader.report import Report
from tcp_pcap_reader.walk import Capture, Ring, captures

from tap import Tap, environment

CONTAINER = 1
"""TCP_PCAP_CAPTURE_CONTAINER"""
F_CONTAINER = 1 << 5
"""TCP_PCAP_F_CONTAINER"""
# In the hands of the owner, of one who reclaims, and of one who lowers a limit.
IN_HAND = 3
# Two processors may have been stopped while they changed a list; three threads while they moved packets to a ring of another size.
STOPPED = 5
SHOWN = 20


class Memory:
    """Everything that the test looks at, read once."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.layout = Layout(prog)
        self.report = Report()
        self.captures = list(captures(self.layout, self.report))
        self.slots = {
            (capture.address, ring.direction): [
                *self._left_over(ring),
                *records(self.layout, self.report, capture, ring),
            ]
            for capture, ring in self._rings()
        }
        self.stocks = [per_cpu(prog["tcp_pcap_stocks"], cpu) for cpu in for_each_possible_cpu(prog)]

    def _rings(self) -> Iterator[tuple[Capture, Ring]]:
        for capture in self.captures:
            for ring in capture.rings.values():
                yield capture, ring

    def _left_over(self, ring: Ring) -> Iterator[Slot]:
        """Records that reclaim put back after their successors were lost: the reader leaves them out."""
        for number, address in enumerate(ring.slots):
            if not address:
                continue
            skb = Object(self.prog, self.layout.skb_type, address=address).read_()
            rec = Object(self.prog, self.layout.rec_type, address=skb.head.value_()).read_().value_()
            if ring.oldest - ring.size <= rec["serial"] < ring.oldest and rec["serial"] % ring.size == number:
                yield Slot(Record(**{field.name: rec[field.name] for field in fields(Record)}), skb, address)

    def rings(self) -> Iterator[tuple[str, Capture, Ring, list[Slot]]]:
        """All rings with their records, and what to call them."""
        for capture, ring in self._rings():
            yield f"{capture.name}, ring {ring.name}", capture, ring, self.slots[capture.address, ring.direction]

    def records(self) -> Iterator[tuple[str, Slot]]:
        """All records, and what to call them."""
        for where, _, _, slots in self.rings():
            for slot in slots:
                yield f"{where}, serial {slot.record.serial}", slot

    def payer(self, capture: Capture) -> int:
        """Who is charged for a history."""
        flags = Object(self.prog, self.layout.pcap_type, address=capture.address).flags.value_()
        return CONTAINERS if flags & CONTAINER else HOST

    def slab_size(self, address: int) -> int:
        """What the allocator takes for the object at an address."""
        cache = find_containing_slab_cache(self.prog, address)
        if not cache:
            raise LookupError(f"{address:#x} is no object of a slab cache")
        return cache.object_size.value_()

    def stocked(self, member: Callable[[Object], Object]) -> int:
        """The sum of a counter over the CPUs."""
        return sum(member(stock).counter.value_() for stock in self.stocks)


def damage_problems(memory: Memory, most: int, fewest: int) -> list[str]:
    """The reader finds histories and packets, and nothing that does not fit."""
    packets = sum(1 for _ in memory.records())
    print(f"# {len(memory.captures)} histories, {packets} packets")
    problems = [f"{memory.report.damaged} things are damaged"] if memory.report.damaged > most else []
    pushed_out = sum(ring.evicted + ring.reclaimed for _, _, ring, _ in memory.rings())
    if not pushed_out:
        problems.append("no ring ever gave a packet up")
    if len(memory.captures) < 10 or packets < fewest:
        problems.append(f"only {len(memory.captures)} histories with {packets} packets")
    return problems


def ring_problems(memory: Memory, in_hand: int, most: int) -> list[str]:
    """Every packet is accounted for: recorded is kept, evicted or reclaimed, and numbered is recorded or lost."""
    problems = []
    for where, _, ring, slots in memory.rings():
        kept = ring.captured - ring.evicted - ring.reclaimed
        if abs(kept - ring.kept) > in_hand or not len(slots) <= ring.kept <= len(slots) + in_hand:
            problems.append(f"{where}: {ring.kept} slots in use, {len(slots)} valid records, {kept} by its counters")
        if not 0 <= ring.next - ring.captured - ring.lost <= in_hand:
            problems.append(f"{where}: next is {ring.next}, with {ring.captured} captured and {ring.lost} lost")
    return problems if len(problems) > most else []


def order_problems(memory: Memory) -> list[str]:
    """The younger packet of a ring has the higher number in its connection, and no number is there twice."""
    problems = []
    for capture in memory.captures:
        orders = [slot.record.order for ring in capture.rings.values() for slot in memory.slots[capture.address, ring.direction]]
        if len(set(orders)) != len(orders):
            problems.append(f"{capture.name}: two packets with one number")
    for where, _, _, slots in memory.rings():
        orders = [slot.record.order for slot in slots]
        if orders != sorted(orders):
            problems.append(f"{where}: out of order: {orders}")
    return problems


def pinned_pages(slot: Slot) -> tuple[int, list[Object]]:
    """Pages that the frags of a record keep in memory, counted as the kernel does, and the compound page of each frag."""
    shared = skb_shinfo(slot.skb)
    pages = [
        compound_head(Object(slot.skb.prog_, "struct page *", value=shared.frags[i].netmem.value_() & ~1))
        for i in range(shared.nr_frags.value_())
    ]
    addresses = [page.value_() for page in pages]
    firsts = [page for i, page in enumerate(pages) if not i or addresses[i] != addresses[i - 1]]
    return sum(compound_nr(page).value_() for page in firsts), pages


def page_problems(memory: Memory) -> list[str]:
    """A record is charged with the pages that its frags keep, and each of these has a reference for it."""
    problems = []
    held: Counter[int] = Counter()
    counts: dict[int, int] = {}
    for where, slot in memory.records():
        pinned, pages = pinned_pages(slot)
        if pinned != slot.record.pages:
            problems.append(f"{where}: {slot.record.pages} pages charged, {pinned} kept")
        for page in pages:
            held[page.value_()] += 1
            counts[page.value_()] = page._refcount.counter.value_()
    problems += [f"page {page:#x}: {counts[page]} references, {n} records" for page, n in held.items() if counts[page] < n]
    if not held:
        problems.append("no record keeps a page")
    return problems


def payload_problems(memory: Memory) -> list[str]:
    """A ring knows of no fewer records with pages than there are."""
    problems = []
    for where, capture, ring, slots in memory.rings():
        pcap = Object(memory.prog, memory.layout.pcap_type, address=capture.address)
        said = pcap.member_("in" if ring.name == "in" else "out").payloads.counter.value_()
        there = sum(1 for slot in slots if slot.record.pages)
        if said != there:
            problems.append(f"{where}: {said} records with pages by its counter, {there} there")
    return problems


def count_problems(memory: Memory) -> list[str]:
    """The sums over the CPUs are what is there."""
    problems = []
    for name, there in (
        ("packets", sum(1 for _ in memory.records())),
        ("payloads", sum(1 for _, slot in memory.records() if slot.record.pages)),
    ):
        said = memory.stocked(lambda stock: getattr(stock, name))
        if said != there:
            problems.append(f"{name}: {said} by the CPUs' counters, {there} there")
    return problems


def charges(memory: Memory) -> dict[tuple[int, int], int]:
    """What should be charged, by resource and payer, without what CPUs keep for later."""
    sums: Counter[tuple[int, int]] = Counter()
    width = memory.prog.type("void *").size
    for _, capture, ring, slots in memory.rings():
        payer = memory.payer(capture)
        for slot in slots:
            its_payer = CONTAINERS if slot.record.flags & F_CONTAINER else HOST
            if its_payer != payer:
                raise ValueError(f"{capture.name}: a record of another payer")
            sums[MEM, payer] += slot.skb.truesize.value_()
            sums[FRAGS, payer] += slot.record.pages
        if ring.chunks:
            sums[MEM, payer] += memory.slab_size(ring.chunks)
            chunks = read_pointers(memory.prog, ring.chunks, ring.nr_chunks)
            per_chunk = memory.layout.chunk_slots
            for number, chunk in enumerate(chunks):
                if chunk:
                    length = min(per_chunk, ring.size - number * per_chunk)
                    size = memory.slab_size(chunk)
                    if size < length * width:
                        raise ValueError(f"{capture.name}: chunk {number} is too small")
                    sums[MEM, payer] += size
    for capture in memory.captures:
        sums[MEM, memory.payer(capture)] += memory.slab_size(capture.address)
    return sums


def account_problems(memory: Memory) -> list[str]:
    """What is reserved is what is kept, what the CPUs keep for later, and what they have in stock, to the last page and byte."""
    problems = []
    sums = charges(memory)
    for name, resource in (("frags", FRAGS), ("mem", MEM)):
        for payer, suffix in ((HOST, ""), (CONTAINERS, "_containers")):
            payers = (HOST, CONTAINERS) if payer == HOST else (CONTAINERS,)
            account = memory.prog[f"tcp_pcap_{name}{suffix}"]
            reserved, peak = account.reserved.counter.value_(), account.peak.counter.value_()
            stock = memory.stocked(lambda one: one.left_containers[resource])
            if payer == HOST:
                stock += memory.stocked(lambda one: one.left[resource])
            spare = sum(memory.stocked(lambda one: one.spares[p].bytes) for p in payers) if resource == MEM else 0
            used = sum(sums[resource, p] for p in payers)
            print(f"# {name}{suffix}: {used} in use, {spare} kept for later, {stock} in stock, {reserved} reserved, peak {peak}")
            if used + spare + stock != reserved:
                problems.append(f"{name}{suffix}: {used} in use + {spare} for later + {stock} in stock != {reserved} reserved")
            if not reserved <= peak:
                problems.append(f"{name}{suffix}: {reserved} reserved, but a peak of {peak}")
            if payer == HOST and not used:
                problems.append(f"{name}: nothing is in use")
    return problems


def spare_problems(memory: Memory) -> list[str]:
    """What a CPU keeps for later takes the bytes that it is charged with, and holds no page."""
    problems = []
    if not memory.stocked(lambda stock: stock.spares[HOST].bytes):
        problems.append("nothing is kept for later")
    for stock in memory.stocks:
        for payer in (HOST, CONTAINERS):
            spares = stock.spares[payer]
            where = f"CPU {stock.cpu.value_()}, payer {payer}"
            skbs = [spares.skbs[i] for i in range(spares.nr.value_())]
            nr = spares.nr_histories.value_()
            said = sum(spares.history_bytes[i].value_() for i in range(nr))
            there = sum(skb.truesize.value_() for skb in skbs) + said
            if there != spares.bytes.counter.value_() or spares.busy.counter.value_():
                problems.append(f"{where}: {spares.bytes.counter.value_()} bytes charged, {there} there")
            if any(skb_shinfo(skb).nr_frags.value_() for skb in skbs):
                problems.append(f"{where}: a record that is not in use has frags")
            for i in range(nr):
                pcap = spares.histories[i]
                size = memory.slab_size(pcap.value_())
                for ring in (pcap.member_("in"), pcap.out):
                    size += _empty_ring_size(memory, ring)
                if size != spares.history_bytes[i].value_():
                    problems.append(f"{where}: history {i} takes {size} bytes, not {spares.history_bytes[i].value_()}")
    return problems


def _empty_ring_size(memory: Memory, ring: Object) -> int:
    """:raises ValueError: it is not empty"""
    if not ring.chunks:
        return 0
    size = memory.slab_size(ring.chunks.value_())
    for number in range(ring.nr_chunks.value_()):
        chunk = ring.chunks[number].value_()
        if not chunk:
            continue
        length = min(memory.layout.chunk_slots, ring.size.value_() - number * memory.layout.chunk_slots)
        if any(read_pointers(memory.prog, chunk, length)):
            raise ValueError("a history that is kept for later has a packet")
        size += memory.slab_size(chunk)
    return size


def main() -> int:
    """:return: exit status"""
    moment = environment("MOMENT")
    prog = Program()
    prog.set_core_dump(environment("VMCORE"))
    prog.load_debug_info([environment("VMLINUX")])
    memory = Memory(prog)
    at_rest = moment == "rest"
    in_hand, most = (0, 0) if at_rest else (IN_HAND, STOPPED)
    tests = [
        ("histories and packets are there, and whole", partial(damage_problems, most=most, fewest=500 if at_rest else 1)),
        ("every packet is kept, evicted, reclaimed or lost", partial(ring_problems, in_hand=in_hand, most=most)),
        ("packets are in order", order_problems),
    ]
    if at_rest:
        tests += [
            ("pages are charged as they are kept", page_problems),
            ("rings know how many packets have pages", payload_problems),
            ("the sums of the CPUs agree with what is there", count_problems),
            ("the accounts agree with what is there", account_problems),
            ("what is kept for later agrees with its charge", spare_problems),
        ]
    tap = Tap()
    for name, test in tests:
        tap.run(name, lambda test=test: test(memory)[:SHOWN])
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())

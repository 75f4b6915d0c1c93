# SPDX-License-Identifier: GPL-2.0
"""From tcp_pcap_shards to the slots: lists, captures, rings. Trusts nothing that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .layout import DIR_IN, DIR_OUT, Layout
from .memory import READ_ERRORS, read_object, read_pointers
from .report import QuietReport, Report

MAX_CAPTURES = 1 << 24
"""More sockets than a host can have: a list that is longer is not a list."""

_LIVE_TRIES = 5


@dataclass
class Ring:
    """
    A struct tcp_pcap_ring.

    :ivar slots: address of the ``struct sk_buff`` in each slot, 0 for none; empty before the first packet
    """

    direction: int
    size: int
    nr_chunks: int
    chunks: int
    next: int
    captured: int
    evicted: int
    header_only: int
    lost: int
    reclaimed: int
    stripped: int
    slots: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "in" if self.direction == DIR_IN else "out"

    @property
    def oldest(self) -> int:
        """Serial of the oldest packet that can be there."""
        return max(0, self.next - self.size)

    @property
    def kept(self) -> int:
        """Slots in use."""
        return sum(1 for skb in self.slots if skb)


@dataclass
class Capture:
    """
    A struct tcp_pcap.

    :ivar sk: address of the ``struct sock``, 0 if it is gone
    :ivar stamp: CLOCK_MONOTONIC of its last activity in ns
    """

    index: int
    address: int
    sk: int
    netns_cookie: int
    stamp: int
    size_in: int
    size_out: int
    rings: dict[int, Ring]

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"socket {self.index} (tcp_pcap {self.address:#x})"


# Lists


def _chase(layout: Layout, head: int, forward: bool, seen: set[int]) -> tuple[list[int], str | None]:
    """
    Follow a list until it comes back to its head or goes wrong.

    :param head: ``struct list_head *``
    :param seen: nodes known already; the new ones are added
    :return: nodes, and what is wrong
    """
    prog = layout.prog
    width = prog.type("void *").size
    ahead, back = (0, width) if forward else (width, 0)
    nodes: list[int] = []
    current = head
    try:
        while len(seen) <= MAX_CAPTURES:
            following = prog.read_word(current + ahead)
            if following == head:
                return nodes, None
            if not layout.is_kernel(following):
                return nodes, f"leads from {current:#x} to {following:#x}"
            if following in seen:
                return nodes, f"runs in a circle at {following:#x}"
            if prog.read_word(following + back) != current:
                return nodes, f"is broken between {current:#x} and {following:#x}"
            seen.add(following)
            nodes.append(following)
            current = following
    except READ_ERRORS:
        return nodes, f"leads from {current:#x} to memory that cannot be read"
    return nodes, "does not end"


def _shard_nodes(layout: Layout, head: int, seen: set[int]) -> tuple[list[int], str | None]:
    """Nodes of a shard's list. What lies behind a damaged node is reached from the other end."""
    mine: set[int] = set(seen)
    nodes, problem = _chase(layout, head, True, mine)
    if problem:
        behind, _ = _chase(layout, head, False, mine)
        nodes += reversed(behind)
    return nodes, problem


def captures(layout: Layout, report: Report) -> Iterator[Capture]:
    """Every socket's history."""
    seen: set[int] = set()
    index = 0
    for shard in range(layout.shards.type_.length or 0):
        head = layout.shards[shard].captures.address_
        for _ in range(_LIVE_TRIES if layout.live else 1):
            nodes, problem = _shard_nodes(layout, head, seen)
            if not problem:
                break
        if problem:
            report.damage(f"the list of shard {shard} {problem}; {len(nodes)} of its sockets were found")
        seen.update(nodes)
        for node in nodes:
            # What a running kernel has closed meanwhile looks like damage.
            capture = _read_capture(layout, QuietReport() if layout.live else report, index, node - layout.node_offset, shard)
            if capture:
                yield capture
            index += 1


def _read_capture(layout: Layout, report: Report, index: int, address: int, shard: int) -> Capture | None:
    """:param address: ``struct tcp_pcap *``"""
    read = read_object(layout, layout.pcap_type, address)
    if read is None:
        report.damage(f"socket {index}: its tcp_pcap at {address:#x} cannot be read")
        return None
    value = read.value_()
    if value["shard"] != shard:
        report.damage(f"socket {index}: {address:#x} is in the list of shard {shard} but is no tcp_pcap of it")
        return None
    capture = Capture(
        index=index,
        address=address,
        sk=value["sk"],
        netns_cookie=value["netns_cookie"],
        stamp=value["stamp"],
        size_in=value["size_in"],
        size_out=value["size_out"],
        rings=_rings(value),
    )
    for ring in capture.rings.values():
        _read_slots(layout, report, capture, ring)
    return capture


def refresh(layout: Layout, capture: Capture, ring: Ring) -> None:
    """Read a ring of the running kernel again: it may have turned over since it was found. It is empty if it is gone."""
    read = read_object(layout, layout.pcap_type, capture.address)
    ring.slots = []
    if read is None or read.sk.value_() != capture.sk:
        return
    fresh = _rings(read.value_())[ring.direction]
    _read_slots(layout, QuietReport(), capture, fresh)
    vars(ring).update(vars(fresh))


# Rings


def _rings(value: dict[str, Any]) -> dict[int, Ring]:
    """:param value: of a ``struct tcp_pcap``"""
    return {DIR_IN: _ring(DIR_IN, value["in"]), DIR_OUT: _ring(DIR_OUT, value["out"])}


def _ring(direction: int, value: dict[str, Any]) -> Ring:
    """:param value: of a ``struct tcp_pcap_ring``"""
    return Ring(
        direction,
        *(
            value[name]
            for name in (
                "size",
                "nr_chunks",
                "chunks",
                "next",
                "captured",
                "evicted",
                "header_only",
                "lost",
                "reclaimed",
                "stripped",
            )
        ),
    )


def _read_slots(layout: Layout, report: Report, capture: Capture, ring: Ring) -> None:
    """Fill in :attr:`Ring.slots`."""
    where = f"{capture.name}, ring {ring.name}"
    per_chunk = layout.chunk_slots
    if ring.size > layout.hard_max:
        report.damage(f"{where}: a size of {ring.size} is impossible")
        ring.size = 0
        return
    if not ring.chunks:
        return
    if ring.nr_chunks != -(-ring.size // per_chunk):
        report.damage(f"{where}: {ring.nr_chunks} chunks for {ring.size} slots are impossible")
        return
    chunks = _pointers(layout, ring.chunks, ring.nr_chunks)
    if chunks is None:
        report.damage(f"{where}: its chunks at {ring.chunks:#x} cannot be read")
        return
    for number, chunk in enumerate(chunks):
        length = min(per_chunk, ring.size - number * per_chunk)
        slots = _pointers(layout, chunk, length) if chunk else None
        if chunk and slots is None:
            report.damage(f"{where}: chunk {number} at {chunk:#x} cannot be read")
        ring.slots += slots or [0] * length


def _pointers(layout: Layout, address: int, count: int) -> list[int] | None:
    """:param address: ``void **``"""
    if not layout.is_kernel(address):
        return None
    try:
        return read_pointers(layout.prog, address, count)
    except READ_ERRORS:
        return None


def slot_pointer(layout: Layout, ring: Ring, number: int) -> int:
    """What a slot holds now."""
    width = layout.prog.type("void *").size
    chunk = layout.prog.read_word(ring.chunks + number // layout.chunk_slots * width)
    return layout.prog.read_word(chunk + number % layout.chunk_slots * width)

# SPDX-License-Identifier: GPL-2.0
"""From tcp_pcap_shards to the records: lists, captures, rings, slots. Trusts nothing that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from drgn import Object, Type

from .layout import DIR_IN, DIR_OUT, KIND_PACKET, VERSION, Layout
from .memory import READ_ERRORS, read_pointers
from .report import Report

MAX_CAPTURES = 1 << 24
"""More sockets than a host can have: a list that is longer is not a list."""
MAX_PACKET = 1 << 20
"""More bytes than TCP puts into one packet (BIG TCP: 512 KiB)."""

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
    """

    index: int
    address: int
    sk: int
    netns_cookie: int
    size_in: int
    size_out: int
    rings: dict[int, Ring]

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"socket {self.index} (tcp_pcap {self.address:#x})"


@dataclass
class Record:
    """A struct tcp_pcap_rec, with the fields of the same names."""

    magic: int
    version: int
    kind: int
    dir: int
    why: int
    serial: int
    time: int
    order: int
    orig_len: int
    gso_segs: int
    gso_size: int
    flags: int
    ip_summed: int
    state: int
    net_len: int
    ca_state: int
    verdict: int
    snd_cwnd: int
    ssthresh: int
    srtt_us: int
    snd_una: int
    snd_nxt: int
    rcv_nxt: int
    rcv_wnd: int


@dataclass
class Slot:
    """
    A record and where it is.

    :ivar skb: value of the ``struct sk_buff``
    """

    record: Record
    skb: Object
    address: int


_RECORD_FIELDS = tuple(f.name for f in fields(Record))


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
            capture = _read_capture(layout, report, index, node - layout.node_offset, shard)
            if capture:
                yield capture
            index += 1


def _read_capture(layout: Layout, report: Report, index: int, address: int, shard: int) -> Capture | None:
    """:param address: ``struct tcp_pcap *``"""
    read = _value(layout, layout.pcap_type, address)
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
        size_in=value["size_in"],
        size_out=value["size_out"],
        rings={DIR_IN: _ring(DIR_IN, value["in"]), DIR_OUT: _ring(DIR_OUT, value["out"])},
    )
    for ring in capture.rings.values():
        _read_slots(layout, report, capture, ring)
    return capture


# Rings


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


# Records


def records(layout: Layout, report: Report, capture: Capture, ring: Ring) -> list[Slot]:
    """The valid records of a ring, oldest first."""
    found = []
    for number, address in enumerate(ring.slots):
        if not address:
            continue
        slot, problem = _read_record(layout, ring, number, address)
        if slot:
            found.append(slot)
        elif problem and not (layout.live and _gone(layout, ring, number, address)):
            report.damage(f"{capture.name}, ring {ring.name}, slot {number}: {problem}")
    found.sort(key=lambda slot: slot.record.serial)
    return found


def slot_pointer(layout: Layout, ring: Ring, number: int) -> int:
    """What a slot holds now."""
    width = layout.prog.type("void *").size
    chunk = layout.prog.read_word(ring.chunks + number // layout.chunk_slots * width)
    return layout.prog.read_word(chunk + number % layout.chunk_slots * width)


def _gone(layout: Layout, ring: Ring, number: int, address: int) -> bool:
    """Whether a live kernel has put something else into a slot by now."""
    try:
        return slot_pointer(layout, ring, number) != address
    except READ_ERRORS:
        return True


def still_there(layout: Layout, ring: Ring, slot: Slot) -> bool:
    """Whether a live kernel has left a record alone since it was read. Its memory is reused for later packets."""
    if not layout.live:
        return True
    number = slot.record.serial % ring.size
    if _gone(layout, ring, number, slot.address):
        return False
    again, _ = _read_record(layout, ring, number, slot.address)
    return again is not None and again.record.serial == slot.record.serial


def _read_record(layout: Layout, ring: Ring, number: int, address: int) -> tuple[Slot | None, str | None]:
    """
    :param address: ``struct sk_buff *``
    :return: the record, or what is wrong with it; neither for one that is just being written
    """
    skb = _value(layout, layout.skb_type, address)
    if skb is None:
        return None, f"the sk_buff at {address:#x} cannot be read"
    head = skb.head.value_()
    read = _value(layout, layout.rec_type, head)
    if read is None:
        return None, f"the record at {head:#x} cannot be read"
    value = read.value_()
    record = Record(**{name: value[name] for name in _RECORD_FIELDS})
    problem = _implausible(layout, record, ring)
    if problem:
        return None, f"the record at {head:#x} {problem}"
    if record.serial % ring.size != number:
        return None, f"the record at {head:#x} has serial {record.serial}, which belongs into another slot"
    if record.serial == ring.next or record.serial == ring.oldest - 1:
        return None, None
    if not ring.oldest <= record.serial < ring.next:
        return None, f"the record at {head:#x} has serial {record.serial}, not in [{ring.oldest}, {ring.next})"
    return Slot(record, skb, address), None


def _value(layout: Layout, kind: Type, address: int) -> Object | None:
    """Read an object of the kernel."""
    if not layout.is_kernel(address):
        return None
    try:
        return Object(layout.prog, kind, address=address).read_()
    except READ_ERRORS:
        return None


def _implausible(layout: Layout, record: Record, ring: Ring) -> str | None:
    if record.magic != layout.magic:
        return f"has magic {record.magic:#x}"
    if record.version != VERSION:
        return f"has version {record.version}"
    if record.kind != KIND_PACKET:
        return f"is of kind {record.kind}"
    if record.dir != ring.direction:
        return f"has direction {record.dir}"
    if not record.net_len + 20 <= record.orig_len <= MAX_PACKET:
        return f"has an original length of {record.orig_len}"
    return None

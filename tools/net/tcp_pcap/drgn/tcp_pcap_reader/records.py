# SPDX-License-Identifier: GPL-2.0
"""The records in a ring: which of them are valid, and, on a running kernel, which stayed while they were read."""

from __future__ import annotations

from dataclasses import dataclass, fields

from drgn import Object

from .content import Content, read_content
from .layout import KIND_PACKET, MAX_PACKET, VERSION, Layout
from .memory import READ_ERRORS, read_object
from .report import Report
from .walk import Capture, Ring, refresh, slot_pointer


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
    pages: int


@dataclass
class Slot:
    """
    A record and where it is.

    :ivar skb: value of the ``struct sk_buff``
    :ivar content: the packet, if it had to be read with the record
    """

    record: Record
    skb: Object
    address: int
    content: Content | None = None


_LIVE_TRIES = 3
_RECORD_FIELDS = tuple(f.name for f in fields(Record))


def records(layout: Layout, report: Report, capture: Capture, ring: Ring) -> list[Slot]:
    """The valid records of a ring, oldest first."""
    found = []
    numbers = list(range(len(ring.slots)))
    if layout.live:
        refresh(layout, capture, ring)
        # The youngest first: they stay longest.
        numbers = [serial % ring.size for serial in range(ring.next - 1, ring.oldest - 1, -1)] if ring.slots else []
    for number in numbers:
        address = ring.slots[number]
        if not address:
            continue
        slot, problem = _read_stable(layout, ring, number, address)
        if slot:
            found.append(slot)
        elif problem:
            report.damage(f"{capture.name}, ring {ring.name}, slot {number}: {problem}")
    found.sort(key=lambda slot: slot.record.serial)
    return found


def slot_content(layout: Layout, slot: Slot) -> Content:
    """The packet of a record."""
    return slot.content or read_content(layout, slot.skb, slot.address)


def _read_stable(layout: Layout, ring: Ring, number: int, address: int) -> tuple[Slot | None, str | None]:
    """
    Read a record; on a running kernel with its packet, and only if neither changed meanwhile: memory is reused for later packets.

    :return: as :func:`_read_record`
    """
    slot, problem = _read_record(layout, ring, number, address)
    if not layout.live:
        return slot, problem
    for _ in range(_LIVE_TRIES):
        if slot:
            slot.content = read_content(layout, slot.skb, address)
        try:
            if slot_pointer(layout, ring, number) != address:
                return None, None
        except READ_ERRORS:
            return None, None
        again, problem = _read_record(layout, ring, number, address)
        # All of the record, since what is reclaimed keeps its serial and its place, and loses its payload.
        if slot and again and again.record == slot.record:
            return slot, None
        slot = again
    return None, problem


def _read_record(layout: Layout, ring: Ring, number: int, address: int) -> tuple[Slot | None, str | None]:
    """
    :param address: ``struct sk_buff *``
    :return: the record, or what is wrong with it; neither for one that is just being written, or that should be gone
    """
    skb = read_object(layout, layout.skb_type, address)
    if skb is None:
        return None, f"the sk_buff at {address:#x} cannot be read"
    head = skb.head.value_()
    read = read_object(layout, layout.rec_type, head)
    if read is None:
        return None, f"the record at {head:#x} cannot be read"
    value = read.value_()
    record = Record(**{name: value[name] for name in _RECORD_FIELDS})
    problem = _implausible(layout, record, ring)
    if problem:
        return None, f"the record at {head:#x} {problem}"
    if record.serial % ring.size != number:
        return None, f"the record at {head:#x} has serial {record.serial}, which belongs into another slot"
    if record.serial == ring.next or (layout.live and record.serial > ring.next):
        return None, None
    # Reclaim had it in hand when its successor came, which was lost; it goes with the next packet of this slot.
    if ring.oldest - ring.size <= record.serial < ring.oldest:
        return None, None
    if not ring.oldest <= record.serial < ring.next:
        return None, f"the record at {head:#x} has serial {record.serial}, not in [{ring.oldest}, {ring.next})"
    return Slot(record, skb, address), None


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

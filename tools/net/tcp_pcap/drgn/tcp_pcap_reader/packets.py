# SPDX-License-Identifier: GPL-2.0
"""The packets of a connection in their order, with what is missing between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

from . import headers
from .layout import (
    CHECKSUM_PARTIAL,
    DIR_IN,
    F_LEN_FIXED,
    F_MERGED,
    F_SYNTH,
    Layout,
)
from .report import Report
from .records import Record, Slot, records, slot_content
from .walk import Capture, Ring


@dataclass(frozen=True)
class Gap:
    """
    Packets that are missing between others.

    :ivar first: serial of the first
    :ivar count: how many
    :ivar reason: what became of them, as far as the ring's counters tell
    """

    direction: int
    first: int
    count: int
    reason: str

    def __str__(self) -> str:
        direction = "in" if self.direction == DIR_IN else "out"
        last = self.first + self.count - 1
        serials = f"{self.first}" if self.count == 1 else f"{self.first}-{last}"
        return f"{self.count} packet{'s'[: self.count > 1]} missing ({direction} {serials}): {self.reason}"


@dataclass
class Packet:
    """
    :ivar data: the packet as far as it was kept and could be read, checksums as they were on the wire
    :ivar parsed: its headers, None if they are garbage
    :ivar checksum_ready: whether the TCP checksum in :attr:`data` is the one that belongs there
    """

    record: Record
    data: bytes
    parsed: headers.Headers | None
    checksum_ready: bool

    @property
    def payload(self) -> int:
        """Payload bytes of the original packet."""
        if not self.parsed:
            return 0
        return max(0, self.record.orig_len - self.parsed.net_len - self.parsed.tcp_len)

    @property
    def whole(self) -> bool:
        """Whether all bytes of the packet are there."""
        return len(self.data) >= self.record.orig_len


Found = Union[Slot, Gap]


def missing_reason(ring: Ring) -> str:
    """Why serials of a ring are missing."""
    reclaimed = "reclaimed under memory pressure, or for a lowered limit"
    if ring.lost and ring.reclaimed:
        return f"lost for want of memory, or {reclaimed}"
    if ring.lost:
        return "lost for want of memory"
    if ring.reclaimed:
        return reclaimed
    return "unreadable, or overwritten while the memory was read"


def with_gaps(ring: Ring, slots: list[Slot]) -> Iterator[Found]:
    """
    Records of a ring and the gaps between them, oldest first.

    What is missing before the oldest record was evicted when the ring was smaller, unless the counters say otherwise.
    """
    expected = ring.oldest
    if not (ring.lost or ring.reclaimed) or ring.evicted > ring.oldest:
        expected = slots[0].record.serial if slots else ring.next
    reason = missing_reason(ring)
    for slot in slots:
        serial = slot.record.serial
        if serial > expected:
            yield Gap(ring.direction, expected, serial - expected, reason)
        yield slot
        expected = serial + 1
    if ring.next > expected:
        yield Gap(ring.direction, expected, ring.next - expected, reason)


def in_order(layout: Layout, report: Report, capture: Capture) -> list[Found]:
    """Records and gaps of both directions in the order of the connection; a gap is before the packet that follows it."""
    found: list[tuple[float, Found]] = []
    for ring in capture.rings.values():
        order = float("inf")
        for item in reversed(list(with_gaps(ring, records(layout, report, capture, ring)))):
            if isinstance(item, Slot):
                order = item.record.order
            found.append((order, item))
    found.sort(key=lambda pair: (pair[0], isinstance(pair[1], Slot)))
    return [item for _, item in found]


def read_packet(layout: Layout, report: Report, capture: Capture, slot: Slot) -> Packet:
    """Read one packet."""
    record = slot.record
    ring = capture.rings[record.dir]
    content = slot_content(layout, slot)
    where = f"{capture.name}, ring {ring.name}, serial {record.serial}"
    if content.problem:
        report.damage(f"{where}: {content.problem}")
    parsed = headers.parse(content.data, record.net_len)
    if not parsed and not content.problem:
        report.damage(f"{where}: these are not the headers of a TCP packet")
    data, ready = _finished(record, content.data[: record.orig_len], parsed)
    return Packet(record, data, parsed, ready)


def _finished(record: Record, data: bytes, parsed: headers.Headers | None) -> tuple[bytes, bool]:
    """
    Write the checksums that the network card would have written, or that no longer fit since segments were merged.

    :return: the packet, and whether its TCP checksum is right
    """
    if not parsed:
        return data, False
    packet = bytearray(data)
    if parsed.version == 4 and record.flags & (F_SYNTH | F_LEN_FIXED):
        headers.with_ip_checksum(packet)
    stale = record.ip_summed == CHECKSUM_PARTIAL or bool(record.flags & F_MERGED) or record.gso_segs > 1
    whole = len(packet) == record.orig_len
    if stale and whole:
        headers.with_tcp_checksum(packet, parsed.net_len)
    return bytes(packet), whole or not stale

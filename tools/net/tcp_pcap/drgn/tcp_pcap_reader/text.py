# SPDX-License-Identifier: GPL-2.0
"""What 'list' and 'show' print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from . import headers
from .clock import Clock
from .layout import DIR_IN, DIR_OUT, F_MERGED, ca_state_text, state_text, why_text
from .limits import Limits
from .packets import Gap, Packet
from .sockets import Socket
from .walk import Ring

_NS = 1_000_000_000
_END_OF_CALENDAR = 1 << 63
_INFINITE_SSTHRESH = 0x7FFFFFFF

_WHO = ("#", "STATE", "FAMILY", "LOCAL", "REMOTE", "NETNS", "OWNER")
_COUNTERS = ("KEPT", "CAPTURED", "HEADERS", "LOST", "RECLAIMED", "STRIPPED")
_ALWAYS = ("KEPT",)
_ONLY_WIDE = ("CAPTURED",)

SHOW_HEADER = f"{'TIME':>14} {'DIR':3} {'SERIAL':>7} {'FLAGS':11} {'SEQ':>10} {'ACK':>10} {'LEN':>6} {'WINDOW':>8} {'STATE':12} OPTIONS; NOTES"


def list_lines(sockets: Sequence[Socket], wide: bool) -> Iterable[str]:
    """
    What 'list' prints.

    :param wide: with all counters, also those that are 0 for every socket
    """
    counts = {
        (direction, counter): [_counter(socket, direction, counter) for socket in sockets]
        for direction in (DIR_IN, DIR_OUT)
        for counter in _COUNTERS
    }
    columns: list[list[str]] = []
    for (direction, counter), cells in counts.items():
        if wide or counter in _ALWAYS or (counter not in _ONLY_WIDE and any(cell != "0" for cell in cells)):
            columns.append([f"{'IN' if direction == DIR_IN else 'OUT'}:{counter}", *cells])
    columns.append(["SOCK", *(hex(socket.capture.sk) if socket.capture.sk else "-" for socket in sockets)])
    rows = [list(_WHO), *map(_who, sockets)]
    return _table([row + list(rest) for row, rest in zip(rows, zip(*columns))])


def _who(socket: Socket) -> list[str]:
    return [
        str(socket.capture.index), socket.state, socket.family_name, socket.local_name, socket.remote_name,
        socket.netns_name, socket.owner_name,
    ]  # fmt: skip


def _counter(socket: Socket, direction: int, name: str) -> str:
    ring = socket.capture.rings[direction]
    if name == "KEPT":
        return f"{ring.kept}/{_size(socket, direction)}"
    counts = {
        "CAPTURED": ring.captured, "HEADERS": ring.header_only, "LOST": ring.lost, "RECLAIMED": ring.reclaimed,
        "STRIPPED": ring.stripped,
    }  # fmt: skip
    return str(counts[name])


def _size(socket: Socket, direction: int) -> int:
    return socket.capture.size_in if direction == DIR_IN else socket.capture.size_out


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Rows in columns: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [
            cell.ljust(width) if 0 < number < len(_WHO) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ]
        yield "  ".join(cells).rstrip()


def counters(ring: Ring, size: int) -> str:
    """Counters of a ring in words."""
    return (
        f"{ring.kept} of {size} kept, {ring.captured} captured, {ring.evicted} evicted, "
        f"{ring.header_only} headers only, {ring.lost} lost, {ring.reclaimed} reclaimed, {ring.stripped} stripped of payload"
    )


def limit_lines(limits: Limits) -> Iterable[str]:
    """What 'limits' prints: the same as /proc/net/tcp_pcap of that kernel."""
    yield f"{'account':16} {'used':>12} {'max':>12} {'peak':>12} {'refused':>12}"
    for account in limits.accounts:
        yield f"{account.name:16} {account.used:12} {account.max:12} {account.peak:12} {account.refused:12}"
    for name, count in limits.counts.items():
        yield f"{name} {count}"


def show_head(socket: Socket, clock: Clock, times: Sequence[int]) -> Iterable[str]:
    """
    Lines above the packets of 'show'.

    :param times: CLOCK_MONOTONIC of the packets
    """
    yield (
        f"socket {socket.capture.index}: {socket.local_name} -> {socket.remote_name}  {socket.family_name} "
        f"{socket.state}  netns {socket.netns_name}  owner {', '.join(map(str, socket.owners)) or '-'}"
    )
    for direction in (DIR_IN, DIR_OUT):
        ring = socket.capture.rings[direction]
        yield f"  {ring.name + ':':4} {counters(ring, _size(socket, direction))}"
    if not times:
        if clock.now is not None and 0 < socket.capture.stamp <= clock.now:
            yield f"  it was last active {(clock.now - socket.capture.stamp) / _NS:.3f} s before the memory was taken"
        return
    if clock.offset is not None:
        yield f"  time 0 is {date(clock.real(times[0]))}"
    if clock.now is not None:
        yield f"  the last packet was {(clock.now - max(times)) / _NS:.3f} s before the memory was taken"


def date(ns: int) -> str:
    """Time of day with nanoseconds."""
    if ns >= _END_OF_CALENDAR:
        return f"{ns} ns after 1970"
    return f"{datetime.fromtimestamp(ns // _NS, timezone.utc):%Y-%m-%d %H:%M:%S}.{ns % _NS:09d} UTC"


class Conversation:
    """Writes packets with numbers relative to where their connection started, or to the first packet that is left."""

    def __init__(self, socket: Socket, packets: Sequence[Packet]) -> None:
        self._start = packets[0].record.time if packets else 0
        self._base: dict[int, int] = {}
        self._scales: dict[int, int | None] = {DIR_IN: None, DIR_OUT: None, **socket.scales}
        for direction in (DIR_IN, DIR_OUT):
            self._base[direction] = _base(packets, direction)
        if not socket.scales:
            self._learn_scales(packets)

    def line(self, packet: Packet) -> str:
        """One line of 'show'."""
        record, parsed = packet.record, packet.parsed
        time = f"{(record.time - self._start) / _NS:14.9f}"
        direction = "in" if record.dir == DIR_IN else "out"
        notes = list(packet_notes(packet))
        if not parsed:
            return f"{time} {direction:3} {record.serial:7} (headers cannot be read) {'; '.join(notes)}"
        base, other = self._base[record.dir], self._base[DIR_IN + DIR_OUT - record.dir]
        seq = (parsed.seq - base) & 0xFFFFFFFF
        ack = str((parsed.ack - other) & 0xFFFFFFFF) if parsed.flags & headers.ACK else "-"
        options = ", ".join(headers.option_texts(parsed.options, other))
        tail = "; ".join(([f"<{options}>"] if options else []) + [congestion(packet)] + notes)
        return (
            f"{time} {direction:3} {record.serial:7} {headers.flag_names(parsed.flags):11} {seq:10} {ack:>10} "
            f"{packet.payload:6} {self._window(packet, parsed):>8} {state_text(record.state):12} {tail}"
        )

    @staticmethod
    def gap(gap: Gap) -> str:
        """The line for packets that are missing."""
        return f"{'---':>14} {gap} ---"

    def _window(self, packet: Packet, parsed: headers.Headers) -> str:
        scale = self._scales[packet.record.dir]
        if parsed.flags & headers.SYN:
            return str(parsed.window)
        return f"{parsed.window}*?" if scale is None else str(parsed.window << scale)

    def _learn_scales(self, packets: Sequence[Packet]) -> None:
        offered = {}
        for packet in packets:
            if packet.parsed and packet.parsed.flags & headers.SYN:
                offered[packet.record.dir] = headers.window_scale(packet.parsed.options)
        if len(offered) == 2:
            agreed = None not in offered.values()
            self._scales = {direction: scale if agreed else 0 for direction, scale in offered.items()}


def _base(packets: Sequence[Packet], direction: int) -> int:
    """Sequence number that counts as 0: that of the SYN, else the one before the oldest that is known."""
    oldest: int | None = None
    for packet in packets:
        parsed = packet.parsed
        if not parsed:
            continue
        own = packet.record.dir == direction
        if own and parsed.flags & headers.SYN:
            return parsed.seq
        if own or parsed.flags & headers.ACK:
            number = parsed.seq if own else parsed.ack
            if oldest is None or (oldest - number) & 0xFFFFFFFF < 1 << 31:
                oldest = number
    return 0 if oldest is None else (oldest - 1) & 0xFFFFFFFF


def congestion(packet: Packet) -> str:
    """The state of the sender at that moment, in words."""
    record = packet.record
    ssthresh = "" if record.ssthresh >= _INFINITE_SSTHRESH else f" ssthresh {record.ssthresh}"
    return (
        f"{ca_state_text(record.ca_state)} cwnd {record.snd_cwnd}{ssthresh} srtt {record.srtt_us / 8000:.3f} ms "
        f"flight {(record.snd_nxt - record.snd_una) & 0xFFFFFFFF} rcv_wnd {record.rcv_wnd}"
    )


def packet_notes(packet: Packet) -> Iterable[str]:
    """What is special about a packet."""
    record = packet.record
    if record.gso_segs > 1:
        size = f" of {record.gso_size} bytes" if record.gso_size else ""
        yield f"{record.gso_segs} segments{size}"
    if record.flags & F_MERGED:
        yield "merged after it was received"
    if record.why:
        yield f"{len(packet.data)} of {record.orig_len} bytes: {why_text(record.why)}"
    elif not packet.whole:
        yield f"{len(packet.data)} of {record.orig_len} bytes"
    if not packet.checksum_ready:
        yield "TCP checksum not finished"

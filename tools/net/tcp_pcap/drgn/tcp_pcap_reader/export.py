# SPDX-License-Identifier: GPL-2.0
"""Writes pcapng: one interface per socket, what is known of each packet in its options."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import BinaryIO

import drgn
from drgn import Program
from pcapng import FileWriter, blocks

from .clock import Clock
from .layout import (
    CHECKSUM_COMPLETE,
    CHECKSUM_UNNECESSARY,
    DIR_IN,
    DIR_OUT,
    Layout,
    state_text,
)
from .packets import Gap, Packet, in_order, read_packet
from .records import Slot
from .report import Report
from .sockets import Socket
from .text import congestion, counters, packet_notes

LINKTYPE_RAW = 101

MAX_CAPTURED = 262144
"""Bytes of a packet that Wireshark takes; it calls a file with more of them corrupt. Merged segments can have more."""

FLAG_CHECKSUM_NOT_READY = 1 << 9
FLAG_CHECKSUM_VALID = 1 << 10
FLAG_OFFLOADED = 1 << 11

_TSRESOL_NS = b"\x09"
_U64 = (1 << 64) - 1
_IPV6_HEADER = 40
_HOP_BY_HOP = 0
_JUMBO_OPTION = 8

Queued = tuple[int, int, int, Slot, list[Gap]]


def kernel_text(prog: Program) -> dict[str, str]:
    """Strings of the kernel's struct new_utsname."""
    try:
        name = prog["init_uts_ns"].name
        return {
            member: getattr(name, member).string_().decode("utf-8", "replace")
            for member in ("sysname", "release", "version", "machine")
        }
    except (LookupError, AttributeError, drgn.FaultError):
        release = prog["UTS_RELEASE"].string_().decode("utf-8", "replace")
        return {"sysname": "Linux", "release": release, "version": "", "machine": ""}


class Exporter:
    """Writes the packets of some sockets to one file."""

    def __init__(self, layout: Layout, report: Report, clock: Clock, stream: BinaryIO) -> None:
        self._layout = layout
        self._report = report
        self._clock = clock
        self._stream = stream
        self._written: dict[int, int] = {}

    def write(self, sockets: list[Socket]) -> int:
        """
        Write everything.

        :return: packets written
        """
        section = self._section()
        for socket in sockets:
            self._interface(section, socket)
        writer = FileWriter(self._stream, section)
        trailing: dict[int, list[Gap]] = {}
        queues = [self._queue(number, socket, trailing) for number, socket in enumerate(sockets)]
        for _, number, _, slot, gaps in heapq.merge(*queues, key=lambda queued: queued[:3]):
            packet = read_packet(self._layout, self._report, sockets[number].capture, slot)
            if packet.data:
                writer.write_block(self._packet(section, number, packet, gaps))
                self._written[number] = self._written.get(number, 0) + 1
        for number, socket in enumerate(sockets):
            writer.write_block(self._statistics(section, number, socket, trailing.get(number, [])))
        self._stream.flush()
        return sum(self._written.values())

    def _section(self) -> blocks.SectionHeader:
        kernel = kernel_text(self._layout.prog)
        memory = "the live kernel" if self._layout.live else "a vmcore"
        return blocks.SectionHeader(
            options={
                "shb_hardware": kernel["machine"],
                "shb_os": f"{kernel['sysname']} {kernel['release']} {kernel['version']}".rstrip(),
                "shb_userappl": f"tcp_pcap.py with drgn {drgn.__version__}",
                "opt_comment": f"TCP_PCAP histories from {memory} of Linux {kernel['release']}",
            }
        )

    @staticmethod
    def _interface(section: blocks.SectionHeader, socket: Socket) -> None:
        capture = socket.capture
        description = (
            f"socket {capture.index}, {socket.family_name}, state {socket.state}, netns {socket.netns_name} "
            f"(cookie {capture.netns_cookie}), owner {', '.join(map(str, socket.owners)) or 'unknown'}, "
            f"struct sock {capture.sk:#x}; packets sent have an IP header written by TCP_PCAP"
        )
        section.new_member(
            blocks.InterfaceDescription,
            link_type=LINKTYPE_RAW,
            options={"if_name": socket.name, "if_description": description, "if_tsresol": _TSRESOL_NS},
        )

    def _queue(self, number: int, socket: Socket, trailing: dict[int, list[Gap]]) -> Iterator[Queued]:
        """
        Packets of a socket in their order, to be merged by time with those of the others.

        :param trailing: gaps that no packet follows are added here
        """
        latest = 0
        gaps: list[Gap] = []
        for position, item in enumerate(in_order(self._layout, self._report, socket.capture)):
            if isinstance(item, Gap):
                gaps.append(item)
                continue
            latest = max(latest, item.record.time)
            yield latest, number, position, item, gaps
            gaps = []
        trailing[number] = gaps

    def _packet(self, section: blocks.SectionHeader, number: int, packet: Packet, gaps: list[Gap]) -> blocks.EnhancedPacket:
        record = packet.record
        data, added = _with_jumbo_payload(packet)
        high, low = _timestamp(self._clock.real(record.time))
        sequence = f"snd_una {record.snd_una} snd_nxt {record.snd_nxt} rcv_nxt {record.rcv_nxt}"
        comments = [f"{state_text(record.state)}; {congestion(packet)}; {sequence}"]
        comments += [f"gap: {gap}" for gap in gaps]
        comments += packet_notes(packet)
        if added:
            comments.append("the IPv6 jumbo payload option was added by this reader")
        if len(data) > MAX_CAPTURED:
            comments.append(f"{MAX_CAPTURED} of {len(data)} bytes, which is as much as Wireshark takes")
            data = data[:MAX_CAPTURED]
        options: dict[str, object] = {
            "opt_comment": comments,
            "epb_flags": _flags(packet),
            "epb_packetid": record.serial,
        }
        if gaps:
            options["epb_dropcount"] = sum(gap.count for gap in gaps)
        return section.new_member(
            blocks.EnhancedPacket,
            interface_id=number,
            timestamp_high=high,
            timestamp_low=low,
            packet_len=record.orig_len + added,
            packet_data=data,
            options=options,
        )

    def _statistics(
        self, section: blocks.SectionHeader, number: int, socket: Socket, gaps: list[Gap]
    ) -> blocks.InterfaceStatistics:
        capture = socket.capture
        rings = capture.rings.values()
        sizes = {DIR_IN: capture.size_in, DIR_OUT: capture.size_out}
        comments = [f"{ring.name}: {counters(ring, sizes[ring.direction])}" for ring in rings]
        comments += [f"gap at the end: {gap}" for gap in gaps]
        high, low = _timestamp(self._clock.real(self._clock.now or 0))
        return section.new_member(
            blocks.InterfaceStatistics,
            interface_id=number,
            timestamp_high=high,
            timestamp_low=low,
            options={
                "opt_comment": comments,
                "isb_ifrecv": sum(ring.captured + ring.lost for ring in rings) & _U64,
                "isb_ifdrop": sum(ring.lost for ring in rings) & _U64,
                "isb_osdrop": sum(ring.reclaimed for ring in rings) & _U64,
                "isb_usrdeliv": self._written.get(number, 0),
            },
        )


def _timestamp(ns: int) -> tuple[int, int]:
    return ns >> 32 & 0xFFFFFFFF, ns & 0xFFFFFFFF


def _with_jumbo_payload(packet: Packet) -> tuple[bytes, int]:
    """
    The stack writes length 0 into the IPv6 header of a super-segment above 64 KiB, which is what RFC 2675 asks for, but leaves
    out the option with the real length, without which Wireshark finds the packet malformed.

    :return: the packet, and how many bytes were added to it
    """
    data, length = packet.data, packet.record.orig_len - _IPV6_HEADER
    if not packet.parsed or packet.parsed.version != 6 or length < 1 << 16:
        return data, 0
    if any(data[4:6]) or data[6] == _HOP_BY_HOP:
        return data, 0
    option = data[6:7] + b"\0\xc2\x04" + (length + _JUMBO_OPTION).to_bytes(4, "big")
    return data[:6] + b"\0" + data[7:_IPV6_HEADER] + option + data[_IPV6_HEADER:], _JUMBO_OPTION


def _flags(packet: Packet) -> int:
    """epb_flags; enum tcp_pcap_dir has its values for the direction."""
    record = packet.record
    flags = record.dir
    if not packet.checksum_ready:
        flags |= FLAG_CHECKSUM_NOT_READY
    elif record.ip_summed in (CHECKSUM_UNNECESSARY, CHECKSUM_COMPLETE):
        flags |= FLAG_CHECKSUM_VALID
    if record.gso_segs > 1:
        flags |= FLAG_OFFLOADED
    return flags

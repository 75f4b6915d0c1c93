#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
Checksums that the drgn reader writes, on packets made here, judged by tshark. Needs no kernel.

Environment: OUT, a folder for the pcapng (default: a temporary one).
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from ipaddress import ip_address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "drgn"))

from pcapng import FileWriter, blocks
from tcp_pcap_reader import headers

from tap import Tap

LINKTYPE_RAW = 101
A4, B4, C4 = (ip_address(f"192.0.2.{n}").packed for n in range(1, 4))
A6, B6, C6 = (ip_address(f"2001:db8::{n}").packed for n in range(1, 4))


def tcp(payload: bytes, options: bytes = b"") -> bytes:
    """A segment with a wrong checksum."""
    return struct.pack(">HHIIBBHHH", 40000, 80, 1, 1, (20 + len(options)) // 4 << 4, 0x18, 500, 0xBAD, 0) + options + payload


def ipv4(segment: bytes, options: bytes = b"") -> bytes:
    """An IPv4 packet; its length is 0 when it does not fit, as the stack writes it."""
    length = 20 + len(options) + len(segment)
    length = length if length < 65536 else 0
    return struct.pack(">BBHHHBBH", 0x45 + len(options) // 4, 0, length, 0, 0x4000, 64, 6, 0xBAD) + A4 + B4 + options + segment


def ipv6(segment: bytes, extension: bytes = b"", first: int = 6, destination: bytes = B6) -> bytes:
    """An IPv6 packet with extension headers."""
    length = len(extension) + len(segment)
    return struct.pack(">IHBB", 6 << 28, length if length < 65536 else 0, first, 64) + A6 + destination + extension + segment


def finished(packet: bytes, net_len: int) -> bytes:
    """The packet with its checksums written."""
    data = bytearray(packet)
    if data[0] >> 4 == 4:
        headers.with_ip_checksum(data)
    headers.with_tcp_checksum(data, net_len)
    return bytes(data)


def packets() -> dict[str, bytes]:
    """Packets by what is special about them."""
    stamps = bytes([1, 1, 8, 10]) + bytes(8)
    route = bytes([1, 131, 7, 4]) + C4
    arrived = bytes([1, 131, 7, 8]) + C4
    routing = bytes([6, 2, 2, 1]) + bytes(4) + C6
    segments = bytes([6, 4, 4, 1, 1, 0, 0, 0]) + B6 + C6
    return {
        "IPv4": finished(ipv4(tcp(b"hello")), 20),
        "IPv4 with odd payload and options": finished(ipv4(tcp(b"odd", stamps), bytes([7, 7, 4, 0, 0, 0, 0, 0])), 28),
        "IPv4 with a source route": finished(ipv4(tcp(b"hello"), route), 28),
        "IPv4 with a source route that has ended": finished(ipv4(tcp(b"hello"), arrived), 28),
        "IPv4 without payload": finished(ipv4(tcp(b"")), 20),
        "IPv4 super-segment of 65535 bytes": finished(ipv4(tcp(bytes(range(256)) * 255 + bytes(215))), 20),
        "IPv6": finished(ipv6(tcp(b"hello", stamps)), 40),
        "IPv6 with hop-by-hop options": finished(ipv6(tcp(b"hello"), bytes([6, 0, 1, 4, 0, 0, 0, 0]), 0), 48),
        "IPv6 with a routing header of type 2": finished(ipv6(tcp(b"hello"), routing, 43), 64),
        "IPv6 with a segment routing header": finished(ipv6(tcp(b"hello"), segments, 43, C6), 80),
        "IPv6 super-segment": finished(ipv6(tcp(bytes(range(256)) * 200)), 40),
    }


def write(path: Path, data: list[bytes]) -> None:
    """Write packets as pcapng."""
    section = blocks.SectionHeader()
    section.new_member(blocks.InterfaceDescription, link_type=LINKTYPE_RAW)
    with path.open("wb") as stream:
        writer = FileWriter(stream, section)
        for packet in data:
            writer.write_block(section.new_member(blocks.EnhancedPacket, packet_data=packet, packet_len=len(packet)))


def verdicts(path: Path) -> list[str]:
    """tshark's word on each packet: TCP checksum status (1 is good), and what is malformed."""
    command = [
        "tshark", "-r", str(path), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
        "-T", "fields", "-e", "tcp.checksum.status", "-e", "ip.checksum.status", "-e", "_ws.malformed",
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def option_problems() -> list[str]:
    """Texts of TCP options, malformed ones included."""
    cases = {
        bytes([2, 4, 5, 180, 4, 2, 1, 3, 3, 7]): ["mss 1460", "sackOK", "wscale 7"],
        bytes([1, 1, 5, 10]) + struct.pack(">II", 1100, 1200): ["sack 100-200"],
        bytes([8, 10]) + struct.pack(">II", 5, 6): ["TS 5 ecr 6"],
        bytes([0, 2, 4]): [],
        bytes([8, 10, 0]): [],
        bytes([2, 0, 0, 0]): [],
        bytes([2]): [],
    }
    return [
        f"{data.hex()}: {headers.option_texts(data, 1000)}, not {texts}"
        for data, texts in cases.items()
        if headers.option_texts(data, 1000) != texts
    ]


def parse_problems() -> list[str]:
    """Garbage must not be taken for headers."""
    good = packets()["IPv4"]
    garbage = [b"", b"\0" * 60, good[:39], b"\x65" + good[1:], good[:9] + b"\x11" + good[10:], good[:32] + b"\0" + good[33:]]
    problems = [f"{data.hex()} was accepted" for data in garbage if headers.parse(data, 20)]
    parsed = headers.parse(good, 20)
    if not parsed or (parsed.source, parsed.sport, parsed.dport, parsed.tcp_len) != ("192.0.2.1", 40000, 80, 20):
        problems.append(f"{parsed}")
    return problems


def main() -> int:
    """:return: exit status"""
    tap = Tap()
    tap.run("TCP options in words", option_problems)
    tap.run("garbage is not parsed", parse_problems)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(os.environ.get("OUT", temporary)) / "headers.pcapng"
        made = packets()
        write(path, list(made.values()))
        for name, verdict in zip(made, verdicts(path)):
            tcp_status, ip_status, malformed = verdict.split("\t")
            good = tcp_status == "1" and ip_status in ("", "1") and not malformed
            tap.check(f"checksum: {name}", [] if good else [f"tshark says {verdict!r}"])
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())

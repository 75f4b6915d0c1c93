# SPDX-License-Identifier: GPL-2.0
"""IP and TCP headers: what text output shows of them, and their checksums."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

IPPROTO_ROUTING = 43
IPPROTO_TCP = 6
_IPOPT_NOP = 1
_IPOPT_SOURCE_ROUTES = (131, 137)
_ROUTING_LAST = 0
_ROUTING_NEXT = (2, 4)

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE = (1 << bit for bit in range(9))
_FLAG_NAMES = (
    (SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"),
    (URG, "URG"), (ECE, "ECE"), (CWR, "CWR"), (AE, "AE"),
)  # fmt: skip


@dataclass
class Headers:
    """
    :ivar net_len: bytes of the IP header with options and extension headers
    :ivar tcp_len: bytes of the TCP header
    :ivar options: TCP options
    """

    version: int
    net_len: int
    tcp_len: int
    source: str
    destination: str
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes


def parse(data: bytes, net_len: int) -> Headers | None:
    """
    Take a packet apart.

    :param net_len: as the record says; a header that contradicts it is garbage
    :return: None if these are not the headers of a TCP packet
    """
    if len(data) < net_len + 20:
        return None
    version = data[0] >> 4
    if version == 4 and net_len == (data[0] & 15) * 4 and net_len >= 20 and data[9] == IPPROTO_TCP:
        source, destination = data[12:16], data[16:20]
    elif version == 6 and net_len >= 40:
        source, destination = data[8:24], data[24:40]
    else:
        return None
    sport, dport, seq, ack, offset_flags, window = struct.unpack_from(">HHIIHH", data, net_len)
    tcp_len = (offset_flags >> 12) * 4
    if tcp_len < 20:
        return None
    return Headers(
        version, net_len, tcp_len, str(ip_address(source)), str(ip_address(destination)), sport, dport,
        seq, ack, offset_flags & 0x1FF, window, data[net_len + 20 : net_len + tcp_len],
    )  # fmt: skip


def flag_names(flags: int) -> str:
    """TCP flags in words."""
    return ",".join(name for bit, name in _FLAG_NAMES if flags & bit) or "none"


# TCP options


def options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each TCP option but padding. Stops at the first that is malformed."""
    position = 0
    while position < len(data) and data[position]:
        if data[position] == 1:
            position += 1
            continue
        if position + 2 > len(data):
            return
        length = data[position + 1]
        if length < 2 or position + length > len(data):
            return
        yield data[position], data[position + 2 : position + length]
        position += length


def window_scale(data: bytes) -> int | None:
    """The window scale option's value, if the option is there."""
    for kind, value in options(data):
        if kind == 3 and len(value) == 1:
            return min(value[0], 14)
    return None


def option_texts(data: bytes, sack_base: int) -> list[str]:
    """
    TCP options in words.

    :param sack_base: sequence number that SACK blocks are shown relative to
    """
    texts = []
    for kind, value in options(data):
        if kind == 2 and len(value) == 2:
            texts.append(f"mss {int.from_bytes(value, 'big')}")
        elif kind == 3 and len(value) == 1:
            texts.append(f"wscale {value[0]}")
        elif kind == 4:
            texts.append("sackOK")
        elif kind == 5 and len(value) % 8 == 0:
            edges = [(edge - sack_base) & 0xFFFFFFFF for edge in struct.unpack(f">{len(value) // 4}I", value)]
            texts.append("sack " + ",".join(f"{left}-{right}" for left, right in zip(edges[::2], edges[1::2])))
        elif kind == 8 and len(value) == 8:
            texts.append("TS {} ecr {}".format(*struct.unpack(">II", value)))
        elif kind == 34:
            texts.append(f"tfo {value.hex() or 'request'}")
        else:
            texts.append({19: "md5", 29: "ao", 30: "mptcp"}.get(kind, f"opt-{kind}") + f" {value.hex()}")
    return texts


# Checksums


def ones_complement_sum(data: bytes) -> int:
    """The Internet checksum's sum, not complemented."""
    words = array("H", data + b"\0" if len(data) % 2 else data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ((total & 0xFF) << 8 | total >> 8) if sys.byteorder == "little" else total


def with_ip_checksum(packet: bytearray) -> None:
    """Write the checksum of an IPv4 header."""
    length = (packet[0] & 15) * 4
    packet[10:12] = b"\0\0"
    struct.pack_into(">H", packet, 10, ~ones_complement_sum(bytes(packet[:length])) & 0xFFFF)


def with_tcp_checksum(packet: bytearray, net_len: int) -> None:
    """Write the TCP checksum of a packet that is whole."""
    tcp_len = len(packet) - net_len
    if packet[0] >> 4 == 4:
        pseudo = bytes(packet[12:16]) + _final_destination_v4(packet, net_len)
    else:
        pseudo = bytes(packet[8:24]) + _final_destination_v6(packet, net_len)
    pseudo += struct.pack(">II", tcp_len, IPPROTO_TCP)
    packet[net_len + 16 : net_len + 18] = b"\0\0"
    total = ones_complement_sum(bytes(packet[net_len:])) + ones_complement_sum(pseudo)
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", packet, net_len + 16, ~total & 0xFFFF)


def _final_destination_v4(packet: bytearray, net_len: int) -> bytes:
    """The address that an IPv4 packet's checksum covers: a source route ends with it while hops are left."""
    position = 20
    while position + 2 < net_len and packet[position]:
        kind = packet[position]
        if kind == _IPOPT_NOP:
            position += 1
            continue
        end = position + packet[position + 1]
        if kind in _IPOPT_SOURCE_ROUTES and position + 7 <= end <= net_len and packet[position + 2] <= end - position - 3:
            return bytes(packet[end - 4 : end])
        if end < position + 2:
            break
        position = end
    return bytes(packet[16:20])


def _final_destination_v6(packet: bytearray, net_len: int) -> bytes:
    """The address that an IPv6 packet's checksum covers: a routing header holds it while hops are left."""
    kind, position = packet[6], 40
    while position + 8 <= net_len:
        if kind == IPPROTO_ROUTING and packet[position + 3]:
            routing = packet[position + 2]
            end = position + 8 + packet[position + 1] * 8
            if routing in _ROUTING_NEXT and position + 24 <= net_len:
                return bytes(packet[position + 8 : position + 24])
            if routing == _ROUTING_LAST and position + 24 <= end <= net_len:
                return bytes(packet[end - 16 : end])
        kind, position = packet[position], position + 8 + packet[position + 1] * 8
    return bytes(packet[24:40])

# SPDX-License-Identifier: GPL-2.0
"""Packets and the files they come in."""

import ipaddress
import struct

import dpkt.pcap
from dpkt.pcapng import PCAPNG_BT_EPB, EnhancedPacketBlockLE

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
NEXT_TCP, ROUTING, EXTENSIONS = 6, 43, (0, 43, 60)
SOURCE_ROUTES = (131, 137)
ETHERNET = 14
EPB_FLAGS, INBOUND = 2, 1


class Packet:
    """A TCP packet from its IP header on; what lies behind the headers may be cut."""

    def __init__(self, raw, length, time):
        self.raw, self.length, self.time = raw, length, time
        self.version = raw[0] >> 4
        if self.version == 4:
            self.net_len = (raw[0] & 15) * 4
            protocol = raw[9]
            src, dst = raw[12:16], behind_route_4(raw[20:self.net_len]) or raw[16:20]
        else:
            self.net_len, protocol = 40, raw[6]
            src, dst = raw[8:24], raw[24:40]
            while protocol in EXTENSIONS:
                header = raw[self.net_len:]
                if protocol == ROUTING and header[3]:
                    dst = header[8:24]
                protocol, blocks = header[0], header[1]
                self.net_len += 8 * (blocks + 1)
        if protocol != NEXT_TCP:
            raise ValueError(f"protocol {protocol}")
        tcp = raw[self.net_len:]
        sport, dport, self.seq, self.ack, offset, self.flags, self.window, _, self.urgent = struct.unpack_from("!HHIIBBHHH", tcp)
        self.head_len = self.net_len + (offset >> 4) * 4
        self.src, self.dst = (text(src), sport), (text(dst), dport)

    @property
    def next_hop(self):
        """The destination in the IP header: not the peer, while a source route leads elsewhere."""
        return text(self.raw[16:20] if self.version == 4 else self.raw[24:40])

    @property
    def ecn(self):
        return (self.raw[1] if self.version == 4 else self.raw[1] >> 4) & 3

    @property
    def payload_len(self):
        return self.length - self.head_len

    @property
    def payload(self):
        return self.raw[self.head_len:]

    @property
    def network(self):
        return self.raw[:self.net_len]

    @property
    def transport(self):
        """From the TCP header on, without its checksum."""
        tcp = self.raw[self.net_len:]
        return tcp[:16] + b"\0\0" + tcp[18:]

    def __str__(self):
        letters = "".join(c for i, c in enumerate("FSRPAUEW") if self.flags >> i & 1)
        return f"[{letters} seq {self.seq} ack {self.ack} win {self.window} len {self.payload_len}]"


def behind_route_4(options):
    """The destination of a packet that is on a source route: the last address of the route."""
    while options and options[0] != 0:
        if options[0] == 1:
            options = options[1:]
            continue
        kind, length, pointer = options[:3]
        if kind in SOURCE_ROUTES and pointer < length:
            return options[length - 4:length]
        options = options[length:]
    return None


def text(address):
    return str(ipaddress.ip_address(address))


def read_capture(path):
    """{(source, destination): packets} of a file of tcpdump's."""
    flows = {}
    with open(path, "rb") as f:
        for time, frame in dpkt.pcap.Reader(f):
            try:
                packet = Packet(frame[ETHERNET:], len(frame) - ETHERNET, time)
            except ValueError:
                continue
            flows.setdefault((packet.src, packet.dst), []).append(packet)
    return flows


def without_jumbo(raw, length):
    """Take out the jumbo payload option (RFC 2675) that the reader adds, and says so, to tell a length above 64 KiB."""
    if raw[0] >> 4 == 6 and raw[4:7] == bytes(3) and raw[41:44] == b"\0\xc2\4":
        if int.from_bytes(raw[44:48], "big") != length - 40:
            raise ValueError("jumbo payload option with a wrong length")
        return raw[:6] + raw[40:41] + raw[7:40] + raw[48:], length - 8
    return raw, length


def read_export(path):
    """{(local, remote, "in" or "out"): packets} of a pcapng; not by the library that the reader writes it with."""
    flows = {}
    with open(path, "rb") as f:
        while head := f.read(8):
            kind, length = struct.unpack("<II", head)
            body = head + f.read(length - 8)
            if kind != PCAPNG_BT_EPB:
                continue
            block = EnhancedPacketBlockLE(body)
            time = (block.ts_high << 32 | block.ts_low) / 1e9
            packet = Packet(*without_jumbo(block.pkt_data, block.pkt_len), time)
            flags = next(option.data for option in block.opts if option.code == EPB_FLAGS)
            direction = struct.unpack("<I", flags)[0] & 3
            key = (packet.dst, packet.src, "in") if direction == INBOUND else (packet.src, packet.dst, "out")
            flows.setdefault(key, []).append(packet)
    return flows

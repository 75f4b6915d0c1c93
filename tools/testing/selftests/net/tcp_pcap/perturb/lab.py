# SPDX-License-Identifier: GPL-2.0
"""The network of the workloads: that of the oracle, with netem that drops the same packets in every run."""

import ctypes
import fcntl
import os
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
from network import NAMESPACES, SIOCETHTOOL, Net  # noqa: E402

ETHTOOL_SSG = 0x19
RTM_NEWQDISC, NLMSG_ERROR = 36, 2
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE = 1, 4, 0x100, 0x400
TC_H_ROOT = 0xffffffff
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_NETEM_REORDER, TCA_NETEM_LATENCY64, TCA_NETEM_PRNG_SEED = 3, 10, 14

FILES = ("netstat", "snmp")


class Lab(Net):
    """Namespaces that live as long as this."""

    def up(self):
        """Quiet from the first: what is sent by itself, and at random times, would be in the counters."""
        for ns in NAMESPACES:
            self.sysctl(ns, ipv6__conf__default__accept_dad=0, ipv6__conf__default__router_solicitations=0)
        super().up()
        self.ip("r", "link set lo up")

    def seeded_netem(self, seed, delay_ms, loss=0.0, duplicate=0.0, reorder=0.0):
        """What packets of the routed pair suffer, both ways. Not by tc, which is older than the seed."""
        self.enter("r")
        for n, dev in enumerate(("veth_rc", "veth_rd")):
            options = b"".join((
                struct.pack("=6I", 0, 1000, share(loss), 1 if reorder else 0, share(duplicate), 0),
                attribute(TCA_NETEM_REORDER, struct.pack("=2I", share(reorder), 0)),
                attribute(TCA_NETEM_LATENCY64, struct.pack("=q", int(delay_ms * 1e6))),
                attribute(TCA_NETEM_PRNG_SEED, struct.pack("=Q", seed + n))))
            tcmsg = struct.pack("=B3xiIII", socket.AF_UNSPEC, socket.if_nametoindex(dev), 0, TC_H_ROOT, 0)
            request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE,
                    tcmsg + attribute(TCA_KIND, b"netem\0") + attribute(TCA_OPTIONS, options))

    def no_scatter_gather(self, ns, dev):
        """Every packet that leaves by this device is one linear skb, which nothing is merged with."""
        self.enter(ns)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_SSG, 0))
            fcntl.ioctl(s, SIOCETHTOOL, struct.pack("16sP", dev.encode(), ctypes.addressof(value)))

    def counters(self):
        """Each counter of each namespace, as "namespace line.name"."""
        found = {}
        for ns in NAMESPACES:
            self.enter(ns)
            for name in FILES:
                with open(f"/proc/thread-self/net/{name}", encoding="ascii") as f:
                    lines = [line.split() for line in f]
                for names, values in zip(lines[::2], lines[1::2]):
                    found.update((f"{ns} {names[0]}{n}".replace(":", "."), int(v)) for n, v in zip(names[1:], values[1:]))
            with open("/proc/thread-self/net/snmp6", encoding="ascii") as f:
                found.update((f"{ns} {n}", int(v)) for n, v in map(str.split, f))
        return found

    def close(self):
        self.enter("init")
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}


def share(part):
    return int(part * 0xffffffff)


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def request(kind, flags, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        s.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body)
        answer = s.recv(65536)
    error = -struct.unpack_from("=i", answer, 16)[0]
    if struct.unpack_from("=H", answer, 4)[0] != NLMSG_ERROR or error:
        raise OSError(error, os.strerror(error))

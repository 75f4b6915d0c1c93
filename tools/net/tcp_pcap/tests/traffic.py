#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
Connections for a vmcore. Run in a guest that is about to panic: returns when everything has happened that shall be found.

Each connection has a port of its own, so that a test can name it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
TCP_PCAP_OUT = 47
TCP_PCAP_IN = 48
PACKETS = 64

PORT_BULK = 5001
PORT_SMALL = 5002
PORT_V6 = 5003
PORT_MAPPED = 5004
PORT_STUCK = 5005
PORT_RESET = 5006
PORT_WRAP = 5007
PORT_SHARED = 5008
PORT_NETNS = 5009
PORT_RECLAIMED = 5011
PORT_LOWERED = 5012
PORT_PRESSURE = 5013
TWICE = 5010
"""Two connections to one server."""
PORT_HTTP = 8080
"""A port for which tshark reassembles what it carries."""

HTTP_NETNS = "tcp_pcap_web"
HTTP_SERVER = "10.78.0.1"
HTTP_CLIENT = "10.78.0.2"
HTTP_BODIES = (1000, 300000, 4000000)
LETTERS = bytes(range(ord("a"), ord("z") + 1))
"""A body of them has no end of line, so the middle of one leaves tshark waiting for more: it reassembles."""
FRAGS_MAX = 16384
"""Pages of payload: more than all histories need."""
RECLAIMED = 5
"""Packets that the shrinker takes away."""
SYSCTLS = Path("/proc/sys/net/ipv4")
LARGE = b"z" * 20000
"""More than fits a record's head."""

BULK = bytes(range(256)) * 4096

Pair = tuple[socket.socket, socket.socket]


def connect(port: int, family: int = socket.AF_INET, address: str = "127.0.0.1") -> Pair:
    """A connection: both of its ends."""
    with socket.create_server((address, port), family=family, dualstack_ipv6=False) as server:
        client = socket.create_connection((address, port))
        return client, server.accept()[0]


def receive(end: socket.socket, size: int) -> None:
    """Read and drop."""
    while size:
        size -= len(end.recv(min(size, 65536)))


def exchange(pair: Pair, request: bytes, response: bytes) -> None:
    """A request and its response."""
    client, server = pair
    client.sendall(request)
    receive(server, len(request))
    server.sendall(response)
    receive(client, len(response))


def host() -> dict[str, int]:
    """The last number of each line of /proc/net/tcp_pcap that has one; of an account, what is used."""
    lines = [line.split() for line in Path("/proc/net/tcp_pcap").read_text(encoding="ascii").splitlines()]
    return {line[0]: int(line[1]) for line in lines if line[1].isdecimal()}


def sysctl(name: str, value: object) -> None:
    """Set net.ipv4.NAME."""
    (SYSCTLS / name).write_text(f"{value}\n", encoding="ascii")


def reclaimed() -> Pair:
    """While there is no other history: the shrinker takes all payload, and some packets."""
    pair = connect(PORT_RECLAIMED)
    for _ in range(4):
        exchange(pair, LARGE, LARGE)
    shrinker = next(Path("/sys/kernel/debug/shrinker").glob("tcp-pcap-*"))
    before = host()
    (shrinker / "scan").write_text(f"0 0 {before['payloads'] + RECLAIMED}\n", encoding="ascii")
    after = host()
    # Not what there is now and was before: a delayed ACK may come at any time.
    packets = after["reclaimed_packets"] - before["reclaimed_packets"]
    if not before["payloads"] or after["payloads"] or packets != RECLAIMED:
        raise RuntimeError(f"reclaim took something else: {before} {after}")
    return pair


def lowered() -> Pair:
    """A lowered limit takes payload, and no new one is kept while all pages are in use."""
    pair = connect(PORT_LOWERED)
    for _ in range(4):
        exchange(pair, LARGE, LARGE)
    sysctl("tcp_pcap_frags_max", host()["frags"] // 4)
    for _ in range(4):
        exchange(pair, LARGE, LARGE)
    sysctl("tcp_pcap_frags_max", FRAGS_MAX)
    exchange(pair, LARGE, LARGE)
    return pair


def pressed() -> Pair:
    """TCP is under memory pressure for a while, which needs the queue of :func:`stuck`: CPUs have a part for nothing."""
    pair = connect(PORT_PRESSURE)
    normal = (SYSCTLS / "tcp_mem").read_text(encoding="ascii").split()
    sysctl("tcp_mem", f"0 0 {normal[2]}")
    exchange(pair, LARGE, LARGE)
    sysctl("tcp_mem", " ".join(normal))
    # It ends with an allocation that finds less in use.
    exchange(pair, LARGE, LARGE)
    exchange(pair, LARGE, LARGE)
    return pair


def bulk() -> Pair:
    """Enough for super-segments."""
    pair = connect(PORT_BULK)
    client, server = pair
    if os.fork() == 0:
        client.sendall(BULK)
        os._exit(0)
    receive(server, len(BULK))
    os.wait()
    return pair


def mapped() -> Pair:
    """IPv4 on sockets of IPv6."""
    server = socket.socket(socket.AF_INET6)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("::", PORT_MAPPED))
    server.listen()
    client = socket.socket(socket.AF_INET6)
    client.connect(("::ffff:127.0.0.1", PORT_MAPPED))
    return client, server.accept()[0]


def stuck() -> Pair:
    """The peer does not read: its window closes, and probes go out."""
    pair = connect(PORT_STUCK)
    pair[0].setblocking(False)
    try:
        while True:
            pair[0].send(BULK)
    except BlockingIOError:
        return pair


def reset() -> Pair:
    """The peer closes with RST."""
    pair = connect(PORT_RESET)
    exchange(pair, b"to be reset", b"yes")
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[1].close()
    return pair


def wrapped() -> Pair:
    """A ring of 5 that turned over, set by the application."""
    pair = connect(PORT_WRAP)
    pair[0].setsockopt(socket.IPPROTO_TCP, TCP_PCAP_OUT, 5)
    pair[0].setsockopt(socket.IPPROTO_TCP, TCP_PCAP_IN, 7)
    for number in range(20):
        exchange(pair, b"request %d" % number, b"response %d" % number)
    return pair


def twice() -> list[Pair]:
    """Two connections to one address and port."""
    with socket.create_server(("127.0.0.1", TWICE)) as server:
        pairs = [(socket.create_connection(("127.0.0.1", TWICE)), server.accept()[0]) for _ in range(2)]
    for pair in pairs:
        exchange(pair, b"one of two", b"which one")
    return pairs


@contextmanager
def other_netns(name: str | None) -> Iterator[None]:
    """
    Be in another network namespace for a while.

    :param name: as ip-netns knows it, None for a new one
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", "rb") as home:
        if name:
            with open(f"/run/netns/{name}", "rb") as there:
                failed = libc.setns(there.fileno(), CLONE_NEWNET)
        else:
            failed = libc.unshare(CLONE_NEWNET)
        if failed:
            raise OSError(ctypes.get_errno(), "another network namespace")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


def elsewhere() -> Pair:
    """In another network namespace, which started with the sysctl of this one."""
    with other_netns(None):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        pair = connect(PORT_NETNS)
        exchange(pair, b"from elsewhere", b"to elsewhere")
    return pair


def link() -> None:
    """A network namespace for a server, and a link to it whose receivers merge packets: both ends see other super-segments."""
    for command in (
        f"netns add {HTTP_NETNS}",
        f"link add to-web type veth peer name to-app netns {HTTP_NETNS}",
        f"addr add {HTTP_CLIENT}/24 dev to-web",
        "link set to-web up",
        f"-n {HTTP_NETNS} addr add {HTTP_SERVER}/24 dev to-app",
        f"-n {HTTP_NETNS} link set to-app up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    subprocess.run(["ethtool", "-K", "to-web", "gro", "on"], check=False)
    subprocess.run(["ip", "netns", "exec", HTTP_NETNS, "ethtool", "-K", "to-app", "gro", "on"], check=False)


def http() -> Pair:
    """HTTP between two network namespaces of the host, both of its ends with a history."""
    link()
    with other_netns(HTTP_NETNS):
        listener = socket.create_server((HTTP_SERVER, PORT_HTTP))
    client = socket.create_connection((HTTP_SERVER, PORT_HTTP))
    server = listener.accept()[0]
    listener.close()
    for size in HTTP_BODIES:
        request = f"GET /{size} HTTP/1.1\r\nHost: {HTTP_SERVER}\r\n\r\n".encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n".encode()
        response = head + (LETTERS * (size // len(LETTERS) + 1))[:size]
        client.sendall(request)
        receive(server, len(request))
        sender = threading.Thread(target=server.sendall, args=(response,))
        sender.start()
        receive(client, len(response))
        sender.join()
    return client, server


def everything() -> list[Pair]:
    """All connections, left open."""
    sysctl("tcp_pcap_packets", PACKETS)
    sysctl("tcp_pcap_frags_max", FRAGS_MAX)
    given_back = [reclaimed(), lowered()]
    # Both took what the first had; this is whole.
    exchange(given_back[0], LARGE, LARGE)
    # What the others have must stay, whatever memory the guest needs.
    sysctl("tcp_pcap_aggressive_free", 0)
    pairs = [bulk(), connect(PORT_SMALL), connect(PORT_V6, socket.AF_INET6, "::1"), mapped(), stuck(), reset(), wrapped()]
    exchange(pairs[1], b"a small request", b"a small response")
    exchange(pairs[2], b"an IPv6 request", b"x" * 20000)
    exchange(pairs[3], b"a mapped request", b"y" * 3000)
    pairs += [elsewhere(), http(), *twice(), *given_back, pressed()]
    shared = connect(PORT_SHARED)
    exchange(shared, b"shared", b"by two processes")
    return [*pairs, shared]


def main() -> int:
    """:return: exit status"""
    ready, done = os.pipe()
    if os.fork() == 0:
        os.setsid()
        Path("/proc/self/comm").write_text("tcp_pcap_holder", encoding="ascii")
        pairs = everything()
        if os.fork() == 0:
            for pair in pairs[:-1]:
                for end in pair:
                    end.close()
        time.sleep(1)
        os.write(done, b"x")
        time.sleep(3600)
    os.close(done)
    if not os.read(ready, 1):
        print("traffic.py: the connections failed", file=sys.stderr)
        return 1
    time.sleep(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Guest side of the oracle: real connections, captured by tcpdump on both ends.

One process runs all scenarios, since sockets must stay open: a history ends with its socket. What was done is written
to manifest.json for compare.py. The captures are stopped and copied to the output folder; then, with --panic, the
kernel is crashed with every history in it.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import sys
import termios
import time

from connections import (
    KINDS,
    End,
    World,
    background,
    data_source,
    large_buffers,
    receive,
    talk,
    transfer,
)
from network import ADDR, DIRECT, ROUTED, Captures, Net, libc, pin

IP_OPTIONS, IP_MTU_DISCOVER, IPV6_FLOWLABEL_MGR, IPV6_FLOWINFO_SEND, IPV6_AUTOFLOWLABEL = 4, 10, 32, 33, 70
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000

# Nothing is to be lost for want of room, but where that is the test.
PAGES_MAX, MEMORY_MAX = 1 << 20, 1 << 28

scenarios = []


def scenario(function):
    scenarios.append(function)
    return function


@scenario
def page_limit(w):
    """At the limit of pinned pages, capture goes on with headers and what fits beside them.

    The first, because the lower limit takes the payload of all rings that there are.
    """
    if w.missing:
        return
    w.net.sysctl("init", ipv4__tcp_pcap_frags_max=1)
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 64, why=["limit"])
        talk(c, s, 5)
        transfer([(c, s, 200000), (s, c, 100000)])
    w.net.sysctl("init", ipv4__tcp_pcap_frags_max=PAGES_MAX)


@scenario
def requests(w):
    """Requests and responses, rings of all sizes, one of each direction's own size."""
    for ip in KINDS:
        talk(*w.pair(DIRECT, ip, 5), rounds=20)
    for ip in (4, 6):
        talk(*w.pair(DIRECT, ip, 1), rounds=3)
        talk(*w.pair(DIRECT, ip, 64), rounds=10)
        talk(*w.pair(DIRECT, ip, 64), rounds=80, request=1, response=900)
        talk(*w.pair(DIRECT, ip, 3, n_in=40), rounds=50)
        talk(*w.pair(ROUTED, ip, 16), rounds=20, request=700, response=3000)
    talk(*w.pair(DIRECT, 4, 700), rounds=500)
    talk(*w.pair(DIRECT, 4, 1024), rounds=1100, request=60, response=90)
    talk(*w.pair(DIRECT, 6, 1024), rounds=540, request=300, response=600)


@scenario
def http(w):
    """What a dissector reassembles: messages whose bodies fill one packet, or many; also from the middle on.

    On the long way both ends of a connection have the same bytes at different times, in different packets.
    """
    small, large = 200, 100 << 10
    exchanges = [("GET", 0, small), ("GET", 0, large), ("POST", large, small)]
    w.net.netem("delay", "4ms")
    for ip in KINDS:
        # GRO may leave out payload of what is received, so only the direct pair has whole messages.
        for pair, n, port in ((DIRECT, 256, 80), (DIRECT, 256, 8080), (DIRECT, 5, 8080), (ROUTED, 256, 80)):
            whole = pair == DIRECT and n == 256
            c, s = w.pair(pair, ip, n, port=port, **{"http": exchanges} if whole else {})
            for method, up, down in exchanges:
                send_message(c, s, f"{method} /{down} HTTP/1.1\r\nHost: server\r\n", up)
                send_message(s, c, "HTTP/1.1 200 OK\r\n", down)
    w.net.netem()


def send_message(sender, receiver, head, length):
    head += f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    message = head.encode() + data_source[:length]
    with background(lambda: sender.sendall(message)):
        receive(receiver, len(message))


@scenario
def one_direction_only(w):
    """A ring of size 0 is no ring."""
    for ip in KINDS:
        talk(*w.pair(DIRECT, ip, 0, n_in=8), rounds=10)
        talk(*w.pair(DIRECT, ip, 8, n_in=0), rounds=10)


@scenario
def by_sysctl(w):
    """No option set: covered by net.ipv4.tcp_pcap_packets, which new sockets and children of a listener take."""
    for ns in DIRECT:
        if not w.missing:
            w.net.sysctl(ns, ipv4__tcp_pcap_packets=7)
    for ip in KINDS:
        talk(*w.pair(DIRECT, ip, 7, sized=False), rounds=10)
    for ns in DIRECT:
        if not w.missing:
            w.net.sysctl(ns, ipv4__tcp_pcap_packets=0)


@scenario
def bulk(w):
    """Super-segments as the sender built them: up, down, both at once."""
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 64)
        transfer([(c, s, 3 << 20)])
        c, s = w.pair(DIRECT, ip, 32)
        transfer([(s, c, 1 << 20)])
        c, s = w.pair(DIRECT, ip, 64)
        transfer([(c, s, 1 << 20), (s, c, 1 << 20)])
        for n in (1, 5):
            c, s = w.pair(DIRECT, ip, n)
            transfer([(c, s, 300000), (s, c, 300000)])
    c, s = w.pair(DIRECT, 4, 1024)
    transfer([(c, s, 2 << 20), (s, c, 1 << 20)])


@scenario
def big_tcp(w):
    """Super-segments above 64 KiB, whose length no IP header can tell."""
    w.net.ip("a", "link set veth_a gso_max_size 150000")
    c, s = w.pair(DIRECT, 6, 16, setup=large_buffers)
    transfer([(c, s, 4 << 20)])
    w.net.ip("a", "link set veth_a gso_max_size 65536")


@scenario
def bulk_gro(w):
    """Packets of one MSS, merged by GRO of the receiver."""
    for ip in KINDS:
        c, s = w.pair(ROUTED, ip, 64)
        transfer([(c, s, 1 << 20), (s, c, 300000)])
    c, s = w.pair(ROUTED, 4, 1024)
    transfer([(c, s, 2 << 20)])


@scenario
def backlog(w):
    """Segments that arrive while the receiver owns its socket: the backlog merges them.

    The owner is long in its copy: much data, to pages that must be allocated first. Behind a router, since a packet
    straight from its sender is a clone, to which nothing can be added.
    """
    size, small = 1 << 20, 80
    for ip in (4, 6):
        c, s = w.pair(ROUTED, ip, 64, setup=large_buffers)
        for _ in range(4):
            c.sendall(data_source[:size])
            while struct.unpack("i", fcntl.ioctl(s, termios.FIONREAD, bytes(4)))[0] < size:
                time.sleep(0.01)
            with mmap.mmap(-1, size) as fresh:
                with background(lambda: s.recv_into(fresh), cpu=1):
                    for i in range(small):
                        c.sendall(data_source[i:i + 100])
            receive(s, small * 100)


@scenario
def two_cpus(w):
    """Both ends at work at once, each on a CPU of its own."""
    size = 1 << 20
    for ip in (4, 6):
        for n in (64, 1024):
            c, s = w.pair(ROUTED, ip, n)

            def answer():
                for _ in range(64):
                    s.sendall(receive(s, size // 64)[:4000])

            with background(answer, cpu=1), background(lambda: receive(c, 64 * 4000)):
                c.sendall(data_source[:size])


@scenario
def zero_window(w):
    """The receiver does not read: the window closes, probes follow, the window opens."""
    ends = []
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 64, setup=lambda s, role: s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192))
        c.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += c.send(data_source[:65536])
        ends.append((c, s, sent))
    time.sleep(1.5)
    for c, s, sent in ends:
        receive(s, sent)
        c.settimeout(20)
        talk(c, s, 3)


@scenario
def close(w):
    """FIN from one side, then from the other; the descriptors stay, the packets too."""
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 64)
        talk(c, s, 2)
        c.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""
        s.sendall(b"last words")
        s.shutdown(socket.SHUT_WR)
        receive(c, 10)
        assert c.recv(1) == b""


@scenario
def reset(w):
    """RST by SO_LINGER 0, from either side: seen in the history of the other, the sender's own is gone."""
    for ip in KINDS:
        for by_client in (True, False):
            c, s = w.pair(DIRECT, ip, 64, gone=[0 if by_client else 1])
            talk(c, s, 2)
            by, other = (c, s) if by_client else (s, c)
            by.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            w.kept.remove(by)
            by.close()
            try:
                other.recv(1)
            except ConnectionResetError:
                pass
        # Unread data at close: an RST too.
        c, s = w.pair(DIRECT, ip, 8, gone=[1])
        c.sendall(b"x" * 100)
        time.sleep(0.05)
        w.kept.remove(s)
        s.close()
        time.sleep(0.05)


@scenario
def options_ip(w):
    """IPv4 options: each packet has a longer IP header."""
    nops = bytes([1, 1, 1, 1, 148, 4, 0, 0, 1, 1, 1, 0])

    def setup(sock, role):
        sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, nops if role == "active" else nops[:8])

    c, s = w.pair(DIRECT, 4, 64, setup=setup)
    talk(c, s, 5)
    transfer([(c, s, 200000), (s, c, 200000)])
    record_route = bytes([7, 11, 4] + [0] * 8 + [0])
    c, s = w.pair(DIRECT, 4, 64, setup=lambda s, role: s.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, record_route),
                  rewritten_options=True)
    talk(c, s, 5)


@scenario
def fields_ip(w):
    """TOS and TTL, as set by the application, also changed on the way."""
    def setup(sock, role):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x88 if role == "active" else 0x28)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 17 if role == "active" else 255)

    for pair in (DIRECT, ROUTED):
        c, s = w.pair(pair, 4, 64, setup=setup)
        talk(c, s, 5)
        c.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
        c.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
        transfer([(c, s, 100000), (s, c, 100000)])
    c, s = w.pair(DIRECT, 4, 64, setup=lambda s, role: s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0))
    talk(c, s, 5)


@scenario
def fields_ipv6(w):
    """Traffic class, hop limit, flow label (none, automatic, chosen), extension headers."""
    def setup(sock, role):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xb8 if role == "active" else 0x20)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 33 if role == "active" else 255)

    for label in (0, 1):
        def setup_label(sock, role):
            setup(sock, role)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, label)

        c, s = w.pair(DIRECT, 6, 64, setup=setup_label)
        talk(c, s, 5)
        transfer([(c, s, 100000), (s, c, 100000)])

    # A label of the application's: leased from the kernel, then named in connect().
    c = w.socket("a", 6)
    label = 0x2beef
    address = socket.inet_pton(socket.AF_INET6, ADDR["b"][6])
    c.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWLABEL_MGR,
                 address + struct.pack("!I", label) + struct.pack("=BBHHHI", 0, 1, 1, 60, 60, 0))
    c.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1)
    w.size(c, 64, 64)
    listener = w.socket("b", 6)
    w.size(listener, 64, 64)
    listener.bind((ADDR["b"][6], w.port()))
    listener.listen(1)
    c.connect((ADDR["b"][6], w.next_port, label, 0))
    s = listener.accept()[0]
    listener.close()
    w.keep(6, End("a", "active", c, 64, 64), End("b", "passive", s, 64, 64))
    talk(c, s, 5)

    # Padding, and an option for experiments that receivers skip.
    def setup_extensions(sock, role):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 1, 0x1e, 12] + [7] * 12))

    c, s = w.pair(DIRECT, 6, 64, setup=setup_extensions)
    talk(c, s, 5)
    transfer([(c, s, 200000), (s, c, 200000)])


@scenario
def source_route(w):
    """By way of the router: the IP header names it, the route in an option or header names the peer."""
    for ns, devices in (("c", ["veth_c"]), ("r", ["veth_rc", "veth_rd"]), ("d", ["veth_d"])):
        for dev in ["all", *devices]:
            w.net.sysctl(ns, **{f"ipv4__conf__{dev}__accept_source_route": 1, f"ipv6__conf__{dev}__seg6_enabled": 1})

    def setup4(sock, role):
        # Loose source route; the kernel adds the peer.
        if role == "active":
            route = bytes([131, 7, 4]) + socket.inet_aton("10.2.0.2") + bytes([0])
            sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, route)

    def setup6(sock, role):
        # Segment routing header: next header, length, type, segments left, last entry, flags, tag; the peer, the hop.
        via = socket.inet_pton(socket.AF_INET6, "fd02::2" if role == "active" else "fd03::2")
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, bytes([0, 4, 4, 1, 1, 0, 0, 0]) + bytes(16) + via)

    for ip, setup in ((4, setup4), (6, setup6)):
        c, s = w.pair(ROUTED, ip, 64, setup=setup)
        talk(c, s, 5)
        transfer([(c, s, 100000), (s, c, 100000)])


@scenario
def ecn(w):
    """ECN negotiated; congestion marked on the way."""
    for ns in "abcd":
        w.net.sysctl(ns, ipv4__tcp_ecn=1)
    ends = []
    for ip in (4, 6):
        c, s = w.pair(DIRECT, ip, 64)
        talk(c, s, 5)
        transfer([(c, s, 100000)])
        ends.append(w.pair(ROUTED, ip, 256))
    w.net.netem("loss", "10%", "ecn")
    for c, s in ends:
        transfer([(c, s, 200000), (s, c, 100000)])
    w.net.netem()
    for ns in "abcd":
        w.net.sysctl(ns, ipv4__tcp_ecn=2)


@scenario
def fast_open(w):
    """Data in the SYN: the accepted socket's history starts with it."""
    for ns in DIRECT:
        w.net.sysctl(ns, ipv4__tcp_fastopen=3)

    def setup(sock, role):
        if role == "passive":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 8)

    for ip in (4, 6):
        # The first connection asks for the cookie, the second uses it.
        for i in range(2):
            c, s = w.pair(DIRECT, ip, 64, setup=setup, fastopen=data_source[:300], fast_open=i == 1)
            receive(s, 300)
            talk(c, s, 5)


@scenario
def reconnect(w):
    """One socket, two connections: the history is that of the second."""
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 8, gone=[0])
        talk(c, s, 10)
        if libc.connect(c.fileno(), bytes(16), 16):
            raise OSError(ctypes.get_errno(), "disconnect")
        c, s = w.pair(DIRECT, ip, 8, active=c)
        talk(c, s, 2)


@scenario
def resize(w):
    """Rings made smaller, then larger, with packets in them."""
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 64, least=9)
        talk(c, s, 40)
        for end in (c, s):
            w.size(end, 7, 7)
        talk(c, s, 20)
        for end in (c, s):
            w.size(end, 64, 64)
        talk(c, s, 2)


@scenario
def syn_cookies(w):
    """The accepted socket is made from the ACK alone."""
    w.net.sysctl("b", ipv4__tcp_syncookies=2)
    for ip in KINDS:
        before = w.net.counter("b", "SyncookiesRecv")
        talk(*w.pair(DIRECT, ip, 64), rounds=5)
        assert w.net.counter("b", "SyncookiesRecv") == before + 1, "no cookie was used"
    w.net.sysctl("b", ipv4__tcp_syncookies=1)


@scenario
def urgent(w):
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 64)
        talk(c, s, 2)
        c.send(b"urgent", socket.MSG_OOB)
        s.send(b"urgent", socket.MSG_OOB)
        time.sleep(0.05)


@scenario
def send_file(w):
    """Pages of a file, whose content may still change: headers only, on both ends (the page itself crosses the veth)."""
    file = os.fdopen(os.memfd_create("file"), "w+b")
    file.write(data_source[:400000])
    file.flush()
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 64, why=["shared"])
        talk(c, s, 2)
        with background(lambda: c.sendfile(file, 0, 300000)):
            receive(s, 300000)
        talk(c, s, 2)


@scenario
def zero_copy(w):
    """Pages of user space: the sender keeps headers only; veth gave the receiver a copy."""
    for ip in KINDS:
        c, s = w.pair(DIRECT, ip, 64, why=["zerocopy"], why_ends=[0])
        talk(c, s, 2)
        c.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)

        def sender():
            sent = 0
            while sent < 300000:
                sent += c.send(data_source[sent:300000], MSG_ZEROCOPY)

        with background(sender):
            receive(s, 300000)
        talk(c, s, 2)


@scenario
def snap_length(w):
    for snaplen in (0, 100, 5000, -1):
        for ns in DIRECT:
            if not w.missing:
                w.net.sysctl(ns, ipv4__tcp_pcap_snaplen=snaplen)
        for ip in KINDS:
            c, s = w.pair(DIRECT, ip, 64, snaplen=snaplen)
            talk(c, s, 5)
            transfer([(c, s, 200000), (s, c, 100000)])


@scenario
def loss(w):
    """Retransmissions, duplicates and reordering."""
    ends = [w.pair(ROUTED, ip, n) for n in (64, 1024) for ip in KINDS]
    w.net.netem("delay", "4ms", "reorder", "30%", "duplicate", "50%")
    for ip in KINDS:
        for _ in range(4):
            talk(*w.pair(ROUTED, ip, 64), 2)
    w.net.netem("delay", "4ms", "loss", "5%", "reorder", "30%", "duplicate", "2%")
    transfer([flow for c, s in ends for flow in ((c, s, 300000), (s, c, 100000))], seconds=60)
    for c, s in ends:
        talk(c, s, 3, request=3000, response=3000)
    w.net.netem()


@scenario
def crossing(w):
    """SYN meets SYN, FIN meets FIN: each is on its way when the other is sent."""
    w.net.netem("delay", "60ms")
    for ip in KINDS:
        c, s = w.pair(ROUTED, ip, 64)
        talk(c, s, 1)
        for end in (c, s):
            end.shutdown(socket.SHUT_WR)
        for end in (c, s):
            assert end.recv(1) == b""

        ends = [w.socket(ns, ip) for ns in ROUTED]
        for ns, end in zip(ROUTED, ends):
            w.size(end, 64, 64)
            end.bind((w.address(ns, ip), w.port()))
            end.setblocking(False)
        for end, other in ((0, 1), (1, 0)):
            with contextlib.suppress(BlockingIOError):
                ends[end].connect(ends[other].getsockname())
        for end in ends:
            select.select([], [end], [], 5)
            end.settimeout(20)
        w.keep(ip, *(End(ns, "active", end, 64, 64) for ns, end in zip(ROUTED, ends)))
        talk(*ends, rounds=2)
    w.net.netem()


@scenario
def reset_by_timeout(w):
    """The peer is unreachable: keepalive probes, then an RST of our own with the descriptor still open."""
    ends = [w.pair(ROUTED, ip, 64) for ip in (4, 6)]
    for c, s in ends:
        talk(c, s, 2)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            c.setsockopt(socket.IPPROTO_TCP, option, 1)
    w.net.netem("loss", "100%")
    for c, _ in ends:
        try:
            c.recv(1)
        except (TimeoutError, OSError):
            pass
    w.net.netem()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the captures and manifest.json")
    parser.add_argument("--only", action="append", help="run this scenario (repeatable)")
    parser.add_argument("--panic", action="store_true", help="crash the kernel at the end")
    args = parser.parse_args()

    pin(0, 0)
    net = Net()
    net.up()
    scratch = "/tmp/oracle"
    captures = Captures(net, scratch)
    world = World(net)
    world.missing = not os.path.exists("/proc/sys/net/ipv4/tcp_pcap_packets")
    if not world.missing:
        net.sysctl("init", ipv4__tcp_pcap_frags_max=PAGES_MAX, ipv4__tcp_pcap_mem_max=MEMORY_MAX)
    results = [world.run(s, s.__name__) for s in scenarios if not args.only or s.__name__ in args.only]

    # Delayed ACKs first; then tcpdump gets what it has not seen yet, which takes up to a second.
    time.sleep(0.5)
    stopped = {"monotonic": time.monotonic(), "real": time.time()}
    time.sleep(1.2)
    manifest = {
        "stopped": stopped,
        "missing": world.missing,
        "scenarios": results,
        "tcpdump": captures.stop(args.out),
        "connections": world.connections,
    }
    with open(f"{args.out}/manifest.json", "w") as f:
        json.dump(manifest, f, indent=1)
    os.sync()
    if args.panic:
        with open("/proc/sysrq-trigger", "w") as f:
            f.write("c")
    return any(r["error"] for r in results)


if __name__ == "__main__":
    sys.exit(main())

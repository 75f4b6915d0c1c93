# SPDX-License-Identifier: GPL-2.0
"""The workloads. Each names counters that must move, or it is not what it says."""

import mmap
import os
import select
import socket
import struct

from world import SIZE, Flow, data, expected, large_buffer, no_delay

from network import DIRECT, ROUTED

LOOPBACK = ("a", "a")
SO_ZEROCOPY, MSG_ZEROCOPY, SO_EE_ORIGIN_ZEROCOPY = 60, 0x4000000, 5
TCP_ULP, SOL_TLS, TLS_TX, TLS_RX = 31, 282, 1, 2
TLS_1_3, TLS_CIPHER_AES_GCM_128 = 0x0304, 51
ETH_P_ALL = 3
SEED = 20

workloads = []


def workload(*moves):
    def enter(function):
        workloads.append((function, moves))
        return function
    return enter


@workload("TcpExt.TCPRcvCoalesce")
def bulk_veth(w):
    """Super-segments cross a veth as the sender built them: up, down, both at once."""
    for ip in (4, 6):
        c, s = w.pair(DIRECT, ip)
        w.pump(Flow(c, s, 3 * SIZE))
        w.pump(Flow(s, c, 2 * SIZE))
        w.pump(Flow(c, s, SIZE), Flow(s, c, SIZE))


@workload("IpExt.InNoECTPkts", "Ip.ForwDatagrams")
def bulk_routed(w):
    """Super-segments are cut by software GSO, and merged by GRO at the other end."""
    for ip in (4, 6):
        c, s = w.pair(ROUTED, ip)
        w.pump(Flow(c, s, SIZE))
        w.pump(Flow(s, c, SIZE))
        w.pump(Flow(c, s, SIZE // 2), Flow(s, c, SIZE // 2))


@workload("TcpExt.TCPBacklogCoalesce", "TcpExt.TCPRcvCoalesce")
def bulk_loopback(w):
    w.hold_pages()
    for ip in (4, 6):
        c, s = w.pair(LOOPBACK, ip)
        w.pump(Flow(c, s, 2 * SIZE, chunk=SIZE // 2, read=16384))
        w.pump(Flow(s, c, SIZE))
        w.pump(Flow(c, s, SIZE), Flow(s, c, SIZE))


@workload("TcpExt.TCPHPHits", "TcpExt.TCPPureAcks")
def requests(w):
    for ends in (DIRECT, ROUTED, LOOPBACK):
        for ip in (4, 6):
            c, s = w.pair(ends, ip, setup=no_delay)
            w.talk(c, s, 100)
            w.talk(c, s, 50, request=1, response=900)
            w.talk(c, s, 10, request=3000, response=15000)


@workload("Tcp.RetransSegs", "TcpExt.TCPFastRetrans", "TcpExt.TCPSackRecovery", "TcpExt.TCPTimeouts", "TcpExt.TCPSackMerged")
def loss(w):
    """Packets are lost both ways."""
    w.hold_pages()
    w.net.seeded_netem(SEED, delay_ms=4, loss=0.03)
    for ip in (4, 6):
        c, s = w.pair(ROUTED, ip)
        w.pump(Flow(c, s, SIZE // 2), Flow(s, c, SIZE // 4))
        w.talk(c, s, 10, request=3000, response=6000)


@workload("TcpExt.TCPSACKReorder", "TcpExt.TCPDSACKRecv", "TcpExt.TCPDSACKUndo", "TcpExt.TCPOFOQueue",
          "TcpExt.TCPSackShiftFallback")
def reordering(w):
    """Packets overtake each other, some come twice."""
    w.hold_pages()
    w.net.seeded_netem(SEED, delay_ms=4, reorder=0.1, duplicate=0.02)
    for ip in (4, 6):
        c, s = w.pair(ROUTED, ip)
        w.pump(Flow(c, s, SIZE // 2), Flow(s, c, SIZE // 4))


def small(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 100)


@workload("TcpExt.PruneCalled", "TcpExt.TCPRcvCollapsed", "TcpExt.TCPRcvCoalesce", "TcpExt.TCPOFOQueue")
def small_reads(w):
    """Small segments for a small buffer, which is read byte by byte: the receive queue is collapsed and pruned."""
    w.hold_pages()
    w.net.no_scatter_gather("a", "veth_a")
    w.net.seeded_netem(SEED, delay_ms=4, loss=0.03)
    for ends in (DIRECT, ROUTED):
        for ip in (4, 6):
            c, s = w.pair(ends, ip, setup=small)
            w.pump(Flow(c, s, 30000, read=3), every=50)
            w.pump(Flow(s, c, 30000, read=30), every=50)


def completions(sock):
    """What the error queue of a socket with MSG_ZEROCOPY holds: (first, last, code) of each message."""
    found = []
    while True:
        try:
            _, control, _, _ = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        for _, _, value in control:
            _, origin, _, code, _, first, last = struct.unpack_from("=I4BII", value)
            if origin == SO_EE_ORIGIN_ZEROCOPY:
                found.append((first, last, code))


@workload("Tcp.OutSegs")
def zero_copy(w):
    """Few enough packets to have none evicted from a ring: if records held the pages, no completion would ever come."""
    pages = mmap.mmap(-1, 16384)
    pages.write(data[:16384])
    contents = memoryview(pages)
    for ends in (DIRECT, ROUTED):
        for ip in (4, 6):
            c, s = w.pair(ends, ip)
            c.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
            sent, done = 20 if ends == DIRECT else 3, []
            for _ in range(sent):
                c.sendall(contents, MSG_ZEROCOPY)
                if s.recv(16384, socket.MSG_WAITALL) != expected(0, 16384):
                    raise ValueError("not what was sent")
                w.sample()
                done += completions(c)
            poll = select.poll()
            poll.register(c, 0)
            while sum(last - first + 1 for first, last, _ in done) < sent and poll.poll(1000):
                done += completions(c)
            w.notes[f"completions {ends[0]} ipv{ip}"] = done
            w.notes["sends"] = w.notes.get("sends", 0) + sent
            w.notes["completed"] = w.notes.get("completed", 0) + sum(last - first + 1 for first, last, _ in done)


def file_of(length):
    file = os.memfd_create("file")
    os.write(file, data[:length])
    return file


def from_file(sock, file):
    return lambda at, n: os.sendfile(sock.fileno(), file, at, n)


@workload("Tcp.OutSegs")
def send_file(w):
    file = file_of(SIZE)
    for ends in (DIRECT, LOOPBACK, ROUTED):
        for ip in (4, 6):
            c, s = w.pair(ends, ip)
            w.pump(Flow(c, s, SIZE // 2, send=from_file(c, file)))
            w.pump(Flow(s, c, SIZE // 4, chunk=5000, read=700, send=from_file(s, file)), every=200)


@workload("Tcp.OutSegs")
def splice(w):
    """A proxy: from one socket to the next by a pipe."""
    for ip in (4, 6):
        (c, proxy_in), (proxy_out, s) = w.pair(DIRECT, ip), w.pair(DIRECT[::-1], ip)
        source, sink = os.pipe()

        def receive(n):
            for a, b in ((proxy_in.fileno(), sink), (source, proxy_out.fileno())):
                try:
                    os.splice(a, b, 32768, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
                except BlockingIOError:
                    pass
            return s.recv(n)

        for sock in (proxy_in, proxy_out):
            sock.setblocking(False)
        w.pump(Flow(c, s, SIZE, receive=receive))


def use_tls(c, s):
    """TLS 1.3 with keys of ours, in the kernel's software."""
    for sock in (c, s):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    for sock, way in ((c, TLS_TX), (s, TLS_RX), (s, TLS_TX), (c, TLS_RX)):
        key = bytes(range(16)) if (sock, way) in ((c, TLS_TX), (s, TLS_RX)) else bytes(range(16, 32))
        cipher = struct.pack("=HH8s16s4s8s", TLS_1_3, TLS_CIPHER_AES_GCM_128, bytes(8), key, bytes(4), bytes(8))
        sock.setsockopt(SOL_TLS, way, cipher)


@workload("Tcp.OutSegs")
def tls(w):
    file = file_of(SIZE)
    for ip in (4, 6):
        c, s = w.pair(DIRECT, ip, setup=no_delay)
        use_tls(c, s)
        w.pump(Flow(c, s, SIZE // 2))
        w.pump(Flow(s, c, SIZE // 4, send=from_file(s, file)))
        w.talk(c, s, 20)


@workload("MPTcpExt.MPJoinSynAckRx", "MPTcpExt.MPCapableSYNTX", "Tcp.OutSegs")
def mptcp(w):
    """Two subflows."""
    w.net.ip("a", "addr add 10.1.1.1/24 dev veth_a\nmptcp limits set subflow 2\nmptcp endpoint add 10.1.1.1 subflow")
    w.net.ip("b", "addr add 10.1.1.2/24 dev veth_b\nmptcp limits set subflow 2 add_addr_accepted 2")
    w.hold_pages()
    c, s = w.pair(DIRECT, 4, proto=socket.IPPROTO_MPTCP)
    w.talk(c, s, 10)
    w.rest(1)
    w.pump(Flow(c, s, SIZE), Flow(s, c, SIZE // 2))
    w.talk(c, s, 10)


def tapped(w):
    """The control: packet sockets hold a clone of each packet of loss, as a careless capture would."""
    taps = []
    for ns in ROUTED:
        w.net.enter(ns)
        taps.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
        large_buffer(taps[-1])
    loss(w)
    w.others += taps

# SPDX-License-Identifier: GPL-2.0
"""What the workloads are made of. One thread does both ends of everything: the order of events is the same in every run."""

import contextlib
import random
import select
import socket
import struct
import time

import lab  # noqa: F401  (finds the modules of the oracle)
import observe
from network import ADDR, libc

SO_RCVBUFFORCE = 33
SERVER_PORTS, CLIENT_PORTS = 10000, 40000
SIZE = 1 << 20
data = random.Random(3).randbytes(SIZE) * 2
READ = 262144
TICK = 0.02
TIMER_ABSTIME = 1

contents = memoryview(data)


def expected(at, length):
    at %= SIZE
    return contents[at:at + length]


def align(step=10_000_000):
    """Wait until the clock shows a multiple of so many ns.

    The virtual clock stands still while anything runs, but whoever reads it outside of softirqs moves it on by 256 ns. Capture
    reads it when a socket is made, and an RTT of no time at all is 0 or 1 us then, by where between two us it began.
    """
    moment = -(-time.monotonic_ns() // step) * step
    if libc.clock_nanosleep(time.CLOCK_MONOTONIC, TIMER_ABSTIME, struct.pack("=qq", *divmod(moment, 10 ** 9)), None):
        raise OSError("clock_nanosleep")


class Flow:
    """Bytes that go from one socket to another, sent by chunks, and read by pieces until all is sent."""

    def __init__(self, source, sink, total, chunk=65536, read=READ, send=None, receive=None):
        self.source, self.sink, self.total, self.chunk, self.read = source, sink, total, chunk, read
        self.sent = self.got = 0
        self.send = send or (lambda at, n: source.send(expected(at, n)))
        self.receive = receive or sink.recv

    def step(self, after_send):
        """Send once, receive once, as far as possible without waiting; whether something moved."""
        moved = 0
        if self.sent < self.total:
            with contextlib.suppress(BlockingIOError):
                n = self.send(self.sent, min(self.chunk, self.total - self.sent))
                after_send()
                self.sent += n
                moved += n
        if self.got < self.total:
            with contextlib.suppress(BlockingIOError):
                part = self.receive(min(READ if self.sent == self.total else self.read, self.total - self.got))
                if not part or part != expected(self.got, len(part)):
                    raise ValueError(f"{len(part)} bytes at {self.got} are not what was sent")
                self.got += len(part)
                moved += len(part)
        return moved


class World:
    def __init__(self, net, hold=True):
        self.hold, self.holds = hold, False
        self.net, self.sockets, self.others, self.samples, self.notes = net, [], [], [], {}
        self.started = 0
        self.number, self.holder = 0, None

    def hold_pages(self):
        """From here on a connection with a reader that never reads holds a byte of each page frag that we send from.

        The stack begins such a page anew when nothing refers to it any more. Records do, so with capture the frags lie
        elsewhere; an skb may have one frag more, and the number of frags decides what is merged with what: two skbs by
        tcp_try_coalesce(), data by mptcp_frag_can_collapse_to(). With this they lie alike in all runs.
        """
        self.holds = True
        if not self.hold:
            return
        client, server = self.pair(("r", "r"), setup=large_buffer)
        self.sockets = [s for s in self.sockets if s not in (client, server)]
        self.holder = client
        self.others += [client, server]

    def hold_page(self):
        """To be called after each send(): the page frag that it ended in is held."""
        if self.holder:
            self.holder.send(b"x")

    def pair(self, ends, ip=4, proto=0, setup=None):
        """A connection from a socket in ends[0] to one in ends[1]; setup() sees both sockets before they are used."""
        self.number += 1
        address = [("127.0.0.1" if ip == 4 else "::1") if ends[0] == ends[1] else ADDR[ns][ip] for ns in ends]
        made = []
        for ns in ends:
            self.net.enter(ns)
            made.append(socket.socket(socket.AF_INET if ip == 4 else socket.AF_INET6, socket.SOCK_STREAM, proto))
            if setup:
                setup(made[-1])
        client, listener = made
        listener.bind((address[1], SERVER_PORTS + self.number))
        listener.listen(1)
        client.bind((address[0], CLIENT_PORTS + self.number))
        align()
        client.connect(listener.getsockname())
        server = listener.accept()[0]
        self.others.append(listener)
        self.sockets += [client, server]
        return client, server

    def sample(self):
        self.samples.append([time.monotonic_ns() - self.started, *(observe.of_socket(s) for s in self.sockets)])

    def pump(self, *flows, every=4, seconds=120):
        """Move all bytes; sample each `every` steps, and with the tick of the virtual clock."""
        end, poll, steps = time.monotonic() + seconds, select.poll(), 0
        tick = time.monotonic() + TICK
        for flow in flows:
            for sock in (flow.source, flow.sink):
                sock.setblocking(False)
        while any(flow.got < flow.total for flow in flows):
            moved = sum([flow.step(self.hold_page) for flow in flows])
            steps += 1
            now = time.monotonic()
            if not moved:
                for flow in flows:
                    poll.register(flow.sink, select.POLLIN)
                    poll.register(flow.source, select.POLLIN | (select.POLLOUT if flow.sent < flow.total else 0))
                poll.poll(max(0.0, tick - now) * 1000)
            if now >= tick or steps % every == 0:
                self.sample()
                tick += TICK * (1 + max(0, int((now - tick) / TICK)))
            if now > end:
                raise TimeoutError([(flow.sent, flow.got, flow.total) for flow in flows])
        self.sample()

    def talk(self, client, server, rounds, request=120, response=400, every=16):
        for i in range(rounds):
            for source, sink, length in ((client, server, request), (server, client, response)):
                source.setblocking(True)
                sink.setblocking(True)
                source.sendall(expected(i, length))
                self.hold_page()
                if sink.recv(length, socket.MSG_WAITALL) != expected(i, length):
                    raise ValueError(f"round {i}: not what was sent")
            if i % every == 0:
                self.sample()
        self.sample()

    def rest(self, seconds):
        time.sleep(seconds)
        align()
        self.sample()

    def close(self):
        for sock in (*self.sockets, *self.others):
            sock.close()


def large_buffer(sock):
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)


def no_delay(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

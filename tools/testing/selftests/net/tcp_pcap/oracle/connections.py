# SPDX-License-Identifier: GPL-2.0
"""What the scenarios are made of: pairs of sockets with rings, and ways to move bytes between them."""

import contextlib
import random
import select
import socket
import sys
import threading
import time
import traceback

from network import ADDR, CAPTURED, ROUTED, pin

TCP_PCAP_OUT, TCP_PCAP_IN = 47, 48
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
MSG_FASTOPEN = 0x20000000
SERVER_PORTS, CLIENT_PORTS = 10000, 40000
KINDS = (4, 6, "mapped")    # IPv4, IPv6, and IPv4 by an IPv6 socket

data_source = random.Random(7).randbytes(1 << 20)


class End:
    def __init__(self, ns, role, sock, n_in, n_out):
        self.ns, self.role, self.sock, self.n_in, self.n_out = ns, role, sock, n_in, n_out

    def describe(self):
        return {"ns": self.ns, "file": f"{self.ns}.pcap", "role": self.role, "n": {"in": self.n_in, "out": self.n_out}}


class World:
    """What scenarios use; records what they do."""

    def __init__(self, net):
        self.net, self.connections, self.kept, self.next_port = net, [], [], SERVER_PORTS
        self.missing = False
        self.scenario = None

    def port(self):
        self.next_port += 1
        return self.next_port

    def size(self, sock, n_in, n_out):
        if not self.missing:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_PCAP_IN, n_in)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_PCAP_OUT, n_out)

    def socket(self, ns, ip):
        self.net.enter(ns)
        s = socket.socket(socket.AF_INET if ip == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        s.settimeout(20)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return s

    @staticmethod
    def address(ns, ip):
        return f"::ffff:{ADDR[ns][4]}" if ip == "mapped" else ADDR[ns][ip]

    def pair(self, pair, ip, n, n_in=None, setup=None, sized=True, fastopen=None, active=None, port=None, **expect):
        """A connection from pair[0] to pair[1]: (client, server). setup(sock, role) sees each socket before it is used."""
        number = self.port()
        n_in = n if n_in is None else n_in
        listener, client = self.socket(pair[1], ip), active or self.socket(pair[0], ip)
        for s, role in ((listener, "passive"), (client, "active")):
            if sized:
                self.size(s, n_in, n)
            if setup:
                setup(s, role)
        listener.bind((self.address(pair[1], ip), port or number))
        listener.listen(16)
        to = listener.getsockname()
        # Ports that are the same in every run: tshark guesses protocols by them.
        if not active:
            client.bind((self.address(pair[0], ip), number + CLIENT_PORTS))
        if fastopen is None:
            client.connect(to)
        else:
            client.settimeout(None)
            client.sendto(fastopen, MSG_FASTOPEN, to)
            client.settimeout(20)
        server = listener.accept()[0]
        server.settimeout(20)
        listener.close()
        for s in (client, server):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.keep(ip, End(pair[0], "active", client, n_in, n), End(pair[1], "passive", server, n_in, n), **expect)
        return client, server

    def keep(self, ip, first, second, **expect):
        """Enter a connection into the manifest; expect: see compare.py."""
        self.kept += [first.sock, second.sock]
        ends = [first.describe(), second.describe()]
        for end in ends:
            end["segmented"] = end["ns"] in ROUTED
        ends[0]["local"] = ends[1]["remote"] = plain(first.sock.getsockname())
        ends[1]["local"] = ends[0]["remote"] = plain(second.sock.getsockname())
        self.connections.append({"scenario": self.scenario, "ip": ip, "ends": ends, "expect": expect})

    def run(self, scenario, name):
        self.scenario = name
        first = len(self.connections)
        before = {ns: self.net.counter(ns, "TCPBacklogCoalesce") for ns in CAPTURED}
        error = None
        started = time.monotonic()
        try:
            scenario(self)
        except Exception:
            error = traceback.format_exc()
            print(f"{name}: {error}", file=sys.stderr)
        moved = {ns: self.net.counter(ns, "TCPBacklogCoalesce") - before[ns] for ns in CAPTURED}
        for connection in self.connections[first:]:
            connection["coalesced"] = moved
        print(f"{name}: {time.monotonic() - started:.2f} s", file=sys.stderr)
        return {"name": name, "error": error, "coalesced": moved}


def plain(address):
    return [address[0].removeprefix("::ffff:"), address[1]]


def receive(sock, length):
    got = bytearray()
    while len(got) < length:
        part = sock.recv(length - len(got))
        if not part:
            raise EOFError(f"{len(got)} of {length} bytes")
        got += part
    return got


def talk(client, server, rounds, request=120, response=400):
    for i in range(rounds):
        client.sendall(data_source[i:i + request])
        receive(server, request)
        server.sendall(data_source[-request - i - response:][:response])
        receive(client, response)


def transfer(flows, seconds=30):
    """Move bytes on [(sender, receiver, length)] at once."""
    left = {}
    for sender, receiver, length in flows:
        left[sender], left[receiver] = left.get(sender, [0, 0]), left.get(receiver, [0, 0])
        left[sender][0] += length
        left[receiver][1] += length
    end = time.monotonic() + seconds
    try:
        for s in left:
            s.setblocking(False)
        while any(a or b for a, b in left.values()):
            if time.monotonic() > end:
                raise TimeoutError(f"still to move: {list(left.values())}")
            readable, writable, _ = select.select([s for s in left if left[s][1]], [s for s in left if left[s][0]], [], 1)
            for s in readable:
                part = s.recv(min(left[s][1], 1 << 18))
                if not part:
                    raise EOFError(f"{left[s][1]} bytes missing")
                left[s][1] -= len(part)
            for s in writable:
                at = left[s][0] % 4096
                left[s][0] -= s.send(data_source[at:at + min(left[s][0], 1 << 17)])
    finally:
        for s in left:
            s.settimeout(20)


def large_buffers(sock, role):
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)


@contextlib.contextmanager
def background(function, cpu=0):
    """Run function in a thread of its own meanwhile."""
    def run():
        pin(0, cpu)
        function()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()

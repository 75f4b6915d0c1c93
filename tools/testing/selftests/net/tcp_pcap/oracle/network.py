# SPDX-License-Identifier: GPL-2.0
"""The network of the oracle, and tcpdump on it.

    a --veth-- b              "direct": the sender's super-segments are seen whole on both ends
    c --veth-- r --veth-- d   "routed": packets of one MSS on the wire, cut by software before tcpdump sees them, merged
                              by GRO at the ends; netem in r, which is neither end: at the sender's own egress it drops
                              before tcpdump sees the packet
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess

CLONE_NEWNET = 0x40000000
SIOCETHTOOL, ETHTOOL_STSO, ETHTOOL_SGRO = 0x8946, 0x1f, 0x2c

DIRECT, ROUTED = ("a", "b"), ("c", "d")
ADDR = {
    "a": {4: "10.1.0.1", 6: "fd01::1"}, "b": {4: "10.1.0.2", 6: "fd01::2"},
    "c": {4: "10.2.0.1", 6: "fd02::1"}, "d": {4: "10.3.0.1", 6: "fd03::1"},
}
CAPTURED = {"a": "veth_a", "b": "veth_b", "c": "veth_c", "d": "veth_d"}
NAMESPACES = "abcdr"

libc = ctypes.CDLL(None, use_errno=True)


class Net:
    """The namespaces; enter() moves the calling thread."""

    def __init__(self):
        self.fds = {"init": os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)}
        for ns in NAMESPACES:
            if libc.unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            self.fds[ns] = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def enter(self, ns):
        if libc.setns(self.fds[ns], CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    def run(self, ns, *cmd, text=None):
        self.enter(ns)
        subprocess.run(cmd, input=text, text=True, check=True)

    def ip(self, ns, script):
        self.run(ns, "ip", "-batch", "-", text=script)

    def sysctl(self, ns, **values):
        self.enter(ns)
        for name, value in values.items():
            with open(f"/proc/sys/net/{name.replace('__', '/')}", "w") as f:
                f.write(str(value))

    def offload(self, ns, dev, **on):
        """ethtool -K, without the need for the program."""
        command = {"gro": ETHTOOL_SGRO, "tso": ETHTOOL_STSO}
        self.enter(ns)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for what, value in on.items():
                arg = ctypes.create_string_buffer(struct.pack("=II", command[what], value))
                fcntl.ioctl(s, SIOCETHTOOL, struct.pack("16sP", dev.encode(), ctypes.addressof(arg)))

    def netem(self, *args):
        """What packets of the routed pair suffer, both ways; none: nothing."""
        for dev in ("veth_rc", "veth_rd"):
            if args:
                self.run("r", "tc", "qdisc", "replace", "dev", dev, "root", "netem", "limit", "10000", *args)
            else:
                self.run("r", "tc", "qdisc", "del", "dev", dev, "root")

    def counter(self, ns, name):
        """A counter of TcpExt."""
        self.enter(ns)
        with open("/proc/thread-self/net/netstat") as f:
            names, values = [line.split() for line in f if line.startswith("TcpExt:")]
        return int(values[names.index(name)])

    def up(self):
        # A namespace is named by a file descriptor of ours, so that ip needs no files of its own.
        path = {ns: f"/proc/{os.getpid()}/fd/{fd}" for ns, fd in self.fds.items()}
        self.ip("a", f"link add veth_a type veth peer name veth_b netns {path['b']}")
        self.ip("r", f"link add veth_rc type veth peer name veth_c netns {path['c']}\n"
                     f"link add veth_rd type veth peer name veth_d netns {path['d']}")
        for ns, dev in CAPTURED.items():
            self.sysctl(ns, ipv6__conf__default__accept_dad=0)
            self.ip(ns, f"addr add {ADDR[ns][4]}/24 dev {dev}\naddr add {ADDR[ns][6]}/64 dev {dev} nodad\n"
                        f"link set lo up\nlink set {dev} up")
        self.ip("r", "addr add 10.2.0.2/24 dev veth_rc\naddr add fd02::2/64 dev veth_rc nodad\n"
                     "addr add 10.3.0.2/24 dev veth_rd\naddr add fd03::2/64 dev veth_rd nodad\n"
                     "link set veth_rc up\nlink set veth_rd up")
        self.sysctl("r", ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self.ip("c", "route add default via 10.2.0.2\nroute add default via fd02::2")
        self.ip("d", "route add default via 10.3.0.2\nroute add default via fd03::2")
        for ns, dev in (("c", "veth_c"), ("d", "veth_d")):
            self.offload(ns, dev, tso=0, gro=1)
        for dev in ("veth_rc", "veth_rd"):
            self.offload("r", dev, tso=0)


class Captures:
    """tcpdump on each end, into memory: the output folder may be slow."""

    def __init__(self, net, folder):
        self.folder, self.running = folder, {}
        os.makedirs(folder, exist_ok=True)
        for ns, dev in CAPTURED.items():
            net.enter(ns)
            self.running[ns] = subprocess.Popen(
                ["tcpdump", "-i", dev, "-s", "0", "-B", "32768", "-U", "-n", "--time-stamp-precision=nano", "-Z", "root",
                 "-w", f"{folder}/{ns}.pcap", "tcp or ip6"], stderr=subprocess.PIPE, text=True)
        for ns, process in self.running.items():
            pin(process.pid, 1)
            if "listening on" not in (line := process.stderr.readline()):
                raise RuntimeError(f"tcpdump in {ns}: {line}{process.stderr.read()}")

    def stop(self, out):
        report = {}
        for process in self.running.values():
            process.send_signal(signal.SIGINT)
        for ns, process in self.running.items():
            text = process.stderr.read()
            process.wait()
            report[ns] = text.split("\n")
            shutil.copyfile(f"{self.folder}/{ns}.pcap", f"{out}/{ns}.pcap")
        return report


def pin(pid, cpu):
    """Between the ends of a plain veth nothing keeps the order of packets sent on two CPUs: what tcpdump saw first may
    reach the socket last. So one CPU sends, but where NAPI (for GRO) keeps the order."""
    os.sched_setaffinity(pid, {cpu % os.cpu_count()})

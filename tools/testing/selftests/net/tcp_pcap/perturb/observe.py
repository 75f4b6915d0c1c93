# SPDX-License-Identifier: GPL-2.0
"""What is compared besides the counters: values of sockets, and trace events."""

import collections
import ctypes
import re
import socket
import struct

SO_MEMINFO, TCP_INFO = 55, 11
SOL_MPTCP, MPTCP_TCPINFO = 284, 2
SUBFLOWS = 4

MEMINFO = "rmem_alloc rcvbuf wmem_alloc sndbuf fwd_alloc wmem_queued optmem backlog drops".split()
INFO_LAYOUT = (
    ("B", "state ca_state retransmits probes backoff options wscale bits"),
    ("I", "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets last_data_sent last_ack_sent last_data_recv"
          " last_ack_recv pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss reordering rcv_rtt rcv_space"
          " total_retrans"),
    ("Q", "pacing_rate max_pacing_rate bytes_acked bytes_received"),
    ("I", "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out"),
    ("Q", "delivery_rate busy_time rwnd_limited sndbuf_limited"),
    ("I", "delivered delivered_ce"),
    ("Q", "bytes_sent bytes_retrans"),
    ("I", "dsack_dups reord_seen rcv_ooopack snd_wnd rcv_wnd rehash"),
    ("H", "total_rto total_rto_recoveries"),
    ("I", "total_rto_time received_ce delivered_e1_bytes delivered_e0_bytes delivered_ce_bytes received_e1_bytes"
          " received_e0_bytes received_ce_bytes accecn_bits"),
)
INFO = [name for _, names in INFO_LAYOUT for name in names.split()]
INFO_FORMAT = struct.Struct("=" + "".join(f"{len(names.split())}{kind}" for kind, names in INFO_LAYOUT))
FIELDS = MEMINFO + INFO


def of_socket(sock):
    """SO_MEMINFO and TCP_INFO; an MPTCP socket has the latter of each subflow."""
    memory = struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    if sock.proto != socket.IPPROTO_MPTCP:
        return [*memory, *INFO_FORMAT.unpack(sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, INFO_FORMAT.size))]
    head = struct.pack("=4I", 16, 0, 0, INFO_FORMAT.size)
    got = getsockopt(sock, SOL_MPTCP, MPTCP_TCPINFO, head + bytes(SUBFLOWS * INFO_FORMAT.size))
    count = min(SUBFLOWS, struct.unpack_from("=4I", got)[1])
    return [*memory, *(v for n in range(count) for v in INFO_FORMAT.unpack_from(got, 16 + n * INFO_FORMAT.size))]


def getsockopt(sock, level, name, value):
    """Of an option that also reads what it is given, as Python's own getsockopt() cannot."""
    buffer, length = ctypes.create_string_buffer(value, len(value)), ctypes.c_uint32(len(value))
    if ctypes.CDLL(None, use_errno=True).getsockopt(sock.fileno(), level, name, buffer, ctypes.byref(length)):
        raise OSError(ctypes.get_errno(), "getsockopt")
    return buffer.raw[:length.value]


class Trace:
    """Counts events of the whole kernel.

    Each head of an skb is allocated in kmalloc_reserve(), from skbuff_small_head or by kmalloc(): a copy of a packet
    (pskb_copy(), skb_unclone(), skb_cow_head()) needs one. A clone of a packet that has a clone already needs an sk_buff, which
    skb_clone() itself allocates. The sk_buffs of other callers come from a cache of the CPU as well, and say nothing.
    """
    ROOT = "/sys/kernel/tracing"
    EVENTS = {
        "skb/kfree_skb": "",
        "skb/consume_skb": "",
        "kmem/kmem_cache_alloc": 'name ~ "skbuff_*"',
        "kmem/kmalloc": "gfp_flags & __GFP_NOMEMALLOC",
        "kmem/mm_page_alloc": "order == 3",
        "page_pool/page_pool_state_hold": "",
    }
    LINE = re.compile(r"^[^#].*?\d+: (\w+): (.*)$", re.M)
    VALUE = re.compile(r"(\w+)[=:] ?(\S+)")

    def __init__(self):
        # The clock of the trace must not be that of the guest, which reading moves on.
        for name, value in (("tracing_on", 0), ("trace_clock", "counter"), ("buffer_size_kb", 32768)):
            self.write(name, value)
        for event, only in self.EVENTS.items():
            if only:
                self.write(f"events/{event}/filter", re.sub(r"__GFP_\w+", lambda m: self.flag(event, m[0]), only))
            self.write(f"events/{event}/enable", 1)

    def write(self, name, value):
        with open(f"{self.ROOT}/{name}", "w", encoding="ascii") as f:
            f.write(str(value))

    def flag(self, event, name):
        """The bit of a GFP flag, by the event's own description."""
        with open(f"{self.ROOT}/events/{event}/format", encoding="ascii") as f:
            return str(1 << int(re.search(rf'<< \((\d+)\)\)\), "{name}"', f.read())[1]))

    def start(self):
        self.write("trace", "")
        self.write("tracing_on", 1)

    def stop(self):
        """What happened since start(): {kind: {what: how often}}."""
        self.write("tracing_on", 0)
        with open(f"{self.ROOT}/per_cpu/cpu0/stats", encoding="ascii") as f:
            stats = dict(line.split(": ") for line in f.read().splitlines())
        if int(stats["overrun"]) or int(stats["dropped events"]):
            raise RuntimeError(f"the trace is incomplete: {stats}")
        with open(f"{self.ROOT}/trace", encoding="ascii", errors="replace") as f:
            counts = collections.Counter(self.line(m[1], m[2]) for m in self.LINE.finditer(f.read()))
        found = {}
        for (kind, what), n in counts.items():
            found.setdefault(kind, {})[what] = n
        return found

    def line(self, event, text):
        value = {k: v.split("+")[0] for k, v in self.VALUE.findall(text)}
        if event in ("kfree_skb", "consume_skb"):
            return event, " ".join(value[k] for k in ("location", "protocol", "reason") if k in value)
        if event in ("kmem_cache_alloc", "kmalloc"):
            what = " ".join(value[k] for k in ("name", "call_site", "bytes_req", "gfp_flags") if k in value)
            if {"GFP_NOWAIT", "__GFP_NOMEMALLOC"} <= set(value["gfp_flags"].split("|")):
                return "record" if value.get("name") == "skbuff_small_head" else "history", what
            return "sk_buff" if value.get("name") == "skbuff_head_cache" and value["call_site"] != "skb_clone" else "copy", what
        return event, ""

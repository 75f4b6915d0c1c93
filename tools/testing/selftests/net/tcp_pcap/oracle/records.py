# SPDX-License-Identifier: GPL-2.0
"""What the kernel says of each record, read from a vmcore by include/net/tcp_pcap.h alone.

Independent of the reader under test, which is asked for the packets only.
"""

import ipaddress

import drgn
from drgn.helpers.linux.list import list_for_each_entry

AF_INET6 = 10


def address(family, v4, v6):
    if family == AF_INET6:
        ip = ipaddress.IPv6Address(bytes(v6.in6_u.u6_addr8.value_()))
        if not ip.ipv4_mapped:
            return str(ip)
    return str(ipaddress.IPv4Address(int(v4).to_bytes(4, "little")))


def tuple_of(prog, sk):
    """((local address, port), (remote address, port)) of a `struct sock *`."""
    common = sk.member_("__sk_common")
    family = int(common.skc_family)
    sport = int(drgn.cast("struct inet_sock *", sk).inet_sport)
    local = address(family, common.skc_rcv_saddr, common.skc_v6_rcv_saddr)
    remote = address(family, common.skc_daddr, common.skc_v6_daddr)
    return (local, swap16(sport)), (remote, swap16(int(common.skc_dport)))


def swap16(value):
    return int.from_bytes(value.to_bytes(2, "little"), "big")


def ring(prog, ring, chunk_slots):
    result = {name: int(ring.member_(name))
              for name in ("size", "next", "captured", "evicted", "header_only", "lost", "reclaimed")}
    result["records"] = records = []
    size, chunks = result["size"], ring.chunks
    if not size or not chunks:
        return result
    rec_type = prog.type("struct tcp_pcap_rec")
    for serial in range(max(0, result["next"] - size), result["next"]):
        chunk = chunks[serial % size // chunk_slots]
        skb = chunk[serial % size % chunk_slots] if chunk else None
        if not skb:
            continue
        rec = drgn.Object.from_bytes_(prog, rec_type, prog.read(int(skb.head), rec_type.size)).value_()
        rec["kept"] = int(skb.len)
        rec["slot_serial"] = serial
        records.append(rec)
    return result


def enumerators(prog, enum, prefix):
    """(name without prefix, value) of each."""
    return [(e.name.removeprefix(prefix).lower(), e.value) for e in prog.type(f"enum {enum}").enumerators]


def walk(core, vmlinux):
    """{(local, remote): {"in": ring, "out": ring}} of all captures with a socket."""
    prog = drgn.Program()
    prog.set_core_dump(core)
    prog.load_debug_info([vmlinux])
    slots = int(prog.constant("TCP_PCAP_CHUNK_SLOTS"))
    found = {}
    for shard in prog["tcp_pcap_shards"]:
        for pcap in list_for_each_entry("struct tcp_pcap", shard.captures.address_of_(), "node"):
            if pcap.sk:
                found[tuple_of(prog, pcap.sk)] = {way: ring(prog, pcap.member_(way), slots) for way in ("in", "out")}
    why = {value: name for name, value in enumerators(prog, "tcp_pcap_why", "TCP_PCAP_WHY_")}
    constants = {"why": why, "flags": dict(enumerators(prog, "tcp_pcap_flags", "TCP_PCAP_F_")), "magic": int(prog.constant("TCP_PCAP_MAGIC")),
                 "version": int(prog.constant("TCP_PCAP_VERSION"))}
    return found, constants

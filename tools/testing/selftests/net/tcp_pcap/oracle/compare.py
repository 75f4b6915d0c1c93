#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Host side of the oracle: are the exported packets what tcpdump saw?

For each ring of each end of each connection in manifest.json: the exported packets are the last N of that direction,
in order, byte for byte, but for what differs by design:
  - the TCP checksum (tshark checks it), and the IP id and header checksum of sent packets, which have no id yet;
  - where the backlog merged segments, a record equals the merge of consecutive captured packets; so it does where
    what TCP sent in one piece was cut into segments before tcpdump saw it;
  - a record cut for a reason (snap length, pages not ours) holds a prefix and the original length.
Prints TAP. Ends with a test of itself: packets are damaged one way after the other, and each must be noticed.
"""

import argparse
import itertools
import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass, field

import packets
import records
from packets import ACK, FIN, PSH, RST, SYN, URG, Packet

ROOM = 1000     # Payload above this fits no head: it is referenced, or cut for a reason.
SEVERITY_ERROR = 8 << 20


@dataclass
class Ring:
    """One direction at one end: what was captured, what the kernel says, what was exported."""
    name: str
    scenario: str
    ends: tuple
    outbound: bool
    size: int
    expect: dict
    why: list
    coalesced: int
    segmented: bool
    captured: list
    kernel: dict
    exported: list
    stopped: int
    constants: dict
    merged: int = field(default=0)
    skew: float = field(default=0.0)

    def flag(self, rec, name):
        return bool(rec["flags"] & self.constants["flags"][name])


class Difference(Exception):
    pass


def require(condition, *text):
    if not condition:
        raise Difference(" ".join(str(t) for t in text))


def require_same(what, got, want, packet):
    if got == want:
        return
    at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
    require(False, f"{what} differs at byte {at} of {packet}\nexported: {got[at:at + 32].hex(' ')}"
                   f"\ncaptured: {want[at:at + 32].hex(' ')}\nheads: {got[:80].hex()}\n       {want[:80].hex()}")


def sum16(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total


def blank(network, version, *fields):
    """The IP header with fields (offset, length) of IPv4 zeroed."""
    if version == 4:
        for at, length in fields:
            network = network[:at] + bytes(length) + network[at + length:]
    return network


def merge(parts):
    """What tcp_add_backlog() makes of consecutive segments: the head of the first, ACK, window and FIN as they came.

    It is also what consecutive segments were before they were cut.
    """
    first = parts[0]
    ack, window, flags = first.ack, first.window, first.flags
    for part in parts[1:]:
        if (part.ack - ack) % (1 << 32) < 1 << 31:
            ack, window = part.ack, part.window
        flags |= part.flags & (FIN | PSH)
    raw = bytearray(first.raw[:first.head_len])
    for part in parts:
        raw += part.payload
    tcp = first.net_len
    struct.pack_into("!I", raw, tcp + 8, ack)
    raw[tcp + 13] = flags
    struct.pack_into("!H", raw, tcp + 14, window)
    length = len(raw) if first.version == 4 else len(raw) - 40
    struct.pack_into("!H", raw, 2 if first.version == 4 else 4, length if length < 1 << 16 else 0)
    return Packet(bytes(raw), len(raw), parts[-1].time)


def segments(parts, gso_size):
    return sum(max(1, -(-p.payload_len // gso_size)) if gso_size else 1 for p in parts)


def parts_of(rec, got, captured):
    """How many packets at the end of captured make this record: the number whose payload fits, then whose count does."""
    fitting, length = [], 0
    for n, part in enumerate(reversed(captured), 1):
        length += part.payload_len
        if length > got.payload_len:
            break
        if length == got.payload_len and part.seq == got.seq:
            fitting.append(n)
    require(fitting, f"record {rec['serial']} {got} is not among the captured packets, next is {captured[-1] if captured else None}")
    for n in fitting:
        if segments(captured[-n:], rec["gso_size"]) == rec["gso_segs"]:
            return n
    return fitting[0]


def check_packet(ring, rec, got, parts):
    merged = len(parts) > 1
    want = merge(parts) if merged else parts[0]
    require(got.version == want.version and got.net_len == want.net_len, "another IP header: is", got.network.hex(), "not",
            want.network.hex())
    require(got.length == want.length == rec["orig_len"], f"length {got.length}, record says {rec['orig_len']}, captured {want}")
    require(len(got.raw) == rec["kept"], f"{len(got.raw)} bytes exported, {rec['kept']} kept: {want}")

    ignored = [(4, 2), (10, 2)] if ring.outbound else [(10, 2)] if merged else []
    if not ring.outbound and ring.expect.get("rewritten_options"):
        ignored += [(10, 2), (20, got.net_len - 20)]
    require_same("IP header", blank(got.network, got.version, *ignored), blank(want.network, want.version, *ignored), want)
    require(got.version == 6 or sum16(got.network) == 0xffff, "bad IP header checksum:", got.network.hex())
    transport = want.transport
    if merged and not ring.outbound:
        # Of PSH the stack takes no care when it merges.
        psh = got.raw[got.net_len + 13] & PSH
        transport = transport[:13] + bytes([transport[13] & ~PSH | psh]) + transport[14:]
    require_same("TCP", got.transport, transport[:len(got.raw) - got.net_len], want)

    # What the record says of it.
    require(rec["magic"] == ring.constants["magic"] and rec["version"] == ring.constants["version"] and rec["kind"] == 1, "no record")
    require(rec["dir"] == (2 if ring.outbound else 1), "direction", rec["dir"])
    require(rec["net_len"] == got.net_len, "net_len", rec["net_len"])
    require(ring.flag(rec, "ipv6") == (got.version == 6), "F_IPV6")
    require(ring.flag(rec, "synth") == ring.outbound, "F_SYNTH")
    require(ring.flag(rec, "trunc") == (rec["kept"] < rec["orig_len"]), "F_TRUNC")
    # What adds neither payload nor acknowledgement leaves no trace but the number of segments.
    traces = not ring.outbound and any(p.payload_len or p.ack != parts[0].ack for p in parts[1:])
    require(not traces or ring.flag(rec, "merged"), "F_MERGED is missing:", *map(str, parts))
    require(not merged or rec["gso_segs"] == segments(parts, rec["gso_size"]),
            f"{rec['gso_segs']} segments, {rec['gso_size']} each, in", *map(str, parts))
    if ring.outbound and got.flags & ACK and not got.flags & RST:
        require(got.ack == rec["rcv_nxt"], f"ack {got.ack}, rcv_nxt {rec['rcv_nxt']}")
    if ring.outbound:
        require(rec["gso_segs"] == segments(parts, rec["gso_size"]), f"{rec['gso_segs']} segments, {rec['gso_size']} each, in", got)

    # How much of it is kept, and why.
    kept, why, snaplen = len(got.raw) - got.head_len, ring.constants["why"][rec["why"]], ring.expect.get("snaplen", -1)
    due = got.payload_len if snaplen < 0 else min(snaplen, got.payload_len)
    if why in ("not", "snaplen"):
        require(kept == due, f"{kept} of {due} bytes of payload kept, reason {why}: {want}")
        require((why == "snaplen") == (due < got.payload_len), "reason", why)
        require(not ring.why or got.payload_len <= ROOM, f"not cut: {want}")
    elif why == "frag_list" and ring.segmented and not ring.outbound:
        # GRO fills the frags first, then hangs whole packets behind.
        require(16000 < kept < due, f"{kept} bytes in frags of {want}")
    else:
        require(why in ring.why, f"cut for reason {why}: {kept} of {want}")
        require(kept < due, "cut, but whole")


def relevant(ring):
    """The captured packets that are the socket's: an accepted one does not exist yet at SYN and SYN-ACK."""
    if ring.expect["role"] == "active" or ring.expect.get("fast_open") and not ring.outbound:
        return ring.captured
    return list(itertools.dropwhile(lambda p: p.flags & SYN, ring.captured))


def check(ring):
    """Raise Difference, or return how many packets were compared."""
    recs, got = ring.kernel["records"], ring.exported
    require(ring.kernel["size"] == ring.size, "the ring has", ring.kernel["size"], "slots")
    require(len(recs) == len(got), f"{len(got)} packets exported, {len(recs)} in the ring")
    for rec, (first, second) in itertools.zip_longest(recs, itertools.pairwise(recs), fillvalue=(None, None)):
        require(rec["serial"] == rec["slot_serial"], "serial", rec["serial"], "in the slot of", rec["slot_serial"])
        if first:
            require(second["serial"] == first["serial"] + 1 and second["order"] > first["order"]
                    and second["time"] >= first["time"], "serial, order or time of", second["serial"])
    require(ring.kernel["lost"] == 0 and ring.kernel["reclaimed"] == 0, "lost packets", ring.kernel)
    require(ring.kernel["captured"] == ring.kernel["next"] == ring.kernel["evicted"] + len(recs), "counters", ring.kernel)

    # A retransmission may come after tcpdump was stopped; it has pushed an older packet out.
    late = sum(rec["time"] > ring.stopped for rec in recs)
    recs, got = recs[:len(recs) - late], got[:len(got) - late]
    captured = relevant(ring)
    count = ring.kernel["captured"] - late
    require(count <= len(captured) if ring.size else not count, f"{count} recorded, {len(captured)} captured")
    missing = 0 if not ring.size or ring.outbound and ring.segmented else len(captured) - count
    require(missing <= (0 if ring.outbound else ring.coalesced),
            f"{count} recorded, {len(captured)} captured, {ring.coalesced} merged")
    least = ring.expect.get("least", ring.size)
    require(not ring.size or min(least, ring.kernel["captured"]) <= len(recs) + late <= ring.size, f"{len(recs)} packets of", count)

    left = len(captured)
    most = 65535 if (ring.segmented if ring.outbound else ring.coalesced) else 1
    for rec, packet in zip(reversed(recs), reversed(got)):
        parts = parts_of(rec, packet, captured[max(0, left - most):left])
        try:
            check_packet(ring, rec, packet, captured[left - parts:left])
        except Difference as e:
            raise Difference(f"serial {rec['serial']} of {ring.kernel['next']}, gso_segs {rec['gso_segs']} of {rec['gso_size']}: {e}") from None
        ring.skew = max(ring.skew, abs(float(packet.time) - float(captured[left - 1].time)))
        left -= parts
        ring.merged += parts > 1
    if ring.kernel["evicted"] == 0 and ring.size:
        require(left == 0, f"{left} captured packets before the first record")
    return len(recs)


def both_ways(rings):
    """The records of each end of a connection, sent and received, in their order."""
    ends = {}
    for ring in rings:
        ends.setdefault((ring.scenario, ring.ends), []).extend(ring.kernel["records"])
    for (scenario, names), recs in ends.items():
        yield scenario, names, sorted(recs, key=lambda rec: rec["order"])


def consistent(recs):
    return all(a["order"] < b["order"] and a["time"] <= b["time"] for a, b in itertools.pairwise(recs))


def rings(manifest, captures, exported, kernel, constants):
    nothing = {"size": 0, "records": [], "lost": 0, "reclaimed": 0, "captured": 0, "next": 0, "evicted": 0}
    for connection in manifest["connections"]:
        for index, end in enumerate(connection["ends"]):
            if index in connection["expect"].get("gone", []):
                continue
            local, remote = tuple(end["local"]), tuple(end["remote"])
            for way in ("in", "out"):
                source, target = (remote, local) if way == "in" else (local, remote)
                family = {4: "v4", 6: "v6"}.get(connection["ip"], connection["ip"])
                expect = dict(connection["expect"], role=end["role"])
                yield Ring(
                    scenario=connection["scenario"], ends=(local, remote),
                    name=f"{connection['scenario']} {family} {end['role']} {way} N={end['n'][way]} port {local[1]}",
                    outbound=way == "out", size=end["n"][way], expect=expect,
                    why=expect.get("why", []) if index in expect.get("why_ends", [0, 1]) else [],
                    coalesced=connection["coalesced"][end["ns"]], segmented=end["segmented"],
                    captured=captures[end["ns"]].get((source, target), []),
                    kernel=kernel.get((local, remote), {}).get(way, nothing),
                    exported=exported.get((local, remote, way), []),
                    stopped=manifest["stopped"], constants=constants)


def repeats(ring):
    seen = set()
    return any(p.payload_len and (p.seq in seen or seen.add(p.seq)) for p in ring.exported)


def any_packet(test):
    return lambda ring: any(test(p) for p in ring.exported)


# What a scenario is there for: at least one ring of it must show it.
PURPOSES = [
    ("requests", "ring smaller than the connection", lambda r: r.kernel["evicted"]),
    ("bulk", "sent super-segment", lambda r: r.outbound and any_packet(lambda p: p.payload_len > 1500)(r)),
    ("bulk_gro", "packets merged by GRO", lambda r: not r.outbound and any_packet(lambda p: p.payload_len > 1500)(r)),
    ("backlog", "packets merged by the backlog", lambda r: r.merged),
    ("zero_window", "zero window", any_packet(lambda p: p.window == 0)),
    ("close", "FIN", any_packet(lambda p: p.flags & FIN)),
    ("reset", "RST received", lambda r: not r.outbound and any_packet(lambda p: p.flags & RST)(r)),
    ("reset_by_timeout", "RST sent", lambda r: r.outbound and any_packet(lambda p: p.flags & RST)(r)),
    ("crossing", "SYN-ACK of a simultaneous open", lambda r: r.expect["role"] == "active" and r.outbound
     and any_packet(lambda p: p.flags & (SYN | ACK) == SYN | ACK)(r)),
    ("options_ip", "IPv4 options", any_packet(lambda p: p.net_len > 20)),
    ("fields_ip", "TTL changed on the way", lambda r: len({p.raw[8] for p in r.exported}) > 1),
    ("fields_ipv6", "flow label of the application", any_packet(lambda p: p.network[1:4].hex().endswith("2beef"))),
    ("fields_ipv6", "extension headers", any_packet(lambda p: p.net_len > 40)),
    ("source_route", "a route in IPv4", any_packet(lambda p: p.version == 4 and p.dst[0] != packets.text(p.raw[16:20]))),
    ("source_route", "a route in IPv6", any_packet(lambda p: p.version == 6 and p.dst[0] != packets.text(p.raw[24:40]))),
    ("big_tcp", "a packet longer than its IP header can tell", any_packet(lambda p: p.length > 65575)),
    ("ecn", "congestion mark", any_packet(lambda p: p.version == 4 and p.raw[1] & 3 == 3)),
    ("fast_open", "SYN with data received", lambda r: not r.outbound
     and any_packet(lambda p: p.flags & SYN and p.payload_len)(r)),
    ("urgent", "urgent data", any_packet(lambda p: p.flags & URG)),
    ("loss", "retransmission", lambda r: r.outbound and repeats(r)),
    ("snap_length", "cut payload", lambda r: any(rec["why"] for rec in r.kernel["records"])),
    ("send_file", "cut payload", lambda r: any(rec["why"] for rec in r.kernel["records"])),
    ("zero_copy", "cut payload", lambda r: any(rec["why"] for rec in r.kernel["records"])),
    ("page_limit", "cut payload", lambda r: any(rec["why"] for rec in r.kernel["records"])),
]


class Tap:
    def __init__(self):
        self.number = self.failed = 0

    def result(self, good, name, text=""):
        self.number += 1
        self.failed += not good
        print("ok" if good else "not ok", self.number, "-", name)
        for line in str(text).splitlines():
            print("#", line)

    def end(self):
        print(f"1..{self.number}", flush=True)


# The test of the test -------------------------------------------------------------------------------------------------

def rebuilt(packet, at, value):
    raw = packet.raw[:at] + bytes([packet.raw[at] ^ value]) + packet.raw[at + 1:]
    return Packet(raw, packet.length, packet.time)


def damages(ring):
    """(name, exported packets, records) of every damage that fits this ring."""
    got, recs = ring.exported, ring.kernel["records"]
    middle = len(got) // 2
    packet = got[middle]

    def replaced(new):
        return got[:middle] + [new] + got[middle + 1:], recs

    if len(packet.raw) > packet.head_len:
        yield "a byte of payload", *replaced(rebuilt(packet, len(packet.raw) - 1, 1))
        yield "the last byte cut", *replaced(Packet(packet.raw[:-1], packet.length, packet.time))
    yield "window", *replaced(rebuilt(packet, packet.net_len + 15, 1))
    yield "TCP option", *replaced(rebuilt(packet, packet.head_len - 1, 1))
    yield "TOS or flow label", *replaced(rebuilt(packet, 1, 0x10 if packet.version == 4 else 1))
    yield "TTL", *replaced(rebuilt(packet, 8 if packet.version == 4 else 7, 1))
    yield "length in the IP header", *replaced(rebuilt(packet, 3 if packet.version == 4 else 5, 1))
    yield "original length", *replaced(Packet(packet.raw, packet.length + 1, packet.time))
    yield "a packet left out", got[:middle] + got[middle + 1:], recs
    # Where the kernel itself loses or swaps packets, its records are consistent with that.
    numbered = [dict(r, serial=n, slot_serial=n) for n, r in enumerate(recs[:middle] + recs[middle + 1:], recs[0]["serial"] + 1)]
    yield "a packet left out by the kernel", got[:middle] + got[middle + 1:], numbered
    if str(got[middle]) != str(got[middle - 1]):
        swapped = got[:middle - 1] + [got[middle], got[middle - 1]] + got[middle + 1:]
        order = recs[:middle - 1] + [recs[middle], recs[middle - 1]] + recs[middle + 1:]
        keep = ("serial", "slot_serial", "order", "time")
        order = [dict(o, **{k: r[k] for k in keep}) for o, r in zip(order, recs)]
        yield "two packets swapped", swapped, order


def test_itself(tap, good):
    """Damage packets of rings that passed."""
    noticed = {}
    for ring in good:
        if len(ring.exported) < 4:
            continue
        exported, kernel = ring.exported, ring.kernel
        for name, got, recs in damages(ring):
            noticed.setdefault(name, 0)
            if noticed[name] >= 20:
                continue
            ring.exported, ring.kernel = got, dict(kernel, records=recs)
            if "by the kernel" in name:
                ring.kernel["evicted"] += 1
            try:
                check(ring)
            except Difference:
                noticed[name] += 1
            else:
                tap.result(False, f"damage is noticed: {name}", ring.name)
            ring.exported, ring.kernel = exported, kernel
    for name, times in noticed.items():
        tap.result(times > 0, f"damage is noticed: {name}", f"{times} times")
    tap.result(len(noticed) >= 10, "each kind of damage was tried", "\n".join(noticed))


# tshark ---------------------------------------------------------------------------------------------------------------

def tshark(path):
    fields = ["frame.number", "_ws.malformed", "ip.checksum.status", "tcp.checksum.status", "_ws.expert.severity", "_ws.expert.message"]
    command = ["tshark", "-n", "-r", path, "-T", "fields", "-E", "occurrence=a", "-E", "separator=|",
               "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"]
    output = subprocess.run([*command, *itertools.chain.from_iterable(("-e", f) for f in fields)],
                            stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ, HOME="/nonexistent")).stdout
    return [dict(zip(fields, line.split("|"))) for line in output.splitlines()]


def check_tshark(tap, path, count):
    frames = tshark(path)
    tap.result(len(frames) == count, "tshark reads every packet", f"{len(frames)} of {count}")

    def none(name, bad):
        bad = [f for f in frames if bad(f)]
        tap.result(not bad, f"tshark: {name}", "\n".join(str(f) for f in bad[:10]))

    none("no malformed packet", lambda f: f["_ws.malformed"])
    none("no bad IP checksum", lambda f: "0" in f["ip.checksum.status"].split(","))
    none("no bad TCP checksum", lambda f: "0" in f["tcp.checksum.status"].split(","))
    none("no error", lambda f: str(SEVERITY_ERROR) in f["_ws.expert.severity"].split(","))
    verified = sum("1" in f["tcp.checksum.status"].split(",") for f in frames)
    tap.result(verified > len(frames) / 2, "tshark verified checksums", f"{verified} of {len(frames)}")


# -------------------------------------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", required=True, help="folder with manifest.json and the captures")
    parser.add_argument("--core", required=True)
    parser.add_argument("--vmlinux", required=True)
    parser.add_argument("--export", required=True, help="pcapng of the reader under test")
    args = parser.parse_args()

    with open(f"{args.dir}/manifest.json") as f:
        manifest = json.load(f)
    captures = {ns: packets.read_capture(f"{args.dir}/{ns}.pcap") for ns in manifest["tcpdump"]}
    kernel, constants = records.walk(args.core, args.vmlinux)
    exported = packets.read_export(args.export)
    tap = Tap()

    for scenario in manifest["scenarios"]:
        tap.result(not scenario["error"], f"scenario {scenario['name']} ran", scenario["error"] or "")
    for ns, report in manifest["tcpdump"].items():
        tap.result(any(line.startswith("0 packets dropped") for line in report), f"tcpdump in {ns} saw everything", "\n".join(report))

    good = []
    for ring in rings(manifest, captures, exported, kernel, constants):
        try:
            count = check(ring)
        except Difference as e:
            tap.result(False, ring.name, e)
            continue
        good.append(ring)
        tap.result(True, f"{ring.name}: {count} packets" + (f", {ring.merged} merged" if ring.merged else ""))

    ran = {scenario["name"] for scenario in manifest["scenarios"]}
    for scenario, purpose, shown in PURPOSES:
        if scenario in ran:
            tap.result(any(shown(r) for r in good if r.scenario == scenario), f"{scenario} shows: {purpose}")
    disorder = [f"{scenario} {ends}" for scenario, ends, recs in both_ways(good) if not consistent(recs)]
    tap.result(not disorder, "both directions of a connection are in one order", "\n".join(disorder))

    known = {(ring_local, ring_remote) for c in manifest["connections"]
             for ring_local, ring_remote in ((tuple(e["local"]), tuple(e["remote"])) for e in c["ends"])}
    unknown = sorted({key[:2] for key in exported} - known)
    tap.result(not unknown, "nothing else is exported", unknown or "")
    skew = max((ring.skew for ring in good), default=9)
    tap.result(skew < 0.5, "time stamps are the capture's", f"at most {skew:.6f} s apart")
    check_tshark(tap, args.export, sum(map(len, exported.values())))
    test_itself(tap, good)
    tap.end()
    return tap.failed > 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: GPL-2.0
"""One ring against the capture.

The exported packets are the last N of that direction, in order, byte for byte, but for what differs by design:
  - the TCP checksum (tshark checks it), and the IP id and header checksum of sent packets, which have no id yet;
  - where the backlog merged segments, a record equals the merge of consecutive captured packets; so it does where
    what TCP sent in one piece was cut into segments before tcpdump saw it;
  - a record cut for a reason (snap length, pages not ours) holds a prefix and the original length.
"""

import itertools
import struct
from dataclasses import dataclass, field

from packets import ACK, FIN, PSH, RST, SYN, Packet

ROOM = 1000     # Payload above this fits no head: it is referenced, or cut for a reason.
SYN_SENT, SYN_RECV, CLOSING = 2, 3, 11


@dataclass
class Ring:
    """One direction at one end: what was captured, what the kernel says, what was exported."""
    name: str
    scenario: str
    family: str
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
    stopped: float
    constants: dict
    merged: int = 0
    skews: list = field(default_factory=list)

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
        if after(part.ack, ack):
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
    require(fitting, f"serial {rec['serial']} {got} is not among the captured packets; next is", *captured[-1:])
    for n in fitting:
        if segments(captured[-n:], rec["gso_size"]) == rec["gso_segs"]:
            return n
    return fitting[0]


def check_state(rec, got, outbound):
    """Does the socket's state at that moment fit the packet?"""
    require(0 < rec["state"] < 14 and rec["ca_state"] < 5, "state", rec["state"], rec["ca_state"])
    if outbound:
        # A window probe is one byte before what is unacknowledged.
        require(after(got.seq + 1, rec["snd_una"]), f"seq {got.seq}, snd_una {rec['snd_una']}")
        require(after(rec["snd_nxt"], got.seq) or got.flags & RST, f"seq {got.seq}, snd_nxt {rec['snd_nxt']}")
        require(not got.flags & ACK or got.flags & RST or got.ack == rec["rcv_nxt"], f"ack {got.ack}, rcv_nxt {rec['rcv_nxt']}")
        require(not got.flags & SYN or rec["state"] == (SYN_RECV if got.flags & ACK else SYN_SENT), "SYN in state", rec["state"])
    elif got.flags & ACK and not got.flags & RST:
        require(after(rec["snd_nxt"], got.ack), f"ack {got.ack} received, snd_nxt {rec['snd_nxt']}")


def after(a, b):
    """a >= b, as sequence numbers go."""
    return (a - b) % (1 << 32) < 1 << 31


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
    require([rec["magic"], rec["version"], rec["kind"]] == [ring.constants["magic"], ring.constants["version"], 1], "no record")
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
    check_state(rec, got, ring.outbound)
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
    elif why == "linear" and not ring.outbound:
        # A small packet that was copied into one buffer, a little longer than the room behind long headers.
        require(kept < due < 256, f"{kept} bytes of {want}")
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
    for rec in recs:
        require(rec["serial"] == rec["slot_serial"], "serial", rec["serial"], "in the slot of", rec["slot_serial"])
    for first, second in itertools.pairwise(recs):
        require(second["serial"] == first["serial"] + 1 and second["order"] > first["order"] and second["time"] >= first["time"],
                "serial, order or time of", second["serial"])
    require(ring.kernel["lost"] == 0 and ring.kernel["reclaimed"] == 0, "lost packets", ring.kernel)
    require(ring.kernel["captured"] == ring.kernel["next"] == ring.kernel["evicted"] + len(recs), "counters", ring.kernel)

    cut = sum(ring.constants["why"][rec["why"]] not in ("not", "snaplen") for rec in recs)
    require(cut == ring.kernel["header_only"] or cut < ring.kernel["header_only"] and ring.kernel["evicted"],
            f"{ring.kernel['header_only']} counted, {cut} seen without payload")

    # A retransmission may come after the end of the captures; it has pushed an older packet out.
    late = sum(rec["time"] / 1e9 > ring.stopped for rec in recs)
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
            raise Difference(f"serial {rec['serial']} of {ring.kernel['next']}, {rec['gso_segs']} segments: {e}") from None
        seen = captured[left - parts if ring.outbound else left - 1]
        ring.skews.append(abs(float(packet.time) - float(seen.time)))
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


def family_of(connection):
    return {4: "v4", 6: "v6"}.get(connection["ip"], connection["ip"])


def rings(manifest, captures, exported, kernel, constants):
    nothing = {"size": 0, "records": [], "lost": 0, "reclaimed": 0, "captured": 0, "next": 0, "evicted": 0}
    for connection in manifest["connections"]:
        family = family_of(connection)
        for index, end in enumerate(connection["ends"]):
            if index in connection["expect"].get("gone", []):
                continue
            local, remote = tuple(end["local"]), tuple(end["remote"])
            for way in ("in", "out"):
                source, target = (remote, local) if way == "in" else (local, remote)
                expect = dict(connection["expect"], role=end["role"])
                yield Ring(
                    scenario=connection["scenario"], family=family, ends=(local, remote),
                    name=f"{connection['scenario']} {family} {end['role']} {way} N={end['n'][way]} ports {local[1]}-{remote[1]}",
                    outbound=way == "out", size=end["n"][way], expect=expect,
                    why=expect.get("why", []) if index in expect.get("why_ends", [0, 1]) else [],
                    coalesced=connection["coalesced"][end["ns"]], segmented=end["segmented"],
                    captured=[p for p in captures[end["ns"]].get((source, target), []) if p.time < manifest["stopped"]["real"]],
                    kernel=kernel.get((local, remote), {}).get(way, nothing),
                    exported=exported.get((local, remote, way), []),
                    stopped=manifest["stopped"]["monotonic"], constants=constants)

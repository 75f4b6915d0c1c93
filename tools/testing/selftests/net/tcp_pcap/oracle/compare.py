#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Host side of the oracle: are the exported packets what tcpdump saw?

Checks each ring of each end of each connection in manifest.json (check.py), that the scenarios showed what they are
there for, the exports with tshark, and at last itself (damage.py). Prints TAP.

There are two exports, since Wireshark cannot have both ends of a connection in one file: the one that the reader makes
by default, with one end of each connection, and one with the ends that this leaves out.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import packets
import records
from check import CLOSING, Difference, both_ways, check, consistent, family_of, rings
from damage import test_itself
from packets import ACK, FIN, RST, SYN, URG

SEVERITY_ERROR = 8 << 20
READER = Path(__file__).resolve().parents[5] / "net/tcp_pcap/drgn/tcp_pcap.py"


def repeats(ring):
    seen = set()
    return any(p.payload_len and (p.seq in seen or seen.add(p.seq)) for p in ring.exported)


# Tests of a ring.

def packet(test):
    return lambda ring: any(test(p) for p in ring.exported)


def record(test):
    return lambda ring: any(test(ring, rec) for rec in ring.kernel["records"])


def sent(test):
    return lambda ring: ring.outbound and test(ring)


def received(test):
    return lambda ring: not ring.outbound and test(ring)


def from_the_start(test):
    """Of the first packet of the connection."""
    return lambda ring: ring.exported and not ring.kernel["evicted"] and test(ring.exported[0])


def cut(why):
    return record(lambda ring, rec: ring.constants["why"][rec["why"]] == why)


LARGE = packet(lambda p: p.payload_len > 1500)


# Tests of all rings of a scenario.

def some(test):
    return lambda rings: any(test(ring) for ring in rings)


def both_ends(test):
    """Both ends of a connection have a ring like this."""
    def shown(rings):
        ends = {ring.ends for ring in rings if test(ring)}
        return any((remote, local) in ends for local, remote in ends)
    return shown


def one_way(outbound):
    """An end has packets of this direction, and no ring for the other."""
    def shown(rings):
        none = {ring.ends for ring in rings if ring.outbound != outbound and not ring.size}
        return any(ring.outbound == outbound and ring.exported and ring.ends in none for ring in rings)
    return shown


def anew(rings):
    """A client whose first server saw it go, and whose history starts with the SYN to the second."""
    before = {ring.ends[1]: ring.ends[0] for ring in rings if received(packet(lambda p: p.flags & RST))(ring)}
    return any(sent(from_the_start(lambda p: p.flags & SYN))(ring) and before.get(ring.ends[0], ring.ends[1]) != ring.ends[1]
               for ring in rings)


# What a scenario is there for. Each kind of address that it uses must show it, but in the backlog: what is merged there
# is up to the scheduler.
PURPOSES = [
    ("requests", "a ring smaller than the connection", some(lambda r: r.kernel["evicted"])),
    ("one_direction_only", "only what is sent", one_way(True)),
    ("one_direction_only", "only what is received", one_way(False)),
    ("bulk", "a sent super-segment", some(sent(LARGE))),
    ("bulk_gro", "packets merged by GRO", some(received(lambda r: r.segmented and LARGE(r)))),
    ("backlog", "packets merged by the backlog", some(received(record(lambda r, rec: r.flag(rec, "len_fixed"))))),
    ("zero_window", "a zero window", some(packet(lambda p: p.window == 0))),
    ("close", "FIN, at both ends", both_ends(sent(packet(lambda p: p.flags & FIN)))),
    ("reset", "RST received", some(received(packet(lambda p: p.flags & RST)))),
    ("reset_by_timeout", "RST sent", some(sent(packet(lambda p: p.flags & RST)))),
    ("crossing", "a simultaneous open: SYN-ACK of both ends",
     both_ends(sent(packet(lambda p: p.flags & (SYN | ACK) == SYN | ACK)))),
    ("crossing", "a simultaneous close: both ends in CLOSING", both_ends(record(lambda r, rec: rec["state"] == CLOSING))),
    ("options_ip", "IPv4 options", some(packet(lambda p: p.version == 4 and p.net_len > 20))),
    ("fields_ip", "TTL changed on the way", some(lambda r: len({p.raw[8] for p in r.exported}) > 1)),
    ("fields_ipv6", "a flow label of the application", some(packet(lambda p: p.network[1:4].hex().endswith("2beef")))),
    ("fields_ipv6", "extension headers", some(packet(lambda p: p.net_len > 40))),
    ("source_route", "a route", some(packet(lambda p: p.dst[0] != p.next_hop))),
    ("big_tcp", "a packet longer than its IP header can tell", some(packet(lambda p: p.length > 65575))),
    ("ecn", "a congestion mark", some(packet(lambda p: p.ecn == 3))),
    ("fast_open", "SYN with data received", some(received(packet(lambda p: p.flags & SYN and p.payload_len)))),
    ("reconnect", "the history of the second connection", anew),
    ("resize", "packets given up, and room left", some(lambda r: r.kernel["evicted"] and len(r.exported) < r.size)),
    ("syn_cookies", "a history that begins with the ACK of the handshake",
     some(received(from_the_start(lambda p: p.flags & (SYN | ACK) == ACK)))),
    ("urgent", "urgent data", some(packet(lambda p: p.flags & URG))),
    ("loss", "a retransmission", some(sent(repeats))),
    ("snap_length", "payload cut by the snap length", some(cut("snaplen"))),
    ("send_file", "pages of a file left out", both_ends(cut("shared"))),
    ("zero_copy", "pages of user space left out", some(sent(cut("zerocopy")))),
    ("page_limit", "pages left out for the limit", some(cut("limit"))),
]


def check_purposes(tap, manifest, good):
    ran = {scenario["name"] for scenario in manifest["scenarios"]}
    for scenario, purpose, shown in PURPOSES:
        if scenario not in ran:
            continue
        families = sorted({family_of(c) for c in manifest["connections"] if c["scenario"] == scenario})
        for group in ([families] if scenario == "backlog" else [[family] for family in families]):
            tap.result(shown([r for r in good if r.scenario == scenario and r.family in group]),
                       f"{scenario} {' or '.join(group)} shows: {purpose}")


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


def export_named(args, ends, path):
    """Export these ends, [(local, remote)], by name: the reader then writes them whether or not it has their other end."""
    def name(end):
        return f"[{end[0]}]:{end[1]}" if ":" in end[0] else f"{end[0]}:{end[1]}"

    command = [sys.executable, READER, "-c", args.core, "-s", args.vmlinux, "export", "-o", path]
    return subprocess.run([*command, *(f"{name(local)}-{name(remote)}" for local, remote in ends)], check=False).returncode


def tshark(path):
    fields = ["frame.number", "_ws.malformed", "ip.checksum.status", "tcp.checksum.status", "_ws.expert.severity", "_ws.expert.message",
              "tcp.srcport", "tcp.dstport", "tcp.reassembled.length", "http.request.method", "http.response.code", "http.content_length"]
    command = ["tshark", "-n", "-r", path, "-T", "fields", "-E", "occurrence=a", "-E", "separator=|",
               "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"]
    output = subprocess.run([*command, *itertools.chain.from_iterable(("-e", f) for f in fields)],
                            stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ, HOME="/nonexistent")).stdout
    return [dict(zip(fields, line.split("|"))) for line in output.splitlines()]


def check_tshark(tap, what, frames, count):
    tap.result(len(frames) == count, f"tshark reads every packet of {what}", f"{len(frames)} of {count}")

    def none(name, bad):
        bad = [f for f in frames if bad(f)]
        tap.result(not bad, f"tshark: {name} in {what}", "\n".join(str(f) for f in bad[:10]))

    none("no malformed packet", lambda f: f["_ws.malformed"])
    none("no bad IP checksum", lambda f: "0" in f["ip.checksum.status"].split(","))
    none("no bad TCP checksum", lambda f: "0" in f["tcp.checksum.status"].split(","))
    none("no error", lambda f: str(SEVERITY_ERROR) in f["_ws.expert.severity"].split(","))
    verified = sum("1" in f["tcp.checksum.status"].split(",") for f in frames)
    tap.result(verified > len(frames) / 2, f"tshark verified checksums of {what}", f"{verified} of {len(frames)}")


def check_http(tap, manifest, what, frames):
    """Does tshark find the messages, whole? One file has one end of each connection, either one."""
    found = {}
    for frame in frames:
        ports = frozenset((frame["tcp.srcport"], frame["tcp.dstport"]))
        if frame["http.request.method"]:
            found.setdefault(ports, []).append([frame["http.request.method"], *body(frame)])
        elif frame["http.response.code"]:
            found.setdefault(ports, []).append([*body(frame)])
    for connection in manifest["connections"]:
        exchanges = connection["expect"].get("http")
        if not exchanges:
            continue
        client, server = (end["local"][1] for end in connection["ends"])
        got = found.get(frozenset((str(client), str(server))), [])
        want = [message for method, up, down in exchanges for message in ([method, up, True], [down, True])]
        tap.result(got == want, f"tshark reassembles HTTP {family_of(connection)} ports {client}-{server} in {what}",
                   f"found {got}")


def body(frame):
    """Length of the body as told, and whether it is all there: a message in more than one packet is put together."""
    length = int(frame["http.content_length"] or 0)
    return length, length < 1000 or int(frame["tcp.reassembled.length"] or 0) > length


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", required=True, help="folder with manifest.json and the captures")
    parser.add_argument("--core", required=True)
    parser.add_argument("--vmlinux", required=True)
    parser.add_argument("--export", required=True, help="what the reader under test exports by default")
    args = parser.parse_args()

    with open(f"{args.dir}/manifest.json") as f:
        manifest = json.load(f)
    captures = {ns: packets.read_capture(f"{args.dir}/{ns}.pcap") for ns in manifest["tcpdump"]}
    kernel, constants = records.walk(args.core, args.vmlinux)
    tap = Tap()

    ends = {(tuple(end["local"]), tuple(end["remote"])) for connection in manifest["connections"]
            for index, end in enumerate(connection["ends"]) if index not in connection["expect"].get("gone", [])}
    default = packets.read_export(args.export)
    taken = {key[:2] for key in default}
    twice = sorted((local, remote) for local, remote in taken if (remote, local) in taken)
    tap.result(not twice, "the default export has one end of each connection", twice or "")
    left_out = sorted(ends - taken)
    lonely = [end for end in left_out if end[::-1] not in taken]
    tap.result(not lonely, "the default export has every connection", lonely or "")
    others_path = f"{args.dir}/others.pcapng"
    tap.result(export_named(args, left_out, others_path) == 0, "the reader exports the other ends")
    others = packets.read_export(others_path)
    exported = default | others
    unknown = sorted({key[:2] for key in exported} - ends)
    tap.result(not unknown, "nothing else is exported", unknown or "")

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

    check_purposes(tap, manifest, good)
    disorder = [f"{scenario} {ends}" for scenario, ends, recs in both_ways(good) if not consistent(recs)]
    tap.result(not disorder, "both directions of a connection are in one order", "\n".join(disorder))

    # The guest may be stopped for a while between the one and the other stamp, so a few may be far apart.
    skews = sorted(itertools.chain.from_iterable(ring.skews for ring in good))
    tap.result(skews and skews[len(skews) * 99 // 100] < 0.1, "time stamps are the capture's",
               " ".join(f"{part} %: {skews[len(skews) * part // 101]:.6f} s" for part in (50, 99, 100)) if skews else "")
    files = ("the default export", args.export, default), ("the export of the other ends", others_path, others)
    with ThreadPoolExecutor() as pool:
        for (what, _, flows), frames in zip(files, pool.map(lambda file: tshark(file[1]), files)):
            check_tshark(tap, what, frames, sum(map(len, flows.values())))
            check_http(tap, manifest, what, frames)
    test_itself(tap, good)
    tap.end()
    return tap.failed > 0


if __name__ == "__main__":
    sys.exit(main())

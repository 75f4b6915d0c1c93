#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Host side of the oracle: are the exported packets what tcpdump saw?

Checks each ring of each end of each connection in manifest.json (check.py), that the scenarios showed what they are
there for, the export with tshark, and at last itself (damage.py). Prints TAP.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys

import packets
import records
from check import Difference, both_ways, check, consistent, rings
from damage import test_itself
from packets import ACK, FIN, RST, SYN, URG

SEVERITY_ERROR = 8 << 20


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
    ("backlog", "packets merged by the backlog", lambda r: not r.outbound
     and any(r.flag(rec, "len_fixed") for rec in r.kernel["records"])),
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
    # The guest may be stopped for a while between the one and the other stamp, so a few may be far apart.
    skews = sorted(itertools.chain.from_iterable(ring.skews for ring in good))
    tap.result(skews and skews[len(skews) * 99 // 100] < 0.1, "time stamps are the capture's",
               " ".join(f"{part} %: {skews[len(skews) * part // 101]:.6f} s" for part in (50, 99, 100)) if skews else "")
    check_tshark(tap, args.export, sum(map(len, exported.values())))
    test_itself(tap, good)
    tap.end()
    return tap.failed > 0


if __name__ == "__main__":
    sys.exit(main())

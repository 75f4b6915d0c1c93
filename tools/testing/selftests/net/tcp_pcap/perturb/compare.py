#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compares runs of the workloads: two without capture, one with. TAP.

The two without tell what is the same in every run; only that can show what capture changes.
"""

import argparse
import collections
import json
import re
import sys
from pathlib import Path

from observe import FIELDS, INFO, MEMINFO
from workloads import workloads

# Regular expressions of what is not compared, and why.
NOT_COMPARED = {
    "counters": {
        r"TcpExt\.TCPPcap": "counts what is captured",
    },
    "samples": {
        r"^mptcp: (rtt|rttvar|min_rtt|rto|pacing_rate) of":
            "a worker makes the second subflow; capture reads the clock for it, which moves the virtual one by 256 ns: then "
            "no time at all is 1 us, or 0",
    },
    "drops": {},
    "copies": {},
}
# What is compared, and what it says.
KINDS = {
    "counters": "counters of /proc/net/netstat, snmp and snmp6",
    "samples": "values of SO_MEMINFO and TCP_INFO",
    "drops": "kinds of skb:kfree_skb events",
    "copies": "kinds of allocation of an skb's head, or of an sk_buff by skb_clone()",
}
SHOWN = 8


class Tap:
    def __init__(self):
        self.number = self.failed = 0

    def result(self, good, text, *why):
        self.number += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.number} - {text}")
        if not good:
            for line in why:
                print(f"# {line}")


def values(run, kind):
    """What is compared of a run of a workload, as {name: value}."""
    trace = run["trace"]
    if kind == "counters":
        return run["counters"]
    if kind == "drops":
        return trace.get("kfree_skb", {})
    if kind == "copies":
        return trace.get("copy", {})
    found = {}
    for i, (when, *sockets) in enumerate(run["samples"]):
        found[f"time of sample {i}"] = when
        for j, numbers in enumerate(sockets):
            found.update((f"{field(k)} of socket {j} in sample {i}", n) for k, n in enumerate(numbers))
    return found


def field(k):
    """Of an MPTCP socket there is more than one TCP_INFO."""
    return FIELDS[k] if k < len(FIELDS) else INFO[(k - len(MEMINFO)) % len(INFO)]


def differences(workload, kind, first, second):
    """[(name, value, value)] of what differs and is compared; the number of values that are compared."""
    excluded = [re.compile(r) for r in NOT_COMPARED[kind]]
    a, b = values(first, kind), values(second, kind)
    names = [n for n in dict.fromkeys([*a, *b]) if not any(r.search(f"{workload}: {n}") for r in excluded)]
    return [(n, a.get(n, 0), b.get(n, 0)) for n in names if a.get(n, 0) != b.get(n, 0)], len(names)


def show(found):
    by_name = collections.Counter(re.sub(r" (of|in) s.*", "", name) for name, _, _ in found)
    return [f"{len(found)} differ: " + ", ".join(f"{n} {name}" for name, n in by_name.most_common(SHOWN)),
            *(f"{name}: {a} without, {b} with" for name, a, b in found[:SHOWN])]


def total(run, *names):
    """A counter in all namespaces together."""
    return sum(v for n, v in run["counters"].items() if n.split()[1] in names)


def check_traffic(tap, name, off, moves):
    seen = {m: total(off, m) for m in moves}
    text = ", ".join(f"{m.split('.')[1]} {n}" for m, n in seen.items())
    tap.result(all(seen.values()), f"{name}: the traffic is what it should be: {text}")


def check_capture(tap, name, off, on):
    """Packets are captured, and what was allocated for them is free again, without a drop."""
    counts = [run["notes"]["captured"] for run in (off, on)]
    held, lost = on["notes"]["held"], total(on, "TcpExt.TCPPcapLost", "TcpExt.TCPPcapNoHistory")
    tap.result(not counts[0] and counts[1] >= held["packets"] > 0 and not lost,
               f"{name}: {counts[0]} packets captured without, {counts[1]} with; {held['packets']} of them held at the end, "
               f"{held['payloads']} with {held['frags']} pages",
               f"{lost} packets or histories lost")
    heads = sum(on["trace"].get("record", {}).values())
    known, freed = off["trace"].get("consume_skb", {}), on["trace"].get("consume_skb", {})
    ours = {where: n - known.get(where, 0) for where, n in freed.items() if n != known.get(where, 0)}
    tap.result(heads and heads == sum(ours.values()) and not off["trace"].get("record"),
               f"{name}: {heads} records allocated, all of them consumed when the sockets are closed, none dropped", ours)


def check_zero_copy(tap, name, run):
    notes = run["notes"]
    captured = notes["captured"]
    tap.result(notes["sends"] == notes["completed"] > 0 and captured == notes["held"]["packets"],
               f"{name}: {notes['completed']} of {notes['sends']} sends completed while all {captured} packets are in the rings",
               f"{notes['held']['packets']} records exist")


def check_control(tap, off):
    """The comparison finds what a capture would do that holds clones: here packet sockets do."""
    for kind in ("copies", "counters", "samples"):
        found, _ = differences("control", kind, off["loss"], off["tapped"])
        tap.result(found, f"control: {len(found)} {KINDS[kind]} differ where packet sockets hold a clone of each packet")
        for line in show(found)[:SHOWN // 2]:
            print(f"# {line}")


def report(name, off, on, off_free, on_free):
    """What may differ."""
    for text, kind in (("32 KiB pages allocated", "mm_page_alloc"), ("pages of page pools", "page_pool_state_hold")):
        counts = [sum(run["trace"].get(kind, {}).values()) for run in (off, on)]
        print(f"# {name}: {text}: {counts[0]} without, {counts[1]} with")
    if off_free and on_free:
        found, count = differences(name, "counters", off_free, on_free)
        print(f"# {name}: where page frags lie as they come: {len(found)} of {count} counters differ" + ":" * bool(found),
              ", ".join(f"{name} {a}/{b}" for name, a, b in found[:SHOWN]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="compare this workload (repeatable)")
    parser.add_argument("--status", type=int, nargs=3, default=[0] * 3, help="how the three guests ended")
    parser.add_argument("off", type=Path, help="results of run.py --packets 0 --tapped --free")
    parser.add_argument("again", type=Path, help="results of run.py --packets 0 --free")
    parser.add_argument("on", type=Path, help="results of run.py --packets 64 --free")
    args = parser.parse_args()
    paths = (args.off, args.again, args.on)
    runs = [json.loads(path.read_text(encoding="ascii")) if path.exists() else {} for path in paths]

    tap = Tap()
    for path, status in zip(paths, args.status):
        tap.result(not status, f"guest {path.stem}: its kernel log is clean, nothing leaked", f"status {status}")
    for kind, reasons in NOT_COMPARED.items():
        for what, why in reasons.items():
            print(f"# not compared: {kind}: {what}: {why}")
    for function, moves in workloads:
        name = function.__name__
        if args.only and name not in args.only:
            continue
        off, again, on = (run.get(name, {"error": "it did not run"}) for run in runs)
        if errors := [r["error"] for r in (off, again, on) if "error" in r]:
            tap.result(False, f"{name}: it runs to its end", *errors[0].splitlines())
            continue
        check_traffic(tap, name, off, moves)
        check_capture(tap, name, off, on)
        if "sends" in off["notes"]:
            check_zero_copy(tap, name, on)
        for kind, text in KINDS.items():
            found, count = differences(name, kind, off, again)
            tap.result(count and not found, f"{name}: {count} {text}: the same in each run without capture", *show(found))
            found, count = differences(name, kind, off, on)
            tap.result(count and not found, f"{name}: {count} {text}: the same with capture", *show(found))
        report(name, off, on, *(run.get(f"{name} free") for run in (runs[0], runs[2])))
    if not args.only and "tapped" in runs[0]:
        check_control(tap, runs[0])
    print(f"1..{tap.number}")
    return tap.failed > 0


if __name__ == "__main__":
    sys.exit(main())

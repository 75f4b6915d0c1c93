#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Guest side: runs each workload in namespaces and in a process of its own, with or without capture; what is compared goes to
a file.
"""

import argparse
import json
import os
import sys
import time
import traceback

from lab import Lab
from observe import Trace
from workloads import tapped, workloads
from world import World, align

from network import libc

ADDR_NO_RANDOMIZE = 0x0040000
SYSCTL = "/proc/sys/net/ipv4/tcp_pcap_"


def settle(seconds):
    """Wait for what is still on its way. Each workload begins with a second of the clock."""
    time.sleep(seconds)
    align(10 ** 9)


def accounts():
    """The host's /proc/net/tcp_pcap: each line that is one number, and what the accounts have in use."""
    with open("/proc/self/net/tcp_pcap", encoding="ascii") as f:
        lines = [line.split() for line in f]
    return {line[0]: int(line[1]) for line in lines[1:]}


def free_spares():
    """Records that are kept for the next connections are given back by any write of the limit."""
    with open(f"{SYSCTL}mem_max", "r+", encoding="ascii") as f:
        now = f.read()
        f.seek(0)
        f.write(now)


def run(function, trace, hold):
    net = Lab()
    net.up()
    world = World(net, hold)
    # Multicast groups are joined at random times.
    settle(20)
    before = net.counters()
    world.started = time.monotonic_ns()
    trace.start()
    function(world)
    settle(1)
    world.sample()
    captured = sum(n for name, n in net.counters().items() if name.endswith(".TCPPcapCaptured"))
    net.enter("init")
    world.notes |= {"captured": captured, "held": accounts(), "holds": world.holds}
    world.close()
    settle(2)
    free_spares()
    found = trace.stop()
    counters = {name: n - before.get(name, 0) for name, n in net.counters().items()}
    net.close()
    return {"trace": found, "counters": counters, "samples": world.samples, "notes": world.notes}


def in_a_process(function, trace, hold=True):
    """The result of run() in a child, so that page frag and open files are new."""
    path = f"/tmp/{function.__name__}.json"
    if not (child := os.fork()):
        try:
            result = run(function, trace, hold)
        except Exception:
            result = {"error": traceback.format_exc()}
        with open(path, "w", encoding="ascii") as f:
            json.dump(result, f)
        os._exit(0)
    if status := os.waitpid(child, 0)[1]:
        return {"error": f"ended with status {status}"}
    # The namespaces are gone before the next ones come.
    settle(1)
    with open(path, encoding="ascii") as f:
        return json.load(f)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, required=True, help="net.ipv4.tcp_pcap_packets of all namespaces")
    parser.add_argument("--only", action="append", help="run this workload (repeatable)")
    parser.add_argument("--free", action="store_true", help="where page frags are held alike: also without that")
    parser.add_argument("--tapped", action="store_true", help="also run the control, which a packet socket perturbs")
    parser.add_argument("--out", required=True, help="file for the results")
    args = parser.parse_args()

    # A new namespace starts with the value of the initial one.
    with open(f"{SYSCTL}packets", "w", encoding="ascii") as f:
        f.write(str(args.packets))
    trace, results = Trace(), {}
    for function in [f for f, _ in workloads] + [tapped] * args.tapped:
        name = function.__name__
        if not args.only or name in args.only:
            results[name] = in_a_process(function, trace)
            if args.free and function != tapped and results[name].get("notes", {}).get("holds"):
                results[f"{name} free"] = in_a_process(function, trace, hold=False)
    with open(args.out, "w", encoding="ascii") as f:
        json.dump(results, f)


def predictable():
    """Where memory lies decides how many page faults there are, and the virtual clock's scheduler counts these: begin again
    with addresses and hashes that are the same in every run.
    """
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        libc.personality(ADDR_NO_RANDOMIZE)
        os.execv(sys.executable, [sys.executable, "-B", *sys.argv])


if __name__ == "__main__":
    predictable()
    main()

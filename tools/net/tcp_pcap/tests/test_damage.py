#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
The drgn reader on damaged input: a clear message, an exit status that is not 0, no traceback, no hang.

Environment: VMCORE and VMLINUX, a vmcore with histories and its vmlinux; OUT, a folder with room for a copy of the vmcore
(default: a temporary one).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "drgn"))

from drgn import Object
from drgn.helpers.linux.mm import page_to_phys
from tcp_pcap_reader.layout import Layout

from tap import READER, Tap, environment
from vmcore import (
    PAGE,
    PT_NOTE,
    Target,
    Vmcore,
    find_target,
    segments,
    without_page,
    word,
)

SEED = 7
ROUNDS = 150
TIMEOUT = 60
WILD = 0x6B6B6B6B6B6B6B6B
LOW = 0x1000

Changes = list[tuple[int, bytes]]


# Running the reader


def judge(status: int | None, errors: str, wanted: Sequence[int]) -> list[str]:
    """What is wrong with how the reader ended."""
    problems = []
    if status is None:
        problems.append(f"no end after {TIMEOUT} s")
    elif status not in wanted:
        problems.append(f"exit status {status}, not {' or '.join(map(str, wanted))}")
    if "Traceback" in errors or "unexpected" in errors:
        problems.append("it was surprised")
    if status and not errors.startswith("tcp_pcap:"):
        problems.append("no message")
    return problems + ([errors] if problems else [])


def run_program(arguments: Sequence[object]) -> tuple[int | None, str]:
    """Run the reader as a program of its own."""
    command = [sys.executable, READER, *arguments]
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stderr


def run_on(vmcore: Vmcore, arguments: Sequence[str]) -> tuple[int | None, str]:
    """Run the reader on a vmcore that is open."""
    status, _, errors = vmcore.run(arguments, TIMEOUT)
    return status, errors


# Whole files


def file_cases(tap: Tap, vmcore: Path, vmlinux: Path, folder: Path) -> None:
    """Files that are not what they should be."""
    copy = folder / "cut"
    size = vmcore.stat().st_size

    def on_file(length: int, wanted: Sequence[int]) -> list[str]:
        shutil.copyfile(vmcore, copy)
        os.truncate(copy, length)
        status, errors = run_program(["-c", copy, "-s", vmlinux, "export", "--both-ends", "-o", os.devnull])
        return judge(status, errors, wanted)

    tap.run("core cut to nothing", lambda: on_file(0, [2]))
    tap.run("core cut within its headers", lambda: on_file(100, [2]))
    tap.run("core cut after its headers", lambda: on_file(8192, [1, 2]))
    tap.run("core cut to a third", lambda: on_file(size // 3, [1, 2]))
    tap.run("core cut to nine tenths", lambda: on_file(size * 9 // 10, [1, 2]))
    tap.run("core without vmcoreinfo", lambda: without_vmcoreinfo(vmcore, vmlinux, copy))
    copy.unlink(missing_ok=True)
    for name, other in wrong_vmlinux():
        tap.run(f"wrong vmlinux: {name}", partial(wrong_symbols, vmcore, other))
    tap.run("no vmlinux", lambda: wrong_symbols(vmcore, None))
    tap.run("no such core", lambda: judge(*run_program(["-c", folder / "none", "list"]), [2]))
    tap.run("no such vmlinux", lambda: judge(*run_program(["-c", vmcore, "-s", folder / "none", "list"]), [2]))
    tap.run("a core that is a text", lambda: judge(*run_program(["-c", __file__, "list"]), [2]))


def without_vmcoreinfo(vmcore: Path, vmlinux: Path, copy: Path) -> list[str]:
    """A core whose VMCOREINFO note has another name."""
    shutil.copyfile(vmcore, copy)
    with copy.open("r+b") as file:
        for kind, offset, _, length in segments(copy):
            if kind == PT_NOTE:
                file.seek(offset)
                notes = file.read(length).replace(b"VMCOREINFO\0", b"XMCOREINFO\0")
                file.seek(offset)
                file.write(notes)
    status, errors = run_program(["-c", copy, "-s", vmlinux, "list"])
    problems = judge(status, errors, [2])
    return problems or ([] if "VMCOREINFO" in errors else [f"the message does not say so: {errors}"])


def wrong_vmlinux() -> list[tuple[str, Path]]:
    """Files that have other symbols."""
    found = [("another program", Path(sys.executable).resolve())]
    other = os.environ.get("UML")
    if other and Path(other).exists():
        found.append(("another kernel", Path(other)))
    return found


def wrong_symbols(vmcore: Path, vmlinux: Path | None) -> list[str]:
    """The message must name the build id that is wanted."""
    symbols = ["-s", vmlinux] if vmlinux else []
    status, errors = run_program(["-c", vmcore, *symbols, "list"])
    problems = judge(status, errors, [2])
    return problems or ([] if "build id" in errors else [f"the message does not say so: {errors}"])


# Garbage in memory


def single_cases(target: Target) -> dict[str, Changes]:
    """Damage to one place each; each must be noticed."""
    node = target.pcap("node")
    following = target.prog.read_u64(node)
    shard = target.layout.shards[target.prog.read_u16(target.pcap("shard"))].captures.address_
    cases: dict[str, Changes] = {
        "list: runs in a circle": [(node, word(node))],
        "list: next pointer wild": [(node, word(WILD))],
        "list: next pointer NULL": [(node, word(0))],
        "list: next pointer into another struct": [(node, word(target.slot.address))],
        "list: back pointer wild": [(following + 8, word(WILD))],
        "list: head wild": [(shard, word(WILD) * 2)],
        "list: head NULL": [(shard, word(0) * 2)],
        "capture: another shard": [(target.pcap("shard"), word(60000, 2))],
        "capture: sock wild": [(target.pcap("sk"), word(WILD))],
        "capture: sock of another kind": [(target.pcap("sk"), word(target.slot.address))],
        "ring: size too large": [(target.in_ring("size"), word(-1, 4))],
        "ring: number of chunks too large": [(target.in_ring("nr_chunks"), word(-1, 4))],
        "ring: chunks wild": [(target.in_ring("chunks"), word(WILD))],
        "ring: next serial too small": [(target.in_ring("next"), word(0))],
        "ring: next serial too large": [(target.in_ring("next"), word(1 << 63))],
        "chunk: wild": [(target.ring.chunks, word(WILD))],
        "chunk: low": [(target.ring.chunks, word(LOW))],
        "slot: wild": [(target.slot_pointer(), word(WILD))],
        "slot: low": [(target.slot_pointer(), word(LOW))],
        "slot: no sk_buff": [(target.slot_pointer(), word(target.capture.address))],
        "sk_buff: head wild": [(target.skb("head"), word(WILD))],
        "sk_buff: data wild": [(target.skb("data"), word(WILD))],
        "sk_buff: data before the record's end": [(target.skb("data"), word(target.slot.skb.head.value_()))],
        "sk_buff: length too large": [(target.skb("len"), word(-1, 4))],
        "sk_buff: length 0": [(target.skb("len"), word(0, 4))],
        "sk_buff: paged length too large": [(target.skb("data_len"), word(-1, 4))],
        "sk_buff: end too large": [(target.skb("end"), word(0x7FFFFFFF, 4)), (target.skb("len"), word(0xFFFFF, 4))],
        "record: magic": [(target.record("magic"), word(0, 4))],
        "record: version": [(target.record("version"), word(99, 1))],
        "record: kind": [(target.record("kind"), word(99, 1))],
        "record: direction": [(target.record("dir"), word(3, 1))],
        "record: serial of another slot": [(target.record("serial"), word(target.slot.record.serial + 1))],
        "record: serial out of the window": [(target.record("serial"), word(target.slot.record.serial + 5 * target.ring.size))],
        "record: original length too large": [(target.record("orig_len"), word(-1, 4))],
        "record: original length 0": [(target.record("orig_len"), word(0, 4))],
        "record: header length too large": [(target.record("net_len"), word(-1, 2))],
        "packet: IP version": [(target.slot.skb.data.value_(), word(0, 1))],
        "packet: TCP header length": [(target.slot.skb.data.value_() + target.slot.record.net_len + 12, word(0, 1))],
    }
    if target.slot.skb.data_len:
        frag = target.shared().frags[0]
        cases |= {
            "frags: too many": [(target.shared().nr_frags.address_, word(255, 1))],
            "frags: none": [(target.shared().nr_frags.address_, word(0, 1))],
            "frag: page wild": [(frag.netmem.address_, word(WILD & ~1))],
            "frag: device memory": [(frag.netmem.address_, word(frag.netmem.value_() | 1))],
            "frag: too long": [(frag.len.address_, word(-1, 4))],
            "frag: offset wild": [(frag.offset.address_, word(-1, 4))],
        }
    return cases


def random_changes(target: Target, chance: random.Random) -> Changes:
    """Up to eight words of the history become garbage."""
    regions = target.regions()
    changes = []
    for _ in range(chance.randint(1, 8)):
        start, words = chance.choice(regions)
        address = start + 8 * chance.randrange(words)
        values = (0, LOW, WILD, chance.getrandbits(64), target.capture.address, target.slot.address, -1)
        changes.append((address, word(chance.choice(values))))
    return changes


def memory_cases(tap: Tap, vmcore: Vmcore, folder: Path) -> None:
    """Garbage in a vmcore that is whole otherwise."""
    target = find_target(Layout(vmcore.prog))
    export = ["export", "--both-ends", "-o", str(folder / "damaged.pcapng")]
    everything = ["show", "--port", str(1)], ["list"], ["show", str(target.capture.index)], ["limits"], export

    tap.run("intact", lambda: judge(*run_on(vmcore, export), [0]))
    for name, changes in single_cases(target).items():

        def damaged(changes: Changes = changes) -> list[str]:
            with vmcore.overwritten(changes):
                return judge(*run_on(vmcore, export), [1])

        tap.run(name, damaged)

    def other_cpus() -> list[str]:
        offset = vmcore.prog["__per_cpu_offset"][1].address_
        with vmcore.overwritten([(offset or 0, word(WILD))]):
            return judge(*run_on(vmcore, ["limits"]), [1])

    tap.run("limits: what a CPU has is elsewhere", other_cpus)

    chance = random.Random(SEED)

    def at_random() -> list[str]:
        for number in range(ROUNDS):
            changes = random_changes(target, chance)
            with vmcore.overwritten(changes):
                for arguments in everything:
                    problems = judge(*run_on(vmcore, arguments), [0, 1])
                    if problems:
                        where = ", ".join(f"{address:#x}={data.hex()}" for address, data in changes)
                        return [f"seed {SEED}, round {number}, {arguments[0]}: {where}", *problems]
        return []

    tap.run(f"{ROUNDS} times garbage at random places", at_random)
    tap.run("intact again", lambda: judge(*run_on(vmcore, export), [0]))


def filtered(vmcore: Vmcore, original: Path, vmlinux: Path, folder: Path) -> list[str]:
    """A page with payload is not in the dump: the packet ends there, and tshark does not mind."""
    target = find_target(Layout(vmcore.prog))
    skb, record = target.slot.skb, target.slot.record
    if not skb.data_len:
        return ["the vmcore has no packet with frags"]
    frag = target.shared().frags[0]
    page = Object(vmcore.prog, "struct page *", frag.netmem.value_())
    start = page_to_phys(page).value_() + frag.offset.value_()
    hole = (start + min(frag.len.value_(), 2 * PAGE) - 1) // PAGE * PAGE
    linear = skb.len.value_() - skb.data_len.value_()
    copy, output = folder / "filtered", folder / "filtered.pcapng"
    shutil.copyfile(original, copy)
    without_page(copy, hole)
    status, errors = run_program(["-c", copy, "-s", vmlinux, "export", "-o", output, target.capture.index])
    copy.unlink()
    problems = judge(status, errors, [1])
    command = ["tshark", "-r", str(output), "-T", "fields", "-e", "frame.packet_id", "-e", "frame.packet_flags_direction"]
    command += ["-e", "frame.cap_len", "-e", "frame.len", "-e", "_ws.malformed"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [(int(row[0]), int(row[1], 0), int(row[2]), int(row[3]), row[4]) for row in (line.split("\t") for line in lines)]
    wanted = (record.serial, record.dir, linear + max(0, hole - start), record.orig_len, "")
    return problems if wanted in rows else [*problems, f"{wanted} is not in {rows}"]


def main() -> int:
    """:return: exit status"""
    tap = Tap()
    vmcore, vmlinux = Path(environment("VMCORE")), Path(environment("VMLINUX"))
    with tempfile.TemporaryDirectory(dir=os.environ.get("OUT")) as temporary:
        folder = Path(temporary)
        file_cases(tap, vmcore, vmlinux, folder)
        copy = Vmcore(vmcore, vmlinux, folder / "vmcore")
        tap.run("page missing from a filtered dump", partial(filtered, copy, vmcore, vmlinux, folder))
        memory_cases(tap, copy, folder)
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())

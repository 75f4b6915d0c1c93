#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
What the drgn reader says of things that do not happen at will: packets lost, reclaimed, cut short, sockets that are gone.

They are written into a vmcore that has the connections of traffic.py.

Environment: VMCORE and VMLINUX; OUT, a folder with room for a copy of the vmcore (default: a temporary one).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "drgn"))

from drgn import offsetof
from tcp_pcap_reader.layout import Layout

from tap import Tap, environment
from vmcore import Target, Vmcore, find_target, word

WHY_RECLAIMED = 10
WHY_LIMIT = 6
WHY_PRESSURE = 11
WHY_UNKNOWN = 99
FULL = 12
MAX_CAPTURED = 262144
TOO_LARGE = 300000


class Case:
    """A vmcore, and the ring in it that things are done to."""

    def __init__(self, vmcore: Vmcore, target: Target, folder: Path) -> None:
        self.vmcore = vmcore
        self.target = target
        self.path = folder / "rare.pcapng"
        self.index = str(target.capture.index)

    def slot(self, number: int) -> int:
        """Address of the slot of the packet with that number among those kept."""
        serial = self.target.slots[number].record.serial
        return self.target.chunk() + 8 * (serial % self.target.ring.size)

    def serial(self, number: int) -> int:
        """Serial of that packet."""
        return self.target.slots[number].record.serial

    def run(self, *arguments: str) -> str:
        """Output of the reader, which must not complain."""
        status, output, errors = self.vmcore.run(arguments)
        if status != 0:
            raise RuntimeError(f"{arguments}: status {status}: {errors}")
        return output

    def export(self, *fields: str) -> list[list[str]]:
        """Fields of the packets of the socket."""
        self.run("export", "-o", str(self.path), self.index)
        command = ["tshark", "-r", str(self.path), "-T", "fields", *(word for field in fields for word in ("-e", field))]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return [line.split("\t") for line in lines]

    def comment_at_end(self) -> str:
        """Comments of the interface statistics block."""
        self.run("export", "-o", str(self.path), self.index)
        return self.path.read_bytes().decode("latin-1")


def gaps(text: str) -> list[str]:
    """Lines for missing packets."""
    return re.findall(r"--- (.*) ---", text)


def lost(case: Case) -> list[str]:
    """Packets missing in the middle."""
    name = case.target.ring.name
    changes = [(case.slot(number), word(0)) for number in (3, 4, 5)] + [(case.target.in_ring("lost"), word(3))]
    with case.vmcore.overwritten(changes):
        shown = gaps(case.run("show", case.index))
        exported = case.export("frame.drop_count", "frame.packet_id", "frame.packet_flags_direction")
    serials = f"{case.serial(3)}-{case.serial(5)}"
    wanted = [f"3 packets missing ({name} {serials}): lost for want of memory"]
    direction = 1 if name == "in" else 2
    dropped = [(int(drops), int(number), int(flags, 0)) for drops, number, flags in exported if drops not in ("", "0")]
    problems = [] if shown == wanted else [f"shown: {shown}"]
    return problems if dropped == [(3, case.serial(6), direction)] else [*problems, f"exported: {dropped}"]


def reclaimed(case: Case) -> list[str]:
    """One packet reclaimed."""
    with case.vmcore.overwritten([(case.slot(2), word(0)), (case.target.in_ring("reclaimed"), word(1))]):
        shown = gaps(case.run("show", case.index))
    wanted = [
        f"1 packet missing ({case.target.ring.name} {case.serial(2)}): reclaimed under memory pressure, or for a lowered limit"
    ]
    return [] if shown == wanted else [f"shown: {shown}"]


def at_the_end(case: Case) -> list[str]:
    """The youngest packet lost: nothing follows that could carry the gap."""
    with case.vmcore.overwritten([(case.slot(-1), word(0)), (case.target.in_ring("lost"), word(1))]):
        shown = gaps(case.run("show", case.index))
        in_file = "gap at the end: 1 packet missing" in case.comment_at_end()
    return [] if len(shown) == 1 and in_file else [f"shown: {shown}, in the file: {in_file}"]


def evicted(case: Case) -> list[str]:
    """What was evicted before the ring was made larger is no gap."""
    changes = [(case.slot(number), word(0)) for number in (0, 1)]
    with case.vmcore.overwritten([*changes, (case.target.in_ring("evicted"), word(1 << 20))]):
        shown = gaps(case.run("show", case.index))
    return [f"shown: {shown}"] if shown else []


def being_written(case: Case) -> list[str]:
    """A record whose serial is just not counted yet is left out, and nothing is damaged."""
    with case.vmcore.overwritten([(case.target.in_ring("next"), word(case.target.ring.next - 1))]):
        shown = case.run("show", case.index)
    return [] if len(case.run("show", case.index).splitlines()) == len(shown.splitlines()) + 1 else [shown]


def left_over(case: Case) -> list[str]:
    """Records that reclaim put back after their successors were lost are left out, and nothing is damaged."""
    ring, kept = case.target.ring, len(case.target.slots)
    with case.vmcore.overwritten([(case.target.in_ring("next"), word(case.serial(5) + ring.size))]):
        shown = case.run("show", case.index)
    pattern = rf"^ *[0-9.]+ {ring.name} +([0-9]+) "
    serials = [int(serial) for serial in re.findall(pattern, shown, re.MULTILINE)]
    wanted = [case.serial(number) for number in range(5, kept)]
    return [] if serials == wanted else [f"shown: {serials}, not {wanted}"]


def headers_only(case: Case) -> list[str]:
    """A packet that lost its payload says why."""
    target = case.target
    linear = target.slot.skb.len.value_() - target.slot.skb.data_len.value_()
    problems = []
    for why, text in (
        (WHY_RECLAIMED, "payload reclaimed under memory pressure, or for a lowered limit"),
        (WHY_PRESSURE, "TCP was under memory pressure (tcp_mem)"),
        (WHY_UNKNOWN, f"reason {WHY_UNKNOWN}"),
        (WHY_LIMIT, "page limit tcp_pcap_frags_max reached"),
    ):
        changes = [
            (target.record("why"), word(why, 1)),
            (target.skb("len"), word(linear, 4)),
            (target.skb("data_len"), word(0, 4)),
        ]
        with case.vmcore.overwritten(changes):
            shown = case.run("show", case.index)
            exported = case.export("frame.packet_id", "frame.cap_len", "frame.len", "frame.comment")
        notes = [line for line in shown.splitlines() if text in line]
        rows = [row for row in exported if text in row[3]]
        wanted = [str(target.slot.record.serial), str(linear), str(target.slot.record.orig_len)]
        if len(notes) != 1 or [row[:3] for row in rows] != [wanted]:
            problems += [f"{why}: {notes} {rows} {wanted}"]
    return problems


def without_socket(case: Case) -> list[str]:
    """A history kept after its socket takes its identity from the packets."""
    before = re.split(r" {2,}", next(line for line in case.run("list").splitlines() if line.split()[0] == case.index).strip())
    with case.vmcore.overwritten([(case.target.pcap("sk"), word(0))]):
        after = re.split(r" {2,}", next(line for line in case.run("list").splitlines() if line.split()[0] == case.index).strip())
    wanted = [before[0], f"({before[1]})", *before[2:5]]
    return [] if after[:5] == wanted and after[-1] == "-" else [f"{after}, not {wanted}"]


def too_large(case: Case) -> list[str]:
    """A packet with more bytes than Wireshark takes is cut in the file, which says so."""
    target = case.target
    skb, frag = target.slot.skb, target.shared().frags[0]
    more = TOO_LARGE - frag.len.value_()
    length = skb.len.value_() + more
    changes = [
        (frag.len.address_ or 0, word(TOO_LARGE, 4)),
        (target.skb("data_len"), word(skb.data_len.value_() + more, 4)),
        (target.skb("len"), word(length, 4)),
        (target.record("orig_len"), word(length, 4)),
    ]
    with case.vmcore.overwritten(changes):
        rows = case.export("frame.packet_id", "frame.cap_len", "frame.len", "frame.comment")
    found = [row for row in rows if row[0] == str(target.slot.record.serial) and row[2] == str(length)]
    if [row[1] for row in found] != [str(MAX_CAPTURED)] or "as much as Wireshark takes" not in found[0][3]:
        return [f"{found} of {len(rows)} packets"]
    return []


def empty(case: Case) -> list[str]:
    """A history without packets still knows when its socket was last active."""
    pcap, ring = case.target.layout.pcap_type, case.vmcore.prog.type("struct tcp_pcap_ring")
    chunks = [case.target.pcap(name) + offsetof(ring, "chunks") for name in ("in", "out")]
    stamp = case.vmcore.prog.read_u64(case.target.capture.address + offsetof(pcap, "stamp"))
    with case.vmcore.overwritten([(address, word(0)) for address in chunks]):
        shown = case.run("show", case.index)
    last = re.search(r"last active (\d+\.\d+) s before", shown)
    newest = re.search(r"last packet was (\d+\.\d+) s before", case.run("show", case.index))
    if not last or not newest or not stamp:
        return [shown]
    return [] if abs(float(last[1]) - float(newest[1])) < 1 else [f"{last[0]}, but {newest[0]}"]


TESTS = {
    "packets lost in the middle": lost,
    "a packet reclaimed": reclaimed,
    "a packet lost at the end": at_the_end,
    "evicted packets are no gap": evicted,
    "a record being written": being_written,
    "a record that should be gone": left_over,
    "headers only": headers_only,
    "a packet that is too large for Wireshark": too_large,
    "a history that is empty": empty,
    "a socket that is gone": without_socket,
}


def main() -> int:
    """:return: exit status"""
    tap = Tap()
    with tempfile.TemporaryDirectory(dir=os.environ.get("OUT")) as temporary:
        folder = Path(temporary)
        vmcore = Vmcore(Path(environment("VMCORE")), Path(environment("VMLINUX")), folder / "vmcore")
        case = Case(vmcore, find_target(Layout(vmcore.prog), fewest=FULL), folder)
        for name, test in TESTS.items():
            tap.run(name, partial(test, case))
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())

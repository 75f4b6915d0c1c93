#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
crash and the drgn reader find the same packets in a vmcore, and crash/README.md shows the commands that found them.

Environment: VMCORE and VMLINUX; CRASH, the command that runs crash on them (default: crash VMLINUX VMCORE).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from runpy import run_path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "drgn"))

from drgn import Program
from tcp_pcap_reader.layout import Layout
from tcp_pcap_reader.report import Report
from tcp_pcap_reader.records import records, slot_content
from tcp_pcap_reader.walk import captures

from tap import READER, Tap, environment

FOLDER = READER.parent.parent / "crash"
PACKETS = FOLDER / "packets"
TIMEOUT = 900


def by_drgn(vmcore: str, vmlinux: str) -> list[str]:
    """Lines as crash/packets prints them."""
    prog = Program()
    prog.set_core_dump(vmcore)
    prog.load_debug_info([vmlinux])
    layout, report = Layout(prog), Report()
    return [
        f"{capture.address:#x} {ring.name} {slot.record.serial} {slot.record.orig_len} {slot_content(layout, slot).data.hex()}"
        for capture in captures(layout, report)
        for ring in capture.rings.values()
        for slot in records(layout, report, capture, ring)
    ]


def by_crash(vmcore: str, vmlinux: str) -> list[str]:
    """What crash/packets prints."""
    crash = os.environ.get("CRASH") or shlex.join(["crash", "-s", vmlinux, vmcore])
    command = [sys.executable, str(PACKETS), *shlex.split(crash)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT).stdout.splitlines()


def differences(vmcore: str, vmlinux: str) -> list[str]:
    """Packets that only one of them found, or found with other bytes."""
    drgn, crash = by_drgn(vmcore, vmlinux), by_crash(vmcore, vmlinux)
    if not drgn:
        return ["the vmcore has no packets"]
    if sorted(set(drgn)) != sorted(drgn):
        return ["the drgn reader found a packet twice"]
    problems = [f"drgn only: {line[:120]}" for line in drgn if line not in set(crash)]
    problems += [f"crash only: {line[:120]}" for line in crash if line not in set(drgn)]
    print(f"# {len(drgn)} packets by drgn, {len(crash)} by crash")
    return problems


def page_problems() -> list[str]:
    """Commands that are run but not shown, or shown but not run."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    commands = set(run_path(str(PACKETS))["COMMANDS"].values())
    return [f"not in README.md: {command}" for command in commands - shown] + [
        f"in README.md, but not run: {command}" for command in shown - commands
    ]


def main() -> int:
    """:return: exit status"""
    tap = Tap()
    tap.run("README.md shows the commands that are run", page_problems)
    tap.run("crash and drgn find the same packets", lambda: differences(environment("VMCORE"), environment("VMLINUX")))
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())

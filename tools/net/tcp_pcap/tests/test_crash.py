#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
crash and the drgn reader find the same packets in a vmcore, with the commands of crash/README.md; its other commands work too.

Environment: VMCORE and VMLINUX; CRASH, the command that runs crash on them (default: crash VMLINUX VMCORE).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from runpy import run_path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "drgn"))

from drgn import Program
from tcp_pcap_reader.layout import Layout
from tcp_pcap_reader.owners import Owners
from tcp_pcap_reader.report import Report
from tcp_pcap_reader.records import records, slot_content
from tcp_pcap_reader.sockets import describe
from tcp_pcap_reader.walk import captures

from tap import READER, Tap, environment

FOLDER = READER.parent.parent / "crash"
PACKETS = FOLDER / "packets"
WALK = "./packets crash -s vmlinux vmcore"
DIAGRAM = "tcp_pcap_shards[] -> "
TIMEOUT = 900


@cache
def opened(vmcore: str, vmlinux: str) -> Layout:
    """The vmcore in drgn."""
    prog = Program()
    prog.set_core_dump(vmcore)
    prog.load_debug_info([vmlinux])
    return Layout(prog)


def crash_command(vmcore: str, vmlinux: str) -> list[str]:
    """The command that runs crash."""
    return shlex.split(os.environ.get("CRASH") or shlex.join(["crash", "-s", vmlinux, vmcore]))


def by_drgn(vmcore: str, vmlinux: str) -> list[str]:
    """Lines as crash/packets prints them."""
    layout, report = opened(vmcore, vmlinux), Report()
    return [
        f"{capture.address:#x} {ring.name} {slot.record.serial} {slot.record.orig_len} {slot_content(layout, slot).data.hex()}"
        for capture in captures(layout, report)
        for ring in capture.rings.values()
        for slot in records(layout, report, capture, ring)
    ]


@cache
def by_crash(vmcore: str, vmlinux: str) -> list[str]:
    """What crash/packets prints."""
    command = [sys.executable, str(PACKETS), *crash_command(vmcore, vmlinux)]
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


# The page


def page_lines() -> list[str]:
    """What the page shows as typed in, without what follows it after many blanks."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = [re.split(r" {3,}", line.strip())[0] for line in page.splitlines() if line.startswith("    ")]
    return [line for line in found if not line.startswith(DIAGRAM)]


def page_problems() -> list[str]:
    """Commands that are run but not shown, or shown but not run."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    commands = set(run_path(str(PACKETS))["COMMANDS"].values())
    return [f"not in README.md: {command}" for command in commands - shown] + [
        f"in README.md, but not run: {command}" for command in shown - commands
    ]


def history(layout: Layout) -> tuple[dict[str, str], dict[str, str]]:
    """
    A history with packets whose socket someone has open.

    :return: values for the capital words of the page; per word, what the answer to a command with it must match
    """
    report, owners = Report(), Owners(layout.prog)
    for capture in captures(layout, report):
        socket = describe(layout, report, capture, owners)
        slots = [slot for ring in capture.rings.values() for slot in records(layout, report, capture, ring)]
        if socket and socket.owners and slots:
            break
    else:
        raise RuntimeError("no open socket with packets")
    head, owner = slots[0].skb.head.value_(), socket.owners[0]
    values = {"PCAP": hex(capture.address), "SOCK": hex(capture.sk), "HEAD": hex(head)}
    wanted = {
        "struct tcp_pcap PCAP": rf"\bsk = {capture.sk:#x}\b",
        "struct tcp_sock SOCK": rf"\bpcap = {capture.address:#x}\b",
        "foreach net -s -R SOCK": rf'(?s)PID: {owner.pid} .*COMMAND: "{re.escape(owner.comm)}".*^ *{owner.fd} .*\b{capture.sk:x}\b',
        "p tcp_pcap_frags": r"(?s)\breserved = \{\s*counter = \d+.*\bpeak = \{\s*counter = [1-9]\d*.*\bmax = \d+",
        "p tcp_pcap_stocks:a": r"(?s)per_cpu\(tcp_pcap_stocks, 0\).*\bleft = .*\breclaimed_packets = \{\s*counter = \d+",
        "struct tcp_pcap_rec HEAD": rf"(?s)\bserial = {slots[0].record.serial},.*\borig_len = {slots[0].record.orig_len},",
    }
    return values, wanted


def more_problems(vmcore: str, vmlinux: str) -> list[str]:
    """The commands under 'More of a history' and 'Of the host' answer what the page says they do; there are no others."""
    values, wanted = history(opened(vmcore, vmlinux))
    shown = [line for line in page_lines() if not line.startswith("./packets ")]
    problems = [f"in README.md, but not run: {line}" for line in shown if line not in wanted]
    problems += [f"not in README.md: {line}" for line in wanted if line not in shown]
    crash = run_path(str(PACKETS))["Crash"](crash_command(vmcore, vmlinux))
    for line, pattern in wanted.items():
        answer = crash.say(re.sub(r"\b[A-Z]+$", lambda word: values[word[0]], line))
        if not re.search(pattern, answer, re.MULTILINE):
            problems += [f"the answer to {line} has no {pattern}:", *answer.splitlines()[:20]]
    crash.close()
    return problems


def pcap_problems(vmcore: str, vmlinux: str) -> list[str]:
    """The line with text2pcap makes a pcap of all packets."""
    lines = [line.partition(WALK)[2] for line in page_lines() if line.startswith(WALK)]
    pipelines = [line for line in lines if line]
    if len(lines) != 2 or len(pipelines) != 1:
        return [f"README.md shows {len(lines)} lines with {WALK}, {len(pipelines)} with a pipe behind it"]
    packets = by_crash(vmcore, vmlinux)
    with tempfile.TemporaryDirectory() as folder:
        command = ["bash", "-o", "pipefail", "-euc", "cat" + pipelines[0]]
        subprocess.run(
            command, cwd=folder, input="".join(f"{line}\n" for line in packets), text=True, check=True, capture_output=True
        )
        fields = ["-T", "fields", "-e", "frame.len", "-e", "ipv6.version"]
        found = subprocess.run(
            ["tshark", "-n", "-r", f"{folder}/crash.pcap", *fields], text=True, check=True, capture_output=True
        ).stdout.splitlines()
    wanted = [f"{len(data) // 2}\t{'6' if data[0] == '6' else ''}" for data in (line.split()[4] for line in packets)]
    differ = [f"{one!r}, not {other!r}" for one, other in zip(found, wanted) if one != other]
    return [] if found == wanted else [f"{len(found)} packets in the pcap, {len(wanted)} found; the first that differs:", *differ[:1]]


def main() -> int:
    """:return: exit status"""
    tap = Tap()
    tap.run("README.md shows the commands that are run", page_problems)
    memory = environment("VMCORE"), environment("VMLINUX")
    tap.run("crash and drgn find the same packets", lambda: differences(*memory))
    tap.run("README.md's other commands", lambda: more_problems(*memory))
    tap.run("README.md's line for a pcap", lambda: pcap_problems(*memory))
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())

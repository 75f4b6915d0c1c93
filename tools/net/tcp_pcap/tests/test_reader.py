#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
The drgn reader on a vmcore that has the connections of traffic.py: list, show, export, filters.

Environment: VMCORE and VMLINUX; LIVE, what the reader exported from the running kernel before; OUT, a folder for the pcapng
files (default: a temporary one).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import drgn

import traffic
from tap import READER, Tap, environment

VALIDATE = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
BAD = "_ws.malformed || tcp.checksum.status==0 || ip.checksum.status==0"
DAY = 86400


class Reader:
    """Runs the reader on the vmcore."""

    def __init__(self, vmcore: str, vmlinux: str, folder: Path) -> None:
        self.program = ["-c", vmcore, "-s", vmlinux]
        self.folder = folder

    def run(self, *arguments: object, status: int = 0) -> str:
        """What the reader prints."""
        command = [sys.executable, str(READER), *self.program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != status:
            raise RuntimeError(f"{arguments}: status {done.returncode}, not {status}: {done.stderr}")
        return done.stdout

    def list(self, *filters: object) -> list[list[str]]:
        """Lines of 'list', in columns."""
        return [re.split(r" {2,}", line.strip()) for line in self.run("list", *filters).splitlines()[1:]]

    def export(self, *arguments: object) -> Path:
        """A pcapng."""
        path = self.folder / ("-".join(map(str, arguments)).strip("-").replace("/", "_") + ".pcapng")
        self.run("export", "-o", path, *arguments)
        return path


def tshark(path: Path, *arguments: str) -> list[str]:
    """Lines that tshark prints."""
    command = ["tshark", "-r", str(path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def expect(**pairs: tuple[object, object]) -> list[str]:
    """Problems: values that differ from what they should be."""
    return [f"{name}: {got!r}, not {wanted!r}" for name, (got, wanted) in pairs.items() if got != wanted]


# What a reader without debug information starts from.


def root_problems(vmcore: str, vmlinux: str) -> list[str]:
    """VMCOREINFO gives the address of the root, since kallsyms has data symbols only with KALLSYMS_ALL."""
    prog = drgn.Program()
    prog.set_core_dump(vmcore)
    prog.load_debug_info([vmlinux])
    lines = prog["VMCOREINFO"].string_().decode().splitlines()
    wanted = f"SYMBOL(tcp_pcap_shards)={prog.symbol('tcp_pcap_shards').address:x}"
    return [] if wanted in lines else [f"no line {wanted}"]


# list


def list_problems(reader: Reader) -> list[str]:
    """Both ends of every connection are there."""
    rows = reader.list()
    problems = []
    for name, port in vars(traffic).items():
        if name.startswith("PORT_"):
            ends = [row for row in rows if f":{port}" in row[3] + row[4] and row[1] != "LISTEN"]
            wanted = 1 if port == traffic.PORT_RESET else 2
            if len(ends) != wanted:
                problems.append(f"{name}: {len(ends)} sockets, not {wanted}")
    states = [row[1] for row in rows if f":{traffic.PORT_RESET}" in row[4]]
    families = {row[2] for row in rows if f":{traffic.PORT_MAPPED}" in row[3] + row[4]}
    shared = [row[6] for row in rows if f":{traffic.PORT_SHARED}" in row[4]]
    wrapped = [row[7:9] for row in rows if f":{traffic.PORT_WRAP}" in row[4]]
    return problems + expect(
        state_after_reset=(states, ["CLOSE"]),
        family_of_mapped=(families, {"tcp6/v4"}),
        owners_of_shared=([bool(re.fullmatch(r"tcp_pcap_holder/\d+ fd \d+ \+1", owner)) for owner in shared], [True]),
        kept_of_wrapped=([row[0] for row in wrapped], ["7/7"]),
        netns=({row[5] for row in rows if f":{traffic.PORT_NETNS}" not in row[3] + row[4]}, {"init"}),
    )


def filter_problems(reader: Reader) -> list[str]:
    """Each filter takes what it should, and nothing else."""
    every = reader.list()
    pid = re.search(r"/(\d+) ", every[0][6])
    v6 = [row for row in every if row[2] == "tcp6"]
    first = every[0]
    elsewhere = reader.list("--port", traffic.PORT_NETNS)
    return expect(
        port=(len(reader.list("--port", traffic.PORT_SMALL)), 2),
        two_ports=(len(reader.list("--port", traffic.PORT_SMALL, "--port", traffic.PORT_BULK)), 4),
        addr=(reader.list("--addr", "::1"), v6),
        network=(len(reader.list("--addr", "127.0.0.0/8")), len([row for row in every if "127.0.0.1" in row[3] + row[4]])),
        no_addr=(reader.list("--addr", "192.0.2.1"), []),
        pid=(len(reader.list("--pid", pid[1] if pid else 0)) > 2, True),
        no_pid=(reader.list("--pid", 1), []),
        comm=(reader.list("--comm", "tcp_pcap_h*"), [row for row in every if row[6] != "-"]),
        netns=(reader.list("--netns", "init"), [row for row in every if row not in elsewhere]),
        other_netns=([row[5].isdecimal() for row in elsewhere], [True, True]),
        by_netns=(reader.list("--netns", elsewhere[0][5]), elsewhere),
        no_netns=(reader.list("--netns", 1), []),
        state=(len(reader.list("--state", "close")), 1),
        both=(reader.list("--state", "close", "--port", traffic.PORT_SMALL), []),
        by_address=(reader.run("show", first[-1]), reader.run("show", first[0])),
        by_ends=(reader.run("show", f"{first[3]}-{first[4]}"), reader.run("show", first[0])),
    )


# show


def show_problems(reader: Reader) -> list[str]:
    """Packets in order, with relative numbers."""
    client = next(row[0] for row in reader.list("--port", traffic.PORT_SMALL) if f":{traffic.PORT_SMALL}" in row[4])
    lines = [line.split() for line in reader.run("show", client).splitlines() if re.match(r" +-?\d+\.\d{9} ", line)]
    flags = [(line[1], line[3], line[4], line[5], line[6]) for line in lines]
    request, response = len(b"a small request"), len(b"a small response")
    wanted = [
        ("out", "SYN", "0", "-", "0"),
        ("in", "SYN,ACK", "0", "1", "0"),
        ("out", "ACK", "1", "1", "0"),
        ("out", "PSH,ACK", "1", "1", str(request)),
        ("in", "ACK", "1", str(1 + request), "0"),
        ("in", "PSH,ACK", "1", str(1 + request), str(response)),
        ("out", "ACK", str(1 + request), str(1 + response), "0"),
    ]
    last = reader.run("show", "--last", 2, client)
    return expect(
        packets=(flags, wanted),
        sorted_by_time=([line[0] for line in lines], sorted((line[0] for line in lines), key=float)),
        last=(len([line for line in last.splitlines() if re.match(r" +-?\d+\.\d{9} ", line)]), 2),
    )


# export


def export_problems(reader: Reader) -> list[str]:
    """tshark finds nothing wrong, and what pcapng can tell is there."""
    path = reader.export()
    rows = [row for row in reader.list() if row[1] != "LISTEN"]
    kept = sum(int(row[column].partition("/")[0]) for row in rows for column in (7, 12))
    fields = ("frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "frame.comment", "frame.packet_id")
    frames = [line.split("\t") for line in tshark(path, "-T", "fields", *(word for field in fields for word in ("-e", field)))]
    times = [float(frame[0]) for frame in frames]
    info = subprocess.run(["capinfos", str(path)], check=True, capture_output=True, text=True).stdout
    return expect(
        bad=(tshark(path, *VALIDATE, "-Y", BAD), []),
        packets=(len(frames), kept),
        interfaces=(len({frame[1] for frame in frames}), len(rows)),
        interface_names=({frame[1] for frame in frames}, {f"{row[3]}-{row[4]}" for row in rows}),
        directions=({int(frame[2], 0) for frame in frames}, {1, 2}),
        comments=([frame for frame in frames if "cwnd" not in frame[3]], []),
        serials=([frame for frame in frames if not frame[4].isdecimal()], []),
        time_of_day=(all(abs(moment - time.time()) < DAY for moment in times), True),
        kernel=("Linux" in info and "from a vmcore" in info, True),
    )


def direction_problems(reader: Reader) -> list[str]:
    """What one end sent has its port as the source."""
    path = reader.export("--port", traffic.PORT_STUCK)
    wrong = []
    for line in tshark(
        path, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "tcp.srcport"
    ):
        name, direction, source = line.split("\t")
        local = name.partition("-")[0].rpartition(":")[2]
        if (source == local) != (int(direction, 0) == 2):
            wrong.append(line)
    return wrong


def content_problems(reader: Reader) -> list[str]:
    """The bytes that were sent are those that are found: the end of the bulk transfer."""
    path = reader.export("--port", traffic.PORT_BULK)
    problems = []
    for interface in (0, 1):
        lines = tshark(
            path, "-Y", f"frame.interface_id=={interface} && tcp.len>0", "-T", "fields", "-e", "tcp.seq_raw", "-e", "tcp.payload"
        )
        segments = [(int(number), bytes.fromhex(data)) for number, data in (line.split("\t") for line in lines)]
        start = segments[0][0] if segments else 0
        stream = b"".join(data for _, data in segments)
        if not stream or stream not in traffic.BULK:
            problems.append(
                f"interface {interface}: {len(segments)} segments from {start}, {len(stream)} bytes are not what was sent"
            )
        if max(len(data) for _, data in segments) < 2 * 1500:
            problems.append(f"interface {interface}: no super-segment")
    return problems


def pipe_problems(reader: Reader) -> list[str]:
    """A pipe gets the same bytes as a file; one that closes is no error."""
    path = reader.export("--port", traffic.PORT_SMALL)
    command = [sys.executable, str(READER), *reader.program, "export", "-o", "-", "--port", str(traffic.PORT_SMALL)]
    piped = subprocess.run(command, capture_output=True, check=True)
    problems = expect(piped=(piped.stdout == path.read_bytes(), True))
    for arguments in (["export", "-o", "-"], ["show", "--netns", "init"]):
        command = [sys.executable, str(READER), *reader.program, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") as child:
            assert child.stdout and child.stderr
            child.stdout.close()
            errors = child.stderr.read()
        problems += expect(errors=(errors, ""), status=(child.returncode, 0))
    return problems


# Ways to run it


def live_problems(reader: Reader, live: Path) -> list[str]:
    """The running kernel had the packets that the vmcore has, of connections that were at rest."""
    ports = (traffic.PORT_BULK, traffic.PORT_SMALL, traffic.PORT_V6, traffic.PORT_MAPPED, traffic.PORT_WRAP)
    at_rest = " || ".join(f"tcp.port=={port}" for port in ports)
    fields = ("frame.interface_name", "frame.packet_id", "frame.time_epoch", "tcp.seq_raw", "tcp.checksum", "frame.len")
    columns = [word for field in fields for word in ("-e", field)]
    running = sorted(tshark(live, "-Y", at_rest, "-T", "fields", *columns))
    after = sorted(tshark(reader.export(), "-Y", at_rest, "-T", "fields", *columns))
    log = live.with_suffix(".log").read_text(encoding="utf-8")
    return expect(packets=(running, after), any=(bool(after), True), complete=("exit status" in log, False))


def script_problems(reader: Reader) -> list[str]:
    """As a drgn script it prints the same."""
    command = [sys.executable, "-m", "drgn", *reader.program, "--main-symbols", str(READER), "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return expect(status=(done.returncode, 0), output=(done.stdout, reader.run("list")), errors=(done.stderr, ""))


def plugin_problems(reader: Reader) -> list[str]:
    """As a drgn plugin too."""
    code = "from drgn.commands import run_command; run_command(prog, 'tcp_pcap list')"
    command = [sys.executable, "-m", "drgn", *reader.program, "--main-symbols", "-e", code]
    environment = {**os.environ, "DRGN_PLUGINS": f"tcp_pcap={READER}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return expect(status=(done.returncode, 0), output=(done.stdout, reader.run("list")), errors=(done.stderr, ""))


def usage_problems(reader: Reader) -> list[str]:
    """Wrong usage has status 2; help has examples."""
    for arguments in (["show"], ["show", "x"], ["list", "--port", "0"], ["list", "--addr", "x"], ["export"], ["nothing"]):
        reader.run(*arguments, status=2)
    return [name for name in ("list", "show", "export") if "examples:" not in reader.run(name, "--help")]


TESTS: dict[str, Callable[[Reader], list[str]]] = {
    "list shows every connection": list_problems,
    "filters": filter_problems,
    "show prints the packets of a connection": show_problems,
    "tshark finds the export in order": export_problems,
    "directions are those of the socket": direction_problems,
    "payload is what was sent": content_problems,
    "pipes": pipe_problems,
    "drgn script": script_problems,
    "drgn plugin": plugin_problems,
    "usage and help": usage_problems,
}


def main() -> int:
    """:return: exit status"""
    tap = Tap()
    with tempfile.TemporaryDirectory() as temporary:
        reader = Reader(environment("VMCORE"), environment("VMLINUX"), Path(os.environ.get("OUT", temporary)))
        tap.run("VMCOREINFO has the address of the root",
                partial(root_problems, environment("VMCORE"), environment("VMLINUX")))
        for name, test in TESTS.items():
            tap.run(name, partial(test, reader))
        live = os.environ.get("LIVE")
        if live:
            tap.run("the running kernel", partial(live_problems, reader, Path(live)))
        else:
            tap.skip("the running kernel", "LIVE is not set")
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
The drgn reader on a vmcore that has the connections of traffic.py: list, show, export, filters.

Environment: VMCORE and VMLINUX; LIVE, what the reader exported from the running kernel before, with the files of guest.sh beside
it; OUT, a folder for the pcapng files (default: a temporary one).
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "drgn"))

import drgn
from tcp_pcap_reader.layout import Layout
from tcp_pcap_reader.records import records
from tcp_pcap_reader.report import Report
from tcp_pcap_reader.walk import captures

import traffic
from tap import READER, Tap, environment

# Each packet for itself: what is sent again in other pieces, when the guest was stopped for long, is an error of reassembly.
VALIDATE = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-o", "tcp.desegment_tcp_streams:FALSE")
BAD = "_ws.malformed || tcp.checksum.status==0 || ip.checksum.status==0"
BOTH_ENDS = "--both-ends"
LAST_OF_WHO = 7
COUNTERS = ("KEPT", "CAPTURED", "HEADERS", "LOST", "RECLAIMED", "STRIPPED")
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
        """Lines of 'list', in columns: all, since the others depend on which sockets are listed."""
        return [re.split(r" {2,}", line.strip()) for line in self.run("list", "--wide", *filters).splitlines()[1:]]

    def export(self, *arguments: object) -> Path:
        """A pcapng. tshark must find nothing wrong with it, unless it has both ends of a connection."""
        path = self.folder / (("-".join(map(str, arguments)).strip("-").replace("/", "_") or "all") + ".pcapng")
        self.run("export", "-o", path, *arguments)
        bad = [] if BOTH_ENDS in arguments else tshark(path, *VALIDATE, "-Y", BAD)
        if bad:
            raise RuntimeError("\n".join([f"export {arguments}: {len(bad)} bad packets", *bad]))
        return path

    def message(self, *arguments: object, status: int = 0) -> str:
        """What the reader says on standard error."""
        command = [sys.executable, str(READER), *self.program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != status:
            raise RuntimeError(f"{arguments}: status {done.returncode}, not {status}: {done.stderr}")
        return done.stderr


def tshark(path: Path, *arguments: str) -> list[str]:
    """Lines that tshark prints."""
    command = ["tshark", "-r", str(path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def expect(**pairs: tuple[object, object]) -> list[str]:
    """Problems: values that differ from what they should be."""
    return [f"{name}: {got!r}, not {wanted!r}" for name, (got, wanted) in pairs.items() if got != wanted]


def port_of(cell: str) -> int:
    """The port in a cell of 'list'."""
    port = cell.rpartition(":")[2]
    return int(port) if port.isdecimal() else 0


def has_port(row: list[str], *ports: int) -> bool:
    """Whether a line of 'list' is about one of these ports."""
    return port_of(row[3]) in ports or port_of(row[4]) in ports


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
            ends = [row for row in rows if has_port(row, port) and row[1] != "LISTEN"]
            wanted = 1 if port == traffic.PORT_RESET else 2
            if len(ends) != wanted:
                problems.append(f"{name}: {len(ends)} sockets, not {wanted}")
    states = [row[1] for row in rows if port_of(row[4]) == traffic.PORT_RESET]
    families = {row[2] for row in rows if has_port(row, traffic.PORT_MAPPED)}
    shared = [row[6] for row in rows if port_of(row[4]) == traffic.PORT_SHARED]
    wrapped = [row[7] for row in rows if port_of(row[4]) == traffic.PORT_WRAP]
    namespaces = {row[5] for row in rows if not has_port(row, traffic.PORT_NETNS, traffic.PORT_HTTP)}
    return problems + expect(
        state_after_reset=(states, ["CLOSE"]),
        family_of_mapped=(families, {"tcp6/v4"}),
        owners_of_shared=([bool(re.fullmatch(r"tcp_pcap_holder/\d+ fd \d+ \+1", owner)) for owner in shared], [True]),
        kept_of_wrapped=(wrapped, ["7/7"]),
        netns=(namespaces, {"init"}),
    )


def wide_problems(reader: Reader) -> list[str]:
    """--wide has all counters; without it, there are those that are not 0, after the same columns."""
    narrow, wide = (
        [re.split(r" {2,}", line.strip()) for line in reader.run("list", *options).splitlines()] for options in ([], ["--wide"])
    )
    names = [f"{way}:{name}" for way in ("IN", "OUT") for name in COUNTERS]
    counts = {name: {row[wide[0].index(name)] for row in wide[1:]} for name in names}
    wanted = [name for name in names if name.endswith("KEPT") or (not name.endswith("CAPTURED") and counts[name] != {"0"})]
    return expect(
        wide=(wide[0][LAST_OF_WHO:], [*names, "SOCK"]),
        narrow=(narrow[0][LAST_OF_WHO:], [*wanted, "SOCK"]),
        first=([row[:LAST_OF_WHO] for row in narrow], [row[:LAST_OF_WHO] for row in wide]),
    )


def filter_problems(reader: Reader) -> list[str]:
    """Each filter takes what it should, and nothing else."""
    every = reader.list()
    pid = re.search(r"/(\d+) ", every[0][6])
    v6 = [row for row in every if row[2] == "tcp6"]
    first = every[0]
    elsewhere = reader.list("--port", traffic.PORT_NETNS)
    client = reader.list("--port", traffic.PORT_SMALL)[0]
    init = [row for row in every if row[5] == "init"]
    return expect(
        port=(len(reader.list("--port", traffic.PORT_SMALL)), 2),
        two_ports=(len(reader.list("--port", traffic.PORT_SMALL, "--port", traffic.PORT_BULK)), 4),
        addr=(reader.list("--addr", "::1"), v6),
        network=(len(reader.list("--addr", "127.0.0.0/8")), len([row for row in every if "127.0.0.1" in row[3] + row[4]])),
        no_addr=(reader.list("--addr", "192.0.2.1"), []),
        pid=(len(reader.list("--pid", pid[1] if pid else 0)) > 2, True),
        no_pid=(reader.list("--pid", 1), []),
        comm=(reader.list("--comm", "tcp_pcap_h*"), [row for row in every if row[6] != "-"]),
        netns=(reader.list("--netns", "init"), init),
        some_init=(bool(init) and len(init) < len(every), True),
        other_netns=([row[5].isdecimal() for row in elsewhere], [True, True]),
        by_netns=(reader.list("--netns", elsewhere[0][5]), elsewhere),
        no_netns=(reader.list("--netns", 1), []),
        state=(len(reader.list("--state", "close")), 1),
        both=(reader.list("--state", "close", "--port", traffic.PORT_SMALL), []),
        by_address=(reader.run("show", first[-1]), reader.run("show", first[0])),
        by_ends=(reader.run("show", f"{first[3]}-{first[4]}"), reader.run("show", first[0])),
        by_one_end=(reader.run("show", client[3]), reader.run("show", client[0])),
    )


def no_match_problems(reader: Reader) -> list[str]:
    """A filter that nothing meets: each command says so, and export leaves its file alone."""
    path = reader.folder / "untouched"
    path.write_bytes(b"as it was")
    listener = reader.run("list", "--state", "LISTEN").splitlines()[1:]
    problems = expect(
        list=(reader.message("list", "--port", 1), "tcp_pcap: no socket matches\n"),
        show=(reader.message("show", "--port", 1, status=1), "tcp_pcap: no socket matches\n"),
        export=(
            reader.message("export", "-o", path, "--port", 1, status=1),
            "tcp_pcap: no socket matches; nothing is written\n",
        ),
        show_one=(reader.message("show", 1 << 20, status=2), "tcp_pcap: there is no socket 1048576; 'list' prints all\n"),
        export_one=("there is no socket" in reader.message("export", "-o", path, 1 << 20, status=2), True),
    )
    if listener:
        reader.run("export", "-o", path, "--state", "LISTEN", status=1)
    return problems + expect(file=(path.read_bytes(), b"as it was"))


# show


def show_problems(reader: Reader) -> list[str]:
    """Packets in order, with relative numbers."""
    client = next(row[0] for row in reader.list("--port", traffic.PORT_SMALL) if port_of(row[4]) == traffic.PORT_SMALL)
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
    path = reader.export(BOTH_ENDS)
    rows = [row for row in reader.list() if row[1] != "LISTEN"]
    kept = sum(map(kept_of, rows))
    fields = ("frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "frame.comment", "frame.packet_id")
    frames = [line.split("\t") for line in tshark(path, "-T", "fields", *(word for field in fields for word in ("-e", field)))]
    times = [float(frame[0]) for frame in frames]
    info = subprocess.run(["capinfos", str(path)], check=True, capture_output=True, text=True).stdout
    return expect(
        packets=(len(frames), kept),
        interfaces=(len({frame[1] for frame in frames}), len(rows)),
        interface_names=({frame[1] for frame in frames}, {f"{row[3]}-{row[4]}" for row in rows}),
        directions=({int(frame[2], 0) for frame in frames}, {1, 2}),
        comments=([frame for frame in frames if "cwnd" not in frame[3]], []),
        serials=([frame for frame in frames if not frame[4].isdecimal()], []),
        time_of_day=(all(abs(moment - time.time()) < DAY for moment in times), True),
        kernel=("Linux" in info and "from a vmcore" in info, True),
    )


def kept_of(row: list[str]) -> int:
    """Packets of a line of 'list --wide'."""
    return sum(int(row[column].partition("/")[0]) for column in (LAST_OF_WHO, LAST_OF_WHO + len(COUNTERS)))


def one_end_problems(reader: Reader) -> list[str]:
    """By default one end of each connection is written, with which tshark finds nothing wrong: the one with more packets."""
    path = reader.export()
    rows = [row for row in reader.list() if row[1] != "LISTEN"]
    names = tshark(path, "-T", "fields", "-e", "frame.interface_name")
    written = [row for row in rows if f"{row[3]}-{row[4]}" in set(names)]
    ends = [frozenset(row[3:5]) for row in written]
    most = sum(max(kept_of(row) for row in rows if frozenset(row[3:5]) == connection) for connection in set(ends))
    left_out = len(rows) - len(written)
    message = reader.message("export", "-o", os.devnull)
    return expect(
        once=(len(ends), len(set(ends))),
        each=(set(ends), {frozenset(row[3:5]) for row in rows}),
        packets=(len(names), most),
        message=(f"tcp_pcap: {left_out} sockets left out" in message and BOTH_ENDS in message, True),
    )


def http_problems(reader: Reader) -> list[str]:
    """HTTP within the host: either end alone is sound, both are in the file if they are asked for."""
    ends = reader.list("--port", traffic.PORT_HTTP)
    numbers = [row[0] for row in ends]
    names = {f"{row[3]}-{row[4]}" for row in ends}
    fields = ("-T", "fields", "-e", "frame.interface_name")
    problems = []
    for row in ends:
        path = reader.export(row[0])
        problems += expect(alone=(set(tshark(path, *fields)), {f"{row[3]}-{row[4]}"}))
        if not tshark(path, "-Y", f"tcp.port=={traffic.PORT_HTTP} && tcp.len > 1500"):
            problems.append(f"socket {row[0]}: no payload")
        message = reader.message("export", "-o", os.devnull, row[0])
        problems += expect(singular=("packets of 1 socket written" in message, True))
    by_default = set(tshark(reader.export("--port", traffic.PORT_HTTP), *fields))
    message = reader.message("export", "-o", reader.folder / "named.pcapng", *numbers)
    return problems + expect(
        by_default=(len(by_default), 1),
        both=(set(tshark(reader.export(BOTH_ENDS, "--port", traffic.PORT_HTTP), *fields)), names),
        named=(set(tshark(reader.folder / "named.pcapng", *fields)), names),
        warning=(f"one connection: {' and '.join(numbers)};" in message, True),
    )


def direction_problems(reader: Reader) -> list[str]:
    """What one end sent has its port as the source."""
    path = reader.export(BOTH_ENDS, "--port", traffic.PORT_STUCK)
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
    path = reader.export(BOTH_ENDS, "--port", traffic.PORT_BULK)
    problems = []
    for interface in (0, 1):
        fields = ("tcp.payload", "frame.cap_len", "frame.len")
        columns = [word for field in fields for word in ("-e", field)]
        lines = tshark(path, "-Y", f"frame.interface_id=={interface} && tcp.len>0", "-T", "fields", *columns)
        segments = [(bytes.fromhex(data), kept == length) for data, kept, length in (line.split("\t") for line in lines)]
        # What follows a segment that is too large for the file does not join it.
        streams = [b""]
        for data, whole in segments:
            streams[-1] += data
            streams += [] if whole else [b""]
        if not streams[0] or not all(stream in traffic.BULK for stream in streams):
            sizes = [len(stream) for stream in streams]
            problems.append(f"interface {interface}: {len(segments)} segments, {sizes} bytes are not what was sent")
        if max(len(data) for data, _ in segments) < 2 * 1500:
            problems.append(f"interface {interface}: no super-segment")
    return problems


def pipe_problems(reader: Reader) -> list[str]:
    """A pipe gets the same bytes as a file; one that closes is no error."""
    path = reader.export("--port", traffic.PORT_SMALL)
    command = [sys.executable, str(READER), *reader.program, "export", "-o", "-", "--port", str(traffic.PORT_SMALL)]
    piped = subprocess.run(command, capture_output=True, check=True)
    problems = expect(piped=(piped.stdout == path.read_bytes(), True))
    for arguments in (["export", "-o", "-", BOTH_ENDS], ["show", "--netns", "init"]):
        command = [sys.executable, str(READER), *reader.program, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") as child:
            assert child.stdout and child.stderr
            child.stdout.close()
            errors = child.stderr.read()
        problems += expect(errors=(errors, ""), status=(child.returncode, 0))
    return problems


# What was given back


class Given:
    """What is told of the packets of both ends of a connection."""

    def __init__(self, reader: Reader, port: int) -> None:
        self.rows = reader.list("--port", port)
        self.shown = "".join(reader.run("show", row[0]) for row in self.rows)
        path = reader.export(BOTH_ENDS, "--port", port)
        fields = ("frame.drop_count", "frame.cap_len", "frame.len", "frame.comment")
        columns = [word for field in fields for word in ("-e", field)]
        self.frames = [line.split("\t") for line in tshark(path, "-T", "fields", *columns)]

    def counter(self, name: str) -> int:
        """Sum of a counter over the rings."""
        column = LAST_OF_WHO + COUNTERS.index(name)
        return sum(int(row[column + way * len(COUNTERS)]) for row in self.rows for way in (0, 1))

    def lines(self, text: str) -> int:
        """Packets of 'show' with such a note."""
        return len(re.findall(rf"^ .*; \d+ of \d+ bytes: {re.escape(text)}", self.shown, re.MULTILINE))

    def comments(self, text: str) -> int:
        """Packets of the export with such a comment, which are shorter than they were."""
        return sum(text in frame[3] and int(frame[1]) < int(frame[2]) for frame in self.frames)

    def whole(self) -> int:
        """Packets of the export that have all of a large payload."""
        return sum(frame[1] == frame[2] and int(frame[2]) > len(traffic.LARGE) // 4 for frame in self.frames)


def reclaimed_problems(reader: Reader) -> list[str]:
    """The shrinker took packets and payload: gaps, notes and counters say so."""
    given = Given(reader, traffic.PORT_RECLAIMED)
    missing = re.findall(r"--- (\d+) packets? missing \((?:in|out) [\d-]+\): reclaimed under memory pressure", given.shown)
    stripped = given.lines("payload reclaimed")
    return expect(
        reclaimed=(given.counter("RECLAIMED"), traffic.RECLAIMED),
        missing=(sum(map(int, missing)), traffic.RECLAIMED),
        dropped=(sum(int(frame[0] or 0) for frame in given.frames), traffic.RECLAIMED),
        gap_comments=(any("gap: " in frame[3] and "reclaimed under" in frame[3] for frame in given.frames), True),
        stripped=(0 < stripped <= given.counter("STRIPPED"), True),
        stripped_comments=(given.comments("payload reclaimed"), stripped),
        others_are_whole=(given.whole() > 0, True),
    )


def lowered_problems(reader: Reader) -> list[str]:
    """A lowered limit took payload, and let none in for a while."""
    given = Given(reader, traffic.PORT_LOWERED)
    stripped, limited = given.lines("payload reclaimed"), given.lines("page limit tcp_pcap_frags_max reached")
    return expect(
        reclaimed=(given.counter("RECLAIMED"), 0),
        no_gap=("missing (" in given.shown, False),
        stripped=(given.counter("STRIPPED") == stripped > 0, True),
        stripped_comments=(given.comments("payload reclaimed"), stripped),
        limited=(given.counter("HEADERS") == limited > 0, True),
        limited_comments=(given.comments("page limit tcp_pcap_frags_max reached"), limited),
        others_are_whole=(given.whole() > 0, True),
    )


def pressure_problems(reader: Reader) -> list[str]:
    """While TCP was under memory pressure no payload was kept."""
    given = Given(reader, traffic.PORT_PRESSURE)
    pressed = given.lines("TCP was under memory pressure (tcp_mem)")
    return expect(
        headers=(given.counter("HEADERS") == pressed > 0, True),
        comments=(given.comments("TCP was under memory pressure"), pressed),
        others_are_whole=(given.whole() > 0, True),
    )


def numbers(text: str) -> dict[str, list[int]]:
    """The lines of /proc/net/tcp_pcap, or of 'limits'."""
    lines = [line.split() for line in text.splitlines()]
    return {line[0]: [int(word) for word in line[1:]] for line in lines if line[-1].isdecimal()}


def limits_problems(reader: Reader) -> list[str]:
    """The accounts agree with what the rings have."""
    said = numbers(reader.run("limits"))
    prog = drgn.Program()
    prog.set_core_dump(reader.program[1])
    prog.load_debug_info([reader.program[3]])
    layout, report = Layout(prog), Report()
    rings, pages = [], []
    for capture in captures(layout, report):
        for ring in capture.rings.values():
            rings.append(ring)
            pages += [slot.record.pages for slot in records(layout, report, capture, ring)]
    uneven = [ring for ring in rings if ring.captured != ring.evicted + ring.reclaimed + ring.kept]
    return expect(
        frags=(said["frags"][0], sum(pages)),
        frags_max=(said["frags"][1], traffic.FRAGS_MAX),
        containers_max=(said["frags_containers"], [0, traffic.FRAGS_MAX // 4, 0, 0]),
        refused=(said["frags"][3] > 0, True),
        mem=(len(pages) * 256 < said["mem"][0] <= said["mem"][2] <= said["mem"][1], True),
        packets=(said["packets"], [len(pages)]),
        payloads=(said["payloads"], [sum(number > 0 for number in pages)]),
        reclaimed=(said["reclaimed_packets"], [traffic.RECLAIMED]),
        reclaimed_in_rings=(said["reclaimed_packets"], [sum(ring.reclaimed for ring in rings)]),
        stripped_in_rings=(said["reclaimed_payloads"], [sum(ring.stripped for ring in rings)]),
        reclaimed_pages=(said["reclaimed_pages"][0] > 0, True),
        every_packet_counted=(uneven, []),
        complete=(report.damaged, 0),
    )


def live_limits_problems(folder: Path) -> list[str]:
    """On the running kernel 'limits' says what /proc/net/tcp_pcap says: it lies between what that said before and after."""
    before, live, after = (
        (folder / f"{name}.limits").read_text(encoding="utf-8") for name in ("before", "live", "after")
    )
    first, said, last = numbers(before), numbers(live), numbers(after)
    between = {
        name: all(min(ends) <= number <= max(ends) for number, *ends in zip(said[name], first[name], last[name])) for name in said
    }
    return expect(
        names=([line.split()[0] for line in live.splitlines()], [line.split()[0] for line in after.splitlines()]),
        numbers=([name for name, good in between.items() if not good], []),
        form=(live.splitlines()[0], after.splitlines()[0]),
    )


# Ways to run it


def live_problems(reader: Reader, live: Path) -> list[str]:
    """The running kernel had the packets that the vmcore has, of connections that were at rest."""
    ports = (
        traffic.PORT_BULK, traffic.PORT_SMALL, traffic.PORT_V6, traffic.PORT_MAPPED, traffic.PORT_WRAP,
        traffic.PORT_RECLAIMED, traffic.PORT_LOWERED, traffic.PORT_PRESSURE,
    )  # fmt: skip
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
    """Wrong usage has status 2, and a message that says what is right; help has examples."""
    for arguments in (["show"], ["show", "x"], ["list", "--port", "0"], ["list", "--addr", "x"], ["export"], ["nothing"]):
        reader.run(*arguments, status=2)
    problems = expect(
        state=("ESTABLISHED, SYN_SENT" in reader.message("list", "--state", "bogus", status=2), True),
        states=("ESTABLISHED, SYN_SENT" in reader.message("list", "--state", "LISTEN,CLOSE", status=2), True),
        netns=("'init', an inode number" in reader.message("list", "--netns", "bla", status=2), True),
        pid=("'x' is no process number" in reader.message("list", "--pid", "x", status=2), True),
    )
    every = [row for row in reader.list() if row[1] != "LISTEN"]
    both = [row for row in every if has_port(row, traffic.PORT_WRAP)]
    server = next(row for row in both if port_of(row[3]) == traffic.PORT_WRAP)
    problems += expect(one_end=(reader.run("show", server[3]), reader.run("show", server[0])))
    return problems + [name for name in ("list", "show", "export", "limits") if "examples:" not in reader.run(name, "--help")]


def ambiguous_problems(reader: Reader) -> list[str]:
    """An end that several sockets have is refused, and the sockets are named."""
    ends: dict[str, list[str]] = {}
    for row in reader.list():
        ends.setdefault(row[3], []).append(row[0])
    local, numbers = next(((end, found) for end, found in ends.items() if len(found) > 1), ("", []))
    message = reader.message("show", local, status=2)
    return expect(
        several=(f"{local} is an end of {len(numbers)} sockets" in message, True),
        named=([number for number in numbers if f"  {number}: {local}-" not in message], []),
    )


TESTS: dict[str, Callable[[Reader], list[str]]] = {
    "list shows every connection": list_problems,
    "all counters": wide_problems,
    "filters": filter_problems,
    "no socket matches": no_match_problems,
    "an end of several sockets": ambiguous_problems,
    "show prints the packets of a connection": show_problems,
    "the export has everything": export_problems,
    "one end of each connection by default": one_end_problems,
    "HTTP within the host": http_problems,
    "directions are those of the socket": direction_problems,
    "payload is what was sent": content_problems,
    "packets reclaimed": reclaimed_problems,
    "a lowered limit": lowered_problems,
    "TCP memory pressure": pressure_problems,
    "limits": limits_problems,
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
            tap.run("limits of the running kernel", partial(live_limits_problems, Path(live).parent))
        else:
            tap.skip("the running kernel", "LIVE is not set")
            tap.skip("limits of the running kernel", "LIVE is not set")
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: GPL-2.0
"""Build what is measured with, boot a guest on it, read what comes out."""
import fcntl
import hashlib
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from . import image, symbols
from .plan import ALL_WORKS, PARTS, PEERS, SETTINGS, Boot

HERE = Path(__file__).parent
PEER_PROGRAMS = ["/usr/bin/tcpdump"]
# The same instructions each time, down to the last, for the same seed.
COUNTED = ["-accel", "tcg,thread=single", "-cpu", "qemu64,+rdrand", "-icount", "shift=0,sleep=off",
           "-rtc", "base=2026-01-01T00:00:00,clock=vm"]
TIMED = ["-accel", "tcg,thread=single", "-cpu", "qemu64,+rdrand"]
# What the plugin says of selftest.S.
SELFTEST = ["phase 4 1 16 0", "entry two 2 2", "point point 2", "incl two 2 14 7 7", "at two point 2",
            "phase 1 1 3002 0", "phase 2 2 8 0", "point point 2", "phase 3 1 7 64"]


class Failed(Exception):
    pass


@dataclass
class Phase:
    """What was measured of one line of a plan. The parts (see plan.PARTS) have insns and symbols of their own."""
    insns: dict[str, int] = field(default_factory=dict)
    reps: int = 0
    nanoseconds: int = 0
    symbols: dict[str, int] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    nested: dict[str, int] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    incl: dict[str, dict] = field(default_factory=dict)
    hits: dict[str, dict[int, int]] = field(default_factory=dict)
    lines: dict = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    peer: list[str] = field(default_factory=list)


class Machine:
    def __init__(self, out: Path):
        self.out, self.tables, self.hashes, self.running = out, {}, {}, set()
        out.mkdir(parents=True, exist_ok=True)
        self.lock = open(out / "lock", "w", encoding="ascii")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"== waiting for another dev/bench in {out} ..", flush=True)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.plugin, self.init = out / "count.so", out / "init"
        self.recorder, self.bpf = out / "recorder", out / "recorder.bpf.o"
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
        guest, peer = sorted((HERE / "guest").glob("*.c")), HERE / "peer"
        make(["gcc", *flags, "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-o", self.plugin, HERE / "plugin/count.c"])
        # Not position independent: the plugin knows the guest program by its low addresses.
        make(["gcc", *flags, "-static", "-no-pie", "-o", self.init, *guest])
        make(["gcc", *flags, "-static", "-o", self.recorder, peer / "recorder.c", "-lbpf", "-lelf", "-lz"])
        # The same bytes in every folder: rows are kept for as long as the programs are the same.
        make([f"{os.environ['LLVM_BIN']}/clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-D__TARGET_ARCH_x86",
              f"-ffile-prefix-map={peer}=peer", "-ffile-compilation-dir=.", "-I/usr/include/x86_64-linux-gnu", "-c",
              "-o", self.bpf, peer / "recorder.bpf.c"])
        self.selftest()

    def selftest(self) -> None:
        """The plugin counts a program of known length, and a function in it with all it calls."""
        program, table, out = self.out / "selftest.elf", self.out / "selftest.table", self.out / "selftest.txt"
        make(["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000", "-Wl,--build-id=none",
              "-o", program, HERE / "plugin/selftest.S"])
        labels = {name: int(addr, 16) for addr, _, name in map(str.split, make(["nm", program]).splitlines())}
        kinds = {"call_1": "c", "back_1": "r", "call_2": "c", "back_2": "r", "two": "e", "point": "x"}
        rows = sorted((labels[name], kind, name if kind in "ex" else "two") for name, kind in kinds.items())
        table.write_text("".join(f"{addr:x} {kind} {name}\n" for addr, kind, name in rows))
        subprocess.run(["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-m", "16M", *COUNTED,
                        "-device", "isa-debug-exit,iobase=0xf4", "-kernel", program,
                        "-plugin", f"{self.plugin},table={table},out={out},profile=on,image=100000"], check=False, timeout=60)
        text = out.read_text().replace(f"at two {labels['point']:x} ", "at two point ")
        got = [line for line in text.splitlines() if line.startswith(("phase", "entry", "point", "incl", "at two point"))]
        if got != SELFTEST:
            raise Failed(f"the plugin does not count as it should:\n  {got}\n  wanted: {SELFTEST}")

    def table(self, kernel: str) -> Path:
        if kernel not in self.tables:
            path = self.out / f"{kernel}.table"
            info = symbols.write_table(build_folder(kernel), path)
            if lost := [name for name in info["tail_calls"] if name in symbols.RECORD]:
                raise Failed(f"the {kernel} kernel reaches {' and '.join(lost)} by a jump, which is not counted as a call")
            self.tables[kernel] = path
        return self.tables[kernel]

    def hash(self, path: Path) -> str:
        if path not in self.hashes:
            self.hashes[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self.hashes[path]

    def programs(self, kernel: str, peers: bool) -> list[str]:
        peer = [self.recorder, self.bpf] if peers else []
        return list(map(self.hash, [image_of(kernel), self.table(kernel), self.plugin, self.init, *peer]))

    def key(self, boot: Boot) -> str:
        """Of all that decides what is counted."""
        parts = [self.programs(boot.kernel, boot.has_peers()), boot.plan(), boot.seed, boot.cpus, boot.mem, COUNTED, TIMED]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def inputs(self, setting: str, work: str) -> str:
        """The same of a row, whatever its seed and whatever the guest did before."""
        parts = [self.programs(SETTINGS[setting].kernel, setting in PEERS), SETTINGS[setting].words, ALL_WORKS[work].words, COUNTED]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def current(self, rows: list[dict]) -> list[dict]:
        """Without those of other kernels, programs or plans: they must not be compared with these."""
        return [one for one in rows if one["setting"] in SETTINGS and one["work"] in ALL_WORKS and
                image_of(SETTINGS[one["setting"]].kernel).exists() and
                one.get("inputs") == self.inputs(one["setting"], one["work"])]

    def stop(self) -> None:
        for child in list(self.running):
            child.kill()

    def run(self, boot: Boot, counted: bool = True, timeout: int = 1800) -> list[Phase]:
        """One life of a guest: what was measured, in the order of boot.phases."""
        initrd, console, result = (self.out / (boot.name + end) for end in (".cpio", ".console", ".counts"))
        initrd.write_bytes(image.build(self.init, boot.plan(), {"recorder": self.recorder, "recorder.bpf.o": self.bpf},
                                       PEER_PROGRAMS if boot.has_peers() else []))
        result.write_text("")
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-machine", "q35", *(COUNTED if counted else TIMED), "-smp", str(boot.cpus), "-m", f"{boot.mem}M",
                   "-seed", str(boot.seed), "-kernel", image_of(boot.kernel),
                   "-initrd", initrd, "-serial", f"file:{console}",
                   "-append", "console=ttyS0,115200 quiet loglevel=5 nokaslr panic=-1 oops=panic kunit.enable=0 kunit.autorun=0"]
        if counted:
            options = ",lines=on" if boot.lines else ",profile=on" if boot.profile else ""
            command += ["-plugin", f"{self.plugin},table={self.table(boot.kernel)},out={result}{options}"]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.running.add(child)
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{boot.name}: no end after {timeout} s; see {console}") from error
        finally:
            child.kill()
            self.running.discard(child)
            initrd.unlink()
        return read(boot, console, result)


def make(command: list) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def build_folder(kernel: str) -> Path:
    """As dev/lib.sh has it."""
    base = Path(os.environ["BASE"])
    return (base / "plain" if kernel == "plain" else base) / "build" / kernel


def options(kernel: str) -> set[str]:
    lines = (build_folder(kernel) / ".config").read_text().splitlines()
    return {line for line in lines if "CONFIG_" in line and "TCP_PCAP" not in line}


def same_options(kernels: set[str]) -> None:
    """The kernels that are compared differ in nothing but the feature."""
    for kernel in kernels:
        if not image_of(kernel).exists():
            raise Failed(f"the {kernel} kernel is not built; next: dev/build {kernel}")
        if other := options(kernel) ^ options("bench"):
            raise Failed(f"the {kernel} kernel has other options than the bench kernel: {' '.join(sorted(other))}")


def image_of(kernel: str) -> Path:
    return build_folder(kernel) / "arch/x86/boot/bzImage"


def read(boot: Boot, console: Path, result: Path) -> list[Phase]:
    phases = [Phase() for _ in boot.phases]
    text = console.read_text(errors="replace").replace("\r", "")
    if "\nbench: end" not in text or "FAILED" in text or "WARNING:" in text or "BUG:" in text:
        raise Failed(f"{boot.name}: the guest failed; see {console}\n" + "\n".join(text.splitlines()[-6:]))
    for line in text.splitlines():
        word, *rest = line.split()[:2] or [""]
        if word not in ("counter", "gauge", "peer", "time") or not rest[0].isdigit():
            continue
        phase, words = phases[int(rest[0]) - 1], line.split()[2:]
        if word == "counter":
            phase.counters[words[0]] = int(words[1])
        elif word == "time":
            phase.nanoseconds = int(words[0])
        elif word == "peer":
            phase.peer.append(" ".join(words))
        else:
            phase.gauges.setdefault(words[0], {})[words[1].rstrip(":")] = words[2:]
    read_counts(phases, result)
    return phases


def read_counts(phases: list[Phase], result: Path) -> None:
    phase, part = Phase(), ""
    for line in result.read_text().splitlines():
        word, *rest = line.split()
        if word == "phase":
            number = int(rest[0])
            phase, part = phases[number // len(PARTS) - 1], PARTS[number % len(PARTS)]
            phase.insns[part] = int(rest[2])
            if part == "all":
                phase.reps = int(rest[3])
        elif word == "bad":
            raise Failed(f"{result}: {line}")
        elif part != "all":
            continue
        elif word == "sym":
            phase.symbols[rest[0]] = phase.symbols.get(rest[0], 0) + int(rest[1])
        elif word == "entry":
            phase.entries[rest[0]] = int(rest[1])
            phase.nested[rest[0]] = int(rest[2])
        elif word == "point":
            phase.points[rest[0]] = phase.points.get(rest[0], 0) + int(rest[1])
        elif word == "incl":
            phase.incl[rest[0]] = dict(zip(("calls", "insns", "lowest", "highest"), map(int, rest[1:])))
        elif word == "at":
            phase.hits.setdefault(rest[0], {})[int(rest[1], 16)] = int(rest[2])
        elif word == "lines":
            phase.lines |= dict(zip(("accesses", "transfers", "inside_accesses", "inside"), map(int, rest)))
        elif word == "xfer":
            phase.lines.setdefault("symbols", {})[rest[0]] = list(map(int, rest[1:]))
        elif word == "line":
            phase.lines.setdefault("hot", []).append(rest)

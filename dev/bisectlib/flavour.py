# SPDX-License-Identifier: GPL-2.0
"""One kernel with its own tree and build folder, brought from step to step."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from treelib.model import Problem, digest, read, write
from .source import Series, Tree

# What a flavour is: its fragments of dev/config, its compiler, and whether its kernel has the feature.
FLAVOURS = {
    "on": (("bisect", "bisect-on"), "clang", True),
    "off": (("bisect", "bisect-off"), "clang", False),
    "gcc-on": (("bisect", "bisect-on"), "gcc", True),
    "gcc-off": (("bisect", "bisect-norust"), "gcc", False),
}
SELFTESTS = "tools/testing/selftests/net/tcp_pcap"
COMPILER = re.compile(r"^(?:clang diag: )?(?P<file>[^\s:]+):\d+(:\d+)?: (?P<text>warning: .*)$")
RUST_FILE = re.compile(r"^\s*--> (?P<file>[^\s:]+):\d+:\d+$")
OTHER = re.compile(r"^(?:\S+: )?(?i:warning): .*$")
KUNIT = re.compile(r"^\[[0-9:]*\] \[(PASSED|FAILED|SKIPPED)\] ", re.M)
CRASHED = re.compile(r"^\[[0-9:]*\] \[(?:CRASHED|ERROR)\].*", re.M)


@dataclass
class Result:
    """What came of a step. Kept beside the build folder, so that a step with the same `key` is not built again."""
    key: str
    good: bool = False
    what: str = ""
    log: str = ""
    seconds: int = 0
    warnings: list[str] = field(default_factory=list)
    tests: dict[str, int] = field(default_factory=dict)
    again: bool = True


class Failed(Exception):
    """What failed, and the log that tells more."""

    def __init__(self, what: str, log: Path):
        super().__init__(what)
        self.log = log


def warnings_of(log: str) -> list[str]:
    """Every warning of a build, without line numbers."""
    found, lines = set(), log.splitlines()
    for number, line in enumerate(lines):
        if match := COMPILER.match(line):
            found.add(f"{relative(match['file'])}: {match['text']}")
        elif OTHER.match(line):
            where = next((m for m in map(RUST_FILE.match, lines[number + 1:number + 3]) if m), None)
            found.add(f"{relative(where['file'])}: {line}" if where else re.sub(r":\d+", "", line))
    return sorted(found)


def relative(path: str) -> str:
    return re.sub(r"^.*/(?:tree|build)/|^(?:\.\./)*tree/|^\./", "", path)


class Flavour:
    def __init__(self, name: str, series: Series, jobs: int):
        env = os.environ
        self.name, self.series, self.jobs = name, series, jobs
        fragments, self.compiler, self.feature = FLAVOURS[name]
        self.dir = Path(env["BASE"]) / "bisect" / name
        self.logs, self.build = Path(env["LOGS"]) / "bisect", self.dir / "build"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.tree = Tree(self.dir / "tree", series)
        self.config = "".join((Path(env["DEV"]) / "config" / f"{part}.config").read_text() for part in fragments)
        self.command = self.make_command()
        compiler = "gcc" if self.compiler == "gcc" else f"{env['LLVM_BIN']}/clang"
        self.tools = "".join(subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
                             for tool in (compiler, "/usr/bin/rustc"))
        self.total = self.known_total()

    def make_command(self) -> list[str]:
        env = os.environ
        return ["env", f"PATH={env['LLVM_BIN']}:{env['CACHE']}/tools/bin:{env['PATH']}", "LIBCLANG_PATH=/usr/lib/llvm-22/lib",
                "make", "-C", str(self.tree.path), *(["LLVM=1"] if self.compiler == "clang" else []),
                "RUSTC=/usr/bin/rustc", "RUSTDOC=/usr/bin/rustdoc", "KBUILD_BUILD_TIMESTAMP=1", "KBUILD_BUILD_USER=tcp_pcap",
                "KBUILD_BUILD_HOST=localhost", "ARCH=um", "W=1", f"O={self.build}"]

    def log(self, step: int, kind: str) -> Path:
        return self.logs / f"{self.name}-{step:02d}-{kind}.log"

    def key(self, step: int) -> str:
        return digest("\n".join([self.series.key(step), self.config, self.tools, *self.command]).encode())

    def stored(self, step: int) -> Path:
        return self.dir / f"step-{step:02d}.json"

    def known(self, step: int) -> Result | None:
        """The result of an earlier run, if it still holds."""
        data = read(self.stored(step))
        result = Result(**json.loads(data)) if data else None
        return result if result and result.good and result.key == self.key(step) else None

    def run(self, step: int) -> Result:
        if result := self.known(step):
            result.again = False
            return result
        start, result = time.monotonic(), Result(self.key(step))
        print(f"== {self.name} {step}/{len(self.series.patches)}: {self.series.title(step)}", flush=True)
        try:
            if step == 0:
                self.begin(result.key)
            self.tree.to_step(step)
            self.configure(step)
            self.compile(step, result)
            self.selftests(step)
            self.test(step, result)
            result.good = True
        except Failed as failed:
            result.what, result.log = str(failed), str(failed.log)
        result.seconds = round(time.monotonic() - start)
        write(self.stored(step), json.dumps(vars(result), indent=1).encode())
        self.say(step, result)
        return result

    def begin(self, key: str) -> None:
        """Only a build from nothing shows all that the kernel itself warns of. One that was interrupted goes on."""
        begun = self.dir / "begun"
        if (read(begun) or b"").decode() != key:
            shutil.rmtree(self.build, ignore_errors=True)
            self.log(0, "build").unlink(missing_ok=True)
            write(begun, key.encode())

    def say(self, step: int, result: Result) -> None:
        tests = ", ".join(f"{n} tests {what}" for what, n in result.tests.items() if n)
        print(f"   {self.name} {step}: " + ("good" if result.good else f"FAILED: {result.what}") +
              f" in {result.seconds} s" + (f", {tests}" if tests else ""), flush=True)
        if not result.good:
            print("".join(f"   | {line}\n" for line in Path(result.log).read_text(errors="replace").splitlines()[-12:]) +
                  f"-- log:  {result.log}\n-- next: repair the patch, then run the same command again", flush=True)

    def make(self, step: int, kind: str, *args: str) -> Path:
        """The kernel's make, with its output in a log."""
        return self.execute(step, kind, [*self.command, *args])

    def execute(self, step: int, kind: str, command: list[str]) -> Path:
        log = self.log(step, kind)
        with open(log, "ab" if (step, kind) == (0, "build") else "wb") as out:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                     start_new_session=True)
            self.wait(child, step, kind, log)
        if child.returncode:
            raise Failed(f"{kind} ended with status {child.returncode}", log)
        return log

    def wait(self, child: subprocess.Popen, step: int, kind: str, log: Path, limit: int = 0) -> None:
        """Until it ends, show that it lives; what ends us ends it."""
        start = shown = time.monotonic()
        try:
            while child.poll() is None:
                time.sleep(0.2)
                now = time.monotonic()
                if limit and now - start > limit:
                    raise Failed(f"{kind} did not end in {limit} s", log)
                if now - shown > 15:
                    shown = now
                    print(f"   {self.name} {step}: {kind}, {now - start:.0f} s{self.progress(step, log)}", flush=True)
        finally:
            if child.poll() is None:
                # make takes back what is half made, or the next run would take it for done.
                os.killpg(child.pid, signal.SIGTERM)
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()

    def progress(self, step: int, log: Path) -> str:
        done = len(re.findall(r"^  [A-Z]", log.read_text(errors="replace"), re.M))
        return f", {done} of about {self.total} files" if step == 0 and done else f", {done} files" if done else ""

    def known_total(self) -> int:
        log = self.log(0, "build")
        return max(700, len(re.findall(r"^  [A-Z]", log.read_text(errors="replace"), re.M))) if log.exists() else 2200

    def configure(self, step: int) -> None:
        self.build.mkdir(parents=True, exist_ok=True)
        fragment = self.dir / "fragment"
        fragment.write_text(self.config)
        log = self.make(step, "configure", f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig")
        have = set((self.build / ".config").read_text().splitlines())
        # An option of the series is not there before its patch is.
        later = self.series.options(len(self.series.patches)) - self.series.options(step)
        lacking = []
        for name, value in re.findall(r"^CONFIG_(\w+)=(.*)$", self.config, re.M):
            there = any(line.startswith(f"CONFIG_{name}=") for line in have)
            if (there if value == "n" else f"CONFIG_{name}={value}" not in have) and name not in later:
                lacking.append(f"CONFIG_{name}={value}")
        if lacking:
            raise Failed("the configuration lacks " + " ".join(lacking), log)

    def compile_warned_again(self) -> None:
        """What an earlier build warned of, whether it came to its end or not: a log has only what it compiled itself."""
        before = set(self.baseline())
        for log in self.logs.glob(f"{self.name}-*-build.log"):
            for warning in () if log == self.log(0, "build") else warnings_of(log.read_text(errors="replace")):
                if warning not in before and not self.tree.renew(warning.split(": ")[0]):
                    # One of the whole kernel.
                    (self.build / "vmlinux").unlink(missing_ok=True)

    def compile(self, step: int, result: Result) -> None:
        if step:
            self.compile_warned_again()
        log = self.make(step, "build", f"-j{self.jobs}", "linux")
        found = warnings_of(log.read_text(errors="replace"))
        if step == 0:
            result.warnings = found
            return
        before = set(self.baseline())
        result.warnings = [warning for warning in found if warning not in before]
        if result.warnings:
            raise Failed("new warnings: " + "; ".join(result.warnings[:5]), log)

    def baseline(self) -> list[str]:
        """What the kernel itself warns of."""
        data = read(self.stored(0))
        if not data:
            raise Problem(f"{self.name}: step 0 has not been built; next: the same command without --step")
        return Result(**json.loads(data)).warnings

    def selftests(self, step: int) -> None:
        """Programs of user space that came with the series, against the headers of this step."""
        if not self.feature or not any(name.startswith(SELFTESTS) for name in self.series.steps[step]):
            return
        out = self.dir / "selftests"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        # They are programs of this machine, not of the architecture `um`.
        self.execute(step, "selftests", ["make", "-C", str(self.tree.path / SELFTESTS), f"OUTPUT={out}", "CC=gcc",
                                         f"KHDR_INCLUDES=-isystem {self.build}/usr/include"])

    def test(self, step: int, result: Result) -> None:
        """Boot it and let its unit tests run."""
        if "CONFIG_KUNIT=y" not in self.config:
            return
        log = self.log(step, "kunit")
        with open(log, "wb") as out:
            child = subprocess.Popen([self.build / "linux", "mem=512M", "kunit.enable=1", "kunit.autorun=1", "kunit_shutdown=halt",
                                      "panic=-1", "con0=fd:0,fd:1"], stdin=subprocess.DEVNULL, stdout=out,
                                     stderr=subprocess.STDOUT, start_new_session=True)
            self.wait(child, step, "kunit", log, limit=600)
        parse = subprocess.run([sys.executable, "-B", self.tree.path / "tools/testing/kunit/kunit.py", "parse", log],
                               capture_output=True, text=True, check=False)
        for what in KUNIT.findall(parse.stdout):
            result.tests[what.lower()] = result.tests.get(what.lower(), 0) + 1
        text = log.read_text(errors="replace")
        if bad := CRASHED.findall(parse.stdout):
            raise Failed(f"unit tests: {bad[0]}", log)
        if parse.returncode or result.tests.get("failed") or not result.tests.get("passed"):
            raise Failed(f"unit tests failed: {result.tests or 'none ran'}", log)
        if missing := [name for name in self.expected(step) if not re.search(rf"^(\[.*?\] *)?ok \d+ {name}$", text, re.M)]:
            raise Failed("these unit tests did not run: " + " ".join(missing), log)
        check = subprocess.run([Path(os.environ["DEV"]) / "kmsg-check", log], capture_output=True, text=True, check=False)
        if check.returncode:
            raise Failed("the kernel log has warnings: " + check.stderr.splitlines()[0], log)

    def expected(self, step: int) -> list[str]:
        """The suites that the series has brought by then; those of the subsystem are only there with the feature."""
        return [name for path, name in self.series.suites(step) if self.feature or path.startswith("rust/")]

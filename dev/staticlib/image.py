# SPDX-License-Identifier: GPL-2.0
"""The machine code of a linked x86-64 kernel: what each function calls, refers to, pushes, and where it traps."""
import bisect
import functools
import os
import re
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

BUGFLAG_WARNING = 1 << 0
_INSN = re.compile(r"^([0-9a-f]+):\s+(\S+)\s*(.*)$")
_TARGET = re.compile(r"0x([0-9a-f]+) <")
_PREFIXES = {"lock", "rep", "repne", "repz", "repnz", "notrack", "cs", "ds"}


def llvm(tool: str, *args: object) -> str:
    return subprocess.run([f"{os.environ['LLVM_BIN']}/llvm-{tool}", *map(str, args)], capture_output=True, text=True,
                          check=True).stdout


@dataclass(frozen=True)
class Section:
    start: int
    offset: int
    size: int
    flags: str


def sections(path: Path) -> dict[str, Section]:
    """The sections of an ELF file."""
    row = re.compile(r"^\s*\[ *\d+\] (\S+)\s+[A-Z_]+\s+([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) [0-9a-f]+ +([A-Zop]*) ", re.M)
    return {name: Section(int(start, 16), int(offset, 16), int(size, 16), flags)
            for name, start, offset, size, flags in row.findall(llvm("readelf", "-SW", path))}


@dataclass
class Function:
    """
    targets: functions called or jumped to; refs: functions whose address is taken; frame: bytes of stack, at most; unbounded: as
    much as a register says; indirect: sites of calls through pointers; traps: sites of ud1 and ud2
    """
    name: str
    targets: set[str] = field(default_factory=set)
    refs: set[str] = field(default_factory=set)
    frame: int = 0
    indirect: list[int] = field(default_factory=list)
    traps: list[int] = field(default_factory=list)
    unbounded: bool = False


class Image:
    def __init__(self, path: Path):
        self.path = path
        self.sections = sections(path)
        # A kernel's .data counts as executable; what lies there is none.
        code = [s for s in self.sections.values() if "X" in s.flags and "W" not in s.flags]
        starts: dict[int, str] = {}
        for line in llvm("nm", "-n", "--defined-only", path).splitlines():
            address, _, name = line.split()
            if any(s.start <= int(address, 16) < s.start + s.size for s in code):
                starts.setdefault(int(address, 16), name)
        self._starts, self._names = list(starts), starts
        self._known: dict[str, Function] = {}

    def functions(self, names: set[str]) -> dict[str, Function]:
        """The functions of these names; what cannot be found is left out."""
        if new := names - set(self._known):
            text = llvm("objdump", "-d", "--no-show-raw-insn", "--disassemble-symbols=" + ",".join(sorted(new)), self.path)
            for head, code in re.findall(r"^[0-9a-f]+ <(\S+)>:\n(.*?)(?=\n\n|\Z)", text, re.S | re.M):
                # Two of one name count as one that does what both do.
                self._parse(self._known.setdefault(head, Function(head)), code)
        return {name: self._known[name] for name in names if name in self._known}

    def function_at(self, address: int) -> str | None:
        """The function that has this address in it."""
        at = bisect.bisect_right(self._starts, address) - 1
        return self._names[self._starts[at]] if at >= 0 else None

    def _parse(self, function: Function, code: str) -> None:
        for line in code.splitlines():
            if not (match := _INSN.match(line.strip())):
                continue
            site, mnemonic, operands = int(match[1], 16), match[2], match[3]
            if mnemonic in _PREFIXES:
                mnemonic, _, operands = operands.partition("\t")
            if mnemonic in ("ud2", "ud1l", "ud1q", "ud1w", "ud1"):
                function.traps.append(site)
            elif mnemonic.startswith(("call", "j")):
                self._branch(function, site, mnemonic, operands)
            else:
                self._stack(function, mnemonic, operands.split("#")[0].rstrip())
                self._references(function, operands)

    def _branch(self, function: Function, site: int, mnemonic: str, operands: str) -> None:
        if operands.startswith("*"):
            # A jump through a table stays within the function.
            if mnemonic.startswith("call") or not re.match(r"\*(0x)?[0-9a-f-]+\(,%", operands):
                function.indirect.append(site)
            return
        if match := _TARGET.search(operands):
            target = self.function_at(int(match[1], 16))
            if target and target != function.name:
                function.targets.add(target)

    @staticmethod
    def _stack(function: Function, mnemonic: str, operands: str) -> None:
        """Every push and every lowering of the stack pointer counts, also those that exclude each other."""
        if mnemonic.startswith("push"):
            function.frame += 8
        elif operands.endswith(", %rsp") and mnemonic.startswith(("sub", "add", "lea", "and")):
            number = re.match(r"\$(-?)0x([0-9a-f]+), |(-?)0x([0-9a-f]+)\(%rsp\), ", operands)
            if mnemonic.startswith("sub") and number and number[2]:
                function.frame += int(number[2], 16)
            elif mnemonic.startswith("add") and number and number[1]:
                function.frame += int(number[2], 16)
            elif mnemonic.startswith("lea") and number and number[3]:
                function.frame += int(number[4], 16)
            elif mnemonic.startswith("and") and number and number[1]:
                function.frame += int(number[2], 16) - 8
            elif mnemonic.startswith("sub"):
                function.unbounded = True

    def _references(self, function: Function, operands: str) -> None:
        for word in re.findall(r"# 0x([0-9a-f]+) <|\$(?:-)?0x([0-9a-f]+)", operands):
            address = int(word[0] or word[1], 16)
            for value in (address, (-address) & (1 << 64) - 1):
                if value in self._names and self._names[value] != function.name:
                    function.refs.add(self._names[value])

    # Traps

    @functools.cached_property
    def bugs(self) -> dict[int, int]:
        """Flags of each entry of the bug table, by the address of its trap."""
        if not (section := self.sections.get("__bug_table")):
            return {}
        size, flags = self._bug_entry()
        with self.path.open("rb") as file:
            file.seek(section.offset)
            table = file.read(section.size)
        return {section.start + at + struct.unpack_from("<i", table, at)[0]: struct.unpack_from("<H", table, at + flags)[0]
                for at in range(0, len(table), size)}

    def _bug_entry(self) -> tuple[int, int]:
        """Size of the kernel's struct bug_entry, offset of its flags."""
        text = subprocess.run(["pahole", "-F", "btf", "-C", "bug_entry", self.path], capture_output=True, text=True,
                              check=False).stdout
        size, flags = re.search(r"/\* size: (\d+)", text), re.search(r"\bflags;\s*/\*\s*(\d+)", text)
        return (int(size[1]), int(flags[1])) if size and flags else (12, 8)

    def where(self, address: int) -> list[str]:
        """Source of an address: function and file:line, from what was inlined last to the function itself."""
        lines = llvm("symbolizer", f"--obj={self.path}", "-i", "-f", hex(address)).split("\n\n")[0].splitlines()
        return [f"{name} ({short(place)})" for name, place in zip(lines[::2], lines[1::2])]


def short(place: str) -> str:
    """A place of the source without the folder of the tree."""
    return re.sub(r"^.*?/(?=(?:include|net|rust|arch|kernel|lib|mm|library)/)", "", place).rsplit(":", 1)[0]

# SPDX-License-Identifier: GPL-2.0
"""Where the instructions of recording are: by function, by source line, by instruction."""
from bisect import bisect_right
from collections import Counter
from pathlib import Path

from .debuginfo import frames, llvm, short
from .symbols import RECORD, read_map

OURS = ("net/ipv4/tcp_pcap/", "include/net/tcp_pcap.h")


def by_symbol(build: Path, hits: dict[int, int]) -> Counter:
    rows = [(addr, name) for addr, kind, name in read_map(build / "System.map") if kind in "tTwW"]
    addrs, found = [addr for addr, _ in rows], Counter()
    for addr, count in hits.items():
        found[rows[bisect_right(addrs, addr) - 1][1]] += count
    return found


def ranked(title: str, found: Counter, per: int, limit: int) -> list[str]:
    total, out, sum_ = sum(found.values()), [f"-- {title}", "   insns/call   share  sum"], 0
    for name, count in found.most_common(limit):
        sum_ += count
        out.append(f"{count / per:13.2f} {count / total:6.1%} {sum_ / total:6.1%}  {name}")
    return [*out, ""]


def source(build: Path, where: str) -> str:
    """The text of a line of the kernel's source."""
    path, _, line = where.rpartition(":")
    file = build.parent.parent / "tree" / path
    if not line.isdigit() or not file.is_file():
        return ""
    lines = file.read_text(errors="replace").splitlines()
    return lines[int(line) - 1].strip()[:70] if 0 < int(line) <= len(lines) else ""


def disassembly(build: Path, symbol: str, hits: dict[int, int], per: int) -> list[str]:
    """A function's instructions with how often each is executed per record."""
    listing = llvm("objdump", "-d", "-l", "--no-show-raw-insn", f"--disassemble-symbols={symbol}", build / "vmlinux")
    out, place, shown = [f"-- {symbol}: executions per record, instruction; its source line before it"], "", ""
    for line in listing:
        if line.startswith("; "):
            place = short(line[2:])
            continue
        head = line.strip().partition(":")[0]
        try:
            addr = int(head, 16)
        except ValueError:
            continue
        if addr not in hits:
            continue
        if place != shown:
            shown = place
            out.append(f"         ; {place}  {source(build, place)}")
        out.append(f"{hits[addr] / per:8.2f}  {line.strip()}")
    return [*out, ""]


def tables(build: Path, hits: dict[int, int], per: int, places: dict[int, list[tuple[str, str]]]) -> list[str]:
    functions, lines, inlined, symbols = Counter(), Counter(), Counter(), by_symbol(build, hits)
    for addr, count in hits.items():
        chain = places.get(addr) or [("?", "?:0")]
        inlined[chain[0][0][:90]] += count
        ours = next(((function, place) for function, place in chain if place.startswith(OURS)), chain[0])
        functions[ours[0][:90]] += count
        inner = "" if ours == chain[0] else f"  <- {chain[0][1]} {chain[0][0][:40]}"
        lines[f"{ours[1]}  {source(build, ours[1])}{inner}"] += count
    return [*ranked("by function as it is in the image", symbols, per, 40),
            *ranked("by function of the source (the innermost of ours, with what is inlined into it)", functions, per, 60),
            *ranked("by the innermost inlined function", inlined, per, 40),
            *ranked("by source line (the innermost of ours; <- what is inlined there)", lines, per, 100)]


def text(build: Path, hits: dict[str, dict[int, int]], incl: dict[str, dict]) -> str:
    """Everything about the functions that are counted with all they call."""
    out, together = [], Counter()
    for name in hits:
        together.update(hits[name])
    places = frames(build, sorted(together))
    for name, one in sorted(incl.items(), key=lambda item: -item[1]["insns"]):
        each = one["insns"] / one["calls"]
        out += [f"== {name}: {one['calls']} calls of {each:.1f} instructions ({one['lowest']} to {one['highest']})", "",
                *(tables(build, hits[name], one["calls"], places) if name in hits else [])]
    calls = sum(incl[name]["calls"] for name in RECORD if name in incl)
    recording = Counter()
    for name in RECORD:
        recording.update(hits.get(name, {}))
    for symbol, count in by_symbol(build, recording).most_common(12):
        if calls and count / calls >= 1:
            out += disassembly(build, symbol, recording, calls)
    return "\n".join(out) + "\n"

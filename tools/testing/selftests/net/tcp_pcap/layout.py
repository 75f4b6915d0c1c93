#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What debuggers must find in a vmlinux, and what capture must not change: TAP on standard output.

usage: layout.py VMLINUX OBJECT TREE

VMLINUX has DWARF and BTF; OBJECT is net/ipv4/tcp_plb.o of its build folder, TREE its source. Asks BTF (by pahole) and DWARF (by
drgn) for each type and constant of include/net/tcp_pcap.h, and compares struct tcp_sock with one compiled without
CONFIG_TCP_PCAP.
"""
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import drgn

results: list[bool] = []


def check(good: bool, text: str) -> None:
    results.append(good)
    print(f"{'ok' if good else 'not ok'} {len(results)} - {text}", flush=True)


def pahole(*args: str) -> str:
    return subprocess.run(["pahole", *args], capture_output=True, text=True, check=False).stdout


def declared(header: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Types of the header: structs with their members, enums with their constants."""
    code = re.sub(r"/\*.*?\*/|\s+____cacheline_aligned\w*", "", header, flags=re.S)
    structs = {name: re.findall(r"(\w+)(?:\[\w+\])*;", body)
               for name, body in re.findall(r"^struct (\w+) \{(.*?)^\}", code, re.S | re.M)}
    enums = {name: re.findall(r"^\s*(\w+)\s*=", body, re.M)
             for name, body in re.findall(r"^enum (\w+) \{(.*?)^\}", code, re.S | re.M)}
    return structs, enums


def members(text: str) -> dict[str, int]:
    """Offset of each member of the one struct that pahole printed."""
    return {name: int(offset) for name, offset in
            re.findall(r"^\t\S[^{};]*?(\w+)(?:\[\d+\])*(?::\d+)?(?: __attribute__\(\([^;]*\))?;\s*/\*\s*(\d+)", text, re.M)}


def from_btf(vmlinux: str, names: list[str]):
    """A function that looks a type up in BTF: offsets of members, values of constants."""
    text = pahole("-F", "btf", "-C", ",".join(names), vmlinux)
    found = {m.group(1): m.group(0) for m in re.finditer(r"^((?:struct|enum) \w+) \{.*?^\}", text, re.S | re.M)}

    def look_up(name: str) -> dict[str, int]:
        text = found.get(name, "")
        if name.startswith("struct"):
            return members(text)
        return {n: int(v) for n, v in re.findall(r"^\t(\w+)\s*= (-?\d+)", text, re.M)}
    return look_up


def from_dwarf(vmlinux: str):
    """As from_btf(), in DWARF."""
    prog = drgn.Program()
    prog.extra_module("vmlinux", create=True).try_file(vmlinux, force=True)

    def look_up(name: str) -> dict[str, int]:
        try:
            found = prog.type(name)
        except LookupError:
            return {}
        if name.startswith("struct"):
            return {m.name: m.offset for m in found.members}
        return {e.name: e.value for e in found.enumerators}
    return look_up


def size(text: str) -> int:
    found = re.findall(r"/\* size: (\d+)", text)
    return int(found[-1]) if found else -1


def sources(tree: Path) -> set[str]:
    """Names, without suffix, of the C files in net/ipv4."""
    return {p.stem for p in (tree / "net/ipv4").glob("*.c")}


def compiled_without(obj: Path, folder: str) -> Path:
    """The object's source, compiled by the very command of the build, as if CONFIG_TCP_PCAP were off."""
    command = re.match(r"savedcmd_\S+ := (.*)", (obj.parent / f".{obj.name}.cmd").read_text()).group(1).split(" ; ")[0]
    off, result = Path(folder, "off.h"), Path(folder, "off.o")
    off.write_text("#undef CONFIG_TCP_PCAP\n")
    words = [w for w in shlex.split(command) if not w.startswith("-Wp,-MMD")]
    words[words.index("-o") + 1] = str(result)
    # Right behind what defines it.
    config = next(i for i, w in enumerate(words) if w.endswith("kconfig.h")) + 1
    words[config:config] = ["-include", str(off)]
    subprocess.run(words, cwd=obj.parents[2], check=True, capture_output=True)
    return result


def references(obj: Path) -> set[str]:
    """Symbols of TCP_PCAP that an object defines or wants."""
    text = subprocess.run(["nm", str(obj)], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\S*tcp_pcap\S*", text))


def main() -> int:
    vmlinux, obj, tree = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    layouts: dict[str, dict[str, dict[str, int]]] = {}
    structs, enums = declared((tree / "include/net/tcp_pcap.h").read_text())
    check(len(structs) >= 5 and len(enums) >= 5, f"the header declares {len(structs)} structs and {len(enums)} enums")

    for kind, look_up in (("btf", from_btf(vmlinux, [*structs, *enums])), ("dwarf", from_dwarf(vmlinux))):
        for name, names in structs.items():
            found = layouts.setdefault(name, {})[kind] = look_up(f"struct {name}")
            missing = set(names) - set(found)
            check(bool(found) and not missing, f"{kind}: struct {name}" + (f" lacks {missing}" if missing else ""))
        for name, names in enums.items():
            found = layouts.setdefault(name, {})[kind] = look_up(f"enum {name}")
            missing = set(names) - set(found)
            check(bool(found) and not missing, f"{kind}: enum {name}" + (f" lacks {missing}" if missing else ""))
    for name, kinds in layouts.items():
        check(bool(kinds["btf"]) and kinds["btf"] == kinds["dwarf"], f"{name} is the same in both")
    rec = size(pahole("-C", "tcp_pcap_rec", str(obj.parent / "tcp_pcap/glue.o")))
    check(0 < rec <= 96, f"a record's description has {rec} bytes, at most 96")

    symbols = subprocess.run(["nm", vmlinux], capture_output=True, text=True, check=True).stdout
    for name in ("tcp_pcap_shards", "tcp_pcap_frags", "tcp_pcap_mem", "tcp_pcap_key"):
        check(bool(re.search(rf" [bBdD] {name}$", symbols, re.M)), f"data symbol {name}")

    with tempfile.TemporaryDirectory() as folder:
        hooked = [o for o in sorted(obj.parent.glob("*.o")) if o.with_suffix("").name in sources(tree) and references(o)]
        check(len(hooked) >= 7, f"hooks in {' '.join(o.name for o in hooked)}")
        for o in hooked:
            left = references(compiled_without(o, folder))
            check(not left, f"{o.name}: without the option nothing of it is left {left or ''}")
        without = pahole("-C", "tcp_sock", str(compiled_without(obj, folder)))
    with_it = pahole("-C", "tcp_sock", str(obj))
    old, new = members(without), members(with_it)
    check("pcap" in new and "pcap" not in old, "tcp_sock has the pointer with the option, and not without")
    check(size(with_it) == size(without) > 0, f"tcp_sock does not grow: {size(without)} and {size(with_it)} bytes")
    # The one group behind the pointer moves by its size, into padding; what comes after stays where it is.
    end = "__cacheline_group_end__tcp_sock_read_rx"
    moved = {n for n in old if n in new and old[n] != new[n] and not old["copied_seq"] <= old[n] <= old[end]}
    check(end in old and not moved, f"no member outside tcp_sock_read_rx moves {moved or ''}")
    line = {n: new[n] // 64 for n in ("pcap", "snd_cwnd", "mss_cache") if n in new}
    check(len(set(line.values())) == 1 and len(line) == 3, "the pointer shares its cache line with what both paths load")

    print(f"1..{len(results)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

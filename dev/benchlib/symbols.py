# SPDX-License-Identifier: GPL-2.0
"""The table of a kernel's symbols and call sites for plugin/count.c."""
import re
import struct
from pathlib import Path

from .debuginfo import frames, llvm

# How often these are entered is counted. Each packet that TCP takes from the network layer enters one of the first two.
RECEIVE = ("tcp_v4_rcv", "tcp_v6_rcv")
RECORD = ("tcp_pcap_capture_rx", "tcp_pcap_capture_tx")
# The functions of the stack with a hook that each packet passes.
HOOKED = ("__tcp_transmit_skb", "tcp_rcv_established", "tcp_rcv_state_process")
# Calls that differ where traffic does: packets, ACKs, segmentation, and whether the socket was in use.
TRAFFIC = RECEIVE + HOOKED + ("skb_segment", "tcp_add_backlog")
ALLOCATE = ("kmem_cache_alloc_noprof", "kmem_cache_alloc_node_noprof", "kmem_cache_alloc_lru_noprof", "__kmalloc_noprof",
            "__kmalloc_node_noprof", "__kmalloc_cache_noprof", "__alloc_frozen_pages_noprof", "kmem_cache_free", "kfree")
ENTRIES = RECORD + ALLOCATE + TRAFFIC + ("tcp_v4_send_synack", "tcp_v6_send_synack")
# These are counted with all they call.
INCLUSIVE = RECORD + ("__tcp_pcap_init_sock", "__tcp_pcap_inherit", "__tcp_pcap_listen", "__tcp_pcap_disconnect",
                      "__tcp_pcap_destroy")


def read_map(path: Path) -> list[tuple[int, str, str]]:
    rows = []
    for line in path.read_text().splitlines():
        addr, kind, name = line.split(maxsplit=2)
        rows.append((int(addr, 16), kind, name.split("\t")[0]))
    return sorted(rows, key=lambda row: row[0])


def text_section(vmlinux: Path) -> tuple[int, bytes]:
    """Address and content of .text of a 64-bit little-endian ELF file."""
    with open(vmlinux, "rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            raise SystemExit(f"{vmlinux}: no 64-bit ELF file")
        at, = struct.unpack_from("<Q", head, 40)
        size, count, names = struct.unpack_from("<3H", head, 58)
        file.seek(at)
        table = file.read(size * count)
        sections = [struct.unpack_from("<IIQQQQ", table, i * size) for i in range(count)]
        file.seek(sections[names][4])
        strings = file.read(sections[names][5])
        for name, _, _, addr, offset, length in sections:
            if strings[name:strings.index(b"\0", name)] == b".text":
                file.seek(offset)
                return addr, file.read(length)
    raise SystemExit(f"{vmlinux}: no .text")


def sites(text: bytes, base: int, targets: dict[int, str], opcode: int) -> list[tuple[int, str]]:
    """Where an instruction `opcode rel32` leads to one of targets."""
    found, at = [], text.find(bytes([opcode]))
    while 0 <= at <= len(text) - 5:
        target = base + at + 5 + int.from_bytes(text[at + 1:at + 5], "little", signed=True)
        if target in targets:
            found.append((base + at, targets[target]))
        at = text.find(bytes([opcode]), at + 1)
    return found


def kept_frags(build: Path, names: list[str]) -> list[int]:
    """Instructions of recording that write the page of a frag: one of them for each frag that is kept."""
    ours = [name for name in names if "tcp_pcap" in name or "set_frag" in name]
    if "tcp_pcap_capture_rx" not in ours:
        return []
    listing = llvm("objdump", "-d", "--no-show-raw-insn", f"--disassemble-symbols={','.join(ours)}", build / "vmlinux")
    # Of what fill_frag() writes only the page is a pointer; what is remembered on the stack is not meant.
    stores = [int(line.split(":")[0], 16) for line in listing
              if re.search(r"\bmovq\s+%\w+, [-\w]*\(", line) and not re.search(r"\(%rsp|, -0x\w+\(%rbp\)", line)]
    found = [addr for addr, chain in frames(build, stores).items() if chain and "fill_frag" in chain[0][0]]
    if not found:
        raise SystemExit(f"{build}: no instruction of fill_frag() writes the page of a frag; look at kept_frags()")
    return found


def write_table(build: Path, path: Path) -> dict:
    """The table of the kernel in a build folder; what is worth knowing about it."""
    rows = read_map(build / "System.map")
    where = {name: addr for addr, _, name in rows}
    base, text = text_section(build / "vmlinux")
    targets = {where[name]: name for name in INCLUSIVE if name in where}
    calls, tails = sites(text, base, targets, 0xe8), sites(text, base, targets, 0xe9)
    places = {addr for addr, _ in calls}
    if places & {addr + 5 for addr in places}:
        raise SystemExit(f"{build}: two calls in a row")
    lines, seen = [], set()
    for addr, kind, name in rows:
        if addr >= 0xffff800000000000 and addr not in seen and (kind in "tTwW" or kind in "dDbBrR"):
            seen.add(addr)
            lines.append((addr, ("e" if name in ENTRIES else "s") if kind in "tTwW" else "d", name))
    for name in ENTRIES:
        # An alias at the same address must not hide what is counted.
        if name in where and (where[name], "e", name) not in lines:
            lines = [line for line in lines if line[0] != where[name]] + [(where[name], "e", name)]
    if "_end" in where:
        lines = [line for line in lines if line[0] != where["_end"]] + [(where["_end"], "d", "-")]
    for addr, name in calls:
        lines += [(addr, "c", name), (addr + 5, "r", name)]
    kept = kept_frags(build, [name for _, kind, name in rows if kind in "tT"])
    lines += [(addr, "x", "frag") for addr in kept]
    lines.sort(key=lambda line: line[0])
    path.write_text("".join(f"{addr:x} {kind} {name}\n" for addr, kind, name in lines))
    return {"calls": len(calls), "frags": len(kept), "tail_calls": [name for _, name in tails]}

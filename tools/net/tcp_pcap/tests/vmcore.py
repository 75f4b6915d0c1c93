# SPDX-License-Identifier: GPL-2.0
"""A copy of a vmcore whose memory can be overwritten, and put back, through kernel addresses."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "drgn"))

from drgn import Object, Program, offsetof, sizeof
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.net import skb_shinfo
from tcp_pcap_reader import cli
from tcp_pcap_reader.layout import Layout
from tcp_pcap_reader.report import Report
from tcp_pcap_reader.records import Slot, records
from tcp_pcap_reader.walk import Capture, Ring, captures

PT_LOAD = 1
PT_NOTE = 4
PAGE = 4096


def word(value: int, size: int = 8) -> bytes:
    """A number as it lies in memory."""
    return (value & (1 << size * 8) - 1).to_bytes(size, "little")


def segments(path: Path) -> list[tuple[int, int, int, int]]:
    """Program headers of a 64-bit ELF file: type, offset, physical address, size in the file."""
    with path.open("rb") as file:
        header = file.read(64)
        start = struct.unpack_from("<Q", header, 32)[0]
        size, count = struct.unpack_from("<HH", header, 54)
        found = []
        for number in range(count):
            file.seek(start + number * size)
            kind, _, offset, _, physical, length = struct.unpack("<IIQQQQ", file.read(40))
            found.append((kind, offset, physical, length))
    return found


def without_page(path: Path, physical: int) -> None:
    """Leave a page out of a vmcore, as a filtered dump does: its bytes stay in the file, but no segment covers them."""
    with path.open("r+b") as file:
        header = bytearray(file.read(64))
        start = struct.unpack_from("<Q", header, 32)[0]
        width, count = struct.unpack_from("<HH", header, 54)
        file.seek(start)
        table = [file.read(width) for _ in range(count)]
        kept = []
        for entry in table:
            kind, flags, offset, virtual, first, size, _, align = struct.unpack("<IIQQQQQQ", entry)
            if kind != PT_LOAD or not first <= physical < first + size:
                kept.append(entry)
                continue
            before, after = physical - first, physical + PAGE - first
            if before:
                kept.append(struct.pack("<IIQQQQQQ", kind, flags, offset, virtual, first, before, before, align))
            if after < size:
                rest = size - after
                moved = virtual + after if virtual else 0
                kept.append(struct.pack("<IIQQQQQQ", kind, flags, offset + after, moved, first + after, rest, rest, align))
        struct.pack_into("<Q", header, 32, file.seek(0, os.SEEK_END))
        struct.pack_into("<H", header, 56, len(kept))
        file.write(b"".join(kept))
        file.seek(0)
        file.write(header)


class Vmcore:
    """
    A working copy of a vmcore, opened with drgn.

    drgn keeps no copy of the memory, so what is written into the file is read at once.
    """

    def __init__(self, original: Path, vmlinux: Path, copy: Path) -> None:
        shutil.copyfile(original, copy)
        self.path = copy
        self._file = copy.open("r+b", buffering=0)
        self._loads = [segment for segment in segments(copy) if segment[0] == PT_LOAD]
        self.prog = Program()
        self.prog.set_core_dump(copy)
        self.prog.load_debug_info([vmlinux])

    def offset(self, address: int) -> int:
        """Where in the file a kernel address lies."""
        physical = follow_phys(self.prog["init_mm"].address_of_(), address).value_()
        for _, offset, start, length in self._loads:
            if start <= physical < start + length:
                return offset + physical - start
        raise ValueError(f"{address:#x} is not in the vmcore")

    @contextmanager
    def overwritten(self, changes: list[tuple[int, bytes]]) -> Iterator[None]:
        """Other bytes at some kernel addresses, for a while."""
        saved = []
        for address, data in changes:
            offset = self.offset(address)
            self._file.seek(offset)
            saved.append((offset, self._file.read(len(data))))
        try:
            for (offset, _), (_, data) in zip(saved, changes):
                self._file.seek(offset)
                self._file.write(data)
            yield
        finally:
            for offset, data in reversed(saved):
                self._file.seek(offset)
                self._file.write(data)

    def run(self, arguments: Sequence[str], timeout: float = 60) -> tuple[int | None, str, str]:
        """
        Run the reader in a child, which has the debugging information already.

        :return: exit status, or None if it did not end; standard output; standard error
        """
        sys.stdout.flush()
        with tempfile.TemporaryFile("w+", errors="replace") as output, tempfile.TemporaryFile("w+", errors="replace") as errors:
            child = os.fork()
            if child == 0:
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                status = 99
                try:
                    status = cli.main(arguments, self.prog)
                finally:
                    sys.stdout.flush()
                    os._exit(status)
            ended = _wait(child, timeout)
            output.seek(0)
            errors.seek(0)
            return ended, output.read(), errors.read()


def _wait(child: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class Target:
    """Addresses of what can be damaged in one history with packets."""

    def __init__(self, layout: Layout, capture: Capture, ring: Ring, slots: list[Slot]) -> None:
        self.prog = layout.prog
        self.layout = layout
        self.capture = capture
        self.ring = ring
        self.slots = slots
        self.slot = max(slots, key=lambda slot: slot.skb.data_len.value_())

    def pcap(self, member: str) -> int:
        """Address of a member of the struct tcp_pcap."""
        return self.capture.address + offsetof(self.layout.pcap_type, member)

    def in_ring(self, member: str) -> int:
        """Address of a member of the struct tcp_pcap_ring."""
        return self.pcap(self.ring.name) + offsetof(self.prog.type("struct tcp_pcap_ring"), member)

    def record(self, member: str) -> int:
        """Address of a member of the struct tcp_pcap_rec."""
        return self.slot.skb.head.value_() + offsetof(self.layout.rec_type, member)

    def skb(self, member: str) -> int:
        """Address of a member of the struct sk_buff."""
        return self.slot.address + offsetof(self.layout.skb_type, member)

    def chunk(self) -> int:
        """Address of the first chunk."""
        return self.prog.read_u64(self.ring.chunks)

    def slot_pointer(self) -> int:
        """Address of the slot."""
        return self.chunk() + 8 * (self.slot.record.serial % self.ring.size)

    def shared(self) -> Object:
        """The skb_shared_info."""
        return skb_shinfo(self.slot.skb)[0]

    def regions(self) -> list[tuple[int, int]]:
        """What random damage may hit: addresses and sizes."""
        found = [
            (self.capture.address, self.layout.pcap_type.size or 0),
            (self.ring.chunks, 8 * self.ring.nr_chunks),
            (self.chunk(), 8 * min(self.ring.size, self.layout.chunk_slots)),
            (self.layout.shards.address_ or 0, sizeof(self.layout.shards)),
        ]
        for slot in self.slots:
            head = slot.skb.head.value_()
            found.append((slot.address, self.layout.skb_type.size or 0))
            found.append((head, skb_shinfo(slot.skb).value_() - head + 64))
        return [(address, size // 8) for address, size in found if size >= 8]


def find_target(layout: Layout, fewest: int = 1) -> Target:
    """The ring with most bytes in frags, of those with at least so many packets."""
    found = []
    for capture in captures(layout, Report()):
        for ring in capture.rings.values():
            slots = records(layout, Report(), capture, ring)
            if len(slots) >= fewest:
                frags = max(slot.skb.data_len.value_() for slot in slots)
                found.append((frags, len(slots), Target(layout, capture, ring, slots)))
    if not found:
        raise SystemExit("the vmcore has no packets")
    return max(found, key=lambda entry: entry[:2])[2]

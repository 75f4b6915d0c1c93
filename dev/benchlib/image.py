# SPDX-License-Identifier: GPL-2.0
"""The guest's initramfs: written here, byte by byte the same each time."""
import os
import stat
import subprocess
from pathlib import Path


class Cpio:
    """An archive in the kernel's "newc" format."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.known: set[str] = set()

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        for parent in reversed(Path(name).parents[:-1]):
            self.folder(str(parent))
        self._entry(name, mode, data, device)

    def folder(self, name: str) -> None:
        if name not in self.known:
            self.known.add(name)
            self._entry(name, stat.S_IFDIR | 0o755, b"", (0, 0))

    def _entry(self, name: str, mode: int, data: bytes, device: tuple[int, int]) -> None:
        number = len(self.known) + len(self.out)
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        self.out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        self._pad()
        self.out += data
        self._pad()

    def _pad(self) -> None:
        self.out += bytes(-len(self.out) % 4)

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0, b"", (0, 0))
        return bytes(self.out)


def libraries(program: str) -> list[str]:
    """What a program needs, as the host's own loader finds it."""
    lines = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.splitlines()
    words = [word for line in lines for word in line.split() if word.startswith("/")]
    return sorted(set(words))


def build(init: Path, plan: str, programs: dict[str, Path], copies: list[str]) -> bytes:
    """init, its plan, programs of ours by their path in the guest, and programs of the host with their libraries."""
    cpio = Cpio()
    for folder in ("dev", "proc", "sys", "tmp", "etc"):
        cpio.folder(folder)
    cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.add("etc/passwd", stat.S_IFREG | 0o644, b"root:x:0:0:root:/:/bin/sh\n")
    cpio.add("etc/group", stat.S_IFREG | 0o644, b"root:x:0:\n")
    cpio.add("init", stat.S_IFREG | 0o755, init.read_bytes())
    cpio.add("plan", stat.S_IFREG | 0o644, plan.encode())
    for name, path in sorted(programs.items()):
        cpio.add(name.lstrip("/"), stat.S_IFREG | 0o755, path.read_bytes())
    for name in sorted({lib for program in copies for lib in [program, *libraries(program)]}):
        cpio.add(name.lstrip("/"), stat.S_IFREG | 0o755, Path(os.path.realpath(name)).read_bytes())
    return cpio.finish()

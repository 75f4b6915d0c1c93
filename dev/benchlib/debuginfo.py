# SPDX-License-Identifier: GPL-2.0
"""What the debug information tells of addresses."""
import os
import subprocess
from pathlib import Path


def llvm(tool: str, *args, text: str = "") -> list[str]:
    return subprocess.run([f"{os.environ['LLVM_BIN']}/llvm-{tool}", *args], input=text, text=True, capture_output=True,
                          check=True).stdout.splitlines()


def frames(build: Path, addrs: list[int]) -> dict[int, list[tuple[str, str]]]:
    """Of each address the functions inlined there, from the innermost out: (function, file:line)."""
    lines = llvm("addr2line", "-a", "-f", "-i", "-C", "-e", build / "vmlinux", text="\n".join(map(hex, addrs)))
    found, now = {}, []
    for line in lines:
        if line.startswith("0x"):
            now = found.setdefault(int(line, 16), [])
        else:
            now.append(line)
    return {addr: [(function, short(place)) for function, place in zip(words[::2], words[1::2])] for addr, words in found.items()}


def short(place: str) -> str:
    """A path within the kernel's or the compiler's source."""
    path, _, line = place.split(" (discriminator")[0].rpartition(":")
    for root in ("/tree/", "/library/"):
        path = path.rpartition(root)[2]
    return f"{path}:{line}"

# SPDX-License-Identifier: GPL-2.0
"""The Rust object of TCP_PCAP as CONFIG_RUST_OVERFLOW_CHECKS (on by default) makes it, in a kernel that was built without."""
import os
import re
import subprocess
from pathlib import Path

from .image import Image, llvm

OBJECT = "net/ipv4/tcp_pcap/tcp_pcap.o"


def is_on(build: Path) -> bool:
    return "CONFIG_RUST_OVERFLOW_CHECKS=y" in (build / ".config").read_text(encoding="utf-8").splitlines()


def image(build: Path, folder: Path) -> Image:
    """The object, compiled by the command of the build but for this option, and linked to stubs of whatever it wants."""
    text = (build / OBJECT).with_name(".tcp_pcap.o.cmd").read_text(encoding="utf-8")
    command = re.match(r"savedcmd_\S+ := (.*)", text)[1].replace("-Coverflow-checks=n", "-Coverflow-checks=y")
    command = re.sub(r"(?<![\w/])net/ipv4/tcp_pcap/(?=\.?tcp_pcap\.(?:m\.)?(?:bc|o)|\s)", f"{folder}/", command)
    tools = os.environ["LLVM_BIN"]
    env = {**os.environ, "RUSTC_BOOTSTRAP": "1", "PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", command], cwd=build, env=env, check=True, capture_output=True)

    obj, stubs, path = folder / "tcp_pcap.o", folder / "stubs.S", folder / "linked"
    wanted = llvm("nm", "--undefined-only", "--just-symbol-name", obj).split()
    stubs.write_text(".text\n" + "".join(f".globl {name}\n{name}: ret\n" for name in wanted), encoding="ascii")
    subprocess.run([f"{tools}/clang", "-c", "-o", f"{stubs}.o", stubs], check=True)
    subprocess.run([f"{tools}/ld.lld", "--image-base=0xffffffff81000000", "-e", "tcp_pcap_capture_rx", "-o", path, obj,
                    f"{stubs}.o"], check=True, capture_output=True)
    return Image(path)

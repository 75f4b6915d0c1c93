# SPDX-License-Identifier: GPL-2.0
"""With CONFIG_TCP_PCAP off the patched source makes the code that the unpatched source makes."""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .image import llvm, sections

FRAGMENT = Path(__file__).with_name("option-off.config")
FOLDERS = ("net/ipv4", "net/ipv6")
# Names, which may have a line number in them, and the compiler's own.
NOT_LOADED = {".strtab", ".shstrtab", ".symtab", ".comment", ".llvm_addrsig"}


class Failed(Exception):
    """A build failed; the message says where its log is."""


def edited() -> list[str]:
    """C files of this kernel that a patch edits."""
    orig, manifest = Path(os.environ["ORIG"]), Path(os.environ["BASE"], "tree.manifest")
    names = json.loads(manifest.read_text(encoding="utf-8"))
    return sorted(n for n in names if n.endswith(".c") and not n.startswith(("arch/um/", "rust/", "samples/", "tools/"))
                  and (orig / n).exists())


# Building


@dataclass
class Build:
    """The objects of a source tree, in a folder of their own."""
    name: str
    source: Path

    @property
    def folder(self) -> Path:
        return Path(os.environ["BASE"], "build/static", self.name)

    def make(self, *args: str) -> None:
        """The kernel's make as dev/kmake runs it, but for the architecture's sake without Rust."""
        log = Path(os.environ["LOGS"], f"build-static-{self.name}.log")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        env["PATH"] = f"{os.environ['LLVM_BIN']}:{env['PATH']}"
        with log.open("a", encoding="utf-8") as file:
            done = subprocess.run(["make", "-C", self.source, "LLVM=1", "KBUILD_BUILD_TIMESTAMP=1", "KBUILD_BUILD_USER=tcp_pcap",
                                   "KBUILD_BUILD_HOST=localhost", "ARCH=x86_64", f"O={self.folder}", *args],
                                  env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise Failed(f"make {' '.join(args)} of the {self.name} source failed: {log}")

    def up_to_date(self) -> bool:
        """Build, unless nothing changed since; return whether nothing had."""
        stamp = self.folder.with_suffix(".key")
        key = self._key()
        if stamp.exists() and stamp.read_text(encoding="ascii") == key:
            return True
        stamp.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        Path(os.environ["LOGS"], f"build-static-{self.name}.log").unlink(missing_ok=True)
        start = time.monotonic()
        self.make(f"KCONFIG_ALLCONFIG={FRAGMENT}", "allnoconfig")
        self.make(f"-j{os.cpu_count()}", *(f"{f}/" for f in FOLDERS), *others())
        print(f"built the objects of the {self.name} source in {time.monotonic() - start:.0f} s", file=sys.stderr)
        stamp.write_text(key, encoding="ascii")
        return False

    def _key(self) -> str:
        listing = subprocess.run("find . -name .git -prune -o -type f -printf '%p %s %T@\\n' | sort", cwd=self.source, shell=True,
                                 capture_output=True, check=True).stdout
        compiler = subprocess.run([f"{os.environ['LLVM_BIN']}/clang", "--version"], capture_output=True, check=True).stdout
        parts = (listing, compiler, FRAGMENT.read_bytes(), Path(__file__).read_bytes())
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def config(self) -> str:
        return (self.folder / ".config").read_text(encoding="utf-8")

    def objects(self) -> list[str]:
        """What the archives of the folders are made of, and the objects of files edited elsewhere."""
        found = {str(Path(line).relative_to(self.folder) if line.startswith("/") else Path(line))
                 for f in FOLDERS for line in llvm("ar", "t", self.folder / f / "built-in.a").splitlines()}
        return sorted(found | set(others()))


def others() -> list[str]:
    """Objects of edited files that are in none of the folders."""
    return [n[:-2] + ".o" for n in edited() if not n.startswith(tuple(f"{f}/" for f in FOLDERS))]


def missing_options(config: str) -> list[str]:
    """Lines of the fragment that did not make it into the configuration."""
    lines = config.splitlines()
    wanted = [line for line in FRAGMENT.read_text(encoding="utf-8").splitlines() if line.startswith("CONFIG_")]
    off = [w for w in wanted if w.endswith("=n") and any(line.startswith(w[:-1]) for line in lines)]
    return off + [w for w in wanted if not w.endswith("=n") and w not in lines]


def pristine() -> Path:
    """The unpatched source. One that was built in is of no use to make: then it is the patched one without the patches."""
    orig, tree = Path(os.environ["ORIG"]), Path(os.environ["TREE"])
    if not (orig / ".config").exists() and not (orig / "include/config").exists():
        return orig
    copy = Path(os.environ["BASE"], "build/static/source")
    copy.mkdir(parents=True, exist_ok=True)
    managed = list(json.loads(Path(os.environ["BASE"], "tree.manifest").read_text(encoding="utf-8")))
    subprocess.run(["rsync", "-a", "--delete", "--exclude-from=-", f"{tree}/", f"{copy}/"], check=True, text=True,
                   input="".join(f"/{name}\n" for name in managed))
    for name in managed:
        if (orig / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(orig / name, copy / name)
        else:
            (copy / name).unlink(missing_ok=True)
    return copy


# Comparing


def code(obj: Path) -> str:
    """Disassembly with relocations."""
    return llvm("objdump", "-dr", obj).split("\n", 2)[2]


def data(obj: Path) -> str:
    """Bytes and relocations of whatever is loaded."""
    parts = re.split(r"^(?=Contents of section )", llvm("objdump", "-sr", obj).split("\n", 2)[2], flags=re.M)
    return "".join(part for part in parts if not any(part.startswith(f"Contents of section {name}:") for name in NOT_LOADED))


def functions(obj: Path) -> dict[str, str]:
    """The instructions of each function, without addresses."""
    text = llvm("objdump", "-dr", "--no-show-raw-insn", "--no-leading-addr", obj)
    found = re.findall(r"^<(\S+)>:\n(.*?)(?=\n\n|\Z)", text, re.S | re.M)
    return {name: re.sub(r"0x[0-9a-f]+ <.*>|^\s+nop.*$", "", body, flags=re.M) for name, body in found}


def differs(old: Path, new: Path) -> str:
    """What two objects differ in: code and of which functions, data, or nothing."""
    if old.read_bytes() == new.read_bytes():
        return ""
    if code(old) != code(new):
        was, now = functions(old), functions(new)
        names = sorted(n for n in {*was, *now} if was.get(n) != now.get(n))
        return f"code of {' '.join(names) or 'no function, but its place'}"
    return "data" if data(old) != data(new) else ""


def compare(old: Path, new: Path, objects: list[str]) -> dict[str, str]:
    """Those that differ, and in what."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {obj: what for obj, what in zip(objects, pool.map(lambda o: differs(old / o, new / o), objects)) if what}


# Does the comparison see anything?


def compiled_with_option(build: Build, obj: str, result: Path) -> None:
    """An object, compiled by the command of the build, as if CONFIG_TCP_PCAP were on."""
    text = (build.folder / obj).with_name(f".{Path(obj).name}.cmd").read_text(encoding="utf-8")
    command = re.match(r"savedcmd_\S+ := (.*)", text)[1].split(" ; ")[0]
    command = re.sub(r" -Wp,-MMD,\S+", "", command).replace(f" -o {obj} ", f" -DCONFIG_TCP_PCAP=1 -o {result} ")
    subprocess.run(["bash", "-c", command], cwd=build.folder, check=True, capture_output=True,
                   env={**os.environ, "PATH": f"{os.environ['LLVM_BIN']}:{os.environ['PATH']}"})


def with_other_byte(obj: Path, result: Path, section: str) -> None:
    """A copy whose last byte in a section is another."""
    found, content = sections(obj)[section], bytearray(obj.read_bytes())
    content[found.offset + found.size - 1] ^= 1
    result.write_bytes(content)


def with_other_symbol(obj: Path, result: Path) -> None:
    """A copy in which one function that it calls has another name."""
    name = llvm("nm", "--undefined-only", "--just-symbol-name", obj).split()[-1]
    llvm("objcopy", f"--redefine-sym={name}={name}_too", obj, result)

# SPDX-License-Identifier: GPL-2.0
"""The kernel's source after each patch of the series, and a tree that can be any of them."""
import json
import os
import re
import subprocess
from pathlib import Path

from treelib.model import Problem, Repo, digest, read, write


def source_state(orig: Path) -> str:
    """Changes with the source: the version that was unpacked, or what lies in a tree of the user's."""
    version = orig.parent / "version"
    if version.exists() and not os.environ.get("LINUX"):
        return version.read_text().strip()
    state = []
    for folder, folders, names in os.walk(orig):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            there = os.lstat(os.path.join(folder, name))
            state.append(f"{folder}/{name} {there.st_size} {there.st_mtime_ns}")
    return f"{orig} {digest(chr(10).join(state).encode())[:12]}"


class Series:
    """Step 0 is the kernel as it is, step n what it is after n patches; nothing of dev/fixes is in it."""

    def __init__(self, repo: Repo):
        fixes, self.patches = repo.fixes_and_series()
        if not self.patches:
            raise Problem("patches/series is empty")
        self.orig, overlay = repo.orig, repo.overlay()
        edited = {name for patch in self.patches for name in patch.edits}
        self.steps: list[dict[str, bytes]] = []
        for number, state in enumerate(repo.states()[len(fixes):]):
            files = {name: state[name] for name in edited}
            for patch in self.patches[:number]:
                files.update((name, read(repo.root / name)) for name in filter(patch.brings, overlay))
            self.steps.append(files)
        self.modes = {name: (repo.root / name).stat().st_mode for name in overlay}
        self.kernel = source_state(repo.orig)

    def title(self, step: int) -> str:
        return self.patches[step - 1].message.splitlines()[0] if step else "the kernel without the series"

    def key(self, step: int) -> str:
        files = self.steps[step]
        return digest("\n".join([self.kernel, *(f"{name} {digest(files[name])}" for name in sorted(files))]).encode())

    def options(self, step: int) -> set[str]:
        """The options that the series has brought by then."""
        return {name for path, data in self.steps[step].items() if path.split("/")[-1].startswith("Kconfig")
                for name in re.findall(r"^(?:menu)?config (\w+)", data.decode(), re.M)}

    def suites(self, step: int) -> list[tuple[str, str]]:
        """The unit tests that the series has brought by then: file and name of the suite."""
        return [(path, name) for path, data in self.steps[step].items() if path.endswith(".rs")
                for name in re.findall(r"kunit_tests\((\w+)\)", data.decode())]


class Tree:
    """A source tree made of hard links. A file that differs is replaced, never written to, so the original stays as it is."""

    def __init__(self, path: Path, series: Series):
        self.path, self.series, self.listing = path, series, path.with_name("managed.json")
        self.made_of = path.with_name("tree.source")

    def create(self) -> None:
        if self.path.exists() and read(self.made_of) == self.series.kernel.encode():
            return
        new = self.path.with_name("tree.new")
        subprocess.run(["rm", "-rf", new, self.path, self.listing, self.made_of], check=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        linked = os.stat(self.series.orig).st_dev == os.stat(new.parent).st_dev
        subprocess.run(["cp", "-al" if linked else "-a", self.series.orig, new], check=True)
        new.rename(self.path)
        write(self.made_of, self.series.kernel.encode())

    def renew(self, name: str) -> bool:
        """Make of it a new file with the same content, so that make compiles what depends on it; False if there is none."""
        path = self.path / name
        if not path.is_file():
            return False
        write(path, path.read_bytes())
        return True

    def to_step(self, step: int) -> int:
        """Write what differs; returns how many files that were."""
        self.create()
        want = self.series.steps[step]
        known = set(json.loads(self.listing.read_text())) if self.listing.exists() else set()
        names, written = sorted(known | want.keys()), 0
        write(self.listing, json.dumps(names).encode())
        for name in names:
            path, data = self.path / name, want.get(name)
            if data is None:
                data = read(self.series.orig / name)
            if read(path) == data:
                continue
            written += 1
            if data is None:
                path.unlink()
                continue
            write(path, data)
            if name in self.series.modes:
                path.chmod(self.series.modes[name])
        return written

# SPDX-License-Identifier: GPL-2.0
"""The repository's new files, its patches, and the tree they become."""
import fcntl
import fnmatch
import hashlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

HARNESS = ("dev/", "patches/", ".ci/", ".git/")
JUNK = ("__pycache__", "*.pyc", "*.orig", "*.rej", "*~", ".*.sw?", "*.o", "tags", "cscope.*")


class Problem(Exception):
    """What is wrong and what to do about it."""


def digest(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: Path, data: bytes, like: Path | None = None) -> None:
    """Replace a file in one step, so that an interrupted run leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-tree-")
    with os.fdopen(fd, "wb") as out:
        out.write(data)
    mode = (like or path).stat().st_mode & 0o777 if (like or path).exists() else 0o644
    os.chmod(name, mode)
    os.replace(name, path)


def is_junk(path: str) -> bool:
    return any(fnmatch.fnmatch(part, junk) for part in path.split("/") for junk in JUNK)


def files_of_diff(diff: str) -> list[str]:
    return re.findall(r"^\+\+\+ b/([^\t\n]+)", diff, re.M)


class Patch:
    """patches/NAME: a commit message, `New-files:` with the new files it brings, `---`, and edits of existing files.

    A fix is what our test kernels need besides; it lies in dev/fixes and is never part of the series.

    With KERNEL=7.2 a file of the same name in 7.2/ beside it has other edits, because these do not apply there; message and
    new files are the same.
    """

    def __init__(self, path: Path, kernel: str = ""):
        self.path, self.name, self.kernel = path, path.name, kernel
        self.is_fix = path.parent.name == "fixes"
        text = path.read_text()
        head, found, self.diff = text.partition("\n---\n")
        if not found:
            raise Problem(f"{self.name}: no line '---' between message and diff")
        message, found, globs = (head + "\n").partition("\nNew-files:\n")
        self.message = message.strip() + "\n"
        self.globs = globs.split() if found else []
        if kernel and self.home.exists():
            self.diff = self.home.read_text().partition("\n---\n")[2]
        self.edits = files_of_diff(self.diff)

    def brings(self, path: str) -> bool:
        return any(path == g or (g.endswith("/**") and path.startswith(g[:-2])) for g in self.globs)

    @property
    def home(self) -> Path:
        """Where its edits are written to."""
        return self.path.parent / self.kernel / self.name

    def save(self) -> None:
        if self.kernel:
            write(self.home, f"What {self.name} edits in {self.kernel}.\n\n---\n{self.diff}".encode())
            return
        globs = "".join(f"  {g}\n" for g in self.globs)
        new = f"\nNew-files:\n{globs}" if globs else "\n"
        write(self.path, f"{self.message}{new}---\n{self.diff}".encode())


class Repo:
    """Everything the verbs look at. Holds the tree's lock while it lives."""

    def __init__(self, base: Path | None = None):
        env = os.environ
        self.root, self.orig, self.kernel = Path(env["ROOT"]), Path(env["ORIG"]), env.get("KERNEL", "")
        self.base, self.tree = (base, base / "tree") if base else (Path(env["BASE"]), Path(env["TREE"]))
        self.base.mkdir(parents=True, exist_ok=True)
        self.manifest_file = self.base / "tree.manifest"
        self.patches_dir = self.root / "patches"
        if not self.orig.is_dir():
            raise Problem(f"no pristine kernel source at {self.orig}; next: make setup")
        self.lock = open(self.base / "tree.lock", "w", encoding="ascii")

    def __enter__(self):
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_):
        self.lock.close()

    def patches(self) -> list[Patch]:
        """The fixes, then the series."""
        series = self.patches_dir / "series"
        lines = series.read_text().splitlines() if series.exists() else []
        names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        missing = [n for n in names if not (self.patches_dir / n).exists()]
        if missing:
            raise Problem("named in patches/series but not there: " + " ".join(missing))
        fixes = sorted((self.root / "dev" / "fixes").glob("*.patch"))
        return [Patch(p, self.kernel) for p in (*fixes, *(self.patches_dir / n for n in names))]

    def fixes_and_series(self) -> tuple[list[Patch], list[Patch]]:
        patches = self.patches()
        return [p for p in patches if p.is_fix], [p for p in patches if not p.is_fix]

    def own_files(self) -> list[str]:
        """Every file of the repository, committed or about to be."""
        git = subprocess.run(["git", "-C", self.root, "ls-files", "-coz", "--exclude-standard"],
                             capture_output=True, check=False)
        if git.returncode == 0:
            names = git.stdout.decode().split("\0")
        else:
            names = [str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()]
        return sorted({n for n in names if n and not is_junk(n) and (self.root / n).is_file()})

    def overlay(self) -> list[str]:
        """The new kernel files: whatever lies in a folder that is not the harness's."""
        return [n for n in self.own_files() if "/" in n and not n.startswith(HARNESS)]

    def manifest(self) -> dict[str, list[str]]:
        """Per managed file, what the last prepare wrote (two values if it was interrupted)."""
        try:
            return json.loads(self.manifest_file.read_text())
        except FileNotFoundError:
            return {}

    def save_manifest(self, manifest: dict) -> None:
        write(self.manifest_file, json.dumps(manifest, indent=0, sort_keys=True).encode())

    def states(self) -> list[dict[str, bytes]]:
        """The edited existing files, pristine and then after each patch."""
        patches = self.patches()
        state = {p: read(self.orig / p) for patch in patches for p in patch.edits}
        for patch in patches:
            if absent := [p for p in patch.edits if state[p] is None]:
                raise Problem(f"{patch.name} edits what the kernel does not have: {' '.join(absent)}")
        result = [state]
        with tempfile.TemporaryDirectory(prefix="tcp_pcap-") as stage:
            for name, data in state.items():
                write(Path(stage) / name, data)
            for patch in patches:
                self._apply(patch, Path(stage))
                state = dict(state)
                for name in patch.edits:
                    state[name] = read(Path(stage) / name)
                result.append(state)
        return result

    @staticmethod
    def _apply(patch: Patch, stage: Path) -> None:
        if not patch.edits:
            return
        run = subprocess.run(["patch", "-p1", "-F0", "-f", "-s", "--no-backup-if-mismatch", "-r", "reject"],
                             cwd=stage, input=patch.diff, text=True, capture_output=True, check=False)
        if run.returncode:
            hunk = read(stage / "reject") or b""
            raise Problem(f"{patch.name} does not apply:\n{run.stdout}{run.stderr}"
                          f"-- rejected:\n{hunk.decode(errors='replace').rstrip()}\n"
                          f"next: make the patch fit this kernel, or leave out LINUX= to take the pinned one")

    def wanted(self) -> dict[str, bytes]:
        """Every managed file of the tree as it should be."""
        want = dict(self.states()[-1])
        want.update((name, read(self.root / name)) for name in self.overlay())
        return want


class Plain(Repo):
    """The kernel as it is without us, but for the fixes."""

    def __init__(self):
        super().__init__(Path(os.environ["BASE"]) / "plain")

    def patches(self) -> list[Patch]:
        return [patch for patch in super().patches() if patch.is_fix]

    def overlay(self) -> list[str]:
        return []

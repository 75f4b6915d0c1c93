# SPDX-License-Identifier: GPL-2.0
"""Mails for git am: commit the patches one after another onto the pristine files, then let git write them."""
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import cover
from .model import Problem, Repo, write

PREFIX = "PATCH net-next"
# With the cover letter, what netdev takes at a time.
MAILS_MAX = 15
ENTRY = "NETWORKING [TCP_PCAP]\n"
ROLES = re.compile(r"^(?P<who>.*?\S) \((?P<roles>.*)\)$")
MAINTAINER = re.compile(r"\b(maintainer|supporter):")


def _submitter(sob: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*(.+?)\s*<([^<>\s]+@[^<>\s]+)>\s*", sob)
    if not match:
        raise Problem('SOB must look like: SOB="Name <mail>"')
    return match[1], match[2]


def _identity(repo: Repo, sob: str) -> tuple[str, str]:
    if sob:
        return _submitter(sob)
    values = [subprocess.run(["git", "-C", repo.root, "config", key], capture_output=True, text=True,
                             check=False).stdout.strip() for key in ("user.name", "user.email")]
    return values[0] or "TCP_PCAP", values[1] or "tcp_pcap@localhost"


class Scratch:
    """A git repository of the touched files."""

    def __init__(self, path: Path, name: str, mail: str):
        self.path = path
        self.env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        for who in ("AUTHOR", "COMMITTER"):
            self.env |= {f"GIT_{who}_NAME": name, f"GIT_{who}_EMAIL": mail}
        self.git("init", "-q", "-b", "series")

    def git(self, *args: str, **more) -> None:
        subprocess.run(["git", *args], cwd=self.path, env=self.env, check=True, stdout=subprocess.DEVNULL, **more)

    def commit(self, message: str, *options: str) -> None:
        self.git("add", "-Af")
        self.git("commit", "-q", "--allow-empty", *options, "-F", "-", text=True, input=message)


def _check(repo: Repo, patches: list) -> None:
    if not patches:
        raise Problem("patches/series is empty")
    if len(patches) + 1 > MAILS_MAX:
        raise Problem(f"{len(patches)} patches and a cover letter are more than {MAILS_MAX} mails; next: merge some patches")
    if left := [n for n in repo.overlay() if sum(p.brings(n) for p in patches) != 1]:
        raise Problem("not named by exactly one patch: " + " ".join(left) + "\nnext: make check")


def _with_maintainer(name: str, data: bytes, sob: str) -> bytes:
    """The submitter is who maintains it."""
    if name != "MAINTAINERS" or not sob:
        return data
    return data.decode().replace(ENTRY, "{}M:\t{} <{}>\n".format(ENTRY, *_submitter(sob)), 1).encode()


def _commit_all(repo: Repo, scratch: Scratch, sob: str) -> int:
    """One commit for each patch; returns how many."""
    fixes, patches = repo.fixes_and_series()
    _check(repo, patches)
    states, fixed = repo.states()[len(fixes):], {name for fix in fixes for name in fix.edits}
    overlay = repo.overlay()
    for path, data in states[0].items():
        if path not in fixed:
            write(scratch.path / path, data, like=repo.orig / path)
    scratch.commit("pristine\n")
    scratch.git("tag", "pristine")
    for patch, state in zip(patches, states[1:]):
        for path in patch.edits:
            write(scratch.path / path, _with_maintainer(path, state[path], sob))
        for path in filter(patch.brings, overlay):
            write(scratch.path / path, (repo.root / path).read_bytes(), like=repo.root / path)
        scratch.commit(patch.message, *(["--signoff"] if sob else []))
    return len(patches)


def _recipients(repo: Repo, scratch: Scratch, mails: list[Path]) -> str:
    """Who is to get it, by the kernel's own script: To those who maintain, Cc reviewers and lists."""
    run = subprocess.run(["scripts/get_maintainer.pl", "--no-git", "--no-git-fallback", "--roles", "--no-rolestats",
                          f"--mpath={scratch.path}/MAINTAINERS", *mails], cwd=repo.orig, capture_output=True, text=True,
                         check=False)
    if run.returncode:
        raise Problem(f"scripts/get_maintainer.pl: {run.stderr.strip()}")
    found = [match for match in map(ROLES.match, run.stdout.splitlines()) if match]
    lines = {f"{'To' if MAINTAINER.search(match['roles']) else 'Cc'}: {match['who']}\n" for match in found}
    return "".join(sorted(lines, key=lambda line: (line[0] != "T", line.lower())))


def series(repo: Repo) -> None:
    sob, version = os.environ.get("SOB", ""), cover.version(os.environ.get("V", ""))
    letter, hint = cover.letter(repo.patches_dir, version)
    out = Path(os.environ.get("OUT") or repo.base / "out") / "series"
    with tempfile.TemporaryDirectory(prefix="tcp_pcap-series-") as tmp:
        scratch = Scratch(Path(tmp), *_identity(repo, sob))
        count = _commit_all(repo, scratch, sob)
        scratch.git("config", "branch.series.description", letter)
        new = out.with_name("series.new")
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        scratch.git("format-patch", "-q", "--zero-commit", "--signature=", "--cover-letter", "--cover-from-description=subject",
                    f"--subject-prefix={PREFIX}", *([f"-v{version}"] if version > 1 else []), "-o", str(new), "pristine..series")
        mails = sorted(new.glob("*.patch"))[1:]
        write(new / "recipients", _recipients(repo, scratch, mails).encode())
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    print(f"a cover letter and {count} mails in {out}; who gets them: {out}/recipients")
    for text in (hint, "" if sob else 'not signed off; SOB="Name <mail>" adds yours, and you to MAINTAINERS'):
        if text:
            print(text)

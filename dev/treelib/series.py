# SPDX-License-Identifier: GPL-2.0
"""Mails for git am: commit the patches one after another onto the pristine files, then let git write them."""
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .model import Problem, Repo, write


def _identity(repo: Repo, sob: str) -> tuple[str, str]:
    if sob:
        match = re.fullmatch(r"\s*(.+?)\s*<([^<>\s]+@[^<>\s]+)>\s*", sob)
        if not match:
            raise Problem('SOB must look like: SOB="Name <mail>"')
        return match[1], match[2]
    values = [subprocess.run(["git", "-C", repo.root, "config", key], capture_output=True, text=True,
                             check=False).stdout.strip() for key in ("user.name", "user.email")]
    return values[0] or "TCP_PCAP", values[1] or "tcp_pcap@localhost"


def series(repo: Repo) -> None:
    sob = os.environ.get("SOB", "")
    fixes, patches = repo.fixes_and_series()
    states, fixed = repo.states()[len(fixes):], {name for fix in fixes for name in fix.edits}
    if not patches:
        raise Problem("patches/series is empty")
    name, mail = _identity(repo, sob)
    out = repo.base / "out" / "series"
    overlay = repo.overlay()
    if left := [n for n in overlay if sum(p.brings(n) for p in patches) != 1]:
        raise Problem("not named by exactly one patch: " + " ".join(left) + "\nnext: make check")
    with tempfile.TemporaryDirectory(prefix="tcp_pcap-series-") as tmp:
        work = Path(tmp)
        env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        for who in ("AUTHOR", "COMMITTER"):
            env |= {f"GIT_{who}_NAME": name, f"GIT_{who}_EMAIL": mail}

        def git(*args: str, **more) -> None:
            subprocess.run(["git", *args], cwd=work, env=env, check=True, stdout=subprocess.DEVNULL, **more)

        git("init", "-q", "-b", "series")
        for path, data in states[0].items():
            if path in fixed:
                continue
            write(work / path, data, like=repo.orig / path)
        git("add", "-Af")
        git("commit", "-q", "--allow-empty", "-m", "pristine")
        for patch, state in zip(patches, states[1:]):
            for path in patch.edits:
                write(work / path, state[path])
            for path in filter(patch.brings, overlay):
                write(work / path, (repo.root / path).read_bytes(), like=repo.root / path)
            git("add", "-Af")
            git("commit", "-q", "-F", "-", *(["--signoff"] if sob else []), text=True, input=patch.message)
        new = out.with_name("series.new")
        shutil.rmtree(new, ignore_errors=True)
        git("format-patch", "-q", "--zero-commit", "--signature=", "-o", str(new), "HEAD~%d" % len(patches))
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    print(f"{len(patches)} mails in {out}" + ("" if sob else '\nnot signed off; SOB="Name <mail>" adds yours'))

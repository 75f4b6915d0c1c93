# SPDX-License-Identifier: GPL-2.0
"""make the tree = pristine source + patches + new files."""
import os
import subprocess
from pathlib import Path

from .model import Problem, Repo, digest, read, write


def _source_files(orig: Path) -> list[str]:
    """The files of a user's own tree that are source."""
    git = subprocess.run(["git", "-C", orig, "ls-files", "-z"], capture_output=True, check=False)
    if git.returncode == 0 and git.stdout:
        return [n for n in git.stdout.decode().split("\0") if n and os.path.lexists(orig / n)]
    if (orig / ".config").exists() or (orig / "include/config").exists():
        raise Problem(f"{orig} has been built in and is no git checkout: run `make mrproper` in it, or give a clean one")
    return [str(p.relative_to(orig)) for p in orig.rglob("*") if p.is_symlink() or p.is_file()]


def copy_source(repo: Repo) -> None:
    """The tree's unmanaged part. The pinned source never changes; a user's own may, and is followed."""
    if not os.environ.get("LINUX"):
        if not repo.tree.exists():
            print("== copying the kernel source ..", flush=True)
            new = repo.tree.with_name("tree.new")
            subprocess.run(["rm", "-rf", new], check=True)
            subprocess.run(["cp", "-a", repo.orig, new], check=True)
            repo.manifest_file.unlink(missing_ok=True)
            new.rename(repo.tree)
        return
    print(f"== following {repo.orig} ..", flush=True)
    listing, managed = repo.base / "source.files", set(repo.manifest())
    before = set(listing.read_text().split("\0")) if listing.exists() else set()
    now = _source_files(repo.orig)
    repo.tree.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rsync", "-a", "--from0", "--files-from=-", f"{repo.orig}/", f"{repo.tree}/"], check=True,
                   input="\0".join(n for n in now if n not in managed).encode())
    for gone in before - set(now) - managed - {""}:
        (repo.tree / gone).unlink(missing_ok=True)
    write(listing, "\0".join(now).encode())


def prepare(repo: Repo) -> None:
    want, manifest = repo.wanted(), repo.manifest()
    if taken := [n for n in repo.overlay() if (repo.orig / n).exists()]:
        raise Problem("new files that the kernel has already: " + " ".join(taken))
    copy_source(repo)
    for name in set(manifest) - set(want):
        want[name] = read(repo.orig / name)

    writes, edited = {}, []
    for name, data in sorted(want.items()):
        now = read(repo.tree / name)
        if now == data:
            continue
        known = manifest.get(name, [digest(read(repo.orig / name))])
        if now is not None and digest(now) not in known:
            edited.append(name)
        writes[name] = data
    if edited and not os.environ.get("FORCE"):
        raise Problem("edited in the tree, would be overwritten:\n  " + "\n  ".join(edited) +
                      "\nnext: `make refresh` to keep these edits, or FORCE=1 to throw them away")

    owned = {n: digest(d) for n, d in want.items() if n in repo_managed(repo)}
    repo.save_manifest({n: sorted({*manifest.get(n, []), digest(d) or ""}) for n, d in want.items()})
    for name, data in writes.items():
        if data is None:
            (repo.tree / name).unlink(missing_ok=True)
        else:
            write(repo.tree / name, data, like=_mode_of(repo, name))
    repo.save_manifest({n: [d] for n, d in owned.items()})
    if writes:
        print(f"== tree: {len(writes)} of {len(want)} files written: " + " ".join(list(writes)[:6]) +
              (" .." if len(writes) > 6 else ""))


def repo_managed(repo: Repo) -> set[str]:
    return {*repo.overlay(), *(name for patch in repo.patches() for name in patch.edits)}


def _mode_of(repo: Repo, name: str) -> Path:
    own = repo.root / name
    return own if own.exists() else repo.orig / name

# SPDX-License-Identifier: GPL-2.0
"""Write edits made in the tree back into the repository."""
import os
import re
import subprocess
import tempfile
from pathlib import Path

from .model import Patch, Problem, Repo, digest, is_junk, read, write

SKELETON = """{title}

What this patch does, and why.
"""


def _walk(top: Path):
    """Every file below top with its size and time stamp."""
    stack = [str(top)]
    while stack:
        for entry in os.scandir(stack.pop()):
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                stat = entry.stat()
                yield entry.path[len(str(top)) + 1:], (stat.st_size, stat.st_mtime_ns)


def changed(repo: Repo) -> dict[str, bytes]:
    """The tree's files that are not those of the pristine source."""
    known = dict(_walk(repo.orig))
    result = {}
    for name, stat in _walk(repo.tree):
        if known.get(name) != stat and not is_junk(name):
            data = read(repo.tree / name)
            if data != read(repo.orig / name):
                result[name] = data
    return result


def unified(name: str, old: bytes, new: bytes) -> str:
    """One file's part of a patch."""
    with tempfile.TemporaryDirectory() as tmp:
        paths = [Path(tmp) / side for side in ("a", "b")]
        for path, data in zip(paths, (old, new)):
            path.write_bytes(data)
        run = subprocess.run(["diff", "-up", "--label", f"a/{name}", "--label", f"b/{name}", *paths],
                             capture_output=True, text=True, check=False)
    return run.stdout


def _edit_patch(patch: Patch, name: str, old: bytes, new: bytes) -> None:
    parts = re.split(r"^(?=--- a/)", patch.diff, flags=re.M)
    by_name = {part[6:].split("\n", 1)[0].split("\t")[0]: part for part in parts if part.startswith("--- a/")}
    by_name.pop(name, None)
    if text := unified(name, old, new):
        by_name[name] = text
    patch.diff = "".join(by_name[n] for n in sorted(by_name))
    patch.save()


def _named_patch(repo: Repo, name: str) -> str:
    """The patch called PATCH, made if need be: 'rx' finds 0005-rx.patch."""
    for patch in repo.patches():
        if name in (patch.name, patch.name.removesuffix(".patch"), re.sub(r"^\d+-|\.patch$", "", patch.name)):
            return patch.name
    path = repo.patches_dir / (name if name.endswith(".patch") else f"{name}.patch")
    if not re.match(r"\d{4}-", path.name):
        path = path.with_name(f"{len(repo.fixes_and_series()[1]) + 1:04d}-{path.name}")
    title = re.sub(r"^\d+-|\.patch$", "", path.name).replace("-", " ")
    write(path, (SKELETON.format(title=title) + "\n---\n").encode())
    series = repo.patches_dir / "series"
    old = series.read_text() if series.exists() else "# SPDX-License-Identifier: GPL-2.0\n"
    write(series, (old + path.name + "\n").encode())
    print(f"new patch patches/{path.name}: write its message and its New-files list")
    return path.name


def _sort_out(repo: Repo):
    """What was edited in the tree: new files, existing files, and files edited on both sides."""
    if not repo.tree.is_dir():
        raise Problem("no prepared tree yet; next: make build")
    manifest, now = repo.manifest(), changed(repo)
    overlay, want = set(repo.overlay()), repo.states()[-1]
    new, existing, both = {}, {}, []
    for name in sorted({*now, *want}):
        data, pristine = now.get(name, read(repo.tree / name)), read(repo.orig / name)
        ours = want.get(name, pristine) if pristine is not None else read(repo.root / name) if name in overlay else None
        before = manifest.get(name, [digest(pristine)])
        if data is None or data == ours or digest(data) in before:
            continue
        if ours is not None and digest(ours) not in before:
            both.append(name)
        (new if pristine is None else existing)[name] = data
    return new, existing, both


def status(repo: Repo) -> None:
    new, existing, both = _sort_out(repo)
    for title, names in (("new files edited in the tree", new), ("existing files edited in the tree", existing),
                         ("edited in the tree and in the repository", both)):
        for name in names:
            print(f"{title}: {name}")
    if not (new or existing or both):
        print("nothing edited in the tree")


def refresh(repo: Repo) -> int:
    only, target = os.environ.get("FILES", "").split(), os.environ.get("PATCH", "")
    new, existing, both = _sort_out(repo)
    if both and not os.environ.get("FORCE"):
        raise Problem("edited in the tree and in the repository: " + " ".join(both) +
                      "\nnext: make them equal by hand, or FORCE=1 to take the tree's")
    manifest, left = repo.manifest(), []
    for name, data in new.items():
        if not only or name in only:
            write(repo.root / name, data, like=repo.tree / name)
            manifest[name] = [digest(data)]
            print(f"{name}: copied to the repository")
    for name, data in existing.items():
        if only and name not in only:
            continue
        owners = [p.name for p in repo.patches() if name in p.edits]
        owner = owners[-1] if owners and not (only and target) else (_named_patch(repo, target) if target else None)
        if owner is None:
            left.append(name)
            continue
        patches = repo.patches()
        index = [p.name for p in patches].index(owner)
        if any(name in p.edits for p in patches[index + 1:]):
            raise Problem(f"{name}: a patch after {owner} edits it too; refresh into that one")
        old = repo.states()[index].get(name, read(repo.orig / name))
        _edit_patch(patches[index], name, old, data)
        manifest[name] = [digest(data)]
        print(f"{name}: now in {patches[index].home.relative_to(repo.root)}")
    repo.save_manifest(manifest)
    if left:
        raise Problem("no patch touches these yet; next: make refresh PATCH=name [FILES=..]\n  " + "\n  ".join(left))
    return 0

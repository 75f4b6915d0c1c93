# SPDX-License-Identifier: GPL-2.0
"""The layout rules of the repository."""
import re

from .model import Repo, read
from .refresh import status

NO_TAG = re.compile(r"^(COPYING$|(patches|dev/fixes)/.*\.patch$|.*\.(json|pcapng|pcap|png|svg)$)")


def problems(repo: Repo) -> list[str]:
    found, overlay = [], repo.overlay()
    fixes, patches = repo.fixes_and_series()
    fixed = {name for fix in fixes for name in fix.edits}
    found += [f"{p.name}: edits {n}, as a fix in dev/ does" for p in patches for n in p.edits if n in fixed]
    for name in overlay:
        if (repo.orig / name).exists():
            found.append(f"{name}: the kernel has this file already; edit it by a patch")
        owners = [p.name for p in patches if p.brings(name)]
        if len(owners) != 1:
            found.append(f"{name}: named by {len(owners)} patches (New-files:) instead of one {' '.join(owners)}")
    for patch in patches:
        if not re.match(r"\d{4}-[a-z0-9-]+\.patch$", patch.name):
            found.append(f"patches/{patch.name}: call it NNNN-some-words.patch")
        found += [f"{patch.name}: New-files names {glob}, which nothing matches"
                  for glob in patch.globs if not any(_matches(glob, n) for n in overlay)]
        if not patch.globs and not patch.edits:
            found.append(f"{patch.name}: is empty")
        if re.search(r"^Signed-off-by:", patch.message, re.M):
            found.append(f"{patch.name}: has a Signed-off-by; `make series SOB=..` adds the submitter's own")
    listed = {p.name for p in patches}
    found += [f"patches/{p.name}: not in patches/series" for p in sorted(repo.patches_dir.glob("*.patch"))
              if p.name not in listed]
    found += [f"{p.relative_to(repo.root)}: the series has no patch of that name"
              for p in sorted(repo.patches_dir.glob("*/*.patch")) if p.name not in listed]
    for name in repo.own_files():
        head = (read(repo.root / name) or b"")[:600]
        if not NO_TAG.match(name) and b"SPDX-License-Identifier:" not in head:
            found.append(f"{name}: no SPDX-License-Identifier at the top")
    repo.states()
    return found


def _matches(glob: str, name: str) -> bool:
    return name == glob or (glob.endswith("/**") and name.startswith(glob[:-2]))


def check(repo: Repo) -> int:
    found = problems(repo)
    status(repo)
    for line in found:
        print(line)
    print(f"layout: {len(repo.fixes_and_series()[1])} patches, {len(repo.overlay())} new files, {len(found)} problems")
    return 1 if found else 0

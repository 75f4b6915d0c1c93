# SPDX-License-Identifier: GPL-2.0
"""The cover letter: patches/cover.txt with the measured table put in, and the changes up to this version."""
import re
from pathlib import Path

from .model import Problem

MARK, CHANGES = "@BENCH@", "Changes:"
NO_TABLE = "[ The measured table belongs here. `make bench-publish` writes it to patches/bench.txt. ]"


def version(text: str) -> int:
    if not re.fullmatch(r"([1-9][0-9]*)?", text):
        raise Problem(f"V={text}: the version of the series is a number; next: make series V=2")
    return int(text or 1)


def _text(path: Path) -> str:
    """Without the comment at its top."""
    return re.sub(r"\A(#.*\n)+", "", path.read_text()).strip("\n") + "\n"


def _changes(text: str, number: int) -> str:
    """What changed from version to version, the last first; nothing in the first."""
    blocks = {int(n): body.strip("\n") for n, body in re.findall(r"^v(\d+):\n((?:(?!v\d+:).*\n)*)", text, re.M)}
    if number > 1 and not blocks.get(number):
        raise Problem(f'patches/cover.txt does not say what version {number} changed; next: write it there, below '
                      f'"{CHANGES}" and a line "v{number}:"')
    return "".join(f"v{n}:\n{blocks[n]}\n\n" for n in range(number, 1, -1) if blocks.get(n))


def letter(folder: Path, number: int) -> tuple[str, str]:
    """The letter, subject first, and what is missing from it."""
    path, bench = folder / "cover.txt", folder / "bench.txt"
    if not path.exists():
        raise Problem(f"no {path}; next: write the cover letter's subject and text there")
    body, _, changes = _text(path).partition(f"\n{CHANGES}\n")
    subject, _, rest = body.partition("\n")
    if not subject or rest[:1] != "\n" or body.count(MARK) != 1:
        raise Problem(f"patches/cover.txt: wanted is a subject, an empty line, and a text with one line {MARK}")
    table = _text(bench).strip("\n") if bench.exists() else NO_TABLE
    listed = _changes(f"{changes}\n", number)
    return (body.rstrip("\n").replace(MARK, table) + (f"\n\n{CHANGES}\n\n{listed}" if listed else "\n"),
            "" if bench.exists() else "the cover letter has no figures yet: `make bench-publish` writes patches/bench.txt")

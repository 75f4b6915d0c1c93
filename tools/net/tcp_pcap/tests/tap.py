# SPDX-License-Identifier: GPL-2.0
"""What the test programs in this folder have in common: TAP output, their environment, where the reader is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable

READER = Path(__file__).resolve().parent.parent / "drgn" / "tcp_pcap.py"


class Tap:
    """Runs checks and prints their results."""

    def __init__(self) -> None:
        self._number = 0
        self._failed = 0

    def check(self, name: str, problems: list[str]) -> None:
        """Report one result; the problems that were found are its diagnostics."""
        self._number += 1
        self._failed += bool(problems)
        print(f"{'not ok' if problems else 'ok'} {self._number} - {name}")
        for problem in problems:
            for line in str(problem).rstrip().splitlines()[:40]:
                print(f"# {line}")
        sys.stdout.flush()

    def run(self, name: str, test: Callable[[], list[str]]) -> None:
        """Run a test that returns its problems."""
        try:
            problems = test()
        except Exception as error:  # The remaining tests still have something to say.
            problems = [f"{type(error).__name__}: {error}"]
        self.check(name, problems)

    def skip(self, name: str, reason: str) -> None:
        """Report a test that cannot run here."""
        self._number += 1
        print(f"ok {self._number} - {name} # SKIP {reason}")

    def finish(self) -> int:
        """
        Print the plan.

        :return: exit status
        """
        print(f"1..{self._number}")
        return 1 if self._failed else 0


def environment(name: str) -> str:
    """A variable that the test needs."""
    if not os.environ.get(name):
        raise SystemExit(f"{os.path.basename(sys.argv[0])}: {name} is not set; the head of this file says what it is")
    return os.environ[name]

# SPDX-License-Identifier: GPL-2.0
"""What goes wrong while reading: warnings, and the exit status that they lead to."""

from __future__ import annotations

import sys

COMPLETE = 0
"""Exit status: everything that was asked for was read."""
PARTIAL = 1
"""Exit status: some of it could not be read, and a warning says what; or there is nothing to show or export."""
FAILED = 2
"""Exit status: nothing could be read, or the command line is wrong."""

MAX_WARNINGS = 20


class Unreadable(Exception):
    """Nothing can be read. The message says why, and what to do."""


class Report:
    """Collects damage. Memory that is garbage has much of it, so only the first warnings are printed."""

    def __init__(self) -> None:
        self.damaged = 0
        self._empty = False

    def damage(self, text: str) -> None:
        """Something was left out: warn, and let the exit status tell."""
        self.damaged += 1
        if self.damaged <= MAX_WARNINGS:
            self._print(f"warning: {text}")

    def note(self, text: str) -> None:
        """Worth knowing, but nothing is missing."""
        self._print(text)

    def nothing(self, text: str) -> None:
        """There is no output: say so, and let the exit status tell."""
        self._empty = True
        self._print(text)

    def status(self) -> int:
        """Exit status."""
        return PARTIAL if self.damaged or self._empty else COMPLETE

    def finish(self) -> int:
        """Say how much is missing, and return the exit status."""
        if self.damaged > MAX_WARNINGS:
            self._print(f"warning: {self.damaged - MAX_WARNINGS} more warnings are not shown")
        if self.damaged:
            self._print("the output is partial")
        return self.status()

    def _print(self, text: str) -> None:
        sys.stdout.flush()
        print(f"tcp_pcap: {text}", file=sys.stderr, flush=True)


class QuietReport(Report):
    """For what has been, or will be, reported elsewhere."""

    def _print(self, text: str) -> None:
        pass

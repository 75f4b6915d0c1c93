# SPDX-License-Identifier: GPL-2.0
"""From the kernel's monotonic clock to the time of day."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Object, Program

from .memory import READ_ERRORS

_MAX_NS = 1 << 62


@dataclass(frozen=True)
class Clock:
    """
    :ivar offset: ns to add to CLOCK_MONOTONIC to get CLOCK_REALTIME, None if unknown
    :ivar now: CLOCK_MONOTONIC in ns when the memory was taken, None if unknown
    """

    offset: int | None
    now: int | None

    def real(self, monotonic: int) -> int:
        """Time of day in ns, or time since boot when the offset is unknown."""
        return monotonic + (self.offset or 0)


def _timekeeper(prog: Program) -> Object:
    """:return: ``struct timekeeper``"""
    try:
        core = prog["timekeeper_data"][prog.constant("TIMEKEEPER_CORE")]
    except LookupError:
        core = prog["tk_core"]
    return core.timekeeper


def read_clock(prog: Program) -> Clock:
    """Read both clocks as of the last tick."""
    offset = now = None
    try:
        keeper = _timekeeper(prog)
        value = keeper.offs_real.value_()
        if 0 < value < _MAX_NS:
            offset = value
        now = keeper.tkr_mono.base.value_() + (keeper.tkr_mono.xtime_nsec >> keeper.tkr_mono.shift).value_()
        if not 0 < now < _MAX_NS:
            now = None
    except (*READ_ERRORS, LookupError, AttributeError, TypeError):
        pass
    return Clock(offset, now)

# SPDX-License-Identifier: GPL-2.0
"""Connections within the host: both of their ends can have a history, with each packet in both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from .sockets import Address, Socket

_End = tuple[Optional[Address], int]


def pairs(sockets: Iterable[Socket]) -> list[tuple[Socket, Socket]]:
    """
    Both ends of each connection that has both among the sockets. The addresses and ports of one end are those of the other,
    mirrored; if several would fit, the one in the same network namespace does.
    """
    waiting: dict[tuple[_End, _End], list[Socket]] = {}
    found = []
    for socket in sockets:
        if not (socket.local_port and socket.remote_port):
            continue
        others = waiting.get((socket.remote_end, socket.local_end), [])
        if others:
            other = next((one for one in others if _netns(one) == _netns(socket)), others[0])
            others.remove(other)
            found.append((other, socket))
        else:
            waiting.setdefault((socket.local_end, socket.remote_end), []).append(socket)
    return found


def spare(sockets: Sequence[Socket]) -> list[tuple[Socket, Socket]]:
    """
    For each connection with both ends among the sockets, the end to leave out and the one that stays: that which keeps more
    packets; else that which captured more, as the one that retransmits in vain did; else the one that is listed first.
    """
    found = []
    for first, second in pairs(sockets):
        out = first if _packets(first) < _packets(second) else second
        found.append((out, second if out is first else first))
    return found


def namesakes(sockets: Iterable[Socket]) -> list[list[Socket]]:
    """Sockets that a reader of the file cannot tell apart: the same addresses and ports, in either order."""
    groups: dict[frozenset[_End], list[Socket]] = {}
    for socket in sockets:
        if socket.local_port and socket.remote_port:
            groups.setdefault(frozenset((socket.local_end, socket.remote_end)), []).append(socket)
    return [group for group in groups.values() if len(group) > 1]


def _netns(socket: Socket) -> int:
    return socket.capture.netns_cookie


def _packets(socket: Socket) -> tuple[int, int]:
    rings = socket.capture.rings.values()
    return sum(ring.kept for ring in rings), sum(ring.captured for ring in rings)

# SPDX-License-Identifier: GPL-2.0
"""What the file of a vmcore itself tells, before its memory is read."""

from __future__ import annotations

import os
import struct

_PT_LOAD = 1
_MAX_SEGMENTS = 1 << 16


def size_and_promise(path: str) -> tuple[int, int]:
    """
    Size of a vmcore, and the size that its ELF headers promise: larger if the file was cut short.

    The promise is 0 for files in another form, and for headers that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(64)
            if len(header) < 64 or header[:5] != b"\x7fELF\x02":
                return size, 0
            order = "<" if header[5] == 1 else ">"
            start = struct.unpack_from(order + "Q", header, 32)[0]
            width, count = struct.unpack_from(order + "HH", header, 54)
            file.seek(start)
            table = file.read(width * min(count, _MAX_SEGMENTS))
    except (OSError, OverflowError):
        return 0, 0
    promise = start + width * count
    for position in range(0, len(table) - 39, max(width, 40)):
        kind, _, offset, _, _, length = struct.unpack_from(order + "IIQQQQ", table, position)
        if kind == _PT_LOAD:
            promise = max(promise, offset + length)
    return size, promise

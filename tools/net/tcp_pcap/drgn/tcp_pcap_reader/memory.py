# SPDX-License-Identifier: GPL-2.0
"""Reading memory that may be missing or garbage."""

from __future__ import annotations

from array import array

from drgn import FaultError, Object, Program, Type

from .layout import Layout

READ_ERRORS = (FaultError, OSError, ValueError, OverflowError)
"""What drgn raises for an address that a dump does not have, that is no address, or that cannot be read."""

_CHUNK = 4096


def read_prefix(prog: Program, address: int, size: int, physical: bool = False) -> bytes:
    """
    Read as much as is there, up to the first missing page.

    :param size: bytes, checked by the caller
    """
    try:
        return prog.read(address, size, physical)
    except READ_ERRORS:
        pass
    pieces = []
    while size > 0:
        length = min(size, _CHUNK - address % _CHUNK)
        try:
            pieces.append(prog.read(address, length, physical))
        except READ_ERRORS:
            break
        address += length
        size -= length
    return b"".join(pieces)


def read_pointers(prog: Program, address: int, count: int) -> list[int]:
    """
    Read an array of pointers.

    :param address: ``void **``
    :param count: checked by the caller
    """
    width = prog.type("void *").size
    words = array({4: "I", 8: "Q"}[width])
    words.frombytes(prog.read(address, count * width))
    return words.tolist()


def read_object(layout: Layout, kind: Type, address: int) -> Object | None:
    """Read an object of the kernel. None if it is not there."""
    if not layout.is_kernel(address):
        return None
    try:
        return Object(layout.prog, kind, address=address).read_()
    except READ_ERRORS:
        return None

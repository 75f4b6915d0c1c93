# SPDX-License-Identifier: GPL-2.0
"""The bytes of a retained packet: the linear part, then the frags."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Object, Program, sizeof
from drgn.helpers.linux.mm import page_to_phys, page_to_virt
from drgn.helpers.linux.net import skb_shinfo

from .layout import MAX_PACKET, Layout
from .memory import READ_ERRORS, read_prefix

_NET_IOV = 1


@dataclass
class Content:
    """
    :ivar data: the packet from its IP header on, as far as it could be read
    :ivar problem: what kept the rest from being read
    """

    data: bytes
    problem: str | None = None


def read_content(layout: Layout, skb: Object, address: int) -> Content:
    """
    Read a packet, up to the first byte that is missing.

    :param skb: value of the ``struct sk_buff``
    :param address: where it is
    """
    total = skb.len.value_()
    in_frags = skb.data_len.value_()
    linear = total - in_frags
    head = skb.head.value_()
    data = skb.data.value_()
    try:
        shinfo = skb_shinfo(skb)
        room = shinfo.value_() - data
    except READ_ERRORS as error:
        return Content(b"", str(error))
    if total > MAX_PACKET or not 0 < linear <= room or data - head < sizeof(layout.rec_type):
        return Content(b"", f"the sk_buff at {address:#x} has impossible lengths")
    pieces = read_prefix(layout.prog, data, linear)
    if len(pieces) < linear:
        return Content(pieces, f"memory at {data + len(pieces):#x} is missing")
    if not in_frags:
        return Content(pieces)
    return _read_frags(layout.prog, shinfo, pieces, in_frags)


def _read_frags(prog: Program, shinfo: Object, data: bytes, in_frags: int) -> Content:
    """
    :param shinfo: ``struct skb_shared_info *``
    :param data: the linear part
    """
    parts = [data]
    problem = None
    try:
        shinfo = shinfo[0].read_()
        number = shinfo.nr_frags.value_()
        if number > (shinfo.frags.type_.length or 0):
            return Content(data, f"{number} frags are impossible")
        for i in range(number):
            memory, length, offset = _frag(shinfo.frags[i])
            if length > in_frags:
                problem = f"frag {i} is longer than the packet"
                break
            if memory & _NET_IOV:
                problem = f"frag {i} is device memory"
                break
            piece = _read_page(prog, memory, offset, length)
            parts.append(piece)
            in_frags -= length
            if len(piece) < length:
                problem = f"the page of frag {i} is missing"
                break
        else:
            if in_frags:
                problem = "the frags are shorter than the packet"
    except READ_ERRORS as error:
        problem = f"the frags cannot be read: {error}"
    return Content(b"".join(parts), problem)


def _frag(frag: Object) -> tuple[int, int, int]:
    """
    :param frag: ``skb_frag_t``
    :return: ``netmem_ref``, length, offset
    """
    try:
        return frag.netmem.value_(), frag.len.value_(), frag.offset.value_()
    except AttributeError:
        # A struct bio_vec on kernels without netmem.
        return frag.bv_page.value_(), frag.bv_len.value_(), frag.bv_offset.value_()


def _read_page(prog: Program, page: int, offset: int, length: int) -> bytes:
    """:param page: ``struct page *``, the first of a compound page"""
    pointer = Object(prog, "struct page *", page)
    data = b""
    for to_address, physical in ((page_to_phys, True), (page_to_virt, False)):
        try:
            data = read_prefix(prog, to_address(pointer).value_() + offset, length, physical)
        except READ_ERRORS:
            continue
        if len(data) == length:
            break
    return data

# SPDX-License-Identifier: GPL-2.0
"""The C types and symbols that the reader stands on, see include/net/tcp_pcap.h."""

from __future__ import annotations

import re
from typing import Any

from drgn import Object, Program, ProgramFlags, offsetof

from .report import Unreadable

VERSION = 1
"""TCP_PCAP_VERSION that this reader knows."""

_NULL_PAGE = 4096

MAX_PACKET = 1 << 20
"""More bytes than TCP puts into one packet (BIG TCP: 512 KiB)."""

KIND_PACKET = 1
DIR_IN = 1
DIR_OUT = 2

WHY_RECLAIMED = 10
WHY = {
    1: "cut by tcp_pcap_snaplen",
    2: "payload in device memory",
    3: "payload belongs to user space (zero copy)",
    4: "payload in shared pages (sendfile, splice)",
    5: "payload in pages of the emergency reserves",
    6: "page limit tcp_pcap_frags_max reached",
    7: "plain text of an offloaded TLS or PSP connection",
    8: "payload that cannot be referenced or is in too many pieces, or too long an IP header",
    9: "payload in a frag list",
    10: "payload reclaimed under memory pressure, or for a lowered limit",
    11: "TCP was under memory pressure (tcp_mem)",
}
"""enum tcp_pcap_why: why a record holds headers only."""

F_IPV6 = 1 << 0
F_SYNTH = 1 << 1
F_TRUNC = 1 << 2
F_MERGED = 1 << 3
F_LEN_FIXED = 1 << 4

CHECKSUM_UNNECESSARY = 1
CHECKSUM_COMPLETE = 2
CHECKSUM_PARTIAL = 3

TCP_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "NEW_SYN_RECV",
    13: "BOUND_INACTIVE",
}
CA_STATES = {0: "Open", 1: "Disorder", 2: "CWR", 3: "Recovery", 4: "Loss"}


def why_text(why: int) -> str:
    """Words for an enum tcp_pcap_why."""
    return WHY.get(why, f"reason {why}")


def state_text(state: int) -> str:
    """Name of a TCP state."""
    return TCP_STATES.get(state, f"state-{state}")


def ca_state_text(state: int) -> str:
    """Name of an enum tcp_ca_state."""
    return CA_STATES.get(state, f"ca-{state}")


class Layout:
    """
    Where the histories are, and how their types are laid out in this kernel.

    :ivar shards: ``struct tcp_pcap_shard []``
    """

    def __init__(self, prog: Program) -> None:
        """:raises Unreadable: this is not a kernel with TCP_PCAP, or its debugging information is not there"""
        if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
            raise Unreadable(
                "this is not a Linux kernel dump: it has no VMCOREINFO note.\n"
                "Take it with kdump, or under QEMU with '-device vmcoreinfo' and a kernel with CONFIG_FW_CFG_SYSFS\n"
                "and CONFIG_VMCORE_INFO; or give the note's text with --vmcoreinfo FILE."
            )
        self.prog = prog
        self.live = bool(prog.flags & ProgramFlags.IS_LIVE)
        self.shards = self._root()
        try:
            version = self._constant("TCP_PCAP_VERSION")
            self.magic = self._constant("TCP_PCAP_MAGIC")
            self.chunk_slots = self._constant("TCP_PCAP_CHUNK_SLOTS")
            self.hard_max = self._constant("TCP_PCAP_PACKETS_HARD_MAX")
            self.pcap_type = prog.type("struct tcp_pcap")
            self.rec_type = prog.type("struct tcp_pcap_rec")
            self.skb_type = prog.type("struct sk_buff")
            self.node_offset = offsetof(self.pcap_type, "node")
            self.captures_offset = offsetof(prog.type("struct tcp_pcap_shard"), "captures")
        except LookupError as error:
            raise Unreadable(f"the debugging information lacks a part of TCP_PCAP's layout: {error}") from None
        if version != VERSION:
            raise Unreadable(
                f"this kernel's histories have layout version {version}, this reader knows version {VERSION}:\n"
                "use the reader that lies in the source tree of that kernel."
            )
        self._check_vmcoreinfo()

    def is_kernel(self, address: int) -> bool:
        """Whether an address can be one of the kernel's: they are in the half where its root is."""
        top = self.prog.type("void *").size * 8 - 1
        return address >> top == (self.shards.address_ or 0) >> top and address >= _NULL_PAGE

    def _constant(self, name: str) -> int:
        return self.prog.constant(name).value_()

    def _root(self) -> Object:
        """:return: ``struct tcp_pcap_shard []``"""
        try:
            return self.prog.object("tcp_pcap_shards")
        except LookupError:
            pass
        if not has_debug_info(self.prog):
            raise Unreadable(no_debug_info(self.prog))
        raise Unreadable("this kernel has no TCP_PCAP (symbol tcp_pcap_shards is missing): it was built without CONFIG_TCP_PCAP.")

    def _check_vmcoreinfo(self) -> None:
        """A vmlinux of another build may have slipped in; the dump itself tells where the root is."""
        try:
            info = self.prog["VMCOREINFO"].string_().decode("ascii", "replace")
        except (LookupError, ValueError):
            return
        match = re.search(r"^SYMBOL\(tcp_pcap_shards\)=([0-9a-f]+)$", info, re.MULTILINE)
        if match and int(match.group(1), 16) != self.shards.address_:
            raise Unreadable(
                f"the dump has tcp_pcap_shards at 0x{match.group(1)}, the debugging information at "
                f"{self.shards.address_:#x}:\ngive the vmlinux of the kernel that was dumped with -s VMLINUX."
            )


def has_debug_info(prog: Program) -> bool:
    """Whether the debugging information of the kernel itself is loaded."""
    try:
        return not _wants_debug_info(prog.main_module())
    except LookupError:
        return False


def _wants_debug_info(module: Any) -> bool:
    return bool(module.wants_debug_file())


def no_debug_info(prog: Program) -> str:
    """What to say when the kernel's debugging information is missing."""
    try:
        build_id = prog.main_module().build_id
    except LookupError:
        build_id = None
    which = f"the kernel with build id {build_id.hex()}" if build_id else "the kernel that was dumped"
    return (
        f"no debugging information for {which}.\n"
        "Give its vmlinux (with DWARF) with -s VMLINUX; 'readelf -n VMLINUX' prints the build id of a file."
    )

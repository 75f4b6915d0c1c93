# SPDX-License-Identifier: GPL-2.0
"""What is known of the socket that a history belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Union

from drgn import Object, cast

from . import headers
from .layout import DIR_IN, DIR_OUT, Layout, state_text
from .memory import READ_ERRORS
from .owners import Owner, Owners
from .records import records, slot_content
from .report import QuietReport, Report
from .walk import Capture

Address = Union[IPv4Address, IPv6Address]

_AF_INET = 2
_AF_INET6 = 10
_ERRORS = (*READ_ERRORS, LookupError, AttributeError)


@dataclass
class Socket:
    """
    :ivar family: 4 or 6; 6 with addresses of IPv4 is a v4-mapped socket
    :ivar netns: inode number of the network namespace, None if unknown
    :ivar init_netns: whether that is the initial one
    :ivar scales: window scale to apply to the windows of each direction's packets
    """

    capture: Capture
    family: int = 0
    state: str = "?"
    local: Address | None = None
    remote: Address | None = None
    local_port: int = 0
    remote_port: int = 0
    netns: int | None = None
    init_netns: bool = False
    owners: list[Owner] = field(default_factory=list)
    scales: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Both ends."""
        return f"{self.local_name}-{self.remote_name}"

    @property
    def local_end(self) -> tuple[Address | None, int]:
        """Local address and port."""
        return self.local, self.local_port

    @property
    def remote_end(self) -> tuple[Address | None, int]:
        """Remote address and port."""
        return self.remote, self.remote_port

    @property
    def local_name(self) -> str:
        """The same as text."""
        return endpoint(self.local, self.local_port)

    @property
    def remote_name(self) -> str:
        """The same as text."""
        return endpoint(self.remote, self.remote_port)

    @property
    def family_name(self) -> str:
        """Family of the socket."""
        if self.family == 6 and isinstance(self.local, IPv4Address):
            return "tcp6/v4"
        return {4: "tcp4", 6: "tcp6"}.get(self.family, "?")

    @property
    def netns_name(self) -> str:
        """Network namespace: its inode number as in /proc/PID/ns/net, else its cookie."""
        if self.init_netns:
            return "init"
        return f"cookie:{self.capture.netns_cookie}" if self.netns is None else str(self.netns)

    @property
    def owner_name(self) -> str:
        """First owner, and how many more there are."""
        if not self.owners:
            return "-"
        more = f" +{len(self.owners) - 1}" if len(self.owners) > 1 else ""
        return f"{self.owners[0]}{more}"


def endpoint(address: Address | None, port: int) -> str:
    """Address and port, as in a URL."""
    text = f"[{address}]" if isinstance(address, IPv6Address) else str(address or "?")
    return f"{text}:{port or '*'}"


def describe(layout: Layout, report: Report, capture: Capture, owners: Owners | None) -> Socket | None:
    """
    Find out what is known of a socket.

    :param owners: None to leave its processes out
    :return: None if a running kernel has closed it meanwhile
    """
    found = Socket(capture)
    if capture.sk:
        try:
            _from_sock(layout, found, owners)
        except _ERRORS as error:
            if layout.live:
                return None
            report.damage(f"{capture.name}: its struct sock at {capture.sk:#x} cannot be used: {error}")
            found = Socket(capture)
    if not (found.local_port and found.remote_port) and found.state != "LISTEN":
        _from_packets(layout, found)
    return found


def _from_sock(layout: Layout, found: Socket, owners: Owners | None) -> None:
    prog, capture = layout.prog, found.capture
    if not layout.is_kernel(capture.sk):
        raise ValueError("it is no address of the kernel")
    tp = Object(prog, "struct tcp_sock *", capture.sk)
    if tp.pcap.value_() != capture.address:
        raise ValueError("it does not point back")
    sk = cast("struct sock *", tp)
    common = sk.__sk_common
    family = common.skc_family.value_()
    if family == _AF_INET6:
        found.family = 6
        found.local = _unmapped(IPv6Address(common.skc_v6_rcv_saddr.to_bytes_()))
        found.remote = _unmapped(IPv6Address(common.skc_v6_daddr.to_bytes_()))
    elif family == _AF_INET:
        found.family = 4
        found.local = IPv4Address(common.skc_rcv_saddr.to_bytes_())
        found.remote = IPv4Address(common.skc_daddr.to_bytes_())
    else:
        raise ValueError(f"address family {family}")
    found.local_port = common.skc_num.value_()
    found.remote_port = int.from_bytes(common.skc_dport.to_bytes_(), "big")
    found.state = state_text(common.skc_state.value_())
    scaled = tp.rx_opt.wscale_ok.value_()
    found.scales = {
        DIR_IN: tp.rx_opt.snd_wscale.value_() if scaled else 0,
        DIR_OUT: tp.rx_opt.rcv_wscale.value_() if scaled else 0,
    }
    net = common.skc_net.net
    found.init_netns = net.value_() == prog["init_net"].address_
    try:
        found.netns = net.ns.inum.value_()
    except READ_ERRORS:
        found.netns = None
    socket = sk.sk_socket.value_()
    if owners and socket:
        found.owners = owners.of(socket)


def _unmapped(address: IPv6Address) -> Address:
    return address.ipv4_mapped or address


def _from_packets(layout: Layout, found: Socket) -> None:
    """The identity of a socket that has none (closed, or gone) is that of its packets."""
    for direction, ring in found.capture.rings.items():
        for slot in records(layout, QuietReport(), found.capture, ring)[-1:]:
            parsed = headers.parse(slot_content(layout, slot).data, slot.record.net_len)
            if not parsed:
                continue
            ends = [(ip_address(parsed.source), parsed.sport), (ip_address(parsed.destination), parsed.dport)]
            if direction == DIR_IN:
                ends.reverse()
            (found.local, found.local_port), (found.remote, found.remote_port) = ends
            found.family = found.family or parsed.version
            if found.state == "?":
                found.state = f"({state_text(slot.record.state)})"
            return

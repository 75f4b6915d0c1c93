# SPDX-License-Identifier: GPL-2.0
"""Which sockets to show."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network

from .sockets import Address, Socket


def _network(text: str) -> object:
    try:
        return ip_network(text.strip("[]"), strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no IP address or network") from None


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no port")


def _state(text: str) -> str:
    return text.upper().replace("-", "_").removeprefix("TCP_")


def _end(text: str) -> tuple[Address, int]:
    address, _, port = text.rpartition(":")
    parsed = ip_address(address.strip("[]"))
    return getattr(parsed, "ipv4_mapped", None) or parsed, int(port)


def selector(text: str) -> object:
    """Parse SOCKET: an index, an address in memory, or both ends of a connection."""
    try:
        if text.isdecimal():
            return int(text)
        if text.lower().startswith("0x"):
            return hex(int(text, 16))
        local, separator, remote = text.partition("-")
        if separator:
            return _end(local), _end(remote)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"'{text}' is no index, no 0x address and no ADDRESS:PORT-ADDRESS:PORT ([ADDRESS]:PORT for IPv6)"
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that select sockets."""
    group = parser.add_argument_group(
        "filters", "A socket is taken if it meets each kind of filter given. A filter given twice is met by either value."
    )
    group.add_argument("--addr", action="append", type=_network, metavar="ADDRESS", help="local or remote address, or network")
    group.add_argument("--port", action="append", type=_port, help="local or remote port")
    group.add_argument("--pid", action="append", type=int, help="a process that holds the socket")
    group.add_argument("--comm", action="append", metavar="NAME", help="name of such a process, or a pattern like 'nginx*'")
    group.add_argument("--netns", action="append", metavar="NETNS", help="network namespace: 'init', inode number or cookie")
    group.add_argument("--state", action="append", type=_state, help="TCP state, for example ESTABLISHED")


def matches(args: argparse.Namespace, socket: Socket) -> bool:
    """Whether a socket was asked for."""
    return _is_selected(getattr(args, "socket", None) or [], socket) and _meets_filters(args, socket)


def _is_selected(selectors: list[object], socket: Socket) -> bool:
    if not selectors:
        return True
    capture = socket.capture
    ends = (socket.local, socket.local_port), (socket.remote, socket.remote_port)
    names = (capture.index, hex(capture.sk), hex(capture.address), ends)
    return any(chosen in names for chosen in selectors)


def _meets_filters(args: argparse.Namespace, socket: Socket) -> bool:
    netns = {str(socket.netns), str(socket.capture.netns_cookie), f"cookie:{socket.capture.netns_cookie}"}
    if socket.init_netns:
        netns.add("init")
    return (
        (not args.addr or any(end in net for net in args.addr for end in (socket.local, socket.remote) if end))
        and (not args.port or socket.local_port in args.port or socket.remote_port in args.port)
        and (not args.pid or any(owner.pid in args.pid for owner in socket.owners))
        and (not args.comm or any(fnmatchcase(owner.comm, name) for name in args.comm for owner in socket.owners))
        and (not args.netns or not netns.isdisjoint(args.netns))
        and (not args.state or socket.state.strip("()") in args.state)
    )

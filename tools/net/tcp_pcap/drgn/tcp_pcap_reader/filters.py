# SPDX-License-Identifier: GPL-2.0
"""Which sockets to show."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Union

from .layout import TCP_STATES
from .report import Unreadable
from .sockets import Address, Socket

_MAX_NAMED = 20

End = tuple[Address, int]


@dataclass(frozen=True)
class Selector:
    """
    A SOCKET of the command line.

    :ivar text: as it was given
    :ivar name: index, address in memory, or one or both ends of a connection
    """

    text: str
    name: Union[int, str, tuple[End], tuple[End, End]]


def _network(text: str) -> object:
    try:
        return ip_network(text.strip("[]"), strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no IP address or network") from None


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no port")


def _pid(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no process number")


def _netns(text: str) -> str:
    if text == "init" or text.removeprefix("cookie:").isdecimal():
        return text
    raise argparse.ArgumentTypeError(
        f"'{text}' is no network namespace; give 'init', an inode number (in 'list' and /proc/PID/ns/net), or 'cookie:NUMBER'"
    )


def _state(text: str) -> str:
    state = text.upper().replace("-", "_").removeprefix("TCP_")
    if state in TCP_STATES.values():
        return state
    raise argparse.ArgumentTypeError(f"'{text}' is no TCP state; there are {', '.join(TCP_STATES.values())}")


def _end(text: str) -> End:
    address, _, port = text.rpartition(":")
    parsed = ip_address(address.strip("[]"))
    return getattr(parsed, "ipv4_mapped", None) or parsed, int(port)


def selector(text: str) -> Selector:
    """Parse SOCKET: an index, an address in memory, or one or both ends of a connection."""
    try:
        if text.isdecimal():
            return Selector(text, int(text))
        if text.lower().startswith("0x"):
            return Selector(text, hex(int(text, 16)))
        local, separator, remote = text.partition("-")
        return Selector(text, (_end(local), _end(remote)) if separator else (_end(local),))
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"'{text}' is no index, no 0x address, no ADDRESS:PORT and no ADDRESS:PORT-ADDRESS:PORT ([ADDRESS]:PORT for IPv6)"
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that select sockets."""
    group = parser.add_argument_group(
        "filters", "A socket is taken if it meets each kind of filter given. A filter given twice is met by either value."
    )
    group.add_argument("--addr", action="append", type=_network, metavar="ADDRESS", help="local or remote address, or network")
    group.add_argument("--port", action="append", type=_port, help="local or remote port")
    group.add_argument("--pid", action="append", type=_pid, help="a process that holds the socket")
    group.add_argument("--comm", action="append", metavar="NAME", help="name of such a process, or a pattern like 'nginx*'")
    group.add_argument("--netns", action="append", type=_netns, help="network namespace: 'init', inode number or cookie:NUMBER")
    group.add_argument("--state", action="append", type=_state, help="TCP state, one of " + ", ".join(TCP_STATES.values()))


def chosen(args: argparse.Namespace, sockets: Sequence[Socket], whole: bool) -> list[Socket]:
    """
    Those that were asked for, each once, in the order that they have.

    :param whole: False if not all of the sockets were found, so that one may be missing which was named
    :raises Unreadable: a SOCKET names none, or could be several
    """
    left = [socket for socket in sockets if _meets_filters(args, socket)]
    selectors: list[Selector] = getattr(args, "socket", None) or []
    if not selectors:
        return left
    indices: set[int] = set()
    for one in selectors:
        named = _named(one, left)
        if not named and whole:
            which = " that meets the filters" if len(left) < len(sockets) else ""
            raise Unreadable(f"there is no socket {one.text}{which}; 'list' prints all")
        indices.update(socket.capture.index for socket in named)
    return [socket for socket in left if socket.capture.index in indices]


def _named(one: Selector, sockets: Sequence[Socket]) -> list[Socket]:
    if isinstance(one.name, int):
        return [socket for socket in sockets if one.name == socket.capture.index]
    if isinstance(one.name, str):
        return [socket for socket in sockets if one.name in (hex(socket.capture.sk), hex(socket.capture.address))]
    if len(one.name) == 2:
        return [socket for socket in sockets if one.name == (socket.local_end, socket.remote_end)]
    found = [socket for socket in sockets if socket.local_end == one.name[0]]
    found = found or [socket for socket in sockets if socket.remote_end == one.name[0]]
    if len(found) > 1:
        some = [f"{socket.capture.index}: {socket.name} {socket.state}" for socket in found[:_MAX_NAMED]]
        more = [f".. and {len(found) - _MAX_NAMED} more"] if len(found) > _MAX_NAMED else []
        head = f"{one.text} is an end of {len(found)} sockets; name one of them, or take all with --addr and --port:"
        raise Unreadable("\n".join([head, *some, *more]))
    return found


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

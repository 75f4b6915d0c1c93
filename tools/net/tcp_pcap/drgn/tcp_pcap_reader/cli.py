# SPDX-License-Identifier: GPL-2.0
"""The command line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

from drgn import MissingDebugInfoError, Program

from . import INSTALL
from .clock import Clock, read_clock
from .corefile import size_and_promise
from .ends import namesakes, spare
from .filters import add_filters, chosen, selector
from .layout import Layout, no_debug_info
from .limits import read_limits
from .owners import Owners
from .packets import Gap, Packet, in_order, read_packet
from .report import FAILED, Report, Unreadable
from .sockets import Socket, describe
from .text import SHOW_HEADER, Conversation, limit_lines, list_lines, show_head
from .walk import captures

DESCRIPTION = """\
Read the packet histories that a kernel with CONFIG_TCP_PCAP keeps of its TCP sockets,
from a vmcore or from the memory of the running kernel."""

EXAMPLES = """\
examples:
  tcp_pcap.py -c vmcore -s vmlinux list
  tcp_pcap.py -c vmcore -s vmlinux list --state ESTABLISHED --port 80
  tcp_pcap.py -c vmcore -s vmlinux show 3
  tcp_pcap.py -c vmcore -s vmlinux show --last 20 10.0.0.1:40000-10.0.0.2:80
  tcp_pcap.py -c vmcore -s vmlinux export -o all.pcapng
  tcp_pcap.py -c vmcore -s vmlinux limits
  tcp_pcap.py -c vmcore -s vmlinux export -o - --pid 1234 | tshark -r -
  drgn -k -s vmlinux tcp_pcap.py list

exit status: 0 complete; 1 partial, some memory was missing or damaged and a warning
on stderr says what, or 'show' found no socket that matches, or 'export' none that has
packets; 2 nothing could be read, or the command line is wrong"""

_MAX_NAMED = 20

SELECTOR_HELP = (
    "index as 'list' prints it, address (0x..) of the struct sock or tcp_pcap, LOCAL:PORT-REMOTE:PORT "
    "with IPv6 addresses in brackets, or one of both ends if no other socket has it"
)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add list, show, export and limits."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, description: str, example: str, of_sockets: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text,
            description=description,
            epilog="examples:\n" + example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if of_sockets and name != "list":
            command.add_argument("socket", nargs="*", type=selector, metavar="SOCKET", help=SELECTOR_HELP)
        if of_sockets:
            add_filters(command)
        return command

    table = add(
        "list",
        "one line per socket with a history",
        "Print one line per socket with a history: KEPT packets of those the ring has room for; if any socket has\n"
        "such packets, HEADERS recorded without payload, LOST for want of memory, RECLAIMED under memory pressure or for\n"
        "a lowered limit, and STRIPPED of their payload for the same reasons.\n"
        "A listener has sizes only, which its accepted sockets inherit. A state in brackets is that of the last\n"
        "packet of a socket that is gone. If no socket matches, a message says so; the exit status is still 0.",
        "  tcp_pcap.py -c vmcore -s vmlinux list --comm 'nginx*'\n"
        "  tcp_pcap.py -c vmcore -s vmlinux list --wide --addr 10.0.0.0/8 --netns init",
    )
    table.add_argument("--wide", action="store_true", help="all columns, also those that are 0 for all, and CAPTURED: packets since the ring was created")
    show = add(
        "show",
        "one line per packet of a socket",
        "Print one line per packet: time since the first one, direction, serial number in its ring, flags, relative\n"
        "sequence numbers, payload bytes, window ('*?': scale unknown), TCP state and what the sender knew when the\n"
        "packet passed. Packets that are missing have a line of their own.",
        "  tcp_pcap.py -c vmcore -s vmlinux show 3\n"
        "  tcp_pcap.py -c vmcore -s vmlinux show 10.0.0.1:40000\n"
        "  tcp_pcap.py -c vmcore -s vmlinux show --last 20 --port 80 --state ESTABLISHED",
    )
    show.add_argument("--last", type=_count, metavar="N", help="only the last N lines of each socket")
    export = add(
        "export",
        "write pcapng",
        "Write pcapng for Wireshark: one interface per socket, in its description the owner. Without SOCKET every\n"
        "socket that meets the filters is written. A connection within this host can have two, with the same packets;\n"
        "Wireshark takes them for one connection with each packet twice, and cannot reassemble it. So the one that\n"
        "keeps fewer packets (or else captured fewer, or else is later in 'list') is left out, and a message names it.\n"
        "Every SOCKET that is named is written. If nothing matches, FILE is left alone, and the exit status is 1.",
        "  tcp_pcap.py -c vmcore -s vmlinux export -o stuck.pcapng 3\n"
        "  tcp_pcap.py -c vmcore -s vmlinux export -o both.pcapng --both-ends --port 80\n"
        "  tcp_pcap.py -c vmcore -s vmlinux export -o - --port 80 | tshark -r -",
    )
    export.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write, '-' for a pipe")
    export.add_argument(
        "--both-ends",
        action="store_true",
        help="write both sockets of a connection within this host; Wireshark then shows each packet twice, unless it is "
        "told to show one frame.interface_id, and may call packets out of order or malformed",
    )

    add(
        "limits",
        "what all histories together use and may use",
        "Print what /proc/net/tcp_pcap of that kernel says: of pages (frags) and bytes (mem), in all and by containers\n"
        "together, what is used, the limit, the most that was ever reserved, and how often something was refused; then\n"
        "the packets that are kept, those of them that keep pages, and what was reclaimed.",
        "  tcp_pcap.py -c vmcore -s vmlinux limits",
        of_sockets=False,
    )


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no count")


def make_parser(opens_program: bool) -> argparse.ArgumentParser:
    """
    The parser for all arguments.

    :param opens_program: False if drgn has opened the vmcore already
    """
    parser = argparse.ArgumentParser(
        prog="tcp_pcap.py" if opens_program else "tcp_pcap",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if opens_program:
        what = parser.add_argument_group("what to read").add_mutually_exclusive_group(required=True)
        what.add_argument("-c", "--core", metavar="VMCORE", help="a vmcore")
        what.add_argument("-k", "--kernel", action="store_true", help="the running kernel (as root)")
        parser.add_argument(
            "-s", "--symbols", metavar="VMLINUX", action="append", help="vmlinux of that kernel, with debugging information"
        )
        parser.add_argument("--vmcoreinfo", metavar="FILE", help="text of the VMCOREINFO note, for a vmcore without it")
    add_commands(parser)
    return parser


# Opening


def open_program(args: argparse.Namespace) -> Program:
    """:raises Unreadable: it cannot be opened, or its debugging information is not there"""
    logging.getLogger("drgn").setLevel(logging.ERROR)
    core = args.core or "/proc/kcore"
    try:
        vmcoreinfo = None
        if args.vmcoreinfo:
            with open(args.vmcoreinfo, "rb") as file:
                vmcoreinfo = file.read()
        for path in args.symbols or []:
            with open(path, "rb"):
                pass
        prog = Program(vmcoreinfo=vmcoreinfo)
        if args.kernel:
            prog.set_kernel()
        else:
            prog.set_core_dump(args.core)
    except PermissionError as error:
        raise Unreadable(f"{error}\nReading the running kernel takes root." if args.kernel else str(error)) from None
    except Exception as error:  # libelf's are of no narrower class.
        raise Unreadable(_cannot_open(core, error)) from None
    try:
        prog.load_debug_info(args.symbols or [], main=True)
    except MissingDebugInfoError:
        raise Unreadable(no_debug_info(prog)) from None
    except Exception as error:  # libelf's are of no narrower class.
        raise Unreadable(f"cannot load debugging information: {error}") from None
    return prog


def _cannot_open(core: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"cannot open {error.filename}: {error.strerror}"
    return (
        f"cannot open {core}: {error}\n"
        "It must be a complete vmcore in ELF or kdump form, with a VMCOREINFO note. If it is a copy, compare its size with\n"
        "that of the original."
    )


# Commands


class Reader:
    """One run: what to read, and what went wrong."""

    def __init__(self, prog: Program) -> None:
        self.layout = Layout(prog)
        self.report = Report()
        self.clock = Clock(None, None)

    def run(self, args: argparse.Namespace) -> int:
        """
        Run a command.

        :return: exit status
        """
        if args.command == "show" and not (args.socket or _has_filter(args)):
            raise Unreadable("say which SOCKET to show, or give a filter; 'list' prints all")
        if args.command == "export":
            _check_output(args.output)
        self._check_size()
        if args.command == "limits":
            for line in limit_lines(read_limits(self.layout, self.report)):
                print(line)
            return self.report.finish()
        sockets = self._sockets(args)
        if args.command == "list":
            self._list(sockets, args)
        elif not sockets:
            self.report.nothing("no socket matches" + ("; nothing is written" if args.command == "export" else ""))
        elif args.command == "show":
            self._read_clock()
            self._show(sockets, args.last)
        else:
            self._export(sockets, args)
        return self.report.finish()

    def _check_size(self) -> None:
        path = None if self.layout.live else getattr(self.layout.prog, "core_dump_path", None)
        size, promise = size_and_promise(path) if path else (0, 0)
        if size < promise:
            self.report.damage(f"{path} is cut short: it has {size} of {promise} bytes; if there is a whole one, copy it again")

    def _read_clock(self) -> None:
        self.clock = read_clock(self.layout.prog)
        if self.clock.offset is None:
            self.report.damage("the time of day cannot be found; times are those since boot")

    def _sockets(self, args: argparse.Namespace) -> list[Socket]:
        owners = Owners(self.layout.prog)
        if not owners.complete:
            self.report.damage("the files of some processes cannot be read; owners may be missing")
        found = (describe(self.layout, self.report, capture, owners) for capture in captures(self.layout, self.report))
        sockets = [socket for socket in found if socket]
        return chosen(args, sockets, whole=not self.report.damaged)

    def _list(self, sockets: Sequence[Socket], args: argparse.Namespace) -> None:
        if not sockets:
            self.report.note("no socket matches" if _has_filter(args) else "no socket has a history")
            return
        for line in list_lines(sockets, args.wide):
            print(line)

    def _show(self, sockets: Sequence[Socket], last: int | None) -> None:
        for number, socket in enumerate(sockets):
            if number:
                print()
            lines: list[Packet | Gap] = []
            for item in in_order(self.layout, self.report, socket.capture):
                lines.append(item if isinstance(item, Gap) else read_packet(self.layout, self.report, socket.capture, item))
            packets = [line for line in lines if isinstance(line, Packet)]
            for text in show_head(socket, self.clock, [packet.record.time for packet in packets]):
                print(text)
            conversation = Conversation(socket, packets)
            print(SHOW_HEADER)
            if last and len(lines) > last:
                print(f"{'...':>14} {len(lines) - last} lines before")
            for line in lines[-last:] if last else lines:
                print(conversation.gap(line) if isinstance(line, Gap) else conversation.line(line))

    def _export(self, sockets: Sequence[Socket], args: argparse.Namespace) -> None:
        recorded = [socket for socket in sockets if any(ring.next for ring in socket.capture.rings.values())]
        if not recorded:
            self.report.nothing("the sockets that match have no packets; nothing is written")
            return
        if not args.both_ends:
            recorded = self._distinct(recorded, named=bool(args.socket))
        self._read_clock()
        if args.output == "-":
            sys.stdout.flush()
            self._write(sys.stdout.buffer, recorded)
            return
        try:
            with open(args.output, "wb") as stream:
                written = self._write(stream, recorded)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Unreadable(f"cannot write {args.output}: {error.strerror or error}") from None
        self.report.note(f"{_amount(written, 'packet')} of {_amount(len(recorded), 'socket')} written to {args.output}")

    def _distinct(self, sockets: list[Socket], named: bool) -> list[Socket]:
        """Those that Wireshark can tell apart: one end of each connection, unless both were named."""
        left_out = [] if named else spare(sockets)
        if left_out:
            names = _some([f"{out.capture.index} (of {kept.capture.index})" for out, kept in left_out])
            self.report.note(
                f"{_amount(len(left_out), 'socket')} left out, being the other end of one that is written: {names}; "
                "to get one, name it; to get both ends in one file, add --both-ends"
            )
        unwanted = {out.capture.index for out, _ in left_out}
        written = [socket for socket in sockets if socket.capture.index not in unwanted]
        same = [" and ".join(str(socket.capture.index) for socket in group) for group in namesakes(written)]
        if same:
            self.report.note(
                f"sockets with the same addresses and ports, which Wireshark takes for one connection: {_some(same)}; "
                "export each to a file of its own, or look at one frame.interface_id"
            )
        return written

    def _write(self, stream: BinaryIO, sockets: list[Socket]) -> int:
        from .export import Exporter

        return Exporter(self.layout, self.report, self.clock, stream).write(sockets)


def _amount(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _has_filter(args: argparse.Namespace) -> bool:
    return any((args.addr, args.port, args.pid, args.comm, args.netns, args.state))


def _check_output(output: str) -> None:
    try:
        import pcapng  # noqa: F401
    except ImportError:
        raise Unreadable(f"'export' needs the Python package python-pcapng.\n{INSTALL}") from None
    if output == "-" and sys.stdout.isatty():
        raise Unreadable("not writing pcapng to a terminal; give '-o FILE', or a pipe")


def main(argv: Sequence[str], prog: Program | None = None) -> int:
    """
    The whole command line. Whatever the memory holds, this ends with a message and a status.

    :param prog: what drgn has opened, if it has
    :return: exit status
    """
    try:
        args = make_parser(prog is None).parse_args(argv)
        status = Reader(open_program(args) if prog is None else prog).run(args)
        sys.stdout.flush()
        return status
    except Unreadable as error:
        return _fail(str(error))
    except BrokenPipeError:
        if sys.stdout is not sys.__stdout__:
            raise  # drgn's own pipe: it knows what to do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # A reader of garbage must not end with a traceback.
        if os.environ.get("TCP_PCAP_DEBUG"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error}\nTCP_PCAP_DEBUG=1 shows where.")


def _fail(text: str) -> int:
    print("tcp_pcap: " + text.replace("\n", "\n  "), file=sys.stderr)
    return FAILED

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
Packet histories of TCP sockets, from a vmcore or the running kernel. Use it

as a program of its own:   tcp_pcap.py -c VMCORE -s VMLINUX list
as a drgn script:          drgn -c VMCORE -s VMLINUX tcp_pcap.py list
as a drgn plugin:          DRGN_PLUGINS=tcp_pcap=./tcp_pcap.py drgn -c VMCORE -s VMLINUX
                           >>> %tcp_pcap list
"""

import os
import sys


def _import_reader() -> None:
    """Make the package beside this file importable."""
    folder = os.path.dirname(os.path.realpath(__file__))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        import drgn  # noqa: F401
    except ImportError:
        from tcp_pcap_reader import INSTALL

        print("tcp_pcap: the Python package drgn is missing.\n" + INSTALL, file=sys.stderr)
        sys.exit(2)


def _register_command() -> None:
    """Add the command tcp_pcap to drgn's own command line."""
    try:
        from drgn.commands import parse_shell_command
        from drgn.commands.linux import linux_kernel_custom_command
    except ImportError:
        return
    from tcp_pcap_reader import cli

    @linux_kernel_custom_command(
        name="tcp_pcap",
        description="packet histories of TCP sockets",
        usage="**tcp_pcap** **list**\\|\\ **show**\\|\\ **export**\\|\\ **limits** [*option*]...",
        long_description="Read the histories that CONFIG_TCP_PCAP keeps. **tcp_pcap --help** tells more.",
        parse=parse_shell_command,
    )
    def _cmd_tcp_pcap(prog, name, args, **kwargs):  # type: ignore[no-untyped-def]
        try:
            cli.main(args, prog)
        except SystemExit:
            pass


_import_reader()
if __name__ == "__main__":
    from tcp_pcap_reader.cli import main

    sys.exit(main(sys.argv[1:], globals().get("prog")))
_register_command()

# SPDX-License-Identifier: GPL-2.0
"""Reads the packet histories of TCP sockets (CONFIG_TCP_PCAP) from a vmcore or from the live kernel."""

INSTALL = """\
In a virtual environment, which works on every distribution:
  python3 -m venv v
  v/bin/pip install drgn==0.3.0 python-pcapng==2.1.1
  v/bin/python tcp_pcap.py .."""
"""How to get what the reader needs. Many distributions refuse pip outside of a virtual environment."""

# SPDX-License-Identifier: GPL-2.0
"""Reads the packet histories of TCP sockets (CONFIG_TCP_PCAP) from a vmcore or from the live kernel."""

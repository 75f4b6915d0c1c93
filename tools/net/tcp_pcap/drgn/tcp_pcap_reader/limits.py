# SPDX-License-Identifier: GPL-2.0
"""The accounts that all histories are charged to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drgn import Object
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu

from .layout import Layout
from .memory import READ_ERRORS
from .report import Report, Unreadable

HOST, CONTAINERS = 0, 1
"""enum tcp_pcap_payer"""
FRAGS, MEM = 0, 1
"""enum tcp_pcap_resource"""

_ACCOUNTS = (
    ("frags", FRAGS, HOST),
    ("frags_containers", FRAGS, CONTAINERS),
    ("mem", MEM, HOST),
    ("mem_containers", MEM, CONTAINERS),
)
_COUNTS = ("packets", "payloads", "reclaimed_packets", "reclaimed_payloads", "reclaimed_pages")


@dataclass(frozen=True)
class Account:
    """
    A struct tcp_pcap_account.

    :ivar used: what is charged and in use: what is reserved less what the CPUs have in stock, and less the records that they keep
        for the next connections
    :ivar peak: the most that was ever reserved
    :ivar refused: charges refused
    """

    name: str
    used: int
    max: int
    peak: int
    refused: int


@dataclass(frozen=True)
class Limits:
    """
    :ivar counts: by the names of /proc/net/tcp_pcap: packets kept, and what was reclaimed
    """

    accounts: list[Account]
    counts: dict[str, int]


def read_limits(layout: Layout, report: Report) -> Limits:
    """
    Read all accounts. What cannot be read counts as 0, and is reported.

    :raises Unreadable: this kernel has no accounts
    """
    prog = layout.prog
    try:
        accounts = {name: prog[f"tcp_pcap_{name}"] for name, _, _ in _ACCOUNTS}
        stocks = _stocks(prog["tcp_pcap_stocks"], report)
    except LookupError as error:
        raise Unreadable(f"the debugging information lacks the accounts: {error}") from None

    def total(counter: Callable[[Object], Object]) -> int:
        return sum(counter(stock).counter.value_() for stock in stocks)

    found = []
    for name, resource, payer in _ACCOUNTS:
        # What containers have in stock is reserved in the account of the host too.
        members = ("left", "left_containers") if payer == HOST else ("left_containers",)
        in_stock = sum(total(lambda stock: getattr(stock, member)[resource]) for member in members)
        if resource == MEM:
            # Nor are records in use that are kept for the next connections.
            kept_for = (HOST, CONTAINERS) if payer == HOST else (CONTAINERS,)
            in_stock += sum(total(lambda stock: stock.spares[one].bytes) for one in kept_for)
        try:
            account = accounts[name].read_()
        except READ_ERRORS as error:
            report.damage(f"the account tcp_pcap_{name} cannot be read: {error}")
            continue
        found.append(
            Account(
                name,
                max(0, account.reserved.counter.value_() - in_stock),
                account.max.value_(),
                account.peak.counter.value_(),
                total(lambda stock: stock.refused[resource][payer]),
            )
        )
    return Limits(found, {name: max(0, total(lambda stock: getattr(stock, name))) for name in _COUNTS})


def _stocks(stocks: Object, report: Report) -> list[Object]:
    """:param stocks: ``struct tcp_pcap_stock``, per CPU"""
    found = []
    try:
        cpus = list(for_each_possible_cpu(stocks.prog_))
    except READ_ERRORS as error:
        report.damage(f"it cannot be read which CPUs there are: {error}")
        return []
    for cpu in cpus:
        try:
            found.append(per_cpu(stocks, cpu).read_())
        except READ_ERRORS as error:
            report.damage(f"what CPU {cpu} has in stock cannot be read: {error}")
    return found

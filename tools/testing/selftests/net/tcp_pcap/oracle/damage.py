# SPDX-License-Identifier: GPL-2.0
"""The test of the test: exported packets are damaged one way after the other, and each must be noticed."""

from check import Difference, check
from packets import Packet


def rebuilt(packet, at, value):
    raw = packet.raw[:at] + bytes([packet.raw[at] ^ value]) + packet.raw[at + 1:]
    return Packet(raw, packet.length, packet.time)


def damages(ring):
    """(name, exported packets, records) of every damage that fits this ring."""
    got, recs = ring.exported, ring.kernel["records"]
    middle = len(got) // 2
    packet = got[middle]

    def replaced(new):
        return got[:middle] + [new] + got[middle + 1:], recs

    if len(packet.raw) > packet.head_len:
        yield "a byte of payload", *replaced(rebuilt(packet, len(packet.raw) - 1, 1))
        yield "the last byte cut", *replaced(Packet(packet.raw[:-1], packet.length, packet.time))
    yield "window", *replaced(rebuilt(packet, packet.net_len + 15, 1))
    yield "TCP option", *replaced(rebuilt(packet, packet.head_len - 1, 1))
    yield "TOS or flow label", *replaced(rebuilt(packet, 1, 0x10 if packet.version == 4 else 1))
    yield "TTL", *replaced(rebuilt(packet, 8 if packet.version == 4 else 7, 1))
    yield "length in the IP header", *replaced(rebuilt(packet, 3 if packet.version == 4 else 5, 1))
    yield "original length", *replaced(Packet(packet.raw, packet.length + 1, packet.time))
    yield "a packet left out", got[:middle] + got[middle + 1:], recs
    # Where the kernel itself loses or swaps packets, its records are consistent with that.
    numbered = [dict(r, serial=n, slot_serial=n) for n, r in enumerate(recs[:middle] + recs[middle + 1:], recs[0]["serial"] + 1)]
    yield "a packet left out by the kernel", got[:middle] + got[middle + 1:], numbered
    if str(got[middle]) != str(got[middle - 1]):
        swapped = got[:middle - 1] + [got[middle], got[middle - 1]] + got[middle + 1:]
        order = recs[:middle - 1] + [recs[middle], recs[middle - 1]] + recs[middle + 1:]
        keep = ("serial", "slot_serial", "order", "time")
        order = [dict(o, **{k: r[k] for k in keep}) for o, r in zip(order, recs)]
        yield "two packets swapped", swapped, order


def test_itself(tap, good):
    """Damage packets of rings that passed."""
    noticed = {}
    for ring in good:
        if len(ring.exported) < 4:
            continue
        exported, kernel = ring.exported, ring.kernel
        for name, got, recs in damages(ring):
            noticed.setdefault(name, 0)
            if noticed[name] >= 20:
                continue
            ring.exported, ring.kernel = got, dict(kernel, records=recs)
            if "by the kernel" in name:
                ring.kernel["evicted"] += 1
            try:
                check(ring)
            except Difference:
                noticed[name] += 1
            else:
                tap.result(False, f"damage is noticed: {name}", ring.name)
            ring.exported, ring.kernel = exported, kernel
    for name, times in noticed.items():
        tap.result(times > 0, f"damage is noticed: {name}", f"{times} times")
    tap.result(len(noticed) >= 10, "each kind of damage was tried", "\n".join(noticed))

# SPDX-License-Identifier: GPL-2.0
"""From what was counted to figures. Nothing here is rounded; that is for whoever shows them."""
from dataclasses import asdict
from statistics import median

from .machine import Phase
from .plan import ALL_WORKS, PEERS, SETTINGS
from .symbols import ALLOCATE, HOOKED, RECEIVE, RECORD, TRAFFIC


def row(setting: str, work: str, seed: int, phase: Phase) -> dict:
    """A measured phase as it is kept in the result file."""
    data = asdict(phase)
    symbols = sorted(phase.symbols.items(), key=lambda item: -item[1])
    data["symbols"] = dict(symbols[:1500 if seed == 1 else 0])
    data["hooked"] = sum(phase.symbols.get(name, 0) for name in HOOKED)
    del data["hits"]
    return {"setting": setting, "work": work, "seed": seed, **data}


def insns(one: dict) -> int:
    """All of the work, but not what the shrinker was told to do beside it."""
    return one["insns"].get("all", 0) - one["insns"].get("scan", 0)


def packets(one: dict) -> int:
    return sum(one["entries"].get(name, 0) for name in RECEIVE)


def hooks(one: dict) -> int:
    """Hooks that packets passed."""
    return sum(one["entries"].get(name, 0) for name in HOOKED)


def traffic(one: dict) -> tuple[int, ...]:
    """What the stack had to do. The clock counts instructions, so that a few of them may change the number of ACKs."""
    return tuple(one["entries"].get(name, 0) for name in TRAFFIC)


def records(one: dict) -> int:
    return sum(one["entries"].get(name, 0) for name in RECORD)


def inclusive(one: dict, *names: str) -> tuple[int, int]:
    """Calls of these functions, instructions in them and all they call."""
    found = [one["incl"][name] for name in names or RECORD if name in one["incl"]]
    return sum(f["calls"] for f in found), sum(f["insns"] for f in found)


class Results:
    def __init__(self, rows: list[dict]):
        self.rows = rows
        self.by: dict[tuple[str, str], list[dict]] = {}
        for one in rows:
            self.by.setdefault((one["setting"], one["work"]), []).append(one)

    def all(self, setting: str, work: str) -> list[dict]:
        return self.by.get((setting, work), [])

    def works(self) -> list[str]:
        return [work for work in ALL_WORKS if any(key[1] == work for key in self.by)]

    def settings(self, work: str) -> list[str]:
        return [setting for setting in SETTINGS if (setting, work) in self.by]

    def values(self, setting: str, work: str, figure) -> list[float]:
        return [value for value in map(figure, self.all(setting, work)) if value is not None]

    def middle(self, setting: str, work: str, figure) -> float | None:
        found = self.values(setting, work, figure)
        return median(found) if found else None

    def per_packet(self, setting: str, work: str) -> float | None:
        return self.middle(setting, work, lambda one: insns(one) / packets(one) if packets(one) else None)

    def spread(self, setting: str, work: str) -> float | None:
        """(largest - smallest) / median of the runs."""
        found = self.values(setting, work, lambda one: insns(one) / packets(one) if packets(one) else None)
        return (max(found) - min(found)) / median(found) if len(found) > 1 else None

    def pairs(self, setting: str, base: str, work: str) -> list[tuple[dict, dict]]:
        """Runs of a seed with the same traffic; all, where there are none."""
        seeds = {one["seed"]: one for one in self.all(base, work)}
        found = [(one, seeds[one["seed"]]) for one in self.all(setting, work) if one["seed"] in seeds]
        return [pair for pair in found if traffic(pair[0]) == traffic(pair[1])] or found

    def alike(self, setting: str, base: str, work: str) -> bool:
        """Whether there are runs with the same traffic."""
        return any(traffic(one) == traffic(other) for one, other in self.pairs(setting, base, work))

    def ratio(self, setting: str, base: str, work: str) -> float | None:
        """The whole work, run by run, against the same seed of the base."""
        found = [insns(one) / insns(other) for one, other in self.pairs(setting, base, work)]
        return median(found) if found else None

    def packet_ratio(self, setting: str, base: str, work: str) -> float | None:
        """Instructions per packet against the same seed of the base."""
        found = [insns(one) / packets(one) / (insns(other) / packets(other)) for one, other in self.pairs(setting, base, work)
                 if packets(one) and packets(other)]
        return median(found) if found else None

    def added(self, setting: str, base: str, work: str) -> float | None:
        """Instructions added per packet."""
        found = [insns(one) / packets(one) - insns(other) / packets(other) for one, other in self.pairs(setting, base, work)
                 if packets(one) and packets(other)]
        return median(found) if found else None

    def added_by_hooks(self, setting: str, base: str, work: str, per=packets) -> float | None:
        """Instructions added in the functions that have a hook: without timers, which come by chance."""
        if not self.alike(setting, base, work):
            return None
        return median((one["hooked"] - other["hooked"]) / per(one) for one, other in self.pairs(setting, base, work))

    def added_per_record(self, setting: str, base: str, work: str) -> float | None:
        """Instructions added per record, by difference: with all that the stack does more or less of for our sake."""
        found = [(insns(one) - insns(other)) / records(one) for one, other in self.pairs(setting, base, work) if records(one)]
        return median(found) if found else None

    def in_record(self, setting: str, work: str) -> float | None:
        """Instructions per record, from the call that takes it to the return, with all that is called."""
        def figure(one: dict) -> float | None:
            calls, total = inclusive(one)
            return total / calls if calls else None
        return self.middle(setting, work, figure)

    def part(self, setting: str, work: str, part: str, per) -> float | None:
        def figure(one: dict) -> float | None:
            return one["insns"][part] / per(one) if part in one["insns"] and per(one) else None
        return self.middle(setting, work, figure)

    def part_ratio(self, setting: str, base: str, work: str, part: str) -> float | None:
        found = [one["insns"][part] / other["insns"][part] for one, other in self.pairs(setting, base, work)
                 if part in one["insns"]]
        return median(found) if found else None

    def allocations(self, setting: str, work: str) -> float | None:
        """Calls of the allocator within recording, per record."""
        def figure(one: dict) -> float | None:
            return sum(one["nested"].get(name, 0) for name in ALLOCATE) / records(one) if records(one) else None
        return self.middle(setting, work, figure)

    def per_frag(self, setting: str, base: str, work: str) -> float | None:
        """Instructions that the work takes more with payload in frags than with headers only, per frag kept."""
        found = [(insns(one) - insns(other)) / one["points"]["frag"] for one, other in self.pairs(setting, base, work)
                 if one["points"].get("frag", 0) > records(one) / 10]
        return median(found) if found else None

    def missed(self, setting: str, work: str, complete) -> str:
        return "; ".join(sorted({complete(one) for one in self.all(setting, work)} - {""}))


def reclaimed(one: dict) -> int:
    """Objects that the shrinker gave back while it was counted."""
    warm, end = one["gauges"].get("warm", {}), one["gauges"].get("end", {})
    return sum(int(end.get(name, ["0"])[0]) - int(warm.get(name, ["0"])[0])
               for name in ("reclaimed_packets", "reclaimed_payloads"))


def hottest(one: dict) -> tuple[str, int]:
    """The line that goes from CPU to CPU most often while recording, and how often. Interrupts that come meanwhile count too."""
    inside = {f"{name} {addr}": int(times) for addr, name, _, times in one["lines"].get("hot", [])}
    return max(inside.items(), key=lambda item: item[1], default=("none", 0))


def memory(one: dict, stage: str, what: str = "Slab") -> int | None:
    """Bytes in use at a stage: in slabs, or all (less what was free at first)."""
    found = one["gauges"].get(stage, {}).get(what)
    if not found:
        return None
    return (-1 if what == "MemFree" else 1) * int(found[0]) * 1024


def complete(one: dict) -> str:
    """Whether every packet was recorded; empty if so."""
    if one["setting"] not in PEERS:
        wanted, got = records(one), one["counters"].get("TCPPcapCaptured", 0)
        return "" if got == wanted or not one["counters"] else f"{got} of {wanted}"
    want, text = packets(one), " ".join(one["peer"])
    words = text.replace(":", " ").split()
    if one["setting"] == "bpf":
        # An event and its header are 112 bytes; one for each packet sent and one for each received, but SYN-ACKs and the like.
        got = int(words[words.index("written") - 2]) / 112
        entered = sum(one["entries"].get(f, 0) for f in ("__tcp_transmit_skb", "tcp_rcv_established", "tcp_rcv_state_process"))
        return "" if got >= entered else f"{got:.0f} of {entered}"
    got = int(words[words.index("captured") - 2])
    dropped = int(words[words.index("dropped") - 2])
    return "" if got >= want and not dropped else f"{got} of {want}, {dropped} dropped"

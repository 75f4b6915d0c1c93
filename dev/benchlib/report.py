# SPDX-License-Identifier: GPL-2.0
"""The table, what was aimed at, and the plots."""
import textwrap
from statistics import median

from .figures import Results, complete, hooks, hottest, memory, packets, reclaimed
from .plan import ALL_WORKS, GROWTH, PEERS, SETTINGS, WORKS

RING_HEADERS = ("head-5", "head-64", "head-1024")
PLOT_SETTINGS = ("no-ring", "head-64", "full-64", "bpf", "tcpdump", "tcpdump-full")
SOCKETS = 2 * ALL_WORKS["memory"].words["conns"]
COVER_SETTINGS = ("unpatched", "off", "no-ring", "head-64", "full-64", "bpf", "tcpdump")
COVER_WORKS = ("rr4", "bulk4", "segments4", "crr4", "many4")
PLOT_WORKS = ("rr4", "rr6", "bulk4", "segments4", "crr4", "many4")


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def base_of(setting: str) -> str:
    return "wait" if setting in PEERS else "off"


def against(results: Results, figure, setting: str, base: str, work: str, digits: int = 0) -> str:
    """A comparison; marked if nothing with the same traffic was there to compare with."""
    value = figure(setting, base, work)
    return number(value, digits) if value is None or results.alike(setting, base, work) else "~" + number(value, digits)


def command(setting: str, work: str) -> str:
    runs = ALL_WORKS[work].seeds
    return f"dev/bench --setting {setting} --work {work}" + (f" --runs {runs}" if runs > 1 else "")


def grid(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    left = (0, len(head) - 1) if head[-1] == "reproduce with" else (0,)
    lines = ["  ".join(cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
             for row in [head, *rows]]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def table(title: str, head: list[str], rows: list[list[str]], notes: tuple[str, ...] = ()) -> list[str]:
    return [f"== {title}", *notes, *grid(head, rows), ""] if rows else []


def works_of(results: Results) -> list[str]:
    return [work for work in results.works() if work in WORKS]


def summary(results: Results) -> list[str]:
    works = works_of(results)
    settings = [s for s in SETTINGS if any(s in results.settings(work) for work in works)]

    def of(figure, digits: int) -> list[list[str]]:
        return [[SETTINGS[s].title, *(against(results, figure, s, base_of(s), work, digits) for work in works)] for s in settings]

    note = "~: in no run the same packets, ACKs and segmentation as without, so that it is not the setting alone that makes the difference"
    return [*table("all of the work, both ends, instructions per packet: setting / off (peers: / off, waiting as long)",
                   ["", *works], of(results.packet_ratio, 4), (note,)),
            *table("instructions added per packet on the wire (over lo and veth both ends record it)", ["", *works],
                   of(results.added, 1))]


def counts(results: Results) -> list[str]:
    out = []
    for work in [w for w in results.works() if w != "lines"]:
        rows = []
        for setting in results.settings(work):
            base, spread, notes = base_of(setting), results.spread(setting, work), results.missed(setting, work, complete)
            rows.append([
                SETTINGS[setting].title, str(len(results.all(setting, work))), number(results.per_packet(setting, work), 1),
                number(None if spread is None else spread * 100, 3, " %"),
                against(results, results.packet_ratio, setting, "unpatched", work, 5),
                against(results, results.packet_ratio, setting, base, work, 5),
                against(results, results.added, setting, base, work, 1), number(results.in_record(setting, work), 1),
                against(results, results.added_per_record, setting, base, work, 1), notes or "0", command(setting, work)])
        out += table(f"{work}: {ALL_WORKS[work].title}",
                     ["setting", "runs", "insns/packet", "spread", "/unpatched", "/off", "+/packet", "in record", "+/record",
                      "missed", "reproduce with"], rows)
    return out


def parts(results: Results) -> list[str]:
    rows = []
    for work in results.works():
        n = ALL_WORKS[work].words["n"]
        for setting in results.settings(work):
            connect, close = (results.part(setting, work, part, lambda _, n=n: n) for part in ("connect", "close"))
            if connect is None:
                continue
            base = [results.part(base_of(setting), work, part, lambda _, n=n: n) for part in ("connect", "close")]
            both = connect + (close or 0)
            rows.append([work, SETTINGS[setting].title, number(connect), number(base[0] and connect / base[0], 4), number(close),
                         number(base[1] and close / base[1], 4), number(both - sum(base) if all(base) else None),
                         command(setting, work)])
    out = table("instructions per connection, both ends: connect() to accept(), and both close()",
                ["work", "setting", "set-up", "/off", "close", "/off", "added", "reproduce with"], rows)
    rows = []
    for work in results.works():
        found = results.part("reclaim", work, "scan", reclaimed)
        if found is not None:
            rows.append([work, number(found, 1), number(results.middle("reclaim", work, reclaimed)), command("reclaim", work)])
    return out + table("instructions of the shrinker per object given back: a packet, or the payload of one that stays",
                       ["work", "each", "objects", "reproduce with"], rows)


def used(results: Results, setting: str, stage: str, what: str = "Slab") -> float | None:
    """Bytes per socket that are used at a stage, more than with it off."""
    found = [memory(results.all(s, "memory")[0], stage, what) if results.all(s, "memory") else None for s in (setting, "off")]
    return None if None in found else (found[0] - found[1]) / SOCKETS


def per_record(results: Results, setting: str, what: str = "Slab") -> float | None:
    """Bytes of memory that a record costs, all included: slots, histories, and what the allocator cannot use."""
    kept, more = records_kept(results.all(setting, "memory")[0]), used(results, setting, "end", what)
    return more * SOCKETS / kept if kept and more is not None else None


def records_kept(one: dict) -> int:
    return int(one["gauges"]["end"].get("packets", ["0"])[0])


def memory_rows(results: Results) -> list[str]:
    rows = []
    for setting in results.settings("memory"):
        one = results.all(setting, "memory")[0]
        kept, charged = records_kept(one), int(one["gauges"]["end"].get("mem", ["0"])[0])
        rows.append([SETTINGS[setting].title, number((memory(one, "open") - memory(one, "before")) / SOCKETS),
                     *(number(used(results, setting, stage)) for stage in ("open", "end")), number(kept / SOCKETS, 2),
                     number(per_record(results, setting)), number(per_record(results, setting, "MemFree")),
                     number(charged / kept if kept else None), command(setting, "memory")])
    head = ["setting", "open", "+open", "+filled", "records", "/record", "with pages", "charged", "reproduce with"]
    notes = ("open: slab memory of a connected socket; +: more than with it off; with pages: by MemFree, which has a noise of",
             "1.5 MB; charged: /proc/net/tcp_pcap",)
    return table(f"bytes of memory per socket, {SOCKETS:,} sockets", head, rows, notes)


def line_rows(results: Results) -> list[str]:
    rows = []
    for setting in results.settings("lines"):
        one = results.all(setting, "lines")[0]
        count, (name, times) = packets(one) or 1, hottest(one)
        rows.append([SETTINGS[setting].title, number(count), number(one["lines"]["transfers"] / count, 3),
                     number(one["lines"]["inside_accesses"] / count, 1), number(one["lines"]["inside"]),
                     number(one["lines"]["inside"] / count, 4), f"{name}: {times}", command(setting, "lines")])
    return table("cache lines that go from CPU to CPU, two CPUs with connections of their own", [
        "setting", "packets", "transfers/packet", "accesses in recording/packet", "transfers in recording", "/packet",
        "most shared line", "reproduce with"], rows)


def wall_rows(wall: list[dict]) -> list[str]:
    rows = [[f"{one['work']} {SETTINGS[one['setting']].title}", SETTINGS[one["base"]].title, str(len(one["ratios"])),
             number(median(one["ratios"]), 3), number(min(one["ratios"]), 3), number(max(one["ratios"]), 3)] for one in wall]
    return table("throughput in real time, in turn with its base within one guest (noisy: it backs the counts up)",
                 ["", "base", "pairs", "median", "lowest", "highest"], rows)


class Targets:
    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def aim(self, what: str, limit: float, values: dict[str, float | None], digits: int = 3) -> None:
        """The worst of the values counts."""
        known = {where: value for where, value in values.items() if value is not None}
        if known:
            worst = max(known, key=lambda where: known[where])
            self.rows.append([what, number(limit, digits), number(known[worst], digits), worst,
                              "met" if known[worst] <= limit else "MISSED"])


def targets(results: Results) -> list[str]:
    t, works = Targets(), works_of(results)
    # Not many: its connections fill no ring.
    steady = [w for w in works if w.startswith(("rr", "bulk", "segments"))]

    def excess(setting: str, work: str) -> float | None:
        ratio = results.packet_ratio(setting, "unpatched", work)
        return None if ratio is None or not results.alike(setting, "unpatched", work) else abs(ratio - 1) * 100

    t.aim("n: instructions per packet against unpatched, %", 0.1, {w: excess("n", w) for w in works})
    t.aim("y, off: instructions per packet against unpatched, %", 0.1, {w: excess("off", w) for w in works})
    t.aim("y, off: instructions added by a hook that is passed", 1,
          {w: results.added_by_hooks("off", "unpatched", w, hooks) for w in works}, 3)
    t.aim("on, no ring: instructions added per packet by the hooks", 6,
          {w: results.added_by_hooks("no-ring", "off", w) for w in works}, 2)
    t.aim("ring full, headers only: instructions per record", 250,
          {f"{w} {s}": results.in_record(s, w) for w in steady for s in RING_HEADERS}, 1)
    t.aim("the same, added to the whole work per record", 250,
          {f"{w} {s}": results.added_per_record(s, "off", w) for w in steady for s in RING_HEADERS}, 1)
    t.aim("ring full, headers only: calls of the allocator per record", 0,
          {f"{w} {s}": results.allocations(s, w) for w in steady for s in RING_HEADERS}, 3)
    t.aim("payload in frags: instructions per frag more than headers only", 25,
          {f"{w} full-{n}": results.per_frag(f"full-{n}", f"head-{n}", w) for w in steady for n in (5, 64, 1024)}, 1)
    for peer, limit in (("bpf", 0.6), ("tcpdump", 0.2)):
        # The same of a packet: what fits the snap length there, and the headers here.
        shares = {}
        for work in works:
            ours, theirs = results.added("head-64", "off", work), results.added(peer, "wait", work)
            alike = results.alike("head-64", "off", work) and results.alike(peer, "wait", work)
            shares[work] = ours / theirs if alike and ours is not None and theirs else None
        t.aim(f"N=64, headers only / {SETTINGS[peer].title}: added per packet", limit, shares)
    for name, limit in (("bulk", 1.02), ("rr", 1.08), ("crr", 1.10)):
        same = [w for w in works if w.rstrip("46").split("-")[0] == name]
        for setting in ("head-64", "full-64"):
            t.aim(f"{name}: whole work, {SETTINGS[setting].title} / off", limit,
                  {w: results.ratio(setting, "off", w) for w in same}, 4)
    memory_settings = results.settings("memory")
    t.aim("memory per header-only record, all included, bytes", 1024,
          {s: per_record(results, s) for s in memory_settings if s.startswith("head")}, 0)
    if "no-ring" in memory_settings:
        t.aim("memory of a socket without ring, bytes more than off", 0, {"memory": used(results, "no-ring", "open")}, 0)
    t.aim("transfers of the most shared line while recording, per packet", 0.01,
          {s: hottest(one)[1] / packets(one) for s in results.settings("lines") if s.startswith(("head", "full"))
           for one in results.all(s, "lines")}, 4)
    flat = growth(results)
    for name, line in flat.items():
        if SETTINGS["off"].title not in name:
            base = dict(flat.get(name.replace(SETTINGS["head-64"].title, SETTINGS["off"].title), []))
            added = {x: y - base[x] for x, y in line if x in base}
            if len(added) > 1 and name.startswith("per packet"):
                low = min(added)
                t.aim("growth: added per packet / the same with fewest sockets", 1.1,
                      {f"{x:,} sockets": v / added[low] for x, v in added.items()})
            if name.startswith("set-up"):
                t.aim("growth: connection set-up with history / without", 1.1,
                      {f"{x:,} sockets": y / base[x] for x, y in line if x in base})
    t.aim("connection set-up with history / without", 1.1,
          {f"{w} {s}": results.part_ratio(s, "off", w, "connect") for w in works if w.startswith("crr")
           for s in ("head-64", "full-64")})
    return table("what was aimed at (the worst counts)", ["", "at most", "is", "where", ""], t.rows)


def growth(results: Results) -> dict[str, list[tuple[int, float]]]:
    """Lines of a plot: instructions by the number of sockets."""
    found: dict[str, list[tuple[int, float]]] = {}
    for idle in GROWTH:
        for setting in ("off", "head-64"):
            value = results.per_packet(setting, f"rr-{idle}")
            if value is not None:
                found.setdefault(f"per packet, {SETTINGS[setting].title}", []).append((2 * idle, value))
            n = ALL_WORKS[f"crr-{idle}"].words["n"]
            value = results.part(setting, f"crr-{idle}", "connect", lambda _, n=n: n)
            if value is not None:
                found.setdefault(f"set-up, {SETTINGS[setting].title}", []).append((2 * idle, value))
    return found


def difference(results: Results, setting: str, base: str, work: str) -> list[str]:
    """Where one setting's whole work takes more or fewer instructions than another's, by function, per packet."""
    mine, other = (next((one for one in results.all(s, work) if one["symbols"]), None) for s in (setting, base))
    if not mine or not other:
        raise SystemExit(f"dev/bench: {work} was not measured with {setting} and {base} yet")
    count, names = packets(mine), {*mine["symbols"], *other["symbols"]}
    more = {name: (mine["symbols"].get(name, 0) - other["symbols"].get(name, 0)) / count for name in names}
    rows = [[name[:100], number(more[name], 2), number(mine["symbols"].get(name, 0) / count, 2),
             number(other["symbols"].get(name, 0) / count, 2)] for name in sorted(more, key=lambda name: -abs(more[name]))[:60]]
    return table(f"{work}: instructions per packet by function, {setting} less {base}", ["", "more", setting, base], rows)


def plots(results: Results, plot) -> dict[str, str]:
    drawings = {}

    def more(setting: str, base: str, work: str) -> float | None:
        ratio = results.packet_ratio(setting, base, work)
        return None if ratio is None else 100 * (ratio - 1)

    def of(figure, setting: str, work: str) -> float | None:
        base = base_of(setting)
        return figure(setting, base, work) if results.alike(setting, base, work) else None

    works = [w for w in PLOT_WORKS if w in works_of(results)]
    for name, title, unit, figure, digits in (
            ("peers.svg", "What recording adds to a packet", "instructions per packet", results.added, 0),
            ("ratio.svg", "What recording adds to all of the work of both ends", "% more instructions per packet", more, 1)):
        groups = {}
        for work in works:
            values = {SETTINGS[s].title: of(figure, s, work) for s in PLOT_SETTINGS}
            if values := {key: value for key, value in values.items() if value is not None}:
                groups[f"{work}: {ALL_WORKS[work].title}"] = values
        if groups:
            drawings[name] = plot.bars(title, groups, unit, digits)
    if series := growth(results):
        drawings["growth.svg"] = plot.lines("Cost by the number of sockets", series, "sockets", "instructions")
    return drawings


def cover(results: Results, fact: str) -> str:
    """The figures of the cover letter, as wide as a mail."""
    works = [work for work in COVER_WORKS if work in works_of(results)]
    settings = [s for s in COVER_SETTINGS if any(s in results.settings(work) for work in works)]
    rows, added = ([[SETTINGS[s].title, *(against(results, figure, s, base_of(s), work, digits) for work in works)] for s in settings]
                   for figure, digits in ((results.packet_ratio, 3), (results.added, 0)))
    out = ["Instructions per packet on the wire, all of the work of both ends, against the",
           "same with the feature off. Both ends record each packet. Peers are compared",
           "with a run that waits as long as they need to hand packets over. ~: the",
           "traffic differed (packets, ACKs or segmentation).", "", *grid(["", *works], rows), "",
           "Instructions that this adds to a packet on the wire:", "", *grid(["", *works], added), ""]
    out += [f"{work}: {ALL_WORKS[work].title}" + ("; the rings are not full yet" if work.startswith("many") else "")
            for work in works]
    if "head-64" in results.settings("memory"):
        out += ["", f"A record of headers takes {number(per_record(results, 'head-64'))} bytes, all included, while its rings",
                "are being filled."]
    return "\n".join([*out, "", "One CPU under QEMU's icount, not time on hardware; `make bench` of the",
                      "repository that the series is developed in:", *textwrap.wrap(fact, 72)]) + "\n"


def text(results: Results, head: list[str], wall: list[dict]) -> str:
    out = [*head, "", *targets(results), *summary(results), *counts(results), *parts(results), *memory_rows(results),
           *line_rows(results), *wall_rows(wall)]
    return "\n".join(out) + "\n"

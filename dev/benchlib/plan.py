# SPDX-License-Identifier: GPL-2.0
"""What is measured: kernels and settings, work, and the boots that bring both together."""
from dataclasses import dataclass, field

PARTS = ("all", "connect", "close", "scan")
# More than the work can use, where a limit is not what is measured: pages, bytes.
ENOUGH = {"frags_max": 1 << 19, "mem_max": 1 << 31}


@dataclass(frozen=True)
class Setting:
    """A row of the table: a kernel, and what each phase is told."""
    title: str
    kernel: str = "bench"
    words: dict = field(default_factory=dict)


def ring(packets: int, snaplen: int, **more) -> dict:
    return {"packets": packets, "snaplen": snaplen, **ENOUGH, **more}


SETTINGS = {
    "unpatched": Setting("unpatched", "plain"),
    "n": Setting("CONFIG_TCP_PCAP=n", "benchoff"),
    "off": Setting("y, off"),
    "no-ring": Setting("on, no ring", words={"key": 1}),
    **{f"head-{n}": Setting(f"N={n}, headers only", words=ring(n, 0)) for n in (5, 64, 1024)},
    **{f"full-{n}": Setting(f"N={n}, full payload", words=ring(n, -1)) for n in (5, 64, 1024)},
    "limit": Setting("N=64, at the page limit", words=ring(64, -1, frags_max=1)),
    "reclaim": Setting("N=64, shrinker at work", words=ring(64, -1, scan=32)),
    # Whoever hands packets to another program is given time to do so, and is compared with nobody at work for as long.
    "wait": Setting("y, off, waiting", words={"settle": 3000}),
    "tcpdump": Setting("tcpdump, snaplen 128", words={"settle": 3000, "peer": "tcpdump"}),
    "tcpdump-full": Setting("tcpdump, full", words={"settle": 3000, "peer": "tcpdump-full"}),
    "bpf": Setting("BPF recorder", words={"settle": 3000, "peer": "bpf"}),
}
PEERS = ("tcpdump", "tcpdump-full", "bpf")
QUICK_SETTINGS = ("unpatched", "n", "off", "no-ring", "head-64", "full-64", "wait", "tcpdump", "bpf")


@dataclass(frozen=True)
class Work:
    title: str
    words: dict
    settings: tuple = tuple(SETTINGS)
    seeds: int = 5


# rr and bulk: what a ring of 1,024 needs before it is full is done before the marker, in every setting alike.
RR = {"work": "rr", "n": 2000, "warm": 1100}
BULK = {"work": "bulk", "n": 32, "warm": 80}
SEGMENTS = {"work": "bulk", "n": 4, "warm": 90, "dev": "veth", "gso": 0}
CRR = {"work": "crr", "n": 500, "warm": 100}
MANY = {"work": "rr", "n": 20000, "warm": 10000, "conns": 10000}
MANY_SETTINGS = ("unpatched", "off", "no-ring", "head-5", "head-64", "full-64", "wait", "bpf", "tcpdump")


def families(name: str, title: str, words: dict, settings: tuple = tuple(SETTINGS), seeds: int = 5) -> dict[str, Work]:
    return {f"{name}{af}": Work(f"{title}, IPv{af}", {**words, "af": af}, settings, seeds) for af in (4, 6)}


WORKS = {
    **families("rr", "request/response of 128 bytes, lo", RR),
    **families("rr-veth", "request/response of 128 bytes, veth", {**RR, "dev": "veth"}),
    **families("bulk", "bulk in writes of 64 KiB, lo", BULK),
    **families("bulk-veth", "bulk, veth with GSO and GRO", {**BULK, "dev": "veth"}),
    **families("segments", "bulk, veth without GSO and GRO", SEGMENTS),
    **families("crr", "connect, request, response, close, lo", CRR, tuple(s for s in SETTINGS if s != "reclaim")),
    **families("many", "10,000 connections in turn, lo", MANY, MANY_SETTINGS, seeds=2),
}
# Growth: the same with idle connections beside; two sockets each.
GROWTH = (5, 50, 500, 5000, 50000)
GROWTH_SETTINGS = ("off", "head-64")
GROWTH_WORKS = {
    f"{name}-{idle}": Work(f"{name} beside {2 * idle} sockets", {**words, "idle": idle}, GROWTH_SETTINGS, seeds=1)
    for idle in GROWTH for name, words in (("rr", RR), ("crr", {**CRR, "n": 200}))
}
# Memory: few transactions fill small rings on many connections.
MEMORY_WORKS = {"memory": Work("2,000 connections that begin to fill their rings", {"work": "rr", "conns": 2000, "n": 2000, "warm": 8000},
                               ("off", "no-ring", "head-5", "full-5", "head-64"), seeds=1)}
LINES_WORKS = {"lines": Work("request/response on two CPUs", {"work": "rr", "n": 1000, "warm": 200, "cpus": 2},
                             ("off", "no-ring", "head-64", "full-64"), seeds=1)}
# In no table: for the test that lines are found which go from CPU to CPU, and that while packets are recorded none does.
LINES_TEST_WORKS = {
    "lines-payload": Work("the same with 4,000 bytes", {**LINES_WORKS["lines"].words, "size": 4000}, ()),
    "lines-hop": Work("each transaction on the other CPU", {"work": "rr", "n": 1000, "warm": 200, "hop": 1}, ()),
}
ALL_WORKS = {**WORKS, **GROWTH_WORKS, **MEMORY_WORKS, **LINES_WORKS, **LINES_TEST_WORKS}
QUICK_WORKS = ("rr4", "rr6", "bulk4", "segments4", "crr4", "lines", "memory")
# In real time: longer, and without the waits that cost nothing where time is counted in instructions.
WALL_WORKS = {"rr4": {"n": 20000}, "bulk4": {"n": 256}, "crr4": {"n": 3000}}
WALL_WORDS = {"settle": 0, "rest": 0}
WALL_SETTINGS = ("full-64", "head-64", "bpf", "tcpdump")


def wall_base(setting: str) -> str:
    """What a setting is compared with in one guest: the static key stays on once it was switched on."""
    return "wait" if setting in PEERS else "no-ring"


@dataclass
class Boot:
    """One life of a guest: works one after the other, all with one setting unless phases say otherwise."""
    name: str
    kernel: str
    phases: list[tuple[str, str]]		# setting, work
    seed: int = 1
    cpus: int = 1
    mem: int = 2048
    lines: bool = False
    profile: bool = False
    more: dict = field(default_factory=dict)	# words that override

    def plan(self) -> str:
        rows = []
        for number, (setting, work) in enumerate(self.phases, 1):
            words = {"id": number, **ALL_WORKS[work].words, **SETTINGS[setting].words, **self.more}
            rows.append(" ".join(f"{key}={value}" for key, value in words.items()))
        return "\n".join(rows) + "\n"

    def has_peers(self) -> bool:
        return any(SETTINGS[setting].words.get("peer", "none") != "none" for setting, _ in self.phases)


def boots(settings: list[str], works: list[str], runs: int, profile: bool = False) -> list[Boot]:
    """A guest for each setting and seed: what came before is the same for each setting."""
    found = []
    for seed in range(1, runs + 1):
        for setting in settings:
            names = [work for work in works if setting in ALL_WORKS[work].settings and seed <= ALL_WORKS[work].seeds]
            groups = [[w for w in names if w not in GROWTH_WORKS and w not in LINES_WORKS and w not in MEMORY_WORKS and
                       not w.startswith("many")],
                      *([w] for w in names if w.startswith("many") or w in MEMORY_WORKS or w in LINES_WORKS),
                      *([w] for w in names if w in GROWTH_WORKS)]
            for group in groups:
                if not group:
                    continue
                lines = group[0] in LINES_WORKS
                big = group[0].endswith("-50000") or group[0].startswith("many")
                label = group[0] if len(group) == 1 else "works"
                found.append(Boot(f"{setting}.{label}.{seed}", SETTINGS[setting].kernel, [(setting, work) for work in group],
                                  seed, 2 if lines else 1, 6144 if big else 2048, lines, profile))
    return found

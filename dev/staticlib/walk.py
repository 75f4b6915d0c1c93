# SPDX-License-Identifier: GPL-2.0
"""Everything that is reached from some functions, as long as it is ours: Rust, or an object of TCP_PCAP."""
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from .image import BUGFLAG_WARNING, Function, Image

PANIC = re.compile(r"core9panicking|rust_begin_unwind|unwrap_failed|expect_failed|slice\w*_fail|handle_alloc_error|"
                   r"^(?:rust_helper_BUG|panic|vpanic|__kunit_abort)$")


@dataclass
class Reached:
    """found: our functions; left: those that are not, by name; both with the one that leads there"""
    found: dict[str, Function] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    parent: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """The way to a function."""
        steps = [name]
        while steps[-1] in self.parent:
            steps.append(self.parent[steps[-1]])
        return " <- ".join(steps)


def reach(image: Image, entries: set[str], ours: Callable[[str], bool]) -> Reached:
    """Follow calls, jumps and pointers. Panics are reached, and not looked into."""
    reached, level = Reached(), set(entries)
    while level:
        functions = image.functions(level)
        reached.found |= functions
        following: set[str] = set()
        for name, function in sorted(functions.items()):
            for target in sorted(function.targets | function.refs):
                if target in reached.found or target in reached.left or target in following:
                    continue
                reached.parent[target] = name
                if ours(target) and not PANIC.search(target):
                    following.add(target)
                else:
                    reached.left.add(target)
        level = following
    return reached


def panics(reached: Reached) -> list[str]:
    return [reached.path(name) for name in sorted(reached.left) if PANIC.search(name)]


def frames(reached: Reached) -> dict[str, int]:
    """Bytes of stack of each function; what cannot be known is more than anything."""
    return {name: 1 << 32 if function.unbounded else function.frame for name, function in reached.found.items()}


def deepest(reached: Reached) -> int:
    """Bytes of stack of the deepest way through our functions, with return addresses; a circle counts once."""
    size = frames(reached)

    def below(name: str, on_path: frozenset[str]) -> int:
        calls = (reached.found[name].targets & set(reached.found)) - on_path
        return size[name] + 8 + max((below(call, on_path | {call}) for call in calls), default=0)

    return max((below(name, frozenset({name})) for name in reached.found if name not in reached.parent), default=0)


@dataclass(frozen=True)
class Trap:
    """warns: it is in the bug table as a warning, after which the kernel goes on"""
    function: str
    site: int
    warns: bool
    where: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.function}: {' in '.join(self.where)}"

    @property
    def in_c(self) -> bool:
        """Whether the source of it is C."""
        return bool(self.where) and ".rs:" not in self.where[0]


def traps(image: Image, reached: Reached) -> list[Trap]:
    """Places that trap on purpose."""
    return [Trap(name, site, bool(image.bugs.get(site, 0) & BUGFLAG_WARNING), tuple(image.where(site)))
            for name, function in sorted(reached.found.items()) for site in function.traps]


def indirect(image: Image, reached: Reached) -> list[Trap]:
    """Calls through pointers."""
    return [Trap(name, site, False, tuple(image.where(site)))
            for name, function in sorted(reached.found.items()) for site in function.indirect]

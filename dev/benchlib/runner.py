# SPDX-License-Identifier: GPL-2.0
"""Boots one after the other or side by side; what was measured is kept."""
import json
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from . import plan
from .figures import row
from .machine import Failed, Machine, Phase

# Seconds, until a boot of this name told.
GUESS = 20


class Runner:
    def __init__(self, machine: Machine, store: Path, data: dict, timeout: int, facts: list[str]):
        self.machine, self.store, self.data, self.timeout = machine, store, data, timeout
        self.data |= {"facts": facts, "complete": False, **{kind: machine.current(data[kind]) for kind in ("rows", "wall")}}

    def known(self, boot: plan.Boot) -> bool:
        """Whether each row of this boot is there, measured with the same kernel, programs and plan."""
        key = self.machine.key(boot)
        have = {(one["setting"], one["work"], one["seed"]) for one in self.data["rows"] if one.get("key") == key}
        return all((setting, work, boot.seed) in have for setting, work in boot.phases)

    def seconds(self, boot: plan.Boot) -> float:
        return self.data["seconds"].get(boot.name.rpartition(".")[0], GUESS)

    def outlook(self, todo: list[plan.Boot], jobs: int, force: bool) -> str:
        rest = [boot for boot in todo if force or not self.known(boot)]
        kept = f"{len(todo) - len(rest)} guests' rows are kept (AGAIN=1 measures them again), " if len(rest) < len(todo) else ""
        minutes = sum(map(self.seconds, rest)) / jobs / 60
        return f"{kept}{len(rest)} guests to run, {jobs} at a time: about {minutes:.0f} min"

    def all(self, todo: list[plan.Boot], jobs: int, force: bool, then=None) -> list[str]:
        """Run what is not known; the names of guests that failed."""
        rest, failed, done, start = [boot for boot in todo if force or not self.known(boot)], [], 0, time.monotonic()
        for boot in rest:
            self.machine.table(boot.kernel)
        pool = ThreadPoolExecutor(jobs)
        try:
            waiting = {pool.submit(self.one, boot): boot for boot in rest}
            for future in as_completed(waiting):
                boot, done = waiting[future], done + 1
                try:
                    phases, seconds = future.result()
                except Failed as error:
                    print(f"   FAILED: {error}", flush=True)
                    failed.append(boot.name)
                    continue
                self.keep(boot, phases, seconds)
                left = (time.monotonic() - start) / done * (len(rest) - done) / 60
                print(f"   {done:3} of {len(rest)}  {boot.name:28} {seconds:4.0f} s   about {left:.0f} min left", flush=True)
                if then:
                    then(boot, phases)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self.machine.stop()
        return failed

    def one(self, boot: plan.Boot) -> tuple[list[Phase], float]:
        start = time.monotonic()
        return self.machine.run(boot, timeout=self.timeout), time.monotonic() - start

    def keep(self, boot: plan.Boot, phases: list[Phase], seconds: float) -> None:
        key = self.machine.key(boot)
        fresh = [{**row(setting, work, boot.seed, phase), "key": key, "inputs": self.machine.inputs(setting, work)}
                 for (setting, work), phase in zip(boot.phases, phases)]
        keys = {(one["setting"], one["work"], one["seed"]) for one in fresh}
        self.data["rows"] = [old for old in self.data["rows"] if (old["setting"], old["work"], old["seed"]) not in keys] + fresh
        self.data["seconds"][boot.name.rpartition(".")[0]] = round(seconds, 1)
        self.save()

    def save(self) -> None:
        new = self.store.with_suffix(".new")
        new.write_text(json.dumps(self.data, indent=1))
        new.rename(self.store)

    def finish(self, complete: bool) -> None:
        self.data["complete"] = complete
        self.save()

    def wall(self, pairs: int, force: bool, quick: bool) -> None:
        """Real time: the same work with and without, in turn, within one guest, alone on the machine. Noisy."""
        for work in plan.WALL_WORKS:
            for setting in plan.WALL_SETTINGS[:1] if quick else plan.WALL_SETTINGS:
                base = plan.wall_base(setting)
                order = [(base, work)] + [(name, work) for _ in range(pairs) for name in (base, setting)]
                boot = plan.Boot(f"wall.{setting}.{work}", plan.SETTINGS[setting].kernel, order,
                                 more={**plan.WALL_WORKS[work], **plan.WALL_WORDS})
                key = self.machine.key(boot)
                if not force and any(one["key"] == key for one in self.data["wall"]):
                    continue
                phases = self.machine.run(boot, counted=False, timeout=self.timeout)[1:]
                ratios = [off.nanoseconds / on.nanoseconds for off, on in zip(phases[::2], phases[1::2])]
                self.data["wall"] = [one for one in self.data["wall"] if (one["work"], one["setting"]) != (work, setting)]
                self.data["wall"].append({"work": work, "setting": setting, "base": base, "ratios": ratios, "key": key,
                                          "inputs": self.machine.inputs(setting, work)})
                self.save()
                print(f"   wall clock  {setting} {work}: {pairs} pairs", flush=True)

"""Leads all peers through all works: at each size, each peer gets ready, then round after round each has its turn, so
that a machine that changes its speed changes it for all.

A peer that is missing is named with the reason, and so is each size that a peer does not do: because it would not be
over in its time, or because it failed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import fresh, machine, works
from .player import load
from .side import LeftOut, Missing, Side
from .timing import p50, p99, share
from .works import Work

ORDER = (
    "guildhall", "dask", "dask_pubsub", "ray", "manager", "multiprocessing", "process_pool", "loky", "filelock",
    "diskcache", "redis", "zmq",
)  # fmt: skip


Round = tuple[float, list[float]]
"""Seconds of one, and samples."""


@dataclass(frozen=True)
class Pace:
    """How much time a run takes."""

    rounds: int
    round_s: float
    enough_s: float
    """A peer that took so long at one size has no further rounds. A first run that took twice that is its figure."""
    limit_s: float
    """A size of which one run would take longer is left out."""
    fresh_rounds: int
    idle_s: float
    total_s: float
    """When so much time has passed, what has not begun is left out."""


FULL = Pace(rounds=5, round_s=0.25, enough_s=3.0, limit_s=12.0, fresh_rounds=3, idle_s=3.0, total_s=1150.0)
QUICK = Pace(rounds=3, round_s=0.1, enough_s=0.5, limit_s=3.0, fresh_rounds=1, idle_s=2.0, total_s=240.0)


@dataclass
class Results:
    machine: dict[str, Any]
    is_quick: bool
    cores_busy_with_others: float
    """Before anything was measured."""
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    load: dict[str, float] = field(default_factory=dict)
    """The machine's load average as each work began; our own processes are part of it."""
    took_s: float = 0.0

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


class Run:
    def __init__(self, pace: Pace, *, is_quick: bool, peers: Iterable[str] = (), asked: Iterable[str] = ()) -> None:
        self.pace = pace
        self.is_quick = is_quick
        self.works = [work for work in works.ALL if not asked or work.name in set(asked)]
        wanted = set(peers)
        kinds = {module: load(module) for module in ORDER}
        self.sides = [Side(module, kind) for module, kind in kinds.items() if not wanted or module in wanted]
        busy = machine.busy_with_others()
        self.results = Results(machine.facts(), is_quick, busy)
        self.began = time.perf_counter()

    def all(self) -> Results:
        try:
            for at, work in enumerate(self.works):
                self.results.load[work.name] = round(os.getloadavg()[0], 2)
                self.say(work.title)
                if work.kind == "fresh":
                    self.fresh(work)
                else:
                    self.measured(work)
                self._stop_idle(self.works[at + 1 :])
        finally:
            for side in self.sides:
                side.stop()
        self.results.took_s = round(time.perf_counter() - self.began, 1)
        return self.results

    def say(self, what: str) -> None:
        print(f"{time.perf_counter() - self.began:7.1f} s  {what}", file=sys.stderr, flush=True)

    def _stop_idle(self, to_come: list[Work]) -> None:
        """Who has nothing more to do shall not cost the others anything."""
        for side in self.sides:
            if not any(work.name in side.kind.all_works() and work.kind != "fresh" for work in to_come):
                side.stop()

    # -- in processes that stay ---------------------------------------------------------------------------------------

    def measured(self, work: Work) -> None:
        sides = [side for side in self.sides if work.name in side.kind.all_works() and self._is_there(side)]
        points = work.asked(self.is_quick)
        costs: dict[str, list[float]] = {}
        for at, x in enumerate(points):
            ready, first = [], {}
            for side in sides:
                if time.perf_counter() - self.began > self.pace.total_s:
                    self._leave(work, side, x, f"the time of the whole run, {self.pace.total_s:.0f} s, was up")
                    continue
                try:
                    first[side.name] = side.ask("prepare", work.name, x, within_s=10 * self.pace.limit_s + 30)
                    ready.append(side)
                except LeftOut as why:
                    self._leave(work, side, x, str(why))
                    self._finish(side)
            took = {side.name: self._point(work, side, x, found) for side, found in self._rounds(work, ready, x, first)}
            for side in ready:
                self._finish(side)
                costs.setdefault(side.name, []).append(took.get(side.name) or first[side.name][0])
            if at + 1 < len(points):
                sides = self._who_goes_on(work, sides, costs, points[at:])

    def _is_there(self, side: Side) -> bool:
        if side.name in self.results.missing:
            return False
        try:
            side.start()
        except Missing as why:
            self.results.missing[side.name] = str(why)
            self.say(f"  {side.name} is missing: {why}")
            return False
        self.results.versions[side.name] = side.version
        return True

    def _finish(self, side: Side) -> None:
        try:
            side.ask("finish")
        except (LeftOut, OSError):
            side.stop(in_peace=False)  # It is started anew when it is needed again.

    def _rounds(
        self, work: Work, ready: list[Side], x: int, first: dict[str, tuple[float, float]]
    ) -> list[tuple[Side, list[Round]]]:
        """Of each, the rounds: seconds for one, and samples."""
        found: dict[str, list[Round]] = {side.name: [] for side in ready}
        spent = dict.fromkeys(found, 0.0)
        if work.kind == "whole":
            for name, (_, run_s) in first.items():
                if name in found and run_s > 2 * self.pace.enough_s:
                    found[name], spent[name] = [(run_s, [run_s])], run_s
        failed: set[str] = set()
        for _ in range(self.pace.rounds):
            for side in ready:
                if side.name in failed or spent[side.name] > self.pace.enough_s:
                    continue
                began = time.perf_counter()
                try:
                    found[side.name].append(side.ask("round", self.pace.round_s))
                except (LeftOut, OSError) as why:
                    failed.add(side.name)
                    self._leave(work, side, x, str(why))
                spent[side.name] += time.perf_counter() - began
        return [(side, found[side.name]) for side in ready if found[side.name] and side.name not in failed]

    def _point(self, work: Work, side: Side, x: int, found: list[Round]) -> float:
        """Note a point. Returns the seconds of one run."""
        rounds, samples = [one for one, _ in found], [sample for _, some in found for sample in some]
        every = samples if work.kind in ("call", "whole") else rounds
        point = {
            "work": work.name, "peer": side.name, "x": x, "value": value_of(work, x, p50(every)),
            "p99": value_of(work, x, p99(every)), "rounds": [value_of(work, x, one) for one in rounds],
            "samples": len(every),
        }  # fmt: skip
        if work.kind == "together" and samples:
            point["call_us"] = {
                "p50": p50(samples) * 1e6,
                "p99": p99(samples) * 1e6,
                "p99.9": share(samples, 0.999) * 1e6,
            }
        self.results.points.append(point)
        return p50(rounds) if work.kind == "whole" else 0.0

    def _leave(self, work: Work, side: Side, x: int, why: str) -> None:
        self.results.left_out.append({"work": work.name, "peer": side.name, "x": x, "why": why})
        self.say(f"  {side.name}, {x}: {why}")

    def _who_goes_on(
        self, work: Work, sides: list[Side], costs: dict[str, list[float]], points: tuple[int, ...]
    ) -> list[Side]:
        """Those for whom the next size will be over in time. `costs`: seconds of one run at each size so far."""
        x, *larger = points
        failed = {one["peer"]: one["why"] for one in self.results.left_out if (one["work"], one["x"]) == (work.name, x)}
        going = []
        for side in sides:
            expected = expected_s(work, costs.get(side.name, []), larger[0] / x)
            if side.name not in failed and expected <= self.pace.limit_s:
                going.append(side)
                continue
            late = f"would take about {expected:.0f} s, at most {self.pace.limit_s:g} s are given"
            for size in larger:
                self._leave(work, side, size, failed.get(side.name, late))
        return going

    # -- in processes that are started anew --------------------------------------------------------------------------

    def fresh(self, work: Work) -> None:
        """`start`, `memory` and `idle` are found in the same runs; the first of them that is asked for makes them."""
        asked = {one.name for one in self.works}
        names = {"import"} if work.name == "import" else {"start", "memory", "idle"} & asked
        if any(point["work"] == work.name for point in self.results.points):
            return
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(self.pace.fresh_rounds):
            for side in self.sides:
                if work.name not in side.kind.all_works() or side.name in self.results.missing:
                    continue
                try:
                    new = (
                        fresh.imported(side.kind)
                        if work.name == "import"
                        else fresh.started(side.kind, self.pace.idle_s)
                    )
                    found.setdefault(side.name, []).append(new)
                except (LeftOut, OSError) as why:
                    self.results.missing[side.name] = str(why)
                    self.say(f"  {side.name} is missing: {why}")
        for name in sorted(names):
            for peer, some in found.items():
                values = [one[name] for one in some]
                point = {"work": name, "peer": peer, "x": 1, "value": p50(values), "p99": p99(values)}
                self.results.points.append({**point, "rounds": values, "samples": len(values)})


def expected_s(work: Work, costs: list[float], grows: float) -> float:
    """Seconds of a run that is so many times larger than the last. What the first took is no matter of size, except of
    tasks."""
    if not costs:
        return 0.0
    if work.kind in ("together", "fan-out"):
        return costs[-1]
    base = 0.0 if work.axis in ("tasks", "leaves") else costs[0]
    return base + (costs[-1] - base) * grows


def value_of(work: Work, x: int, seconds: float) -> float:
    """In the work's unit, of the seconds of a call, of a run, or for one of what all did together."""
    if work.unit == "us":
        return seconds * 1e6
    if work.unit == "MB/s":
        return x / seconds / 1e6
    done = 2 * x - 1 if work.name == "tree" else x
    return (done if work.kind == "whole" else 1) / seconds

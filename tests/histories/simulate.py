"""Random programs of every primitive, in simulated processes: `make simulate SEED=4711 STEPS=1000000 MINUTES=60`.

The program of each seed is checked against its model; the first that fails is printed with its history and the command
that runs it again. `make mutations` breaks primitives on purpose and tells how long it takes to find each.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from broken import FAULTS
from models import Wrong
from programs import PLAYERS
from runs import Program, cross_check

from guildhall.store.lmdb import LmdbStore

KINDS = list(PLAYERS)
OVER_LMDB = 8
"""One of so many programs runs over the embedded store, the others over the store in memory."""
APART = 1 << 30
"""So far are the first seeds of two processes from one another."""
SHOWN_S = 60
"""How often a long run says that it goes on."""
MOST = 20_000
"""A fault that so many programs do not find is not found."""
FOUND = (Wrong, AssertionError, TimeoutError)


class Failed(Exception):
    """A program that did not come to what its model says."""

    def __init__(self, program: Program, error: BaseException) -> None:
        again = f"make simulate SEED={program.seed} PROGRAMS=1 KIND='{program.kind}'"
        super().__init__(f"{program.kind}, seed {program.seed} (again: {again}): {type(error).__name__}: {error}")
        self.program = program

    def told(self) -> str:
        """With its history."""
        return f"{self}\n\nIts history:\n{self.program.history}\n\n{self}"


class Tally:
    """What was run so far."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.programs: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()

    def add(self, program: Program) -> None:
        sim, history = program.sim, program.history
        self.programs[program.kind] += 1
        self.sums += Counter(
            steps=sim.steps,
            kills=sim.kills,
            pauses=len(sim.pauses),
            calls=len(history.calls),
            commits=len(history.commits),
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def __str__(self) -> str:
        sums = self.sums
        return (
            f"{sum(self.programs.values())} programs, {sums['steps']} steps, {sums['kills']} kills, "
            f"{sums['pauses']} pauses, {sums['calls']} calls, {sums['commits']} commits, {self.seconds:.1f} s"
        )


def one(seed: int, store: LmdbStore, kinds: list[str] = KINDS) -> Program:
    """The program of that seed, run and checked. Raises Failed."""
    kind = kinds[seed % len(kinds)]
    program = Program(kind, seed, store if random.Random(seed).randrange(OVER_LMDB) == 0 else None)
    try:
        program.run()
        program.check()
        cross_check(kind, program.terms, program.history)
    except Exception as error:
        raise Failed(program, error) from error
    return program


def simulate(
    seed: int, *, steps: int, programs: int, minutes: float, kinds: list[str] = KINDS, tally: Tally | None = None
) -> Tally:
    """Programs from that seed on, until any of the limits (0: none)."""
    tally, shown = tally or Tally(), SHOWN_S
    with tempfile.TemporaryDirectory() as directory:
        LmdbStore.create(directory, in_memory=False)
        store = LmdbStore(directory, in_memory=False)
        try:
            while not _is_enough(tally, steps, programs, minutes):
                tally.add(one(seed, store, kinds))
                seed += 1
                if tally.seconds > shown:
                    shown += SHOWN_S
                    print(f"... {tally}; next seed {seed}", flush=True)
        finally:
            store.close()
    return tally


def simulate_apart(jobs: int, seed: int, **options: Any) -> tuple[Tally, list[str]]:
    """As many processes, each with seeds of its own, so far apart that they never meet. What all did, and what each
    found that failed."""
    share = dict(options)
    for what in ("steps", "programs"):
        share[what] = -(-options[what] // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        played = [pool.submit(_one_job, seed + number * APART, share) for number in range(jobs)]
        tally, failures = Tally(), []
        for job in played:
            programs, sums, failure = job.result()
            tally.programs += programs
            tally.sums += sums
            failures += [failure] if failure else []
    return tally, failures


def _one_job(seed: int, options: dict[str, Any]) -> tuple[Counter[str], Counter[str], str]:
    tally = Tally()
    try:
        simulate(seed, **options, tally=tally)
    except Failed as failed:
        return tally.programs, tally.sums, failed.told()
    return tally.programs, tally.sums, ""


def _is_enough(tally: Tally, steps: int, programs: int, minutes: float) -> bool:
    done = sum(tally.programs.values())
    return bool(
        (steps and tally.sums["steps"] >= steps)
        or (programs and done >= programs)
        or (minutes and tally.seconds >= minutes * 60)
    )


# -- faults -----------------------------------------------------------------------------------------------------------


def time_to_catch(fault_number: int) -> tuple[int, float]:
    """How many programs it took to find that fault, and how many seconds. Raises Wrong if it was not found."""
    fault, kind, _ = FAULTS[fault_number]
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        for seed in range(MOST):
            program = Program(kind, seed)
            try:
                program.run()
                program.check()
            except FOUND:
                return seed + 1, time.monotonic() - began
    raise Wrong(f"{fault.__name__} in {kind}: {MOST} programs did not find it")


def mutations() -> int:
    """The number of faults that were not found."""
    missed = 0
    print(f"{'fault':44} {'in':13} {'programs':>8} {'seconds':>8}")
    for number, (fault, kind, _) in enumerate(FAULTS):
        try:
            programs, seconds = time_to_catch(number)
            print(f"{fault.__name__.replace('_', ' '):44} {kind:13} {programs:8} {seconds:8.2f}")
        except Wrong as error:
            missed += 1
            print(f"NOT FOUND: {error}")
    print(f"{len(FAULTS) - missed} of {len(FAULTS)} faults found")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first program; the next has the next (default: a random one)")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps of all programs")
    parser.add_argument("--programs", type=int, default=0, help="stop after so many programs")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many minutes")
    parser.add_argument("--kind", choices=KINDS, help="one primitive only")
    parser.add_argument("--jobs", type=int, default=1, help="in so many processes, each with seeds of its own")
    parser.add_argument("--mutations", action="store_true", help="break primitives on purpose, and find that")
    given = parser.parse_args()
    if given.mutations:
        return min(mutations(), 1)
    seed = random.randrange(1 << 30) if given.seed is None else given.seed
    programs = given.programs or (0 if given.steps or given.minutes else 10_000)
    print(f"seed {seed}", flush=True)
    kinds = [given.kind] if given.kind else KINDS
    options = {"steps": given.steps, "programs": programs, "minutes": given.minutes, "kinds": kinds}
    tally, failures = Tally(), list[str]()
    if given.jobs > 1:
        tally, failures = simulate_apart(given.jobs, seed, **options)
    else:
        try:
            simulate(seed, **options, tally=tally)
        except Failed as failed:
            failures.append(failed.told())
    for told in failures:
        print(told)
    print(", ".join(f"{kind} {count}" for kind, count in tally.programs.items()))
    print(f"{tally}; {len(failures)} failed" if failures else f"{tally}; none failed")
    return min(len(failures), 1)


if __name__ == "__main__":
    sys.exit(main())

"""Real processes while everything goes wrong: `make chaos MINUTES=10`.

Rounds of a few seconds, each in a hall of its own, on a small memory file system, in shared memory or on disk
(durable): processes that opened the hall, children that they forked, and workers of a Client use some primitives at
random. Meanwhile they are killed (SIGKILL, one or all at once: then others open what is there), stopped (SIGSTOP,
SIGCONT), starved of memory, and the wall clock is stepped. Then it is calm: each must come to its end (zero stuck), a
last process looks at what is left, and the history of all is checked against the models (zero lost, zero doubled).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from broken import FAULTS
from checker import check
from crowd import Embedded, Part, Scene, Sky, drain, foreman, hog, live
from programs import PLAYERS
from runs import left_behind

from guildhall import Queue
from guildhall.primitives import queue, sessions
from guildhall.store.keys import pack_id
from guildhall.testing.recorder import Files, History

ROUND_S = 10.0
PROCESSES = 6
AT_A_TIME = 3
"""So many kinds of things are in one hall."""
LEAST_KILLS = 5
"""A round that is short goes on until there were so many."""
CALM_S = 60
"""So long after the last trouble every process must have come to its end."""
DAY_NS = 86_400 * 10**9
STEPS_S = (0.001, 0.1, 3.0, 3600.0)
SUBREAPER, DEATH_SIGNAL = 36, 1


class Trouble(AssertionError):
    """Something was lost, doubled or stuck."""


class Round:
    """One hall and its crowd, from its beginning to the verdict."""

    def __init__(self, scene: Scene, dice: random.Random, *, is_small: bool, has_workers: bool) -> None:
        self.scene, self.dice = scene, dice
        self.is_small, self.has_workers = is_small, has_workers
        self.counts: Counter[str] = Counter()
        self._crowd: dict[int, str] = {}
        """Our children, and what each does."""

    def run(self, seconds: float) -> Counter[str]:
        """Raises Trouble, or what the check raises."""
        for name in ("logs", "pids", "forks"):
            (self.scene.directory / name).mkdir()
        Sky.made(self.scene.directory / "sky")
        self._trouble_for(seconds)
        self._calm_down()
        self._judge()
        return self.counts

    # -- trouble ------------------------------------------------------------------------------------------------------

    def _trouble_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        kinds = [self._kill] * 20 + [self._stop] * 20 + [self._step_clock] * 3 + [self._kill_all]
        while time.monotonic() < until or self.counts["kills"] < LEAST_KILLS:
            self._reap()
            self._people()
            time.sleep(self.dice.uniform(0.001, 0.04))
            self.dice.choice(kinds)()

    def _people(self) -> None:
        """As many as there should be."""
        doing = list(self._crowd.values())
        if self.is_small and "hog" not in doing:
            self._start("hog", lambda: hog(self.scene))
        if self.has_workers and "foreman" not in doing:
            seed = self.dice.randrange(1 << 30)
            self._start("foreman", lambda: foreman(self.scene, seed))
        for _ in range(PROCESSES - doing.count("plain")):
            number, seed = self.dice.randrange(len(self.scene.parts)), self.dice.randrange(1 << 30)
            self._start("plain", lambda number=number, seed=seed: live(self.scene, number, seed))  # type: ignore[misc]

    def _start(self, what: str, play: Callable[[], object]) -> None:
        pid = os.fork()
        if pid:
            self._crowd[pid] = what
            return
        try:
            ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)  # It is not to outlive us.
            play()
        except BaseException:
            self.scene.complain()
        finally:
            os._exit(0)

    def _enrolled(self) -> list[int]:
        """Who is there of the crowd: children, theirs, and workers. Not the foreman: its tasks are to end."""
        ours = {process.pid for process in psutil.Process().children(recursive=True)}
        named = {int(path.name) for path in (self.scene.directory / "pids").iterdir()}
        return sorted(pid for pid in ours & named if self._crowd.get(pid) != "foreman")

    def _kill(self) -> None:
        if enrolled := self._enrolled():
            self.counts["kills"] += _signal(self.dice.choice(enrolled), signal.SIGKILL)

    def _stop(self) -> None:
        if enrolled := self._enrolled():
            pid = self.dice.choice(enrolled)
            self.counts["stops"] += _signal(pid, signal.SIGSTOP)
            time.sleep(self.dice.uniform(0.0, 0.03))
            _signal(pid, signal.SIGCONT)

    def _kill_all(self) -> None:
        """Nobody is in the hall any more; whoever comes next finds it as it is."""
        everybody = psutil.Process().children(recursive=True)
        self.counts["kills"] += sum(_signal(process.pid, signal.SIGKILL) for process in everybody)
        self.counts["all at once"] += 1
        self._await(lambda: not psutil.Process().children(recursive=True), "killed processes are there still")

    def _step_clock(self) -> None:
        sky = self.scene.sky
        sky.offset_ns += round(self.dice.choice(STEPS_S) * self.dice.choice((-1, 1)) * 1e9)
        self.counts["clock steps"] += 1

    def end(self) -> None:
        """Whatever happened, nobody is there afterwards."""
        for process in psutil.Process().children(recursive=True):
            _signal(process.pid, signal.SIGKILL)
        self._await(lambda: not psutil.Process().children(recursive=True), "killed processes are there still")

    # -- the end ------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Also those whose parents died: they are ours then."""
        with suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._crowd.pop(pid, None)

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + CALM_S
        while not is_so():
            self._reap()
            if time.monotonic() > until:
                left = psutil.Process().children(recursive=True)
                raise Trouble(f"stuck: {what}: {len(left)} processes, such as {[_shown(p) for p in left[:8]]}")
            time.sleep(0.01)

    def _calm_down(self) -> None:
        self.scene.sky.is_calm = True
        self._await(lambda: not psutil.Process().children(recursive=True), "when all is calm, they do not end")
        errors = self.scene.directory / "errors"
        if errors.exists():
            raise Trouble(errors.read_text())
        self.counts["forks"] += len(list((self.scene.directory / "forks").iterdir()))
        if (tasks := self.scene.directory / "tasks").exists():
            self.counts["tasks"] += len(tasks.read_text().split())

    def _judge(self) -> None:
        self._start("judge", lambda: audit(self.scene))
        self._await(lambda: not self._crowd, "the last one does not end")
        errors = self.scene.directory / "errors"
        if errors.exists():
            raise Trouble(errors.read_text())
        self.check(Files(self.scene.logs).history())

    def check(self, history: History) -> None:
        models = {}
        for part in self.scene.parts:
            model = models[part.kind, part.kind] = PLAYERS[part.kind].model(part.terms)
            model.may_die_unseen = True
        self.counts["operations"] += len(history.calls)
        self.counts["commits"] += len(history.commits)
        self.counts["in doubt"] += history.doubtful
        check(history, models, history.commits[0].number)
        self.counts["histories checked"] += len(models)


def _signal(pid: int, what: signal.Signals) -> int:
    """Whether it was there to hear it."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return 0
    return 1


def _shown(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return f"{process.pid} ({process.status()}: {' '.join(process.cmdline())[:80]})"
    return "gone"


def audit(scene: Scene) -> None:
    """Look, when all are gone, at what is left."""
    scene.sky.offset_ns += DAY_NS  # What was delayed is there.
    with scene.entered() as (hall, files, _):
        hall.host.bury_dead()
        drain(Queue("hog", hall=hall))
        for part in scene.parts:
            part.player(hall, files, random.Random(0)).audit()
        mine = (sessions.SESSIONS, queue.HANDS + pack_id(hall.host.session))
        left = [key for key in hall.host.read(left_behind) if not key.startswith(mine)]
        if left:
            raise Trouble(f"left behind: {left}")


# -- rounds -----------------------------------------------------------------------------------------------------------


@contextmanager
def places(number: int) -> Iterator[tuple[Path, Embedded, bool]]:
    """Where the next round is: the directory of its records, its hall, and whether that has little room."""
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    home = Path(tempfile.mkdtemp(prefix="guildhall-chaos-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    os.environ["GUILDHALL_HOME"] = str(home)
    small = directory / "small"
    small.mkdir(mode=0o700)
    is_mounted = False
    try:
        if number % 3 == 0:
            mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", str(small)]
            is_mounted = not subprocess.run(mount, capture_output=True).returncode
            if not is_mounted:
                print("no right to mount a small file system: memory is never full", flush=True)
        if number % 3 == 1:
            yield directory, Embedded(str(directory / "hall"), durable=True), False
        else:
            yield directory, Embedded(str((small if is_mounted else home) / "hall")), is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(small)], check=True)
        for place in (directory, home):
            shutil.rmtree(place, ignore_errors=True)


def one_round(seed: int, number: int, seconds: float, kinds: list[str]) -> Counter[str]:
    """The round of that number. Which processes meet how, no seed decides; what they are and what is done to them, it
    does."""
    dice = random.Random(f"{seed} {number}")
    with places(number) as (directory, ground, is_small):
        chosen = dice.sample(kinds, min(AT_A_TIME, len(kinds)))
        parts = tuple(Part(kind, PLAYERS[kind].draw(dice) | PLAYERS[kind].in_a_storm) for kind in chosen)
        scene = Scene(ground, parts, directory)
        has_workers = dice.random() < 0.7
        played = Round(scene, dice, is_small=is_small, has_workers=has_workers)
        try:
            counts = played.run(seconds)
        except BaseException:
            kept = Path(tempfile.mkdtemp(prefix="guildhall-chaos-failed-"))
            shutil.copytree(scene.logs, kept / "logs")
            print(f"round {number}: {chosen} in a hall ({ground.name}); records kept in {kept}", flush=True)
            raise
        finally:
            played.end()
        memory = "little memory" if is_small else ground.name
        print(f"round {number}, {memory}{', workers' if has_workers else ''}: {', '.join(chosen)}: {_said(counts)}")
        return counts


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--round-s", type=float, default=ROUND_S)
    parser.add_argument("--kind", action="append", choices=list(PLAYERS), help="only these")
    faults = {fault.__name__: fault for fault, _, _ in FAULTS}
    parser.add_argument("--broken", choices=list(faults), help="with this fault in a primitive, which is to be found")
    given = parser.parse_args()
    if given.broken:
        faults[given.broken](pytest.MonkeyPatch())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    seed = random.randrange(1 << 30) if given.seed is None else given.seed
    began, total, number = time.monotonic(), Counter[str](), 0
    print(f"seed {seed}", flush=True)
    while time.monotonic() < began + given.minutes * 60:
        try:
            total += one_round(seed, number, given.round_s, given.kind or list(PLAYERS))
        except Exception as error:
            print(f"FAILED in round {number} of seed {seed}: {type(error).__name__}: {error}")
            return 1
        number += 1
    print(f"{_said(total)}; zero lost, zero doubled, zero stuck; {number} rounds, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

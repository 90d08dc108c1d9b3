"""Real processes while everything goes wrong: `make chaos MINUTES=10`.

Rounds of a few seconds, each in a hall of its own, in turn on this machine and in the scheduler of a Dask cluster. Here
it is on a small memory file system, in shared memory or on disk (durable); there in memory or on the scheduler's disk.
Processes that opened the hall, children that they forked, and workers of a Client use some primitives at random.
Meanwhile they are killed (SIGKILL, one or all at once: then others open what is there), stopped (SIGSTOP, SIGCONT; the
scheduler, too), starved of memory, and the wall clock is stepped. Then it is calm: each must come to its end (zero
stuck), a last process looks at what is left, and the history of all is checked against the models (zero lost, zero
doubled).
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from broken import FAULTS
from checker import check
from crowd import Embedded, Ground, Part, Scene, Sky, drain, foreman, hog, live
from programs import PLAYERS, REAL

from guildhall import Queue
from guildhall.testing.recorder import Files, History

ROUND_S = 10.0
PROCESSES = 6
WORKERS = 2
"""Of a cluster; a client on one machine has its own."""
AT_A_TIME = 3
"""So many kinds of things are in one hall."""
LEAST_KILLS = 5
"""A round that is short goes on until there were so many."""
CALM_S = 60
"""So long after the last trouble every process must have come to its end."""
DAY_NS = 86_400 * 10**9
HOME = os.environ.get("GUILDHALL_HOME") or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
"""Where the halls of the rounds are."""
FAULTS_BY_NAME = {fault.__name__: fault for fault, _, _ in FAULTS}
Tally = Counter[str]
STEPS_S = (0.001, 0.1, 3.0, 3600.0)
SUBREAPER, DEATH_SIGNAL = 36, 1


class Trouble(AssertionError):
    """Something was lost, doubled or stuck."""


class Round:
    """One hall and its crowd, from its beginning to the verdict."""

    def __init__(self, scene: Scene, dice: random.Random, site: Site, *, has_workers: bool) -> None:
        self.scene, self.dice, self.site = scene, dice, site
        self.is_small, self.has_workers = site.is_small, has_workers
        self.counts: Counter[str] = Counter()
        self._crowd: dict[int, str] = {}
        """Our children, and what each does."""

    def run(self, seconds: float) -> Counter[str]:
        """Raises Trouble, or what the check raises."""
        self._trouble_for(seconds)
        self._calm_down()
        self._judge()
        return self.counts

    # -- trouble ------------------------------------------------------------------------------------------------------

    def _trouble_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        kinds = [self._kill] * 20 + [self._stop] * 20 + [self._step_clock] * 3 + [self._kill_all]
        if self.site.cluster is not None:
            kinds += [self._stop_scheduler] * 3
        while time.monotonic() < until or self.counts["kills"] < LEAST_KILLS:
            self._reap()
            self._people()
            time.sleep(self.dice.uniform(0.001, self.scene.ground.pace_s))
            self.dice.choice(kinds)()

    def _people(self) -> None:
        """As many as there should be."""
        doing = list(self._crowd.values())
        if self.is_small and "hog" not in doing:
            self._start("hog", lambda: hog(self.scene))
        if self.has_workers and "foreman" not in doing:
            seed = self.dice.randrange(1 << 30)
            self._start("foreman", lambda: foreman(self.scene, seed))
        if self.has_workers and self.site.cluster is not None:
            from there import work

            for _ in range(WORKERS - doing.count("worker")):
                self._start("worker", lambda: work(self.scene))
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
            faulthandler.register(signal.SIGUSR1, (self.scene.directory / "stacks").open("a"))
            play()
        except BaseException:
            self.scene.complain()
        finally:
            os._exit(0)

    def _everybody(self) -> list[psutil.Process]:
        """The crowd: children, theirs, and workers, but not what stands under the hall."""
        under = self.site.cluster.scheduler if self.site.cluster is not None else 0
        return [process for process in psutil.Process().children(recursive=True) if process.pid != under]

    def _are_only_workers(self) -> bool:
        """Whether all others have come to their end: workers of a cluster, which nobody needs any more, stay."""
        workers = {pid for pid, what in self._crowd.items() if what == "worker"}
        return {process.pid for process in self._everybody()} <= workers

    def _enrolled(self) -> list[int]:
        """Who is there of the crowd and may be killed. Not the foreman: its tasks are to end."""
        ours = {process.pid for process in psutil.Process().children(recursive=True)}
        named = {int(path.name) for path in (self.scene.directory / "pids").iterdir()}
        return sorted(pid for pid in ours & named if self._crowd.get(pid) != "foreman")

    def _kill(self) -> None:
        if enrolled := self._enrolled():
            self.counts["kills"] += _signal(self.dice.choice(enrolled), signal.SIGKILL)

    def _stop(self) -> None:
        if enrolled := self._enrolled():
            pid = self.dice.choice(enrolled)
            self._stop_one(pid)

    def _stop_one(self, pid: int) -> None:
        self.counts["stops"] += _signal(pid, signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.0, 0.03))
        _signal(pid, signal.SIGCONT)

    def _stop_scheduler(self) -> None:
        assert self.site.cluster is not None, "only of a cluster"
        self._stop_one(self.site.cluster.scheduler)

    def _kill_all(self) -> None:
        """Nobody is in the hall any more; whoever comes next finds it as it is."""
        self.counts["kills"] += sum(_signal(process.pid, signal.SIGKILL) for process in self._everybody())
        self.counts["all at once"] += 1
        self._await(lambda: not self._everybody(), "killed processes are there still")

    def _step_clock(self) -> None:
        sky = self.scene.sky
        sky.offset_ns += round(self.dice.choice(STEPS_S) * self.dice.choice((-1, 1)) * 1e9)
        self.counts["clock steps"] += 1

    def end(self) -> None:
        """Whatever happened, nobody is there afterwards."""
        for process in self._everybody():
            _signal(process.pid, signal.SIGKILL)
        self._await(lambda: not self._everybody(), "killed processes are there still")

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
                left = self._everybody()
                shown = [_shown(process) for process in left[:8]]
                raise Trouble(f"stuck: {what}: {len(left)} processes, such as {shown}\n{self._stacks(left)}")
            time.sleep(0.01)

    def _stacks(self, left: list[psutil.Process]) -> str:
        """Where they are; of workers and of who has just begun nobody knows."""
        stacks = self.scene.directory / "stacks"
        for process in left:
            if self._crowd.get(process.pid) == "plain":
                _signal(process.pid, signal.SIGUSR1)
        time.sleep(1)
        return stacks.read_text() if stacks.exists() else ""

    def _calm_down(self) -> None:
        self.scene.sky.is_calm = True
        self._await(self._are_only_workers, "when all is calm, they do not end")
        self.end()
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
        scene.ground.bury_dead(hall)
        drain(Queue("hog", hall=hall))
        for part in scene.parts:
            part.player(hall, files, random.Random(0)).audit()
        if left := scene.ground.left_behind(hall):
            raise Trouble(f"left behind: {left}")


# -- rounds -----------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """Where a round is: the directory of its records, its hall, and what is under that."""

    directory: Path
    ground: Ground
    is_small: bool = False
    """Whether the hall has little room."""
    cluster: Any = None


@contextmanager
def sites(number: int, is_far: bool, broken: str | None) -> Iterator[Site]:
    """The place of the next round."""
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    for name in ("logs", "pids", "forks"):
        (directory / name).mkdir()
    Sky.made(directory / "sky")
    try:
        with (_far if is_far else _near)(directory, number, broken) as site:
            yield site
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _far(directory: Path, number: int, broken: str | None) -> Iterator[Site]:
    from there import cluster

    with cluster(directory, directory / "hall" if number % 3 == 1 else None, broken) as made:
        yield Site(directory, made.ground, cluster=made)


@contextmanager
def _near(directory: Path, number: int, broken: str | None) -> Iterator[Site]:
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="guildhall-chaos-", dir=HOME))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        os.environ["GUILDHALL_HOME"] = str(home)
        if broken:
            FAULTS_BY_NAME[broken](stack.enter_context(pytest.MonkeyPatch.context()))
        if number % 3 == 1:
            yield Site(directory, Embedded(str(directory / "hall"), durable=True))
            return
        small = stack.enter_context(_small(directory / "small")) if number % 3 == 0 else None
        yield Site(directory, Embedded(str((small or home) / "hall")), is_small=small is not None)


@contextmanager
def _small(place: Path) -> Iterator[Path | None]:
    """A file system with little room, if we may mount one."""
    place.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        print("no right to mount a small file system: memory is never full", flush=True)
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def one_round(seed: int, number: int, seconds: float, kinds: list[str], ground: str, broken: str | None) -> Tally:
    """The round of that number. Which processes meet how, no seed decides; what they are and what is done to them, it
    does."""
    dice = random.Random(f"{seed} {number}")
    is_far = ground == "dask" or (ground == "both" and number % 2 == 1)
    with sites(number // 2 if ground == "both" else number, is_far, broken) as site:
        kinds = [kind for kind in kinds if kind not in site.ground.not_told]
        chosen = dice.sample(kinds, min(AT_A_TIME, len(kinds)))
        parts = tuple(Part(kind, PLAYERS[kind].draw(dice) | PLAYERS[kind].in_a_storm) for kind in chosen)
        scene = Scene(site.ground, parts, site.directory)
        has_workers = dice.random() < 0.7
        name = "little memory" if site.is_small else site.ground.name
        played = Round(scene, dice, site, has_workers=has_workers)
        try:
            counts = played.run(seconds)
        except BaseException:
            kept = Path(tempfile.mkdtemp(prefix="guildhall-chaos-failed-"))
            shutil.copytree(site.directory, kept, dirs_exist_ok=True, ignore=_not_of_halls)
            print(f"round {number}: {chosen} in a hall ({name}); records kept in {kept}", flush=True)
            raise
        finally:
            played.end()
        print(f"round {number}, {name}{', workers' if has_workers else ''}: {', '.join(chosen)}: {_said(counts)}")
        return counts


def _not_of_halls(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("hall", "small") or name.startswith("dask-")]


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _if_there_is_dask(ground: str) -> str:
    """Its import is done once, here, and not by each process of the crowd."""
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"
    try:
        import distributed  # noqa: F401
    except ImportError:
        if ground == "dask":
            raise
        print("distributed is not installed: only halls on this machine", flush=True)
        return "embedded"
    return ground


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--round-s", type=float, default=ROUND_S)
    parser.add_argument("--kind", action="append", choices=REAL, help="only these")
    parser.add_argument("--ground", choices=("embedded", "dask", "both"), default="both", help="where halls are")
    parser.add_argument("--broken", choices=list(FAULTS_BY_NAME), help="with this fault, which is to be found")
    given = parser.parse_args()
    if given.ground != "embedded":
        given.ground = _if_there_is_dask(given.ground)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    seed = random.randrange(1 << 30) if given.seed is None else given.seed
    began, total, number = time.monotonic(), Counter[str](), 0
    print(f"seed {seed}", flush=True)
    while time.monotonic() < began + given.minutes * 60:
        try:
            kinds = given.kind or REAL
            total += one_round(seed, number, given.round_s, kinds, given.ground, given.broken)
        except Exception as error:
            print(f"FAILED in round {number} of seed {seed}: {type(error).__name__}: {error}")
            return 1
        number += 1
    print(f"{_said(total)}; zero lost, zero doubled, zero stuck; {number} rounds, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

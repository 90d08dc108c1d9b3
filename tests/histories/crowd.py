"""What the processes of `make chaos` do: plain ones, forked ones, and tasks in workers, all in one hall.

A process plays the parts of one kind until the sky is calm. It opens the hall itself, writes down what it does, and
takes the time from the sky, where it may be stepped.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from programs import PLAYERS
from runs import left_behind

import guildhall
from guildhall import Client, Hall, KilledWorker, Queue, StoreFull, TimedOut
from guildhall.primitives import queue, sessions
from guildhall.store.keys import pack_id
from guildhall.testing.clock import turned_by_hand
from guildhall.testing.recorder import Files, recording

LONG_S = 0.1
"""How long a patient call waits."""
FORK = 0.001
"""How often a process forks, at each step; a forked one does not."""
FORKED_S = 1.0
"""How long a forked process goes on."""
ERRAND_S = 0.3
"""How long a task goes on."""
DRAIN_S = 20.0
BIG = "x" * 50_000
_SKY = struct.Struct("<qq")


class Ground(Protocol):
    """Where a hall is, how a process gets into it, and how what it does there is written down. Another host has one of
    its own (`there`); the checker needs every commit's number and order, whoever makes it."""

    pace_s: ClassVar[float]
    """How long it is until the next trouble, at most."""
    not_told: ClassVar[tuple[str, ...]]
    """Kinds whose promises do not hold for these processes."""

    @property
    def name(self) -> str: ...

    def join(self) -> Hall:
        """This process's way in."""

    def client(self) -> Client:
        """One whose workers have a way in, too."""

    def recording(self, logs: Path) -> AbstractContextManager[Files]:
        """Until its end, what this process and its children do in the hall is written down there."""

    def bury_dead(self, hall: Hall) -> None:
        """When all others have gone: until what they held is given back."""

    def left_behind(self, hall: Hall) -> list[bytes]:
        """What is in the hall then that nobody may leave there."""


@dataclass(frozen=True)
class Embedded:
    """A hall at a path of this machine."""

    path: str
    durable: bool = False
    pace_s: ClassVar[float] = 0.04
    not_told: ClassVar[tuple[str, ...]] = ()

    def recording(self, logs: Path) -> AbstractContextManager[Files]:
        return recording(logs)

    @property
    def name(self) -> str:
        return "durable" if self.durable else "embedded"

    def join(self) -> Hall:
        return guildhall.open(Path(self.path), durable=self.durable)

    def client(self) -> Client:
        return Client(n_workers=2, threads_per_worker=1)

    def bury_dead(self, hall: Hall) -> None:
        hall.host.bury_dead()

    def left_behind(self, hall: Hall) -> list[bytes]:
        mine = (sessions.SESSIONS, queue.HANDS + pack_id(hall.host.session))
        return [key for key in hall.host.read(left_behind) if not key.startswith(mine)]


class Sky:
    """What all processes of a round see: whether it is calm, and how far the wall clock was stepped."""

    @classmethod
    def made(cls, path: Path) -> Sky:
        path.write_bytes(bytes(_SKY.size))
        return cls(path)

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SKY.size)

    @property
    def is_calm(self) -> bool:
        return bool(_SKY.unpack_from(self._memory)[0])

    @is_calm.setter
    def is_calm(self, calm: bool) -> None:
        _SKY.pack_into(self._memory, 0, calm, self.offset_ns)

    @property
    def offset_ns(self) -> int:
        return int(_SKY.unpack_from(self._memory)[1])

    @offset_ns.setter
    def offset_ns(self, offset: int) -> None:
        _SKY.pack_into(self._memory, 0, self.is_calm, offset)

    def wall_ns(self) -> int:
        return time.time_ns() + self.offset_ns


@dataclass(frozen=True)
class Part:
    """One thing of a round: its kind, and what all its handles agree on."""

    kind: str
    terms: dict[str, Any]

    def player(self, hall: Hall, files: Files, dice: random.Random) -> Any:
        return PLAYERS[self.kind](self.kind, hall, files.log, dice, self.terms)


@dataclass(frozen=True)
class Scene:
    """A round: where, what, and the directory of its records."""

    ground: Ground
    parts: tuple[Part, ...]
    directory: Path

    @property
    def sky(self) -> Sky:
        return Sky(self.directory / "sky")

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    def enroll(self) -> None:
        """This process may be killed, stopped, and waited for."""
        (self.directory / "pids" / str(os.getpid())).touch()

    def complain(self) -> None:
        """Write down the error that is being handled."""
        with (self.directory / "errors").open("a") as file:
            file.write(f"process {os.getpid()}:\n{traceback.format_exc()}\n")

    @contextmanager
    def entered(self) -> Iterator[tuple[Hall, Files, Sky]]:
        """In the hall, writing down what is done there, under the sky's time."""
        sky = self.sky
        time_of_sky = turned_by_hand(time.monotonic_ns, sky.wall_ns)
        with time_of_sky, self.ground.recording(self.logs) as files, _patiently(self.ground) as hall:
            yield hall, files, sky


def _patiently(ground: Ground) -> Hall:
    """The hall, also if it is full at the moment."""
    until = time.monotonic() + 30
    while True:
        try:
            return ground.join()
        except StoreFull:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def live(scene: Scene, number: int, seed: int, seconds: float | None = None) -> int:
    """Play the part of that number until it is calm, or for so long. Returns how many steps that were."""
    scene.enroll()
    part, dice, steps = scene.parts[number], random.Random(seed), 0
    until = None if seconds is None else time.monotonic() + seconds
    with scene.entered() as (hall, files, sky):
        player: Any = None
        while not sky.is_calm and (until is None or time.monotonic() < until):
            with suppress(StoreFull):
                if player is None:
                    player = part.player(hall, files, dice)
                    player.long_s = LONG_S
                player.step()
                steps += 1
            if until is None and dice.random() < FORK and not os.fork():
                scene.enroll()
                player, dice, until = None, random.Random(os.getpid() + seed), time.monotonic() + FORKED_S
                (scene.directory / "forks" / str(os.getpid())).touch()
            if dice.random() < 0.3:
                time.sleep(dice.uniform(0, 0.001))
    return steps


def hog(scene: Scene) -> None:
    """Fill the hall until nothing more fits, and empty it again."""
    scene.enroll()
    with scene.entered() as (hall, _, sky):
        room = Queue("hog", hall=hall)
        while not sky.is_calm:
            with suppress(StoreFull):
                for _ in range(2000):
                    room.put(BIG)
            time.sleep(0.05)
            drain(room)
            time.sleep(0.2)
        drain(room)


def drain(room: Queue) -> None:
    """Empty it, as can be done with a full hall. Not at once, perhaps: while somebody is stopped who reads, no page can
    be used that was given up since."""
    until = time.monotonic() + DRAIN_S
    while time.monotonic() < until:
        try:
            room.get(timeout=0)
        except TimedOut:
            return
        except StoreFull:
            time.sleep(0.01)
    raise TimeoutError(f"a full hall could not be emptied in {DRAIN_S} s")


def foreman(scene: Scene, seed: int) -> None:
    """Give workers the parts as tasks, again and again, until it is calm; each comes to an end or was killed.

    Without `client.run`: what a function that is no task took in a worker may be given back by anybody at any time, so
    a circle of waits through such a worker is not told.
    """
    scene.enroll()
    dice, sky = random.Random(seed), scene.sky
    with scene.ground.client() as client:
        running: list[Any] = []
        while not sky.is_calm or running:
            while len(running) < 3 and not sky.is_calm:
                number = dice.randrange(len(scene.parts))
                running.append(client.submit(live, scene, number, dice.randrange(1 << 30), ERRAND_S, pure=False))
            future = running.pop(0)
            with suppress(KilledWorker):
                steps = future.result(timeout=60)
                with (scene.directory / "tasks").open("a") as file:
                    file.write(f"{steps}\n")

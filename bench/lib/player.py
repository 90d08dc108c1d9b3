"""One peer, in a process of its own (perhaps of another Python): does what `lib.run` orders, round by round.

Run as `python -m lib.player MODULE FD`. An order is a tuple, an answer (True, value), (False, text of an error) or
("left", why).
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from . import members, works
from .peer import Left, Peer
from .timing import during

FEW = 20_000
"""So many samples of a round are told; of more, each so-and-so-many-th."""


class Player:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        peer.inherit()
        self.members = members.Members(peer)
        peer.start()
        self.stack = ExitStack()
        self.round: Callable[[float], tuple[float, list[float]]]

    def prepare(self, name: str, x: int) -> tuple[float, float]:
        """Get ready for the work at this size. Returns the seconds of all that, and of the first run alone."""
        began = ready = time.perf_counter()
        kind = works.BY_NAME[name].kind
        if kind in ("together", "fan-out"):
            if x > self.peer.most_processes:
                raise Left(f"more than {self.peer.most_processes} processes take it too long to start")
            self.round = self._together(name, x) if kind == "together" else self._fan_out(name, x)
        else:
            call = self.peer.works[name](self.peer, x)
            ready = time.perf_counter()
            call()
            self.round = lambda seconds: self._calls(call, seconds)
        now = time.perf_counter()
        return now - began, now - ready

    def finish(self) -> None:
        self.stack.close()
        self.peer.tidy()

    def _calls(self, call: Callable[[], Any], seconds: float) -> tuple[float, list[float]]:
        taken = during(call, seconds)
        return sum(taken) / len(taken), taken[:: len(taken) // FEW + 1]

    def _together(self, name: str, x: int) -> Callable[[float], tuple[float, list[float]]]:
        """A round tells seconds for each call of all together, and seconds of single calls."""
        links = self.stack.enter_context(self.members.together(name, x, self.peer.address()))

        def go(seconds: float) -> tuple[float, list[float]]:
            count, samples = members.work(links, seconds)
            return seconds / max(count, 1), samples

        go(0.1)
        return go

    def _fan_out(self, name: str, x: int) -> Callable[[float], tuple[float, list[float]]]:
        """A round tells seconds for each delivery."""
        links = self.stack.enter_context(self.members.together(name, x, self.peer.address()))
        put = self.peer.works[name](self.peer, -x)
        pace = [0.001]

        def go(seconds: float) -> tuple[float, list[float]]:
            count = max(int(seconds / pace[0]), 10)
            members.receive(links, count)
            began = time.perf_counter()
            for number in range(count):
                put(number)
            got, end = members.received(links)
            if got < count * x:
                raise Left(f"{count * x - got} of {count * x} messages did not arrive")
            pace[0] = (end - began) / count
            return (end - began) / got, []

        go(0.05)
        return go

    def close(self) -> None:
        self.members.close()
        self.peer.stop()


def load(module: str) -> type[Peer]:
    return next(
        kind
        for kind in vars(import_module(f"peers.{module}")).values()
        if isinstance(kind, type) and issubclass(kind, Peer) and kind.__module__ == f"peers.{module}"
    )


def main(module: str, descriptor: int) -> None:
    link = Connection(descriptor)
    try:
        player = Player(load(module)())
        link.send((True, player.peer.version()))
    except BaseException as error:
        link.send((False, f"{type(error).__name__}: {error}"))
        return
    try:
        while order := link.recv():
            link.send(_answer(player, order))
    except EOFError:
        pass  # Who leads is gone.
    finally:
        player.close()


def _answer(player: Player, order: tuple[Any, ...]) -> tuple[Any, Any]:
    try:
        return True, getattr(player, order[0])(*order[1:])
    except Left as why:
        return "left", str(why)
    except Exception:
        return False, traceback.format_exc(limit=-6)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

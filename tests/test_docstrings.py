"""The examples in docstrings run, each in a hall of its own, with what it leaves to the reader given: the names that it
does not define, and the others whom it speaks of."""

from __future__ import annotations

import inspect
import re
import signal
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import guildhall
from guildhall import Barrier, Event, Hall, Latch, PriorityQueue, Pub, Queue, Variable
from guildhall.hosts import current

BLOCK = re.compile(r"(?:\n\n|\A)((?:    .*\n?|\n)+)")


class Enough(BaseException):
    """Of what would go on for ever."""


def examples() -> Iterator[tuple[str, str]]:
    for name in guildhall.__all__:
        thing = getattr(guildhall, name)
        texts = {name: inspect.getdoc(thing) or ""}
        if inspect.isclass(thing):
            members = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
            texts |= {
                f"{name}.{key}": inspect.cleandoc(getattr(value, "__doc__", None) or "")
                for key, value in members.items()
            }
        for where, text in texts.items():
            blocks = [textwrap.dedent(block).strip() for block in BLOCK.findall(text)]
            yield from ((f"{where} {number}", block) for number, block in enumerate(filter(None, blocks), 1))


EXAMPLES = dict(examples())
ENDLESS = {"Election 1", "Sub 1", "Variable.watch 1", "Watch 1"}
"""They end when somebody ends them."""


def enough(*args: object, **options: object) -> None:
    raise Enough


def given() -> dict[str, Any]:
    """What examples leave to the reader."""

    def nothing(*args: object, **options: object) -> None:
        pass

    queue = PriorityQueue("given")
    queue.put_many(["a", "b", "c"])
    values = {"stock": 9, "state": "ready", "progress": 100, "settings": {}}
    variables = {name: Variable(name) for name in values}
    for name, variable in variables.items():
        variable.set(values[name])
    Queue("jobs").put("https://example.org")
    Pub("prices", keep=1).put(1)
    calls = dict.fromkeys(("work_on", "use", "fetch", "work", "call", "send", "plan", "merge"), nothing)
    return {**variables, **calls, "write": enough, "queue": queue, "parts": [1, 2], "letter": "Dear"}


OTHERS: dict[str, Callable[[], Any]] = {
    "Barrier 1": lambda: [Barrier(name, 3).wait(timeout=10) for name in ("round", "step")],
    "Latch 1": lambda: Latch("loaded", 3).count_down(),
    "Event 1": lambda: Event("ready").set(),
}
"""What two others do meanwhile."""


@pytest.fixture
def meant(hall: Hall) -> Iterator[Hall]:
    """The hall that is meant by who does not say."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


@pytest.fixture
def alarm() -> Iterator[Callable[[], None]]:
    """Ends what goes on for ever, after a moment."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise Enough

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.3) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("where", EXAMPLES)
def test_an_example_of_a_docstring_runs(where: str, meant: Hall, alarm: Callable[[], None]) -> None:
    names = {**{name: getattr(guildhall, name) for name in guildhall.__all__}, "guildhall": guildhall, **given()}
    code = EXAMPLES[where].replace('observe("jobs")', f"observe({meant.path!r})")
    others = [threading.Thread(target=OTHERS[where]) for _ in range(2)] if where in OTHERS else []
    for other in others:
        other.start()
    if where in ENDLESS:
        alarm()
        with pytest.raises(Enough):
            exec(compile(code, where, "exec"), names)
    else:
        exec(compile(code, where, "exec"), names)
    for other in others:
        other.join()
    names.clear()


def test_most_primitives_show_an_example() -> None:
    shown = {where.split(" ")[0].split(".")[0] for where in EXAMPLES}
    assert {"Variable", "Counter", "Queue", "Lock", "Semaphore", "Pub", "Sub", "Election"} <= shown
    assert ENDLESS | set(OTHERS) <= set(EXAMPLES)

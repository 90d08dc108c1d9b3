"""Whether a history can have come about, by two ways.

`check` replays it: each commit has a number, so the order is known, and models say what every call must have come to.
Real time must agree with that order, and reads must fit in between. It takes time in proportion to the history.

`search` knows no commits and no numbers: it looks for any order of the public calls that agrees with real time and with
what a sequential thing answers (Wing and Gong's algorithm, with Lowe's memory of where it has been). It takes time that
grows with the power of how many calls overlap: for short histories of a register or a lock, as a cross-check.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from models import ANY, BROKEN_OFF, Model, Wrong

from guildhall.testing.recorder import Call, Commit, History

Models = dict[tuple[str, str], Model]
NOT_OF_CALLS = ("sessions.", "embedded.", "EmbeddedHost._run_portion.", "values.")
"""Ops that may be run in a call and do not belong to it: joining, deferred errands, references."""


Pauses = Sequence[tuple[int, int, int]]
"""(session, from, until), of processes that were stopped; session 0 for all of them."""


def check(history: History, models: Models, first: int, prompt_ns: int | None = None, pauses: Pauses = ()) -> None:
    """Raise Wrong, with the end of the trail, unless the history is one of these models.

    `first` is the number of the first commit. `prompt_ns`: so soon after its grant a call must be over, not counting
    the `pauses` of its process.
    """
    check_order(history, first)
    replay(history, models)
    for call in history.calls:
        if call.is_over:
            _check_answer(call, models[call.kind, call.name])
    check_reads(history, models)
    if prompt_ns is not None:
        check_prompt(history, prompt_ns, pauses)


# -- order ------------------------------------------------------------------------------------------------------------


def check_order(history: History, first: int) -> None:
    """Each number belongs to one commit, none is missing, and what came later in time has a higher one."""
    expected, latest_begin, before = first, 0, None
    for c in history.commits:
        if c.number < expected and c.wrote:
            raise Wrong(f"two commits have one number: {before} and {c}")
        if c.number > expected:
            raise Wrong(f"commit {expected} is nobody's; the next is {c}")
        if c.end is not None and c.end < latest_begin:
            raise Wrong(f"{c} was done before one began whose number is lower; the one before it: {before}")
        latest_begin, before = max(latest_begin, c.begin), c
        expected += c.wrote
    for c, after in zip(history.commits, history.commits[1:]):
        if after.inside < c.inside:
            raise Wrong(f"two were inside at a time: {c} and {after}")


# -- what each call comes to ------------------------------------------------------------------------------------------


def replay(history: History, models: Models) -> None:
    """Tell the models all commits in order."""
    for c in (each for commit in history.commits for each in (*commit.parts, commit)):
        if c.op == "sessions.bury":
            if c.wrote:
                for call in history.calls:
                    if call.is_put_off and call.session == c.facts["session"]:
                        call.state = "left"  # What was to be done later, burying does.
                for model in models.values():
                    model.trail.append((c, c.call))
                    model.bury(c.facts["session"], c)
                    _note(model, c)
        elif c.call is not None:
            model = models[c.call.kind, c.call.name]
            if c.op.startswith(NOT_OF_CALLS) and c.op not in model.also:
                continue
            model.trail.append((c, c.call))
            model.commit(c.call, c)
            _note(model, c)


def _note(model: Model, c: Commit) -> None:
    state = model.state()
    if state != model.past[-1][1]:
        model.past.append((c.position, state))


def _check_answer(call: Call, model: Model) -> None:
    if call.state in ("waits", "sleeps"):
        raise Wrong(f"{call} is over, and stands in line still")
    if call.result in BROKEN_OFF:
        model.interrupted(call)
        return
    answer = model.answer(call)
    if answer is ANY:
        return
    if call.result != answer:
        raise Wrong(f"{call}, but it came to {answer!r} (by {call.granted})")
    if call.state == "has" and call.granted is not None:
        assert call.end is not None
        if not (call.begin <= call.granted.inside <= call.end):
            raise Wrong(f"{call}: it had its answer before there was one, by {call.granted}")


def check_prompt(history: History, prompt_ns: int, pauses: Pauses = ()) -> None:
    """Who was granted what it waited for was woken: it is over soon after that."""
    for call in history.calls:
        granted = call.granted
        if call.is_over and call.state == "has" and granted is not None and granted.end is not None:
            assert call.end is not None
            if call.end - granted.end > prompt_ns + _paused_ns(call, granted.end, pauses):
                raise Wrong(f"{call} slept on for {(call.end - granted.end) / 1e9:.3f} s after {granted}")


def _paused_ns(call: Call, since: int, pauses: Pauses) -> int:
    """How long its process was stopped from then until its end."""
    assert call.end is not None
    mine = [(began, ended) for session, began, ended in pauses if session in (0, call.session)]
    return sum(max(0, min(ended, call.end) - max(began, since)) for began, ended in mine)


# -- reads ------------------------------------------------------------------------------------------------------------


class _Timeline:
    """When commits could be seen: not before they were inside, and surely once done, or once the next was inside."""

    def __init__(self, commits: list[Commit]) -> None:
        self._inside = [c.inside for c in commits]
        following = [*self._inside[1:], float("inf")]
        self._sure = [min(c.inside if not c.wrote else c.end or after, after) for c, after in zip(commits, following)]

    def window(self, call: Call) -> tuple[int, int]:
        """The positions of the last commit that was surely seen, and of the last that may have been."""
        assert call.end is not None
        return bisect_right(self._sure, call.begin) - 1, bisect_right(self._inside, call.end) - 1


def check_reads(history: History, models: Models) -> None:
    """Each read saw a state that was there between its begin and its end, and none older than a read before it saw.

    The earliest fitting state is always the best choice, because it hinders later reads least.
    """
    timeline = _Timeline(history.commits)
    finished: dict[Model, list[tuple[int, int]]] = {}
    floors: dict[Model, int] = {}
    for call in history.calls:
        model = models[call.kind, call.name]
        if not call.is_over or call.result in BROKEN_OFF or model.answer(call) is not ANY:
            continue
        model.before_read(call)
        ended = finished.setdefault(model, [])
        while ended and ended[0][0] < call.begin:
            floors[model] = max(floors.get(model, -1), heapq.heappop(ended)[1])
        low, high = timeline.window(call)
        at = _place(model, call, max(low, floors.get(model, -1)), high)
        if at is None:
            found = _around(model, low, high)
            raise Wrong(f"{call}: that was not so at any time from commit {low} to {high} of:\n{found}")
        assert call.end is not None
        heapq.heappush(ended, (call.end, at))


def _place(model: Model, call: Call, low: int, high: int) -> int | None:
    """The first position in the window at which the model was as the call says."""
    first = bisect_right(model.past, low, key=lambda moment: moment[0]) - 1
    for position, state in model.past[max(first, 0) :]:
        if position > high:
            return None
        if model.sees(call, state):
            return max(position, low)
    return None


def _around(model: Model, low: int, high: int) -> str:
    return "\n".join(f"{position}: {state}" for position, state in model.past if low - 50 <= position <= high + 20)


# -- search -----------------------------------------------------------------------------------------------------------

Step = Callable[[Any, str, tuple[Any, ...], Any, int], Iterator[Any]]
"""The states that a call may lead to: (state, method, arguments, result, session); none if it cannot be."""


def register(state: Any, method: str, args: tuple[Any, ...], result: Any, session: int) -> Iterator[Any]:
    """A register that is set, read, compared and set, added to and deleted. `result` is ANY if nobody was told."""
    if method == "set":
        yield args[0]
    elif method == "delete":
        yield None
    elif method == "get":
        if result in (ANY, state) or (state is None and result == "TimedOut"):
            yield state
    elif method == "update":
        if state is not None and result in (ANY, state + args[0]):
            yield state + args[0]
        if result == "TimedOut":
            yield state
    elif method == "compare_and_set":
        is_equal = args[0] == state and state is not None
        if result in (ANY, is_equal):
            yield args[2] if is_equal else state
    else:
        raise NotImplementedError(method)


def mutex(state: Any, method: str, args: tuple[Any, ...], result: Any, session: int) -> Iterator[Any]:
    """A lock that one session holds or none. A burial is a call of its own."""
    if method == "acquire":
        if result is False:
            yield state  # Its time was up; whether it might have had it is not for this checker.
        elif state is None:
            yield session
    elif method == "release" and state == session:
        yield None
    elif method == "bury":
        yield None if state == args[0] else state


def calls_of(history: History) -> list[Call]:
    """The public calls, and burials as calls of their own."""
    buried = [
        Call(0, "", "", "bury", (c.facts["session"],), c.begin, c.end or c.inside, True)
        for c in history.commits
        if c.op == "sessions.bury" and c.wrote
    ]
    return [*history.calls, *buried]


def search(calls: Iterable[Call], step: Step, start: Any = None) -> None:
    """Raise Wrong unless there is an order of the calls that the steps allow. What was killed or broken off may have
    happened, at any time from its begin on, or not."""
    todo = sorted(calls, key=lambda call: call.begin)
    is_told = [call.is_over and call.result not in BROKEN_OFF for call in todo]
    ends = [call.end if told and call.end is not None else float("inf") for call, told in zip(todo, is_told)]
    needed = sum(1 << number for number, told in enumerate(is_told) if told)
    seen: set[tuple[int, Any]] = set()
    stack: list[tuple[int, Any]] = [(0, start)]
    while stack:
        done, state = stack.pop()
        if done & needed == needed:
            return
        if (done, state) in seen:
            continue
        seen.add((done, state))
        left = [number for number in range(len(todo)) if not done >> number & 1]
        limit = min(ends[number] for number in left)
        for number in left:
            call = todo[number]
            if call.begin > limit:
                break  # It began when another that is to come was over: that one comes first.
            result = call.result if is_told[number] else ANY
            for after in step(state, call.method, call.args, result, call.session):
                stack.append((done | 1 << number, after))
    raise Wrong("no order of the calls explains what they answered:\n" + "\n".join(map(str, todo)))

"""What the command line shows, made from snapshots: tables for people, and dicts for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..client.census import RunningTask, Snapshot, Tasks, Thing, as_plain
from ..client.found import HallSeen
from .screen import NONE, Table, age, label, number, shortly, size

Part = Table | str


def of_halls(some: Iterable[HallSeen]) -> Table:
    rows = [[one.name, str(one.sessions), size(one.file_bytes), one.problem or one.path] for one in some]
    return Table(("HALL", ">SESSIONS", ">SIZE", "PATH"), rows)


def of_hall(seen: Snapshot) -> list[Part]:
    """One hall: who is in it, and everything that has a name there."""
    store, blobs = seen.store, seen.blobs
    full = ", NEARLY FULL" if store.is_nearly_full else ""
    parts: list[Part] = [
        f"hall {seen.path}: commit {seen.revision}, {size(store.used_bytes)} of {size(store.file_bytes)} used, "
        f"{blobs.count} blobs with {size(blobs.size_bytes)}{full}",
        of_tasks(seen.tasks),
        of_sessions(seen),
    ]
    things = [[kind, label(one.name), shortly(one.statistics)] for kind, some in seen.things.items() for one in some]
    if things:
        parts.append(Table(("KIND", "NAME", ""), things))
    return parts


def of_tasks(tasks: Tasks) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in tasks.by_state.items() if count)
    more = "" if tasks.is_complete else " (too many to count them all)"
    return f"tasks: {counts or 'none'}{more}"


def of_sessions(seen: Snapshot) -> Table:
    rows = []
    for one in seen.sessions:
        holds = ", ".join(f"{held.kind} {label(held.name)}" for held in one.holds[:4])
        more = f", and {len(one.holds) - 4} more" if len(one.holds) > 4 else ""
        runs = " ".join(one.tasks) or NONE
        state = "STOPPED" if one.is_stopped else "alive" if one.is_alive else "DEAD"
        rows.append(
            [str(one.number), str(one.pid), one.role, state, age(one.since, seen.time), runs, (holds + more) or NONE]
        )
    return Table((">SESSION", ">PID", "ROLE", "STATE", ">FOR", "RUNS", "HOLDS"), rows)


# -- locks ------------------------------------------------------------------------------------------------------------


def held_things(seen: Snapshot, *, only_awaited: bool) -> list[Thing]:
    """Everything that somebody holds or waits for to hold."""
    every = (one for some in seen.things.values() for one in some if hasattr(one.statistics, "holders"))
    return [one for one in every if one.statistics.waiting or (one.statistics.holders and not only_awaited)]


def of_locks(seen: Snapshot, some: Iterable[Thing]) -> Table:
    """Each holder and each waiter in a row of its own."""
    runs = tasks_by_session(seen)
    rows = []
    for one in some:
        lines = [("holds", holder) for holder in one.statistics.holders]
        lines += [("waits", waiter) for waiter in one.statistics.waiting]
        for verb, who in lines:
            state = f"{verb} {who.mode}".strip()
            row = [str(who.session), number(who.pid).replace(" ", ""), ", ".join(runs.get(who.session, ())) or NONE]
            rows.append([one.kind, label(one.name), state, *row, age(who.since, seen.time)])
    return Table(("KIND", "NAME", "STATE", ">SESSION", ">PID", "TASK", ">FOR"), rows)


def locks_as_dicts(seen: Snapshot, some: Iterable[Thing]) -> list[dict[str, Any]]:
    """The same for JSON: each record has the tasks that its session runs."""
    runs = tasks_by_session(seen)
    found = []
    for one in some:
        record = {"kind": one.kind, **as_plain(one)}
        for who in (*record["holders"], *record["waiting"]):
            who["tasks"] = list(runs.get(who["session"], ()))
        found.append(record)
    return found


def tasks_by_session(seen: Snapshot) -> Mapping[int, list[str]]:
    """The keys of the tasks that each session runs."""
    found: dict[int, list[str]] = {}
    for task in seen.tasks.running:
        found.setdefault(task.session, []).append(task.key)
    return found


# -- top --------------------------------------------------------------------------------------------------------------


def rates(before: Snapshot, now: Snapshot) -> dict[str, Any]:
    """What happened each second between two snapshots: commits, messages by topic, and how queues grew."""
    span_s = max(now.time - before.time, 1e-3)

    def changes(kind: str, field: str) -> list[tuple[str, float]]:
        old = {label(one.name): getattr(one.statistics, field) for one in before.things.get(kind, ())}
        new = {label(one.name): getattr(one.statistics, field) for one in now.things.get(kind, ())}
        return [(name, (count - old.get(name, 0)) / span_s) for name, count in new.items()]

    return {
        "commits": (now.revision - before.revision) / span_s,
        "topics": {name: max(rate, 0.0) for name, rate in changes("topic", "end")},
        "queues": dict(changes("queue", "size")),
    }


def of_top(before: Snapshot, seen: Snapshot) -> list[Part]:
    """One frame."""
    rate = rates(before, seen)
    store = seen.store
    full = ", NEARLY FULL" if store.is_nearly_full else ""
    parts: list[Part] = [
        f"hall {seen.path}: {len(seen.sessions)} sessions, {number(rate['commits'])} commits/s, "
        f"{size(store.used_bytes)} of {size(store.file_bytes)} used{full}",
        of_tasks(seen.tasks),
        of_sessions(seen),
    ]
    if seen.tasks.running:
        parts.append(Table(("RUNNING", ">PID", ">FOR", ">BEHIND IT"), [_running(t, seen) for t in seen.tasks.running]))
    locks = held_things(seen, only_awaited=False)
    if locks:
        parts.append(of_locks(seen, locks))
    if queues := seen.things.get("queue"):
        rows = [
            [
                label(one.name),
                number(one.statistics.size),
                f"{rate['queues'][label(one.name)]:+.1f}",
                shortly(one.statistics),
            ]
            for one in queues
        ]
        parts.append(Table(("QUEUE", ">DEPTH", ">CHANGE/S", ""), rows))
    if topics := seen.things.get("topic"):
        rows = [
            [label(one.name), number(rate["topics"][label(one.name)], 1), shortly(one.statistics)] for one in topics
        ]
        parts.append(Table(("TOPIC", ">MESSAGES/S", ""), rows))
    return parts


def _running(task: RunningTask, seen: Snapshot) -> list[str]:
    return [task.key, number(task.pid).replace(" ", ""), age(task.since, seen.time), str(task.behind)]


def top_as_dict(before: Snapshot, seen: Snapshot) -> dict[str, Any]:
    """One frame for JSON."""
    rate = rates(before, seen)
    queues, topics = seen.things.get("queue", ()), seen.things.get("topic", ())
    return {
        "hall": seen.path,
        "time": seen.time,
        "revision": seen.revision,
        "commits_per_s": rate["commits"],
        "sessions": as_plain(seen.sessions),
        "tasks": as_plain(seen.tasks),
        "locks": locks_as_dicts(seen, held_things(seen, only_awaited=False)),
        "queues": [{**as_plain(one), "change_per_s": rate["queues"][label(one.name)]} for one in queues],
        "topics": [{**as_plain(one), "messages_per_s": rate["topics"][label(one.name)]} for one in topics],
        "store": as_plain(seen.store),
        "blobs": as_plain(seen.blobs),
    }

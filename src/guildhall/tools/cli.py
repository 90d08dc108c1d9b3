"""The command line: what the arguments mean, and how each command ends.

Looking never joins a hall; `tail`, `doctor --fix` and `gc` do. Whatever a user can get wrong is one line on standard
error with the next step, and exit code 2; 1 is for a doctor's findings.
"""

from __future__ import annotations

import difflib
import functools
import os
import sys
import threading
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from ..client import census, checkup, found, hall, peek
from ..client.census import BY_WORD, KINDS, Thing
from ..client.checkup import Finding
from ..client.hall import ObservedHall, observe
from ..errors import GuildhallError, Misuse
from . import screen, tail, top, views
from .screen import label, show, show_json, visible

F = TypeVar("F", bound=Callable[..., Any])

STUCK_S = 15.0
"""Joining a hall takes milliseconds, unless a process is stopped in the middle of a commit."""


@dataclass(frozen=True)
class Asked:
    """What every command is told: which hall, and whether people or programs read the answer."""

    hall: str | None = None
    is_json: bool = False


class NotThere(Misuse):
    """A name that nothing has."""


def run(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        # Not `main`, which makes of Ctrl-C and of a closed pipe what it likes.
        with guildhall.make_context("guildhall", sys.argv[1:] if arguments is None else arguments) as context:
            answer = guildhall.invoke(context)
        sys.stdout.flush()
        return answer if isinstance(answer, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _complain(f"{error.format_message()} `guildhall --help` tells more.")
    except BrokenPipeError:
        _hush()
        return 0
    except GuildhallError as error:
        return _complain(str(error.args[1] if isinstance(error, OSError) and len(error.args) > 1 else error))
    except OSError as error:  # A hall that goes while we look, most of all.
        return _complain(f"{error.filename or 'the hall'}: {error.strerror or error}; `guildhall ls` lists the halls")
    except (KeyboardInterrupt, click.Abort):
        return 130


def _complain(text: str) -> int:
    """In one line, with the exit code of whoever asked for something that cannot be."""
    print(f"guildhall: {visible(' '.join(text.split()))}", file=sys.stderr)
    return 2


def _hush() -> None:
    """Nobody reads: what is left in the buffer goes nowhere, so that the end of Python does not complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _common(command: F) -> F:
    """The options of every command, given before its name or behind it."""

    @click.option(
        "--hall", "hall_name", metavar="NAME_OR_PATH", help="The hall (default: GUILDHALL, else the only live one)."
    )
    @click.option("--json", "is_json", is_flag=True, help="For programs: JSON.")
    @click.pass_context
    @functools.wraps(command)
    def wrapped(context: click.Context, /, *args: Any, hall_name: str | None, is_json: bool, **options: Any) -> Any:
        before = context.obj or Asked()
        asked = context.obj = Asked(hall_name or before.hall, is_json or before.is_json)
        return command(asked, *args, **options)

    return wrapped  # type: ignore[return-value]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@_common
def guildhall(asked: Asked) -> None:
    """Look into the halls of guildhall: who holds what, who waits, what is queued; and tidy up."""


@contextmanager
def _hall(asked: Asked) -> Iterator[ObservedHall]:
    with observe(_path(found.meant(asked.hall))) as seen:
        yield seen


def _path(directory: str) -> str:
    """So that it is taken for a path, whatever its name."""
    return os.path.join(directory, "")


@contextmanager
def _within(directory: str) -> Iterator[None]:
    """Joining waits for the store's writer, which Ctrl-C cannot end: say who is in the way, and give up."""
    stopped = [one for one in checkup.examine(directory) if one.kind == "stopped"]

    def give_up() -> None:
        why = "; ".join(f"{one.what}; {one.remedy}" for one in stopped) or "a process keeps the store's writer busy"
        _complain(f"hall {directory}: cannot be joined: {why}")
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(STUCK_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# -- looking ----------------------------------------------------------------------------------------------------------


@guildhall.command()
@_common
def ls(asked: Asked) -> None:
    """List the halls, and what is in the one that is meant."""
    halls = found.halls()
    seen = None
    live = [one for one in halls if one.sessions]
    if asked.hall or os.environ.get("GUILDHALL") or len(live) == 1:
        with _hall(asked) as observed:
            seen = observed.snapshot()
    if asked.is_json:
        show_json({"halls": halls, "hall": None if seen is None else seen.as_dict()})
        return
    parts: list[views.Part] = [views.of_halls(halls) if halls else "no halls with a name, and no private ones"]
    if seen is not None:
        parts += ["", *views.of_hall(seen)]
    elif live:
        parts += ["", "see what is in one with --hall NAME"]
    show(*parts)


@guildhall.command("show")
@click.argument("name")
@click.option("--kind", type=click.Choice(sorted(BY_WORD)), help="Of which kind, where several have the name.")
@_common
def show_(asked: Asked, name: str, kind: str | None) -> None:
    """Show all that is known of the thing called NAME."""
    with _hall(asked) as observed:
        things = _named(observed, name, [BY_WORD[kind]] if kind else KINDS)
    if asked.is_json:
        plain = [{"kind": one.kind, **census.as_plain(one)} for one in things]
        show_json(plain[0] if len(plain) == 1 else plain)
        return
    parts: list[views.Part] = []
    for one in things:
        parts += [f"{one.kind} {label(one.name)}", *screen.details(one.statistics)]
    show(*parts)


def _named(observed: ObservedHall, text: str, kinds: Any = KINDS) -> list[Thing]:
    """What has the name, of whatever kind. Raises NotThere, with names that are like it."""
    names = _meanings(text)
    things = [
        thing
        for kind in kinds
        for name in names
        if (thing := census.thing(observed.looking, kind, hall.packed(kind.word, name))) is not None
    ]
    if things:
        return things
    seen = observed.snapshot()
    every = {label(one.name) for kind in kinds for one in seen.things.get(kind.word, ())}
    close = difflib.get_close_matches(text, sorted(every), n=3)
    what = f"{kinds[0].word} is" if len(kinds) == 1 else "thing is"
    advice = f"did you mean {' or '.join(close)}?" if close else "`guildhall ls` lists what there is"
    raise NotThere(f"no {what} named {text!r:.100} in hall {observed.path}; {advice}")


def _meanings(text: str) -> list[Any]:
    """What a name on the command line may stand for: the text, or what it is the form of: ('a', 1), 7, b'x'."""
    meanings: list[Any] = [text]
    if screen.is_literal(text):
        value = literal_eval(text)
        if isinstance(value, str | bytes | int | float | tuple) and value != text:
            meanings.append(value)
    return meanings


@guildhall.command("top")
@click.option("--every", "every_s", type=click.FloatRange(0.1), metavar="SECONDS", help="How often (default: 1).")
@click.option("--count", type=click.IntRange(1), help="End after so many frames (into a pipe, without --every: 1).")
@_common
def top_(asked: Asked, every_s: float | None, count: int | None) -> None:
    """Watch a hall live: sessions, tasks, who holds and who waits, queues and topics."""
    if count is None and every_s is None and not screen.is_terminal():
        count = 1
    with _hall(asked) as observed:
        top.watch(observed, every_s or 1.0, count, is_json=asked.is_json)


@guildhall.command()
@click.option("--waiting", is_flag=True, help="Only those that somebody waits for.")
@_common
def locks(asked: Asked, waiting: bool) -> None:
    """Who holds what, since when, and who waits for it: locks of all kinds, and semaphores."""
    with _hall(asked) as observed:
        seen = observed.snapshot()
    things = views.held_things(seen, only_awaited=waiting)
    if asked.is_json:
        show_json(views.locks_as_dicts(seen, things))
    elif things:
        show(views.of_locks(seen, things))
    else:
        show("nobody waits for anything" if waiting else "nobody holds anything")


@guildhall.command("tail")
@click.argument("topic")
@click.option("--count", type=click.IntRange(1), help="End after so many messages.")
@_common
def tail_(asked: Asked, topic: str, count: int | None) -> None:
    """Print the messages of TOPIC as they come. This joins the hall, as any subscriber does."""
    directory = found.meant(asked.hall)
    name = topic if not screen.is_literal(topic) else _meanings(topic)[-1]
    with _within(directory):
        joined = hall.join(directory, "tail")
    try:
        with closing(joined):
            tail.follow(joined, name, count, is_json=asked.is_json)
    finally:
        if os.path.basename(directory).startswith(hall.PRIVATE):
            with suppress(GuildhallError):  # The last one who was in a private hall takes it along.
                hall.remove(_path(directory))


@guildhall.group("queue")
@_common
def queue_(asked: Asked) -> None:
    """Look into queues."""


@queue_.command("peek")
@click.argument("name")
@click.option("--count", type=click.IntRange(1), default=10, show_default=True, help="How many items at most.")
@_common
def peek_(asked: Asked, name: str, count: int) -> None:
    """Show the first items of the queue called NAME; they stay. No code of the items is run."""
    with _hall(asked) as observed:
        thing = _named(observed, name, [BY_WORD["queue"]])[0]
        items = peek.items(observed.looking, hall.packed("queue", thing.name), count)
    if asked.is_json:
        show_json({"name": thing.name, "size": thing.statistics.size, "items": items})
        return
    rows = [[str(place), peek.printed(item)] for place, item in enumerate(items)]
    heading = f"queue {label(thing.name)}: {len(items)} of {thing.statistics.size} items"
    show(screen.Table((">", "ITEM"), rows, heading) if rows else heading)


# -- tidying up -------------------------------------------------------------------------------------------------------


@guildhall.command()
@click.option("--fix", is_flag=True, help="Repair what can be repaired.")
@_common
def doctor(asked: Asked, fix: bool) -> int:
    """Find what is wrong: dead sessions, orphaned blobs, stale readers, a nearly full store, leftovers.

    Looks at all halls, or the one given with --hall. Exit code 0: all is well, or was repaired; 1: something is left.
    """
    findings = _examine(asked)
    left = findings
    if fix and findings:
        _repair(asked, findings)
        left = _examine(asked)
    fixed = [one for one in findings if one not in left]
    if asked.is_json:
        show_json({"ok": not left, "findings": left, "fixed": fixed})
    else:
        lines = [f"fixed: {one.hall}: {one.what}" for one in fixed]
        lines += [f"{one.kind}: {one.hall}: {one.what}; {one.remedy}" for one in left]
        if any(one.can_fix for one in left) and not fix:
            lines.append("`guildhall doctor --fix` repairs what can be repaired")
        show(*(lines or ["all is well"]))
    return 1 if left else 0


def _examine(asked: Asked) -> list[Finding]:
    if asked.hall:
        return checkup.examine(found.meant(asked.hall))
    return [*checkup.examine_leftovers(), *(one for path in _everywhere() for one in checkup.examine(path))]


def _everywhere() -> list[str]:
    """All halls that can be found, and the one that GUILDHALL names, if it is there."""
    paths = [one.path for one in found.halls()]
    if named := os.environ.get("GUILDHALL"):
        with suppress(GuildhallError):
            paths.append(hall.directory_of(named))
    left = {one.hall for one in checkup.examine_leftovers()}
    return [path for path in dict.fromkeys(paths) if path not in left]


def _repair(asked: Asked, findings: list[Finding]) -> None:
    """Repair the halls in which something can be; what cannot be is found again."""
    for path in dict.fromkeys(one.hall for one in findings if one.can_fix and one.kind != "leftover"):
        try:
            with _within(path):
                checkup.repair(path)
        except GuildhallError as error:
            _complain(str(error))
    if not asked.hall:
        checkup.remove_leftovers()


@guildhall.command()
@_common
def gc(asked: Asked) -> None:
    """Remove what dead halls and dead processes left: all that `doctor --fix` would."""
    findings = [one for one in _examine(asked) if one.can_fix]
    _repair(asked, findings)
    left = _examine(asked)
    removed = [one for one in findings if one not in left]
    if asked.is_json:
        show_json({"removed": removed})
    else:
        show(*([f"removed: {one.hall}: {one.what}" for one in removed] or ["nothing to remove"]))


@guildhall.command()
@click.argument("name_or_path")
@click.option("--force", is_flag=True, help="Also while sessions are alive in it.")
@_common
def rm(asked: Asked, name_or_path: str, force: bool) -> None:
    """Remove a hall, with all that is in it."""
    directory = hall.directory_of(name_or_path)
    try:
        hall.remove(name_or_path, force=force)
    except Misuse as error:
        raise type(error)(str(error).replace("force=True", "--force")) from None
    if asked.is_json:
        show_json({"removed": directory})
    else:
        show(f"removed: {directory}")

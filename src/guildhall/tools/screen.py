"""Putting tables and facts on a terminal or into a pipe.

Into a pipe go plain columns: no colours, no lines, nothing cut off. On a terminal rich folds what is too wide.
Whatever comes from a hall, or from who asked, is made `visible` before: a terminal obeys what it is sent.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from ..client.census import as_plain, told

NONE = "-"


@dataclass(frozen=True)
class Table:
    """Rows under titles. Columns whose title begins with ">" are of numbers, and stand to the right."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    heading: str = ""


def is_terminal() -> bool:
    return sys.stdout.isatty()


def show_json(value: Any, *, is_line: bool = False) -> None:
    """The value as JSON: one document, or one line of many."""
    print(json.dumps(as_plain(value), indent=None if is_line else 2), flush=is_line)


def show(*parts: Table | str) -> None:
    """Tables and lines, with a blank line before each table that is not the first thing."""
    if is_terminal():
        Console(highlight=False).print(rendered(parts))
    else:
        print(plain(parts), flush=True)


def plain(parts: Iterable[Table | str]) -> str:
    texts: list[str] = []
    for part in map(_visible, parts):
        if isinstance(part, str):
            texts.append(part)
        else:
            texts += [""] if texts else []
            texts += [part.heading] if part.heading else []
            texts += _columns(part)
    return "\n".join(texts)


def _columns(table: Table) -> list[str]:
    titles = [title.removeprefix(">") for title in table.titles]
    lines = [titles, *table.rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(titles))]

    def cell(text: str, place: int) -> str:
        return text.rjust(widths[place]) if table.titles[place].startswith(">") else text.ljust(widths[place])

    return ["  ".join(cell(text, place) for place, text in enumerate(line)).rstrip() for line in lines]


def rendered(parts: Iterable[Table | str]) -> Group:
    """The same for rich."""
    made: list[Any] = []
    for part in map(_visible, parts):
        if isinstance(part, str):
            made.append(Text(part))
            continue
        made += [Text("")] if made else []
        made += [Text(part.heading, style="bold")] if part.heading else []
        table = RichTable(box=None, pad_edge=False, header_style="dim", show_edge=False)
        for title in part.titles:
            table.add_column(
                Text(title.removeprefix(">")), justify="right" if title.startswith(">") else "left", overflow="fold"
            )
        for row in part.rows:
            table.add_row(*map(Text, row))
        made.append(table)
    return Group(*made)


def _visible(part: Table | str) -> Table | str:
    if isinstance(part, str):
        return visible(part)
    rows = [[*map(visible, row)] for row in part.rows]
    return Table(part.titles, rows, visible(part.heading))


# -- words ------------------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """The text in one line, with what a terminal would obey, or not show, as it is written in Python."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def label(name: Any) -> str:
    """A name as it is written on the command line: text as it is, as long as it cannot be taken for anything else."""
    if isinstance(name, str) and name and name.isprintable() and name == name.strip() and not is_literal(name):
        return name
    return repr(name)


def is_literal(text: str) -> bool:
    """Whether it reads as a number, bytes, a tuple or a text in quotes."""
    from ast import literal_eval

    try:
        literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def age(since: float | None, now: float | None = None) -> str:
    """How long ago, for people."""
    if since is None:
        return NONE
    seconds = max(0.0, (time.time() if now is None else now) - since)
    for limit, unit in ((120, 1), (7200, 60), (172800, 3600)):
        if seconds < limit:
            return f"{seconds / unit:.{1 if unit == 1 else 0}f} {({1: 's', 60: 'min', 3600: 'h'})[unit]}"
    return f"{seconds / 86400:.0f} d"


def moment(at: float) -> str:
    """A time of day today, else with the date."""
    form = "%H:%M:%S" if time.localtime(at)[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(at))


def number(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{value:,.{digits}f}".replace(",", " ")


def shortly(statistics: Any) -> str:
    """A thing's statistics in one line: what is neither nothing nor its name."""
    words = []
    for field in dataclasses.fields(statistics):
        value = getattr(statistics, field.name)
        if field.name in ("kind", "name") or value in (None, False, 0, "", ()):
            continue
        if isinstance(value, tuple):
            words.append(f"{field.name} {len(value)}")
        elif value is True:
            words.append(field.name.removeprefix("is_"))
        elif field.name.endswith("_bytes"):
            words.append(size(value))
        else:
            words.append(f"{field.name} {told(value)}")
    return ", ".join(words)


def details(statistics: Any) -> list[Table | str]:
    """All of a thing's statistics: a line for each fact, and a table for each list of records."""
    fields = [(field.name, getattr(statistics, field.name)) for field in dataclasses.fields(statistics)]
    facts = [(name, value) for name, value in fields if not _is_list(value) and name not in ("kind", "name")]
    width = max((len(name) for name, _ in facts), default=0)
    parts: list[Table | str] = [f"  {name.ljust(width)}  {_fact(name, value)}" for name, value in facts]
    for name, value in fields:
        if _is_list(value) and value:
            parts.append(records(name, value))
        elif _is_list(value):
            parts.append(f"  {name.ljust(width)}  {NONE}")
    return parts


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple) and all(dataclasses.is_dataclass(item) for item in value)


def records(heading: str, some: Sequence[Any]) -> Table:
    """Records of one class as a table, without the columns that say nothing."""
    names = [field.name for field in dataclasses.fields(some[0])]
    names = [name for name in names if any(getattr(one, name) not in (None, "", (), False) for one in some)]
    titles = [
        (">" if all(isinstance(getattr(one, name), int | float) for one in some) else "") + name.upper()
        for name in names
    ]
    rows = [[_fact(name, getattr(one, name)) for name in names] for one in some]
    return Table(titles, rows, heading)


def _fact(name: str, value: Any) -> str:
    if value is None or value == ():
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("since", "until") and isinstance(value, float):
        return f"{age(value)} ago" if value <= time.time() else f"in {age(time.time(), value)}"
    if name.endswith("_bytes"):
        return size(value)
    if isinstance(value, tuple):
        return ", ".join(label(item) for item in value)
    return told(value)

"""How far futures are, shown while they are computed: with rich or tqdm in a terminal, as a widget in a notebook, as
plain lines elsewhere.

The only place that imports tqdm and ipywidgets. Nothing of it needs to be installed.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TextIO

from ..client.futures import Future
from ..errors import WrongType

SHOW_S = 0.1
LINE_S = 2.0
"""So often, at most, a plain line is written."""


def progress(*futures: Any, notebook: bool | None = None, file: TextIO | None = None) -> Any:
    """Show how far futures are: single ones, lists and dicts of them, and persisted Dask collections.

    In a terminal or a script it returns when all have ended, whether they failed or not. In a notebook with ipywidgets
    it returns at once, with a widget that goes on. `notebook` says what it is if it is not to be found out, `file`
    where the text goes (standard error).

    If you stop waiting (Ctrl-C), the futures go on.
    """
    watched = list(dict.fromkeys(_futures_in(futures)))
    is_notebook = _is_notebook() if notebook is None else notebook
    display = _chosen(is_notebook, file or sys.stderr)(len(watched))
    if isinstance(display, _Widget):
        threading.Thread(target=_show, args=(watched, display), daemon=True, name="guildhall-progress").start()
        return display.box
    _show(watched, display)
    return None


def _futures_in(given: Any) -> Iterator[Future]:
    if isinstance(given, Future):
        yield given
    elif hasattr(given, "__dask_graph__"):
        yield from (part for part in dict(given.__dask_graph__()).values() if isinstance(part, Future))
    elif isinstance(given, dict):
        yield from _futures_in(list(given.values()))
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes):
        for item in given:
            yield from _futures_in(item)
    else:
        raise WrongType(f"progress: expected futures, got {type(given).__name__} {given!r:.60}")


class Display(Protocol):
    """Shows counts of statuses, as often as it likes."""

    def show(self, counts: Counter[str]) -> None:
        """The counts have changed, or time has passed."""

    def close(self, counts: Counter[str]) -> None:
        """These are the last ones."""


def _show(futures: list[Future], display: Display) -> None:
    ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
    counts: Counter[str] = Counter()
    for future in futures:
        future.add_done_callback(ended.put)
    try:
        while counts.total() < len(futures):
            for future in _taken(ended):
                counts[future.status] += 1
            display.show(counts)
    finally:
        display.close(counts)


def _taken(ended: queue.SimpleQueue[Future]) -> Iterator[Future]:
    """What comes until it is time to show it."""
    until = time.monotonic() + SHOW_S
    try:
        while True:
            yield ended.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
        return


def _words(counts: Counter[str], total: int) -> str:
    """Such as: 7 of 9 done, 1 failed."""
    others = [("failed", counts["error"]), ("cancelled", counts["cancelled"] + counts["lost"])]
    return ", ".join([f"{counts.total()} of {total} done", *(f"{n} {what}" for what, n in others if n)])


# -- displays ---------------------------------------------------------------------------------------------------------


def _chosen(is_notebook: bool, file: TextIO) -> Callable[[int], Display]:
    """The best that is installed."""
    kinds: list[Callable[[int, TextIO], Display]] = [_Lines]
    if is_notebook:
        kinds = [_Widget, _Tqdm, _Lines]
    elif file.isatty():
        kinds = [_Rich, _Tqdm, _Lines]

    def make(total: int) -> Display:
        for kind in kinds[:-1]:
            try:
                return kind(total, file)
            except ImportError:
                continue
        return kinds[-1](total, file)

    return make


def _is_notebook() -> bool:
    """Whether a kernel runs this: then IPython is here already."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Lines:
    """A line now and then."""

    def __init__(self, total: int, file: TextIO) -> None:
        self._total = total
        self._file = file
        self._began = self._told = time.monotonic()

    def show(self, counts: Counter[str]) -> None:
        now = time.monotonic()
        if now - self._told >= LINE_S:
            self._told = now
            self.close(counts)

    def close(self, counts: Counter[str]) -> None:
        took_s = time.monotonic() - self._began
        print(f"guildhall: {_words(counts, self._total)}, {took_s:.1f} s", file=self._file, flush=True)


class _Rich:
    """A bar that moves by itself."""

    def __init__(self, total: int, file: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        self._total = total
        self._bar = Progress(*columns, console=Console(file=file))
        self._task = self._bar.add_task(_words(Counter(), total), total=max(total, 1))
        self._bar.start()

    def show(self, counts: Counter[str]) -> None:
        self._bar.update(self._task, completed=counts.total(), description=_words(counts, self._total))

    def close(self, counts: Counter[str]) -> None:
        self.show(counts)
        self._bar.stop()


class _Tqdm:
    """A bar of text."""

    def __init__(self, total: int, file: TextIO) -> None:
        from tqdm import tqdm

        self._total = total
        self._bar = tqdm(total=total, file=file, unit="")

    def show(self, counts: Counter[str]) -> None:
        self._bar.set_description(_words(counts, self._total), refresh=False)
        self._bar.update(counts.total() - self._bar.n)

    def close(self, counts: Counter[str]) -> None:
        self.show(counts)
        self._bar.close()


class _Widget:
    """A bar in a cell of a notebook."""

    def __init__(self, total: int, file: TextIO) -> None:
        import ipywidgets
        from IPython.display import display

        self._total = total
        self._bar = ipywidgets.IntProgress(value=0, min=0, max=max(total, 1))
        self._text = ipywidgets.HTML(_words(Counter(), total))
        self.box = ipywidgets.HBox([self._bar, self._text])
        display(self.box)

    def show(self, counts: Counter[str]) -> None:
        self._bar.value = counts.total()
        self._text.value = _words(counts, self._total)

    def close(self, counts: Counter[str]) -> None:
        self.show(counts)
        self._bar.bar_style = "danger" if counts["error"] or counts["cancelled"] else "success"

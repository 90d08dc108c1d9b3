"""Progress of futures, in every place where it may be shown."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pytest
from faults import eventually, script

import guildhall
from guildhall import Client, Event, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fail() -> None:
    raise LookupError("on purpose")


def test_without_a_terminal_there_are_plain_lines(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    progress(client.map(abs, range(20)))
    assert capsys.readouterr().err.startswith("guildhall: 20 of 20 done, ")


def test_it_returns_when_all_have_ended_and_counts_what_failed(client: Client) -> None:
    event = Event("progress goes on")
    waiting = client.submit(event.wait, 30)
    futures = {"a": [waiting, client.submit(fail)], "b": (client.submit(abs, 1), client.submit(fail))}
    cancelled = client.submit(event.wait, 30)
    cancelled.cancel()
    client.submit(time.sleep, 0.2).add_done_callback(lambda _: event.set())
    out = io.StringIO()
    progress(futures, cancelled, waiting, file=out)
    assert out.getvalue().startswith("guildhall: 5 of 5 done, 2 failed, 1 cancelled, ")
    assert waiting.done()


def test_a_line_now_and_then_while_it_takes_long(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guildhall.tools.progress.LINE_S", 0.2)
    out = io.StringIO()
    progress(client.submit(time.sleep, 0.7), file=out)
    lines = out.getvalue().splitlines()
    assert 2 <= len(lines) <= 5
    assert lines[0].startswith("guildhall: 0 of 1 done")
    assert lines[-1].startswith("guildhall: 1 of 1 done")


@pytest.mark.parametrize("missing", [(), ("rich",), ("rich", "tqdm")])
def test_in_a_terminal_it_is_rich_or_tqdm_or_lines(
    client: Client, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rich.console", "rich.progress", "tqdm"):
        if name.partition(".")[0] in missing:
            monkeypatch.setitem(sys.modules, name, None)
    out = Terminal()
    progress([client.submit(fail), client.map(abs, range(50))], file=out)
    text = out.getvalue()
    assert "51 of 51 done, 1 failed" in text
    assert ("\x1b[" in text) == ("rich" not in missing)
    assert ("it/s" in text or "51/51" in text) == (missing == ("rich",))


def test_in_a_notebook_it_is_a_widget_that_goes_on(client: Client) -> None:
    pytest.importorskip("ipywidgets")
    event = Event("widget goes on")
    box = progress(client.submit(event.wait, 30), client.submit(fail), notebook=True)
    bar, text = box.children
    assert eventually(lambda: bar.value == 1)
    event.set()
    assert eventually(lambda: bar.bar_style == "danger")
    assert bar.value == bar.max == 2
    assert text.value == "2 of 2 done, 1 failed"


def test_in_a_notebook_without_widgets_it_is_tqdm(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    out = io.StringIO()
    assert progress(client.map(abs, range(5)), notebook=True, file=out) is None
    assert "5/5" in out.getvalue()


def test_persisted_collections_and_nothing_at_all(client: Client) -> None:
    import dask.array

    out = io.StringIO()
    progress(client.persist(dask.array.ones(30, chunks=10)), file=out)
    progress([], file=out)
    assert "3 of 3 done" in out.getvalue()
    assert "0 of 0 done" in out.getvalue()
    with pytest.raises(TypeError, match="expected futures, got int"):
        progress(3)


def test_ctrl_c_leaves_the_futures_alone(tmp_path: object) -> None:
    import pathlib
    import signal

    assert isinstance(tmp_path, pathlib.Path)
    running = script(
        "import sys, time, guildhall\n"
        "client = guildhall.Client(n_workers=1)\n"
        "future = client.submit(time.sleep, 1.5)\nprint('ready', flush=True)\n"
        "try:\n    guildhall.progress(future)\n"
        "except KeyboardInterrupt:\n    print(future.status, future.result(20), future.status)\n"
        "client.close()\n",
        tmp_path,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert out == "pending None finished\n", err


def test_ten_thousand_futures_are_followed_at_a_small_cost(client: Client) -> None:
    futures = client.map(abs, range(10_000))
    client.gather(futures)
    began = time.perf_counter()
    progress(futures, file=io.StringIO())
    assert time.perf_counter() - began < 5


def test_importing_guildhall_imports_none_of_it() -> None:
    code = (
        "import sys, guildhall; guildhall.progress; "
        "print(*({'rich', 'tqdm', 'ipywidgets', 'IPython'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    assert guildhall.progress is progress

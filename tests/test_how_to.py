"""The code that pages show runs: each page as one script, from top to bottom; a block with a title is a file of that
name. Pages about other programs (a server, a test runner, a notebook) are run by those."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faults import eventually, script

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^```python(?: title=\"([\w.]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {
    str(path.relative_to(ROOT).with_suffix("")): path
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
NEEDS = {"docs/how-to/joblib": "sklearn", "docs/how-to/dask-collections": "xarray"}
"""Beside what the tests need: `guildhall[ecosystem]`."""
NOTEBOOKS = {"docs/how-to/jupyter"}


def blocks(page: str) -> list[str]:
    """What runs, as it stands."""
    return [code for title, code in CODE.findall(PAGES[page].read_text()) if not title]


def files(page: str, folder: Path) -> None:
    """Put the files that the page shows into the folder."""
    for title, code in CODE.findall(PAGES[page].read_text()):
        if title:
            (folder / title).write_text(code)


SHOW_CODE = [page for page in PAGES if blocks(page) and page not in NOTEBOOKS]


@pytest.mark.parametrize("page", SHOW_CODE)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    running = script("\n".join(blocks(page)), tmp_path)
    out, err = running.communicate(timeout=200)
    assert running.returncode == 0, out + err


def test_every_how_to_shows_code() -> None:
    assert {page for page in PAGES if page.startswith("docs/how-to/")} <= {
        page for page in PAGES if CODE.search(PAGES[page].read_text())
    }


# -- a web server -----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def asked(url: str, data: bytes | None = None) -> str:
    with urllib.request.urlopen(url, data, timeout=20) as answer:
        return str(answer.read().decode())


def answers(url: str) -> bool:
    try:
        asked(url)
    except OSError:
        return False
    return True


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    where = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "gunicorn", "--bind", where, "--workers", "2", *options, "app:app"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        assert eventually(lambda: answers(f"http://{where}/price"), 30), (folder / "log").read_text()
        yield f"http://{where}", server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


@pytest.mark.parametrize("options", [(), ("--preload", "--threads", "2")])
def test_web_workers_share_a_counter_also_when_one_is_killed(tmp_path: Path, options: tuple[str, ...]) -> None:
    pytest.importorskip("flask")
    pytest.importorskip("gunicorn")
    files("docs/how-to/web", tmp_path)
    try:
        with serving(tmp_path, *options) as (url, _):
            told = [asked(url) for _ in range(20)]
            assert [int(text.split()[3].strip(",")) for text in told] == list(range(1, 21))
            assert "tea" in asked(f"{url}/price")
            os.kill(int(told[-1].split()[-1]), signal.SIGKILL)
            assert eventually(lambda: answers(url), 30)
            first, second = (int(asked(url).split()[3].strip(",")) for _ in range(2))
            assert (first > 20, second) == (True, first + 1)
            assert asked(f"{url}/order", b"") == "ordered\n"
    finally:
        shutil.rmtree(Path(os.environ["GUILDHALL_HOME"]) / f"guildhall-{os.getuid()}" / "shop", ignore_errors=True)


# -- tests in parallel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("-n", "2"), ("-p", "no:xdist")])
def test_tests_in_parallel_share_what_is_made_once(tmp_path: Path, options: tuple[str, ...]) -> None:
    pytest.importorskip("xdist")
    files("docs/how-to/pytest-xdist", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 passed" in done.stdout


# -- a notebook -------------------------------------------------------------------------------------------------------


def test_the_cells_of_the_notebook_page_run_also_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat: Any = pytest.importorskip("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    first, *cells = blocks("docs/how-to/jupyter")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in (first, *cells[:-1], first, *cells)]
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [output for output in notebook.cells[0].outputs if "data" in output]
    assert "text/html" in shown[0]["data"], "the client is shown"

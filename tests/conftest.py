"""Halls of their own for each test, and a look at what the whole run left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from guildhall import Client


@pytest.fixture(autouse=True, scope="session")
def _nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = Path("/dev/shm") / f"guildhall-test-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.environ["GUILDHALL_HOME"] = str(home)
    yield
    left = [str(p) for p in home.glob("guildhall-*/*") if p.name.startswith(("private-", ".new-"))]
    psutil.wait_procs(psutil.Process().children(recursive=True), timeout=3)
    running = [p.cmdline() for p in psutil.Process().children(recursive=True) if "guildhall" in " ".join(p.cmdline())]
    import shutil

    shutil.rmtree(home)
    assert not left, f"halls left behind: {left}"
    assert not running, f"processes left behind: {running}"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client(n_workers=2) as made:
        yield made

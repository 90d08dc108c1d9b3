"""The command that lets everything go wrong: a round of it, and that it finds what is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parent / "chaos.py"


def chaos(tmp_path: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(COMMAND), *options]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("ground", ["embedded", "dask"])
def test_a_round_tells_what_was_done_and_leaves_nothing(tmp_path: Path, ground: str) -> None:
    home = os.environ["GUILDHALL_HOME"]
    before = set(os.listdir(home))
    code, told = chaos(tmp_path, "--ground", ground, "--minutes", "0.005", "--round-s", "1", "--seed", "3")
    assert code == 0, told
    last = told.splitlines()[-1]
    counts = {what: int(count) for count, what in re.findall(r"(\d+) ([a-z ]+)", last)}
    assert counts["kills"] >= 5, told
    assert counts["operations"] > 20, told
    assert counts["histories checked"] == 3, told
    assert "zero lost, zero doubled, zero stuck" in last
    assert set(os.listdir(home)) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ground", ["embedded", "dask"])
def test_a_broken_primitive_is_found(tmp_path: Path, ground: str) -> None:
    broken = ["--ground", ground, "--broken", "double_grant", "--kind", "lock"]
    code, told = chaos(tmp_path, *broken, "--minutes", "1", "--round-s", "0.5")
    assert code == 1, told
    assert "FAILED in round" in told
    assert "though it should wait" in told

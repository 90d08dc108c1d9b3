"""Real processes that use one thing at random while they are killed, stopped and made anew: their history is checked.

`CHAOS_S=600 pytest -m chaos tests/histories` lets each kind go on for longer, all together so many seconds.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from programs import REAL
from runs import LEAST_KILLS, storm

SECONDS = 0.5


def run(kind: str, seconds: float, directory: Path, processes: int) -> tuple[int, int]:
    """Returns how many commits there were, and how many kills."""
    seed = random.randrange(1 << 30)
    try:
        history, kills = storm(kind, seconds, seed, directory, processes)
    except Exception as error:
        raise AssertionError(f"storm({kind!r}, {seconds}, {seed}): {error}") from error
    return len(history.commits), kills


@pytest.mark.parametrize("kind", REAL)
def test_what_killed_and_stopped_processes_do_has_an_order(kind: str, tmp_path: Path) -> None:
    commits, kills = run(kind, SECONDS, tmp_path, 4)
    assert commits > 100
    assert kills >= LEAST_KILLS


@pytest.mark.chaos
@pytest.mark.parametrize("kind", REAL)
def test_what_killed_and_stopped_processes_do_for_minutes_has_an_order(kind: str, tmp_path: Path) -> None:
    seconds = float(os.environ.get("CHAOS_S", "60")) / len(REAL)
    commits, kills = run(kind, seconds, tmp_path, 6)
    print(f"{kind}: {commits} commits and {kills} kills in {seconds:g} s")

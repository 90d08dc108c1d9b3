"""Primitives that are broken on purpose: each fault is found, by random programs and by real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
from broken import (
    FAULTS,
    Patch,
    double_grant,
    forgotten_burial,
    last_comes_first,
    lost_update,
    one_lease_too_many,
    taken_dies_with_its_taker,
)
from models import Wrong
from programs import PLAYERS
from runs import PROGRAMS, simulated, storm


def _programs(kind: str, **options: Any) -> None:
    """As many as are run of each kind whenever the tests are."""
    for seed in range(PROGRAMS // len(PLAYERS)):
        simulated(kind, seed, **options)


@pytest.mark.parametrize(("fault", "kind", "why"), FAULTS)
def test_random_programs_find_the_fault(
    fault: Callable[[Patch], None], kind: str, why: str, monkeypatch: Patch
) -> None:
    fault(monkeypatch)
    with pytest.raises((Wrong, AssertionError, TimeoutError), match=why):
        _programs(kind)


@pytest.mark.parametrize(("fault", "kind"), [(double_grant, "lock"), (lost_update, "variable")])
def test_the_search_finds_the_fault_by_itself(fault: Callable[[Patch], None], kind: str, monkeypatch: Patch) -> None:
    fault(monkeypatch)
    monkeypatch.setattr(runs, "check", lambda *args: None)
    with pytest.raises(Wrong, match="no order of the calls"):
        _programs(kind, is_cross_checked=True)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (double_grant, "lock"),
        (one_lease_too_many, "semaphore"),
        (forgotten_burial, "lock"),
        (last_comes_first, "lock"),
        (lost_update, "variable"),
        (taken_dies_with_its_taker, "queue"),
    ],
)
def test_a_storm_finds_the_fault(fault: Callable[[Patch], None], kind: str, monkeypatch: Patch, tmp_path: Path) -> None:
    """One of several does: on a busy machine, processes may take turns in one."""
    fault(monkeypatch)

    def storms() -> None:
        for seed in range(10):
            (tmp_path / str(seed)).mkdir()
            storm(kind, 0.6, seed, tmp_path / str(seed))

    with pytest.raises((Wrong, AssertionError)):
        storms()

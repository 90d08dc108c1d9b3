"""A hall that is damaged anywhere gives an error of ours or goes on: it never ends, nor hangs, the process.

Some seconds here; `make fuzz MINUTES=n` goes on for longer. A failure prints the number of its case.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import crowded
import pytest
from damage import LEAST, fuzz, said, seconds, spoil_bytes, spoil_part, spoil_record, use, write
from faults import Child

SHARE = 0.09
"""Of all the time, for each of these eight."""


@pytest.fixture(scope="module", params=["memory", "disk"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A hall that nobody is in, in memory or on disk: that decides how LMDB maps it."""
    in_memory = Path(os.environ["GUILDHALL_HOME"]) / "fuzz"
    place = tmp_path_factory.mktemp("fuzz") if request.param == "disk" else in_memory
    place.mkdir(exist_ok=True)
    Child(write, place / "h").result()
    yield place / "h"
    shutil.rmtree(place)


def test_the_hall_that_is_damaged_next_is_whole(written: Path, tmp_path: Path) -> None:
    copy = written.parent / "copy"
    shutil.copytree(written, copy)
    assert said(copy, use) == "whole"
    shutil.rmtree(copy)


def test_damaged_bytes_of_the_store(written: Path) -> None:
    tally = fuzz(written, written.parent, spoil_bytes, seconds(SHARE, 2))
    print(f"bytes: {dict(tally)}")
    assert tally.total() >= LEAST, tally


def test_damaged_records_and_keys(written: Path) -> None:
    tally = fuzz(written, written.parent, spoil_record, seconds(SHARE, 2))
    print(f"records: {dict(tally)}")
    assert tally.total() >= LEAST, tally


@pytest.fixture(scope="module")
def left() -> Iterator[Path]:
    """A hall whose members died in the middle of everything."""
    place = Path(os.environ["GUILDHALL_HOME"]) / "crowded"
    place.mkdir()
    Child(crowded.write, place / "h").result()
    yield place / "h"
    shutil.rmtree(place)


@pytest.mark.parametrize("using", [crowded.use, crowded.command])
def test_a_hall_that_the_dead_left_is_whole(left: Path, using: Callable[[Path], None]) -> None:
    copy = left.parent / "copy"
    shutil.copytree(left, copy)
    assert said(copy, using) == "whole"
    shutil.rmtree(copy)


def test_damaged_records_of_the_dead_and_of_those_who_waited(left: Path) -> None:
    tally = fuzz(left, left.parent, spoil_record, seconds(SHARE, 2), crowded.use)
    print(f"records of the dead: {dict(tally)}")
    assert tally.total() >= LEAST, tally


def test_the_command_line_at_damaged_halls(left: Path) -> None:
    """A code and one line, whatever is spoiled, of every command; also of those that mend."""

    def spoil(path: Path, dice: random.Random) -> str:
        return str(dice.choice([spoil_bytes, spoil_record, spoil_part])(path, dice))

    tally = fuzz(left, left.parent, spoil, seconds(SHARE, 2), crowded.command)
    print(f"command line: {dict(tally)}")
    assert tally.total() >= LEAST, tally


def test_damaged_parts_of_the_directory(written: Path) -> None:
    tally = fuzz(written, written.parent, spoil_part, seconds(SHARE, 2))
    print(f"parts: {dict(tally)}")
    assert tally.total() >= LEAST, tally

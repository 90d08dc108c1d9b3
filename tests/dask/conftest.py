"""The tests of handles are beside the client; here they run again, over a hall that is far."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from far import Far

import guildhall

sys.path.append(str(Path(__file__).parents[1] / "client"))


@pytest.fixture
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.close()


@pytest.fixture
def hall(far: Far) -> Iterator[guildhall.Hall]:
    """In place of the embedded one: a process at a hall that is far."""
    with guildhall.Hall(far.host()) as made:
        yield made

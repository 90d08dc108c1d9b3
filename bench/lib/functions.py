"""The functions that tasks run. Of a module that every worker finds, since executors cannot send others."""

from __future__ import annotations

from typing import Any


def inc(x: int) -> int:
    return x + 1


def add(*xs: int) -> int:
    return sum(xs)


def total(array: Any) -> int:
    """Reads every byte."""
    return int(array.sum(dtype="uint64"))


def ones(size: int) -> Any:
    import numpy as np

    return np.ones(size, dtype="uint8")


def size_of(array: Any) -> int:
    return int(array.nbytes)


def array(size: int) -> Any:
    """Of bytes that nobody can compress or guess."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 255, size, dtype="uint8")


def doubling(leaves: int) -> int:
    """How many tasks a tree of so many leaves has."""
    return 2 * leaves - 1


def tree_of_levels(leaves: int, level_of: Any) -> int:
    """Adds up the leaves in pairs where each level is waited for: `level_of(function, argument tuples)` runs one."""
    level = level_of(inc, [(leaf,) for leaf in range(leaves)])
    while len(level) > 1:
        level = level_of(add, [tuple(level[at : at + 2]) for at in range(0, len(level), 2)])
    assert level[0] == leaves * (leaves + 1) // 2
    return int(level[0])

"""Every file under examples/ runs as a script of its own and finds all as it says: each checks itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import guildhall

ROOT = Path(__file__).parents[1]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").rglob("*.py"))}

PRIMITIVES = {
    "Variable": "variable", "Counter": "counter", "Queue": "queues", "PriorityQueue": "priority_queue", "Lock": "lock",
    "RLock": "rlock", "RWLock": "rwlock", "MultiLock": "multilock", "Semaphore": "semaphore", "Event": "event",
    "Barrier": "barrier", "Latch": "latch", "Condition": "condition", "Election": "election",
    "RateLimiter": "rate_limiter", "Pub": "pubsub", "Sub": "pubsub",
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_finds_all_as_it_says(name: str, tmp_path: Path) -> None:
    """Where nothing of the repository is on the path, as at a user's."""
    command = [sys.executable, str(EXAMPLES[name])]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout, "it shows nothing"
    assert list(tmp_path.iterdir()) == []


def test_every_example_checks_itself() -> None:
    assert not os.environ.get("PYTHONOPTIMIZE"), "assert would do nothing"
    for name, path in EXAMPLES.items():
        assert "assert " in path.read_text() or "sys.exit(" in path.read_text(), f"{name} checks nothing"


def test_each_primitive_has_its_example() -> None:
    from guildhall.client import handles

    kinds = {*guildhall.__all__} & {*handles.__all__} - {"TopicStatistics", "Watch"}
    assert kinds == set(PRIMITIVES)
    for kind, name in PRIMITIVES.items():
        assert f"{kind}(" in EXAMPLES[name].read_text(), f"examples/{name}.py does not use {kind}"

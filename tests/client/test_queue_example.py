"""The example of queues runs and checks itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_example_of_queues_runs() -> None:
    example = Path(__file__).parents[2] / "examples" / "queues.py"
    ran = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("\n") == 2

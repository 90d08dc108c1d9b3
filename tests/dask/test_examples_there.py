"""The examples, to the letter, on a cluster of Dask: only its address is given."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import Cluster

from guildhall import Client

EXAMPLES = Path(__file__).parents[2] / "examples"
NOT_THERE = {
    "deadlocks": "circles that go through results of tasks are not seen there",
    "ecosystem": "joblib and xarray work on the workers of this machine",
    "look_inside": "the command line looks into halls of this machine",
    "tutorial": "run below",
}
"""docs/guarantees.md has these differences."""


def test_what_is_left_out_is_there() -> None:
    assert set(NOT_THERE) <= {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", sorted({path.stem for path in EXAMPLES.glob("*.py")} - set(NOT_THERE)))
def test_an_example_of_a_primitive(
    name: str, client: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client.wait_for_workers(2, timeout=60)  # One that an example killed is back.
    monkeypatch.setenv("GUILDHALL", cluster.address)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out, "it shows nothing"


def test_the_tutorial_with_an_address(cluster: Cluster, tmp_path: Path, client: Client) -> None:
    client.wait_for_workers(2, timeout=60)
    command = [sys.executable, str(EXAMPLES / "tutorial.py"), cluster.address]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything came out as it should" in done.stdout

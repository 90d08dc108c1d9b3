"""What the pages show runs: each page as one script, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import script

ROOT = Path(__file__).parents[1]
NEEDS = {"executor": (), "joblib": ("sklearn",), "dask-collections": ("xarray",)}
"""Libraries that a page shows besides those of its own extra."""
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["executor", "joblib", "dask-collections"])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    for library in NEEDS[page]:
        pytest.importorskip(library)
    blocks = CODE.findall((ROOT / "docs" / "how-to" / f"{page}.md").read_text())
    assert blocks, "no code found on the page"
    out, err = (running := script("\n".join(blocks), tmp_path)).communicate(timeout=200)
    assert running.returncode == 0, out + err

"""The code that pages show runs: each page as one script, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import script

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {path.stem: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
NEEDS = {"joblib": "sklearn", "dask-collections": "xarray"}
"""Beside what the tests need: `guildhall[ecosystem]`."""
SHOW_CODE = [name for name, path in PAGES.items() if CODE.search(path.read_text())]


@pytest.mark.parametrize("page", SHOW_CODE)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    running = script("\n".join(CODE.findall(PAGES[page].read_text())), tmp_path)
    out, err = running.communicate(timeout=200)
    assert running.returncode == 0, out + err


def test_every_how_to_shows_code() -> None:
    assert {path.stem for path in (ROOT / "docs" / "how-to").glob("*.md")} <= set(SHOW_CODE)

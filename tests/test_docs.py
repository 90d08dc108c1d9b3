"""What the pages say about the repository is so: links lead somewhere, tests that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import guildhall
from guildhall import aio
from guildhall.client import handles

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]}
TESTS = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))}
PRIMITIVES = sorted({*guildhall.__all__} & {*handles.__all__} - {"TopicStatistics", "Watch"})

LINK = re.compile(r"\[[^]\n]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TEST_FUNCTION = re.compile(r"^\s*(?:async )?def (test_\w+)\(", re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What can stand behind `#`, as GitHub makes it of headings."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(prose(page)))
    return set(words)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = PAGES[name]
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name}: {link} leads nowhere"
        assert ROOT in target.parents, f"{name}: {link} leads out of the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name}: {target.name} has no heading for #{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_every_test_that_a_page_names_is_there(name: str) -> None:
    text = prose(PAGES[name])
    functions = {function for source in TESTS.values() for function in TEST_FUNCTION.findall(source)}
    files = {path.rpartition("/")[2] for path in TESTS}
    for path, function in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert path in TESTS, f"{name}: there is no {path}"
        assert function in TEST_FUNCTION.findall(TESTS[path]), f"{name}: {path} has no {function}"
    for named in re.findall(r"\b(test_\w+)\b(?!\.py)", text):
        assert named in functions, f"{name}: there is no {named}"
    for named in re.findall(r"\b(test_\w+\.py)\b", text):
        assert named in files, f"{name}: there is no {named}"


def test_every_path_of_the_repository_that_a_page_names_is_there() -> None:
    for name, page in PAGES.items():
        for path in re.findall(r"`((?:src|tests|examples|bench|docs)/[\w./-]*)`", page.read_text()):
            assert (ROOT / path).exists(), f"{name}: there is no {path}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        links = {(page.parent / link.partition("#")[0]).resolve() for page in new for link in LINK.findall(prose(page))}
        new = {link for link in links if link.suffix == ".md"} - reached
    assert set(PAGES.values()) <= reached, f"nobody finds {set(PAGES.values()) - reached}"


def test_decisions_have_numbers_of_their_own() -> None:
    pages = [path.name for path in (DOCS / "decisions").glob("*.md") if path.name != "README.md"]
    numbers = sorted(name[:4] for name in pages)
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    index = (DOCS / "decisions" / "README.md").read_text()
    for name in pages:
        assert f"[{name[:4]}]({name})" in index


# -- guarantees -------------------------------------------------------------------------------------------------------

COLUMNS = ["atomic", "fair", "exclusive", "timeout", "dies", "power"]


def guarantees() -> tuple[dict[str, list[str]], dict[str, str]]:
    """The cells of each row, and the test of each key."""
    text = (DOCS / "guarantees.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    keys = dict(re.findall(r"^\| ([A-Z]\d+) \| `(tests/[\w/.]+::\w+)` \|$", text, re.MULTILINE))
    head, table = rows[0], [row for row in rows[2:] if len(row) == len(rows[0])]
    for heading, word in zip(head[1:], COLUMNS, strict=True):
        assert word in heading
    return {row[0]: row[1:] for row in table}, keys


def test_every_guarantee_names_the_test_that_proves_it() -> None:
    table, keys = guarantees()
    used = set()
    for thing, cells in table.items():
        assert len(cells) == len(COLUMNS), thing
        for cell in cells:
            named = [key for group in re.findall(r"\[([A-Z\d ]+)\]", cell) for key in group.split()]
            assert named or cell == "-", f"{thing}: nothing proves {cell!r}"
            assert set(named) <= set(keys), f"{thing}: {cell!r} names a key that is not in the list"
            used |= set(named)
    assert used == set(keys), f"nothing is proved by {set(keys) - used}"


def test_every_primitive_has_its_row_of_guarantees_and_its_place_in_which_one() -> None:
    rows = " ".join(guarantees()[0])
    guide = (DOCS / "which-one.md").read_text()
    for kind in PRIMITIVES:
        assert re.search(rf"\b{kind}\b", rows), f"no row for {kind}"
        assert re.search(rf"`{kind}\b", guide), f"which-one.md does not speak of {kind}"
    assert set(PRIMITIVES) <= set(dir(aio)), "guildhall.aio has the same handles"


# -- the site ---------------------------------------------------------------------------------------------------------


def test_the_reference_has_every_public_name_once_and_no_other() -> None:
    shown = [
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: guildhall\.(\w+)$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(shown) == sorted({*guildhall.__all__, "aio"} - {"CancelledError", "TimeoutError"})
    for name in shown:
        assert getattr(guildhall, name).__doc__, f"{name} says nothing"


def test_the_site_fetches_nothing_from_elsewhere() -> None:
    """Fonts, scripts and pictures are its own; links are for the reader."""
    config = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in config
    assert "://" not in config.replace("https://mkdocs.org", "")
    for name, page in PAGES.items():
        text = page.read_text()
        assert not re.search(r"!\[[^]]*\]\(\w+://|<(?:img|script|source|link)[^>]*://", text), f"{name}: from elsewhere"


def test_every_claim_about_a_fault_names_its_test() -> None:
    section = (DOCS / "faults.md").read_text().partition("## What does not survive")[0]
    rows = [
        line for line in section.splitlines() if line.startswith("| ") and not line.startswith(("| --- ", "| what"))
    ]
    assert len(rows) > 40
    for row in rows:
        assert re.search(r"\| (`test_\w+`(, `test_\w+`)*|the same) \|$", row), f"nothing shows that {row}"


# -- the map ----------------------------------------------------------------------------------------------------------


def test_the_architecture_names_every_module() -> None:
    page = (DOCS / "architecture.md").read_text()
    package = ROOT / "src" / "guildhall"
    for path in package.rglob("*.py"):
        if path.name != "__init__.py":
            assert f"`{path.stem}`" in page, f"architecture.md does not speak of {path.relative_to(package)}"
    for path in package.rglob("*/__init__.py"):
        assert f"`{path.parent.relative_to(package)}" in page, f"nothing of {path.parent.name}/"
    assert guildhall.__doc__ is not None
    for folder in package.iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"`{folder.name}`" in guildhall.__doc__, f"the package's docstring does not name {folder.name}"


def test_what_from_dask_says_is_not_there_is_not_there() -> None:
    text = (DOCS / "how-to" / "from-dask.md").read_text().partition("## Not there")[2]
    client, package = text.partition("- Of the package")[::2]
    absent = re.findall(r"`(\w+)`", client.partition("To look inside")[0])
    assert len(absent) > 30
    assert [name for name in absent if hasattr(guildhall.Client, name)] == []
    assert [name for name in re.findall(r"`(\w+)`", package) if name in guildhall.__all__] == []

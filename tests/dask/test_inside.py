"""What of distributed's inside is used, in another release of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from distributed.client import Client as Native

import guildhall
from guildhall import HallRefused
from guildhall.hosts.dask import comms, inside

PACKAGE = Path(guildhall.__file__).parent
SOURCES = (PACKAGE / "hosts" / "dask" / "comms.py", PACKAGE / "engine" / "dask.py")


def test_all_of_it_is_there() -> None:
    assert inside.missing() == []


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Native, "_gather")
    with pytest.raises(HallRefused, match=r"distributed \S+ has no distributed.client:Client._gather, .*pip install"):
        inside.expect()


def test_a_connection_without_a_stream_of_that_kind_is_refused() -> None:
    class Other:
        stream: Any = object()

    with pytest.raises(HallRefused, match=r"has no object\._read_buffer"):
        comms._taken_over(Other())


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.parent.name)
def test_the_list_has_every_private_name_of_dask_that_is_used(source: Path) -> None:
    """Those that are called on something that is not `self`."""
    text = source.read_text()
    ours = set(re.findall(r"(?:def|self\.)\s*(_[a-z]\w*)", text)) | {"_exit", "_guildhall_engine", "_get_running_loop"}
    used = {name for name in re.findall(r"\w\.(_[a-z]\w*)", text) if not name.startswith("__")} - ours
    listed = " ".join(inside.USED) + str(inside.__doc__) + Path(inside.__file__).read_text()
    assert [name for name in sorted(used) if name not in listed] == []

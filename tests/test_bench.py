"""The benchmarks measure what they say: the framework, with the peers that the tests have."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"


@pytest.fixture(scope="module", autouse=True)
def _bench_is_found() -> Iterator[None]:
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("lib", "peers"):
            del sys.modules[name]


def test_every_peer_says_which_works_it_does() -> None:
    from lib import works
    from lib.player import load
    from lib.run import ORDER

    modules = {path.stem for path in (BENCH / "peers").glob("*.py")} - {"__init__", "executors", "files"}
    assert set(ORDER) == modules
    kinds = [load(module) for module in ORDER]
    assert len({kind.name for kind in kinds}) == len(ORDER)
    assert next(kind for kind in kinds if kind.name == "guildhall").all_works() == set(works.BY_NAME)
    for work in works.ALL:
        peers = [kind.name for kind in kinds if work.name in kind.all_works()]
        assert len(peers) > 1, f"nobody to compare with at {work.name}"
        assert work.doubt, f"{work.name} does not say what it does not prove"


def test_a_run_measures_all_peers_in_turn_and_names_who_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib import machine, report
    from lib.run import Pace, Run
    from lib.side import Side

    monkeypatch.setattr(machine, "busy_with_others", lambda: 0.0)
    pace = Pace(rounds=2, round_s=0.05, enough_s=1.0, limit_s=2.0, fresh_rounds=1, idle_s=0.1, total_s=60.0)
    asked = ["import", "start", "lock", "increments", "map"]
    run = Run(pace, is_quick=True, peers=["guildhall", "multiprocessing", "process_pool", "zmq"], asked=asked)
    assert all(isinstance(side, Side) for side in run.sides)
    zmq = next(side for side in run.sides if side.module == "zmq")
    zmq.kind = type("Absent", (zmq.kind,), {"python": str(tmp_path / "none")})
    zmq.kind.works = {**zmq.kind.works, "lock": lambda peer, x: None}
    results = run.all()
    assert list(results.missing) == ["pyzmq"]
    found = {(point["work"], point["peer"], point["x"]): point for point in results.points}
    for peer in ("guildhall", "multiprocessing"):
        assert 0 < found["lock", peer, 1]["value"] <= found["lock", peer, 1]["p99"]
        assert found["increments", peer, 8]["value"] > 0
        assert found["increments", peer, 8]["call_us"]["p50"] > 0
    assert found["map", "guildhall", 100]["value"] > 0
    assert found["map", "ProcessPoolExecutor", 100]["value"] > 0
    assert found["start", "guildhall", 1]["value"] > 0
    path = tmp_path / "results.json"
    results.save(path)
    text = report.markdown(report.load(path))
    assert "Missing: pyzmq" in text
    assert "*Not proved:*" in text


def test_members_of_a_work_do_it_together() -> None:
    """As many increments are found as were counted: what was over when the time was up, and one more of each."""
    from lib import player

    import guildhall

    one: Any = player.Player(player.load("guildhall")())
    try:
        one.prepare("increments", 3)
        with guildhall.open(one.peer.address()) as hall:
            counted = guildhall.Variable("contended", hall=hall)
            before = counted.get()
            each_s, samples = one.round(0.2)
            assert counted.get() - before == round(0.2 / each_s) + 3
            assert samples
        one.finish()
    finally:
        one.close()


def test_a_size_that_would_take_too_long_is_left_out() -> None:
    from lib.run import expected_s
    from lib.works import BY_NAME

    assert expected_s(BY_NAME["map"], [0.1], 10) == pytest.approx(1.0)
    assert expected_s(BY_NAME["scatter"], [0.5], 1000) == pytest.approx(0.5)
    assert expected_s(BY_NAME["scatter"], [0.5, 0.6], 10) == pytest.approx(1.5)
    assert expected_s(BY_NAME["adds"], [2.0, 1.0], 2) == 1.0
    assert expected_s(BY_NAME["map"], [], 10) == 0.0


def test_a_run_whose_time_is_up_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib import machine
    from lib.run import Pace, Run

    monkeypatch.setattr(machine, "busy_with_others", lambda: 0.0)
    pace = Pace(rounds=1, round_s=0.01, enough_s=1.0, limit_s=1.0, fresh_rounds=1, idle_s=0.1, total_s=0.0)
    results = Run(pace, is_quick=True, peers=["multiprocessing"], asked=["lock", "depth"]).all()
    assert results.points == []
    assert {(one["work"], one["x"]) for one in results.left_out} == {
        ("lock", 1), ("depth", 10), ("depth", 1000), ("depth", 100_000)
    }  # fmt: skip
    assert all("time of the whole run" in one["why"] for one in results.left_out)


def test_the_model_is_what_the_page_says() -> None:
    from lib import model

    page = (ROOT / "docs" / "performance.md").read_text()
    stores = re.findall(r"^\| (evenly|of 1000|half)[^|]*\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", page, re.M)
    shares = {
        "evenly": lambda k: [1 / k] * k,
        "of 1000": lambda k: model.zipf(1000, k),
        "half": lambda k: [0.5 + 0.5 / k, *[0.5 / k] * (k - 1)],
    }
    assert [how for how, *_ in stores] == list(shares)
    for how, *said in stores:
        for k, times in zip((2, 4, 8, 16), said, strict=True):
            assert model.sharded(1, shares[how](k)) == pytest.approx(float(times), rel=0.03)
    rows = re.findall(r"^\| (none|\d+ us|1 ms) \| ([\d.]+) \| ([\d ]+) /s \| (\d+) % \|$", page, re.M)
    think = {"none": 0.0, "10 us": 10e-6, "100 us": 100e-6, "1 ms": 1e-3}
    assert [text for text, *_ in rows] == list(think)
    for text, bend, together, part in rows:
        service_s, think_s = 3e-6, think[text]
        assert model.bend(service_s, think_s) == pytest.approx(float(bend), rel=0.02)
        rate = model.together(service_s, think_s, 8)
        assert rate == pytest.approx(float(together.replace(" ", "")), rel=0.01)
        assert rate * (service_s + think_s) / 8 == pytest.approx(float(part) / 100, abs=0.006)
    assert model.together(3e-6, 100e-6, 64, cores=2) == pytest.approx(2 / 103e-6)


def test_page_and_pictures_are_those_of_the_results() -> None:
    from lib import report

    results = json.loads((BENCH / "results" / "full.json").read_text())
    page = report.PAGE.read_text()
    for line in report.markdown(results).splitlines():
        assert line in page, "make bench-report"
    assert report.readme(results) in report.README.read_text(), "make bench-report"

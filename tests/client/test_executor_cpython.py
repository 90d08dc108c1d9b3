"""CPython's own tests of executors, run against ours where this Python has them installed."""

from __future__ import annotations

import importlib
import unittest
from types import ModuleType
from typing import Any

import pytest

from guildhall import Executor


def _theirs(name: str) -> ModuleType | None:
    """The module with those tests: one for all until Python 3.11, one for each since."""
    for path in (f"test.test_concurrent_futures.{name}", "test.test_concurrent_futures"):
        try:
            return importlib.import_module(path)
        except (ImportError, unittest.SkipTest):
            continue
    return None


PLACES = {
    "ExecutorTest": "executor",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
    "ExecutorShutdownTest": "test_shutdown",
}
ABOUT_MODULE = ("test_interpreter_shutdown", "test_submit_after_interpreter_shutdown", "test_hang_gh83386")
"""These start scripts that import the executor from `concurrent.futures`; `test_executor.py` has them for ours."""


class OurExecutor:
    """What their tests are mixed with."""

    worker_count = 5
    executor_type = Executor
    executor: Any

    def setUp(self) -> None:
        self.executor = Executor(self.worker_count)

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)
        self.executor = None


def _case(kind: str, place: str) -> type[unittest.TestCase] | None:
    module = _theirs(place)
    tests = getattr(module, kind, None)
    if tests is None:
        return None
    return type(f"Test{kind}", (OurExecutor, tests, unittest.TestCase), dict.fromkeys(ABOUT_MODULE))


def _suite() -> list[Any]:
    cases = filter(None, (_case(*place) for place in PLACES.items()))
    return [test for case in cases for test in unittest.defaultTestLoader.loadTestsFromTestCase(case)]


@pytest.mark.skipif(not _suite(), reason="this Python has no test.test_concurrent_futures")
def test_cpythons_own_tests_pass() -> None:
    suite = unittest.TestSuite(_suite())
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    assert result.testsRun > 20
    assert result.wasSuccessful(), [text for _, text in (*result.failures, *result.errors)]

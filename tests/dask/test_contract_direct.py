"""The tests of topics, over a hall that is far, in a process that others can dial: messages do not pass the hall.

Not here: what is as in test_contract_there, and what looks at what the hall keeps.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import test_aio
import test_topics
from far import Far
from test_contract_there import LONG, OF_THIS_MACHINE

import guildhall
from guildhall.hosts import current

LOOK_AT_WAITS = {
    "test_event_variable_and_sub_survive_cancelled_waits",
    "test_a_loop_that_is_closed_amid_waits_leaves_nobody_in_line",
}
"""A subscription here stands in line for what is relayed as long as it is open."""
FETCHES = {"test_what_an_interrupted_get_had_fetched_is_dropped_as_what_still_waits"}
"""Messages come here by themselves: nothing is fetched."""


@pytest.fixture
def hall(far: Far) -> Iterator[guildhall.Hall]:
    """The current one, too."""
    with guildhall.Hall(far.station()) as made:
        current.add_default(made.host)
        yield made
        current.remove_default(made.host)


for _module in (test_topics, test_aio):
    for _name, _test in vars(_module).items():
        if not _name.startswith("test_") or not callable(_test):
            continue
        if _name in OF_THIS_MACHINE | LONG | LOOK_AT_WAITS | FETCHES:
            continue
        if "hall" in inspect.signature(_test).parameters and "ctrl_c" not in _name:
            globals()[_name] = _test

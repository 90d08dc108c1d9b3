"""The tests of handles, over a hall that is far: the same functions, given that `hall`.

Not here: what looks at the store or the files of this machine, and what takes longer than it would add.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest
import test_aio
import test_conditions
import test_counter
import test_deadlocks
import test_locks
import test_queue
import test_queue_take
import test_sync
import test_topics
import test_variable

import guildhall
from guildhall.hosts import current

MODULES = (
    test_aio, test_conditions, test_counter, test_deadlocks, test_locks, test_queue, test_queue_take, test_sync,
    test_topics, test_variable,
)  # fmt: skip
OF_THIS_MACHINE = {
    "test_what_happens_while_a_waiter_hangs_its_bell_is_not_slept_over",  # A far one has it from the beginning.
    "test_a_reader_that_wants_to_write_and_a_reader_behind_a_writer",  # Another of the circle is told: guarantees.md.
    "test_a_large_item_that_was_never_put_leaves_nothing",  # Files.
    "test_an_unreadable_item_goes_to_the_dead_letters_and_its_batch_back",
    "test_large_items_leave_nothing_once_they_are_done",
    "test_a_leader_may_give_a_large_value",
    "test_the_memory_of_what_is_dropped_comes_back",
    "test_an_update_that_is_beaten_leaves_no_blob",
    "test_processes_that_only_opened_the_hall_share_them",  # By its path.
}
LONG = {
    "test_a_durable_message_that_get_did_not_return_comes_again_after_close",
    "test_no_notification_is_lost_when_waiters_and_holders_are_killed",
    "test_who_keeps_an_order_is_never_told",
    "test_never_more_than_max_leases_among_processes",
    "test_who_keeps_no_order_is_told_at_times_and_never_stuck",
    "test_what_killed_holders_leave_is_free_and_whole",
    "test_the_lock_stays_exclusive_and_goes_round_when_anybody_is_killed",
    "test_of_processes_that_cross_exactly_one_is_told_each_time",
    "test_the_next_candidate_leads_when_the_leader_is_killed_and_terms_grow",
    "test_blocked_publishers_lose_nothing_and_keep_their_order",
    "test_a_barrier_does_what_that_of_threading_does",
    "test_parties_of_several_processes_go_round_after_round",
    "test_philosophers_neither_block_each_other_nor_starve",
    "test_threads_of_a_forked_child_get_one_subscription_together",
    "test_a_condition_does_what_that_of_threading_does",
    "test_what_processes_did_is_one_history",
}


@pytest.fixture
def hall(hall: guildhall.Hall) -> Iterator[guildhall.Hall]:
    """The current one, too."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


v, c = test_variable.v, test_counter.c


def _adopt(module: ModuleType) -> None:
    for name, test in vars(module).items():
        if not name.startswith("test_") or not callable(test) or name in OF_THIS_MACHINE | LONG:
            continue
        if "hall" in inspect.signature(test).parameters and "ctrl_c" not in name:
            globals()[f"{name}_{module.__name__}" if name in globals() else name] = test


for _module in MODULES:
    _adopt(_module)

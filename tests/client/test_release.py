"""What nobody refers to any more goes, soon, and also when nobody does anything."""

from __future__ import annotations

import os
import time

import numpy as np
from faults import eventually

from guildhall import Client, Queue, Variable


def blobs(client: Client) -> list[str]:
    return os.listdir(os.path.join(client.host.directory, "blobs"))


def soon_empty(client: Client) -> bool:
    return eventually(lambda: not blobs(client), 5)


def test_a_blob_goes_with_its_last_future_while_the_client_does_nothing(client: Client) -> None:
    future = client.scatter(np.zeros(100_000))
    assert blobs(client)
    del future
    assert soon_empty(client)


def test_a_blob_goes_although_many_small_results_were_let_go_before_it(client: Client) -> None:
    for _ in range(3):
        client.gather(client.map(abs, range(5000)))
        client.scatter(np.zeros(100_000))
        assert len(blobs(client)) <= 1
    assert soon_empty(client)


def test_a_result_lives_in_a_variable_until_it_is_overwritten_and_in_a_queue_until_it_is_taken(client: Client) -> None:
    Variable("kept").set(client.scatter(np.ones(100_000)))
    Queue("kept").put(client.scatter(np.ones(50_000)))
    time.sleep(0.2)
    assert len(blobs(client)) == 2
    assert Variable("kept").get().result().sum() == 100_000
    assert Queue("kept").get(timeout=5).result().sum() == 50_000
    Variable("kept").set(None)
    assert soon_empty(client)


def test_results_that_only_tasks_passed_on_are_freed(client: Client) -> None:
    last = client.submit(np.zeros, 100_000)
    for _ in range(5):
        last = client.submit(np.add, last, 1)
    assert last.result(timeout=20)[0] == 5
    del last
    assert soon_empty(client)

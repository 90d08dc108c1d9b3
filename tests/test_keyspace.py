"""The key space is as docs/keyspace.md says: each vector there is a key that the ops really write."""

from __future__ import annotations

import re
from pathlib import Path

from guildhall.engine.local import actors, inbox, tasks
from guildhall.engine.local.tasks import Demand, Recipe
from guildhall.primitives import (
    barrier,
    condition,
    counter,
    dataset,
    deadlock,
    delivery,
    election,
    event,
    introduction,
    latch,
    limiter,
    lock,
    multilock,
    queue,
    rlock,
    rwlock,
    semaphore,
    sessions,
    subscription,
    topic,
    values,
    variable,
)
from guildhall.primitives.condition import Guard
from guildhall.primitives.values import FINISHED
from guildhall.store.keys import pack, pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

PAGE = Path(__file__).parents[1] / "docs" / "keyspace.md"
VECTOR = re.compile(r"^\| .* \| `([0-9a-f ]+)` \|$", re.MULTILINE)
X = pack_name("test", "x")
Y = pack_name("test", "y")


def everything_at_once() -> set[bytes]:
    """All keys that a hall with one of everything ever held."""
    store = MemoryStore()
    seen: set[bytes] = set()

    def run(op: object, *args: object) -> None:
        store.transact(op, *args)  # type: ignore[arg-type]
        seen.update(store.keys)

    for _ in range(300):
        run(sessions.number)
    run(sessions.join, sessions.Session(1, 100, "process"))
    run(sessions.join, sessions.Session(300, 101, "worker"))
    run(variable.put, X, b"")
    run(event.put, X)
    run(lock.acquire, X, 1, 1, 0, None)
    run(lock.acquire, X, 300, 1, 7, Waiter(300, 7, 0))
    run(queue.put, X, 0, b"", None)
    reader = values.object_id(300, 9)
    run(subscription.subscribe, X, reader, reader)
    run(topic.publish, X, (b"",))
    run(values.make, values.object_id(1, 5), FINISHED, b"")
    run(values.hold_for, 300, [values.object_id(1, 5)])
    run(tasks.submit, [(values.object_id(1, 6), Recipe("f", b"", b"", priority=2), ())])
    run(tasks.submit, [(values.object_id(1, 7), Recipe("g", b"", b"", (values.object_id(1, 6),)), ())])
    run(tasks.claim, 300, 1, None)
    run(tasks.claim, 300, 1, Waiter(300, 8, 0))
    run(tasks.doze, Waiter(300, 8, 0), 1)
    run(tasks.enlist, 300)
    run(rlock.acquire, X, 1, 1, -1, 0.0, None)
    run(rwlock.acquire, X, rwlock.READ, 1, -2, 0.0, None)
    run(semaphore.acquire, X, 1, 0, 300, 3, 0.0, None)
    run(multilock.acquire, (X,), 1, 1, -4, 0.0, None)
    run(multilock.acquire, (X,), 1, 300, 9, 0.0, Waiter(300, 9, 0))
    run(deadlock.declare, Waiter(300, 7, 0), 1, deadlock.Statement("thread x"), tasks.awaits)
    run(variable.await_newer, X, 1 << 30, Waiter(300, 10, 0))
    run(variable.take_turn, X, 300, 1, None)
    run(counter.add, X, 1)
    run(latch.count_down, X, 2, 1)
    run(barrier.wait, X, 1, None, None, 300)
    run(lock.release, X, 1, 1)
    run(condition.wait, X, Guard(lock.LOCKS + X, 300, 1), Waiter(300, 13, 0), 0.0)
    run(lock.acquire, X, 300, 1, 0, None)
    run(condition.wait, X, Guard(lock.LOCKS + X, 300, 1), Waiter(300, 14, 0), 0.0)
    run(lock.acquire, X, 1, 1, 0, None)
    run(condition.notify, X, Guard(lock.LOCKS + X, 1, 1), None, 0.0)
    run(election.campaign, X, 1, 1, 0, b"", None)
    run(limiter.acquire, X, limiter.Terms(1, 1, 0), 1, limiter.Moment("", 0), None)
    run(tasks.submit_keyed, 1, [(values.object_id(1, 8), Recipe("h", b"", b""), ())], [b"k"])
    run(tasks.fire, [values.object_id(1, 8)])
    run(values.set_budget, 1)
    run(inbox.send, 300, values.object_id(1, 9), Recipe("run", b"", b""), ())
    run(tasks.submit, [(values.object_id(1, 10), Recipe("g", b"", b"", demand=Demand(("a",))), ())])
    run(dataset.publish, X, b"", False)
    run(tasks.submit, [(values.object_id(1, 11), Recipe("A", b"", b""), ())])
    run(actors.settle_in, values.object_id(1, 11), 300, False)
    run(actors.call, values.object_id(1, 11), values.object_id(1, 12), Recipe("A.f", b"", b""), ())
    run(queue.get, X, 0, 1, 1, None)
    run(queue.put, X, 0, b"\x80", None)
    run(queue.put, X, 0, b"\x80", None)
    run(delivery.take, X, 0, 300, 1, 0, None)
    run(queue.get, X, 0, 1, 300, None, 0.0, pack((300, 0)), 1)
    run(queue.put, X, 0, queue.item(b"", due=1000.5), None)
    run(queue.put, X, 0, queue.item(b"", -1.0), None)
    slow, group = values.object_id(300, 10), pack_name("test", "g")
    run(subscription.configure, X, 1)
    run(subscription.fetch, X, reader, reader, 1, 300, None)
    run(subscription.subscribe, X, values.object_id(300, 11), group, None, subscription.BLOCK, 2)
    run(subscription.subscribe, X, slow, slow, 0, subscription.DROP, 1)
    run(topic.publish, X, (b"", b""), 1.5)
    run(topic.publish, X, (b"",), 2.5, Waiter(300, 12, 0))
    run(subscription.subscribe, pack_name("test", "x.*"), values.object_id(300, 13), values.object_id(300, 13))
    run(topic.publish, pack_name("test", "x.y"), (b"",))
    run(values.follow, values.feed_of(Waiter(300, 0, 9)), [values.object_id(1, 5)], [Waiter(300, 20, 0)])
    run(queue.put, Y, 0, b"\x80", None)
    run(queue.get, Y, 0, 1, 300, None, 0.0, pack((300, 1)), 1)
    run(delivery.delete, Y, 9)
    run(introduction.join, Y, values.object_id(300, 21), 300, "tcp://host:1", Waiter(300, 22, introduction.MAIL))
    run(introduction.route, Y, 300, 1.0)
    run(introduction.announce, Y, 1, 2.0, Waiter(1, 23, 0))
    return seen


def test_every_vector_on_the_page_is_a_key_and_every_region_has_one() -> None:
    vectors = {bytes.fromhex(found) for found in VECTOR.findall(PAGE.read_text())}
    keys = everything_at_once()
    assert vectors, "no vectors found on the page"
    assert not vectors - keys, f"not written by any op: {[v.hex(' ') for v in vectors - keys]}"
    missing = {key[:1] for key in keys} - {vector[:1] for vector in vectors}
    assert not missing, f"regions without a vector: {[m.hex() for m in missing]}"


if __name__ == "__main__":
    for key in sorted(everything_at_once()):
        print(key.hex(" "))

"""A store room with room for five: producers wait for room, consumers for goods, two conditions over one lock.

Run it with `python examples/condition.py`. It checks itself. (A `Queue` with `maxsize=5` would do just this.)
"""

from guildhall import Client, Condition, Lock, Variable

ROOM, EACH = 5, 40


def produce(number: int) -> int:
    lock, shelf = Lock("store room"), Variable("shelf")
    room, goods = Condition("room", lock), Condition("goods", lock)
    for item in range(EACH):
        with lock:
            room.wait_for(lambda: len(shelf.get()) < ROOM, timeout=30)
            shelf.set([*shelf.get(), (number, item)])
            goods.notify()
    return 0


def consume(_: int) -> list[tuple[int, int]]:
    lock, shelf, got = Lock("store room"), Variable("shelf"), []
    room, goods = Condition("room", lock), Condition("goods", lock)
    for _ in range(EACH):
        with goods:  # The same lock.
            goods.wait_for(lambda: shelf.get(), timeout=30)
            first, *rest = shelf.get()
            assert len(rest) < ROOM
            shelf.set(rest)
            room.notify()
        got.append(first)
    return got


with Client(n_workers=4) as client:
    Variable("shelf").set([])
    producing = client.map(produce, range(2))
    taken = [item for some in client.gather(client.map(consume, range(2))) for item in some]
    client.gather(producing)
    print(len(taken), "items through a room for", ROOM)
    assert sorted(taken) == [(number, item) for number in range(2) for item in range(EACH)]

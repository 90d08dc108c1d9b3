"""Several things at once, all or nothing: philosophers that cannot block each other, and any two of three devices.

Run it with `python examples/multilock.py`. It checks itself.
"""

from guildhall import Client, Counter, MultiLock


def dine(place: int) -> int:
    """Takes two forks, each shared with a neighbour. With a Lock for each, all five may hold one and wait for ever."""
    for _ in range(10):
        with MultiLock([f"fork {place}", f"fork {(place + 1) % 5}"]):
            assert Counter(f"in hand {place}").add() == 1
            assert Counter(f"in hand {(place + 1) % 5}").add() == 1
            for fork in (place, (place + 1) % 5):
                Counter(f"in hand {fork}").add(-1)
    return place


with Client(n_workers=2) as client:
    assert client.gather(client.map(dine, range(5))) == list(range(5))
    print("five philosophers have eaten ten times each")

    with MultiLock(["gpu 0"]), MultiLock(["gpu 0", "gpu 1", "gpu 2"], num_locks=2) as devices:
        print("devices:", devices.held)
        assert devices.held == ("gpu 1", "gpu 2")
        assert not MultiLock(["gpu 1", "gpu 3"]).acquire(timeout=0), "all or nothing"
    assert MultiLock(["gpu 3"]).acquire(timeout=0), "so the free one was not taken"

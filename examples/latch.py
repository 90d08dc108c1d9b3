"""The client goes on when four parts are loaded, wherever that is done; the loaders do not wait for each other.

Run it with `python examples/latch.py`. It checks itself.
"""

import time

from guildhall import Client, Latch, Variable


def load(part: int) -> None:
    Variable(f"part {part}").set(part * part)
    Latch("loaded", 4).count_down()
    time.sleep(0.2)  # It is not waited for any more.


with Client(n_workers=2) as client:
    loaded = Latch("loaded", 4)
    assert not loaded.wait(timeout=0.01)
    loading = client.map(load, range(4))
    assert loaded.wait(timeout=30)
    parts = [Variable(f"part {part}").get(timeout=0) for part in range(4)]
    print("loaded:", parts)
    assert parts == [0, 1, 4, 9]
    client.gather(loading)

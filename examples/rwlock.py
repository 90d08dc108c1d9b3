"""Two prices that belong together: who reads sees both of one moment, and readers do not wait for each other.

Run it with `python examples/rwlock.py`. It checks itself.
"""

import time

from guildhall import Client, Latch, RWLock, Variable


def read_both() -> bool:
    with RWLock("prices").read():
        buy = Variable("buy").get()
        time.sleep(0.001)
        return bool(buy + 1 == Variable("sell").get())


def change_both(price: int) -> bool:
    with RWLock("prices").write():
        Variable("buy").set(price)
        Variable("sell").set(price + 1)
    return True


def read_together() -> bool:
    """Each of two readers waits, with the lock in hand, until the other has it too."""
    with RWLock("prices").read():
        inside = Latch("both read", 2)
        inside.count_down()
        return inside.wait(timeout=30)


with Client(n_workers=2) as client:
    change_both(10)
    calls = [client.submit(change_both, n) if n % 5 == 0 else client.submit(read_both) for n in range(30)]
    assert all(client.gather(calls))
    print("24 readers saw two prices of one moment, beside 6 writers")
    assert client.gather([client.submit(read_together) for _ in range(2)]) == [True, True]
    print("two readers were in at the same time")

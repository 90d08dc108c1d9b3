"""A lock with a lease: a holder that hangs is taken over from, learns of it, and its late write is refused.

Run it with `python examples/lock.py`. It checks itself.
"""

from __future__ import annotations

import threading
import time

from guildhall import Client, Lock, LockLost, Variable


def deposit(amount: int) -> None:
    """Reading and writing are two steps; under the lock nobody comes between them."""
    with Lock("account"):
        balance = Variable("balance")
        balance.set(balance.get() + amount)


class Ledger:
    """Something outside the hall: it keeps the largest token that it has seen, and refuses a smaller one."""

    def __init__(self) -> None:
        self.largest = 0

    def write(self, token: int | None) -> bool:
        if token is None or token < self.largest:
            return False
        self.largest = token
        return True


def a_holder_that_hangs() -> None:
    ledger = Ledger()
    stuck = Lock("nightly", lease_s=0.1)
    stuck.acquire()
    old_token = stuck.fencing_token
    with Lock("nightly", lease_s=10) as other:  # Waits for the lease to end.
        assert other.took_over
        assert ledger.write(other.fencing_token)
        assert not ledger.write(old_token)
        try:
            stuck.ensure_held()
        except LockLost as lost:
            print(lost)


def a_holder_that_works() -> None:
    """It says that it is alive in each step, and keeps the lock for longer than one lease."""
    with Lock("nightly", lease_s=2) as lock:
        for _ in range(5):
            time.sleep(0.02)
            lock.renew()
        lock.ensure_held()


def who_holds_it() -> None:
    with Lock("busy") as lock:
        waiter = threading.Thread(target=Lock("busy").acquire, kwargs={"timeout": 5})
        waiter.start()
        while not lock.statistics().waiting:
            time.sleep(0.001)
        holder = lock.statistics().holders[0]
        print(f"process {holder.pid} holds it since {time.ctime(holder.since)}")
    waiter.join()


with Client(n_workers=2) as client:
    Variable("balance").set(0)
    client.gather(client.map(deposit, range(100)))
    print("balance:", Variable("balance").get())
    assert Variable("balance").get() == sum(range(100))
    a_holder_that_hangs()
    a_holder_that_works()
    who_holds_it()

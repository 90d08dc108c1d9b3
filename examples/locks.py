"""What can be held, each with the job it is for. Runs by itself and checks itself: python examples/locks.py"""

from __future__ import annotations

import threading
import time

import guildhall
from guildhall import Client, Lock, LockLost, MultiLock, RLock, RWLock, Semaphore, Variable


def deposit(account: str, amount: int) -> None:
    """Takes the lock itself, and may be called by one who holds it."""
    with RLock("bank"):
        balance = Variable(account)
        balance.set(balance.get() + amount)


def transfer(source: str, target: str, amount: int) -> None:
    with RLock("bank"):
        deposit(source, -amount)
        deposit(target, amount)


def reentrant(client: Client) -> None:
    """RLock: a function that holds it calls another that takes it."""
    for account in ("mine", "yours"):
        Variable(account).set(100)
    client.gather([client.submit(transfer, "mine", "yours", 1) for _ in range(20)])
    assert (Variable("mine").get(), Variable("yours").get()) == (80, 120)


def read_both() -> bool:
    with RWLock("prices").read():
        return bool(Variable("buy").get() + 1 == Variable("sell").get())


def change_both(price: int) -> bool:
    with RWLock("prices").write():
        Variable("buy").set(price)
        Variable("sell").set(price + 1)
    return True


def readers_and_a_writer(client: Client) -> None:
    """RWLock: who reads sees both prices of one moment."""
    change_both(10)
    calls = [client.submit(change_both, n) if n % 5 == 0 else client.submit(read_both) for n in range(30)]
    assert all(client.gather(calls))


def dine(place: int) -> int:
    with MultiLock([f"fork {place}", f"fork {(place + 1) % 5}"]):
        return place


def several_at_once(client: Client) -> None:
    """MultiLock: philosophers that cannot block each other, and any two of three devices."""
    assert client.gather(client.map(dine, range(5))) == list(range(5))
    with MultiLock(["gpu 0"]), MultiLock(["gpu 0", "gpu 1", "gpu 2"], num_locks=2) as devices:
        assert devices.held == ("gpu 1", "gpu 2")


def query(number: int) -> int:
    with Semaphore("connections", max_leases=2) as connections:
        return int(connections.get_value())


def so_many_at_a_time(client: Client) -> None:
    """Semaphore: never more than two connections."""
    assert max(client.gather(client.map(query, range(20)))) <= 2


def a_holder_that_hangs() -> None:
    """Lock with a lease: another takes over, the one that hung learns of it, and its late write is refused."""
    accepted: list[int] = []

    def write(token: int | None) -> bool:
        """Something outside the hall that keeps the largest token it has seen."""
        if token is None or (accepted and token < accepted[-1]):
            return False
        accepted.append(token)
        return True

    stuck = Lock("nightly", lease_s=0.1)
    stuck.acquire()
    old_token = stuck.fencing_token
    with Lock("nightly", lease_s=10) as other:  # Waits for the lease to end.
        assert other.took_over
        assert write(other.fencing_token)
        assert not write(old_token)
        try:
            stuck.ensure_held()
        except LockLost as lost:
            print(lost)
    with Lock("nightly", lease_s=0.1) as lock:
        for _ in range(5):
            time.sleep(0.03)
            lock.renew()
        lock.ensure_held()


def who_holds_it() -> None:
    """Every one of them tells who holds and who waits."""
    with Lock("busy") as lock:
        waiter = threading.Thread(target=Lock("busy").acquire, kwargs={"timeout": 5})
        waiter.start()
        while not lock.statistics().waiting:
            time.sleep(0.001)
        holder = lock.statistics().holders[0]
        print(f"process {holder.pid} holds it since {time.ctime(holder.since)}")
    waiter.join()


if __name__ == "__main__":
    with guildhall.Client(n_workers=2) as client:
        reentrant(client)
        readers_and_a_writer(client)
        several_at_once(client)
        so_many_at_a_time(client)
        a_holder_that_hangs()
        who_holds_it()
    print("locks: all as said")

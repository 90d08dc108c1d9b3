"""A function that holds a lock calls another that takes it: with an RLock it may.

Run it with `python examples/rlock.py`. It checks itself.
"""

from guildhall import Client, RLock, Variable


def deposit(account: str, amount: int) -> None:
    """Takes the lock itself, and may be called by one who holds it."""
    with RLock("bank"):
        balance = Variable(account)
        balance.set(balance.get() + amount)


def transfer(source: str, target: str, amount: int) -> None:
    """Nobody sees the money in neither account, or in both."""
    with RLock("bank"):
        deposit(source, -amount)
        deposit(target, amount)


def total() -> int:
    with RLock("bank"):
        return int(Variable("mine").get() + Variable("yours").get())


with Client(n_workers=2) as client:
    for account in ("mine", "yours"):
        Variable(account).set(100)
    transfers = [client.submit(transfer, "mine", "yours", 1) for _ in range(20)]
    totals = client.gather([client.submit(total) for _ in range(20)])
    assert totals == [200] * 20
    client.gather(transfers)
    print("mine:", Variable("mine").get(), "yours:", Variable("yours").get())
    assert (Variable("mine").get(), Variable("yours").get()) == (80, 120)

    bank = RLock("bank")
    with bank, RLock("bank"):  # The thread owns it, whichever object it uses.
        assert bank.count == 2
    assert not bank.locked()

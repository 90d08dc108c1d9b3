"""Never more than two connections, over all processes; one whose process is killed is given back.

Run it with `python examples/semaphore.py`. It checks itself.
"""

import os
import signal
import time

from guildhall import Client, Counter, Semaphore


def query(_: int) -> int:
    with Semaphore("connections", max_leases=2):
        out = Counter("out").add()
        time.sleep(0.001)
        Counter("out").add(-1)
    return out


def crash() -> str:
    """Dies with a connection the first time; the task runs again, on another worker."""
    with Semaphore("connections", max_leases=2):
        if Counter("crashes").add() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return "done"


with Client(n_workers=3) as client:
    connections = Semaphore("connections", max_leases=2)
    assert client.submit(crash).result() == "done"
    assert connections.get_value() == 0, "so many are out"
    most = max(client.gather(client.map(query, range(30))))
    print("at most", most, "at a time")
    assert most <= 2

    with connections, Semaphore("connections", max_leases=2):
        assert not Semaphore("connections", max_leases=2).acquire(timeout=0.01)

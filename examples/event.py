"""Workers get ready and wait; one word lets all of them go, also those who come later.

Run it with `python examples/event.py`. It checks itself.
"""

import time

from guildhall import Client, Event, Latch


def race(_: int) -> float:
    Latch("ready", 3).count_down()
    assert Event("go").wait(timeout=30)  # A task that waits gives its worker to the next one.
    return time.monotonic()


with Client(n_workers=2) as client:
    go = Event("go")
    assert not go.wait(timeout=0.01), "False: the time was up"
    runners = client.map(race, range(3))
    assert Latch("ready", 3).wait(timeout=30)
    fired = time.monotonic()
    go.set()
    times = client.gather(runners)
    print("they went", [f"{1000 * (began - fired):.1f} ms" for began in times], "after the word")
    assert all(began >= fired for began in times)
    assert client.submit(race, 3).result() > fired, "who comes late need not wait"
    go.clear()
    assert not go.is_set()

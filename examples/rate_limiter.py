"""Four processes call a service that allows 10 calls in any 0.2 seconds, all together.

Run it with `python examples/rate_limiter.py`. It checks itself.
"""

import time

from guildhall import Client, RateLimiter

RATE, PERIOD_S, CALLS = 10, 0.2, 35


def call(_: int) -> None:
    assert RateLimiter("service", RATE, per_s=PERIOD_S).acquire(timeout=30)


with Client(n_workers=4) as client:
    began = time.perf_counter()
    client.gather(client.map(call, range(CALLS)))
    took = time.perf_counter() - began
    print(f"{CALLS} calls in {took:.2f} s")
    assert took > 3 * PERIOD_S, "10 go at once, 10 a period later, 10 after that, and 5 in the end"
    assert RateLimiter("service", RATE, per_s=PERIOD_S).statistics().gone == CALLS

"""Where one writer saturates, on paper: processes that think, and then need the one thing that all need.

A closed system of one server (the writer, `service_s` for each operation) and N processes, each of which thinks for
`think_s` between its operations. What all get together can be no more than

    N / (think + service)    while they are few: nobody waits
    1 / service              when they are many: the writer is never idle
    cores / (think + service) when thinking needs a processor, too, and there are not enough

and bends from the one to the other at N* = (think + service) / service. Between them, mean value analysis says what is
to be expected when the times vary as if by chance (exponentially): the rule is R(n) = service * (1 + Q(n - 1)).
"""

from __future__ import annotations

from collections.abc import Sequence


def together(service_s: float, think_s: float, processes: int, cores: float = float("inf")) -> float:
    """Operations a second of so many processes, by mean value analysis, no more than the cores allow."""
    in_line = rate = 0.0
    for n in range(1, processes + 1):
        response_s = service_s * (1 + in_line)
        rate = n / (think_s + response_s)
        in_line = rate * response_s
    return min(rate, cores / (think_s + service_s))


def bend(service_s: float, think_s: float) -> float:
    """So many processes keep the writer busy."""
    return (think_s + service_s) / service_s


def sharded(service_s: float, shares: Sequence[float]) -> float:
    """Operations a second at most, if names are spread over several stores, which get these shares of the operations:
    the one that is asked most is full first."""
    return 1 / (service_s * max(shares))


def zipf(names: int, stores: int, skew: float = 1.0) -> list[float]:
    """Shares of stores when the k-th most used of the names is used 1/k**skew as often, and names are dealt in turn."""
    weights = [1 / rank**skew for rank in range(1, names + 1)]
    return [sum(weights[store::stores]) / sum(weights) for store in range(stores)]

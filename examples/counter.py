"""A counter that several processes add to. Run it with `python examples/counter.py`.

Two hundred tasks count what they did, and exactly one of them sees the hundredth; it fails loudly if anything comes out
otherwise than it says.
"""

from guildhall import Client, Counter


def work(number: int) -> str | None:
    """One step adds and tells the new value, so each caller gets a number of its own."""
    Counter("sum").add(number)
    return f"task {number} was the hundredth" if Counter("done").add() == 100 else None


with Client(n_workers=2) as client:
    done, total = Counter("done"), Counter("sum")
    said = [text for text in client.gather(client.map(work, range(200))) if text]
    print(said)
    assert len(said) == 1
    assert done.get() == 200
    assert total.get() == sum(range(200))

    assert done.add(-200) == 0
    done.set(10**30)
    assert done.add() == 10**30 + 1, "of any size"
    try:
        done.add(0.5)  # type: ignore[arg-type]
    except TypeError as error:
        print(error)
    else:
        raise AssertionError("only whole numbers are added")
    print(total.statistics())
    assert total.reset() == sum(range(200)), "what it was, and 0 from now on, in one step"
    assert total.get() == 0

"""Three processes compute in rounds: nobody begins a round before all have ended the last one.

Run it with `python examples/barrier.py`. It checks itself.
"""

from guildhall import Barrier, Client, Variable

ROUNDS = 4


def smooth(place: int) -> int:
    """One cell of a ring: in each round it becomes the sum of its neighbours, as they were before the round."""
    barrier = Barrier("round", 3, timeout=30)
    for _ in range(ROUNDS):
        left, right = (Variable(f"cell {(place + step) % 3}").get() for step in (-1, 1))
        barrier.wait()  # All have read.
        Variable(f"cell {place}").set(left + right)
        barrier.wait()  # All have written.
    return Variable(f"cell {place}").get()


with Client(n_workers=3) as client:
    cells = [1, 2, 3]
    for place, value in enumerate(cells):
        Variable(f"cell {place}").set(value)
    got = client.gather(client.map(smooth, range(3)))
    for _ in range(ROUNDS):
        cells = [cells[place - 1] + cells[(place + 1) % 3] for place in range(3)]
    print("after", ROUNDS, "rounds:", got)
    assert got == cells
    assert Barrier("round", 3).statistics().trips == 2 * ROUNDS

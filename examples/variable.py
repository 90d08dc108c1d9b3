"""One variable, changed and watched by several processes. Run it with `python examples/variable.py`.

Four tasks take seats in one plan, none twice, while a task follows what happens; it fails loudly if anything comes out
otherwise than it says.
"""

from guildhall import Client, Variable

SEATS = 20


def take_seats(who: str) -> list[int]:
    """Take seats until none is free. `update` is one step: no two tasks ever get the same seat."""
    plan, mine = Variable("plan"), []
    while True:
        got: list[int] = []

        def take_one(seats: list[str], got: list[int] = got) -> list[str]:
            got[:] = [len(seats)] if len(seats) < SEATS else []  # It may run again: say it anew each time.
            return seats + [who] * len(got)

        plan.update(take_one)
        if not got:
            return mine
        mine += got


def follow() -> list[int]:
    """How full the plan was each time we looked. Newest wins: nobody waits for us."""
    seen = []
    for seats in Variable("plan").watch(timeout=30):
        seen.append(len(seats))
        if len(seats) == SEATS:
            return seen
    return seen


with Client(n_workers=2) as client:
    plan = Variable("plan")
    assert plan.version == 0, "unset"
    assert plan.compare_and_set(new=[], expected_version=0), "the first one sets it"
    assert not plan.compare_and_set(new=["too late"], expected_version=0)

    follower = client.submit(follow)
    takers = client.map(take_seats, ["ann", "bob", "eve", "joe"])
    full = plan.wait_for(lambda seats: len(seats) == SEATS, timeout=30)
    print("the plan:", " ".join(full))

    seats = sorted(seat for mine in client.gather(takers) for seat in mine)
    assert seats == list(range(SEATS)), "each seat once"
    seen = follower.result(timeout=30)
    assert seen == sorted(seen), "what a watch gives is never older than what it gave before"
    assert seen[-1] == SEATS, "and it ends with the last value"
    print(f"the follower looked {len(seen)} times at {SEATS} changes")

    state = Variable("state")
    state.set("open")
    assert state.compare_and_set("open", "closed")
    assert not state.compare_and_set("open", "closed"), "only one caller closes it"
    before = state.version
    state.delete()
    state.set("open")
    assert state.version > before, "a version is never used again"
    print(state.statistics())

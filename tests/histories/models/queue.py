"""Queue: what is put, in its order; what is handed out and may come back."""

from __future__ import annotations

from bisect import insort
from typing import Any, NamedTuple

from guildhall.store.keys import unpack
from guildhall.testing.recorder import Call, Commit
from models.base import ANY, LATE, LEAVING, Model

CLOSED = "Closed"
DEATHS_IN_HAND = 4
"""So many processes may die with an item in hand, before their gets came back, until it counts as undeliverable."""


class Item(NamedTuple):
    """Sorts by where it stands: lower ranks first, then in the order of putting."""

    rank: float
    number: int
    value: Any
    deliveries: int = 0

    def after(self, deaths: int) -> Item:
        return self._replace(deliveries=self.deliveries + deaths)


class Queue(Model):
    """Items in the order of (rank, when they were put), at most `maxsize` (0: any number) with those that are delayed.
    Getters and takers stand in one line and are served in it, each with all it wants; putters in another, with theirs.

    An item keeps its place until it is done, so what comes back stands where it stood. Back comes: what a getter was
    handed that was interrupted, or died before its call returned; what a taker gave back, or had when it died. If the
    process died between the last line of `get` and the next one of its caller, nobody knows whether it returned: then
    the queue's own mark decides, and it must decide "no" for a get whose commit was the last thing that it did. (A get
    that found no room in the store for keeping the item in hand has none: emptying a full store comes first.)
    After `max_deliveries` (0: any number) by `take`, or four deaths in a get, it goes to the dead letters instead.

    Closed, nothing is put; gets give what is left, and then nothing once nothing can come back from delay or takers.
    """

    reads = frozenset({"qsize"})

    def __init__(self, maxsize: int = 0, max_deliveries: int = 0) -> None:
        self.maxsize, self.max_deliveries = maxsize, max_deliveries
        self.end = self.done = 0
        self.items: list[Item] = []
        self.delayed: list[tuple[float, Item]] = []
        self.getters: list[Call] = []
        self.putters: list[Call] = []
        self.joiners: list[Call] = []
        self.granted: dict[Call, list[Item]] = {}
        """What waits for a getter or taker to fetch it."""
        self.in_hand: dict[Call, tuple[list[Item], Commit]] = {}
        """What a get fetched; if it is over with that, it is the caller's."""
        self.taken: dict[Any, tuple[Call, Item]] = {}
        """By value: who has it."""
        self.dead: list[Any] = []
        self.is_closed = False
        self.dues: dict[Call, float] = {}
        super().__init__()

    def state(self) -> Any:
        return len(self.items)

    # -- what there is ------------------------------------------------------------------------------------------------

    def _want(self, call: Call) -> int:
        return int(call.args[0]) if call.method == "get" else 1

    def _load(self) -> int:
        return len(self.items) + len(self.delayed)

    def _has_room(self) -> bool:
        return not self.maxsize or self._load() < max(self.maxsize, self._want(self.getters[0]) if self.getters else 0)

    def _is_over(self) -> bool:
        return self.is_closed and not self.delayed and not self.taken

    def _serve(self, c: Commit) -> None:
        while True:
            if self.getters and (len(self.items) >= self._want(self.getters[0]) or self._is_over()):
                call = self.getters.pop(0)
                call.state, call.granted = "has", c
                self.granted[call] = self._pop(self._want(call))
                if not self.granted[call]:
                    call.value = CLOSED
            elif self.putters and self.is_closed:
                call = self.putters.pop(0)
                call.state, call.granted, call.value = "has", c, CLOSED
            elif self.putters and self._has_room():
                call = self.putters.pop(0)
                call.state, call.granted = "has", c
                self._append(call)
            else:
                return

    def _pop(self, want: int) -> list[Item]:
        popped, self.items = self.items[:want], self.items[want:]
        return popped

    def _append(self, call: Call) -> None:
        self._add(call.args[0], float(call.args[1]), self.dues.get(call, 0.0))

    def _add(self, value: Any, rank: float = 0.0, due: float = 0.0) -> None:
        self._place(Item(rank, self.end, value), due)
        self.end += 1

    def _place(self, item: Item, due: float = 0.0) -> None:
        if due:
            insort(self.delayed, (due, item))
        else:
            insort(self.items, item)

    def _bury_item(self, item: Item) -> None:
        self.dead.append(item.value)
        self._count()

    def _count(self) -> None:
        """One more is done: by `task_done` for no one in particular, so perhaps for this very one before."""
        self.done = min(self.done + 1, self.end)

    def _finish(self, c: Commit) -> None:
        if self.done == self.end:
            for call in self.joiners:
                call.state, call.granted = "has", c
            self.joiners.clear()

    def commit(self, call: Call, c: Commit) -> None:
        if c.verb in ("get", "take", "ripen"):
            while self.delayed and self.delayed[0][0] <= c.facts.get("now", 0.0):
                self._place(self.delayed.pop(0)[1])
            self._serve(c)
        super().commit(call, c)
        if not c.op.startswith("waiters."):
            self._serve(c)
            self._finish(c)

    # -- putting ------------------------------------------------------------------------------------------------------

    def on_put(self, call: Call, c: Commit) -> None:
        is_leaving = c.wrote and c.verb.startswith(LEAVING)
        if is_leaving and call.state == "waits":
            self.putters.remove(call)
            call.state = "left"
        elif c.op == "queue.put" and call.state == "new":
            self._put(call, c)

    def _put(self, call: Call, c: Commit) -> None:
        if "due" in c.facts:
            self.dues[call] = c.facts["due"]
        is_room = self._has_room() and not self.putters
        self.expect((c.answer == "closed") == self.is_closed, f"{call}: the queue is closed, or not: {c}")
        if c.answer == "closed":
            call.state, call.value = "has", CLOSED
        elif c.answer == "yes":
            self.expect(is_room, f"{call}: the item goes into a full queue: {c}")
            call.state, call.granted = "has", c
            self._append(call)
        elif c.answer in ("busy", "parked"):
            self.expect(not is_room, f"{call} has to wait, though there is room: {c}")
            if c.answer == "parked":
                call.state = "waits"
                self.putters.append(call)

    def on_put_many(self, call: Call, c: Commit) -> None:
        if c.op == "queue.put_many":
            self.expect((c.answer == "closed") == self.is_closed, f"{call}: the queue is closed, or not: {c}")
            call.state = "has"
            if self.is_closed:
                call.value = CLOSED
            else:
                for value in call.args[0]:
                    self._add(value)

    # -- getting ------------------------------------------------------------------------------------------------------

    def on_get(self, call: Call, c: Commit) -> None:
        if c.op == "queue.get" and call.state == "new":
            self._ask(call, c)
        elif c.op == "queue.collect" and call in self.granted:
            self._fetch(call, self.granted.pop(call), c)
        elif c.verb == "take_back" and call in self.in_hand:
            items, fetched = self.in_hand.pop(call)
            if fetched.facts["number"]:  # Else it had no room to keep them in hand.
                self._come_back(items)
            call.state = "left"
        else:
            self._perhaps_leave(call, c)

    def on_take(self, call: Call, c: Commit) -> None:
        if c.op == "delivery.take" and call.state == "new":
            self._ask(call, c)
        elif c.op == "delivery.collect" and call in self.granted:
            self._fetch(call, self.granted.pop(call), c)
        elif c.verb == "untake" and c.wrote:
            mine = [value for value, (taker, _) in self.taken.items() if taker is call]
            self.expect(mine, f"{call} gives back what it did not take: {c}")
            self._come_back([self.taken.pop(mine[0])[1].after(-1)])
            call.state = "left"
        else:
            self._perhaps_leave(call, c)

    def _perhaps_leave(self, call: Call, c: Commit) -> None:
        if not c.wrote or not c.verb.startswith(LEAVING):
            return
        if call in self.granted:
            self._come_back(self.granted.pop(call))
            call.state = "left"
        elif call.state == "waits":
            self.getters.remove(call)
            call.state = "left"

    def _ask(self, call: Call, c: Commit) -> None:
        want = self._want(call)
        is_over, count = self._is_over(), len(self.items)
        is_enough = (is_over and count > 0) or not want or (not self.getters and count >= want)
        if c.answer == "closed":
            self.expect(is_over and not count, f"{call} is told that nothing can come any more: {c}")
            call.state, call.value = "has", CLOSED
        elif c.answer == "yes":
            self.expect(is_enough, f"{call} gets items that are not there or another's: {c}")
            call.state, call.granted = "has", c
            self._fetch(call, self._pop(want or count), c)
        elif c.answer in ("busy", "parked"):
            self.expect(not is_enough, f"{call} has to wait, though there are items: {c}")
            if c.answer == "parked":
                call.state = "waits"
                self.getters.append(call)

    def _fetch(self, call: Call, items: list[Item], c: Commit) -> None:
        if call.value == CLOSED:
            return
        if call.method == "get":
            call.value = [item.value for item in items]
            self.in_hand[call] = items, c
        else:
            item = items[0].after(1)
            call.value = [item.value, item.deliveries]
            self.taken[item.value] = call, item

    def _come_back(self, items: list[Item]) -> None:
        for item in items:
            self._place(item)

    # -- giving back --------------------------------------------------------------------------------------------------

    def on_ack(self, call: Call, c: Commit) -> None:
        if c.verb == "ack" and c.answer == "yes":
            self._pick_up(call, c)
            self._count()

    def on_nack(self, call: Call, c: Commit) -> None:
        if c.verb == "nack" and c.answer == "yes":
            self._give_back(self._pick_up(call, c), c.facts.get("due", 0.0))

    def _pick_up(self, call: Call, c: Commit) -> Item:
        taker, item = self.taken.pop(call.args[0], (None, None))
        self.expect(item and taker and taker.session == call.session, f"{call}: it does not have that: {c}")
        assert item is not None
        call.state = "has"
        return item

    def _give_back(self, item: Item, due: float = 0.0) -> None:
        if self.max_deliveries and item.deliveries >= self.max_deliveries:
            self._bury_item(item)
        else:
            self._place(item, due)

    def bury(self, session: int, c: Commit) -> None:
        for line in (self.putters, self.getters, self.joiners):
            line[:] = [call for call in line if call.session != session]
        for call in [call for call in self.granted if call.session == session]:
            self._come_back(self.granted.pop(call))
        had = sorted((item, value) for value, (taker, item) in self.taken.items() if taker.session == session)
        for item, value in had:
            del self.taken[value]
            self._give_back(item)
        for call in [call for call in self.in_hand if call.session == session]:
            self._bury_hand(*self.in_hand.pop(call), call, c)
        self._serve(c)
        self._finish(c)

    def _bury_hand(self, items: list[Item], fetched: Commit, call: Call, c: Commit) -> None:
        if call.is_over and call.result == call.value:
            return
        lane, number = unpack(fetched.facts["lane"])[1], fetched.facts["number"]
        if not number:
            return
        has_arrived = c.facts["marks"].get(lane, 0) >= number
        is_doubtful = self.may_die_unseen and fetched.end is not None
        self.expect(not has_arrived or is_doubtful, f"{call} died with items, which are lost: {c}")
        if not has_arrived:
            for item in (item.after(1) for item in items):
                if item.deliveries >= DEATHS_IN_HAND:
                    self._bury_item(item)
                else:
                    self._place(item)

    # -- finishing ----------------------------------------------------------------------------------------------------

    def on_close(self, call: Call, c: Commit) -> None:
        self.is_closed |= c.verb == "close"

    def on_reopen(self, call: Call, c: Commit) -> None:
        self.is_closed &= c.verb != "reopen"

    def on_task_done(self, call: Call, c: Commit) -> None:
        if c.verb == "task_done" and c.answer == "Misuse":
            self.expect(self.done == self.end, f"{call} is refused, though not all is done: {c}")
            call.value = "Misuse"
        elif c.verb == "task_done":
            self.expect(self.done < self.end, f"{call}: all is done: {c}")
            self._count()

    def on_join(self, call: Call, c: Commit) -> None:
        if c.wrote and c.verb.startswith(LEAVING) and call.state == "waits":
            self.joiners.remove(call)
            call.state = "left"
        elif c.op == "queue.join" and call.state == "new":
            self.expect((c.answer == "yes") == (self.done == self.end), f"{call}: all is done, or not: {c}")
            call.state = {"yes": "has", "parked": "waits"}.get(c.answer, "new")
            if call.state == "waits":
                self.joiners.append(call)

    def on_qsize(self, call: Call, c: Commit) -> None: ...

    on_dead = on_qsize

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(self, call: Call) -> Any:
        if call.method == "qsize":
            return ANY
        if call.method == "dead":
            return self.dead
        if call.method == "join":
            return call.state == "has"
        if call.method in ("ack", "nack"):
            return None if call.state == "has" else "something that the call did"
        if call.method in ("put", "put_many", "get", "take") and call.state != "has":
            return LATE if call.method != "put_many" else "something that the call did"
        return call.value

    def sees(self, call: Call, state: Any) -> bool:
        return bool(call.result == state)

    def interrupted(self, call: Call) -> None:
        if call.method in ("get", "take"):
            self.expect(
                call.state != "has" or call.value == CLOSED, f"{call} was interrupted and has items all the same"
            )

"""Ops of waits that could never end: holders that wait for one another in a circle.

An agent is who waits: a thread, or a task of asyncio. Nothing is written here while nobody sleeps. An agent that falls
asleep for as long as it takes, and that others may have to wait for, states in that commit what it holds and which task
it runs; the statement goes with its wait (`waiters.py`). In the same commit it is asked whether it closes a circle.

The question is answered for the greatest set of endless waits that can only be ended by members of the set. So a wait
is in it only if nobody else is known to be able to end it: who runs, waits with a timeout, waits for what anybody can
bring, or is unknown, is free. That is why a wait that could end is never refused.

- A lock is ended by its holder, a wait to lead by the leader; a semaphore or a lock for readers and writers when enough
  leases may come back, and nobody ahead in line stays; of several names, when enough of them may; a task by the agent
  that runs it, or, before it is ready, by any of the tasks it depends on (one that fails ends it).
- A lease of time (`Lock(lease_s=)`) ends by itself.
- What no statement claims, somebody of that session may give back: any of its threads. If all of them wait (then one of
  them said so: `sealed`) what the session was granted before stays, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from ..errors import Link
from ..store.keys import name_of, pack_id, pack_int, unpack
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import election, lock, multilock, pool, rlock, rwlock, semaphore, sessions, waiters
from .values import OBJECTS
from .waiters import STATEMENTS

MAX_NODES = 500
"""A search that has to look at more is given up: it keeps others from the store."""

Hold = tuple[bytes, int, int]
"""What an agent gives back itself and nobody else: the place, the number of the attempt that got it (0: any of the
session's), and how many units of a pool."""

Awaits = Callable[[Txn, bytes], tuple[str, list[bytes]] | None]
"""Of a task: its name and the pending tasks it depends on; None if it has ended. The engine's business."""


class Statement(Record, tag=1, frozen=True):
    """What an agent says about itself while it waits without end.

    `owners` are the numbers by which it owns RLocks, `runs` the tasks that end only when it goes on. `sealed`: as long
    as these waits of its session last, no thread of the session can do anything. `any_of`: the objects any of which
    would end the wait, and if it `is_open` any thread of the session may add one. `revision` is the commit's.
    """

    who: str
    holds: tuple[Hold, ...] = ()
    owners: tuple[int, ...] = ()
    runs: tuple[bytes, ...] = ()
    sealed: tuple[int, ...] = ()
    any_of: tuple[bytes, ...] = ()
    is_open: bool = False
    revision: int = 0


class Circle(NamedTuple):
    """Why a wait could never end: in words, and as facts."""

    text: str
    links: tuple[Link, ...]


STATEMENT = Form(Statement)
_KINDS = {
    lock.LOCKS: "lock", rlock.RLOCKS: "rlock", rwlock.RWLOCKS: "rwlock", semaphore.SEMAPHORES: "semaphore",
    election.ELECTIONS: "election",
}  # fmt: skip
_REMEDY = (
    "this wait could never end; take what is held in the same order everywhere, several at once with MultiLock, "
    "or wait with a timeout"
)
Node = tuple[int, int] | bytes
"""A wait, as (session, number), or a task, as its object's id."""


class Edge(NamedTuple):
    """One that keeps a wait from ending, and in which way."""

    node: Node
    how: str


Edges = list[Edge] | None
"""Who keep a wait from ending; None if it can end without them."""


def declare(
    txn: Txn, waiter: Waiter, bell: int, statement: Statement | None, awaits: Awaits, is_late: bool = False
) -> bool | Circle:
    """As `waiters.arm`, for a wait that is endless, with what its agent states, if that may matter to others.

    If it closes a circle it answers that, and the wait is not endless any more: of those who close one at the same time
    one learns of it, and the others wait until it has given up. One that waits for a circle without being in it is told
    only if it asks late: those in it look again, and come first.
    """
    if statement is None:
        return waiters.arm(txn, waiter, bell, True)
    now = Statement(
        statement.who, statement.holds, statement.owners, statement.runs, statement.sealed, statement.any_of,
        statement.is_open, txn.revision,
    )  # fmt: skip
    if not waiters.arm(txn, waiter, bell, True, STATEMENT.pack(now)):
        return False
    search, me = Search(txn, awaits), (waiter.session, waiter.number)
    if not search.closes(me):
        return True
    way = search.around(me) or (search.into(me) if is_late else None)
    if way is None:
        return True
    found = search.tell(me, way)
    waiters.arm(txn, waiter, bell)
    return found


def closes(txn: Txn, waiter: Waiter, awaits: Awaits) -> bool:
    """Whether the endless wait could never end, as things are. A read."""
    return Search(txn, awaits).closes((waiter.session, waiter.number))


class Search:
    """Looks for the set, from one wait on. Every wait it comes to is taken for a member until it turns out free."""

    def __init__(self, txn: Txn, awaits: Awaits) -> None:
        self._txn = txn
        self._awaits = awaits
        self._members: dict[Node, set[Node]] = {}
        """Each with those that count on it being one."""
        self._free: set[Node] = set()
        self._todo: deque[Node] = deque()
        self._asking: Node | None = None
        self._of_session: dict[int, dict[int, Statement]] = {}
        self._everybody: dict[int, dict[int, Statement]] | None = None

    def closes(self, me: Node) -> bool:
        """Whether the wait is a member."""
        self._members[me] = set()
        self._todo.append(me)
        while self._todo:
            node = self._todo.pop()
            if node in self._free:
                continue
            self._asking = node
            if self._edges(node) is None:
                self._free.add(node)
                if node == me:
                    return False
                self._todo.extend(self._members.pop(node))
            if len(self._members) > MAX_NODES:
                return False
        self._asking = None
        return True

    def _stays(self, node: Node) -> bool:
        """Whether it is a member, as far as is known."""
        if node in self._free:
            return False
        counting = self._members.get(node)
        if counting is None:
            counting = self._members[node] = set()
            self._todo.append(node)
        if self._asking is not None:
            counting.add(self._asking)
        return True

    # -- who could end a wait -----------------------------------------------------------------------------------------

    def _edges(self, node: Node) -> Edges:
        if isinstance(node, bytes):
            return self._of_task(node)
        found = waiters.endless(self._txn, *node)
        if found is None:
            return None
        place, want = found
        region = place[:1]
        if region == OBJECTS:
            return self._of_objects(node, place)
        if region == lock.LOCKS:
            return self._of_lock(place)
        if region == rlock.RLOCKS:
            return self._of_rlock(place)
        if region == election.ELECTIONS:
            return self._of_election(place)
        if region == multilock.REQUESTS:
            return self._of_names(want)
        if region in (rwlock.RWLOCKS, semaphore.SEMAPHORES):
            return self._of_pool(node, place, want)
        return None

    def _of_lock(self, place: bytes) -> Edges:
        held = lock.look(self._txn, place[1:])
        if held is None or held.until is not None:
            return None
        return self._keeper(held.session, place, held.grant, held.token)

    def _of_election(self, place: bytes) -> Edges:
        leader = election.look(self._txn, place[1:])
        return None if leader is None else self._keeper(leader.session, place, leader.grant, leader.term)

    def _of_rlock(self, place: bytes) -> Edges:
        held = rlock.look(self._txn, place[1:])
        if held is None:
            return None
        for number, said in self._said_by(held.session).items():
            if held.owner in said.owners and self._stays((held.session, number)):
                return [Edge((held.session, number), "held by")]
        return None

    def _of_names(self, want: bytes) -> Edges:
        request = multilock.REQUEST.unpack(want)
        edges: list[Edge] = []
        left = len(request.names)
        for name in request.names:
            found = self._of_name(name, request.ticket)
            if found is not None:
                edges += found
                left -= 1
        return edges if left < request.count else None

    def _of_name(self, name: bytes, ticket: bytes) -> Edges:
        held = multilock.look(self._txn, name)
        if held is not None:
            keeper = self._keeper(held.session, multilock.MULTILOCKS + name, held.grant, held.token)
            if keeper is not None:
                return keeper
        line = multilock.REQUESTED + name
        for key, _ in self._txn.scan(line):
            ahead = key[len(line) :]
            if ahead >= ticket:
                break
            _, session, number = unpack(ahead)
            if self._waits((session, number)):
                return [Edge((session, number), "behind")]
        return None

    def _of_pool(self, node: Node, place: bytes, want: bytes) -> Edges:
        found = pool.look(self._txn, place)
        if found is None:
            return None
        units = int.from_bytes(want[1:], "big")
        edges: list[Edge] = []
        for session in self._all_said():
            kept, by = self._kept(place, session)
            units += kept
            edges += by
        if units > found.capacity:
            return edges
        if place[:1] == rwlock.RWLOCKS:
            for waiter, _ in waiters.line(self._txn, place):
                ahead = waiter.session, waiter.number
                if ahead == node:
                    break
                if self._waits(ahead):
                    return [Edge(ahead, "behind")]
        return None

    def _kept(self, place: bytes, session: int) -> tuple[int, list[Edge]]:
        """How many units of the pool the session will not give back, and because of whom."""
        said = self._said_by(session)
        claims = {number: sum(hold[2] for hold in each.holds if hold[0] == place) for number, each in said.items()}
        if not any(claims.values()) and not any(each.sealed for each in said.values()):
            return 0, []
        leases = pool.leases_of(self._txn, place, session)
        if not leases:
            return 0, []
        by = [Edge((session, number), "held by") for number, units in claims.items() if units]
        by = [edge for edge in by if self._stays(edge.node)]
        kept = min(sum(claims[edge.node[1]] for edge in by), sum(lease.units for lease in leases))
        for each in said.values():
            sealed = sum(lease.units for lease in leases if lease.token < each.revision)
            if sealed > kept and (seal := self._seal(session, each)) is not None:
                kept, by = sealed, seal
        return kept, by

    def _keeper(self, session: int, place: bytes, grant: int, token: int) -> Edges:
        """Who alone could give back what the session was granted."""
        said = self._said_by(session)
        for number, each in said.items():
            if any(hold[:2] == (place, grant) for hold in each.holds) and self._stays((session, number)):
                return [Edge((session, number), "held by")]
        for each in said.values():
            if token < each.revision and (seal := self._seal(session, each)) is not None:
                return seal
        return None

    def _seal(self, session: int, said: Statement) -> Edges:
        """All who wait in the session, if nobody in it can do anything."""
        if said.sealed and all(self._stays((session, number)) for number in said.sealed):
            return [Edge((session, number), "held by") for number in said.sealed]
        return None

    def _of_objects(self, node: tuple[int, int], place: bytes) -> Edges:
        mates = self._said_by(node[0])
        said = mates.get(node[1])
        some = (said.any_of if said is not None else ()) or (place[1:],)
        if not all(self._stays(oid) for oid in some):
            return None
        ended_by = [Edge(oid, "") for oid in some]
        if said is None or not said.is_open:
            return ended_by
        for each in mates.values():
            if (seal := self._seal(node[0], each)) is not None:
                return ended_by + [Edge(edge.node, "without help from") for edge in seal if edge.node != node]
        return None

    def _of_task(self, oid: bytes) -> Edges:
        found = self._awaits(self._txn, oid)
        if found is None:
            return None
        if found[1]:
            return (
                [Edge(dep, "which waits for") for dep in found[1]]
                if all(self._stays(dep) for dep in found[1])
                else None
            )
        for session, said in self._all_said().items():
            for number, each in said.items():
                if oid in each.runs and self._stays((session, number)):
                    return [Edge((session, number), "run by")]
        return None

    def _waits(self, node: tuple[int, int]) -> bool:
        """Whether it is an endless wait, and a member as far as is known."""
        return node not in self._free and waiters.endless(self._txn, *node) is not None and self._stays(node)

    # -- statements ---------------------------------------------------------------------------------------------------

    def _said_by(self, session: int) -> dict[int, Statement]:
        """What agents of the session state, by the number of their wait."""
        found = self._of_session.get(session)
        if found is None:
            prefix = STATEMENTS + pack_id(session)
            found = self._of_session[session] = {
                unpack(key[1:])[1]: STATEMENT.unpack(data) for key, data in self._txn.scan(prefix)
            }
        return found

    def _all_said(self) -> dict[int, dict[int, Statement]]:
        if self._everybody is None:
            self._everybody = {}
            for key, data in self._txn.scan(STATEMENTS):
                session, number = unpack(key[1:])
                self._everybody.setdefault(session, {})[number] = STATEMENT.unpack(data)
            self._of_session |= self._everybody
        return self._everybody

    # -- in words -----------------------------------------------------------------------------------------------------

    def tell(self, me: tuple[int, int], way: list[Edge]) -> Circle:
        """The way from the wait over others."""
        nodes = [me, *(edge.node for edge in way)]
        said = [self._step(edge, after, me) for edge, after in zip(way, [*nodes[2:], None])]
        text = f"{self._thing(me, nodes[1])}: {', '.join(filter(None, said))}; {_REMEDY}"
        return Circle(
            text, tuple(self._link(node, after) for node, after in pairwise(nodes) if isinstance(node, tuple))
        )

    def _step(self, edge: Edge, after: Node | None, me: Node) -> str:
        """What is said of one edge, and of what the one that it leads to waits for."""
        if isinstance(edge.node, bytes):
            return edge.how and f"{edge.how} {self._thing(me, edge.node)}"
        who = f"{edge.how} {self._agent(edge.node)}"
        if edge.node == me:
            return f"{who}, which asked for it"
        return f"{who}, as said" if after is None else f"{who}, which waits for {self._thing(edge.node, after)}"

    def around(self, me: Node) -> list[Edge] | None:
        """The shortest way from the wait, which is a member, back to itself, if possible over others; None if there is
        none."""
        came: dict[Node, tuple[Node, Edge]] = {}
        line = deque([me])
        while line:
            node = line.popleft()
            for edge in self._edges(node) or ():
                if edge.node == me != node:
                    return _traced(came, me, node, edge)
                if edge.node not in came and edge.node != me:
                    came[edge.node] = node, edge
                    line.append(edge.node)
        return next(([edge] for edge in self._edges(me) or () if edge.node == me), None)

    def into(self, me: Node) -> list[Edge]:
        """A way from the wait, which is a member, into a circle of others and around it."""
        way: list[Edge] = []
        passed = {me}
        while not way or way[-1].node not in passed:
            passed |= {edge.node for edge in way}
            edges = self._edges(way[-1].node if way else me) or []
            way.append(next((edge for edge in edges if edge.node in passed), edges[0]))
        return way

    def _thing(self, node: Node, keeper: Node) -> str:
        """What the wait waits for; of several tasks the one of the keeper."""
        if isinstance(keeper, bytes):
            return self._task(keeper)
        assert isinstance(node, tuple), "a task is kept by a wait only as what that wait's agent runs"
        place, want = waiters.endless(self._txn, *node) or (b"", b"")
        if place[:1] == OBJECTS:
            return self._task(place[1:])
        if place[:1] == multilock.REQUESTS:
            request = multilock.REQUEST.unpack(want)
            names = [name_of(name) for name in request.names]
            return f"multilock {names!r:.200}" + (f" (any {request.count})" if request.count < len(names) else "")
        mode = ""
        if place[:1] == rwlock.RWLOCKS:
            mode = " (to read)" if want == pack_int(rwlock.READ) else " (to write)"
        return f"{_KINDS[place[:1]]} {name_of(place[1:])!r:.60}{mode}"

    def _agent(self, node: tuple[int, int]) -> str:
        link = self._link(node, None)
        return f"session {link.session} (pid {link.pid}{', ' if link.agent else ''}{link.agent})"

    def _link(self, node: tuple[int, int], keeper: Node | None) -> Link:
        session = sessions.look(self._txn, node[0])
        return Link(
            node[0],
            None if session is None else session.pid,
            self._who(node),
            "" if keeper is None else self._thing(node, keeper),
        )

    def _who(self, node: tuple[int, int]) -> str:
        said = self._said_by(node[0]).get(node[1])
        if said is None:
            return ""
        running = next((oid for oid in said.runs if self._awaits(self._txn, oid)), None)
        return said.who if running is None else self._task(running)

    def _task(self, oid: bytes) -> str:
        found = self._awaits(self._txn, oid)
        return f"task {found[0] if found else ''}-{oid.hex()}"


def _traced(came: dict[Node, tuple[Node, Edge]], start: Node, node: Node, last: Edge) -> list[Edge]:
    """The way from the start to the node that the last edge goes out from, and that edge."""
    way = [last]
    while node != start:
        node, edge = came[node]
        way.append(edge)
    return way[::-1]

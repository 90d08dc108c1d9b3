"""The states of a task and how they change: the one table, from which the page docs/tasks.md draws its diagram.

A task's state is not written anywhere: it follows from where its object stands in the store.
"""

from __future__ import annotations

from ...primitives import values
from ...primitives.values import CANCELLED, ERROR, FINISHED
from ...store.transaction import Txn
from .tasks import CLAIM, CLAIMS, READY, RECIPE, RESERVED

WAITING, CLAIMED = "waiting", "claimed"
TRANSITIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("new", "submit"): (WAITING, "ready", "error", "cancelled"),
    (WAITING, "the last dependency finished"): ("ready",),
    (WAITING, "a dependency failed"): ("error",),
    (WAITING, "cancel, or a dependency is cancelled"): ("cancelled",),
    ("ready", "a worker claims it"): (CLAIMED,),
    ("ready", "cancel"): ("cancelled",),
    (CLAIMED, "it returns"): ("finished",),
    (CLAIMED, "it raises, with retries left"): ("ready",),
    (CLAIMED, "it raises"): ("error",),
    (CLAIMED, "given back, not begun"): ("ready",),
    (CLAIMED, "its worker dies"): ("ready", "error"),
    (CLAIMED, "cancel"): ("cancelled",),
    ("finished", "its actor's worker dies, with restart"): ("ready",),
}
"""What can happen in a state, and which states may follow. From each of them a task goes when nobody refers to it."""


def state_of(txn: Txn, oid: bytes) -> str:
    """The state of the task; "gone" if nobody refers to it any more."""
    found = values.look(txn, oid)
    if found is None:
        return "gone"
    ended = {FINISHED: "finished", ERROR: "error", CANCELLED: "cancelled"}.get(found.state)
    if ended is not None:
        return ended
    if RECIPE.unpack(found.data).missing:
        return WAITING
    if any(key != RESERVED and data == oid for region in (READY, RESERVED) for key, data in txn.scan(region)):
        return "ready"
    is_claimed = any(oid in CLAIM.unpack(data).oids for _, data in txn.scan(CLAIMS))
    return CLAIMED if is_claimed else "asked of one worker"


def diagram() -> str:
    """The table as a diagram in mermaid's language."""
    lines = ["stateDiagram-v2", "    [*] --> new"]
    for (state, event), following in TRANSITIONS.items():
        lines += [f"    {state} --> {then}: {event}" for then in following]
    lines += [f"    {state} --> [*]: nobody refers to it" for state in ("finished", "error", "cancelled")]
    return "\n".join(lines) + "\n"

"""What each primitive is, in plain Python: no store, no processes, one thing after the other.

`base` says what a model is told and what it must know; each class says in its docstring what the primitive promises.
"""

from models.base import ANY, BROKEN_OFF, FULL, INTERRUPTED, LATE, Model, Wrong
from models.held import DEADLOCK, Circles, Election, Lock, MultiLock, Pool, RLock
from models.queue import Queue
from models.tasks import Tasks
from models.together import Barrier, Condition, Event, Latch, RateLimiter
from models.topics import BoundedTopic, DurableTopic
from models.values import Counter, Topic, Variable

__all__ = [
    "ANY", "BROKEN_OFF", "DEADLOCK", "FULL", "INTERRUPTED", "LATE", "Barrier", "BoundedTopic", "Circles",
    "Condition", "Counter", "DurableTopic",
    "Election", "Event", "Latch", "Lock", "Model", "MultiLock", "Pool", "Queue", "RLock", "RateLimiter", "Tasks",
    "Topic", "Variable", "Wrong",
]  # fmt: skip

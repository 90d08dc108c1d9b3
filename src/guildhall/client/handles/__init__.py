"""What users hold of the primitives. A handle is a name and a hall; it pickles by name.

Each blocking method has its flow (`_flow` in the name), which `guildhall.aio` runs too.
"""

from .barrier import Barrier
from .condition import Condition
from .counter import Counter
from .election import Election
from .event import Event
from .latch import Latch
from .lock import Lock
from .multilock import MultiLock
from .queue import Queue
from .rate_limiter import RateLimiter
from .rlock import RLock
from .rwlock import RWLock
from .semaphore import Semaphore
from .topic import Pub, Sub
from .variable import Variable
from .watch import Watch

__all__ = [
    "Event", "Lock", "Pub", "Queue", "Sub", "Variable",
    "MultiLock", "RLock", "RWLock", "Semaphore",
    "Counter", "Watch",
    "Barrier", "Condition", "Election", "Latch", "RateLimiter",
]  # fmt: skip

"""What users hold of the primitives. A handle is a name and a hall; it pickles by name.

Each blocking method has its flow (`_flow` in the name), which `guildhall.aio` runs too.
"""

from .counter import Counter
from .event import Event
from .lock import Lock
from .multilock import MultiLock
from .queue import Queue
from .rlock import RLock
from .rwlock import RWLock
from .semaphore import Semaphore
from .topic import Pub, Sub, TopicStatistics
from .variable import Variable
from .watch import Watch

__all__ = [
    "Event", "Lock", "Pub", "Queue", "Sub", "Variable",
    "MultiLock", "RLock", "RWLock", "Semaphore",
    "Counter", "Watch",
    "TopicStatistics",
]  # fmt: skip

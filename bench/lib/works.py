"""What is measured: each work with its sizes, its unit and what its figure does not prove.

`kind` says how it is run (lib/player.py):

- `call`: what is prepared is called again and again in one process, each call is timed.
- `whole`: what is prepared does all of a size at once (`x` tasks, `x` bytes); each run is timed and divided.
- `together`: `x` processes do what is prepared, all at the same time, for some seconds.
- `fan-out`: one process sends, `x` others receive each message.
- `fresh`: a script in a new interpreter says it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["call", "whole", "together", "fan-out", "fresh"]


@dataclass(frozen=True)
class Work:
    name: str
    title: str
    kind: Kind
    unit: str
    """of the values: us, ms, MiB, % (the less the better); 1/s, MB/s (the more the better)"""
    doubt: str
    """What the figure does not prove."""
    axis: str = ""
    """What x counts, if it is measured at several x."""
    points: tuple[int, ...] = (1,)
    quick: tuple[int, ...] = ()
    """The points of a short run; all of them if there are none."""

    @property
    def is_more_better(self) -> bool:
        return self.unit.endswith("/s")

    def asked(self, is_quick: bool) -> tuple[int, ...]:
        return self.quick if is_quick and self.quick else self.points


PROCESSES = (1, 2, 4, 8, 16, 32, 64)
BYTES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9)
FEW_BYTES = (10**3, 10**6, 10**8)
POWERS = (10, 100, 1000, 10_000, 100_000, 1_000_000)

_HERE = "one process, nobody else: it says nothing of what others cost while they do the same; "

ALL = (
    Work("import", "import", "fresh", "ms", "file caches are warm; a program imports other things, too"),
    Work("start", "start until two workers have run a task", "fresh", "ms",
         "of a manager or a server: until it has answered. A program starts once; file caches are warm"),
    Work("memory", "memory of an idle runtime of two workers", "fresh", "MiB",
         "proportional set size of the program and of all processes that the peer started, before the user's "
         "imports; Ray's shared memory is not in it, as nothing is stored yet"),
    Work("idle", "processor time of an idle runtime of two workers", "fresh", "%",
         "of one core, over some seconds; what happens once a minute is not seen"),
    Work("get", "read a value", "call", "us",
         _HERE + "multiprocessing.Value is a number in memory that was inherited, it has no name and no type"),
    Work("set", "replace a value", "call", "us",
         _HERE + "guildhall's, Ray's and Dask's values are any object, multiprocessing's is a number; the files of "
         "filelock and diskcache are in shared memory, as guildhall's are"),
    Work("add", "add one to a number that others may change, too", "call", "us",
         _HERE + "where a peer has no such operation it is a lock, a read, a write"),
    Work("lock", "acquire and release a lock", "call", "us",
         _HERE + "multiprocessing.Lock and filelock know no order of waiters; redis-py's lock ends after its time, "
         "also for a holder that is alive"),
    Work("queue", "put and get an item", "call", "us",
         _HERE + "multiprocessing.Queue hands over through a thread and a pipe: in one process that is what it takes"),
    Work("depth", "put and get, with x items in the queue", "call", "us",
         "items are small integers, and nobody waits", "items in the queue", POWERS, (10, 1000, 100_000)),
    Work("increments", "increments under a lock by x processes", "together", "1/s",
         "a lock, a read, a write, an unlock without any pause between: no program does only that. More processes "
         "than cores share them", "processes", PROCESSES, (1, 2, 8)),
    Work("adds", "atomic adds by x processes", "together", "1/s",
         "all add to one number and do nothing else. More processes than cores share them", "processes", PROCESSES,
         (1, 2, 8)),
    Work("handing", "put and get by x processes at one queue", "together", "1/s",
         "each process puts one and gets one: the queue is nearly empty, nobody waits long", "processes", PROCESSES,
         (1, 2, 8)),
    Work("fan-out", "messages delivered to x subscribers", "fan-out", "1/s",
         "small messages, one publisher, as fast as it can, each subscriber a process: nothing of the latency of "
         "a single message; Redis and ZeroMQ keep nothing for who is not there, and drop what does not fit unless told "
         "otherwise, as here", "subscribers", PROCESSES, (1, 8)),
    Work("round-trip", "a task there and back", "call", "us",
         "the function does nothing. pyzmq: a hand-made server of one function, no tasks at all"),
    Work("map", "map of x tasks", "whole", "1/s",
         "functions that do nothing: with a millisecond of work in each, all peers are alike. Chunks are what each "
         "peer takes by itself (ProcessPoolExecutor: one call each)", "tasks", POWERS, (100, 1000, 10_000)),
    Work("chain", "a chain of x tasks, each with the result of the one before", "whole", "1/s",
         "executors know no dependencies: there the caller waits for each and submits the next", "tasks",
         (10, 100, 1000), (100,)),
    Work("tree", "a tree that adds up x leaves in pairs", "whole", "1/s",
         "tasks a second, leaves and sums. Executors know no dependencies: there the caller waits for each level",
         "leaves", (16, 256, 4096), (256,)),
    Work("scatter", "place an array of x bytes, and read all of it in a task", "whole", "MB/s",
         "reading is a sum over all bytes, which costs each peer the same; an executor gets the array as an argument",
         "bytes", BYTES, FEW_BYTES),
    Work("return", "an array of x bytes made by a task, in the caller", "whole", "MB/s",
         "making it costs each peer the same; it is not read afterwards, and pages that nobody touches cost little",
         "bytes", BYTES, FEW_BYTES),
)  # fmt: skip
BY_NAME = {work.name: work for work in ALL}

"""Queues: work that survives its workers, priorities, delays, and an end that everybody learns of.

Run it with `python examples/queues.py`; it checks itself.
"""

from __future__ import annotations

import os
import signal

from guildhall import Client, Closed, PriorityQueue, Queue


def work(jobs: Queue, done: Queue) -> None:
    """Take jobs until the queue is closed and all are done."""
    while True:
        try:
            taken = jobs.take()
        except Closed:
            return
        with taken as job:  # Given back if this process dies here or the body raises; acknowledged at its end.
            if job == 13 and taken.deliveries == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if job == 7:
                raise ValueError("seven never works")
            done.put(job)


def try_work(jobs: Queue, done: Queue) -> None:
    """As `work`, going on after a job that failed."""
    while True:
        try:
            return work(jobs, done)
        except ValueError:
            pass


def main() -> None:
    with Client(n_workers=2) as client:
        jobs, done = Queue("jobs", max_deliveries=3), Queue("done")
        jobs.put_many(range(20))
        jobs.put(20, delay=0.2)  # Nobody gets it before.
        jobs.close()
        client.gather([client.submit(try_work, jobs, done) for _ in range(2)])
        assert jobs.join(timeout=10)
        assert sorted(done.get(batch=True)) == [n for n in range(21) if n != 7]
        assert jobs.dead_letters.get(batch=True) == [7]
        print("20 jobs are done though a worker died; the one that never works is with the dead letters")

        urgent = PriorityQueue("urgent")
        urgent.put("some time")
        urgent.put("now", priority=-1)
        urgent.close()
        assert list(urgent) == ["now", "some time"]
        print("the lowest priority comes first, and the loop ends when the queue is closed")


if __name__ == "__main__":
    main()

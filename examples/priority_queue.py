"""The most urgent first: the lowest number comes out first, equal ones in the order they were put.

Run it with `python examples/priority_queue.py`. It checks itself.
"""

from guildhall import Client, PriorityQueue, Queue


def treat() -> list[str]:
    """One after the other, until the queue is closed and empty."""
    return list(PriorityQueue("patients"))


with Client(n_workers=2) as client:
    patients = PriorityQueue("patients")
    patients.put("a cough")
    patients.put("a broken arm", priority=-1)
    patients.put("a cold")
    patients.put("a heart attack", priority=-2.5)
    patients.close()
    treated = client.submit(treat).result()
    print(treated)
    assert treated == ["a heart attack", "a broken arm", "a cough", "a cold"]

    jobs = Queue("errands")  # Every queue takes a priority, for one item now and then.
    jobs.put("later")
    jobs.put("now", priority=-1)
    assert [jobs.get(), jobs.get()] == ["now", "later"]

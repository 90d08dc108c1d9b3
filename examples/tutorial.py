"""The tutorial: what processes can share, each step checked and timed.

Run it with `python examples/tutorial.py`. It starts four workers, shows variables, futures, queues, locks and
publish/subscribe, and fails loudly if anything comes out otherwise than it says.
"""

import sys
import time

import numpy as np

from guildhall import Client, Lock, Pub, Queue, Sub, Variable, as_completed

began = time.perf_counter()


def say(title: str) -> None:
    print(f"\n{time.perf_counter() - began:6.2f} s  {title}")


def show(what: str, got: object, expected: object) -> None:
    print(f"          {what}: {got}")
    if got != expected:
        sys.exit(f"expected {what}: {expected}")


client = Client(*sys.argv[1:2], n_workers=4)
say(f"a cluster is up: {client}")

# (a) A variable that tasks read.
y = Variable("y")
y.set(5)


def slow_pow(x: int) -> int:
    time.sleep(1)
    return x ** Variable("y").get()


started = time.perf_counter()
powers = client.gather(client.map(slow_pow, range(1, 11)))
took = time.perf_counter() - started
say(f"Variable: ten tasks of one second read y on four workers, {took:.2f} s")
show("x ** y", powers, [1, 32, 243, 1024, 3125, 7776, 16807, 32768, 59049, 100000])

# (b) A variable that holds a future.
var = Variable("array")
var.set(client.scatter(np.arange(1, 11)))


def slow_add(x: int) -> int:
    return x + int(var.get().result()[x - 1])


say("Future in a Variable: an array scattered once, mapped by every worker")
show("x + array[x - 1]", client.gather(client.map(slow_add, range(1, 11))), list(range(2, 21, 2)))

# (c) A queue that collects what went wrong.
problems = Queue("Exceptions")


def careful_pow(x: int) -> None:
    try:
        x ** "5"  # type: ignore[operator]
    except TypeError as error:
        problems.put(str(error))


client.gather(client.map(careful_pow, range(5)))
messages = [problems.get(timeout=5) for _ in range(5)]
say("Queue: five tasks report their errors")
show("messages", messages, ["unsupported operand type(s) for ** or pow(): 'int' and 'str'"] * 5)

# (d) Reading and writing is not one step; a lock makes it one.
counter = Variable("counter")


def increment(_: int, guard: Lock | None = None) -> int:
    if guard is None:
        value = counter.get() + 1
        time.sleep(0.01)
        counter.set(value)
        return value
    with guard:
        return increment(_)


counter.set(1)
unguarded = sorted(client.gather(client.map(increment, range(10))))
say("ten increments without a Lock: updates get lost")
print(f"          results {unguarded}, the variable ends at {counter.get()} instead of 11")
counter.set(1)
guarded = client.gather([client.submit(increment, i, Lock("counter")) for i in range(10)])
say("ten increments with a Lock passed to each: none is lost")
show("results, sorted", sorted(guarded), list(range(2, 12)))

# (e) Tasks that share a queue and a lock.
work = Queue("work")
work.put_many(range(10))


def take(guard: Lock) -> int:
    with guard:
        return work.get(timeout=5)


taken = [
    result for _, result in as_completed([client.submit(take, Lock("work")) for _ in range(10)], with_results=True)
]
say("ten tasks take the ten items of a Queue, each once")
show("items, sorted", sorted(taken), list(range(10)))

# (f) Publish and subscribe.
topic = "ClientIdTopic"
first, second = Sub(topic), Sub(topic)
pub = Pub(topic)
for number in range(10):
    pub.put(f"message {number}")
say("Pub/Sub: ten messages, two subscribers, each gets all in order")
expected = [f"message {number}" for number in range(10)]
show("first ", [first.get(timeout=5) for _ in range(10)], expected)
show("second", [second.get(timeout=5) for _ in range(10)], expected)


def publish(worker: int) -> None:
    out = Pub(topic)
    for number in range(5):
        out.put((worker, number))


client.gather(client.map(publish, range(2)))
say("the same with two tasks that publish: order holds for each of them")
for name, sub in (("first ", first), ("second", second)):
    got = [sub.get(timeout=5) for _ in range(10)]
    for worker in range(2):
        show(f"{name} from task {worker}", [n for w, n in got if w == worker], list(range(5)))

client.close()
say("done: everything came out as it should")

"""Who holds what, and who waits for it: a hall, looked into from another process that joins nothing.

Run it with `python examples/look_inside.py`. It checks itself.
"""

from __future__ import annotations

import subprocess
import sys
import time

import guildhall
from guildhall import Client, Event, Lock, Queue


def hold() -> None:
    with Lock("printer"):
        Event("somebody holds").set()
        Event("all was seen").wait()


def main() -> None:
    with Client(n_workers=2) as client:
        hall = guildhall.Hall(client.host)
        Queue("pages").put_many(["cover", "text", "index"])
        tasks = [client.submit(hold)]
        Event("somebody holds").wait()
        tasks.append(client.submit(hold))
        while not Lock("printer").statistics().waiting:
            time.sleep(0.01)

        seen = hall.snapshot()
        (printer,) = seen.things["lock"]
        (holder,), (waiter,) = printer.statistics.holders, printer.statistics.waiting
        print(f"process {holder.pid} holds the printer, process {waiter.pid} waits for it")
        print("tasks:", seen.tasks.by_state["running"], "running")
        assert seen.tasks.by_state["running"] == 2
        for command, part in (
            (["locks", "--waiting"], "lock  printer  waits"),
            (["queue", "peek", "pages"], "0  'cover'"),
        ):
            told = subprocess.check_output(
                [sys.executable, "-m", "guildhall", *command, "--hall", hall.path], text=True
            )
            print("$ guildhall", *command)
            print(told)
            assert part in told
        Event("all was seen").set()
        client.gather(tasks)


if __name__ == "__main__":
    main()

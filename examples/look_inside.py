"""Who holds what, and who waits for it: a hall, looked into from another process that joins nothing."""

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
        for command in (["locks", "--waiting"], ["queue", "peek", "pages"]):
            print("$ guildhall", *command)
            subprocess.run([sys.executable, "-m", "guildhall", *command, "--hall", hall.path], check=True)
        Event("all was seen").set()
        client.gather(tasks)


if __name__ == "__main__":
    main()

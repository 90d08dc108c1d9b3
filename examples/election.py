"""Three processes stand for one office; when the leader is killed, the next takes over, and an old term is refused.

Run it with `python examples/election.py`. It checks itself.
"""

import os
import signal
import time

import guildhall
from guildhall import Election


def stand(hall: guildhall.Hall) -> None:
    election = Election("office", hall=hall)
    election.campaign(os.getpid())  # Waits until it leads.
    time.sleep(60)


with guildhall.open() as hall:
    candidates = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            try:
                stand(hall)
            finally:
                os._exit(0)
        candidates.append(pid)
    terms = []
    while candidates:
        observer = Election("office", hall=hall)
        leader = next(leader for leader in observer.watch(timeout=10) if leader and leader.value in candidates)
        print(f"process {leader.value} leads, term {leader.term}")
        assert not terms or leader.term > terms[-1]
        terms.append(leader.term)
        os.kill(leader.value, signal.SIGKILL)
        os.waitpid(leader.value, 0)
        candidates.remove(leader.value)
    assert len(terms) == 3
    assert next(leader for leader in observer.watch(timeout=10) if leader is None) is None
    print("nobody leads")

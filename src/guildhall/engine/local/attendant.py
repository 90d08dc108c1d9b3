"""A worker's second thread, which answers while the first is busy: it runs what the inbox asks for."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from ...errors import Broken, Misuse, StoreFull
from ...hosts.embedded import EmbeddedHost
from ...primitives import values, waiters
from ...primitives.op import Answer
from ...primitives.values import ERROR
from . import inbox, tasks
from .running import run_task
from .tasks import Done


class Attendant(threading.Thread):
    """Runs until the hall is closed."""

    def __init__(self, host: EmbeddedHost, worker: Any) -> None:
        super().__init__(daemon=True, name="guildhall-attendant")
        self._host = host
        self.worker = worker
        """Whose attendant this is: for requests that concern the worker itself."""
        self._session = host.session

    def run(self) -> None:
        """Answer requests, one after the other."""
        with suppress(Broken, Misuse):
            while True:
                self._answer_next()

    def _answer_next(self) -> None:
        host = self._host
        waiter, bell = host.waiter(), host.bell()
        try:
            found = host.insist(inbox.take, self._session, waiter._replace(bell=bell.number))
            if isinstance(found, Answer):
                while not host.read(waiters.is_granted, waiter):
                    host.sleep(bell, None)
                return
        finally:
            host.done(bell)
        key, oid, recipe = found
        end = run_task(host, oid, recipe)
        try:
            host.transact(inbox.done, key, end)
        except StoreFull:
            host.insist(inbox.done, key, Done(oid, ERROR, tasks.FULL))
        if end.uses:
            host.defer(values.release_for, host.session, end.uses)

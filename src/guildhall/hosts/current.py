"""Which hall is meant when none is given: the task's, else the newest client's, else the one GUILDHALL names."""

from __future__ import annotations

from .embedded import EmbeddedHost

task_host: list[EmbeddedHost] = []
"""In a worker, its hall; empty elsewhere."""
default_hosts: list[EmbeddedHost] = []
"""The halls of the open clients of this process, the newest last."""


def current() -> EmbeddedHost | None:
    if task_host:
        return task_host[-1]
    return default_hosts[-1] if default_hosts else None

"""The hall in a Dask scheduler: ops run in the scheduler's process, from clients and from tasks on any worker.

    dask scheduler --preload guildhall.hosts.dask

puts it there from the start; else the first who connects does, which needs a scheduler that has guildhall installed.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .host import DaskHost

_hosts: dict[tuple[str, str], DaskHost] = {}
"""This process's hosts, by the scheduler's address and who we are to Dask."""
_gate = threading.RLock()


def _after_fork_in_child() -> None:
    global _gate
    _gate = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def connect(client: Any) -> DaskHost:
    """This process at the hall of the client's scheduler. A second call for one client gives the same host.

    Raises HallRefused if the scheduler has not what it needs, or another version of it: the message says what to
    install where. Raises Broken if it cannot be reached.
    """
    from .comms import client_facts

    return _at(*client_facts(client), "client")


def of_worker() -> DaskHost:
    """The hall of the Dask worker whose task runs in this thread. Raises NoHall if there is none."""
    from ...errors import NoHall
    from . import comms

    facts = comms.worker_facts()
    if facts is None:
        raise NoHall("no Dask worker runs a task in this thread; connect with guildhall.hosts.dask.connect(client)")
    host = _at(*facts, "worker")
    host.give_way = host.give_way or comms.give_way
    return host


def _at(address: str, security: Any, owner: str, role: str) -> DaskHost:
    host = _hosts.get((address, owner))
    if host is not None and host.is_open:
        host.opens += role == "client"
        return host
    with _gate:
        host = _hosts.get((address, owner))
        if host is None or not host.is_open:
            host = _hosts[address, owner] = _made(address, security, owner, role)
        return host


def _made(address: str, security: Any, owner: str, role: str) -> DaskHost:
    from . import comms
    from .host import DaskHost
    from .link import DirectLink, Link

    here = comms.hall_here(address)
    pid = os.getpid()

    def link(host: DaskHost) -> Link | DirectLink:
        is_child = os.getpid() != pid
        mine = "" if is_child else owner
        if here is not None and not is_child:
            return DirectLink(here, role, mine, host._heard)
        return Link(
            address, lambda greeting: comms.dial(address, security, greeting), role, mine, host._heard, host.words
        )

    is_worker = role == "worker" and here is None
    return DaskHost(address, role, link, comms.station_here(_hosts) if is_worker else None)


def dask_setup(server: Any) -> None:
    """Called by `dask scheduler --preload guildhall.hosts.dask`; in a worker it has nothing to do."""
    from . import comms

    if hasattr(server, "extensions") and hasattr(server, "add_plugin"):
        comms.install(server)

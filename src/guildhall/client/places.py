"""Where a hall is: on this machine, or in the scheduler of a cluster; and what is loaded only for the latter.

Clients of a cluster are made of those of this machine, which become such a one when they are given its address. So the
modules that know Dask are loaded by name, and by who needs them: `import guildhall` must not load distributed.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any


def is_address(name: Any) -> bool:
    """Whether that is the address of a cluster, and no hall's name or path."""
    return isinstance(name, str) and "://" in name


def cluster_meant(given: Any) -> Any:
    """The cluster of Dask that is given, or that GUILDHALL names if nothing is; None if it is none."""
    if given is None:
        named = os.environ.get("GUILDHALL")
        return named if is_address(named) else None
    if isinstance(given, str):
        return given if is_address(given) or _has_port(given) else None
    return given if _is_of_distributed(type(given)) else None


def _has_port(text: str) -> bool:
    """Whether it looks like "host:8786", which Dask takes for the address of a scheduler."""
    host, _, port = text.rpartition(":")
    return port.isdecimal() and host != "" and not any(one.isspace() or one == "/" for one in host)


def _is_of_distributed(kind: type) -> bool:
    """Whether it is a client of distributed, or a cluster: those of other packages are derived from its own."""
    return any(base.__module__.partition(".")[0] == "distributed" for base in kind.__mro__)


def of_dask(name: str) -> Any:
    """What is called so in the modules for clusters of Dask."""
    home = "dask_executor" if name == "DaskExecutor" else "dask_client"
    return getattr(import_module(f"{__package__}.{home}"), name)


def is_in_dask_task() -> bool:
    """Whether this thread runs a task of a Dask cluster."""
    if "distributed.worker" not in sys.modules:
        return False
    from ..engine import dask

    return dask.is_in_worker()

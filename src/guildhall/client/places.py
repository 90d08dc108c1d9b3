"""Where a hall is: on this machine, or in the scheduler of a cluster."""

from __future__ import annotations

import os
from typing import Any

from .cluster import LocalCluster


def is_address(name: Any) -> bool:
    """Whether that is the address of a cluster, and no hall's name or path."""
    return isinstance(name, str) and "://" in name


def cluster_meant(given: Any) -> Any:
    """The cluster of Dask that is given, or that GUILDHALL names if nothing is; None if it is none."""
    if given is None:
        named = os.environ.get("GUILDHALL")
        return named if is_address(named) else None
    is_cluster = isinstance(given, str) or hasattr(given, "scheduler_address") or hasattr(given, "scheduler_file")
    return given if is_cluster and not isinstance(given, LocalCluster) else None

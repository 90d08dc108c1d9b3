"""Where it was measured: processor, system, versions, and how busy the machine was with other things."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
    }


def _ticks() -> tuple[int, int]:
    """Of all processors since the start: busy, all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


def busy_with_others(seconds: float = 2.0) -> float:
    """Cores that others use, while we sleep."""
    busy, every = _ticks()
    time.sleep(seconds)
    later, end = _ticks()
    return round((later - busy) / max(end - every, 1) * (os.cpu_count() or 1), 2)

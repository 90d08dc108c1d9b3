"""Where peers that work with files have them: in shared memory if there is some, as guildhall's hall is."""

from __future__ import annotations

import tempfile
from pathlib import Path


def folder() -> tempfile.TemporaryDirectory[str]:
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="bench-", dir=memory if memory.is_dir() else None)

"""The command line, run by tests as users run it."""

from __future__ import annotations

import os
import subprocess
import sys

GUILDHALL = [sys.executable, "-m", "guildhall"]


def run(*arguments: str, hall: str | None = None, code: int = 0, **env: str) -> str:
    """What the command prints; its exit code is as told, and there is never a traceback."""
    done = cli(*arguments, hall=hall, **env)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def cli(*arguments: str, hall: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    where = [] if hall is None else ["--hall", hall]
    command = [*GUILDHALL, *arguments, *where]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(**env))


def started(*arguments: str, **env: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*GUILDHALL, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment(**env))


def environment(**env: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "GUILDHALL"}
    return {**inherited, "COLUMNS": "20", **env}


def refused(*arguments: str, hall: str | None = None, **env: str) -> str:
    """The one line that a command complains with."""
    done = cli(*arguments, hall=hall, **env)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("guildhall: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr

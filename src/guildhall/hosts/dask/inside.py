"""What of the inside of `distributed` is used here and in `engine/dask.py`, and a clear error when some of it is gone.

All that is not documented for others to use, as checked with distributed 2026.8. What must hold: whatever is used of it
stands in this list, so that a new release is read against one page.
"""

from __future__ import annotations

import importlib

from ...errors import HallRefused

CHECKED_WITH = "2026.8"

USED = (
    # A line begins as a connection of Dask's; then both ends take its socket (`comms`).
    "distributed.comm.core:connect",
    "distributed.comm.tcp:TCP.read",
    "distributed.core:Status.dont_reply",
    "tornado.iostream:BaseIOStream.set_close_callback",
    # The hall is one of the scheduler's extensions, and holds results by its books (`comms`, `References`).
    "distributed.scheduler:Scheduler._instances",
    "distributed.scheduler:Scheduler.client_desires_keys",
    "distributed.scheduler:Scheduler.client_releases_keys",
    "distributed.scheduler:Scheduler.report",
    "distributed.scheduler:Scheduler.add_plugin",
    # Which thread runs a task, and how it leaves its slot (`comms`).
    "distributed.worker:thread_state",
    "distributed.worker:_worker_cvar",
    "distributed.threadpoolexecutor:thread_state",
    # Asking a client from a thread of our own, with our own waiting (`engine/dask.py`).
    "distributed.client:Client._cancel",
    "distributed.client:Client._gather",
    "distributed.client:Client._run",
    "distributed.client:Client._scatter",
    "distributed.client:Client._send_to_scheduler",
    "distributed.client:Future._exception",
    "distributed.client:Future._result",
    "distributed.client:Future._traceback",
    "distributed.client:FutureState.cancel",
    "distributed.client:FutureState.wait",
    "distributed.client:FutureCancelledError",
    "distributed.client:FuturesCancelledError",
    "distributed.actor:Actor._worker_rpc",
    "dask._task_spec:TaskRef.substitute",
)
"""As `module:name`. What objects have besides, which no class shows: a connection's `stream`, `_finalizer` and
`_closed`; a stream's `_read_buffer`, `_read_buffer_size` and `io_loop`; a client's `_start_arg` and `scheduler_comm`,
with `buffer`, `next_deadline` and `waker`; a future's `_state`; an actor's `_cls`; a scheduler's `extensions`,
`handlers`, `stream_handlers`, `tasks`, `plugins` and `worker_plugins`."""


def missing() -> list[str]:
    """What of it is not there."""
    return [name for name in USED if not _is_there(name)]


def _is_there(name: str) -> bool:
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


def refusal(what: str) -> HallRefused:
    """The error to raise when that is gone."""
    return HallRefused(
        f"the installed distributed {_installed()} has no {what}, which guildhall needs (checked with {CHECKED_WITH}): "
        f"pip install 'distributed=={CHECKED_WITH}.*' in this environment, or a newer guildhall everywhere"
    )


def _installed() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("distributed")
    except PackageNotFoundError:
        return "(of no known version)"


def expect() -> None:
    """Raises HallRefused if something is missing."""
    if gone := missing():
        raise refusal(", ".join(gone))

"""`guildhall tail`: a topic's messages, as they come."""

from __future__ import annotations

import select
import signal
import sys
import time
from contextlib import closing, suppress
from types import FrameType
from typing import Any

from ..client.hall import Hall
from ..client.handles import Sub
from ..client.peek import Text, printed
from ..errors import Lagged, TimedOut
from . import screen

MAX_UNREAD = 10_000
"""Messages that the hall keeps for us: who looks on shall not fill it."""
LOOK_S = 1.0
"""How often to see whether anybody still reads what we write."""


def follow(hall: Hall, topic: Any, count: int | None, *, is_json: bool) -> None:
    """Print messages until so many came, Ctrl-C, SIGTERM, or nobody reads."""
    sys.path.insert(0, "")  # Messages may be of classes that are defined where the user works.
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt), closing(Sub(topic, maxlen=MAX_UNREAD, hall=hall)) as messages:
        if screen.is_terminal():
            print(f"waiting for messages of topic {screen.label(topic)}; end with Ctrl-C", file=sys.stderr)
        while count is None or count > 0:
            try:
                message = messages.get(timeout=LOOK_S)
            except TimedOut:
                if _is_closed():
                    return
                continue
            except Lagged as lagged:
                print(f"{lagged.n} messages were published faster than they were printed", file=sys.stderr)
                continue
            except Exception as error:
                message = Text(f"<a message that cannot be read here: {error!r:.200}>")
            _print(topic, message, is_json)
            count = None if count is None else count - 1


def _print(topic: Any, message: Any, is_json: bool) -> None:
    if is_json:
        screen.show_json({"topic": topic, "time": time.time(), "message": message}, is_line=True)
    else:
        print(screen.moment(time.time()), screen.visible(printed(message)), flush=True)


def _is_closed() -> bool:
    """Whether the reader of our standard output is gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt

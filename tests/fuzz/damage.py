"""Damaged halls: one that was written well, ways to spoil it, and what a process says that opens and uses the copy.

A case is a number: it decides what is spoiled and how. `FUZZ_SEED=n` begins with that case, `FUZZ_S` is how many
seconds all kinds of cases take together (`make fuzz MINUTES=n`).
"""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import msgspec
from lmdb import verify

import guildhall
import guildhall.client.census
import guildhall.client.handles.statistics
import guildhall.hosts.observer
import guildhall.primitives.burial
from guildhall import GuildhallError, Lock, Pub, Queue, Semaphore, Sub, TimedOut, Variable

LOADED = verify, guildhall.client.census  # Here, and so not in each case.
PAGE = 4096
HANGS_S = 20
"""Longer than any case takes: a process that is not through by then never will be."""
LEAST = 8
NAMES = 40
LARGE = bytes(100_000)
VALUES: list[Any] = [7, "text", b"bytes" * 40, 1.5, None, ["a", {"b": (1, 2)}], "x" * 5000]

Spoil = Callable[[Path, random.Random], object]


def seconds(share: float, least: float) -> float:
    """How long a kind of cases goes on."""
    return max(least, float(os.environ.get("FUZZ_S", 0)) * share)


def seeds(for_s: float) -> Iterator[int]:
    """Numbers of cases, new ones in each run, until the time is up and there were some."""
    until = time.monotonic() + for_s
    first = int(os.environ.get("FUZZ_SEED", random.randrange(1 << 40)))
    for seed in itertools.count(first):
        if time.monotonic() > until and seed - first >= LEAST:
            return
        yield seed


def write(path: Path) -> None:
    """A hall with all kinds of things in it, that nobody is in."""
    with guildhall.open(path) as hall:
        for number in range(NAMES):
            Variable(f"v{number}", hall=hall).set(VALUES[number % len(VALUES)])
        for number in range(0, NAMES, 5):
            Variable(f"v{number}", hall=hall).delete()
        Variable("large", hall=hall).set(LARGE)
        Queue("q", hall=hall).put_many(range(150))
        Queue("q", hall=hall).get(batch=70)
        guildhall.Counter("c", hall=hall).add(1 << 70)
        Sub("t", subscription="d", hall=hall)
        pub = Pub("t", hall=hall)
        for number in range(20):
            pub.put(number)
        guildhall.Latch("latch", 3, hall=hall)
        guildhall.Event("e", hall=hall).set()
        Semaphore("s", 2, hall=hall)


def use(path: Path) -> None:
    """Look at everything, change everything."""
    with guildhall.observe(path) as seen:
        seen.snapshot().as_dict()
    with guildhall.open(path) as hall:
        steps = [
            *(lambda n=n: Variable(f"v{n}", hall=hall).get(timeout=0) for n in range(NAMES)),
            lambda: Variable("large", hall=hall).get(timeout=0),
            *(lambda n=n: Variable(f"v{n}", hall=hall).set("y" * 700) for n in range(NAMES)),
            lambda: Queue("q", hall=hall).put_many(range(50)),
            *(lambda: Queue("q", hall=hall).get(timeout=0),) * 20,
            lambda: Queue("q", hall=hall).get(batch=True, timeout=0),
            lambda: guildhall.Counter("c", hall=hall).add(1),
            lambda: [Sub("t", subscription="d", hall=hall).get(timeout=0) for _ in range(21)],
            lambda: Pub("t", hall=hall).put(1),
            lambda: Lock("l", hall=hall).acquire(timeout=0),
            lambda: guildhall.Latch("latch", 3, hall=hall).count_down(),
            lambda: guildhall.Event("e", hall=hall).clear(),
            lambda: Semaphore("s", 2, hall=hall).acquire(timeout=0),
            lambda: hall.snapshot(),
        ]
        damage = None
        for step in steps:  # What is damaged at one place does not keep us from looking at the others.
            try:
                step()
            except TimedOut:
                pass
            except GuildhallError as error:
                damage = error
            except (AttributeError, ImportError, TypeError) as error:
                if not is_of_a_value(error):
                    raise
        if damage is not None:
            raise damage


def is_of_a_value(error: BaseException) -> bool:
    """Whether a damaged value was still a pickle, which names another class or calls it with something else."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    where = frames[-1].f_globals.get("__name__", "")
    return where.startswith(("guildhall.engine.local.payload", "guildhall.client.handles.", "importlib", "_frozen"))


def said(path: Path, using: Callable[[Path], None] = use) -> str:
    """What a process says that uses the hall: "whole", the name of our error, or what else became of it."""
    read, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        with suppress(BaseException), redirect_stderr(io.StringIO()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # What LMDB says of an assertion.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(HANGS_S)
            os.write(write_end, _outcome(using, path).encode(errors="replace"))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read, "rb") as file:
        text = file.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGALRM:
        return "hangs"
    return f"killed by {signal.Signals(-status).name}" if status else text or "said nothing"


def _outcome(using: Callable[[Path], None], path: Path) -> str:
    try:
        using(path)
        return "whole"
    except GuildhallError as error:
        return type(error).__name__
    except BaseException:
        return f"raises {traceback.format_exc()[-1500:]}"


BAD = ("raises", "killed", "hangs", "said nothing")


def fuzz(source: Path, place: Path, spoil: Spoil, for_s: float, using: Callable[[Path], None] = use) -> Counter[str]:
    """Spoil copies of the hall until the time is up. Returns how often each thing was said; fails on a bad one."""
    tally: Counter[str] = Counter()
    for seed in seeds(for_s):
        copy = place / f"case-{seed}"
        shutil.copytree(source, copy)
        try:
            dice = random.Random(seed)
            what = spoil(copy, dice)
            answer = said(copy, using)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        tally[answer] += 1
        assert not answer.startswith(BAD), f"FUZZ_SEED={seed}: {what}: {answer}"
    return tally


# -- ways to spoil ----------------------------------------------------------------------------------------------------


def spoil_bytes(path: Path, dice: random.Random) -> str:
    """Damage the store's file: bits, bytes, heads of pages, whole pages, its length."""
    data = path / "data.mdb"
    content = bytearray(data.read_bytes())
    used = max(2, len(content.rstrip(b"\0")) // PAGE + 1)
    kind = dice.choice([_bit, _word, _head, _page, _zeros, _other_page, _cut])
    for _ in range(dice.choice([1, 1, 2, 5])):
        page = dice.randrange(2) if dice.random() < 0.2 else dice.randrange(used)
        kind(content, page * PAGE, dice)
    data.write_bytes(content)
    return kind.__name__


def _bit(content: bytearray, at: int, dice: random.Random) -> None:
    if at < len(content):
        content[at + dice.randrange(PAGE)] ^= 1 << dice.randrange(8)


def _word(content: bytearray, at: int, dice: random.Random) -> None:
    content[(at := at + dice.randrange(PAGE - 8)) : at + 4] = dice.choice([dice.randbytes(4), bytes(4), b"\xff" * 4])


def _head(content: bytearray, at: int, dice: random.Random) -> None:
    if at < len(content):
        content[at + dice.randrange(200)] = dice.choice([0, 1, 0x7F, 0xFF, dice.randrange(256)])


def _page(content: bytearray, at: int, dice: random.Random) -> None:
    content[at : at + PAGE] = dice.randbytes(PAGE)


def _zeros(content: bytearray, at: int, dice: random.Random) -> None:
    content[at : at + PAGE] = bytes(PAGE)


def _other_page(content: bytearray, at: int, dice: random.Random) -> None:
    other = dice.randrange(len(content) // PAGE) * PAGE
    content[at : at + PAGE] = content[other : other + PAGE]


def _cut(content: bytearray, at: int, dice: random.Random) -> None:
    del content[max(1, at - dice.randrange(PAGE)) :]


def spoil_record(path: Path, dice: random.Random) -> str:
    """Damage what a key holds, or a key, as LMDB would: the store itself stays whole."""
    import lmdb

    env = lmdb.open(str(path), map_size=1 << 30, lib_version=0)
    with env.begin(write=True) as txn:
        pairs = list(txn.cursor())
        region = dice.choice(sorted({key[:1] for key, _ in pairs}))  # Few are of many kinds, most of one.
        key, value = dice.choice([pair for pair in pairs if pair[0].startswith(region)])
        kind = dice.choice(["value", "value", "part", "part", "key", "moved", "gone"])
        if kind == "value":
            txn.put(key, spoiled(value, dice))
        elif kind == "part":
            txn.put(key, _with_another_part(value, dice))
        elif kind == "gone":
            txn.delete(key)
        elif kind == "key":
            txn.delete(key)
            txn.put((key[:1] + spoiled(key[1:], dice))[:500], value)
        else:
            txn.put(key, dice.choice(pairs)[1])
    env.close()
    return f"{kind} of {key.hex()}"


def _with_another_part(data: bytes, dice: random.Random) -> bytes:
    """A record that can be read, of which one part is something else of the same type."""
    try:
        record = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        record = None
    if not isinstance(record, list) or len(record) < 2:
        return dice.choice([bytes(len(data)), b"\xff" * len(data), data[::-1], data * 2])
    place = dice.randrange(1, len(record))
    record[place] = _another(record[place], dice)
    return msgspec.msgpack.encode(record)


def _another(part: Any, dice: random.Random) -> Any:
    if isinstance(part, bool):
        return not part
    if isinstance(part, int):
        return dice.choice([0, 1, -1, part + 1, part - 1, -part, 1 << 31, 1 << 62, -(1 << 62)])
    if isinstance(part, float):
        return dice.choice([0.0, -1.0, 1e300, float("inf"), float("nan")])
    if isinstance(part, bytes):
        return dice.choice([b"", spoiled(part, dice), part * 2])
    if isinstance(part, str):
        return dice.choice(["", "\x1b]0;x\x07", part + "x", "../" * 9])
    if isinstance(part, list) and part:
        return dice.choice([[], part * 2, part[1:], [_another(one, dice) for one in part]])
    return dice.choice([None, 0, b"", "", []])


def spoiled(data: bytes, dice: random.Random) -> bytes:
    """The bytes with something changed."""
    content = bytearray(data)
    kind = dice.randrange(6)
    if kind == 0 or not content:
        return dice.randbytes(dice.randrange(1, 30))
    at = dice.randrange(len(content))
    if kind == 1:
        content[at] ^= 1 << dice.randrange(8)
    elif kind == 2:
        del content[at:]
    elif kind == 3:
        content[at:at] = dice.randbytes(dice.randrange(1, 9))
    elif kind == 4:
        content[at] = dice.choice([0, 0xFF, 0xC0, 0x80, 0x90, 0xDC, 0xC4])
    else:
        content += dice.randbytes(3)
    return bytes(content)


PARTS = ("namespace", "guard", "lock.mdb", "data.mdb", "members", "ballast", "bells", "blobs")


def spoil_part(path: Path, dice: random.Random) -> str:
    """Put something else in place of a part of the hall, or beside it."""
    name = dice.choice(PARTS)
    target = path / name
    kind = dice.choice(["gone", "garbage", "empty", "directory", "link", "pipe", "long", "inside"])
    if kind == "inside":
        return _spoil_inside(path, dice)
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if kind == "garbage":
        target.write_bytes(dice.randbytes(dice.randrange(1, 100_000)))
    elif kind == "empty":
        target.write_bytes(b"")
    elif kind == "long":
        target.write_bytes(b"")
        os.truncate(target, 1 << 40)
    elif kind == "directory":
        target.mkdir()
    elif kind == "link":
        target.symlink_to(dice.choice(["/etc/passwd", "/dev/zero", "nowhere", str(path)]))
    elif kind == "pipe":
        os.mkfifo(target)
    return f"{name}: {kind}"


def _spoil_inside(path: Path, dice: random.Random) -> str:
    """Bells, marks and blobs."""
    folder = dice.choice(["bells", "blobs"])
    found = list((path / folder).iterdir())
    names = [f"{dice.randrange(4)}.{dice.randrange(3)}", f"{dice.randrange(4)}.marks", "x", ".y", "1-1-zz"]
    target = dice.choice(found) if found and dice.random() < 0.6 else path / folder / dice.choice(names)
    target.unlink(missing_ok=True)
    kind = dice.choice(["gone", "garbage", "empty", "pipe", "link", "directory"])
    if kind == "garbage":
        target.write_bytes(dice.randbytes(dice.randrange(1, 200_000)))
    elif kind == "empty":
        target.write_bytes(b"")
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "link":
        target.symlink_to("/dev/zero")
    elif kind == "directory":
        target.mkdir()
    return f"{target.relative_to(path)}: {kind}"

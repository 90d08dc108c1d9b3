"""What any bytes are given to: each target takes them as it likes, and raises only when something is wrong.

Hypothesis feeds them (`test_fuzz_inputs.py`), and atheris, which watches what each input reaches:
`make fuzz ENGINE=atheris MINUTES=10`, or `python tests/fuzz/targets.py TARGET` with the options of libFuzzer.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

FORMS = [
    "primitives.sessions", "primitives.values", "primitives.queue", "primitives.topic", "primitives.subscription",
    "primitives.lock", "primitives.rlock", "primitives.pool", "primitives.barrier", "primitives.condition",
    "primitives.election", "primitives.limiter", "primitives.latch", "primitives.multilock", "primitives.delivery",
    "primitives.waiters", "primitives.deadlock", "engine.local.tasks", "engine.local.actors",
]  # fmt: skip
_COSTLY = b"pqr\x96"
"""Opcodes of pickle that name a place in its memo, for which CPython takes as much memory as they ask for; and the one
of a bytearray, of which it complains on standard error when the rest is cut off."""
WATCHED = [*FORMS, "client.places", "client.peek", "tools.cli", "hosts.dask.wire"]
WORDS = (
    "ls",
    "show",
    "locks",
    "queue",
    "peek",
    "doctor",
    "--json",
    "--kind",
    "--count",
    "-1",
    "--hall",
    "--",
    "x",
    "e",
)


def a_key(data: bytes) -> None:
    """It is none, or it says what it was made of."""
    from guildhall.errors import HallDamaged
    from guildhall.store import keys

    for read in (keys.first_name, keys.name_of):
        with suppress(HallDamaged):
            read(data)
    with suppress(HallDamaged):
        found = keys.unpack(data)
        assert repr(keys.unpack(keys.pack(found))) == repr(found), found


def a_record(data: bytes) -> None:
    """It is none, or what was read is written as something that reads alike."""
    from guildhall.store.records import UNREADABLE, Form

    for form in _forms(Form):
        with suppress(*UNREADABLE):
            found = form.unpack(data)
            assert repr(form.unpack(form.pack(found))) == repr(found), found


def _forms(kind: type, found: list = []) -> list:  # noqa: B006 (made once)
    if not found:
        for name in FORMS:
            import_module(f"guildhall.{name}")
        found += [each for each in gc.get_objects() if isinstance(each, kind)]
    return found


def a_name(data: bytes) -> None:
    """Text and bytes are names, or too long; what is packed begins nothing else."""
    from guildhall import GuildhallError
    from guildhall.store import keys

    for name in (data, data.decode("utf-8", "surrogateescape"), (data[:9], len(data), None)):
        with suppress(GuildhallError):
            packed = keys.pack_name("thing", name)
            assert keys.first_name(packed + b"more") == packed
            assert keys.name_of(packed) == name


def an_address(data: bytes) -> None:
    """It leads to a hall, to none, or is refused. Nothing is made."""
    import guildhall
    from guildhall.client import places

    text = data.decode("utf-8", "surrogateescape")
    places.is_address(text)
    for use in (guildhall.observe, guildhall.remove):
        with suppress(guildhall.GuildhallError):
            use(f"/proc/nowhere/{text}" if "/" in text else text)


def a_frame(data: bytes) -> None:
    """What comes to a hall in a scheduler: whatever it is, it names nothing but ours."""
    from guildhall.hosts.dask import wire

    assembler, frames = wire.Assembler(), []
    for at in range(0, len(data), 7):
        frames += [bytes(one) for one in assembler.feed(data[at : at + 7])]
    for one in (*frames, data):
        if not set(one) & set(_COSTLY):
            with suppress(Exception):
                wire.loads(one)


def a_shown_value(data: bytes) -> None:
    """A pickle, looked at without running it, prints in one line whatever it is."""
    from guildhall.client import peek
    from guildhall.tools import screen

    if set(data) & set(_COSTLY):
        return
    try:
        value = peek._Reader(io.BytesIO(data), buffers=peek._nothing()).load()
    except Exception:
        return
    assert "\n" not in screen.visible(peek.printed(value))
    with redirect_stdout(io.StringIO()):
        screen.show_json(value)


def arguments(data: bytes) -> None:
    """The command line ends with a code, prints nothing that a terminal obeys, and complains in one line."""
    from guildhall.tools import cli

    parts = data.split(b"\0")[:6]
    given = [WORDS[part[0] % len(WORDS)] if len(part) == 1 else os.fsdecode(part) for part in parts]
    if {"top", "tail", "rm", "gc", "--fix"} & set(given):
        return  # They go on, or change something.
    told, complained = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
    with redirect_stdout(told), redirect_stderr(complained):
        code = cli.run(given)
    check_told(given, code, told.buffer.getvalue().decode(), complained.getvalue())  # type: ignore[attr-defined]


def check_told(given: list[str], code: int, told: str, complained: str) -> None:
    """How every command ends."""
    assert code in (0, 1, 2), (given, code)
    assert "Traceback" not in complained, (given, complained)
    assert all(one.isprintable() or one == "\n" for one in told + complained), (given, told, complained)
    is_help = "Usage: " in complained  # Of a group of commands without one.
    if code == 2 and not is_help:
        assert complained.startswith("guildhall: "), (given, complained)
        assert complained.count("\n") == 1, (given, complained)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (a_key, a_record, a_name, an_address, a_frame, a_shown_value, arguments)
}


# -- atheris ----------------------------------------------------------------------------------------------------------


def seeds(place: Path) -> None:
    """Inputs to begin with: keys, records and pickles as they are written."""
    from guildhall.primitives.queue import QUEUE, More, Queue
    from guildhall.store import keys

    samples = [
        keys.pack(("name", 7, None, (b"x\0y", -1.5))), QUEUE.pack(Queue(3, 1, 2, more=More(1))), b"tcp://host:8786",
        pickle.dumps({"a": [1, (2.5, None)], "b": {3}}, 5), b"\x01\0x\0--json", b"\x03\0\x04\0x",
    ]  # fmt: skip
    for number, sample in enumerate(samples):
        (place / f"sample-{number}").write_bytes(sample)


def watch(name: str, options: list[str]) -> None:
    """Feed one target until libFuzzer ends this process."""
    import atheris

    with atheris.instrument_imports(include=["guildhall"]):
        for module in WATCHED:  # Whatever a target imports is imported here.
            import_module(f"guildhall.{module}")
    TARGETS[name](b"")
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """`TARGET [options of libFuzzer]`, or `all SECONDS`: one after the other, each in a process of its own."""
    name, *options = arguments
    if name != "all":
        watch(name, options)
        return 0
    share = max(2, int(float(options[0]) / len(TARGETS)))
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        environment = {**os.environ, "GUILDHALL_HOME": made, "TMPDIR": made}
        for target in TARGETS:
            (place / target).mkdir()
            seeds(place / target)
            limits = [f"-max_total_time={share}", "-max_len=400", "-timeout=20", "-verbosity=0", "-print_final_stats=1"]
            command = [sys.executable, __file__, target, *limits, f"-artifact_prefix={place}/", str(place / target)]
            print(f"{target}: {share} s", flush=True)
            if subprocess.run(command, env=environment).returncode:
                for found in place.glob("*-*"):
                    if found.is_file():
                        shutil.copy(found, tempfile.gettempdir())
                        print(f"{target}: {tempfile.gettempdir()}/{found.name}: {found.read_bytes()[:400]!r}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Every row of docs/bad-input.md is so."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import lmdb
import pytest
from faults import Child

import guildhall
from guildhall import Client, Counter, Event, GuildhallError, Latch, Lock, Queue, Semaphore, Variable
from guildhall.tools import cli

PAGE = Path(__file__).parents[1] / "docs" / "bad-input.md"
ROWS = {int(row): gets for row, gets in re.findall(r"^\| (\d+) \| .* \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)}

Case = Callable[[Path], Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hall on disk that nobody is in."""
    path = tmp_path_factory.mktemp("written") / "h"

    def write() -> None:
        with guildhall.open(path) as hall:
            for number in range(50):
                Variable(f"v{number}", hall=hall).set(f"{number}" * 400)
            Variable("large", hall=hall).set(bytes(100_000))
            Queue("q", hall=hall).put_many(range(30))

    Child(write).result()
    return path


@pytest.fixture
def no_hall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUILDHALL", raising=False)


def in_a_hall(use: Callable[[Any], Any]) -> Case:
    def case(path: Path) -> None:
        with guildhall.open() as hall:
            use(hall)

    return case


def read_all(path: Path) -> None:
    with guildhall.open(path) as hall:
        for number in range(50):
            Variable(f"v{number}", hall=hall).get(timeout=0)
        Variable("large", hall=hall).get(timeout=0)
        Queue("q", hall=hall).get(batch=True, timeout=0)
        hall.snapshot()


def damaged(spoil: Callable[[Path], Any]) -> Case:
    def case(path: Path) -> None:
        spoil(path)
        read_all(path)

    return case


def replace(name: str, how: Callable[[Path], Any]) -> Case:
    def spoil(path: Path) -> None:
        part = path / name
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()
        how(part)

    return damaged(spoil)


def write_records(change: Callable[[Any], Any]) -> Case:
    """The store changed as LMDB would change it."""

    def spoil(path: Path) -> None:
        with lmdb.open(str(path), map_size=1 << 30, lib_version=0) as env, env.begin(write=True) as txn:
            change(txn)

    return damaged(spoil)


def overwrite(page: int, content: bytes) -> Case:
    def spoil(path: Path) -> None:
        with (path / "data.mdb").open("r+b") as file:
            file.seek(page * 4096)
            file.write(content)

    return damaged(spoil)


def damage_page(content: Callable[[bytes], bytes]) -> Case:
    """Damage all that is or was a page with the record of one variable."""

    def spoil(path: Path) -> None:
        data = (path / "data.mdb").read_bytes()
        pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        found = [content(page) if b"\x30\x02v1\x00" in page else page for page in pages]
        assert found != pages
        (path / "data.mdb").write_bytes(b"".join(found))

    return damaged(spoil)


def flip(at: int, page: bytes) -> bytes:
    return page[:at] + bytes([page[at] ^ 0xFF]) + page[at + 1 :]


def foreign(path: Path) -> None:
    for name in ("data.mdb", "lock.mdb"):
        (path / name).unlink()
    with lmdb.open(str(path), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"somebody", b"else")


def blob(path: Path) -> Path:
    return next((path / "blobs").iterdir())


def another_users(path: Path) -> None:
    if os.getuid() == 0:
        os.chown(blob(path), 65534, -1)
    else:
        blob(path).chmod(0o666)


def command(*arguments: str) -> Case:
    def case(path: Path) -> None:
        with redirect_stderr(io.StringIO()) as told:
            code = cli.run([*arguments])
        assert code == 2
        assert len(told.getvalue().splitlines()) == 1, told.getvalue()
        raise ExitCode2

    return case


class ExitCode2(GuildhallError):
    """Told as the row about the command line tells it."""


def deep(depth: int) -> Any:
    name: Any = "x"
    for _ in range(depth):
        name = (name,)
    return name


def set_first(txn: Any, prefix: bytes, value: bytes) -> None:
    cursor = txn.cursor()
    assert cursor.set_range(prefix)
    txn.put(cursor.key(), value)


CASES: dict[int, list[Case]] = {
    1: [in_a_hall(lambda hall, name=name: Lock(name, hall=hall)) for name in (object(), {1}, {"a": 1}, 1j)],
    2: [in_a_hall(lambda hall, name=name: Queue(name, hall=hall)) for name in ("x" * 401, deep(300), deep(100_000))],
    3: [lambda path, name=name: guildhall.open(name) for name in ("", 7, b"jobs", "a\0b", [])],
    4: [lambda path, name=name: guildhall.open(name) for name in ("\udfff\ud800", "x" * 101, ".x", "private-1")],
    5: [
        lambda path: Lock("x", hall=7).acquire(),
        lambda path: Client(7),
        lambda path: Variable("x", hall="jobs").get(),
    ],
    6: [lambda path: Lock("x").acquire()],
    7: [lambda path: guildhall.observe("none"), lambda path: guildhall.remove(f"{path}-none", force=True)],
    8: [lambda path: guildhall.open("jobs", durable=True)],
    9: [in_a_hall(lambda hall, s=s: Event("e", hall=hall).wait(s)) for s in (-1, "soon", "-1s", float("nan"))],
    10: [
        in_a_hall(lambda hall: Queue("q", maxsize=-1, hall=hall).put(1)),
        in_a_hall(lambda hall: Semaphore("s", -1, hall=hall).acquire()),
        in_a_hall(lambda hall: Latch("l", "three", hall=hall).count_down()),
        in_a_hall(lambda hall: Counter("c", hall=hall).add("x")),
        in_a_hall(lambda hall: Queue("q", hall=hall).get(batch=-1)),
    ],
    11: [in_a_hall(lambda hall: Variable("v", hall=hall).set(threading.Lock()))],
    12: [command("nonsense"), command("show"), command("ls", "--hall", "none"), command("top", "--every", "x")],
    13: [
        lambda path: guildhall.open(path / "namespace" / "h"),
        lambda path: guildhall.open(path.parent / ("x" * 300)),
        lambda path: ((path.parent / "loop").symlink_to("loop"), guildhall.open(path.parent / "loop" / "h")),
    ],
    14: [
        lambda path: (path.chmod(0o755), guildhall.open(path)),
        lambda path: guildhall.open(path / "namespace"),
        lambda path: (path.chmod(0o770), guildhall.observe(path)),
    ],
    15: [lambda path: ((path / "data.mdb").unlink(), (path / "cat.jpg").touch(), guildhall.open(path))],
    16: [damaged(lambda path: (path / "namespace").write_bytes(b"pid:[\xff\xff]"))],
    17: [
        replace(name, how)
        for name in ("namespace", "guard", "lock.mdb", "bells", "blobs")
        for how in (lambda part: None, os.mkfifo, lambda part: part.symlink_to("/etc/passwd"))
    ]
    + [replace(name, Path.mkdir) for name in ("namespace", "guard", "lock.mdb", "members", "data.mdb")],
    18: [damaged(lambda path, size=size: os.truncate(path / "data.mdb", size)) for size in (0, 1, 4096, 8192, 30_000)],
    19: [
        damaged(foreign),
        damaged(lambda path: (path / "data.mdb").write_bytes(b"hello" * 9999)),
        overwrite(0, bytes(90)),
    ],
    20: [write_records(lambda txn: txn.put(b"\x01f", b"2")), write_records(lambda txn: txn.delete(b"\x01f"))],
    21: [
        damage_page(lambda page: bytes(4096)),
        damage_page(lambda page: random.Random(1).randbytes(4096)),
        damage_page(lambda page: flip(10, page)),
        damage_page(lambda page: flip(12, page)),
        damage_page(lambda page: flip(17, page)),
        overwrite(0, b"\xff" * 200),
        damaged(lambda path: (path / "data.mdb").write_bytes(flip(44, (path / "data.mdb").read_bytes()))),
    ],
    22: [
        write_records(lambda txn: set_first(txn, b"\x34", b"\x91\x01")),
        write_records(lambda txn: set_first(txn, b"\x34", b"\xff")),
        write_records(lambda txn: txn.put(b"\x34\x02\xff", b"\x91\x01")),
        write_records(lambda txn: [txn.delete(key) for key, _ in list(txn.cursor()) if key[:1] == b"\x35"]),
        write_records(lambda txn: [txn.delete(key) for key, _ in list(txn.cursor()) if key[:1] == b"\x20"]),
    ],
    23: [
        write_records(lambda txn, data=data: set_first(txn, b"\x30\x02v1", data))
        for data in (b"\x80\x05", b"\x80\xff.", b"\x80\x05\x8c\xffabc.", b"\x80\x05.", b"\x80\x05jabcd.")
    ],
    24: [
        damaged(lambda path: blob(path).unlink()),
        damaged(lambda path: os.truncate(blob(path), 5)),
        damaged(lambda path: os.truncate(blob(path), 0)),
        damaged(lambda path: (blob(path), os.rename(blob(path), path / "x"), os.mkfifo(path / "blobs" / "y"))),
        damaged(another_users),
    ],
}


def test_the_page_has_24_rows_and_each_is_tried() -> None:
    assert list(ROWS) == [*range(1, 25)]
    assert ROWS.keys() == CASES.keys()


def error_of(case: Case, path: Path) -> tuple[list[str], str]:
    """The names of the classes of the error, and its text."""
    try:
        case(path)
    except (GuildhallError, ValueError) as error:
        return [one.__name__ for one in type(error).__mro__], str(error)
    return [], "nothing was raised"


@pytest.mark.parametrize("row", CASES)
@pytest.mark.usefixtures("no_hall")
def test_bad_input_gets_what_the_page_says(row: int, written: Path, tmp_path: Path) -> None:
    gets = ROWS[row].strip("`") if row != 12 else "ExitCode2"
    for number, case in enumerate(CASES[row]):
        copy = tmp_path / f"copy-{number}" / "h"
        shutil.copytree(written, copy)
        names, text = Child(error_of, case, copy).result()
        assert gets in names, f"row {row}, case {number}: {names[:1]}: {text}"
        assert row == 9 or "GuildhallError" in names, names
        assert "\n" not in text
        shutil.rmtree(copy.parent)

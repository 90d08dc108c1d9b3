"""What comes to a hall in a scheduler may name nothing but functions of a transaction and classes of data."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pickle
import pkgutil
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import guildhall
from guildhall.hosts.dask import wire
from guildhall.primitives import lock, queue
from guildhall.store.records import Record
from guildhall.store.transaction import Waiter

SPECIAL = ("__post_init__", "__del__", "__call__", "__reduce__", "__reduce_ex__", "__getattr__", "__init_subclass__")


def everything_that_travels() -> Iterator[Any]:
    for module in pkgutil.walk_packages(guildhall.__path__, "guildhall."):
        if f"{module.name}.".startswith(wire._HOMES) or module.name == "guildhall.errors":
            for name in vars(importlib.import_module(module.name)):
                with suppress(pickle.UnpicklingError):
                    yield wire.named(module.name, name)


def test_whatever_travels_is_an_op_or_does_nothing_when_it_is_made() -> None:
    found = list(everything_that_travels())
    assert lock.acquire in found
    assert Waiter in found
    for each in found:
        if isinstance(each, FunctionType):
            assert each.__code__.co_varnames[0] == "txn", each
            continue
        assert issubclass(each, tuple | Exception | Record | wire.Enum) or dataclasses.is_dataclass(each), each
        ours = {name: vars(kind)[name] for kind in each.__mro__ if kind.__module__.startswith("guildhall") for name in
                SPECIAL if name in vars(kind)}  # fmt: skip
        assert not ours, (each, ours)


def named(module: str, name: str) -> bytes:
    return b"".join(b"\x8c" + bytes([len(one)]) + one.encode() for one in (module, name)) + b"\x93"


def calling(function: bytes, *args: Any) -> bytes:
    """A pickle that calls what the other one gives."""
    given = b"(" + b"".join(pickle.dumps(arg, 5)[2:-1].replace(b"\x94", b"") for arg in args) + b"t"
    return b"\x80\x05" + function + given + b"R."


class Reduced:
    def __init__(self, *how: Any) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return self.how


REFUSED = [
    ("os", "mkdir"),
    ("posix", "mkdir"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("builtins", "type"),
    ("builtins", "object"),
    ("builtins", "KeyboardInterrupt"),
    ("builtins", "Exception.__class__"),
    ("operator", "attrgetter"),
    ("functools", "reduce"),
    ("functools", "partial.__class__"),
    ("collections", "deque.__class__"),
    ("importlib", "import_module"),
    ("subprocess", "Popen"),
    ("pickle", "loads"),
    ("msgspec", "Struct"),
    ("guildhall.primitives.lock", "acquire.__globals__"),
    ("guildhall.primitives.lock", "__builtins__"),
    ("guildhall.primitives.lock", "waiters"),
    ("guildhall.primitives.lock", "..os"),
    ("guildhall.engine.local.payload", "pickle"),
    ("guildhall.engine.local.payload", "decode"),
    ("guildhall.engine.local.blobs", "read"),
    ("guildhall.hosts.embedded", "remove_hall"),
    ("guildhall.client.hall", "remove"),
    ("guildhall.client.client", "Client"),
    ("guildhall.client.futures", "Future"),
    ("guildhall.store.lmdb", "os"),
    ("guildhall.store.lmdb", "LmdbStore"),
    ("guildhall.primitives.lock.", "os"),
    ("guildhall.primitives..", "os"),
    ("guildhall.errors.", "threading"),
]


@pytest.mark.parametrize(("module", "name"), REFUSED)
def test_what_is_not_ours_is_refused_before_it_is_called(module: str, name: str, tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    for form in (named(module, name), f"c{module}\n{name}\n".encode()):
        with pytest.raises((pickle.UnpicklingError, ImportError, AttributeError, ValueError)):
            wire.loads(calling(form, mark))
    assert not os.path.exists(mark)


def test_no_chain_of_what_may_travel_leads_to_what_may_not(tmp_path: Path) -> None:
    from functools import partial

    mark = str(tmp_path / "mark")
    op = queue.clear
    chains = [
        Reduced(partial, (os.mkdir, mark)),
        Reduced(partial, (partial, os.mkdir, mark)),
        Reduced(Waiter, (Reduced(os.mkdir, (mark,)), 1, 1)),
        Reduced(guildhall.errors.Misuse, (1,), {"x": Reduced(os.mkdir, (mark,))}),
        Reduced(dict, (), None, iter([Reduced(os.mkdir, (mark,))])),
        Reduced(op, (Reduced(os.mkdir, (mark,)), b"", 1)),
    ]
    for chain in chains:
        with pytest.raises(pickle.UnpicklingError):
            wire.loads(pickle.dumps(chain, 5))
    with pytest.raises(pickle.UnpicklingError):
        wire.loads(pickle.dumps(pickle.PickleBuffer(b"x"), 5, buffer_callback=lambda buffer: None))
    with pytest.raises(pickle.UnpicklingError):
        wire.loads(b"\x80\x05\x8c\x01xQ.")  # A persistent id.
    assert not os.path.exists(mark)


def test_frames_come_in_any_pieces_and_a_half_one_costs_what_was_sent() -> None:
    frames = [wire.frame(part) for part in (None, "x" * 5000, list(range(300)), b"")]
    whole, dice = b"".join(frames), random.Random(1)
    assembler, got, at = wire.Assembler(), [], 0
    while at < len(whole):
        size = dice.choice([1, 2, 3, 700])
        got += [bytes(one) for one in assembler.feed(whole[at : at + size])]
        at += size
    assert got == [frame[4:] for frame in frames]
    assert list(assembler.feed(b"\xff\xff\xff\xff")) == []  # As large as a frame may be: nothing is laid for it.
    assert list(assembler.feed(b"x" * 1000)) == []
    assert assembler._size == 1004

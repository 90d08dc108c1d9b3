"""Names, keys, addresses, records and arguments that hypothesis thinks of: each works or gets an error of ours."""

from __future__ import annotations

import io
import os
import pickle
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import targets
from damage import seconds
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import guildhall
from guildhall import Client, GuildhallError
from guildhall.client.census import KINDS
from guildhall.store import keys
from guildhall.store.records import Form
from guildhall.tools import cli

EXAMPLES = 40 + int(seconds(0.28, 0) * 15)
"""Of each kind; with `make fuzz`, as many as take the rest of the time."""
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

texts = st.text(max_size=120) | st.text("./\\-~ \n\0aü\ud800", max_size=12)
sorting = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=60)
names = st.recursive(sorting, lambda inner: st.tuples(inner) | st.tuples(inner, inner), max_leaves=6)
anything = names | st.builds(object) | st.sets(st.integers()) | st.dictionaries(texts, sorting) | st.complex_numbers()
words = st.sampled_from(
    ["ls", "show", "locks", "doctor", "gc", "queue", "peek", "tasks", "topics", "jobs", "x", "lock", "b'x'", "('a', 1)"]
)
options = st.sampled_from(["--json", "--hall", "--kind", "-h", "--waiting", "--every", "--count", "-1", "--", "--fix"])
odd = texts.filter(lambda text: "tail" not in text and "top" not in text)
arguments = st.lists(words | options | odd, max_size=5)


def alike(one: Any, other: Any) -> bool:
    """Whether they are the same name: 1 is not True, NaN is itself, a list is a tuple."""
    return repr(one) == repr(other)


@fuzzed
@given(st.lists(names, max_size=4), st.lists(names, max_size=4))
def test_a_key_says_what_it_was_made_of_and_sorts_alike(one: list[Any], other: list[Any]) -> None:
    try:
        packed = keys.pack(one)
    except GuildhallError:
        return
    assert alike(keys.unpack(packed), tuple(one))
    with suppress(GuildhallError):
        assert (keys.pack(other) == packed) == alike(other, one)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes_are_taken(name: str, shared: guildhall.Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """As atheris feeds them, and as bytes that are like records, keys and pickles."""
    monkeypatch.setenv("GUILDHALL", f"{shared.path}/")
    some_record = st.recursive(sorting, st.lists, max_leaves=8).map(packed)
    some_key = st.lists(sorting, max_size=3).map(lambda parts: keys.pack(parts))
    some_pickle = sorting.map(lambda value: pickle.dumps([value, {1: value}], 5))
    whole = some_record | some_key | some_pickle
    cut = st.builds(lambda data, at, more: data[:at] + more, whole, st.integers(0, 60), st.binary(max_size=9))

    @fuzzed
    @given(st.binary(max_size=60) | whole | cut | st.just(b"\x05" * 2000))
    def each(data: bytes) -> None:
        targets.TARGETS[name](data)

    each()


def packed(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode([1, *value] if isinstance(value, list) else value)
    except (OverflowError, UnicodeEncodeError):
        return b"\xc1"


def test_all_forms_of_records_are_tried() -> None:
    assert len(targets._forms(Form)) > 15


KIND_NAMES = ("Variable", "Counter", "Event", "Lock", "RLock", "Queue", "Sub", "Pub", "Election", "RWLock")


@pytest.fixture(scope="module")
def shared() -> Any:
    with guildhall.open() as hall:
        yield hall


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_name_is_taken_as_it_is_or_refused(kind: str, shared: guildhall.Hall) -> None:
    @fuzzed
    @given(anything)
    def each(name: Any) -> None:
        try:
            thing = getattr(guildhall, kind)(name, hall=shared)
        except GuildhallError:
            return
        assert not name or alike(thing.name, name)
        with suppress(GuildhallError):
            thing.statistics()

    each()
    shared.snapshot()


@fuzzed
@given(anything | st.builds(lambda text: f"/{text}", texts))
def test_an_address_leads_somewhere_or_is_refused(where: Any) -> None:
    """Of what is opened, none is made: the directory above is not there to be written to."""
    for use in (guildhall.observe, guildhall.remove):
        with suppress(GuildhallError):
            use(where)
    if not isinstance(where, str):
        with suppress(GuildhallError):
            if where is not None:
                guildhall.open(where).close()


def test_what_is_opened_is_opened_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUILDHALL_HOME", str(tmp_path / "home"))

    @fuzzed
    @given(texts, st.booleans())
    def each(name: str, is_path: bool) -> None:
        name = name.replace("..", "")  # It shall not lead out of here.
        where = f"{tmp_path}/paths/{name}" if is_path else name.replace("/", "_")
        with suppress(GuildhallError), guildhall.open(where) as hall:
            assert hall.path.startswith(str(tmp_path))
            guildhall.remove(f"{hall.path}/", force=True)

    each()


@fuzzed
@given(anything.filter(lambda what: what is not None))
def test_a_client_of_something_else_is_refused(what: Any) -> None:
    if isinstance(what, str) and ":" in what:
        return  # It may be the address of a cluster.
    with pytest.raises((GuildhallError, TypeError)):
        Client(what)


@fuzzed
@given(texts)
def test_guildhall_in_the_environment_leads_somewhere_or_is_refused(text: str) -> None:
    named = f"/proc/nowhere/{text.replace('..', '')}"  # Where nothing can be made.
    before = os.environ.get("GUILDHALL")
    try:
        os.environ["GUILDHALL"] = named
    except (ValueError, UnicodeEncodeError):
        return
    try:
        with pytest.raises(GuildhallError):
            guildhall.Lock("x").acquire(timeout=0)
    finally:
        os.environ.pop("GUILDHALL")
        if before is not None:
            os.environ["GUILDHALL"] = before


@fuzzed
@given(anything | st.builds(timedelta, st.integers(-5, 5)))
def test_a_timeout_is_a_time_or_refused(shared: guildhall.Hall, timeout: Any) -> None:
    event = guildhall.Event("set", hall=shared)
    event.set()
    with suppress(ValueError, TypeError):
        event.wait(timeout)


def test_any_arguments_of_the_command_line_end_with_a_code_and_no_traceback(
    hall_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUILDHALL", hall_name)
    with guildhall.open(hall_name) as hall:
        guildhall.Queue("x", hall=hall).put_many([1, "\x1b]0;x\x07"])
        guildhall.Lock("lock", hall=hall).acquire()
        guildhall.Variable("\x1b[2J", hall=hall).set("\x1b[2J")

        @fuzzed
        @given(arguments)
        def each(given_: list[str]) -> None:
            told, complained = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
            with redirect_stdout(told), redirect_stderr(complained):
                code = cli.run(given_)
            targets.check_told(given_, code, told.buffer.getvalue().decode(), complained.getvalue())

        each()


def test_all_kinds_that_can_be_named_are_tried() -> None:
    assert len(KINDS) >= len(KIND_NAMES)


@pytest.mark.parametrize("name", [0, 0.0, False, (), b""])
def test_zero_and_what_is_empty_are_no_names(name: Any, shared: guildhall.Hall) -> None:
    """As of the peer: each gets one of its own."""
    one, other = guildhall.Variable(name, hall=shared), guildhall.Variable(name, hall=shared)
    assert one.name != other.name
    one.set(7)
    assert guildhall.Variable(one.name, hall=shared).get(timeout=0) == 7

"""The command line, as users run it: processes of its own, on halls that others are at work in."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import GUILDHALL, environment, refused, run, started
from faults import eventually, script

import guildhall
from guildhall import Client, Event, Lock, Pub, Queue, Variable
from guildhall.primitives import queue as queue_ops
from guildhall.store.keys import pack_name

BUSY = """
import sys, threading, time
import guildhall
from guildhall import *

hall = guildhall.open(sys.argv[1] if len(sys.argv) > 1 else "{hall}")
lock = Lock("build", hall=hall)
lock.acquire()
threading.Thread(target=lambda: Lock("build", hall=hall).acquire(), daemon=True).start()
threading.Thread(target=lambda: Event("never", hall=hall).wait(), daemon=True).start()
queue = Queue("work", hall=hall, maxsize=100)
queue.put_many([("job", 1), {{"x": 2.5}}, "x" * 100_000])
Variable(("v", 1), hall=hall).set("y" * 1000)
semaphore = Semaphore("db", 3, hall=hall)
semaphore.acquire()
reading = RWLock("rw", hall=hall)
reading.acquire_read()
sub, pub, total = Sub("news", hall=hall), Pub("news", hall=hall), Variable("total", hall=hall)
print("ready", flush=True)
number = 0
while True:
    number += 1
    pub.put(number)
    total.set(number)
    time.sleep(0.001)
"""


@pytest.fixture(scope="module")
def busy() -> Iterator[tuple[str, int]]:
    """A hall by name in which another process is at work; its name and the process's id."""
    name = f"busy-{os.urandom(3).hex()}"
    process = script(BUSY.format(hall=name), Path(os.environ["GUILDHALL_HOME"]))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield name, process.pid
    finally:
        kill(process)
        guildhall.remove(name)
        for left in Path(os.environ["GUILDHALL_HOME"]).glob("script-*.py"):
            left.unlink()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# -- which hall -------------------------------------------------------------------------------------------------------


def test_the_only_live_hall_is_meant_also_a_private_one_of_a_client(client: Client) -> None:
    assert json.loads(run("ls", "--json"))["hall"]["path"] == client.host.directory
    lock = Lock("of the client", hall=client)
    with lock:
        assert [one["name"] for one in json.loads(run("locks", "--json"))] == ["of the client"]
    private = os.path.basename(client.host.directory)
    assert json.loads(run("ls", "--json", hall=private))["hall"]["path"] == client.host.directory
    assert json.loads(run("--hall", client.host.directory, "--json", "ls"))["hall"]["path"] == client.host.directory


def test_of_two_live_halls_one_must_be_chosen(hall_name: str, client: Client) -> None:
    with guildhall.open(hall_name) as hall:
        told = refused("locks")
        assert hall_name in told
        assert os.path.basename(client.host.directory) in told
        assert "--hall" in told
        listed = json.loads(run("ls", "--json"))
        assert listed["hall"] is None
        assert {one["name"]: one["sessions"] for one in listed["halls"]}[hall_name] == 1
        Variable("here", hall=hall).set(1)
        assert "here" in run("ls", hall=hall_name)
        assert "here" in run("ls", GUILDHALL=hall_name)
        assert "here" in run("ls", hall=hall.path, GUILDHALL="nonsense")
        assert json.loads(run("show", "here", "--json", hall=hall_name))["is_set"] is True


def test_without_a_hall_the_next_step_is_told(tmp_path: Path, hall_name: str) -> None:
    guildhall.open(hall_name).close()
    told = refused("locks", GUILDHALL_HOME=str(tmp_path))
    assert "no hall is live" in told
    assert "--hall" in told
    assert json.loads(run("ls", "--json", GUILDHALL_HOME=str(tmp_path))) == {"halls": [], "hall": None}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hall", ["no-such", "./no/such", "/dev/null", ".", "x" * 5000, "../..", "private-"])
def test_a_hall_that_is_not_there_is_one_line(hall: str) -> None:
    assert "guildhall ls" in refused("locks", hall=hall)
    assert "guildhall ls" in refused("tail", "t", hall=hall)
    assert "guildhall ls" in refused("rm", hall)


def test_a_damaged_hall_is_one_line_and_listed_with_what_is_wrong(hall_name: str) -> None:
    with guildhall.open(hall_name) as hall:
        path = Path(hall.path)
    (path / "data.mdb").write_bytes(b"nonsense" * 4096)
    assert "not a store" in refused("locks", hall=hall_name)
    listed = {one["name"]: one for one in json.loads(run("ls", "--json"))["halls"]}
    assert "not a store" in listed[hall_name]["problem"]
    findings = json.loads(run("doctor", "--json", hall=hall_name, code=1))["findings"]
    assert [one["kind"] for one in findings] == ["unusable"]
    run("rm", hall_name)
    assert not path.exists()


# -- looking ----------------------------------------------------------------------------------------------------------


def test_ls_lists_everything_with_a_name(busy: tuple[str, int]) -> None:
    name, pid = busy
    seen = json.loads(run("ls", "--json", hall=name))["hall"]
    names = {kind: [one["name"] for one in some] for kind, some in seen["things"].items()}
    assert sorted(names["variable"], key=str) == [["v", 1], "total"]
    assert names["queue"] == ["work"]
    assert names["topic"] == ["news"]
    assert names["lock"] == ["build"]
    assert names["semaphore"] == ["db"]
    assert names["rwlock"] == ["rw"]
    assert names["event"] == ["never"]
    (session,) = seen["sessions"]
    assert session["pid"] == pid
    assert session["is_alive"] is True
    assert {"kind": "lock", "name": "build"} in session["holds"]
    assert seen["blobs"] == {"count": 1, "size_bytes": seen["blobs"]["size_bytes"], "elsewhere": 0}
    assert seen["blobs"]["size_bytes"] >= 100_000
    text = run("ls", hall=name)
    for line in ("queue      work      size 3, maxsize 100", "variable   ('v', 1)"):
        assert line in text
    assert f"{pid}  process  alive" in text


def test_show_tells_all_of_one_thing(busy: tuple[str, int]) -> None:
    name, pid = busy
    lock = json.loads(run("show", "build", "--json", hall=name))
    assert lock["kind"] == "lock"
    assert lock["holders"][0]["pid"] == pid
    assert lock["waiting"][0]["pid"] == pid
    assert 0 < time.time() - lock["holders"][0]["since"] < 300
    assert 0 < time.time() - lock["waiting"][0]["since"] < 300
    assert str(pid) in run("show", "build", hall=name)
    assert json.loads(run("show", "('v', 1)", "--json", hall=name))["name"] == ["v", 1]
    assert json.loads(run("show", "work", "--json", "--kind", "queue", hall=name))["maxsize"] == 100
    assert json.loads(run("show", "never", "--json", hall=name))["is_set"] is False


def test_a_name_that_several_kinds_have_is_shown_for_all_of_them(hall_name: str) -> None:
    with guildhall.open(hall_name) as hall:
        Variable("x", hall=hall).set(1)
        Queue("x", hall=hall)
        seen = json.loads(run("show", "x", "--json", hall=hall_name))
        assert [one["kind"] for one in seen] == ["variable", "queue"]
        assert run("show", "x", hall=hall_name).splitlines()[0] == "variable x"


def test_a_name_that_is_not_there_is_one_line_with_names_like_it(busy: tuple[str, int]) -> None:
    name, _ = busy
    assert "did you mean build?" in refused("show", "biuld", hall=name)
    assert "did you mean work?" in refused("queue", "peek", "wrok", hall=name)
    assert "guildhall ls" in refused("show", "\x1b[31m(((", hall=name)
    assert "400" in refused("show", "x" * 1000, hall=name)
    refused("show", "build", "--kind", "queue", hall=name)
    refused("show", "build", "--kind", "nonsense", hall=name)
    refused("show", hall=name)
    refused("nonsense", hall=name)


def test_locks_shows_holders_and_waiters(busy: tuple[str, int], client: Client) -> None:
    name, pid = busy
    waiting = json.loads(run("locks", "--waiting", "--json", hall=name))
    assert [(one["kind"], one["name"]) for one in waiting] == [("lock", "build")]
    every = json.loads(run("locks", "--json", hall=name))
    assert {(one["kind"], one["name"]) for one in every} == {("lock", "build"), ("rwlock", "rw"), ("semaphore", "db")}
    rows = [line.split() for line in run("locks", "--waiting", hall=name).splitlines()]
    assert rows[0] == ["KIND", "NAME", "STATE", "SESSION", "PID", "TASK", "FOR"]
    assert [row[:3] for row in rows[1:]] == [["lock", "build", "holds"], ["lock", "build", "waits"]]
    assert all(str(pid) in row for row in rows[1:])
    assert "nobody" in run("locks", "--waiting", hall=client.host.directory)


def test_locks_names_the_tasks_that_hold_and_wait(client: Client) -> None:
    def hold(name: str, done: str) -> None:
        with Lock(name):
            Event(done).wait()

    futures = [client.submit(hold, "shared", "let go") for _ in range(2)]
    try:

        def both() -> Any:
            found = [
                one for one in json.loads(run("locks", "--json", hall=client.host.directory)) if one["name"] == "shared"
            ]
            return found and found[0]["waiting"] and found[0]

        assert eventually(both, 20)
        seen = both()
        tasks = {*seen["holders"][0]["tasks"], *seen["waiting"][0]["tasks"]}
        assert tasks == {future.key for future in futures}
        statistics = futures[0].statistics()
        assert statistics.phase == "running"
        assert statistics.pid in {process.pid for process in client.cluster.pool.processes}
        assert statistics.since is not None
        assert 0 <= time.time() - statistics.since < 60
    finally:
        Event("let go", hall=client).set()
    client.gather(futures)


def test_peek_shows_items_and_leaves_them(busy: tuple[str, int]) -> None:
    name, _ = busy
    for _ in range(2):
        seen = json.loads(run("queue", "peek", "work", "--json", hall=name))
        assert seen["size"] == 3
        assert seen["items"][:2] == [["job", 1], {"x": 2.5}]
        assert "100" in seen["items"][2]
    assert len(json.loads(run("queue", "peek", "work", "--json", "--count", "1", hall=name))["items"]) == 1
    assert run("queue", "peek", "work", hall=name).splitlines()[2] == "0  ('job', 1)"


class Bomb:
    """Its pickle removes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.remove, (self.path,)


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def test_peek_runs_no_code_of_items(hall_name: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    with guildhall.open(hall_name) as hall:
        queue = Queue("q", hall=hall)
        queue.put_many([Bomb(str(tmp_path / "precious")), Point(3), {"set": {1}, "bytes": b"x", "none": None}])
        items = json.loads(run("queue", "peek", "q", "--json", hall=hall_name))["items"]
    assert (tmp_path / "precious").exists()
    assert "remove" in items[0]
    assert "precious" in items[0]
    assert items[1].endswith("Point(x=3)")
    assert items[2] == {"set": [1], "bytes": "b'x'", "none": None}


def test_looking_changes_nothing(hall_name: str) -> None:
    with guildhall.open(hall_name) as hall:
        Queue("q", hall=hall).put(1)
        lock = Lock("l", hall=hall)
        lock.acquire()
        before = hall.snapshot()
        files = sorted(path.name for path in Path(hall.path).iterdir())
        for command in (["ls"], ["show", "q"], ["locks"], ["queue", "peek", "q"], ["top"], ["doctor"]):
            run(*command, hall=hall_name)
        after = hall.snapshot()
        assert after.revision == before.revision
        assert after.things.keys() == before.things.keys()
        assert lock.release()
        assert sorted(path.name for path in Path(hall.path).iterdir()) == files


# -- how it prints ----------------------------------------------------------------------------------------------------


def test_into_a_pipe_go_plain_columns_that_are_not_cut(hall_name: str) -> None:
    long = "n" * 300
    with guildhall.open(hall_name) as hall:
        Variable(long, hall=hall).set(1)
        Variable("\x1b[31mred", hall=hall).set(1)
        Variable("7", hall=hall).set(1)
        Variable("[bold]", hall=hall).set(1)
        for text in (run("ls", hall=hall_name), run("top", hall=hall_name), run("show", long, hall=hall_name)):
            assert text.isascii()
            assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
        listed = run("ls", hall=hall_name)
        for name in (long, "'\\x1b[31mred'", "'7'", "[bold]"):
            assert f"variable  {name} " in listed
        assert json.loads(run("show", "'7'", "--json", hall=hall_name))["name"] == "7"


ESCAPE = "\x1b]0;x\x07"
"""A terminal would change its title."""


class Spoken:
    """A message that prints as it likes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        if not self.text:
            raise RuntimeError("cannot be printed")
        return self.text

    def __reduce__(self) -> Any:
        return eval, (f"type('Spoken', (), {{'__repr__': lambda self: {self.text!r} or 1 / 0}})()",)


def test_nothing_is_printed_that_a_terminal_obeys(tmp_path: Path) -> None:
    path = str(tmp_path / f"h{ESCAPE}\u202e")
    with guildhall.open(path) as hall:
        Variable(ESCAPE, hall=hall).set(1)
        Lock(ESCAPE, hall=hall).acquire()
        guildhall.Election("e", hall=hall).campaign(ESCAPE)
        item = b"\x80\x05\x8c\x01a\x8c\x06" + ESCAPE.encode() + b"\x93)R."  # An object of a class of that name.
        hall.host.transact(queue_ops.put_many, pack_name("queue", "q"), [item])
        looks = [["ls"], ["show", ESCAPE], ["show", "e"], ["locks"], ["queue", "peek", "q"], ["top"], ["doctor"]]
        texts = [run(*look, *form, hall=path) for look in looks for form in ([], ["--json"])]
        wrong = [["show", "none" + ESCAPE], [ESCAPE], ["--" + ESCAPE], ["queue", ESCAPE], ["top", "--every", ESCAPE]]
        texts += [refused(*each, hall=path) for each in wrong]
        texts.append(refused("rm", path))
        talking = started("tail", "t", "--count", "2", "--hall", path)
        assert eventually(lambda: "topic" in hall.snapshot().things, 20)
        Pub("t", hall=hall).put(Spoken(ESCAPE))
        Pub("t", hall=hall).put(Spoken(""))
        texts += talking.communicate(timeout=20)
    for text in texts:
        assert all(one.isprintable() or one == "\n" for one in text), text
    assert any("\\x1b]0;x" in text for text in texts)
    assert "<Spoken instance" in texts[-2]


def test_values_that_contain_themselves_lie_deep_or_are_very_long_are_shown(hall_name: str) -> None:
    round_: list[Any] = [1]
    round_ += [round_, round_]
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    with guildhall.open(hall_name) as hall:
        Queue("q", hall=hall).put_many([round_, deep, 1 << 99_999, {1 << 99_999: 1}])
        guildhall.Counter("c", hall=hall).add(1 << 99_999)
        items = json.loads(run("queue", "peek", "q", "--json", hall=hall_name))["items"]
        plain = run("queue", "peek", "q", hall=hall_name)
        assert items[0][0] == 1
        assert isinstance(items[0][1], str)
        assert "100000 bits" in items[2]
        assert "cannot be shown" in plain
        assert "100000 bits" in run("show", "c", hall=hall_name)
        for look in (["show", "c", "--json"], ["ls"], ["ls", "--json"], ["top", "--json"]):
            run(*look, hall=hall_name)


def test_numbers_stand_to_the_right(hall_name: str) -> None:
    with guildhall.open(hall_name):
        header, *rows = [line for line in run("ls", hall=hall_name).splitlines()[:4] if line]
        end = header.index("SESSIONS") + len("SESSIONS")
        assert any(row[:end].endswith("1") for row in rows)


def test_without_click_or_rich_the_extra_is_named() -> None:
    for name in ("click", "rich"):
        code = f"import sys; sys.modules[{name!r}] = None; from guildhall.__main__ import main; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
        assert done.returncode == 2
        assert done.stderr == f"guildhall: the command line needs {name}; pip install 'guildhall[cli]'\n"


def test_help_tells_every_command() -> None:
    text = run("--help")
    for command in ("ls", "show", "top", "locks", "tail", "queue", "gc", "doctor", "rm"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
        assert "--json" in run(command, "--help")


# -- top --------------------------------------------------------------------------------------------------------------


def test_top_tells_rates(busy: tuple[str, int]) -> None:
    name, pid = busy
    (frame,) = map(json.loads, run("top", "--json", hall=name).splitlines())
    assert frame["sessions"][0]["pid"] == pid
    assert 10 < frame["topics"][0]["messages_per_s"] < 1100
    assert frame["commits_per_s"] > frame["topics"][0]["messages_per_s"]
    assert [one["name"] for one in frame["queues"]] == ["work"]
    assert {one["name"] for one in frame["locks"]} == {"build", "db", "rw"}
    text = run("top", hall=name)
    for word in ("SESSION", "build", "waits", "MESSAGES/S", "news", "DEPTH"):
        assert word in text


def test_top_goes_on_until_it_is_interrupted(busy: tuple[str, int]) -> None:
    name, _ = busy
    process = started("top", "--json", "--every", "0.1", "--hall", name)
    assert process.stdout is not None
    frames = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert frames[0]["revision"] < frames[1]["revision"] < frames[2]["revision"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == ""


def test_top_on_a_terminal_is_live(busy: tuple[str, int]) -> None:
    name, _ = busy
    pid, terminal = pty.fork()
    if not pid:
        os.execve(
            sys.executable,
            [*GUILDHALL, "top", "--every", "0.1", "--hall", name],
            environment(TERM="xterm", COLUMNS="120", LINES="40"),
        )
    try:
        seen = read_until(terminal, lambda text: text.count("commits/s") >= 3)
        assert "\x1b[?1049h" in seen  # The other screen.
        assert "build" in seen
        os.kill(pid, signal.SIGINT)
        rest = read_until(terminal, lambda text: False)
        assert "\x1b[?1049l" in rest
        assert "Traceback" not in seen + rest
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130


def read_until(terminal: int, is_enough: Callable[[str], bool]) -> str:
    text = ""
    until = time.monotonic() + 20
    while not is_enough(text) and time.monotonic() < until:
        if select.select([terminal], [], [], 1)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # The other side has ended.
                break
            text += data.decode(errors="replace")
    return text


def test_top_ends_with_its_hall() -> None:
    with guildhall.open() as hall:
        process = started("top", "--json", "--every", "0.1", "--hall", hall.path)
        assert process.stdout is not None
        assert process.stdout.readline()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "has been removed" in errors
    assert errors.count("\n") == 1


# -- tail -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def talking(hall_name: str) -> Iterator[guildhall.Hall]:
    with guildhall.open(hall_name) as hall:
        yield hall


def tailing(hall: guildhall.Hall, *options: str) -> subprocess.Popen[str]:
    """A tail that has subscribed."""
    process = started("tail", "news", *options, "--hall", hall.path)
    assert eventually(lambda: "topic" in hall.snapshot().things, 20)
    return process


def is_alone(hall: guildhall.Hall) -> bool:
    hall.host.bury_dead()
    return len(hall.snapshot().sessions) == 1 and "topic" not in hall.snapshot().things


def test_tail_prints_messages_in_order(talking: guildhall.Hall) -> None:
    process = tailing(talking, "--count", "5", "--json")
    for number in range(5):
        Pub("news", hall=talking).put({"n": number})
    text, errors = process.communicate(timeout=20)
    assert errors == ""
    assert process.returncode == 0
    assert [json.loads(line)["message"] for line in text.splitlines()] == [{"n": number} for number in range(5)]
    assert is_alone(talking)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tail_ends_well_when_it_is_interrupted(talking: guildhall.Hall, number: int) -> None:
    process = tailing(talking)
    assert process.stdout is not None
    Pub("news", hall=talking).put("first")
    assert "'first'" in process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert is_alone(talking)


@pytest.mark.parametrize("goes_on", [True, False])
def test_tail_ends_well_when_nobody_reads(talking: guildhall.Hall, goes_on: bool) -> None:
    process = tailing(talking)
    assert process.stdout is not None
    Pub("news", hall=talking).put("first")
    process.stdout.readline()
    process.stdout.close()
    for number in range(100 if goes_on else 0):
        Pub("news", hall=talking).put(number)
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert is_alone(talking)


def test_tail_in_a_shell_pipe(talking: guildhall.Hall) -> None:
    command = f"{sys.executable} -m guildhall tail news --hall {talking.path} | head -1; echo ${{PIPESTATUS[@]}}"
    process = subprocess.Popen(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert eventually(lambda: "topic" in talking.snapshot().things, 20)
    while process.poll() is None:
        Pub("news", hall=talking).put("again")
        time.sleep(0.01)
    text, errors = process.communicate()
    assert text.splitlines()[0].endswith("'again'")
    assert text.splitlines()[1] == "0 0"
    assert errors == ""


def test_tail_shows_why_a_message_cannot_be_read(talking: guildhall.Hall, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("class Thing: pass")
    process = tailing(talking, "--count", "2")
    code = "import sys, theirs, guildhall; hall = guildhall.open(sys.argv[1]); "
    code += "guildhall.Pub('news', hall=hall).put(theirs.Thing()); guildhall.Pub('news', hall=hall).put('next')"
    subprocess.run([sys.executable, "-c", code, talking.path], cwd=tmp_path, check=True, env=environment())
    text, errors = process.communicate(timeout=20)
    first, second = text.splitlines()
    assert "theirs" in first
    assert "cannot be read" in first
    assert "'next'" in second
    assert errors == ""


def test_tail_of_a_client_leaves_nothing_behind(client: Client) -> None:
    """Also when the client goes first, the private hall goes with the last who is in it."""
    code = "import guildhall, sys\nhall = guildhall.open()\nprint(hall.path, flush=True)\nsys.stdin.readline()\n"
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert owner.stdout is not None
    path = owner.stdout.readline().strip()
    process = started("tail", "news", "--hall", path)
    with guildhall.observe(path) as seen:
        assert eventually(lambda: "topic" in seen.snapshot().things, 20)
    owner.communicate("\n")
    assert os.path.exists(path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert not os.path.exists(path)

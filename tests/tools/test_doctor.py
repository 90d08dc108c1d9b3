"""`guildhall doctor`, `gc` and `rm`: each fault made on purpose, found, and repaired where it can be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import environment, refused, run
from faults import eventually, script

import guildhall
from guildhall import Client, Lock, Misuse, NoHall, Queue, StoreFull, Variable
from guildhall.client import checkup
from guildhall.hosts import embedded


def killed(text: str, tmp_path: Path, hall: str) -> int:
    """Run the text in a process of its own that is in the hall, until it says so; then kill it. Its process id."""
    process = script(f"import guildhall, os, signal, sys\nhall = guildhall.open({hall!r})\n{text}", tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.kill()
    _, errors = process.communicate()
    assert line == "ready\n", errors
    return process.pid


READY = "print('ready', flush=True)\nsignal.pause()\n"


def findings(*options: str, hall: str | None = None, code: int = 1) -> list[dict[str, Any]]:
    found = json.loads(run("doctor", "--json", *options, hall=hall, code=code))
    assert found["ok"] is (code == 0)
    return list(found["findings"])


def test_a_healthy_hall_is_well(hall_name: str, client: Client) -> None:
    with guildhall.open(hall_name):
        for where in (hall_name, client.host.directory, None):
            assert findings(hall=where, code=0) == []
        assert run("doctor") == "all is well\n"
        assert run("gc") == "nothing to remove\n"


def test_a_killed_member_is_found_and_buried(hall_name: str, tmp_path: Path) -> None:
    pid = killed("guildhall.Lock('l', hall=hall).acquire()\n" + READY, tmp_path, hall_name)
    (dead,) = findings(hall=hall_name)
    assert (dead["kind"], dead["can_fix"]) == ("dead-session", True)
    assert f"pid {pid}" in dead["what"]
    assert "DEAD" in run("ls", hall=hall_name)
    assert [one["name"] for one in json.loads(run("locks", "--json", hall=hall_name))] == ["l"]
    told = run("doctor", hall=hall_name, code=1)
    assert f"pid {pid}" in told
    assert "--fix" in told
    assert run("doctor", "--fix", hall=hall_name).startswith("fixed: ")
    assert findings(hall=hall_name, code=0) == []
    assert json.loads(run("locks", "--json", hall=hall_name)) == []


HALF = """
from guildhall.engine.local import blobs, payload
def half(fd, parts):
    os.write(fd, bytes(5000))
    print('ready', flush=True)
    signal.pause()
blobs._fill = half
payload.place(hall.host, bytes(1_000_000), 'a value')
"""


def test_a_half_written_blob_of_a_killed_process_is_found_and_removed(hall_name: str, tmp_path: Path) -> None:
    killed(HALF, tmp_path, hall_name)
    assert [one["kind"] for one in findings(hall=hall_name)] == ["dead-session", "orphaned-blob"]
    assert "5000 bytes" in findings(hall=hall_name)[1]["what"]
    fixed = json.loads(run("doctor", "--fix", "--json", hall=hall_name))["fixed"]
    assert [one["kind"] for one in fixed] == ["dead-session", "orphaned-blob"]
    assert json.loads(run("ls", "--json", hall=hall_name))["hall"]["blobs"]["count"] == 0


def test_a_blob_whose_remover_died_is_found_and_those_in_use_stay(hall_name: str, tmp_path: Path) -> None:
    killed("guildhall.Variable('v', hall=hall).set(bytes(1_000_000))\n" + READY, tmp_path, hall_name)
    run("doctor", "--fix", hall=hall_name)
    with guildhall.open(hall_name) as hall:
        (kept,) = (Path(hall.path) / "blobs").iterdir()
        orphan = kept.with_name(kept.name.replace("-1-", "-9-", 1))
        orphan.write_bytes(b"x")
        (kept.parent / "of nobody.txt").write_text("")  # Not a blob's name: left alone.
        assert [one["kind"] for one in findings(hall=hall_name)] == ["orphaned-blob"]
        run("doctor", "--fix", hall=hall_name)
        assert not orphan.exists()
        assert len(Variable("v", hall=hall).get()) == 1_000_000


def test_a_blob_that_is_being_written_is_left_alone(hall_name: str, tmp_path: Path) -> None:
    process = script(f"import guildhall, os, signal\nhall = guildhall.open({hall_name!r})\n{HALF}", tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        assert findings("--fix", hall=hall_name, code=0) == []
        assert json.loads(run("ls", "--json", hall=hall_name))["hall"]["blobs"]["count"] == 1
    finally:
        process.kill()
        process.communicate()


def test_a_killed_reader_is_found_and_its_slot_freed(hall_name: str, tmp_path: Path) -> None:
    reading = "hall.host.read(lambda txn: (print('ready', flush=True), signal.pause()))\n"
    with guildhall.open(hall_name):
        pid = killed(reading, tmp_path, hall_name)
        stale = [one for one in findings(hall=hall_name) if one["kind"] == "stale-reader"]
        assert len(stale) == 1
        assert f"pid {pid}" in stale[0]["what"]
        assert "keeps all since commit" in stale[0]["what"]
        run("doctor", "--fix", hall=hall_name)
        assert findings(hall=hall_name, code=0) == []


def test_a_stopped_member_is_found_and_left_to_its_owner(hall_name: str, tmp_path: Path) -> None:
    process = script(f"import guildhall, signal\nhall = guildhall.open({hall_name!r})\n{READY}", tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.send_signal(signal.SIGSTOP)
        assert eventually(lambda: checkup.examine(guildhall.observe(hall_name).path) != [])
        (stopped,) = findings("--fix", hall=hall_name)
        assert (stopped["kind"], stopped["can_fix"]) == ("stopped", False)
        assert f"kill -CONT {process.pid}" in stopped["remedy"]
        process.send_signal(signal.SIGCONT)
        assert eventually(lambda: not checkup.examine(guildhall.observe(hall_name).path))
    finally:
        process.kill()
        process.communicate()


def test_who_is_stopped_in_a_commit_does_not_stop_the_doctor(hall_name: str, tmp_path: Path) -> None:
    text = f"""
import guildhall, os, signal, time
hall = guildhall.open({hall_name!r})
print("ready", flush=True)
while not os.path.exists({str(tmp_path / "go")!r}):
    time.sleep(0.01)
hall.host.transact(lambda txn: (print('ready', flush=True), os.kill(os.getpid(), signal.SIGSTOP)))
"""
    process = script(text, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        killed("pass\n" + READY, tmp_path, hall_name)
        (tmp_path / "go").touch()
        process.stdout.readline()
        kinds = {one["kind"] for one in findings(hall=hall_name)}
        assert kinds == {"dead-session", "stopped"}
        run("ls", hall=hall_name)
        code = "from guildhall.tools import cli; cli.STUCK_S = 1.0; raise SystemExit(cli.run())"
        command = [sys.executable, "-c", code, "doctor", "--fix", "--hall", hall_name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment())
        assert done.returncode == 1
        assert f"pid {process.pid}" in done.stderr
        assert "kill -CONT" in done.stderr
        assert done.stderr.count("\n") == 1
    finally:
        process.kill()
        process.communicate()
    run("doctor", "--fix", hall=hall_name)


def test_a_nearly_full_store_is_found(small_tmpfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUILDHALL_HOME", str(small_tmpfs))
    with guildhall.open("small") as hall:
        assert findings(hall="small", code=0) == []
        queue = Queue("q", hall=hall)
        with suppress(StoreFull):
            while True:
                queue.put("x" * 50_000)
        (full,) = findings("--fix", hall="small")
        assert (full["kind"], full["can_fix"]) == ("nearly-full", False)
        assert "NEARLY FULL" in run("ls", hall="small")
        assert run("queue", "peek", "q", hall="small")
        assert len(queue.get(batch=True)) > 50
        assert findings(hall="small", code=0) == []


def test_what_a_dead_private_hall_left_is_found_and_removed(tmp_path: Path) -> None:
    process = script("import guildhall, signal\nprint(guildhall.open().path, flush=True)\nsignal.pause()\n", tmp_path)
    assert process.stdout is not None
    path = Path(process.stdout.readline().strip())
    assert findings(code=0) == []
    process.kill()
    process.communicate()
    gone, new = path.parent / ".gone-1-private-1-1", path.parent / f".new-{process.pid}-x"
    for directory in (gone, new):
        directory.mkdir()
    assert {(one["kind"], one["hall"]) for one in findings()} == {("leftover", str(one)) for one in (path, gone, new)}
    assert findings(hall=str(path))[0]["kind"] == "dead-session"
    removed = json.loads(run("gc", "--json"))["removed"]
    assert {one["hall"] for one in removed} == {str(path), str(gone), str(new)}
    assert not any(one.exists() for one in (path, gone, new))
    assert json.loads(run("gc", "--json")) == {"removed": []}


def test_gc_does_what_the_doctor_would_and_leaves_the_living_alone(
    hall_name: str, tmp_path: Path, client: Client
) -> None:
    killed("guildhall.Queue('q', hall=hall).put(1)\n" + READY, tmp_path, hall_name)
    (removed,) = json.loads(run("gc", "--json"))["removed"]
    assert removed["kind"] == "dead-session"
    assert client.submit(abs, -1).result(timeout=20) == 1
    assert json.loads(run("queue", "peek", "q", "--json", hall=hall_name))["items"] == [1]


def test_strays_in_bells_are_removed(hall_name: str) -> None:
    with guildhall.open(hall_name) as hall:
        stray = Path(hall.path) / "bells" / "99.1"
        stray.touch()
        bell = hall.host.bell()
        assert [one["kind"] for one in findings(hall=hall_name)] == ["stray-bells"]
        run("doctor", "--fix", hall=hall_name)
        assert not stray.exists()
        assert len(list(stray.parent.iterdir())) == 1
        hall.host.done(bell)


# -- removing ---------------------------------------------------------------------------------------------------------


def test_rm_removes_a_hall_that_nobody_is_in(hall_name: str, tmp_path: Path) -> None:
    guildhall.open(hall_name).close()
    guildhall.open(tmp_path / "h").close()
    assert hall_name in run("rm", hall_name)
    assert json.loads(run("rm", "--json", str(tmp_path / "h"))) == {"removed": str(tmp_path / "h")}
    assert not (tmp_path / "h").exists()
    assert "there is none" in refused("rm", hall_name)


def test_rm_is_refused_while_sessions_are_alive_unless_forced(hall_name: str) -> None:
    with guildhall.open(hall_name) as hall:
        old = Lock("l", hall=hall)
        old.acquire()
        told = refused("rm", hall_name)
        assert f"pid {os.getpid()}" in told
        assert "--force" in told
        with pytest.raises(Misuse, match="force=True"):
            guildhall.remove(hall_name)
        assert old.release()
        old.acquire()
        run("rm", hall_name, "--force")
        with guildhall.open(hall_name) as anew:
            assert not Lock("l", hall=anew).locked()
        assert old.release()


def test_rm_removes_the_hall_of_a_killed_process(hall_name: str, tmp_path: Path) -> None:
    killed("guildhall.Variable('v', hall=hall).set(bytes(1_000_000))\n" + READY, tmp_path, hall_name)
    guildhall.remove(hall_name)
    with pytest.raises(NoHall):
        guildhall.observe(hall_name)


def test_what_is_not_a_hall_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    for force in (True, False):
        with pytest.raises(NoHall):
            guildhall.remove(tmp_path / "photos", force=force)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_who_joins_while_a_hall_is_removed_keeps_it(hall_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guildhall.open(hall_name).close()
    rename = os.rename
    joined = []

    def rename_late(source: str, target: str) -> None:
        if not joined:
            code = "import guildhall, sys; hall = guildhall.open(sys.argv[1]); print(); sys.stdin.read()"
            pipe = subprocess.PIPE
            joined.append(subprocess.Popen([sys.executable, "-c", code, hall_name], stdin=pipe, stdout=pipe))
            assert joined[0].stdout is not None
            joined[0].stdout.readline()
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_late)
    with pytest.raises(Misuse, match=f"1 sessions are alive in it.*pid {'[0-9]+'}"):
        guildhall.remove(hall_name)
    with guildhall.observe(hall_name) as seen:
        assert [one.pid for one in seen.snapshot().sessions] == [joined[0].pid]
    joined[0].communicate()
    monkeypatch.undo()
    guildhall.remove(hall_name)


def test_who_joined_a_hall_that_was_removed_meanwhile_is_in_the_new_one(
    hall_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guildhall.open(hall_name) as before:
        Variable("v", hall=before).set("old")
        path = before.path
    join = embedded.EmbeddedHost._join

    def join_late(host: embedded.EmbeddedHost) -> None:
        join(host)
        monkeypatch.undo()
        embedded.remove_hall(path)

    monkeypatch.setattr(embedded.EmbeddedHost, "_join", join_late)
    with guildhall.open(hall_name) as hall:
        Variable("v", hall=hall).set("new")
        code = (
            "import guildhall, sys; hall = guildhall.open(sys.argv[1]); print(guildhall.Variable('v', hall=hall).get())"
        )
        told = subprocess.run([sys.executable, "-c", code, hall_name], capture_output=True, text=True, timeout=30)
        assert told.stdout == "new\n", told.stderr

"""The simulation itself: what it plays, that it plays all that handles use, and that a seed plays the same again."""

from __future__ import annotations

import ast
import gc
import inspect
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import simulate
from broken import double_grant

import guildhall
from guildhall import Counter, Event, Lock, Misuse, Queue, StoreFull, Variable
from guildhall.hosts import current
from guildhall.hosts.embedded import EmbeddedHost
from guildhall.store.memory import MemoryStore
from guildhall.testing import Chances, SimHost, Simulation
from guildhall.testing import simulation as played

PACKAGE = Path(guildhall.__file__).parent
USERS = [*(PACKAGE / "client" / "handles").glob("*.py"), *(PACKAGE / "client" / f"{n}.py" for n in ("drive", "vigil"))]
"""What uses a host, and is to run in a simulation. `agents` is asked by `vigil`, and `payload` by handles."""
USERS += [PACKAGE / "client" / "agents.py", PACKAGE / "engine" / "local" / "payload.py"]
HOSTS = ("host", "_host")


# -- all that handles use ---------------------------------------------------------------------------------------------


def used_of_hosts(source: str) -> set[str]:
    """The attributes of hosts that the source uses."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            of = getattr(node.value, "id", None) or getattr(node.value, "attr", None)
            if of in HOSTS:
                found.add(node.attr)
    return found


def lacking(name: str, life: SimHost, seen: set[str]) -> Iterator[str]:
    """What the simulated host lacks for the use of that attribute: itself, or what an inherited method uses."""
    if name in seen or name in vars(SimHost) or name in vars(life):
        return
    seen.add(name)
    inherited = inspect.getattr_static(EmbeddedHost, name, None)
    method = inherited.fget if isinstance(inherited, property) else inherited
    if method is None:
        yield name
        return
    if not inspect.isfunction(method):
        return  # A plain value, which is inherited as it is.
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "self":
            yield from (f"{name} -> {missing}" for missing in lacking(node.attr, life, seen))


def test_the_simulated_host_has_all_that_handles_use_of_a_host() -> None:
    life = Simulation().join()
    used = {name for path in USERS for name in used_of_hosts(path.read_text())}
    assert {"transact", "read", "waiter", "lane", "bell", "asleep"} <= used, "this test looks at the wrong places"
    missing = [what for name in sorted(used) for what in lacking(name, life, set())]
    assert not missing, f"SimHost is to play these, or to refuse them with an error that says so: {missing}"


def test_what_a_simulated_host_would_lack_is_found() -> None:
    life = Simulation().join()
    assert used_of_hosts("def f(host): return host.brand_new + self._host.other(host.third)") == {
        "brand_new", "other", "third",
    }  # fmt: skip
    assert list(lacking("brand_new", life, set())) == ["brand_new"]
    assert "usage" not in vars(SimHost)
    assert list(lacking("usage", life, set())) == [], "by _opened, which refuses"
    assert list(lacking("make_durable", life, set())) == ["make_durable -> _store"]


def test_what_is_not_played_is_refused_in_words() -> None:
    sim = Simulation()
    with sim.time():
        life = sim.join()
        with pytest.raises(Misuse, match="up to 64 KiB"):
            Variable("v", hall=life).set(b"x" * 100_000)
        with pytest.raises(Misuse, match="no file"):
            life.usage()
        with pytest.raises(Misuse, match="no event loops"):
            _ = life.watch


def test_the_package_does_not_load_it() -> None:
    script = "import sys, guildhall; guildhall.open, guildhall.Lock; print([m for m in sys.modules if 'testing' in m])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_by_hand_gives_its_lock_back() -> None:
    sim = Simulation()
    with sim.time():
        one, other = sim.join(), sim.join()
        Lock("l", hall=one).acquire()
        assert not Lock("l", hall=other).acquire(timeout=3), "it is alive"
        one.kill()
        lock = Lock("l", hall=other)
        assert lock.acquire(timeout=3)
        assert lock.previous_holder_died


def test_nothing_keeps_a_simulation_that_has_ended() -> None:
    def play() -> weakref.ref[Simulation]:
        sim = Simulation()
        with sim.time():
            one, other = sim.join(), sim.join()
            Lock("l", hall=one).acquire()
            one.kill()
            assert Lock("l", hall=other).acquire(timeout=3)
        return weakref.ref(sim)

    ended = play()
    gc.collect()
    assert ended() is None


def test_time_is_turned_by_hand() -> None:
    sim = Simulation()
    with sim.time():
        one, other = sim.join(), sim.join()
        Lock("l", lease_s=60, hall=one).acquire()
        queue = Queue("q", hall=one)
        queue.put("later", delay=3600)
        assert not Lock("l", hall=other).acquire(timeout=0)
        sim.advance(61)
        assert Lock("l", lease_s=60, hall=other).acquire(timeout=0)
        assert queue.qsize() == 0
        sim.advance(3600)
        assert queue.get(timeout=0) == "later"


def test_a_wait_of_one_who_is_alone_takes_no_time_and_an_endless_one_is_told() -> None:
    sim = Simulation()
    with sim.time():
        life = sim.join()
        assert not Event("e", hall=life).wait(timeout=100)
        assert sim.now_ns >= 10**12 + 100 * 10**9
        with pytest.raises(TimeoutError, match="hangs"):
            Event("e", hall=life).wait()


def test_handles_without_a_hall_use_that_of_the_process_that_runs() -> None:
    before = current.now
    sim, sessions = Simulation(5, Chances(0.5)), set()

    def play(life: Any) -> None:
        for _ in range(20):
            Counter("c").add(1)
            assert current.now is life
            sessions.add(life.session)

    sim.run([play, play, play])
    assert current.now is before
    assert len(sessions) == 3
    with sim.afterwards():
        assert Counter("c").get() == 60


def test_a_store_of_the_users_own_may_be_full() -> None:
    sim = Simulation()
    sim.store = MemoryStore(ring=sim.ring, max_bytes=2000)
    with sim.time():
        life = sim.join()
        Variable("v", hall=life).set("x" * 500)
        with pytest.raises(StoreFull):
            Variable("w", hall=life).set("x" * 2000)


# -- troubles ---------------------------------------------------------------------------------------------------------


def test_who_is_stopped_stands_still_while_others_go_on() -> None:
    """A program in which each notes the time of its steps: gaps as long as the pauses, and others' steps in them."""
    sim, noted = Simulation(2, Chances(0.3, pause=0.05)), []

    def play(life: Any) -> None:
        for _ in range(100):
            Counter("c", hall=life).add(1)
            noted.append((sim.now_ns, life.session))

    sim.run([play, play])
    mine = [pause for pause in sim.pauses if pause[0]]
    assert len(mine) > 5
    assert any(session == 0 for session, _, _ in sim.pauses), "in a transaction, all stand still"
    for session, began, ended in mine:
        assert not [at for at, who in noted if who == session and began < at < ended]
    others = [at for at, who in noted for session, began, ended in mine if who != session and began < at < ended]
    assert others, "somebody went on meanwhile"


def test_who_is_killed_in_its_sleep_does_not_get_what_it_waited_for() -> None:
    """A sleeper is killed before it is granted the lock, which then goes on to whoever finds out."""
    found = 0
    for seed in range(200):
        sim, got = Simulation(seed, Chances(0.3, kill=0.01)), []

        def play(life: Any, sim: Any = sim, got: Any = got) -> None:
            with Lock("l", hall=life):
                got.append(life.session)
                for _ in range(5):
                    life.step()

        sim.run([play, play, play], restarts=False)
        granted = {c.session for c in sim.history().commits if c.op == "lock.acquire" and c.answer == "parked"}
        found += bool({s for s in granted if sim.lives[s].is_dead} - set(got))
        with sim.afterwards() as life:
            assert Lock("l", hall=life).acquire(timeout=0)
    assert found > 10


def test_a_ring_that_is_dropped_or_late_costs_time_and_nothing_else() -> None:
    def seconds(chances: Chances) -> float:
        sim = Simulation(1, chances)

        def ping(life: Any) -> None:
            for number in range(5):
                Queue("ping", hall=life).put(number)
                assert Queue("pong", hall=life).get() == number

        def pong(life: Any) -> None:
            for _ in range(5):
                Queue("pong", hall=life).put(Queue("ping", hall=life).get())

        sim.run([ping, pong])
        return (sim.now_ns - 10**12) / 1e9

    prompt, late, dropped = (seconds(c) for c in (Chances(), Chances(delay=1.0), Chances(drop=1.0)))
    assert prompt < 0.1
    assert prompt < late < 0.6
    assert 3 < dropped < 11


def test_a_failing_seed_fails_again_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    double_grant(monkeypatch)

    def fail() -> tuple[str, str]:
        with pytest.raises(simulate.Failed, match=r"make simulate SEED=\d+ PROGRAMS=1 KIND='lock'") as caught:
            simulate.simulate(4711, steps=0, programs=100, minutes=0, kinds=["lock"])
        return str(caught.value), str(caught.value.program.history)

    error, history = fail()
    assert "lock.acquire" in history
    assert "begins" in history
    assert fail() == (error, history)


def test_a_seed_is_a_whole_trail() -> None:
    def trail(seed: int) -> str:
        program = simulate.Program("queue", seed)
        program.run()
        return str(program.history)

    assert trail(7) == trail(7)
    assert trail(7) != trail(8)


def test_sleepers_look_again_as_often_as_real_ones() -> None:
    assert played.LOOK_AGAIN_S * 1e9 == 2 * played.PROMPT_NS


def test_several_processes_play_apart_and_tell_together() -> None:
    tally, failures = simulate.simulate_apart(2, 5, steps=0, programs=40, minutes=0, kinds=["lock", "tasks"])
    assert not failures
    assert sum(tally.programs.values()) == 40
    assert tally.sums["steps"] > 400

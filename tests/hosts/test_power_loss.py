"""A hall opened with `durable=True` when the power fails: what a call returned is on the disk.

A disk that is as unkind as it may be: it keeps of each file what was written when that was last synchronized (or
through a descriptor that synchronizes each write), of each directory the names that were in it then, and nothing else.
A library that is loaded before all others watches the process write, and keeps that as an image of the disk; the
process is killed, and the image is opened as the hall that the machine finds when it starts again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import guildhall
from guildhall import (
    Counter,
    Election,
    Event,
    Latch,
    Lock,
    PriorityQueue,
    Pub,
    Queue,
    RateLimiter,
    Semaphore,
    Sub,
    Variable,
)

WATCH = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

/* Where the image of the file is, if it is one of the watched. */
static int image_of(int fd, char *path) {
    char link[64], found[PATH_MAX];
    const char *root = getenv("WATCHED"), *image = getenv("IMAGE");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, found, sizeof found - 1);
    if (!root || !image || n < 0) return 0;
    found[n] = 0;
    if (strncmp(found, root, strlen(root))) return 0;
    snprintf(path, PATH_MAX, "%s%s", image, found + strlen(root));
    return 1;
}

static void make_directories(char *path) {
    for (char *at = path + 1; *at; at++)
        if (*at == '/') { *at = 0; mkdir(path, 0700); *at = '/'; }
}

static int open_image(char *path, int flags) {
    make_directories(path);
    return open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
}

/* Names in a directory, with nothing in them unless they were kept before. */
static void keep_names(int fd, const char *path) {
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s/", path);
    make_directories(name);
    DIR *open = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (struct dirent *entry; (entry = readdir(open));) {
        if (snprintf(name, sizeof name, "%s/%s", path, entry->d_name) >= (int) sizeof name) abort();
        if (entry->d_type == DT_DIR) mkdir(name, 0700);
        else if (entry->d_type == DT_REG) close(open_image(name, 0));
    }
    closedir(open);
}

static void keep(int fd) {
    static char buffer[1 << 16];
    char path[PATH_MAX];
    struct stat stat;
    if (!image_of(fd, path) || fstat(fd, &stat)) return;
    if (S_ISDIR(stat.st_mode)) { keep_names(fd, path); return; }
    int to = open_image(path, O_TRUNC);
    for (off_t at = 0; at < stat.st_size;) {
        ssize_t n = pread(fd, buffer, sizeof buffer, at);
        if (n <= 0 || REAL(pwrite64)(to, buffer, n, at) != n) abort();
        at += n;
    }
    close(to);
}

static void keep_write(int fd, const void *from, size_t n, off64_t at) {
    char path[PATH_MAX];
    if (!(fcntl(fd, F_GETFL) & (O_DSYNC | O_SYNC)) || !image_of(fd, path)) return;
    int to = open_image(path, 0);
    if (REAL(pwrite64)(to, from, n, at) != (ssize_t) n) abort();
    close(to);
}

int fsync(int fd) { int done = REAL(fsync)(fd); if (!done) keep(fd); return done; }
int fdatasync(int fd) { int done = REAL(fdatasync)(fd); if (!done) keep(fd); return done; }

ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at) {
    ssize_t done = REAL(pwrite64)(fd, from, n, at);
    if (done > 0) keep_write(fd, from, done, at);
    return done;
}
ssize_t pwrite(int fd, const void *from, size_t n, off_t at) { return pwrite64(fd, from, n, at); }
"""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that watches."""
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    made = tmp_path_factory.mktemp("watch") / "watch.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(made), "-x", "c", "-", "-ldl"]
    subprocess.run(command, input=WATCH, text=True, check=True)
    return made


@pytest.fixture
def cut(watch: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run the lines in a process that opened the hall, let the power fail at their end, and give the disk after it."""

    def run(text: str, *, durable: bool = True) -> Path:
        lines = f"""
import os, signal, sys
import guildhall
from guildhall import *
if __name__ == "__main__":
    hall = guildhall.open({str(tmp_path / "disk" / "hall")!r}, durable={durable})
    os.environ["GUILDHALL"] = hall.path
{text}
    os.kill(os.getpid(), signal.SIGKILL)
"""
        disk, image = tmp_path / "disk", tmp_path / "image"
        env = {**os.environ, "LD_PRELOAD": str(watch), "WATCHED": str(disk), "IMAGE": str(image)}
        done = subprocess.run([sys.executable, "-c", lines], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr
        shutil.rmtree(disk)
        return image / "hall"

    return run


def test_what_a_call_returned_survives(cut: Callable[..., Path]) -> None:
    path = cut("""
    for n in range(50):
        Variable("v").set(n)
        Counter("c").add(n)
        Queue("q").put(n)
        PriorityQueue("p").put(n, priority=-n)
        Pub("t", keep=5).put(n)
    Variable("v").update(lambda old: old + 1)
    assert Variable("v").compare_and_set(50, "last")
    Event("e").set()
    Latch("l", 3).count_down()
    durable = Sub("orders", subscription="billing")
    Pub("orders").put_many("abc")
    RateLimiter("r", 5, per_s=1000).acquire(3)
    Queue("over").put(1)
    Queue("over").close()
    bounded, pattern = Pub("m", maxlen=2, policy="block"), Sub("p.*")
    Pub("p.1").put("for nobody who is left")
    """)
    with guildhall.open(path, durable=True) as hall:
        assert Variable("v", hall=hall).get(timeout=0) == "last"
        assert Counter("c", hall=hall).get() == sum(range(50))
        assert Queue("q", hall=hall).get(batch=True) == list(range(50))
        assert PriorityQueue("p", hall=hall).get(batch=True) == list(range(49, -1, -1))
        late = Sub("t", start="oldest", hall=hall)
        assert [late.get(timeout=0) for _ in range(5)] == list(range(45, 50))
        assert Event("e", hall=hall).is_set()
        assert Latch("l", 3, hall=hall).count == 2
        orders = Sub("orders", subscription="billing", hall=hall)
        assert [orders.get(timeout=0) for _ in range(3)] == ["a", "b", "c"]
        assert RateLimiter("r", 5, per_s=1000, hall=hall).statistics().gone == 3
        assert not Queue("over", hall=hall).join(timeout=0)
        assert list(Queue("over", hall=hall)) == [1], "closed, and what was in it is given out"
        bounded = Sub("m", hall=hall)
        Pub("m", hall=hall).put_many([1, 2])
        with pytest.raises(guildhall.TimedOut):
            Pub("m", hall=hall).put(3, timeout=0)
        assert bounded.get(timeout=0) == 1
        assert Pub("p.1", hall=hall).statistics().subscribers == 0
        assert Pub("p.1", hall=hall).statistics().kept == 0


def test_large_values_survive_whole(cut: Callable[..., Path]) -> None:
    """They are files beside the store, and are on the disk before what refers to them."""
    path = cut("""
    Variable("v").set(bytes(range(256)) * 4096)
    Queue("q").put("x" * 300_000)
    durable = Sub("t", subscription="s")
    Pub("t").put(b"y" * 300_000)
    """)
    with guildhall.open(path, durable=True) as hall:
        assert Variable("v", hall=hall).get(timeout=0) == bytes(range(256)) * 4096
        assert Queue("q", hall=hall).get(timeout=0) == "x" * 300_000
        assert Sub("t", subscription="s", hall=hall).get(timeout=0) == b"y" * 300_000


def test_what_was_held_is_free(cut: Callable[..., Path]) -> None:
    path = cut("""
    locks = [Lock("a"), RLock("b"), RWLock("c").write(), MultiLock(["d", "e"]), Semaphore("f"), Election("g")]
    for lock in locks[:2] + locks[3:5]:
        assert lock.acquire(timeout=0)
    assert RWLock("c").acquire_write(timeout=0)
    assert locks[5].campaign("me", timeout=0)
    tokens = Variable("tokens")
    tokens.set((locks[0].fencing_token, locks[5].term))
    """)
    with guildhall.open(path, durable=True) as hall:
        token, term = Variable("tokens", hall=hall).get(timeout=0)
        lock, election = Lock("a", hall=hall), Election("g", hall=hall)
        assert lock.acquire(timeout=0)
        assert lock.fencing_token is not None
        assert lock.fencing_token > token
        assert guildhall.RLock("b", hall=hall).acquire(timeout=0)
        assert guildhall.RWLock("c", hall=hall).acquire_write(timeout=0)
        assert guildhall.MultiLock(["d", "e"], hall=hall).acquire(timeout=0)
        assert Semaphore("f", hall=hall).acquire(timeout=0)
        assert election.campaign("you", timeout=0)
        assert election.term is not None
        assert election.term > term


def test_those_who_waited_are_gone_and_what_they_waited_at_works(cut: Callable[..., Path]) -> None:
    path = cut("""
    import threading, time
    Lock("l").acquire()
    def wait_at_a_condition():
        with Condition("c"):
            Condition("c").wait()
    waits = [
        Lock("l").acquire, Barrier("b", 2).wait, Latch("latch", 1).wait, Event("e").wait, Variable("v").get,
        Queue("q").get, Sub("t").get, Election("e").campaign, wait_at_a_condition,
    ]
    for wait in waits:
        threading.Thread(target=wait, daemon=True).start()
    while len(Condition("c").statistics().waiting) != 1 or len(Barrier("b", 2).statistics().waiting) != 1:
        time.sleep(0.01)
    time.sleep(0.2)
    Variable("all are asleep").set(True)
    """)
    with guildhall.open(path, durable=True) as hall:
        assert Variable("all are asleep", hall=hall).get(timeout=0)
        assert Lock("l", hall=hall).acquire(timeout=0)
        assert not Lock("l", hall=hall).statistics().waiting
        Queue("q", hall=hall).put(1)
        assert Queue("q", hall=hall).get(timeout=0) == 1
        assert Election("e", hall=hall).campaign(timeout=0)
        assert guildhall.Condition("c", hall=hall).statistics().waiting == ()
        barrier = guildhall.Barrier("b", 2, hall=hall)
        assert barrier.broken, "a party of it is gone"
        barrier.reset()
        assert barrier.n_waiting == 0


def test_items_that_were_taken_come_back_and_of_what_was_got_only_the_last(cut: Callable[..., Path]) -> None:
    path = cut("""
    queue = Queue("q")
    queue.put_many(range(6))
    taken = queue.take()
    assert [queue.get() for _ in range(3)] == [1, 2, 3]
    """)
    with guildhall.open(path, durable=True) as hall:
        assert Queue("q", hall=hall).get(batch=True) in ([0, 4, 5], [0, 3, 4, 5])


def test_the_hall_itself_and_what_was_in_it_before_are_laid_on_the_disk(cut: Callable[..., Path]) -> None:
    """A hall that was made, and used, without `durable=True` is durable from the moment that it is opened so."""
    path = cut(
        """
    Variable("v").set(1)
    Variable("w").set(b"x" * 300_000)
    again = guildhall.open(hall.path, durable=True)
    Variable("u").set(2)
    """,
        durable=False,
    )
    with guildhall.open(path, durable=True) as hall:
        assert [Variable(name, hall=hall).get(timeout=0) for name in "vu"] == [1, 2]
        assert Variable("w", hall=hall).get(timeout=0) == b"x" * 300_000


def test_without_durable_nothing_is_promised(cut: Callable[..., Path]) -> None:
    """And the test can tell: nothing of it was on the disk."""
    assert not (cut('    Variable("v").set(1)', durable=False) / "data.mdb").exists()

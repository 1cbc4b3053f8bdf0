"""One process has a run in hand, also where machines share a folder and no flock; who falls silent loses it."""

import errno
import fcntl
import json
import os
import platform
import re
import time
from types import SimpleNamespace

import pytest
from soak.children import fork
from test_cli import lab
from test_store import SPEC

from lab import claim
from lab.claim import HEARTBEAT, STALE, LostClaim
from lab.run import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def put(store, *, host, pid, age=0.0):
    """A holder that another process left or holds."""
    folder = store.folder(SPEC.id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lock").touch()
    (folder / "holder").write_text(json.dumps({"host": host, "pid": pid, "since": 1.0}))
    os.utime(folder / "holder", (time.time() - age,) * 2)
    return folder / "holder"


@pytest.fixture
def no_flock(monkeypatch):
    """A file system that has none."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    names = {name: getattr(fcntl, name) for name in ("LOCK_EX", "LOCK_SH", "LOCK_NB")}
    monkeypatch.setattr(claim, "fcntl", SimpleNamespace(flock=flock, **names))


@pytest.fixture
def gone():
    """The number of a process that is over."""
    pid = fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_the_holder_is_named_while_it_holds(store):
    with store.claim(SPEC.id) as mine:
        assert mine.kept()
        told = json.loads((store.folder(SPEC.id) / "holder").read_text())
        assert (told["host"], told["pid"]) == (claim.platform.node(), os.getpid())
        assert f"process {os.getpid()} on" in str(store.held(SPEC.id))
        with store.claim(SPEC.id) as other:
            assert other is None
        assert mine.kept()
    assert store.held(SPEC.id) is None
    assert [file.name for file in store.folder(SPEC.id).iterdir()] == ["lock"]


@pytest.mark.parametrize("age", [0.0, 0.9 * STALE])
def test_another_machine_that_lives_keeps_its_run(store, age):
    file = put(store, host="elsewhere", pid=1, age=age)
    with store.claim(SPEC.id) as mine:
        assert mine is None
    assert "process 1 on elsewhere" in str(store.held(SPEC.id))
    assert json.loads(file.read_text())["host"] == "elsewhere"


def test_another_machine_that_fell_silent_is_taken_over(store):
    assert STALE == 10 * HEARTBEAT
    put(store, host="elsewhere", pid=1, age=1.1 * STALE)
    assert store.held(SPEC.id) is None
    with store.claim(SPEC.id) as mine:
        assert mine is not None
        assert store.held(SPEC.id).pid == os.getpid()


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_process_of_this_machine_lives_or_is_gone(store, gone):
    put(store, host=claim.platform.node(), pid=os.getpid())
    with store.claim(SPEC.id) as mine:
        assert mine is None
    assert store.held(SPEC.id) is not None
    put(store, host=claim.platform.node(), pid=gone)
    assert store.held(SPEC.id) is None
    with store.claim(SPEC.id) as mine:
        assert mine is not None


def test_with_flock_a_holder_of_this_machine_is_dead(store):
    put(store, host=claim.platform.node(), pid=os.getpid())
    with store.claim(SPEC.id) as mine:
        assert mine is not None


def test_a_holder_that_a_crash_cut_off_is_waited_for_and_taken_over(store):
    file = put(store, host="", pid=0)
    file.write_text("{")
    with store.claim(SPEC.id) as mine:
        assert mine is None
    os.utime(file, (1.0, 1.0))
    with store.claim(SPEC.id) as mine:
        assert mine is not None


def test_the_heart_beats_and_one_that_slept_notices_that_it_lost(store, monkeypatch):
    monkeypatch.setattr(claim, "HEARTBEAT", 0.02)
    with store.claim(SPEC.id) as mine:
        file = store.folder(SPEC.id) / "holder"
        os.utime(file, (1.0, 1.0))
        until = time.monotonic() + 60
        while file.stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert time.time() - file.stat().st_mtime < 60
        put(store, host="elsewhere", pid=7)
        while not mine.lost and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(LostClaim, match=f"run {SPEC.id} was taken over by process 7 on elsewhere"):
            mine.kept()
    assert json.loads(file.read_text())["host"] == "elsewhere", "it is the other's now"


def test_of_two_that_take_over_the_slower_gives_back(store, monkeypatch):
    """Between seeing a stale holder and taking it away, a third process took the run over."""
    put(store, host="elsewhere", pid=1, age=2 * STALE)
    rename = os.rename

    def slow(source, target):
        put(store, host="a third", pid=3)
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow)
    with store.claim(SPEC.id) as mine:
        assert mine is None
    monkeypatch.undo()
    assert store.held(SPEC.id).host == "a third"
    assert sorted(file.name for file in store.folder(SPEC.id).iterdir()) == ["holder", "lock"]


def test_what_a_killed_process_left_is_swept_by_the_next(store):
    folder = store.folder(SPEC.id)
    folder.mkdir(parents=True)
    for name in (".checkpoint.x", ".run.json.y", ".holder.asks", ".holder.dead", f".holder.{platform.node()}.dead"):
        (folder / name).touch()
    os.utime(folder / ".holder.dead", (1.0, 1.0))
    with store.claim(SPEC.id):
        assert sorted(file.name for file in folder.iterdir()) == [".holder.asks", "holder", "lock"]


def test_the_doctor_tells_of_those_that_are_gone_and_of_no_others(store, capsys):
    file = put(store, host="elsewhere", pid=1, age=3600)
    code, out, _ = lab("doctor", "--results", store.root, capsys=capsys)
    assert code == 1
    assert re.search(rf"{re.escape(str(file))}: left by process 1 on elsewhere, last heard of 36\d\d s ago, which is gone", out)
    put(store, host="elsewhere", pid=1)
    assert str(file) not in lab("doctor", "--results", store.root, capsys=capsys)[1]

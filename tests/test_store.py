"""The store loses nothing, doubles nothing and leaves nothing half written."""

import os
import signal
import tempfile

import pytest
from soak.children import fork

from lab.errors import UsageError
from lab.run import Run, Spec, Store, write_durably

SPEC = Spec("a", {}, 8, 1, "t", {}, {}, "", 1e9, 1, 0, "float32", {})


def test_what_is_published_is_found(tmp_path):
    store = Store(tmp_path)
    assert store.find(SPEC.id) is None
    assert not store.final(SPEC.id)
    store.publish(Run(id=SPEC.id, spec=SPEC, status="done", scores={"test": {"accuracy": float("nan")}}, seconds=3.0))
    record = store.find(SPEC.id)
    assert record["seconds"] == 3.0
    assert record["scores"]["test"]["accuracy"] is None
    assert Spec.read(record["spec"]).id == SPEC.id
    needed = {"schema", "id", "spec", "status", "scores", "flops", "flops_by_kind", "parameters", "state_size", "seconds",
              "tokens", "steps", "peak_memory", "environment"}  # fmt: skip
    assert needed <= set(record)


def test_the_first_final_record_stays_and_a_failed_one_gives_way(tmp_path):
    store = Store(tmp_path)
    store.publish(Run(id=SPEC.id, spec=SPEC, status="failed", reason="out of memory"))
    assert not store.final(SPEC.id)
    store.publish(Run(id=SPEC.id, spec=SPEC, status="done", seconds=1.0))
    store.publish(Run(id=SPEC.id, spec=SPEC, status="done", seconds=2.0))
    assert store.find(SPEC.id)["seconds"] == 1.0
    assert store.final(SPEC.id)
    assert sorted(path.name for path in store.folder(SPEC.id).iterdir()) == ["run.json", "spec.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_durably(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_has_one_owner_and_a_killed_owner_lets_go(tmp_path):
    ready, told = os.pipe()
    pid = fork()
    if not pid:
        with Store(tmp_path).claim(SPEC.id) as mine:
            os.write(told, b"yes" if mine else b"no")
            signal.pause()
    assert os.read(ready, 3) == b"yes"
    with Store(tmp_path).claim(SPEC.id) as mine:
        assert mine is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with Store(tmp_path).claim(SPEC.id) as mine:
        assert mine is not None


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="--results"):
        Store(blocked / "below").check_writable()
    Store(tmp_path / "new" / "folder").check_writable()
    assert not (tmp_path / "new").exists()


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    """Root may write anywhere, so the system's answer is made up."""

    def denied(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    with pytest.raises(UsageError, match=f"--results {tmp_path}: cannot write there .Permission denied."):
        Store(tmp_path).check_writable()

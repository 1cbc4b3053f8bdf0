"""The Slurm engine: submitit's own local jobs, and arrays of a Slurm that is played by `fake_slurm`."""

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lab import overhead, training
from lab.engines import starter
from lab.errors import UsageError
from lab.planning import Planner, Shape
from lab.run import Store

SPEC = overhead._spec_of(Planner(Shape(dim=16, depth=1), batch=2), "transformer", "selective_copying", 60)
pytestmark = [pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore::ResourceWarning")]


def numbers(root):
    records = [json.loads(path.read_text()) for path in Path(root).glob("runs/*/run.json")]
    return {record["id"]: (record["status"], record["scores"], record["flops"], record["steps"]) for record in records}


def carried_out(engine, root, specs, workers=2):
    pool, told = starter(engine, workers)(Store(root)), []
    try:
        pool.carry_out(specs, lambda spec, event: told.append((spec.seed, event)))
    finally:
        pool.close()
    return numbers(root), [(seed, event) for seed, event in told if event["event"] != "step"]


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def in_the_middle(root, spec, strike):
    """A thread that calls `strike` with the id of a worker's process once it trains a run."""

    def watch():
        while not (root / "runs" / spec.id / "curve.jsonl").exists():
            time.sleep(0.05)
        holder = Store(root).held(spec.id)
        assert holder is not None
        strike(holder.pid)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_jobs_that_are_killed_or_preempted_go_on(tmp_path):
    """A worker is killed, another job is told to leave; both go on from their checkpoints, with the local engine's numbers."""
    killed, preempted = specs = [replace(SPEC, seed=seed, budget=20 * SPEC.budget) for seed in range(2)]
    expected, _ = carried_out("local", tmp_path / "local", specs)
    root = tmp_path / "slurm"
    in_the_middle(root, killed, lambda pid: os.kill(pid, signal.SIGKILL))
    in_the_middle(root, preempted, lambda pid: os.kill(parent(pid), signal.SIGUSR2))
    found, told = carried_out("slurm:cluster=local", root, specs)
    assert found == expected
    deaths = [(seed, event["reason"]) for seed, event in told if event["event"] == "died"]
    assert deaths == [(0, "signal 9")]
    logs = "".join(file.read_text() for file in (root / "slurm").glob("*_log.*"))
    assert "Requeued job" in logs
    assert sorted(seed for seed, event in told if event["event"] == "end") == [0, 1]


def test_arrays_of_jobs(tmp_path, monkeypatch):
    """One array for all runs, with what was asked of the cluster."""
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "state"))
    import fake_slurm

    (tmp_path / "bin").mkdir()
    fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    specs = [replace(SPEC, seed=seed) for seed in range(2)]
    for spec in specs:
        training.train(spec, Store(tmp_path / "local"))
    expected = numbers(tmp_path / "local")
    found, told = carried_out("slurm:partition=cpu,minutes=90", tmp_path / "slurm", specs)
    assert found == expected
    assert [event["event"] for _, event in told] == ["end"] * 2
    (submitted,) = (tmp_path / "state" / "submitted").iterdir()
    asked = dict(re.findall(r"#SBATCH --([a-z-]+)=(.*)", submitted.read_text()))
    assert asked["array"] == "0-1%2"
    assert (asked["partition"], asked["time"], asked["cpus-per-task"]) == ("cpu", "90", "1")
    assert "mem" in asked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("slurm", "no sbatch here"),
        ("slurm:queue=cpu", "no setting 'queue'; there are cluster, partition"),
        ("slurm:cluster=local,minutes=soon", "must be a whole number of minutes"),
        ("slurm:partition=", "needs a value"),
        ("slurm:cluster=here", "must be slurm or local"),
    ],
)
def test_settings_of_slurm(given, said, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        starter(given, 1)
    assert str(caught.value).startswith("--engine slurm")


def test_submitit_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("lab.engines.slurm.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'sequence-lab\[slurm\]'"):
        starter("slurm", 1)

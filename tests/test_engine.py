"""The pool, and the whole command, under real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest

from lab import overhead, plugins, training
from lab.engines import Pool, starter
from lab.planning import Planner, Shape
from lab.run import Store

PLANNER = Planner(Shape(dim=16, depth=1), batch=2)
SPEC = overhead._spec_of(PLANNER, "transformer", "selective_copying", 60)
pytestmark = pytest.mark.timeout(900)  # whole commands, on machines that may be busy
LAB = [sys.executable, "-m", "lab"]


def scores(root):
    records = [json.loads(path.read_text()) for path in root.glob("runs/*/run.json")]
    return {record["id"]: (record["status"], record["scores"], record["flops"], record["steps"]) for record in records}


def started(root, workers) -> Pool:
    return starter("local", workers)(Store(root))


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    """One of two workers is killed in the middle of a run; every result equals that of one process that is left alone."""
    specs = [replace(SPEC, seed=seed, budget=4 * SPEC.budget) for seed in range(2)]
    pool, deaths = started(tmp_path / "disturbed", 2), []

    def listener(spec, event):
        if event["event"] == "step" and not deaths and event["step"] > 40:
            deaths.append("")
            os.kill(next(iter(pool.engine._busy)).process.pid, signal.SIGKILL)
        if event["event"] == "died":
            deaths.append(event["reason"])

    try:
        pool.carry_out(specs, listener)
    finally:
        pool.close()
    assert deaths == ["", "signal 9"]
    for spec in specs:
        training.train(spec, Store(tmp_path / "calm"))
    assert len(scores(tmp_path / "calm")) == 2
    assert scores(tmp_path / "calm") == scores(tmp_path / "disturbed")


FATAL = '''
"""An architecture that cannot be trained."""
import os
from torch import nn
from architectures.backbone import Flops, SequenceMap
from architectures.stack import Stack

class Layer(SequenceMap):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)
    def forward(self, x):
        if x.device.type != "meta":
            print("a plug-in may print")
            ACTION
        return self.map(x)
    def flops(self, length):
        return Flops(contraction=2 * length * self.map.weight.numel())

class Fatal(Stack):
    """Fails."""
    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, lambda: Layer(dim), causal=causal)
'''


def test_a_plug_in_that_is_edited_in_a_sweep_is_not_run_as_the_one_that_was_planned(tmp_path):
    """A worker that has the code of before goes on with it; one that was started after the edit refuses."""
    file = tmp_path / "fatal.py"
    file.write_text(FATAL.replace("ACTION", "pass"))
    plugins.add_file(str(file))
    short = overhead._spec_of(PLANNER, "fatal", "selective_copying", 10)
    specs = [short, replace(short, seed=1), replace(short, seed=2, budget=100 * short.budget)]
    pool, deaths = starter("local", 1, [str(file)])(Store(tmp_path)), []

    def listener(spec, event):
        if event["event"] == "end" and spec.seed == 0:
            file.write_text(FATAL.replace("ACTION", "x = 2 * x"))
        if event["event"] == "step" and spec.seed == 2 and not deaths:
            deaths.append(spec)
            (child,) = pool.engine._busy
            child.process.kill()

    try:
        pool.carry_out(specs, listener)
    finally:
        pool.close()
    records = {seed: Store(tmp_path).find(spec.id) for seed, spec in enumerate(specs)}
    assert [record["status"] for record in records.values()] == ["done", "done", "failed"]
    assert "the code in architectures changed after the run was planned; the same command plans it anew" in records[2]["reason"]
    assert not records[2]["scores"]
    assert records[0]["environment"]["plugins"] == records[1]["environment"]["plugins"]


def compare(results, *more, **popen):
    command = [*LAB, "compare", "--tasks", "selective_copying", "recall", "--dim", "16", "--depth", "1", "--batch", "2",
               "--results", str(results), *more]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        pytest.param("os._exit(7)", "exit code 7", marks=pytest.mark.slow),
        pytest.param("raise RuntimeError('too hot')", "too hot", marks=pytest.mark.slow),
    ],
)
def test_a_plug_in_that_fails_is_counted_and_the_others_go_on(tmp_path, action, reason):
    file = tmp_path / "fatal.py"
    file.write_text(FATAL.replace("ACTION", action))
    process = compare(
        tmp_path / "r", "--architectures", "fatal", "lstm", "--plugin", str(file), "--budget", "1e8", "--seeds", "1"
    )
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert reason in err
    assert "a plug-in may print" not in out + err
    statuses = sorted(status for status, *_ in scores(tmp_path / "r").values())
    assert statuses == ["done", "done", "failed", "failed"]


@pytest.mark.slow
def test_a_killed_comparison_goes_on_with_the_same_numbers(tmp_path):
    """SIGKILL half way, the same command again: only what is missing is done, and all numbers are those of a calm one."""
    more = ("--architectures", "transformer", "lstm", "--budget", "3e9", "--seeds", "2")
    calm = compare(tmp_path / "calm", *more)
    out, err = calm.communicate(timeout=800)
    assert calm.returncode == 0, err
    expected = scores(tmp_path / "calm")
    assert len(expected) == 8

    killed = compare(tmp_path / "killed", *more, start_new_session=True)
    deadline = time.monotonic() + 200
    while len(scores(tmp_path / "killed")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    time.sleep(1)
    done = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("runs/*/run.json")}
    assert 3 <= len(done) < 8

    again = compare(tmp_path / "killed", *more)
    out, err = again.communicate(timeout=800)
    assert again.returncode == 0, err
    assert scores(tmp_path / "killed") == expected
    after = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("runs/*/run.json")}
    assert all(after[name] == stamp for name, stamp in done.items()), "finished runs must be left alone"
    assert f"8 runs, {len(done)}" in err or f"8 runs, {len(done) + 1}" in err
    assert "transformer" in out
    assert "report" in out


def test_a_run_in_the_hand_of_another_process_comes_last(tmp_path):
    """The others are done first; then it is waited for, and taken over once that process lets go."""
    specs = [replace(SPEC, seed=seed) for seed in range(3)]
    pool, told = started(tmp_path, 1), []
    hand = ExitStack()
    assert hand.enter_context(Store(tmp_path).claim(specs[0].id)) is not None

    def listener(spec, event):
        if event["event"] in ("end", "held"):
            told.append((spec.seed, event["event"]))
        if event["event"] == "held":
            assert f"process {os.getpid()} on" in event["by"]
        if told.count((0, "held")) == 2:
            hand.close()

    try:
        pool.carry_out(specs, listener)
    finally:
        pool.close()
    assert told[:4] == [(0, "held"), (1, "end"), (2, "end"), (0, "held")]
    assert told[-1] == (0, "end")
    assert [status for status, *_ in scores(tmp_path).values()] == ["done"] * 3


class Played:
    """An engine for one run at a time, whose events are written down: by seed, the last event of each try."""

    def __init__(self, script):
        self.script, self.order, self.now = script, [], []

    def places(self):
        return 1 - len(self.now)

    def submit(self, specs):
        self.now += specs
        self.order += [spec.seed for spec in specs]

    def events(self):
        while self.now:
            spec = self.now.pop()
            yield spec, dict(self.script[spec.seed].pop(0))

    def close(self, patience):
        pass


DIED = {"event": "died", "reason": "exit code 7"}
END = {"event": "end", "status": "done", "reason": "", "score": 1.0, "seconds": 1.0}


def test_what_died_is_tried_again_at_once_three_times_in_all_and_what_is_held_comes_last(tmp_path):
    engine = Played({0: [DIED, DIED, END], 1: [{"event": "held", "by": "another"}, END], 2: [DIED] * 3, 3: [END]})
    specs, told, later = [replace(SPEC, seed=seed) for seed in range(4)], [], []

    def more():
        later.append(len(told))
        return [specs[3]] if len(later) == 1 else []

    Pool(engine, Store(tmp_path)).carry_out(specs[:3], lambda spec, event: told.append((spec.seed, event)), more)
    assert engine.order == [0, 0, 0, 1, 2, 2, 2, 3, 1]
    assert [event["attempt"] for seed, event in told if event["event"] == "died"] == [1, 2, 1, 2, 3]
    assert scores(tmp_path)[specs[2].id][0] == "failed"
    assert told[-3][1]["reason"] == "its process ended 3 times: exit code 7"
    assert len(later) == 4, "asked after each run that ended"

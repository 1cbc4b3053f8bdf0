"""Scores taken while a run trains change nothing but the curve's column and the FLOPs of evaluation."""

import json
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from architectures.backbone import Flops, SequenceMap
from architectures.stack import Stack
from lab import overhead, training
from lab.analysis import curves
from lab.interim import FEWEST, FIRST, RATIO, SHARE, Interim, schedule
from lab.model import Model, build, build_task
from lab.planning import Planner, Shape
from lab.run import Store
from lab.verification import verify
from tasks.selective_copying import SelectiveCopying

PLANNER = Planner(Shape(dim=16, depth=1), batch=64)
STEPS = 40


class Noisy(Stack):
    """Draws from the global generator in every pass, also in evaluation."""

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, lambda: Dropping(dim))


class Dropping(SequenceMap):
    def __init__(self, dim):
        super().__init__()
        self.map, self.norm = nn.Linear(dim, dim), nn.BatchNorm1d(dim)

    def forward(self, x):
        x = self.norm(x.movedim(-1, 1)).movedim(1, -1)
        return nn.functional.dropout(self.map(x), 0.3, self.training) + 1e-3 * torch.randn(())

    def flops(self, length):
        return Flops(contraction=2 * length * self.map.weight.numel())


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Little but training is left of a run."""
    monkeypatch.setattr(SelectiveCopying, "held_out", 32)
    monkeypatch.setattr(training, "throughput", lambda *_: {})


@pytest.fixture(params=["transformer", "linear_rnn", "noisy"])
def spec(request, monkeypatch):
    if request.param == "noisy":
        monkeypatch.setattr(training, "model_of", lambda spec, task: Model(Noisy(spec.dim, spec.depth), task))
    architecture = "linear_rnn" if request.param == "linear_rnn" else "transformer"  # one that remembers tables of its parameters
    made = overhead._spec_of(PLANNER, architecture, "selective_copying", STEPS)
    monkeypatch.setattr(training, "code_of", lambda *_: made.code)  # of the transformer that the noisy one stands for
    return made


def kept(store, spec):
    """All that a checkpoint holds but the clock and Python's generator, from which the checks of types in tests draw too; the
    curve without seconds."""
    found = torch.load(store.folder(spec.id) / "checkpoint", weights_only=True)
    rows = [json.loads(row) for row in (store.folder(spec.id) / "curve.jsonl").read_text().splitlines()]
    random = {name: state for name, state in next(iter(found["callbacks"].values()))["random"].items() if name != "python"}
    return found["state_dict"], found["optimizer_states"], random, [row | {"seconds": 0} for row in rows]


def same(one, other):
    """Equal to the last bit, tensors and plain values."""
    pairs = list(zip(tree_leaves(one), tree_leaves(other), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_a_run_with_interim_scores_is_the_run_without(tmp_path, spec, monkeypatch):
    """Weights, optimizer, generators, losses and scores are bit for bit those of a run that is not scored on the way."""
    scored, plain = Store(tmp_path / "scored"), Store(tmp_path / "plain")
    ours = training.train(spec, scored, leak_gate=False)
    monkeypatch.setattr("lab.interim.METRICS", ())
    other = training.train(spec, plain, leak_gate=False)
    *states, rows = kept(scored, spec)
    *expected, bare = kept(plain, spec)
    assert same(states, expected)
    taken = [row.pop("score") for row in rows if "score" in row]
    assert rows == bare
    assert len(taken) > 10
    assert all(0 <= score <= 1 for score in taken)
    assert (ours.id, ours.scores, ours.flops, ours.steps) == (other.id, other.scores, other.flops, other.steps)
    extra = ours.evaluation_flops - other.evaluation_flops
    assert 0 < extra <= SHARE * ours.flops


def test_interim_scores_of_a_resumed_run_are_the_same(tmp_path, spec):
    straight, broken = Store(tmp_path / "straight"), Store(tmp_path / "broken")
    expected, done = training.train(spec, straight, leak_gate=False), 0
    for stop in (5, 6, 30):
        left = iter([False] * (stop - done - 1))
        training.train(spec, broken, stop=lambda left=left: next(left, True), leak_gate=False)
        done = stop
    resumed = training.train(spec, broken, leak_gate=False)
    assert resumed.evaluation_flops == expected.evaluation_flops
    assert same(kept(broken, spec), kept(straight, spec))


def test_the_analysis_reads_them_and_verification_looks(tmp_path):
    spec, store = overhead._spec_of(PLANNER, "transformer", "selective_copying", STEPS), Store(tmp_path)
    training.train(spec, store, leak_gate=False)
    points = curves(tmp_path)
    assert len(points) == STEPS
    assert points["score"].notna().sum() == len(schedule(STEPS, 1))
    file = store.folder(spec.id) / "curve.jsonl"
    assert not verify(store.folder(spec.id)).faults
    *rows, last = file.read_text().splitlines()
    file.write_text("\n".join([*rows, json.dumps(json.loads(last) | {"score": 1.2})]) + "\n")
    assert verify(store.folder(spec.id)).faults == (f"curve.jsonl, line {STEPS}: score is 1.2",)


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (7, 1), (199, 1), (399, 1), (1234, 6), (100_000, 500)])
def test_the_schedule_is_geometric(steps, every):
    found = schedule(steps, every)
    assert found[-1] == steps
    assert all(step % every == 0 for step in found[:-1])
    assert found[0] >= FIRST * steps
    assert all(after <= RATIO * before or after - before <= every for before, after in pairwise(found))
    assert len(found) <= 30


def test_what_has_no_right_answers_and_what_is_too_small_is_not_scored():
    settings = overhead._spec_of(PLANNER, "transformer", "recall", 1).settings
    for name, batch, some in (("text", 64, False), ("adding", 64, False), ("recall", 64, True), ("recall", 1, False)):
        task = build_task(name, {})
        model = build("transformer", task, dim=16, depth=1, settings=settings)
        per_step = 3 * model.flops(task.length, task.answers).batch(batch).headline
        interim = Interim(model, task, precision="float32", steps=STEPS, every=1, per_step=per_step)
        assert bool(interim.steps) == some
        assert interim.examples >= FEWEST * some
        assert interim.spent(STEPS) == len(interim.steps) * interim.flops <= SHARE * STEPS * per_step

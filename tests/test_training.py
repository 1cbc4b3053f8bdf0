"""The loop does what it says: the same as a bare loop, within budget, resumable bit for bit."""

import json
import math
import os
import signal
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
from torch import nn

from architectures.backbone import Flops, SequenceMap, Tuning
from architectures.stack import Stack
from lab import optimizers, overhead, training
from lab.budget import TRAIN_OVER_FORWARD
from lab.model import Model, build, build_task
from lab.planning import Planner, Shape
from lab.recipe import Recipe
from lab.run import Store
from tasks.selective_copying import SelectiveCopying

PLANNER = Planner(Shape(dim=16, depth=1), batch=2)


def spec_for(architecture="transformer", task="selective_copying", steps=20, planner=PLANNER, **changes):
    return replace(overhead._spec_of(planner, architecture, task, steps), **changes)


def weights(store, spec):
    return torch.load(store.folder(spec.id) / "checkpoint", weights_only=True)["state_dict"]


def curve(store, spec):
    rows = (store.folder(spec.id) / "curve.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(row).items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("architecture", ["transformer", "linear_rnn", "lstm"])
def test_the_loop_is_a_plain_loop(tmp_path, architecture):
    """Twenty steps give the weights of a loop written by hand, bit for bit."""
    spec, store = spec_for(architecture), Store(tmp_path)
    run = training.train(spec, store)
    recipe, task = Recipe(**spec.recipe), build_task("selective_copying", {})
    torch.manual_seed(spec.seed)
    model = build(spec.names[0], task, dim=spec.dim, depth=spec.depth, settings=spec.settings)
    optimizer = torch.optim.AdamW(optimizers.groups(recipe, model), betas=recipe.betas, eps=recipe.eps, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses = []
    for step, batch in enumerate(islice(training.Batches(task, spec.batch, spec.seed), run.steps)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * recipe.rate(step, run.steps)
        loss = task.loss(model(batch.inputs, batch.positions), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        losses.append(loss.item())
    trained = weights(store, spec)
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in model.state_dict().items())
    assert [row["loss"] for row in curve(store, spec)] == losses


def test_budget_is_spent_to_the_last_whole_step(tmp_path):
    spec = spec_for(steps=7)
    per_step = int(spec.budget) // 7
    spec = replace(spec, budget=spec.budget + 0.9 * per_step)
    run = training.train(spec, Store(tmp_path))
    assert run.steps == run.planned_steps == 7
    assert spec.budget - per_step < run.flops <= spec.budget
    task = build_task("selective_copying", {})
    model = build("transformer", task, dim=16, depth=1, settings=spec.settings)
    forward = model.flops(task.length, task.answers)
    assert run.flops == TRAIN_OVER_FORWARD * forward.headline * spec.batch * 7
    assert run.flops == run.flops_by_kind["contraction"] + run.flops_by_kind["mixing"]
    assert run.tokens == 7 * spec.batch * task.length


@pytest.mark.parametrize("stops", [(1,), (9,), (3, 4, 11)])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, stops):
    spec = spec_for("linear_rnn", steps=15)
    straight, broken = Store(tmp_path / "straight"), Store(tmp_path / "broken")
    expected = training.train(spec, straight)
    for stop_at in stops:
        done = iter(range(stop_at - len_done(broken, spec) - 1, -1, -1))
        run = training.train(spec, broken, stop=lambda done=done: next(done, 0) == 0)
        assert run.status == "interrupted"
        assert run.steps == stop_at
        assert broken.find(spec.id) is None
    resumed = training.train(spec, broken)
    assert resumed.scores == expected.scores
    assert resumed.flops == expected.flops
    assert curve(broken, spec) == curve(straight, spec)
    one, other = weights(straight, spec), weights(broken, spec)
    assert all(torch.equal(one[name], other[name]) for name in one)


def len_done(store, spec):
    path = store.folder(spec.id) / "checkpoint"
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else 0


def test_a_run_killed_after_its_last_step_is_only_scored(tmp_path):
    spec, store = spec_for(steps=5), Store(tmp_path)
    first = training.train(spec, store)
    (store.folder(spec.id) / "run.json").unlink()
    again = training.train(spec, store)
    assert again.scores == first.scores
    assert again.steps == 5


def test_generators_are_in_the_checkpoint(tmp_path, monkeypatch):
    """A backbone that draws noise while training continues with the noise it would have drawn."""

    class Noisy(Stack):
        def __init__(self, dim, depth, *, causal=True):
            super().__init__(dim, depth, lambda: Dropping(dim))

    class Dropping(SequenceMap):
        def __init__(self, dim):
            super().__init__()
            self.map = nn.Linear(dim, dim)

        def forward(self, x):
            return nn.functional.dropout(self.map(x), 0.3, self.training)

        def flops(self, length):
            return Flops(contraction=2 * length * self.map.weight.numel())

    def noisy(spec, task):
        return Model(Noisy(spec.dim, spec.depth), task)

    monkeypatch.setattr(training, "model_of", noisy)
    spec = spec_for(steps=12)
    monkeypatch.setattr(training, "code_of", lambda *_: spec.code)  # of the one that it stands for
    straight, broken = Store(tmp_path / "straight"), Store(tmp_path / "broken")
    training.train(spec, straight)
    left = iter([False] * 4 + [True] * 9)
    training.train(spec, broken, stop=lambda: next(left))
    torch.manual_seed(99)
    training.train(spec, broken)
    assert curve(straight, spec) == curve(broken, spec)


def test_divergence_stops_the_run_and_is_recorded(tmp_path, monkeypatch):
    calls, losses = [], []

    def exploding(self, predictions, targets):
        calls.append(1)
        loss = nn.functional.cross_entropy(predictions.flatten(0, -2), targets.flatten())
        if len(calls) < 6:
            losses.append(loss.item())
        return loss * (math.nan if len(calls) == 6 else 1.0)

    monkeypatch.setattr(SelectiveCopying, "loss", exploding)
    spec, store = spec_for(steps=20), Store(tmp_path)
    run = training.train(spec, store)
    assert run.status == "diverged"
    assert run.steps == 5
    assert "step 6" in run.reason
    assert "loss was nan" in run.reason
    assert f"the last finite loss was {losses[-1]:.4g}" in run.reason
    assert len(calls) == 6
    record = store.find(spec.id)
    assert record["status"] == "diverged"
    assert record["scores"] == {}
    assert store.final(spec.id)


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    calls = []

    class Cliff(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, slope):
            calls.append(1)
            return slope * (math.inf if len(calls) == 4 else 1.0)

    def steep(self, predictions, targets):
        return Cliff.apply(nn.functional.cross_entropy(predictions.flatten(0, -2), targets.flatten()))

    monkeypatch.setattr(SelectiveCopying, "loss", steep)
    run = training.train(spec_for(steps=20), Store(tmp_path))
    assert (run.status, run.steps) == ("diverged", 3)
    assert "gradient" in run.reason
    assert "step 4" in run.reason


def test_the_learning_rate_rises_then_follows_the_cosine_to_its_last_step():
    recipe = Recipe(warmup=0.1, final=0.1)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert rates[99] == pytest.approx(0.1)
    assert rates[54] == pytest.approx(0.55, abs=0.01)
    assert Recipe().rate(0, 1) > 0


def test_groups_follow_tuned_and_spare_vectors():
    class Layer(SequenceMap):
        tuned = {"slow": Tuning(lr_scale=0.5, decay=False), "plain": Tuning(lr_scale=2.0, decay=True)}

        def __init__(self):
            super().__init__()
            self.slow, self.plain = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
            self.matrix, self.bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))

        def forward(self, x):
            return x

        def flops(self, length):
            return Flops()

    layer, recipe = Layer(), Recipe(lr=1.0, weight_decay=0.1)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizers.groups(recipe, layer) for p in group["params"]}
    assert found[id(layer.slow)] == (0.5, 0.0)
    assert found[id(layer.plain)] == (2.0, 0.1)
    assert found[id(layer.matrix)] == (1.0, 0.1)
    assert found[id(layer.bias)] == (1.0, 0.0)


def test_bfloat16_runs_and_is_another_run(tmp_path):
    plain, mixed = spec_for(steps=8), spec_for(steps=8, precision="bfloat16")
    assert plain.id != mixed.id
    store = Store(tmp_path)
    one, other = training.train(plain, store), training.train(mixed, store)
    assert other.status == "done"
    assert other.scores["test"]["loss"] == pytest.approx(one.scores["test"]["loss"], rel=0.02)
    assert other.scores["test"]["loss"] != one.scores["test"]["loss"]


def test_too_long_for_learned_positions_is_refused_by_name_not_scored(tmp_path):
    spec = spec_for("transformer:preset=gpt2,max_length=64", steps=3)
    run = training.train(spec, Store(tmp_path))
    assert run.status == "done"
    assert set(run.refused) == {"tokens=8,length=128", "tokens=16,length=128"}
    assert "max_length=64" in run.refused["tokens=8,length=128"]
    assert not any("@" in name for name in run.scores["test"])
    assert set(run.throughput) == {"64"}
    assert run.throughput["64"] > 0


def test_changed_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="changed"):
        training.train(spec_for(task="digits", steps=3, data="0" * 64), Store(tmp_path))


def test_slices_and_harder_variants_are_scored(tmp_path):
    run = training.train(spec_for(task="recall", steps=3), Store(tmp_path))
    names = set(run.scores["test"])
    assert {"loss", "accuracy", "accuracy@pairs=4,length=128", "accuracy@pairs=8,length=128"} <= names
    assert "accuracy[gap=8-15]" in names
    assert set(run.scores["validation"]) == {"loss", "accuracy"}


@pytest.mark.slow  # it once ended the process that it ran in, among all tests
def test_a_signal_is_heard_by_the_lab_alone(tmp_path):
    """Lightning would leave after the step with exit code 0 and no checkpoint, where whoever asks `stop` was not told as soon."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        sent = training.train(spec_for(steps=4), Store(tmp_path), progress=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (sent.status, sent.steps) == ("done", 4)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.DurableIO, "save_checkpoint", full)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    spec, store = spec_for(steps=3), Store(tmp_path)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert training.train(spec, store).status == "done"


def test_a_broken_checkpoint_goes_back_to_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    spec, straight, broken = spec_for(steps=9), Store(tmp_path / "straight"), Store(tmp_path / "broken")
    expected = training.train(spec, straight)
    asked = iter(range(100))
    training.train(spec, broken, stop=lambda: next(asked) > 8)
    path = broken.folder(spec.id) / "checkpoint"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="was cut or changed"):
        resumed = training.train(spec, broken)
    assert resumed.scores == expected.scores
    one, other = weights(straight, spec), weights(broken, spec)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_benchmark_times_the_same_steps_on_both_sides():
    found = overhead.loop(PLANNER, "transformer", "selective_copying", 4)
    assert found["steps"] == 4
    assert found["lab_ms"] > 0
    assert found["bare_ms"] > 0
    assert found["lab_over_bare"] > 0.2

"""A batch in parts is the batch; a text in pieces is the text, with its state carried and kept."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from test_training import curve, weights

from lab import carried, optimizers, overhead, plugins, training
from lab.analysis import labels
from lab.analysis.frame import results
from lab.errors import UsageError
from lab.model import build, build_task
from lab.planning import Planner, Shape
from lab.recipe import Recipe
from lab.run import Spec, Store
from lab.verification import verify

CYCLE = '''
import numpy as np
import torch
from tasks.task import Batch, Task, Tokens, random

class Cycle(Task):
    """Two zeros and two ones, over and over: one symbol does not say what comes next, two do."""
    inputs, outputs, held_out = Tokens(2), 2, 64

    def __init__(self, *, length: int = 2, symbols: int = 2000) -> None:
        self.length = self.answers = length
        self.symbols_there = np.tile([0, 0, 1, 1], symbols // 4)

    def sequence(self, split):
        return self.symbols_there

    def batch(self, split, index, size, seed):
        starts = random(split, index, seed).integers(0, len(self.symbols_there) - self.length, size)
        window = torch.from_numpy(self.symbols_there[starts[:, None] + np.arange(self.length + 1)])
        return Batch(window[:, :-1], window[:, 1:])

    def baselines(self):
        return {"chance": 0.5}
'''
OLD = (
    '{"architecture": "linear_rnn", "settings": {"states": null, "hidden": 64}, "dim": 24, "depth": 2, "task": "recall:pairs=2",'
    '"task_settings": {"pairs": 2, "length": 64}, "code": {"architectures": "2f1c7a90be41", "tasks": "77aa0312cd9e"}, "data": "",'
    '"budget": 600000000000.0, "batch": 8, "seed": 1, "precision": "float32", "recipe": {"lr": 0.003, "warmup": 0.05,'
    '"final": 0.1, "betas": [0.9, 0.95], "eps": 1e-08, "weight_decay": 0.1, "clip": 1.0}, "schema": 1}'
)


@pytest.fixture(autouse=True)
def cycle(tmp_path):
    (tmp_path / "cycle.py").write_text(CYCLE)
    plugins.add_file(str(tmp_path / "cycle.py"))


def spec_for(architecture="lstm", task="cycle", steps=10, batch=4, **planner):
    return overhead._spec_of(Planner(Shape(dim=8, depth=1), batch, **planner), architecture, task, steps)


def test_a_spec_from_before_there_were_parts_and_carried_states_keeps_its_id():
    old = Spec.read(json.loads(OLD))
    assert old.id == "145a8d066f94e246"
    assert len({old.id, replace(old, accumulate=2).id, replace(old, carry_state=True).id}) == 3
    assert replace(old, schema=2).id != old.id


@pytest.mark.parametrize(
    ("task", "parts", "carry"),
    [("flip_flop:length=32", 2, False), ("flip_flop:length=32", 4, False), ("adding:length=32", 4, False), ("cycle", 4, True)],
)
def test_a_batch_in_parts_is_the_batch(tmp_path, monkeypatch, task, parts, carry):
    """Losses, and gradients before they are clipped; rows of flip_flop are asked different numbers of times."""
    monkeypatch.setattr(training, "evaluate_all", lambda *_, **__: ({"test": {}}, {}, 0))
    found = []

    def spy(parameters, limit):
        found[-1].append(torch.cat([parameter.grad.flatten().clone() for parameter in parameters]))
        return torch.tensor(1.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    once, split = (spec_for(task=task, steps=5, batch=8, carry_state=carry, accumulate=count) for count in (1, parts))
    assert (once.id != split.id, once.budget) == (True, split.budget)
    runs = []
    for spec in (once, split):
        found.append([])
        runs.append(training.train(spec, Store(tmp_path), leak_gate=False))
    assert [(run.steps, run.tokens, run.flops) for run in runs] == [(5, runs[0].tokens, runs[0].flops)] * 2
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() < 1e-6 * max(1.0, float(one.abs().max()))
    losses = [[row["loss"] for row in curve(Store(tmp_path), spec)] for spec in (once, split)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_rows_go_on_where_they_ended_and_begin_anew_together():
    task = build_task("cycle", {"length": 3, "symbols": 200})
    task.symbols_there = np.arange(200)  # each symbol tells its place
    pieces = carried.stretch(task, "train", 4)
    assert pieces == (200 - 3) // 12
    batches = list(islice(training.Batches(task, 4, 7, carry_state=True), 2 * pieces + 1))
    for number, batch in enumerate(batches):
        assert batch.begins == (number % pieces == 0)
        assert torch.equal(batch.targets, batch.inputs + 1)
        if not batch.begins:
            assert torch.equal(batch.inputs[:, 0], batches[number - 1].targets[:, -1])
    seen = torch.cat([batch.inputs.flatten() for batch in batches[:pieces]])
    assert len(seen.unique()) == len(seen)  # nobody reads what another reads
    again = training.Batches(task, 4, 7, carry_state=True)
    again.start = pieces + 3
    assert torch.equal(next(iter(again)).inputs, batches[pieces + 3].inputs)
    assert len({int(carried.piece(task, "train", 0, 4, seed).inputs[0, 0]) for seed in range(20)}) > 1
    assert int(carried.piece(task, "test", 0, 4, 9).inputs[0, 0]) == 0


def test_text_is_one_sequence(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"".join(b"line %d of the text\n" % i for i in range(2000)))
    task = build_task("text", {"path": str(tmp_path / "text.txt"), "length": 16})
    first, second = (carried.piece(task, "test", index, 4, 0) for index in (0, 1))
    whole = torch.cat([first.inputs, second.inputs, second.targets[:, -1:]], 1)
    for row in whole:
        assert bytes(row.tolist()) in bytes(task.sequence("test"))


@pytest.mark.parametrize("architecture", ["lstm", "linear_rnn", "linear_rnn:gate=rglru", "transformer:attention=window,window=5"])
def test_training_is_a_loop_with_the_state_detached(tmp_path, architecture):
    """Weights and losses bit for bit, from a loop written by hand, over the end of the text."""
    monkeypatched = spec_for(architecture, "cycle:symbols=52", steps=14, batch=4, carry_state=True)
    run, task = training.train(monkeypatched, Store(tmp_path)), build_task("cycle", {"symbols": 52})
    spec, recipe = run.spec, Recipe.read(run.spec.recipe)
    torch.manual_seed(spec.seed)
    model = build(spec.names[0], task, dim=spec.dim, depth=spec.depth, settings=spec.settings, recipe=recipe)
    optimizer = optimizers.optimizer(recipe, model)
    peaks, losses, state = [group["lr"] for group in optimizer.param_groups], [], None
    for step in range(14):
        batch = carried.piece(task, "train", step, spec.batch, spec.seed)
        if step % 6 == 0:  # 48 of 52 symbols in 4 rows of 6 pieces of 2
            state = model.backbone.init_state(4)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * recipe.rate(step, 14)
        y, state = model.backbone.stream(model.read(batch.inputs), state)
        loss = task.loss(model.head(y), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        state = torch.utils._pytree.tree_map(torch.Tensor.detach, state)
        losses.append(loss.item())
    trained = weights(Store(tmp_path), spec)
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in model.state_dict().items())
    assert [row["loss"] for row in curve(Store(tmp_path), spec)] == losses
    assert verify(Store(tmp_path).folder(spec.id)).faults == ()


def test_only_a_carried_state_knows_the_piece_before(tmp_path):
    scores = {}
    for carry in (False, True):
        planner = {"carry_state": carry, "recipe": Recipe(lr=0.02)}
        spec = spec_for("lstm", steps=200, batch=8, **planner)
        scores[carry] = training.train(spec, Store(tmp_path), leak_gate=False).scores["test"]
    assert scores[False]["accuracy"] <= 0.82  # the first symbol of a piece says nothing
    assert "accuracy@carried" not in scores[False]
    assert scores[True]["accuracy@carried"] >= 15 / 16  # all but the first of the 16 symbols of a lane
    assert scores[True]["accuracy"] <= 0.9
    frame = results(tmp_path)
    assert sorted(frame["carry_state"]) == [False, True]
    assert set(labels.labelled(frame)["row"]) == {"lstm state fresh", "lstm state carried"}


@pytest.mark.parametrize("architecture", ["lstm", "transformer:attention=window,window=5"])
def test_a_carried_run_in_parts_continues_bit_for_bit(tmp_path, architecture):
    spec = spec_for(architecture, "cycle:symbols=200", steps=12, carry_state=True, accumulate=2)
    straight, broken = Store(tmp_path / "straight"), Store(tmp_path / "broken")
    expected = training.train(spec, straight)
    for stop_at in (3, 1, 4):
        left = iter(range(stop_at - 1, -1, -1))
        assert training.train(spec, broken, stop=lambda left=left: next(left, 0) == 0).status == "interrupted"
    resumed = training.train(spec, broken)
    assert (resumed.scores, resumed.steps) == (expected.scores, 12)
    assert curve(broken, spec) == curve(straight, spec)
    one, other = weights(straight, spec), weights(broken, spec)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("architecture", "task", "batch", "reason"),
    [
        (
            "transformer",
            "cycle",
            4,
            r"--architecture transformer: its memory grows with what it read: .* attention needs a window",
        ),
        ("lstm_attention", "cycle", 4, "its memory grows"),
        ("hyena", "cycle", 4, "its memory grows"),
        ("transformer:preset=gpt2,attention=window,window=4,max_length=64", "cycle", 4, "max_length=64"),
        ("lstm", "recall", 4, "--task recall: its sequences do not go on from one to the next"),
        ("lstm", "cycle:symbols=20", 8, "the 20 symbols of its train split are too few for 8 rows"),
    ],
)
def test_who_cannot_carry_says_so_at_once(architecture, task, batch, reason):
    with pytest.raises(UsageError, match=reason) as told:
        Planner(Shape(dim=8, depth=1), batch, carry_state=True).plan(architecture, task, 1e12, 0)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("parts", [0, -1, 3, 8])
def test_parts_divide_the_batch(parts):
    with pytest.raises(UsageError, match=rf"--accumulate {parts}: must divide the 4 sequences"):
        spec_for(accumulate=parts)


def test_a_piece_in_a_window_costs_what_it_adds():
    task = build_task("cycle", {"length": 8})
    for architecture, settings, more in [("transformer", {"attention": "window", "window": 5}, True), ("lstm", {}, False)]:
        model = build(architecture, task, dim=8, depth=1, settings=settings)
        with torch.device("meta"):
            past = 8 * carried.settled(build(architecture, task, dim=8, depth=1, settings=settings).backbone, 8, 100)
        piece, alone = carried.piece_flops(model, 8, past), model.flops(8, 8)
        missed = sum(5 - min(5, place + 1) for place in range(8)) if more else 0  # keys before the piece
        assert piece.contraction - alone.contraction == 4 * missed * 8

"""What a model is asked and how its answers are scored: pooled, two towers, a bottleneck, real, by slice, in pieces."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lab import evaluation
from lab.counter import Counter
from lab.evaluation import evaluate, evaluate_all
from lab.model import Model, mean_of_first
from lab.plugins import load
from tasks.task import UNASKED, Batch, Task, Tokens, Vectors


class Toy(Task):
    """Name the symbol that stands at the asked position: half of the answers are not asked for."""

    metric, also, held_out = "accuracy", ("exact",), 40

    def __init__(self, length=6):
        self.inputs, self.outputs, self.length, self.answers = Tokens(5), 5, length, 3

    def batch(self, split, index, size, seed):
        rng = np.random.default_rng((len(split), index, seed))
        inputs = torch.from_numpy(rng.integers(0, 5, (size, self.length)))
        positions = torch.from_numpy(np.sort(rng.permuted(np.tile(np.arange(self.length), (size, 1)), axis=1)[:, :3], 1))
        targets = inputs.gather(1, positions)
        targets[:, 0] = UNASKED
        return Batch(inputs, targets, positions, {"place": positions})

    def baselines(self):
        return {"chance": 0.2}

    def buckets(self):
        return {"place": [0, 2, 4]}


class Sums(Toy):
    """Real answers: the input, and its double."""

    real, metric, also = True, "mean_squared_error", ()

    def __init__(self, length=6):
        self.inputs, self.outputs, self.length, self.answers = Vectors(1), 2, length, length

    def batch(self, split, index, size, seed):
        x = torch.from_numpy(np.random.default_rng((len(split), index, seed)).standard_normal((size, self.length, 1))).float()
        place = torch.arange(self.length).expand(size, -1)
        return Batch(x, torch.cat([x, 2 * x], 2), None, {"place": place})


class Told(Model):
    """Says what it is told to say."""

    def __init__(self, task, say):
        super().__init__(load("architectures", "linear_rnn")(8, 1, causal=task.causal), task)
        self.say = say

    def forward(self, inputs, positions=None, lengths=None):
        return self.say(inputs, positions)


def right_at(answers):
    """Right at the answers of these numbers, else wrong by one."""

    def say(inputs, positions):
        found = inputs.gather(1, positions)
        wrong = (found + 1) % 5
        mine = torch.tensor([answer in answers for answer in range(3)])
        return F.one_hot(found.where(mine, wrong), 5).float()

    return say


def test_what_is_not_asked_counts_nowhere():
    scores = evaluate(Told(Toy(), right_at({1, 2})), Toy(), "test", precision="float32")
    assert scores["accuracy"] == scores["exact"] == 1
    scores = evaluate(Told(Toy(), right_at({0, 1})), Toy(), "test", precision="float32")
    assert scores["accuracy"] == 0.5
    assert scores["exact"] == 0


def test_slices_hold_their_own_answers():
    task = Toy()
    batch = task.batch("test", 0, 40, 0)
    scores = evaluate(Told(task, right_at({1})), task, "test", precision="float32", slices=True)
    for name, lower, upper in (("accuracy[place=0-1]", 0, 2), ("accuracy[place=2-3]", 2, 4), ("accuracy[place=4-]", 4, 9)):
        inside = (batch.slices["place"] >= lower) & (batch.slices["place"] < upper) & (batch.targets != UNASKED)
        right = inside.clone()
        right[:, 2] = False
        if inside.any():
            assert scores[name] == pytest.approx(float(right.sum() / inside.sum()))


def test_exact_slices_take_whole_sequences():
    class Whole(Toy):
        metric, also = "exact", ("accuracy",)

    task = Whole()
    scores = evaluate(Told(task, right_at({1, 2})), task, "test", precision="float32", slices=True)
    batch = task.batch("test", 0, 40, 0)
    assert scores["exact[place=4-]"] == 1
    assert ((batch.positions[:, 1:] >= 4).all(1)).any()


def test_real_answers_are_scored_by_their_squared_error():
    task = Sums()
    scores = evaluate(Told(task, lambda x, _: torch.cat([x, 2 * x + 1], 2)), task, "test", precision="float32", slices=True)
    assert scores["mean_squared_error"] == pytest.approx(0.5)
    assert scores["loss"] == pytest.approx(0.5)
    assert scores["mean_squared_error[place=2-3]"] == pytest.approx(0.5)


def test_a_model_learns_real_answers():
    torch.manual_seed(0)
    task = Sums()
    model = Model(load("architectures", "linear_rnn")(16, 1), task)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(150):
        batch = task.batch("train", step, 32, 0)
        loss = task.loss(model(batch.inputs), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert evaluate(model, task, "test", precision="float32")["mean_squared_error"] < 0.3


@pytest.mark.parametrize("name", ["linear_rnn", "transformer", "lstm"])
def test_pieces_give_what_the_whole_gives(name, monkeypatch):
    torch.manual_seed(0)
    task = Toy(length=50)
    model = Model(load("architectures", name)(16, 2), task).eval()
    batch = task.batch("test", 0, 4, 0)
    with torch.inference_mode():
        whole = model(batch.inputs, batch.positions)
        assert torch.allclose(model.in_pieces(batch.inputs, batch.positions, 7), whole, atol=1e-5)
    at_once = evaluate(model, task, "test", precision="float32")
    monkeypatch.setattr(evaluation, "TOKENS", 7)
    monkeypatch.setattr(evaluation, "_batch", lambda task: 40)
    monkeypatch.setattr(Model, "forward", None)
    assert evaluate(model, task, "test", precision="float32") == pytest.approx(at_once, abs=1e-5)


def test_padding_has_no_part_in_the_mean():
    y = torch.randn(3, 7, 4)
    found = mean_of_first(y, torch.tensor([7, 2, 5]))
    assert torch.allclose(found[0], y[0].mean(0))
    assert torch.allclose(found[1], y[1, :2].mean(0))


def towers():
    class Pairs(Toy):
        causal, pooled, towers = False, True, 2

        def __init__(self):
            super().__init__(10)
            self.outputs, self.answers = 2, 1

    torch.manual_seed(0)
    return Pairs(), Model(load("architectures", "linear_rnn")(8, 1, causal=False), Pairs())


def test_towers_read_their_halves_apart_with_the_same_weights():
    _, model = towers()
    x = torch.randint(0, 5, (3, 10))
    seen = []
    model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(x, None, torch.tensor([[5, 2], [3, 5], [5, 5]]))
    first, second, product, difference = seen[0].chunk(4, 1)
    model(torch.cat([x[:, 5:], x[:, :5]], 1), None, torch.tensor([[2, 5], [5, 3], [5, 5]]))
    assert torch.allclose(seen[1].chunk(4, 1)[0], second, atol=1e-6)
    assert torch.allclose(seen[1].chunk(4, 1)[1], first, atol=1e-6)
    assert torch.allclose(product, first * second)
    assert torch.allclose(difference, first - second)


@pytest.mark.parametrize("dim", [7, 8])
def test_a_bottleneck_sees_the_last_position_alone(dim):
    class Squeezed(Toy):
        bottleneck = True

    torch.manual_seed(0)
    model = Model(load("architectures", "linear_rnn")(dim, 1), Squeezed())
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, given: seen.append(given))
    answers = model(torch.randint(0, 5, (2, 6)))
    assert answers.shape == (2, 3, 5)
    assert seen[0][0].shape == (2, dim)
    assert not torch.allclose(answers[:, 0], answers[:, 1])


@pytest.mark.parametrize("form", ["towers", "bottleneck"])
def test_contractions_of_the_head_are_counted_exactly(form):
    if form == "towers":
        task, model = towers()
    else:

        class Squeezed(Toy):
            bottleneck = True

        task, model = Squeezed(), Model(load("architectures", "linear_rnn")(8, 1), Squeezed())
    x = torch.randint(0, 5, (3, task.length))
    with Counter() as counter:
        model(x)
    assert counter.contraction == 3 * model.flops(task.length, task.answers).contraction


def test_harder_variants_are_bounded_and_all_that_is_read_is_counted(monkeypatch):
    class Longer(Toy):
        def harder(self):
            return {"length=12": Longer(12)}

    monkeypatch.setattr(evaluation, "HARDER_TOKENS", 12 * 8)
    monkeypatch.setattr(evaluation, "FEWEST_HARDER", 4)
    task = Longer()
    model = Told(task, right_at({1, 2}))
    scores, refused, flops = evaluate_all(model, task, precision="float32")
    assert scores["test"]["accuracy@length=12"] == 1
    assert scores["test"]["exact@length=12"] == 1
    assert not refused
    each = model.flops(6, 3).batch(1).headline
    harder = model.flops(12, 3).batch(1).headline
    assert flops == 2 * 40 * each + 8 * harder

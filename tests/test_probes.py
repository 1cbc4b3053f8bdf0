"""Every probe on planted models with a known answer."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from architectures.backbone import Backbone, Flops, SequenceMap
from architectures.ops.attention import attend
from architectures.ops.bigbird import BigBird, bigbird
from architectures.ops.dilated_attention import dilated
from architectures.ops.hippo import bilinear, legt
from architectures.ops.watching import watched
from lab import plugins
from lab.errors import UsageError
from lab.model import Model, build, build_task
from lab.probes import copied, extrapolation, flops, influence, memory, position, recall_map, spectrum
from lab.probes.subject import Subject, mixers, t_interval, wide
from lab.run import Spec
from tasks.recall import Recall
from tasks.task import Batch, Task, Tokens
from tasks.text import _slices

DIM = 8


class Planted(Backbone):
    def __init__(self, dim=DIM, depth=1, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.stream(x, self.init_state(len(x)))[0]

    def flops(self, length):
        return Flops()


class Delay(Planted):
    """y[t] = x[t-5]; the last five inputs are its state."""

    def init_state(self, batch):
        return self.zeros(batch, 5, self.dim)

    def stream(self, x, state):
        seen = torch.cat([state, x], 1)
        return self.one * seen[:, : x.shape[1]], seen[:, x.shape[1] :]


class Leaky(Planted):
    """h[t] = rate h[t-1] + x[t]."""

    rate = 0.9

    def init_state(self, batch):
        return self.zeros(batch, self.dim)

    def step(self, x, state):
        state = self.rate * state + x
        return self.one * state, state


class Growing(Leaky):
    rate = 1.02


class Sum(Leaky):
    rate = 1.0


class Rotating(Planted):
    """A complex recurrence, an input that is kept for one step, and inputs that are all kept."""

    def init_state(self, batch):
        h = torch.view_as_complex(self.zeros(batch, self.dim, 2))
        return {"h": h, "last": [self.zeros(batch, self.dim)], "all": self.zeros(batch, 0, self.dim)}

    def stream(self, x, state):
        h, out = state["h"], []
        turn = torch.polar(torch.tensor(0.95, dtype=x.dtype), torch.tensor(0.7, dtype=x.dtype))
        for part in x.unbind(1):
            h = h * turn + part
            out.append(h.real * self.one)
        return torch.stack(out, 1), {"h": h, "last": [x[:, -1]], "all": torch.cat([state["all"], x], 1)}


class Given(Task):
    """Windows of symbols, each to be named from those before it."""

    held_out = 32

    def __init__(self, length=64, vocabulary=256, windows=None):
        self.length, self.inputs, self.outputs, self.answers = length, Tokens(vocabulary), vocabulary, length
        self.windows = windows

    def batch(self, split, index, size, seed):
        drawn = np.random.default_rng((seed, index, 5)).integers(self.outputs, size=(size, self.length + 1))
        window = drawn if self.windows is None else self.windows[index * size : (index + 1) * size]
        slices = {name: torch.from_numpy(found) for name, found in _slices(window).items()}
        window = torch.from_numpy(window)
        return Batch(window[:, :-1], window[:, 1:], slices=slices)

    def baselines(self):
        return {"chance": 1 / self.outputs}


class Run(Subject):
    """A planted model, before and after training the same."""

    def untrained(self):
        return self.model

    def variant(self, **changes):
        return Given(**changes, vocabulary=self.task.outputs)


def planted(model, on, kind=Run, **spec):
    if isinstance(model, Backbone):
        torch.manual_seed(0)
        model = Model(model, on)
    made = Spec("planted", {}, DIM, 1, "planted", {}, {}, "", 1.0, 4, 0, "float32", {})
    return kind(Path("nowhere"), dataclasses.replace(made, **spec), on, model.eval())


def test_a_delay_line_has_influence_at_its_lag_alone():
    found = influence.measure(planted(Delay(), Given()))
    profile = found.sheets["influence"].table.query("weights == 'trained'").set_index("lag")["influence"]
    assert profile[5] == pytest.approx(1, rel=0.2)  # of random projections
    assert profile.drop(5).abs().max() == 0
    assert found.numbers["peak"] == 5
    assert 4 <= found.numbers["half_life"] <= 5


def test_a_leaky_integrator_has_its_half_life():
    found = influence.measure(planted(Leaky(), Given(256)))
    profile = found.sheets["influence"].table.query("weights == 'trained'").set_index("lag")["influence"]
    assert profile[40] / profile[20] == pytest.approx(0.9**20, rel=0.2)
    assert found.numbers["half_life"] == pytest.approx(math.log(2) / -math.log(0.9), rel=0.05)
    assert found.numbers["exponential_r2"] > 0.99 > found.numbers["power_r2"]


def test_half_lives_and_laws_of_decay():
    lags = np.arange(4000)
    assert influence.half_life(0.5**lags) == pytest.approx(1)
    assert influence.half_life(0.99**lags) == pytest.approx(math.log(2) / -math.log(0.99), rel=0.01)
    assert math.isnan(influence.half_life(np.array([3.0, 0, 0])))
    laws = influence.decay(1 / (1.0 + lags) ** 2)
    assert laws["power_r2"] > 0.99 > laws["exponential_r2"]


@pytest.mark.parametrize(
    ("function", "more"),
    [
        (attend, {"causal": True}),
        (attend, {"causal": True, "window": 5}),
        (attend, {"causal": True, "bias": lambda rows, columns: torch.zeros(()).expand(rows.stop - rows.start, 1)}),
        (lambda q, k, v, **more: bigbird(q, k, v, BigBird(4, 1, 1, 0), **more), {"causal": True}),
        (lambda q, k, v, **more: dilated(q, k, v, ((8, 1), (16, 2)), **more), {"causal": True}),
    ],
)
def test_the_weights_that_are_watched_are_those_that_act(function, more):
    q, k, v = torch.randn(3, 2, 2, 40, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with watched() as seen:
        y = function(q, k, v, **more)
    (weights,) = seen
    assert torch.allclose(weights @ v, y, atol=1e-9)
    assert torch.allclose(weights.sum(-1), torch.ones(()).double())
    assert not weights.triu(1).any()
    assert (weights >= 0).all()


def test_attention_to_the_position_before_lies_at_distance_one():
    mass = influence._by_distance(np.eye(32, k=-1))
    assert mass[1] == 1
    assert mass.sum() == 1
    task = Given(32)
    torch.manual_seed(0)
    model = build("transformer", task, dim=DIM, depth=2, settings={"attention": "window", "window": 4})
    for layer in influence.attention(model, task.batch("test", 0, 4, 0).inputs):
        assert layer[:4].sum() == pytest.approx(1, abs=1e-5)
        assert layer[4:].max() == 0


def test_eigenvalues_are_those_of_the_recurrence_alone():
    found = spectrum.spectra(planted(Rotating(), Given(16)).model, torch.arange(32).view(2, 16))
    (values,) = found.values()
    assert len(values) == 2 * 2 * DIM
    assert np.allclose(np.abs(values), 0.95)
    assert np.allclose(np.abs(np.angle(values)), 0.7)
    said = spectrum.measure(planted(Leaky(), Given(16))).numbers
    assert said["radius"] == pytest.approx(0.9)
    assert said["median_timescale"] == pytest.approx(-1 / math.log(0.9))
    with pytest.raises(UsageError, match="no spectrum"):
        spectrum.measure(planted(build("transformer", Given(16), dim=DIM, depth=1, settings={}), Given(16)))


@pytest.mark.parametrize("name", ["s4", "linear_rnn", "retnet", "lstm"])
def test_eigenvalues_of_architectures(name):
    task, settings = Given(12), {"s4": {"kernel": "diagonal", "modes": 4}}
    torch.manual_seed(1)
    model = build(name, task, dim=DIM, depth=2, settings=settings.get(name, {}))
    found = list(spectrum.spectra(model, task.batch("test", 0, 1, 0).inputs).values())
    assert len(found) == 2
    mixer = next(iter(mixers(model.backbone, 12).values()))
    if name == "s4":
        decay = wide(mixer).system().decay.detach().numpy().ravel()
        assert np.allclose(np.sort(np.abs(found[0])), np.sort(np.tile(np.abs(decay), 2)))
    elif name == "lstm":
        assert [len(each) for each in found] == [2 * DIM] * 2
    else:
        assert (np.abs(found[0]) < 1).all()
        if name == "retnet":  # Sun et al., arXiv:2307.08621: 1 - 2^(-5 - head)
            assert {round(float(each), 6) for each in np.abs(found[0])} == {round(1 - 2.0 ** (-5 - h), 6) for h in range(4)}


def test_a_jacobian_is_that_of_finite_differences():
    torch.manual_seed(0)
    backbone = wide(build("lstm", Given(12), dim=DIM, depth=2, settings={}).backbone)
    x = torch.randn(1, 12, DIM, dtype=torch.float64)
    with torch.no_grad():
        state = backbone.stream(x[:, :-1], backbone.init_state(1))[1]
    step = spectrum.Step(backbone, x[0, -1:], state)
    first, second = step.groups()
    assert not set(first) & set(second)
    found = step.jacobian(second).toarray()
    differences = []
    for index in second:
        for number in range(step.before[index].numel()):
            ends = []
            for sign in (1, -1):
                step.before[index] = step.before[index].clone()
                step.before[index].view(-1)[number] += sign * 1e-5
                with torch.no_grad():
                    ends.append(torch.cat([step.take(1, [])[1][each] for each in second], 1))
                step.before[index].view(-1)[number] -= sign * 1e-5
            differences.append((ends[0] - ends[1])[0] / 2e-5)
    assert np.allclose(found, torch.stack(differences, 1).numpy(), atol=1e-8)


def test_eigenvalues_of_blocks_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    whole = np.zeros((12, 12))
    for start, size in ((0, 1), (1, 3), (4, 3), (7, 5)):
        whole[start : start + size, start : start + size] = rng.normal(size=(size, size))
        whole[start : start + size, :start] = rng.normal(size=(size, start))  # one feeds the next
    shuffled = rng.permutation(12)
    found = spectrum.eigenvalues(spectrum.csr_array(whole[np.ix_(shuffled, shuffled)]))
    assert np.allclose(np.sort_complex(found), np.sort_complex(np.linalg.eigvals(whole).astype(complex)))


class Discrete(SequenceMap):
    """x[t] = A x[t-1] + B u[t], u on the first channel."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b, self.dim = nn.Parameter(a), nn.Parameter(b), 2

    def init_state(self, batch):
        return self.zeros(batch, len(self.b))

    def step(self, x, state):
        return x, state @ self.a.mT + x[:, :1] * self.b

    def flops(self, length):
        return Flops()


def test_a_shift_register_holds_what_it_has_room_for():
    n, window = 16, 32
    shift = torch.eye(n, dtype=torch.float64).roll(1, 0).tril(-1)
    found = memory.read_back(Discrete(shift, F.one_hot(torch.tensor(0), n).double()), 2, window, 0)
    assert found.size == n
    assert found.error[: n - 1].max() < 1e-3
    assert found.error[-1] > 0.1
    assert found.mean >= 0.95 * found.optimum


def test_a_legendre_state_is_read_at_least_as_well_as_by_its_polynomials():
    n, window = 16, 32
    a, b = (torch.from_numpy(each) for each in legt(n, float(window)))
    a, b = bilinear(a, b, 1.0)
    found = memory.read_back(Discrete(a, b), 2, window, 0)
    signals, state = memory.waves(64, 2 * window), torch.zeros(64, n, dtype=torch.float64)
    for u in torch.from_numpy(signals).T:
        state = state @ a.mT + u[:, None] * b
    ages = (np.arange(window) + 0.5) / window
    basis = np.stack(
        [math.sqrt(2 * k + 1) * (-1) ** k * np.polynomial.legendre.Legendre.basis(k)(2 * ages - 1) for k in range(n)]
    )
    polynomial = np.sqrt(np.mean((state.numpy() @ basis - signals[:, ::-1][:, :window]) ** 2))
    assert found.optimum < found.mean < 1.05 * polynomial
    assert polynomial < 0.3  # what HiPPO promises: the state has 16 numbers, the signal some 7 in the window
    assert memory.read_back(Discrete(0.01 * a, b), 2, window, 0).mean > 0.4  # one that forgets


def test_the_optimum_is_reached_by_principal_components_and_by_nothing_smaller():
    window, length = 24, 48
    covariance = memory.covariance(window, length)
    drawn = memory.waves(20_000, length)[:, -window:]
    assert np.abs(drawn.T @ drawn / len(drawn) - covariance).max() < 0.05
    assert np.diag(covariance) == pytest.approx(1)
    none = memory.read_back(Discrete(torch.zeros(3, 3).double(), torch.zeros(3).double()), 2, window, 0)
    assert none.size == 0
    assert none.optimum == pytest.approx(1)
    assert none.mean == pytest.approx(1, rel=0.2)


TABLE = {"times": [1, 2, 4, 8], "loss": [2.0, 2.0, 2.01, 2.02], "error": [0.01] * 4, "rms": [1.0] * 4}


@pytest.mark.parametrize(
    ("changed", "name", "at"),
    [
        ({}, "stable", math.nan),
        ({"rms": [1.0, 2.0, 4.0, 8.0]}, "stable", math.nan),
        ({"loss": [2.0, 1.9, 1.8, 1.7]}, "stable", math.nan),
        ({"loss": [2.0, 2.5, 2.5, 2.5], "error": [0.01, 0.4, 0.4, 0.4]}, "stable", math.nan),
        ({"loss": [2.0, 2.03, 2.1, 2.2]}, "degrades", 4),
        ({"loss": [2.0, 2.1, 6.0, 7.0]}, "diverges", 4),
        ({"loss": [2.0, 2.1, math.nan, math.nan]}, "diverges", 4),
        ({"rms": [1.0, 1.5, 9.0, 9.5]}, "stable", math.nan),
        ({"rms": [1.0, 1.5, 9.0, 90.0]}, "diverges", 4),
        ({"rms": [1.0, 1.0, 1.0, math.inf]}, "diverges", 8),
    ],
)
def test_verdicts(changed, name, at):
    table = pd.DataFrame(TABLE | changed)
    rise = table["loss"] - 2.0
    table = table.assign(low=table["loss"] - 2 * table["error"], rise=rise, rise_low=rise - 2.83 * table["error"])
    found = extrapolation.verdict(table, math.log(64))
    assert found.name == name
    assert found.at == pytest.approx(at, nan_ok=True)


class Forgetful(Model):
    """A model that names the next symbol, always the same, up to a position and then less surely."""

    def __init__(self, task, until):
        nn.Module.__init__(self)
        self.backbone, self.until = Sum(), until

    def stream(self, inputs, state):
        one = torch.ones(*inputs.shape, DIM)
        y, state = self.backbone.stream(one, state)
        sure = torch.where(y[..., :1] > self.until, 1.0, 4.0)
        return sure * F.one_hot(torch.zeros_like(inputs), 4), state


@pytest.mark.parametrize(
    ("model", "name", "at"), [("sum", "stable", math.nan), ("forgetful", "degrades", 4), ("growing", "diverges", 4)]
)
def test_planted_models_past_the_training_length(model, name, at, monkeypatch):
    task = Given(32, vocabulary=4)
    if model == "growing":
        subject = planted(Growing(), task)
    else:
        subject = planted(Forgetful(task, 64 if model == "forgetful" else math.inf), task)
        monkeypatch.setattr(
            Given, "batch", lambda self, split, index, size, seed: Batch(*torch.zeros(2, size, self.length).long())
        )
    found = extrapolation.measure(subject, 8 if model != "growing" else 16)
    assert found.numbers["verdict"] == name, found.said
    assert found.numbers["at"] == pytest.approx(at, nan_ok=True)
    if model == "sum":
        rms = found.sheets["state"].table["rms"].to_numpy()
        assert rms[1:] / rms[:-1] == pytest.approx(2)


class Running(Given):
    """One long text whose symbols get harder to name towards its end."""

    def sequence(self, split):
        drawn = np.random.default_rng(0)
        return np.where(drawn.random(4000) < np.linspace(0, 0.2, 4000), drawn.integers(self.outputs, size=4000), 0)


class Bounded(Model):
    """A model that names symbol 0; beyond so many positions less and less surely."""

    def __init__(self, until):
        nn.Module.__init__(self)
        self.backbone, self.until = Sum(), until

    def stream(self, inputs, state):
        y, state = self.backbone.stream(torch.ones(*inputs.shape, DIM), state)
        return 3 / (1 + F.relu(y[..., :1] - self.until)) * F.one_hot(torch.zeros_like(inputs), 4), state


@pytest.mark.parametrize(("until", "rise", "name"), [(math.inf, 0, "stable"), (64, 0.2, "degrades")])
def test_of_one_text_the_same_symbols_are_asked_at_every_length(until, rise, name):
    class Spread(Run):
        def variant(self, **changes):
            return Running(vocabulary=4, **changes)

    found = extrapolation.measure(planted(Bounded(until), Running(32, vocabulary=4), Spread), 16)
    table = found.sheets["extrapolation"].table
    assert found.numbers["verdict"] == name
    assert len(set(table["sequences"])) == 1
    if rise:
        assert found.numbers["rise"] > rise
    else:
        assert table[["rise", "rise_low", "rise_high"]].to_numpy() == pytest.approx(0, abs=1e-12)


def test_the_effective_rank_of_states():
    flat = [[torch.eye(8).double()]]
    assert extrapolation.rank(flat) == pytest.approx(7)
    assert extrapolation.rank([[torch.arange(8.0)[:, None].double() * torch.ones(5)]]) == pytest.approx(1)
    assert math.isnan(extrapolation.rank([[torch.zeros(4, 2)], [torch.zeros(4, 3)]]))


class Context(Model):
    """A model whose loss falls by a known amount with each doubling of the context, on symbols of known hardness."""

    def __init__(self, falls):
        nn.Module.__init__(self)
        self.falls, self.backbone = falls, Planted()

    def forward(self, inputs):
        length = inputs.shape[1]
        wanted = 1.5 - self.falls * torch.log2(torch.arange(length) + 1.0) + 1.0 * inputs.roll(-1, 1).remainder(2)
        right = torch.log(torch.expm1(wanted.double()))  # of two classes, one with logit 0
        targets = (inputs.roll(-1, 1) == -1).long()
        return torch.stack([torch.zeros_like(right), right], -1).gather(-1, torch.stack([targets, 1 - targets], -1))


@pytest.mark.parametrize(("falls", "verdict"), [(0.1, "still falls"), (0.0, "no longer falls measurably"), (-0.1, "rises")])
def test_the_slope_at_the_end_of_the_context(falls, verdict, monkeypatch):
    task = Given(128)

    def batch(self, split, index, size, seed):
        drawn = np.random.default_rng(index).integers(256, size=(size, self.length))
        return Batch(torch.from_numpy(drawn), torch.zeros(size, self.length).long())

    monkeypatch.setattr(Given, "batch", batch)
    found = position.measure(planted(Context(falls), task))
    assert found.numbers["verdict"] == verdict
    assert found.numbers["slope"] == pytest.approx(-falls, abs=0.03)
    assert found.numbers["slope_low"] <= -falls + 0.01
    raw = t_interval(position.slopes(np.random.default_rng(0).normal(size=(50, 64)) - 0.5 * np.log2(np.arange(64) + 1)))
    assert raw[1] < -0.5 < raw[2]


class Copier(Model):
    """Names what followed the latest earlier occurrence of the last three symbols, else guesses."""

    def __init__(self):
        nn.Module.__init__(self)
        self.backbone = Planted()

    def forward(self, inputs):
        logits = torch.zeros(*inputs.shape, 256)
        for row, symbols in enumerate(inputs.tolist()):
            latest = {}
            for at in range(2, len(symbols)):
                key = tuple(symbols[at - 2 : at + 1])
                if key in latest:
                    logits[row, at, latest[key]] = 20.0
                if at + 1 < len(symbols):
                    latest[key] = symbols[at + 1]
        return logits


def test_a_copier_is_right_on_what_is_copied_and_only_with_its_context():
    rng = np.random.default_rng(0)
    windows = rng.integers(256, size=(16, 161))
    windows[:, 120:150] = windows[:, 20:50]  # 100 back
    found = copied.measure(planted(Copier(), Given(160, windows=windows)))
    table = found.sheets["copied"].table.set_index(["context", "distance"])
    assert set(table.index.get_level_values(1)) == {64}
    assert found.numbers["copied"] < 1e-3
    assert found.numbers["others"] == pytest.approx(math.log(256), rel=0.04)  # wrong once, where a copy ends
    assert table.loc[("short", 64), "loss"] == pytest.approx(math.log(256), rel=0.02)
    assert found.numbers["copying"] == pytest.approx(math.log(256), rel=0.03)
    assert found.numbers["share"] == pytest.approx(27 / 128, rel=0.01)  # three of thirty have no run of four yet


class Near(Model):
    """Looks a key up, no farther back than a distance."""

    def __init__(self, reach, symbols):
        nn.Module.__init__(self)
        self.reach, self.symbols, self.backbone = reach, symbols, Planted(depth=1)

    def forward(self, inputs, positions, lengths):
        keys = inputs.gather(1, positions)
        at = (inputs[:, None, :] == keys[:, :, None]).int().argmax(2)
        found = inputs.gather(1, at + 1)
        return F.one_hot(torch.where(positions - at < self.reach, found, 0), self.symbols).float()


def test_recall_by_distance_and_pairs():
    task = Recall(pairs=8, length=128, gaps="uniform")
    subject = planted(Near(32, 64), task, Subject, task="recall", task_settings=dict(pairs=8, length=128, gaps="uniform"))
    table = recall_map.measure(subject).sheets["recall-map"].table
    assert set(table["pairs"]) == {2, 4, 8, 16}
    assert (table.loc[table["distance"] < 32, "accuracy"] == 1).all()
    assert (table.loc[table["distance"] >= 32, "accuracy"] == 0).all()
    with pytest.raises(UsageError, match="needs a task with pairs"):
        recall_map.measure(planted(Near(32, 64), Given()))


def test_what_layers_connect():
    def layers(name, settings, depth=3):
        torch.manual_seed(0)
        return recall_map.connections(build(name, Given(), dim=DIM, depth=depth, settings=settings).backbone, 24)

    place = np.arange(24)
    away = place[:, None] - place
    window = layers("transformer", {"attention": "window", "window": 4})
    assert all((each == ((away >= 0) & (away < 4))).all() for each in window)
    needed = recall_map.layers_needed(window)
    expected = np.where(away < 0, np.inf, np.maximum(np.ceil(away / 3), 1))
    assert (needed == np.where(expected > 3, np.inf, expected)).all()
    assert (layers("lstm", {})[0] == (away >= 0)).all()
    blocks = layers("dilated", {"segments": "8", "rates": "1"})
    assert (blocks[0] == ((away >= 0) & (place[:, None] // 8 == place // 8))).all()
    assert not np.isfinite(recall_map.layers_needed(blocks)[12, 3])


def test_the_parts_of_flops_are_the_whole():
    for name in plugins.names("architectures"):
        task = Given(64)
        with torch.device("meta"):
            model = build(name, task, dim=32, depth=2, settings={})
        for length in (64, 256):
            found, whole = flops.by_part(model, length, length), model.flops(length, length).batch(1)
            assert sum(each.headline for each in found.values()) == whole.headline
            assert sum(each.pointwise for each in found.values()) == whole.pointwise
            assert min(min(each.kinds.values()) for each in found.values()) >= 0, (name, found)
            assert found[flops.REST].contraction == 0, (name, found)


def test_every_recurrence_is_found():
    for name in plugins.names("architectures"):
        torch.manual_seed(0)
        model = build(name, Given(16), dim=32, depth=1, settings={})
        grows = name in ("transformer", "dilated", "lstm_attention", "hyena")
        found = mixers(model.backbone, 16)
        assert bool(found) != grows or name == "hybrid", (name, list(found))


def test_tasks_that_are_read_whole_are_refused():
    task = build_task("digits", {})
    subject = planted(build("transformer", task, dim=DIM, depth=1, settings={}), task)
    for probe in (influence, spectrum, memory, extrapolation, recall_map):
        with pytest.raises(UsageError, match="both directions"):
            probe.measure(subject)
    with pytest.raises(UsageError, match="every position"):
        position.measure(subject)

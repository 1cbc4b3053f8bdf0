"""The ledger of FLOPs: minimum work, optimizers, coverage, planted errors in every backbone, what other conventions count."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from test_flops import Number, operations
from test_frontier import TRUTH, sweep

from architectures.backbone import Backbone, Flops
from architectures.ops import linear_attention, wkv, wkv7
from architectures.ops.long_convolution import long_convolution_flops
from lab import ledger, plugins
from lab.analysis import frontier, multiplier, restate
from lab.analysis.conventions import palm
from lab.budget import optimizer_flops
from lab.counter import Counter
from lab.laws import operations as law
from lab.laws.subject import Broken, Subject
from lab.model import Model
from tasks.recall import Recall

NAMES = plugins.names("architectures")
VERSIONS = [
    *((name, {}) for name in NAMES),
    *(("transformer", {"preset": preset}) for preset in ("gpt1", "gpt2", "gpt3", "gopher", "palm")),
    *(("rwkv", {"version": version}) for version in (4, 5, 6)),
    *(("linear_rnn", {"gate": gate}) for gate in ("rglru", "mingru")),
    ("mamba", {"version": 1}), ("s4", {"kernel": "diagonal"}), ("deltanet", {"gate": "scalar"}),
]  # fmt: skip
every_version = pytest.mark.parametrize(("name", "settings"), VERSIONS, ids=lambda value: str(value))


def made(name, settings, dim=24, depth=2, device="cpu"):
    with torch.device(device):
        return plugins.load("architectures", name)(dim, depth, **settings)


# minimum work


@every_version
def test_the_minimum_is_no_more_for_any_batch(name, settings):
    model = made(name, settings, device="meta")
    for length in (1, 7, 64, 100, 333):
        for size in (1, 64):
            cost = model.flops(length).batch(size)
            assert 0 < cost.least.headline <= cost.headline
            assert cost.least.batch(1).minimum is None


STATE = 3, 5  # keys, values


def decayed(decay, key, value):
    """S <- decay S + k v^T, read by q: the products of k with v, of q with S and their sums are contractions."""
    for _ in range(decay):
        Number().function()
    for _ in range(key * value):
        Number() * Number()


def bonus(width):
    """RWKV-5 and 6: the sum of r u k from zero, that times v, added to what was read; S decays by exp(w)."""
    total = Number()
    for _ in range(width):
        total = total + Number() * Number() * Number()
    for _ in range(width):
        total * Number() + Number()
    decayed(width, width, width)


def error(decay, key, value):
    """The delta rule: v - k S and beta k."""
    for _ in range(value):
        Number() - Number()
    for _ in range(key):
        Number() * Number()
    if decay:
        decayed(1, key, value)


@pytest.mark.parametrize(
    ("cost", "products", "rest"),
    [
        (lambda n: linear_attention.linear_attention_flops(n, 2, *STATE), 2, (decayed, 1, *STATE)),
        (lambda n: linear_attention.gated_linear_attention_flops(n, 2, *STATE), 2, (decayed, 0, *STATE)),
        (lambda n: linear_attention.delta_rule_flops(n, 2, *STATE, decays=False), 3, (error, 0, *STATE)),
        (lambda n: linear_attention.delta_rule_flops(n, 2, *STATE, decays=True), 3, (error, 1, *STATE)),
    ],
)
def test_recurrent_forms_of_linear_attention(cost, products, rest):
    """Each product of a vector with the state, or of two vectors into it, is 2 operations a number of the state."""
    least = cost(64).least
    assert least.contraction == 2 * 64 * products * 2 * math.prod(STATE)
    assert least.mixing == 2 * 64 * operations(*rest)


def test_recurrent_forms_of_rwkv():
    assert wkv.wkv6_flops(64, 2, 16).least == Flops(64 * 2 * 2 * 2 * 16**2, 64 * 2 * operations(bonus, 16))
    own = 16  # a c
    assert wkv7.wkv7_flops(64, 2, 16).least == Flops(64 * 2 * 4 * 2 * 16**2, 64 * 2 * (operations(decayed, 16, 16, 16) + own))


def test_short_convolutions_are_cheapest_as_they_are_written():
    assert long_convolution_flops(10, 3).least == Flops(contraction=3 * 2 * sum(range(11)))
    assert long_convolution_flops(1000, 3).minimum is None


RECURRENT = [
    ("gru", {}),
    ("lstm", {}),
    ("linear_rnn", {}),
    ("s5", {}),
    ("mamba", {"version": 1}),
    ("gla", {}),
    ("rwkv", {"version": 6}),
]


@pytest.mark.parametrize(("name", "settings"), RECURRENT, ids=lambda value: str(value))
def test_the_recurrent_minimum_is_what_streaming_executes(name, settings):
    model, length = made(name, settings), 5
    state = model.init_state(1)
    with torch.no_grad(), Counter() as counter:
        for _ in range(length):
            _, state = model.stream(torch.zeros(1, 1, 24), state)
    recurrent = model.flops(length).least
    assert counter.contraction == (recurrent.contraction if name not in ("gla", "rwkv") else model.flops(1).contraction * length)
    if name in ("gla", "rwkv"):
        assert model.flops(64).least.contraction == counter.contraction // length * 64


# optimizers


def test_newton_schulz_is_what_torch_executes():
    for shape in [(24, 56), (56, 24), (16, 16)]:
        parameter = torch.nn.Parameter(torch.randn(shape))
        parameter.grad = torch.randn(shape)
        with Counter() as counter:
            torch.optim.Muon([parameter]).step()
        m, n = sorted(shape)
        elementwise = 12 * m * n + 5 * (3 * m**2 + 2 * m * n)
        assert optimizer_flops("muon", [shape]) == counter.contraction + elementwise
        assert not counter.unknown


def adamw_update():
    p, g, m, v = Number(), Number(), Number(), Number()
    p = p * Number()
    m = m + (g - m) * Number()
    v = v * Number() + g * g * Number()
    p - m / (v.function() / Number() + Number()) * Number()


def test_adam_by_hand():
    assert optimizer_flops("adamw", [(3, 5), (7,)]) == 22 * operations(adamw_update)
    assert optimizer_flops("adam", [(3, 5), (7,)]) == 22 * (operations(adamw_update) - 1)


def test_optimizers_of_unknown_cost_are_refused():
    with pytest.raises(ValueError, match="optimizer lion: its cost is not known; there are adam, adamw"):
        optimizer_flops("lion", [(3, 5)])
    with pytest.raises(ValueError, match=r"muon updates matrices; a parameter of shape \(7,\)"):
        optimizer_flops("muon", [(7,)])


@pytest.mark.parametrize("fused", [True, False])
def test_the_step_of_the_lab_s_optimizer_is_covered(fused):
    layer = torch.nn.Linear(5, 7)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=fused)
    layer(torch.zeros(3, 5)).sum().backward()
    with Counter() as counter:
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
    assert (counter.contraction, counter.unknown) == (0, set())


# planted errors


def scaled(above, below):
    return lambda self, cost, length: Flops(cost.contraction * above // below, cost.mixing, cost.pointwise, cost.shared)


def full_square(self, cost, length):
    """All pairs of positions where the causal ones are counted."""
    return cost + Flops(contraction=4 * self.dim * self.depth * (length * (length - 1) // 2))


PLANTED = {"x 3": scaled(3, 1), "x 1/2": scaled(1, 2), "x 1/3": scaled(1, 3), "full square": full_square}


@pytest.mark.parametrize("fault", PLANTED)
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_error_is_caught_in_every_backbone(name, fault, monkeypatch):
    cls = plugins.load("architectures", name)
    honest = cls.flops
    monkeypatch.setattr(cls, "flops", lambda self, length: PLANTED[fault](self, honest(self, length), length))
    subject = Subject(name, cls, 16, 1, {})
    subject.__dict__["longest"] = 61  # as a long sequence would find
    with pytest.raises(
        Broken, match=r"^declared contraction \d+ is [\d.e+-]+ times the counted \d+ at length 7, batch 1; counted"
    ):
        law.holds(subject)


def counted_model(name):
    """What a whole model declares, and what is counted, of a batch of two sequences."""
    task = Recall(pairs=2)
    model = Model(made(name, {}, dim=16, depth=1), task).eval()
    batch = task.batch("train", 0, 2, 0)
    with torch.no_grad(), Counter() as counter:
        model(batch.inputs, batch.positions)
    return model.flops(task.length, task.answers).batch(2).contraction, counter.contraction


@pytest.mark.parametrize("name", NAMES)
def test_the_head_is_counted_and_its_lack_noticed_in_every_backbone(name, monkeypatch):
    declared, counted = counted_model(name)
    assert declared == counted
    monkeypatch.setattr(Model, "flops", lambda self, length, answers: self.backbone.flops(length))
    headless, counted = counted_model(name)
    assert headless < counted


# other conventions


@pytest.fixture
def runs():
    frame = sweep(TRUTH["archA"], sizes=9)
    return frame.assign(
        params_embedding=0.1 * frame["params"], params_head=0.2 * frame["params"], depth=2, dim=frame["params"] ** 0.5, length=64,
        flops_contraction=0.7 * frame["flops"], flops_mixing=0.3 * frame["flops"], flops_pointwise=0.05 * frame["flops"],
        flops_minimum=0.9 * frame["flops"], seconds=frame["flops"] / 1e12 * (frame["params"] / 1e9) ** -0.2,
    )  # fmt: skip


def test_every_convention_by_hand(runs):
    row = runs.iloc[3]
    n, d, c = row["params"], row["tokens"], row["flops"]
    wanted = {
        "headline": c, "contraction": 0.7 * c, "all": 1.05 * c, "minimum": 0.9 * c, "6nd": 6 * n * d,
        "6nd_nonembedding": 6 * 0.7 * n * d, "palm": (6 * 0.9 * n + 12 * 2 * n**0.5 * 64) * d, "seconds": row["seconds"],
    }  # fmt: skip
    for convention, flops in wanted.items():
        found = restate(runs, convention)
        assert found["flops"].iloc[3] == pytest.approx(flops, rel=1e-12)
        assert (found["convention"] == convention).all()
        back = restate(found, "headline")
        assert back["flops"].to_numpy() == pytest.approx(runs["flops"].to_numpy(), rel=1e-12)


def test_what_is_missing_is_said(runs):
    with pytest.raises(ValueError, match="convention 6NP: there are headline, contraction"):
        restate(runs, "6NP")
    with pytest.raises(ValueError, match="convention palm needs the columns depth, length"):
        restate(runs.drop(columns=["depth", "length"]), "palm")
    runs.loc[4, "flops_minimum"] = math.nan
    with pytest.raises(ValueError, match="needs flops_minimum: 1 of 45 runs were recorded before"):
        restate(runs, "minimum")
    with pytest.raises(ValueError, match="restate one of them"):
        multiplier(runs, restate(runs, "6nd"))


def test_a_constant_factor_moves_flops_and_no_multiplier(runs):
    """A9: what multiplies all FLOPs alike leaves losses and multipliers as they are."""
    other = sweep(TRUTH["archB"], sizes=9)
    other["flops_minimum"] = 0.9 * other["flops"]
    plain, cheaper = frontier(runs, replicates=10), frontier(restate(runs, "minimum"), replicates=10)
    assert cheaper.points["flops"].to_numpy() == pytest.approx(0.9 * plain.points["flops"].to_numpy())
    assert cheaper.points["loss"].to_numpy() == pytest.approx(plain.points["loss"].to_numpy(), rel=1e-4)
    before = multiplier(runs, other, replicates=10).at(3.0)
    after = multiplier(restate(runs, "minimum"), restate(other, "minimum"), replicates=10).at(3.0)
    assert after == pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("power", [-0.3, 0.15])
def test_a_restated_frontier_is_the_least_loss_for_the_restated_cost(runs, power):
    """Against the least loss over sizes at that cost, where cost over FLOPs is a power of size; to 0.3 % of compute."""
    truth = TRUTH["archA"]

    def least(cost):
        def loss(log_n):
            n = math.exp(log_n)
            tokens = cost / (n / 1e9) ** power / 6 / n
            return truth["E"] + truth["A"] / n ** truth["alpha"] + truth["B"] / tokens ** truth["beta"]

        return minimize_scalar(loss, bounds=(math.log(1e6), math.log(1e12)), method="bounded").fun

    runs["seconds"] = runs["flops"] * (runs["params"] / 1e9) ** power
    points = frontier(restate(runs, "seconds"), replicates=10).points
    assert (points["status"] == "ok").all()
    for point in points.itertuples():
        slope = math.log(least(1.01 * point.flops) / least(point.flops)) / math.log(1.01)
        assert abs(math.log(point.loss / least(point.flops)) / slope) < 0.003


def test_restated_costs_that_fall_with_the_budget_are_refused(runs):
    runs["seconds"] = 1 / runs["flops"]
    with pytest.raises(ValueError, match="cost no more in this convention"):
        frontier(restate(runs, "seconds"), replicates=10)


def test_an_optimum_that_no_run_comes_near_is_refused():
    """Seconds of runs that had more beside them than others: the slope of the frontier carries them anywhere."""
    rng = np.random.default_rng(2)
    made = sweep(TRUTH["archA"], 0.003, 3, np.random.default_rng(0)).assign(convention="seconds")
    made = made.assign(budget=made["flops"], flops=made["flops"] * np.exp(rng.normal(0, 1.5, len(made))))
    with pytest.raises(ValueError, match="no run comes near an optimum"):
        frontier(made, replicates=10)


# what others count, as a table


@pytest.mark.parametrize(
    ("dim", "depth", "vocabulary", "length", "bare", "with_head", "everything", "full_attention"),
    [
        (768, 12, 50_257, 1024, 0.64, 0.93, 1.22, 1.07),
        (768, 12, 50_257, 8192, 0.43, 0.62, 0.82, 1.38),
        (128, 4, 256, 2048, 0.42, 0.44, 0.46, 1.56),
    ],
)
def test_published_ratios_of_a_transformer(dim, depth, vocabulary, length, bare, with_head, everything, full_attention):
    """Over exact products, to the two digits that they were worked out to; its softmax is not among products."""
    with torch.device("meta"):
        model: Backbone = plugins.load("architectures", "transformer")(dim, depth, heads=4, mlp="gelu")
    cost = model.flops(length).contraction / length + 2 * dim * vocabulary
    body = 12 * depth * dim**2
    assert 2 * body / cost == pytest.approx(bare, abs=0.006)
    assert 2 * (body + dim * vocabulary) / cost == pytest.approx(with_head, abs=0.006)
    assert 2 * (body + 2 * dim * vocabulary) / cost == pytest.approx(everything, abs=0.006)
    assert palm(body + dim * vocabulary, 1, depth, dim, length) / 3 / cost == pytest.approx(full_attention, abs=0.006)


def test_the_table_of_every_architecture():
    rows = ledger.ledger(NAMES, 16, 1, [33], 32)
    assert [row["architecture"] for row in rows] == NAMES
    frame = pd.DataFrame(rows)
    assert (frame["contraction"] <= frame["headline"]).all()
    assert (frame["minimum"] <= frame["headline"]).all()
    assert (frame["headline"] < frame["all"]).all()
    text = ledger.render(rows).splitlines()
    assert len(text) == len(rows) + 2
    assert {len(line) for line in text} == {len(text[0])}


def test_torch_counts_full_squares_without_numbers():
    """On the meta device: all pairs instead of the causal ones, and twice that backward; products as they are."""
    model = made("transformer", {"mlp": "gelu"}, dim=16, depth=1, device="meta")
    square = model.flops(8) + Flops(contraction=4 * 16 * (8 * 7 // 2) + 2 * 8 * 32 * 16)
    assert ledger.torch_counts(model, 8, 32) == 3 * square.contraction

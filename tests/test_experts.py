"""The mixture of experts: routing, cost, and the loss that keeps it balanced."""

import json
import math

import pytest
import torch
from torch import nn

from architectures.ops.experts import BALANCE, Experts, experts_definition
from architectures.stack import SwiGLU
from lab import overhead, plugins
from lab.cli import main
from lab.conformance import check
from lab.counter import Counter
from lab.model import build, build_task, count_parameters
from lab.planning import Planner, Shape
from lab.recipe import Recipe
from lab.training import Learner, Part, sequence_maps, with_auxiliary


def mixture(dim=12, hidden=10, experts=8, active=2, bias=False):
    torch.manual_seed(0)
    return Experts(dim, lambda: SwiGLU(dim, hidden, bias), experts, active)


def noise(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def crowded(layer, chosen=(5, 2)):
    """Make every position choose the same experts: those with the largest weights, for inputs whose first channel is one."""
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[list(chosen), 0] = torch.tensor([3.0, 2.0]).to(layer.router.weight)
    return layer


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (2, 61), (1, 4096)])
@pytest.mark.parametrize(("experts", "active"), [(8, 2), (4, 1), (3, 3), (16, 2)])
def test_the_same_as_every_expert_on_every_position(batch, length, experts, active):
    layer = mixture(experts=experts, active=active, bias=True).double()
    x = noise(batch, length, 12, dtype=torch.float64).requires_grad_()
    cotangent = noise(batch, length, 12, seed=2, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    fast, slow = layer(x), experts_definition(x, layer)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    for mine, expected in zip(
        torch.autograd.grad((fast * cotangent).sum(), inputs),
        torch.autograd.grad((slow * cotangent).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-9)


def test_one_position_by_hand():
    layer = mixture().double()
    x = noise(12, dtype=torch.float64)
    scores = (layer.router.weight @ x).tolist()
    first, second = sorted(range(8), key=lambda i: -scores[i])[:2]
    weight = 1 / (1 + math.exp(scores[second] - scores[first]))
    expert = [layer.experts[i](x[None, None])[0, 0] for i in (first, second)]
    torch.testing.assert_close(layer(x[None, None])[0, 0], weight * expert[0] + (1 - weight) * expert[1], rtol=0, atol=1e-12)


def test_nothing_is_dropped_where_all_choose_the_same():
    layer = crowded(mixture().double())
    x = noise(4, 50, 12, dtype=torch.float64)
    x[..., 0] = 1
    probabilities, _, chosen = layer.route(x.flatten(0, 1))
    assert (chosen == torch.tensor([5, 2])).all()
    torch.testing.assert_close(layer(x), experts_definition(x, layer), rtol=0, atol=1e-12)
    shares = torch.tensor([0, 0, 0.5, 0, 0, 0.5, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(layer.auxiliary, 0.01 * 8 * (shares * probabilities.mean(0)).sum())


def test_the_auxiliary_loss_by_hand():
    layer, x = mixture(experts=4).double(), noise(2, 9, 12, dtype=torch.float64)
    layer(x)
    shares, means = [0.0] * 4, [0.0] * 4
    for position in x.flatten(0, 1):
        p = (layer.router.weight @ position).softmax(0).tolist()
        for i in sorted(range(4), key=lambda i: -p[i])[:2]:
            shares[i] += 1 / 36
        means = [mean + each / 18 for mean, each in zip(means, p, strict=True)]
    assert layer.auxiliary.item() == pytest.approx(0.01 * 4 * sum(f * p for f, p in zip(shares, means, strict=True)), rel=1e-12)


def test_the_auxiliary_loss_is_its_coefficient_where_routing_is_uniform():
    layer = mixture()
    nn.init.zeros_(layer.router.weight)
    layer(noise(2, 20, 12))
    assert layer.auxiliary.item() == pytest.approx(BALANCE, rel=1e-6)


def test_the_auxiliary_loss_is_of_training_only_and_leaves_the_output_alone():
    layer, x = mixture(), noise(2, 20, 12)
    with torch.no_grad():
        quiet = layer(x)
    assert layer.auxiliary is None
    layer.eval()(x)
    assert layer.auxiliary is None
    assert torch.equal(layer.train()(x), quiet)
    assert layer.auxiliary is not None


def test_the_auxiliary_loss_makes_routing_uniform():
    layer, x = mixture(), noise(1, 512, 12)
    x[..., 0] = 2  # what all have in common, and the router favours
    with torch.no_grad():
        layer.router.weight[:2, 0] += 1.0

    def largest_share():
        return layer.route(x[0])[2].flatten().bincount(minlength=8).max().item() / 1024

    assert largest_share() > 0.4
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(150):
        layer(x)
        optimizer.zero_grad()
        layer.auxiliary.backward()
        optimizer.step()
    assert largest_share() < 0.2


def test_the_lab_trains_on_the_auxiliary_loss_and_records_the_task_s():
    task = build_task("selective_copying", {})
    torch.manual_seed(0)
    model = build("lstm", task, dim=16, depth=2, settings={"mlp": "moe"})
    batch = task.batch("train", 0, 4, 0)
    learner = Learner(model, task, Recipe(), 10).train()
    loss = learner.training_step(Part(batch, 0, 1.0), 0)
    mixtures = [module for module in model.modules() if isinstance(module, Experts)]
    expected = learner.loss + sum(module.auxiliary.item() for module in mixtures)
    assert len(mixtures) == 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert learner.loss == pytest.approx(task.loss(model(batch.inputs, batch.positions), batch.targets).item(), rel=1e-6)
    loss.backward()
    assert all(module.router.weight.grad.any() for module in mixtures)


def test_a_model_without_experts_trains_on_the_task_s_loss_alone():
    task = build_task("selective_copying", {})
    model = build("lstm", task, dim=16, depth=1, settings={})
    batch = task.batch("train", 0, 2, 0)
    loss = task.loss(model(batch.inputs, batch.positions), batch.targets)
    assert with_auxiliary(loss, sequence_maps(model)) is loss


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 7), (3, 61)])
def test_flops_are_those_of_the_active_experts_and_the_router(batch, length, skewed):
    layer, x = mixture(), noise(batch, length, 12)
    x[..., 0] = 1
    if skewed:
        crowded(layer)
    with torch.no_grad(), Counter() as counter:
        layer(x)
    assert not counter.unknown
    assert counter.contraction == batch * layer.flops(length).contraction == batch * length * (2 * 6 * 12 * 10 + 2 * 12 * 8)
    assert layer.flops(length).mixing == 0


@pytest.mark.parametrize("dim", [16, 24, 40, 72])
def test_it_costs_what_the_dense_mixer_costs_and_has_four_times_its_parameters(dim):
    cls = plugins.load("architectures", "lstm")
    dense, routed = (cls(dim, 2, mlp=mlp) for mlp in ("swiglu", "moe"))
    hidden = -(-4 * dim // 3)
    router = 2 * 2 * 8 * dim
    cost = routed.flops(7).contraction // 7 - router
    assert abs(cost - dense.flops(7).contraction // 7) <= 2 * 6 * dim
    without = count_parameters(cls(dim, 2, mlp="none"))
    assert count_parameters(routed) - without == 2 * (8 * 3 * dim * hidden + 8 * dim + dim)


def test_under_autocast_the_choice_is_made_in_float32():
    layer, x = mixture(), noise(200, 12)
    expected = layer.route(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer.route(x)
        assert layer(x[None]).dtype == torch.bfloat16
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_it_is_built_and_read_on_the_meta_device():
    with torch.device("meta"):
        layer = mixture()
        x = torch.zeros(2, 33, 12)
    assert layer(x).shape == x.shape
    assert layer.auxiliary is not None


def test_sixteen_thousand_positions():
    layer, x = mixture(), 100 * noise(1, 16_384, 12)
    y = layer(x)
    (y.square().mean() + layer.auxiliary).backward()
    assert y.isfinite().all()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_laws():
    report = check("lstm:mlp=moe")
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["linear_rnn:mlp=moe", "transformer:preset=gpt2,mlp=moe", "transformer:preset=palm,mlp=moe"])
def test_laws_in_other_blocks(form):
    report = check(form)
    assert report.passed, str(report)


def test_a_bare_loop_trains_it_too():
    spec = overhead._spec_of(Planner(Shape(dim=8, depth=1), batch=2), "linear_rnn:mlp=moe", "selective_copying", 2)
    assert overhead.bare(spec, 2) > 0


def test_a_run_is_done(tmp_path, capsys):
    argv = [
        "run",
        "--architecture",
        "linear_rnn:mlp=moe",
        "--task",
        "selective_copying",
        "--budget",
        "1e7",
        "--dim",
        "8",
        "--depth",
        "1",
    ]
    with pytest.raises(SystemExit) as end:
        main([*argv, "--batch", "2", "--results", str(tmp_path), "--json"])
    assert not end.value.code
    assert json.loads(capsys.readouterr().out)["status"] == "done"

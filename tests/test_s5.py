"""S5: the layer against its equations with conjugates and all, its start as HiPPO, operations, long inputs."""

import math

import pytest
import torch
from torch.nn import functional as F

from architectures.ops import hippo
from architectures.ops.scan import joined, planes
from architectures.s5 import S5, StateSpace
from lab.laws.subject import noise
from lab.model import count_parameters

LENGTHS = [1, 37, 4096]


def written_out(layer: StateSpace, x, state):
    """The recurrence over every state and its conjugate, position by position, from `state`."""
    poles = torch.complex(layer.decay, layer.frequency)
    into = torch.complex(*layer.B.chunk(2, 0))
    out_of = torch.complex(*layer.C.chunk(2, 1)).conj()
    steps = layer.log_dt.exp()
    decay, drive = torch.exp(poles * steps), ((torch.exp(poles * steps) - 1) / poles)[:, None] * into
    decay, drive, out_of = (
        torch.cat([decay, decay.conj()]),
        torch.cat([drive, drive.conj()]),
        torch.cat([out_of, out_of.conj()], 1),
    )
    state = joined(state)
    state, outputs = torch.cat([state, state.conj()], 1), []
    for now in x.unbind(1):
        state = decay * state + now.to(drive.dtype) @ drive.T
        outputs.append((state @ out_of.T).real + layer.D * now)
    g = F.gelu(torch.stack(outputs, 1))
    return g * torch.sigmoid(layer.gate(g)), planes(state[:, : layer.pairs])


@pytest.mark.parametrize("length", LENGTHS)
def test_the_layer_is_its_equations(length):
    torch.manual_seed(0)
    layer = StateSpace(6, 8, 2, 0.001, 0.1).double()
    runs = []
    for run in (layer.stream, lambda x, state: written_out(layer, x, state)):
        x = noise(2, length, 6, dtype=torch.float64).requires_grad_()
        state = noise(2, 8, dtype=torch.float64, seed=1).requires_grad_()
        layer.zero_grad()
        y, last = run(x, state)
        ((y * noise(*y.shape, dtype=torch.float64, seed=2)).sum() + (last * torch.arange(8)).sum()).backward()
        runs.append([y, last, x.grad, state.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * other.abs().max().item())


def test_eigenvalues_start_in_blocks():
    """Of each pair of a HiPPO matrix of 4 the one above the axis; numbers from a simulation in numpy."""
    layer = StateSpace(8, 12, 3, 0.001, 0.1)
    torch.testing.assert_close(layer.decay, torch.full((6,), -0.5))
    torch.testing.assert_close(layer.frequency, torch.tensor([0.556501, 4.603293] * 3), rtol=0, atol=1e-6)


def test_b_and_c_start_real_in_the_basis_of_hippo():
    """V B and C V* of both of each pair are the real matrices that were drawn, and C V* V B is their product."""
    torch.manual_seed(0)
    layer = StateSpace(300, 200, 2, 0.001, 0.1).double()
    vectors = torch.block_diag(*[torch.from_numpy(hippo.legs_normal(100)[2])] * 2)
    into = torch.complex(*layer.B.detach().chunk(2, 0))
    out_of = torch.complex(*layer.C.detach().chunk(2, 1)).conj()
    real_b, real_c = 2 * (vectors @ into).real, 2 * (out_of @ vectors.mH).real
    torch.testing.assert_close(vectors.mH @ real_b.to(vectors.dtype), into, rtol=0, atol=1e-5)
    assert real_b.std() == pytest.approx(1 / math.sqrt(300), rel=0.02)
    assert real_c.std() == pytest.approx(1 / math.sqrt(200), rel=0.02)
    torch.testing.assert_close(real_c @ real_b, 2 * (out_of @ into).real, rtol=0, atol=1e-5)


def test_initial_steps_are_log_uniform():
    torch.manual_seed(0)
    logs = StateSpace(4, 4000, 1000, 0.001, 0.1).log_dt.detach()
    assert math.log(0.001) <= logs.min() < logs.max() <= math.log(0.1)
    assert logs.mean() == pytest.approx(math.log(0.01), abs=0.1)
    assert logs.std() == pytest.approx(math.log(100) / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("causal", [True, False])
def test_parameters(causal):
    dim, depth, states = 24, 3, 16
    layer = 2 * states * dim + 3 * states // 2 + dim + dim * (dim + 1)
    expected = depth * ((1 if causal else 2) * layer + dim) + dim
    assert count_parameters(S5(dim, depth, causal=causal, states=states, mlp="none")) == expected


@pytest.mark.parametrize("length", [1, 7, 33])
@pytest.mark.parametrize("causal", [True, False])
def test_mixing(length, causal):
    """A position: for each pair the gain (a complex product), decay h + drive, and 2 Re; for each channel D x added."""
    product, add = 6, 2
    pair, channel = product + (product + add) + 2, 2
    model = S5(16, 3, causal=causal, states=24)
    assert model.flops(length).mixing == 3 * (1 if causal else 2) * length * (12 * pair + 16 * channel)


def test_default_settings_take_any_multiple_of_eight():
    for dim in (16, 24, 40, 48, 56, 64, 72):
        assert S5(dim, 1)(noise(1, 3, dim)).shape == (1, 3, dim)


@pytest.mark.parametrize("push", [0.0, 1e4])
def test_long_inputs_stay_exact(push):
    """Decays may be very strong; an eigenvalue that would grow is held at the edge."""
    torch.manual_seed(0)
    model = S5(16, 1, mlp="none")
    (layer,) = (module for module in model.modules() if isinstance(module, StateSpace))
    with torch.no_grad():
        layer.decay[::2] -= push
        layer.decay[1::2] += push
    x = noise(1, 16_384, 16)
    y = model(x)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    exact = model.double()(x.double())
    assert (y - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"states": 12}, "states=12 must be an even number for each of blocks=4"), ({"dt_max": 1e-4}, "dt_min=0.001")],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        S5(16, 1, **settings)

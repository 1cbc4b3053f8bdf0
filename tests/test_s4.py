"""S4 and S4D: chunks against the recurrence and the Cauchy kernel, known kernels, initialisation, operations, long inputs."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from architectures.ops import hippo
from architectures.ops.convolution import (
    CHUNK,
    diagonal_tables,
    dplr_tables,
    state_space,
    state_space_definition,
    state_space_flops,
)
from architectures.s4 import S4, Diagonal, DiagonalPlusLowRank, eigenvalues
from lab.laws.subject import noise
from lab.model import count_parameters

LENGTHS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK - 3, 4096]
BATCH, CHANNELS, PAIRS = 2, 3, 4


def both(x: Tensor) -> Tensor:
    return torch.cat([x, x.conj()], -1)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.view_as_complex(noise(*shape, 2, dtype=torch.float64, seed=seed))


def system(length: int) -> dict[str, Tensor]:
    """Decays, columns and rows of a stable system, its input and a state before it, all with gradients."""
    turn = numbers(CHANNELS, PAIRS, seed=0)
    radius = torch.sigmoid(turn.real + 2)
    push = 0.2 * numbers(CHANNELS, PAIRS, seed=3)
    given = {
        "decay": torch.polar(radius, 3 * turn.imag),
        "drive": numbers(CHANNELS, PAIRS, seed=1),
        "read": numbers(CHANNELS, PAIRS, seed=2),
        "push": push,
        "sense": push.conj().resolve_conj() * (1 - radius),
        "u": noise(BATCH, length, CHANNELS, dtype=torch.float64, seed=4),
        "state": numbers(BATCH, CHANNELS, PAIRS, seed=5),
    }
    return {name: tensor.requires_grad_() for name, tensor in given.items()}


def fast_diagonal(decay, drive, read, push, sense, u, state):
    y, state = state_space(diagonal_tables(decay, read * drive, u.shape[1]), u, state / drive)
    return y, state * drive


def fast_dplr(decay, drive, read, push, sense, u, state):
    return state_space(dplr_tables(decay, drive, read, push, sense, u.shape[1]), u, state)


def by_definition(feedback, decay, drive, read, push, sense, u, state):
    a = torch.diag_embed(both(decay))
    if feedback:
        a = a - both(push)[:, :, None] * both(sense)[:, None]
    y, state = state_space_definition(a, both(drive), both(read), u, both(state))
    return y, state[..., :PAIRS]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("feedback", [False, True], ids=["diagonal", "dplr"])
def test_chunks_are_the_recurrence(feedback, length):
    ours, theirs = system(length), system(length)
    got = (fast_dplr if feedback else fast_diagonal)(**ours)
    want = by_definition(feedback, **theirs)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    for y, state in (got, want):
        weight = noise(*y.shape, dtype=torch.float64, seed=6)
        ((y * weight).sum() + state.real.sum() + 2 * state.imag.sum()).backward()
    for name, tensor in theirs.items():
        if feedback or name not in ("push", "sense"):
            assert tensor.grad is not None
            largest = tensor.grad.abs().max().item()
            torch.testing.assert_close(
                ours[name].grad, tensor.grad, rtol=0, atol=1e-10 * largest, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_no_positions_leave_the_state():
    layer = DiagonalPlusLowRank(3, 8, 0.01, 0.1)
    before = layer.stream(noise(2, 5, 3), layer.init_state(2))[1]
    y, state = layer.stream(noise(2, 0, 3), before)
    assert y.shape == (2, 0, 3)
    assert torch.equal(state, before)


def impulse(layer: Diagonal, length: int) -> Tensor:
    """K of each channel, (dim, length)."""
    u = torch.zeros(1, length, layer.dim).to(layer.D)
    u[:, 0] = 1
    return state_space(layer.tables(length), u, layer.init_state(1))[0][0].T


@pytest.mark.parametrize("length", [64, 97])
def test_the_kernel_is_the_cauchy_kernel(length):
    """S4's section 4.3: K from its generating function at the roots of unity, -1 among them, by Cauchy products and Woodbury."""
    layer = DiagonalPlusLowRank(3, 16, 0.01, 0.1).double()
    with torch.no_grad():
        layer.P += noise(*layer.P.shape, dtype=torch.float64)
        a, dt = both(layer.poles()), layer.log_dt.exp()
        p, b, c = (both(torch.view_as_complex(parameter)) for parameter in (layer.P, layer.B, layer.C))
        dense = torch.diag_embed(a) - p[:, :, None] * p.conj()[:, None]
        stepped = torch.stack([hippo.bilinear(m, v, step.item())[0] for m, v, step in zip(dense, b, dt, strict=True)])
        truncated = c - torch.einsum("dn,dnm->dm", c, torch.linalg.matrix_power(stepped, length))
        z = torch.exp(-2j * math.pi * torch.arange(length, dtype=torch.float64) / length)

        def cauchy(left: Tensor, right: Tensor) -> Tensor:
            poles = 2 * (1 - z) - (dt * a)[..., None] * (1 + z)
            return ((left * right * 2 * dt)[..., None] / poles).sum(1)

        woodbury = cauchy(truncated, p) * cauchy(p.conj(), b) * (1 + z) / (2 + (1 + z) * cauchy(p.conj(), p))
        kernel = torch.fft.ifft(cauchy(truncated, b) - woodbury).real
        torch.testing.assert_close(impulse(layer, length), kernel, rtol=0, atol=1e-12 * kernel.abs().max().item())


def test_s4_starts_as_hippo():
    """Its kernel with C = 1 in the basis of LegS is that of tests/test_hippo.py: bilinear, N = 4, dt = 0.1."""
    layer = DiagonalPlusLowRank(1, 4, 0.1, 0.1).double()
    vectors = torch.from_numpy(hippo.legs_normal(4)[2])
    with torch.no_grad():
        layer.C.copy_(torch.view_as_real(vectors.sum(0)))
        want = [0.5470522, 0.22343937, 0.06399393, -0.00459942, -0.02562155, -0.02392916, -0.01325228, -0.00073676]
        # the initial values were rounded to float32
        torch.testing.assert_close(impulse(layer, 8)[0], torch.tensor(want).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("discretisation", "want"),
    [
        ("zoh", [0.38701121, 0.35034119, 0.30098495, 0.24402016, 0.18480892, 0.12845668, 0.07934722, 0.04079088]),
        ("bilinear", [0.3857666, 0.34987723, 0.3014449, 0.2453625, 0.18682839, 0.13082682, 0.0816769, 0.04268614]),
    ],
)
def test_kernels_of_s4d_lin(discretisation, want):
    """N = 4, dt = 0.1, C = 1; numbers from a simulation in numpy."""
    layer = Diagonal(1, 4, "lin", discretisation, 0.1, 0.1).double()
    with torch.no_grad():
        layer.C.copy_(torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(impulse(layer, 8)[0], torch.tensor(want).double(), rtol=0, atol=1e-7)


def test_s4_without_low_rank_is_s4d():
    whole, part = DiagonalPlusLowRank(4, 8, 0.01, 0.1).double(), Diagonal(4, 8, "legs", "bilinear", 0.01, 0.1).double()
    part.load_state_dict(whole.state_dict(), strict=False)
    torch.nn.init.zeros_(whole.P)
    x = noise(2, 77, 4, dtype=torch.float64)
    torch.testing.assert_close(whole(x), part(x), rtol=0, atol=1e-12)


def test_the_layer_is_its_equations():
    layer = Diagonal(4, 8, "inv", "zoh", 0.01, 0.1).double()
    x = noise(2, 50, 4, dtype=torch.float64)
    decay, gain = hippo.diagonal_zoh(layer.poles(), layer.log_dt.exp())
    drive, read = gain * torch.view_as_complex(layer.B), torch.view_as_complex(layer.C)
    y, _ = state_space_definition(torch.diag_embed(both(decay)), both(drive), both(read), x, numbers(2, 4, 8, seed=1) * 0)
    value, gate = layer.out(F.gelu(y + layer.D * x)).chunk(2, -1)
    torch.testing.assert_close(layer(x), value * torch.sigmoid(gate), rtol=0, atol=1e-12)


def test_initial_eigenvalues():
    """S4D-Inv of 64 in numbers, Lin and Real by their formulas; LegS is in tests/test_hippo.py."""
    inverse = eigenvalues("inv", 64)
    assert inverse.imag[[0, 1, 2, -2, -1]] == pytest.approx([1283.43, 414.227, 240.39, 1.00189, 0.32336], abs=5e-3)
    assert eigenvalues("lin", 8) == pytest.approx([-0.5 + 1j * math.pi * n for n in range(4)])
    assert eigenvalues("real", 8) == pytest.approx([-1, -2, -3, -4])
    for init in ("legs", "lin", "inv", "real"):
        layer = Diagonal(2, 16, init, "zoh", 0.001, 0.1)
        wanted = torch.from_numpy(eigenvalues(init, 16)).to(torch.complex64)
        torch.testing.assert_close(layer.poles(), wanted.expand(2, -1), rtol=1e-6, atol=0)


def test_initial_moments():
    torch.manual_seed(0)
    layer = Diagonal(2000, 8, "legs", "zoh", 0.001, 0.1)
    logs = layer.log_dt.detach()
    assert math.log(0.001) <= logs.min() < logs.max() <= math.log(0.1)
    assert logs.mean() == pytest.approx(math.log(0.01), abs=0.1)
    assert logs.std() == pytest.approx(math.log(100) / math.sqrt(12), rel=0.05)
    assert layer.C.std().item() == pytest.approx(math.sqrt(0.5), rel=0.05)
    assert layer.D.std().item() == pytest.approx(1, rel=0.05)
    assert layer.B[0].square().sum().item() == pytest.approx(8**2 / 2)  # B* B = sum of 2n+1, half of it in one of each pair


@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
@pytest.mark.parametrize("causal", [True, False])
def test_parameters(kernel, causal):
    """A layer: dt, D; a, B, C and p of N/2 complex numbers a channel; the map to the gate with its biases; a norm of each."""
    dim, depth, modes = 24, 3, 16
    layer = dim * (2 + modes * (4 if kernel == "dplr" else 3)) + 2 * dim * (dim + 1)
    expected = depth * ((1 if causal else 2) * layer + dim) + dim
    assert count_parameters(S4(dim, depth, causal=causal, kernel=kernel, modes=modes, mlp="none")) == expected


def complex_product():
    return 4 + 2


def mixing_by_hand(length, dim, pairs, feedback):
    """The equations of tables and carried states, one entry and one chunk at a time."""
    product, add = complex_product(), 2
    entries = min(length, CHUNK) * dim * pairs
    power, real_of_product = product + add, 3
    if feedback:
        through_a = product + (real_of_product + 1) + 2 + add  # decay * row - right * real(left . row)
        tables = entries * (power + product + 3 * through_a + real_of_product + 1)
    else:
        tables = entries * (power + product + 1)
    chunks = -(-length // CHUNK)
    carried = chunks * dim * pairs * (product + add + (add if feedback else 0))
    return tables + carried + length * dim * 2


@pytest.mark.parametrize("length", [1, 7, CHUNK, CHUNK + 1, 1000])
@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
@pytest.mark.parametrize("causal", [True, False])
def test_mixing(length, kernel, causal):
    model = S4(16, 3, causal=causal, kernel=kernel, modes=8)
    assert model.flops(length).mixing == 3 * (1 if causal else 2) * mixing_by_hand(length, 16, 4, kernel == "dplr")


def test_cost_is_linear_in_length():
    for feedback in (False, True):
        costs = [state_space_flops(chunks * CHUNK, 8, 4, feedback=feedback).headline for chunks in (1, 101, 201)]
        assert costs[2] - costs[1] == costs[1] - costs[0]


LONG = 16_384


@pytest.mark.parametrize("settings", [{}, {"kernel": "diagonal"}, {"kernel": "diagonal", "init": "inv"}], ids=str)
def test_long_inputs_stay_exact(settings):
    torch.manual_seed(0)
    model = S4(8, 1, mlp="none", **settings)
    x = noise(1, LONG, 8)
    y = model(x)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    exact = model.double()(x.double())
    assert (y - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
def test_it_runs_on_the_meta_device(kernel):
    with torch.device("meta"):
        model = S4(16, 1, kernel=kernel)
        y, _ = model.stream(torch.zeros(1, 100, 16), model.init_state(1))
    assert y.shape == (1, 100, 16)


@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
def test_states_are_not_rounded_under_autocast(kernel):
    layer = S4(8, 1, mlp="none", kernel=kernel)
    x = noise(1, 200, 8)
    with torch.no_grad():
        _, exact = layer.stream(x, layer.init_state(1))
        with torch.autocast("cpu", torch.bfloat16):
            _, state = layer.stream(x, layer.init_state(1))
    assert torch.equal(state[0], exact[0])


@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
def test_strong_decays_do_not_overflow(kernel):
    model = S4(8, 1, mlp="none", kernel=kernel)
    for name, parameter in model.named_parameters():
        if name.endswith(("log_decay", "log_dt")):
            torch.nn.init.constant_(parameter, 6.0)
    y = model(noise(1, LONG, 8))
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modes": 7}, "modes=7 must be even"),
        ({"dt_min": 0.2}, "dt_min=0.2, dt_max=0.1"),
        ({"init": "lin"}, "need kernel=diagonal"),
        ({"discretisation": "zoh"}, "need kernel=diagonal"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        S4(8, 1, **settings)

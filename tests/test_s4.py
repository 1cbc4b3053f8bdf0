"""S4 and S4D: chunks against the recurrence and the Cauchy kernel, known kernels, initialisation, operations, long inputs."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from architectures import s4 as s4_module
from architectures.ops import cauchy as cauchy_module
from architectures.ops import hippo, native
from architectures.ops import long_convolution as long_module
from architectures.ops.cauchy import MOST, SPAN, generating_function_definition, row_power
from architectures.ops.convolution import CHUNK, System, row, state_space, state_space_definition
from architectures.ops.long_convolution import long_convolution, long_convolution_definition
from architectures.s4 import S4, Diagonal, DiagonalPlusLowRank, eigenvalues
from lab.counter import Counter
from lab.laws.subject import noise
from lab.model import count_parameters

LENGTHS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK - 3, 7 * CHUNK, 4096]
BATCH, CHANNELS, PAIRS = 2, 3, 5


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
        "direct": noise(CHANNELS, dtype=torch.float64, seed=6),
        "sense": push.conj().resolve_conj() * (1 - radius),
        "u": noise(BATCH, length, CHANNELS, dtype=torch.float64, seed=4),
        "state": numbers(BATCH, CHANNELS, PAIRS, seed=5),
    }
    return {name: tensor.requires_grad_() for name, tensor in given.items()}


def in_chunks(feedback, decay, drive, read, direct, push, sense, u, state):
    return state_space(System(decay, drive, read, direct, (push, sense) if feedback else None), u, state)


def by_definition(feedback, decay, drive, read, direct, push, sense, u, state):
    a = torch.diag_embed(both(decay))
    if feedback:
        a = a - both(push)[:, :, None] * both(sense)[:, None]
    y, state = state_space_definition(a, both(drive), both(read), u, both(state))
    return y + direct * u, state[..., :PAIRS]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "tensors"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("feedback", [False, True], ids=["diagonal", "dplr"])
def test_chunks_are_the_recurrence(monkeypatch, feedback, length, compiled):
    if not compiled:
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    ours, theirs = system(length), system(length)
    got = in_chunks(feedback, **ours)
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


@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
def test_long_sequences_are_trained_in_chunks_and_counted_in_fourier_space(monkeypatch, kernel):
    """Both forms are the same map, with the same gradients."""
    torch.manual_seed(0)
    layer = made(kernel, 4, 16)
    x, weight = noise(2, 2500, 4, dtype=torch.float64).requires_grad_(), noise(2, 2500, 4, dtype=torch.float64, seed=1)
    given, found, convolved = [x, *layer.parameters()], [], []
    monkeypatch.setattr(s4_module, "long_convolution", lambda *each: convolved.append(each) or long_convolution(*each))
    for form in (nullcontext(), Counter()):
        with form:
            y = layer(x)
            found.append((y.detach(), *torch.autograd.grad((y * weight).sum(), given)))
        assert len(convolved) == isinstance(form, Counter)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * other.abs().max().item())
    with native.timed(), Counter():
        layer(x)
    assert len(convolved) == 1


def test_no_positions_leave_the_state():
    layer = DiagonalPlusLowRank(3, 8, 0.01, 0.1)
    before = layer.stream(noise(2, 5, 3), layer.init_state(2))[1]
    y, state = layer.stream(noise(2, 0, 3), before)
    assert y.shape == (2, 0, 3)
    assert torch.equal(state, before)


def made(kernel: str, dim: int, modes: int) -> Diagonal:
    """With `lin` and without low rank, numbers that are zero have gradients."""
    if kernel == "without low rank":
        layer = DiagonalPlusLowRank(dim, modes, 0.001, 0.1).double()
        torch.nn.init.zeros_(layer.P)
        return layer
    if kernel == "dplr":
        layer = DiagonalPlusLowRank(dim, modes, 0.001, 0.1).double()
        with torch.no_grad():
            layer.P.add_(noise(*layer.P.shape, dtype=torch.float64))
        return layer
    return Diagonal(dim, modes, "lin", "zoh", 0.001, 0.1).double()


def by_recurrence(layer: Diagonal, length: int) -> Tensor:
    """K of each channel, (dim, length), one position after the other."""
    system = layer.system()
    matrix, x, values = system.matrix(), torch.cat([system.drive.real, system.drive.imag], 1), []
    for _ in range(length):
        values.append((row(system.read) * x).sum(1))
        x = (matrix @ x[:, :, None])[:, :, 0]
    return torch.stack(values, 1)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "tensors"])
@pytest.mark.parametrize("kernel", ["dplr", "without low rank", "diagonal"])
@pytest.mark.parametrize("length", [1, 2, 3, 64, 97, 600, 1024])
def test_the_kernel_is_the_recurrence(monkeypatch, length, kernel, compiled):
    """For dplr from its generating function at the roots of unity, -1 among them; with all gradients."""
    if not compiled:
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    layer = made(kernel, 3, 16)
    weight = noise(3, length, dtype=torch.float64, seed=1)
    used = [p for name, p in layer.named_parameters() if name != "D" and not name.startswith("out")]
    kernels = layer.kernel(length), by_recurrence(layer, length)
    torch.testing.assert_close(kernels[0], kernels[1], rtol=0, atol=1e-12 * kernels[1].abs().max().item())
    ours, theirs = (torch.autograd.grad((k * weight).sum(), used) for k in kernels)
    for one, other in zip(ours, theirs, strict=True):
        # at few positions some gradients are what is left of larger terms
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * other.abs().max().item() + 1e-12)


@pytest.mark.parametrize("length", [64, 97])
def test_the_generating_function_is_the_papers(length):
    """Appendix C.3: sums of complex numbers over all poles, conjugates too; slabs of frequencies are the whole."""
    layer = made("dplr", 3, 16)
    a, dt = both(layer.poles()), layer.log_dt.exp()
    p, b, c = (both(torch.view_as_complex(parameter)) for parameter in (layer.P, layer.B, layer.C))  # pyright: ignore[reportArgumentType]
    dense = torch.diag_embed(a) - p[:, :, None] * p.conj()[:, None]
    stepped = torch.stack([hippo.bilinear(m, v, step.item())[0] for m, v, step in zip(dense, b, dt, strict=True)])
    truncated = c - torch.einsum("dn,dnm->dm", c, torch.linalg.matrix_power(stepped, length))
    z = torch.exp(-2j * math.pi * torch.arange(length, dtype=torch.float64) / length)

    def cauchy(left: Tensor, right: Tensor) -> Tensor:
        poles = 2 * (1 - z) - (dt * a)[..., None] * (1 + z)
        return ((left * right * 2 * dt)[..., None] / poles).sum(1)

    woodbury = cauchy(truncated, p) * cauchy(p.conj(), b) * (1 + z) / (2 + (1 + z) * cauchy(p.conj(), p))
    kernel = torch.fft.ifft(cauchy(truncated, b) - woodbury).real
    torch.testing.assert_close(layer.kernel(length), kernel, rtol=0, atol=1e-12 * kernel.abs().max().item())


def test_gradients_of_the_generating_function(monkeypatch):
    weights, poles = noise(2, 3, 8, dtype=torch.float64), noise(2, 3, 2, dtype=torch.float64, seed=1).abs() + 0.1
    given = [x.requires_grad_() for x in (weights, poles)]
    want = generating_function_definition(given[0], given[1], 600)
    weight = numbers(*want.shape, seed=2)
    wanted = torch.autograd.grad((want * weight).real.sum(), given)
    for slab in (None, 500):
        if slab:
            monkeypatch.setattr(native, "kernels", lambda *_: None)
            monkeypatch.setattr(cauchy_module, "SLAB", slab)
        got = cauchy_module._Generating.apply(*given, 600)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        for one, other in zip(torch.autograd.grad((got * weight).real.sum(), given), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * other.abs().max().item())


@pytest.mark.parametrize("length", [1, 2, 37, 300])
def test_long_convolution(monkeypatch, length):
    """Also in slabs that do not divide the channels."""
    u, kernel = noise(2, length, 5, dtype=torch.float64), noise(5, length, dtype=torch.float64, seed=1)
    given = [x.requires_grad_() for x in (u, kernel)]
    want = long_convolution_definition(*given)
    weight = noise(*want.shape, dtype=torch.float64, seed=2)
    wanted = torch.autograd.grad((want * weight).sum(), given)
    for slab in (long_module.SLAB, 8 * length):
        monkeypatch.setattr(long_module, "SLAB", slab)
        got = long_convolution(*given)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
        for one, other in zip(torch.autograd.grad((got * weight).sum(), given), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("times", [0, 1, 13, SPAN, SPAN + 1, 5 * SPAN, MOST * SPAN, (MOST + 3) * SPAN + 2, 5 * MOST * SPAN + 7])
def test_powers(times):
    """Of a layer as it starts, and with another column p."""
    for stir in (0.0, 0.3):
        torch.manual_seed(0)
        layer = S4(3, 1, modes=8).double().layers[0].inner
        with torch.no_grad():
            layer.P += stir * noise(*layer.P.shape, dtype=torch.float64)
        system = layer.system()
        want = (row(system.read)[:, None] @ torch.linalg.matrix_power(system.matrix(), times))[:, 0]
        largest = row(system.read).abs().max().item()
        torch.testing.assert_close(row(row_power(system, times)), want, rtol=0, atol=1e-11 * largest)


@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
def test_kernels_of_long_sequences_in_float32(kernel):
    """Steps from 0.001 to 0.1."""
    torch.manual_seed(0)
    layer = DiagonalPlusLowRank(16, 64, 0.001, 0.1) if kernel == "dplr" else Diagonal(16, 64, "legs", "zoh", 0.001, 0.1)
    with torch.no_grad():
        single, exact = layer.kernel(LONG), layer.double().kernel(LONG)
        assert (single - exact).abs().max() < 1e-4 * exact.abs().max()


def test_s4_starts_as_hippo():
    """Its kernel with C = 1 in the basis of LegS is that of tests/test_hippo.py: bilinear, N = 4, dt = 0.1."""
    layer = DiagonalPlusLowRank(1, 4, 0.1, 0.1).double()
    vectors = torch.from_numpy(hippo.legs_normal(4)[2])
    with torch.no_grad():
        layer.C.copy_(torch.view_as_real(vectors.sum(0)))
        want = [0.5470522, 0.22343937, 0.06399393, -0.00459942, -0.02562155, -0.02392916, -0.01325228, -0.00073676]
        # the initial values were rounded to float32
        torch.testing.assert_close(layer.kernel(8)[0], torch.tensor(want).double(), rtol=0, atol=1e-6)


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
        torch.testing.assert_close(layer.kernel(8)[0], torch.tensor(want).double(), rtol=0, atol=1e-7)


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


def by_hand(length, dim, pairs, kernel):
    """What each sequence costs, and what a batch shares: entry by entry, pole by pole."""
    product, add = 6, 2
    transform = round(2.5 * 2 * length * math.log2(2 * length))
    each = dim * (2 * transform + (length + 1) * product)
    if kernel == "diagonal":
        size = 2 ** (length.bit_length() // 2)
        times = math.ceil(length / size)
        made = product * pairs * (size + times + times + 1)  # powers; those of rows times what they start from, itself a product
        contraction = 2 * size * times * 2 * pairs
    else:
        pole = 4 + 3 + 3
        frequency = 4 * 4 + 2 * product + 1 + product + product + 2 + add + 1 + add + product
        made = (length // 2 + 1) * (pole * pairs + frequency) + round(2.5 * length * math.log2(length))
        sums = (length // 2 + 1) * 2 * 8 * 2 * pairs
        meets = 4 + 2 + product + 2 + 2  # a row and A: two parts of c push and their difference, sums; decay c; sense; difference
        spans, rest = divmod(length, 16)
        made += pairs * meets * rest
        contraction = sums
        if spans:
            made += pairs * 15 * (meets + 2 * product)
            contraction += 2 * (2 * pairs) ** 2 * (16 + spans)  # here never more than 64 spans
    return each, dim * (transform + made + 1), dim * contraction


@pytest.mark.parametrize("length", [1, 7, 64, 1000])
@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
@pytest.mark.parametrize("causal", [True, False])
def test_operations(length, kernel, causal):
    cost = S4(16, 3, causal=causal, kernel=kernel, modes=8).flops(length)
    each, shared, contraction = (3 * (1 if causal else 2) * n for n in by_hand(length, 16, 4, kernel))
    assert cost.shared is not None
    assert (cost.mixing, cost.shared.mixing, cost.shared.contraction) == (each, shared, contraction)


def test_what_a_batch_shares_is_counted_once():
    cost = S4(16, 1).flops(100)
    assert cost.shared is not None
    assert cost.batch(5).headline == 5 * cost.headline + cost.shared.headline
    assert (cost * 3).batch(5) == cost.batch(5) * 3


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


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "tensors"])
@pytest.mark.parametrize("kernel", ["dplr", "diagonal"])
def test_long_sequences_go_back_under_autocast(monkeypatch, kernel, compiled):
    """In the precision of the states, wherever the way back is asked for."""
    if not compiled:
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    layer, x = S4(8, 1, mlp="none", kernel=kernel), noise(1, 2100, 8)
    found = []
    for inside in (True, False):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(x).float().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append(layer.layers[0].get_submodule("inner").get_parameter("C").grad.clone())
    torch.testing.assert_close(*found, rtol=0, atol=1e-2 * found[0].abs().max().item())


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

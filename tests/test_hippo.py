"""HiPPO operators against the functions they stand for; discretisations against scipy; numbers from a simulation in numpy."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, signal, special

from architectures.ops import hippo
from lab.laws.subject import noise


def test_kernels_are_the_basis():
    """exp(A s) B, the weight of the input s ago: orthonormal polynomials in exp(-s) for LegS, Laguerre functions for LagT."""
    for age in (0.0, 0.3, 1.7):
        a, b = hippo.legs(9)
        warped = [math.sqrt(2 * n + 1) * special.eval_legendre(n, 2 * math.exp(-age) - 1) * math.exp(-age) for n in range(9)]
        np.testing.assert_allclose(linalg.expm(a * age) @ b, warped, atol=1e-12)
        a, b = hippo.lagt(9)
        np.testing.assert_allclose(
            linalg.expm(a * age) @ b, [special.eval_laguerre(n, age) * math.exp(-age / 2) for n in range(9)], atol=1e-12
        )


@pytest.mark.parametrize("operator", [hippo.legs, hippo.legt, hippo.fourier])
def test_a_constant_is_its_own_first_coefficient(operator):
    a, b = operator(8)
    first = np.eye(8)[0]
    np.testing.assert_allclose(a @ first + b, 0, atol=1e-12)


def remembered(operator, size, dt=1e-3, steps=3000):
    """The state after a band-limited signal of `steps` steps, and the signal."""
    rng = np.random.default_rng(0)
    waves = [(rng.normal(), rng.uniform(0.2, 3), rng.uniform(0, 2 * math.pi)) for _ in range(12)]
    u = sum(height * np.sin(2 * math.pi * frequency * dt * np.arange(steps) + phase) for height, frequency, phase in waves)
    a, b = (tensor.numpy() for tensor in hippo.bilinear(*map(torch.from_numpy, operator(size)), dt))
    x = np.zeros(size)
    for value in u:
        x = a @ x + b * value
    return x, u


def error(reconstructed, truth):
    return np.sqrt(np.mean((reconstructed - truth) ** 2) / np.mean(truth**2))


def test_the_past_is_reconstructed():
    """An independent simulation erred by .0044 in the last second with LegT of 16 and .0106 with LegS of 64; twice is granted."""
    age = (np.arange(1000) + 0.5) * 1e-3
    x, u = remembered(hippo.legt, 16)
    basis = [math.sqrt(2 * n + 1) * special.eval_legendre(n, 1 - 2 * age) for n in range(16)]
    assert error(x @ basis, u[::-1][:1000]) < 0.009
    x, u = remembered(hippo.legs, 64)
    basis = [math.sqrt(2 * n + 1) * special.eval_legendre(n, 2 * np.exp(-age) - 1) for n in range(64)]
    assert error(x @ basis, u[::-1][:1000]) < 0.021


def test_the_fourier_operator_keeps_the_waves_that_fit_its_window():
    dt, window = 1e-4, 0.5
    a, b = (tensor.numpy() for tensor in hippo.bilinear(*map(torch.from_numpy, hippo.fourier(8, window)), dt))
    x = np.zeros(8)
    for t in range(40000):
        x = a @ x + b * math.cos(2 * math.pi * (t + 0.5) * dt / window)
    assert x[2] ** 2 + x[3] ** 2 == pytest.approx(0.5, abs=2e-3)
    np.testing.assert_allclose(np.delete(x, [2, 3]), 0, atol=2e-3)


def test_legt_is_the_operator_of_the_legendre_memory_unit():
    size, window = 12, 0.7
    n, k = np.arange(size)[:, None], np.arange(size)
    a = (2 * n + 1) / window * np.where(n < k, -1.0, (-1.0) ** (n - k + 1))
    b = (2 * k + 1) * (-1.0) ** k / window
    turn = np.sqrt(2 * k + 1) * (-1.0) ** k
    ours_a, ours_b = hippo.legt(size, window)
    np.testing.assert_allclose(turn[:, None] * ours_a / turn, a, atol=1e-11)
    np.testing.assert_allclose(turn * ours_b, b, atol=1e-11)


def test_legs_is_normal_plus_low_rank():
    for size in (4, 64):
        a, p, vectors = hippo.legs_normal(size)
        both, low = np.concatenate([a, a.conj()]), np.concatenate([p, p])
        basis = np.concatenate([vectors, vectors.conj()], 1)
        np.testing.assert_allclose(basis.conj().T @ basis, np.eye(size), atol=1e-12)
        whole = basis @ (np.diag(both) - np.outer(low, low)) @ basis.conj().T
        np.testing.assert_allclose(whole, hippo.legs(size)[0], atol=1e-10)
        np.testing.assert_allclose(basis @ (math.sqrt(2) * low), hippo.legs(size)[1], atol=1e-11)
        assert p.min() > 0


def test_frequencies_of_legs():
    frequency = {size: hippo.legs_normal(size)[0].imag for size in (4, 8, 64)}
    np.testing.assert_allclose(frequency[4], [0.556501, 4.603293], atol=1e-6)
    np.testing.assert_allclose(frequency[8], [0.427489, 1.957794, 5.354209, 19.85741], atol=1e-5)
    np.testing.assert_allclose(frequency[64][:3], [0.263857, 0.905859, 1.702968], atol=1e-6)
    np.testing.assert_allclose(frequency[64][-3:], [258.152, 433.031, 1303.274], atol=1e-3)


DISCRETE = {  # LegS of 4, dt = 0.1
    hippo.bilinear: (
        [[0.904762], [-0.149961, 0.818182], [-0.15993, -0.306165, 0.73913], [-0.141923, -0.271694, -0.428701, 0.666667]],
        [0.095238, 0.149961, 0.15993, 0.141923],
    ),
    hippo.zoh: (
        [[0.904837], [-0.149141, 0.818731], [-0.155895, -0.301754, 0.740818], [-0.129734, -0.25511, -0.417073, 0.67032]],
        [0.095163, 0.149141, 0.155895, 0.129734],
    ),
}


@pytest.mark.parametrize("rule", DISCRETE)
def test_discretisations_of_legs(rule):
    a, b = rule(*map(torch.from_numpy, hippo.legs(4)), 0.1)
    rows, drive = DISCRETE[rule]
    np.testing.assert_allclose(a, [row + [0] * (4 - len(row)) for row in rows], atol=1e-6)
    np.testing.assert_allclose(b, drive, atol=1e-6)


def test_kernel_of_legs():
    """Bilinear, dt = 0.1, C = 1."""
    a, b = hippo.bilinear(*map(torch.from_numpy, hippo.legs(4)), 0.1)
    kernel = [(torch.linalg.matrix_power(a, t) @ b).sum() for t in range(8)]
    want = [0.5470522, 0.22343937, 0.06399393, -0.00459942, -0.02562155, -0.02392916, -0.01325228, -0.00073676]
    np.testing.assert_allclose(kernel, want, atol=1e-7)


@pytest.mark.parametrize("operator", [hippo.legs, hippo.legt, hippo.lagt, hippo.fourier])
def test_discretisations_are_scipys(operator):
    a, b = operator(6)
    for rule, method in ((hippo.bilinear, "bilinear"), (hippo.zoh, "zoh")):
        got_a, got_b = rule(torch.from_numpy(a), torch.from_numpy(b), 0.05)
        want_a, want_b, *_ = signal.cont2discrete((a, b[:, None], np.ones((1, 6)), np.zeros((1, 1))), 0.05, method)
        np.testing.assert_allclose(got_a, want_a, atol=1e-12)
        np.testing.assert_allclose(got_b, want_b[:, 0], atol=1e-12)


def systems(channels=3, modes=4):
    draws = [torch.view_as_complex(noise(channels, modes, 2, dtype=torch.float64, seed=seed)) for seed in range(3)]
    a = torch.complex(-draws[0].real.exp(), 5 * draws[0].imag)
    return a, draws[1], draws[2], torch.tensor([[0.01], [0.1], [0.5]]).double()


def both(x):
    return torch.cat([x, x.conj()], -1)


@pytest.mark.parametrize(
    ("fast", "slow"), [(hippo.diagonal_bilinear, hippo.bilinear), (hippo.diagonal_zoh, hippo.zoh)], ids=["bilinear", "zoh"]
)
def test_diagonal_discretisations_are_the_dense_ones(fast, slow):
    a, _, b, steps = systems()
    decay, gain = fast(a, steps)
    for channel, dt in enumerate(steps):
        want_a, want_b = slow(a[channel].diag(), b[channel], dt.item())
        torch.testing.assert_close(decay[channel].diag(), want_a, rtol=0, atol=1e-13)
        torch.testing.assert_close((gain * b)[channel], want_b, rtol=0, atol=1e-13)


def test_a_short_step_keeps_its_digits():
    a = torch.tensor([-0.5 + 0.3j])
    _, gain = hippo.diagonal_zoh(a, torch.tensor([1e-6]))
    assert abs(gain.item() - 1e-6) < 1e-12


def test_the_low_rank_rule_is_the_dense_one():
    a, p, b, steps = systems()
    decay, drive, push, sense = hippo.dplr_bilinear(a, p, b, steps)
    for channel, dt in enumerate(steps):
        low = both(p[channel])
        want_a, want_b = hippo.bilinear(both(a[channel]).diag() - torch.outer(low, low.conj()), both(b[channel]), dt.item())
        got = both(decay[channel]).diag() - torch.outer(both(push[channel]), both(sense[channel]))
        torch.testing.assert_close(got, want_a, rtol=0, atol=1e-13)
        torch.testing.assert_close(both(drive[channel]), want_b, rtol=0, atol=1e-13)

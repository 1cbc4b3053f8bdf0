"""The scan against its definition: values and gradients, any length, real and complex."""

import pytest
import torch

from architectures.ops import native
from architectures.ops.scan import CHUNK, _Scan, joined, planar_scan, planes, scan, scan_definition

BATCH, STATES = 2, 3
LENGTHS = [1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 63, 255, CHUNK**2, CHUNK**2 + 1, 700, 4096]
DTYPES = [torch.float64, torch.complex128]


@pytest.fixture(params=["compiled", "in tensors"], autouse=True)
def form(request, monkeypatch):
    """Both forms are held to everything here."""
    if request.param == "in tensors":
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    else:
        assert native.kernels("scan", torch.zeros(1)), "the tests need numba"


def inputs(length, dtype, *, constant, states=STATES, seed=0, radius=None):
    """Decays, driving terms, an initial state; decays reach 1 in size and some are zero, unless `radius` is given."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn((states,) if constant else (BATCH, length, states), dtype=dtype, generator=rng)
    sizes = torch.rand(a.shape, generator=rng, dtype=torch.float64).pow(0.02)
    sizes = torch.where(sizes < 0.9, 0, sizes) if radius is None else sizes * 0 + radius
    b = torch.randn(BATCH, length, states, dtype=dtype, generator=rng)
    initial = torch.randn(BATCH, states, dtype=dtype, generator=rng)
    return [tensor.requires_grad_() for tensor in (a / a.abs() * sizes, b, initial)]


def assert_same_map(fast, length, dtype, *, constant, states=STATES):
    """`fast` has the values of the definition, and its gradients for all three arguments."""
    ours, theirs = (inputs(length, dtype, constant=constant, states=states) for _ in range(2))
    got, want = fast(*ours), scan_definition(*theirs)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    grad = torch.randn(want.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    got.backward(grad)
    want.backward(grad)
    for name, one, other in zip(("decay", "driving term", "initial state"), ours, theirs, strict=True):
        largest = other.grad.abs().max().item()
        torch.testing.assert_close(
            one.grad,
            other.grad,
            rtol=0,
            atol=1e-10 * largest,
            msg=lambda text, name=name: f"gradient of {name}: {text}",
        )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "varying"])
def test_scan_is_its_definition(length, dtype, constant):
    assert_same_map(scan, length, dtype, constant=constant)


@pytest.mark.parametrize("length", [1, 5, CHUNK + 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "varying"])
def test_gradients_by_finite_differences(length, dtype, constant):
    assert torch.autograd.gradcheck(scan, inputs(length, dtype, constant=constant, radius=0.9))


def test_an_empty_sequence_has_no_states():
    for constant in (True, False):
        a, b, initial = inputs(0, torch.float64, constant=constant)
        assert scan(a, b, initial).shape == (BATCH, 0, STATES)


def by_planes(a, b, initial):
    return joined(planar_scan(planes(a), planes(b), planes(initial)))


@pytest.mark.parametrize("length", [1, 300])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "varying"])
def test_complex_numbers_may_come_in_planes(length, constant):
    assert_same_map(by_planes, length, torch.complex128, constant=constant)


@pytest.mark.parametrize("states", [1, 2, 7, 8, 33, 64, 203])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "varying"])
def test_any_number_of_states(states, constant):
    """Strips of every width, and what is left beside them."""
    for fast, dtype in ((scan, torch.float64), (scan, torch.complex128), (by_planes, torch.complex128)):
        assert_same_map(fast, 21, dtype, constant=constant, states=states)


@pytest.mark.parametrize("states", [3, 16, 77, 150])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "varying"])
def test_single_precision_is_that_of_double_but_for_rounding(states, constant):
    for fast, dtype, double in (
        (scan, torch.float32, torch.float64),
        (scan, torch.complex64, torch.complex128),
        (by_planes, torch.complex64, torch.complex128),
    ):
        a, b, initial = (x.detach() for x in inputs(50, double, constant=constant, states=states, radius=0.9))
        got, want = fast(*(x.to(dtype) for x in (a, b, initial))), scan(a, b, initial)
        torch.testing.assert_close(got.to(double), want, rtol=0, atol=1e-6 * want.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_change_nothing(dtype):
    """Neither many sequences nor many channels of one."""
    for batch, states in ((1, 700), (5, 3)):
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            rng = torch.Generator().manual_seed(0)
            a = 0.9 * torch.rand(states, dtype=dtype, generator=rng)
            b, initial = (torch.randn(*shape, dtype=dtype, generator=rng) for shape in ((batch, 40, states), (batch, states)))
            given = [x.requires_grad_() for x in (a, b, initial)]
            h = scan(*given)
            h.backward(h.detach())
            results.append([h.detach(), *(x.grad for x in given)])
        torch.set_num_threads(1)
        for other in results[1:]:
            assert all(map(torch.equal, other, results[0]))


def test_unit_decay_is_a_sum():
    b = torch.arange(1.0, 101).view(1, 100, 1).double()
    h = scan(torch.ones(1).double(), b, torch.full((1, 1), 5.0).double())
    assert h[0, -1, 0] == 5055
    assert h[0, 9, 0] == 60


def test_arguments_are_left_as_they_were():
    for constant in (True, False):
        given = inputs(100, torch.float64, constant=constant)
        before = [tensor.clone() for tensor in given]
        scan(*given).sum().backward()
        for old, new in zip(before, given, strict=True):
            assert torch.equal(old, new)


def test_noncontiguous_arguments():
    a, b, initial = inputs(100, torch.complex128, constant=False)
    turned = [tensor.detach().transpose(0, 1).contiguous().transpose(0, 1) for tensor in (a, b)]
    torch.testing.assert_close(scan(*turned, initial), scan(a, b, initial), rtol=0, atol=1e-12)
    torch.testing.assert_close(scan(a.conj(), b.conj(), initial.conj()), scan(a, b, initial).conj(), rtol=0, atol=1e-12)


def wrong(spoil):
    """The scan with a backward whose results are spoiled."""

    class Wrong(_Scan):
        @staticmethod
        def backward(ctx, grad):
            return spoil(*_Scan.backward(ctx, grad), ctx)

    return Wrong.apply


def off_by_one(to_a, to_b, to_initial, ctx):
    return to_a, to_b.roll(1, 1), to_initial


def not_conjugated(to_a, to_b, to_initial, ctx):
    return to_a.conj(), to_b, to_initial


def without_initial(to_a, to_b, to_initial, ctx):
    return to_a, to_b, torch.zeros_like(to_initial)


def last_step_lost(to_a, to_b, to_initial, ctx):
    _, h, _ = ctx.saved_tensors
    return to_a - (to_b[:, -1:] * h[:, -2:-1].conj()).sum((0, 1)), to_b, to_initial


@pytest.mark.parametrize(
    ("spoil", "gradient"),
    [
        (off_by_one, "driving term"),
        (not_conjugated, "decay"),
        (without_initial, "initial state"),
        (last_step_lost, "decay"),
    ],
)
def test_a_wrong_backward_is_caught(spoil, gradient):
    with pytest.raises(AssertionError, match=f"gradient of {gradient}"):
        assert_same_map(wrong(spoil), 63, torch.complex128, constant=True)


def test_a_chunk_without_its_carry_is_caught():
    def fast(a, b, initial):
        pieces = [scan(a, piece, initial if i == 0 else 0 * initial) for i, piece in enumerate(b.split(CHUNK, 1))]
        return torch.cat(pieces, 1)

    assert_same_map(fast, CHUNK, torch.float64, constant=True)
    with pytest.raises(AssertionError):
        assert_same_map(fast, CHUNK + 1, torch.float64, constant=True)

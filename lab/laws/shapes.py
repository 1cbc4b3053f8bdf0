"""Law 1, shapes: whatever the length, the output has the shape and dtype of the input, and no value is lost.

It holds in float32 and float64, with and without causality, at every length up to two chunks and around the powers of two
beyond; for inputs that are zero, a thousand times too large, or strided; and the gradients of the longest sequence are finite.
"""

import itertools

import torch

from lab.laws.subject import EXACT, LONG, Broken, Subject, difference, largest, noise, short

LENGTHS = (1, 2, 3, 7, 16, 17, 61, 127)
FEWER = (1, 2, 17, 61)  # without causality
EVERY = (*range(1, 130), *(2**power + more for power in (8, 9, 10, 11) for more in (-1, 0, 1)))


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    for causal, dtype in itertools.product(subject.forms, (torch.float32, torch.float64)):
        model = subject.awake(dtype, causal=causal)
        for length in subject.lengths(*(LENGTHS if causal else FEWER)):
            subject.read_finite(model, noise(2, length, subject.dim, dtype=dtype))
        for scale in (0, 1e3):
            x = scale * noise(2, subject.lengths(17)[0], subject.dim, dtype=dtype)
            subject.read_finite(model, x, f"forward of inputs scaled by {scale:g}, {short(dtype)}")
        _strided(subject, causal)
    model = subject.awake()
    for length in subject.lengths(*EVERY):
        subject.read_finite(model, noise(1, length, subject.dim))
    _finite_gradients(subject)
    return "" if subject.longest == LONG else f"it reads no more than {subject.longest} positions; checked up to there"


def _strided(subject: Subject, causal: bool) -> None:
    model, x = subject.awake(torch.float64, causal=causal), noise(2, subject.lengths(17)[0], subject.dim, dtype=torch.float64)
    strided = x.transpose(0, 2).contiguous().transpose(0, 2)
    with torch.no_grad():
        whole = subject.read(model, x)
        change = difference(subject.read(model, strided, "forward of a strided input"), whole).max()
    if change > EXACT * largest(whole):
        raise Broken(f"a strided input gives other outputs than the same numbers in a row, by {change:.1e}")


def _finite_gradients(subject: Subject) -> None:
    x = noise(1, subject.longest, subject.dim).requires_grad_()
    model = subject.awake()
    y = subject.read(model, x)
    subject.doing = f"backward of length {subject.longest}"
    (y * noise(*y.shape, seed=1)).sum().backward()
    for name, tensor in [("the input", x), *model.named_parameters()]:
        if tensor.grad is not None and not tensor.grad.isfinite().all():
            raise Broken(f"the gradient of {name} is not finite after {subject.doing}")

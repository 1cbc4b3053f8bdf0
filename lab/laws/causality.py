"""Law 2, causality: an output depends on its own position and those before it, never on a later one.

It is tried in evaluation and in training, on both sides of the chunk sizes that parallel forms are cut into, in two ways:
replacing the future must leave the past as it was, and the past must have no gradient with respect to the future. The
first sees what goes through a comparison, the second what is too small to show. Each row of a batch cuts time at another
place.
"""

import math

import torch
from torch import Tensor

from architectures.backbone import Backbone
from lab.laws.subject import EXACT, WHOLE, Broken, Subject, difference, largest, noise


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    if not subject.forms[0]:
        return WHOLE
    for train in (False, True):
        model = subject.awake(torch.float64).train(train)
        for length in subject.lengths(2, 7, 67, 131) if train else subject.lengths(2, 7, 67, 131, 515, 1301):
            cuts = _cuts(length)
            if len(cuts):
                _by_perturbation(subject, model, length, cuts)
                _by_gradient(subject, model, length, cuts)
    return ""


def _cuts(length: int) -> Tensor:
    """The positions at which a future begins: all of a short sequence, else those around the edges of chunks."""
    if length > 500:
        edges = (1, 63, 64, 65, 128, 255, 256, 257, 511, 512) if length < 1025 else (1025, length - 9, length - 1)
        return torch.tensor([edge for edge in edges if edge < length])
    return torch.tensor([c for c in range(1, length) if length < 100 or min(c % 16, -c % 16) < 2])


def _by_perturbation(subject: Subject, model: Backbone, length: int, cuts: Tensor) -> None:
    x = noise(1, length, subject.dim, dtype=torch.float64).expand(len(cuts), -1, -1).contiguous()
    future = torch.arange(length) >= cuts[:, None]
    with torch.no_grad():
        before = subject.read(model, x)
        for scale in (1.0, 1e3):
            other = torch.where(future[:, :, None], scale * noise(*x.shape, dtype=x.dtype, seed=1), x)
            change = difference(subject.read(model, other), before).amax(2).masked_fill(future, 0)
            if change.max() > EXACT * largest(before):
                row, position = divmod(int(change.argmax()), length)
                raise Broken(
                    f"output at position {position} changed by {change.max():.1e} when inputs from position "
                    f"{int(cuts[row])} on were replaced ({subject.doing})"
                )


def _by_gradient(subject: Subject, model: Backbone, length: int, cuts: Tensor) -> None:
    x = noise(len(cuts), length, subject.dim, dtype=torch.float64).requires_grad_()
    y = subject.read(model, x)
    asked = y[torch.arange(len(cuts)), cuts - 1]
    (slope,) = torch.autograd.grad((asked * noise(*asked.shape, dtype=x.dtype, seed=1)).sum(), x)
    ahead = slope.abs().amax(2).masked_fill(torch.arange(length) < cuts[:, None], 0).nan_to_num(nan=math.inf)
    if ahead.max() > EXACT * largest(slope):
        row, position = divmod(int(ahead.argmax()), length)
        raise Broken(
            f"the output at position {int(cuts[row]) - 1} has a gradient of {ahead.max():.1e} with respect to the "
            f"input at position {position} ({subject.doing})"
        )

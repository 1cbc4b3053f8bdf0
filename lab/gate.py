"""The leak gate: a backbone that sees the future is refused before it is trained for a causal task.

The run's own model reads a batch of its own task, then the same batch with its future replaced; what came before must stay as it
was, in train() and in eval(). It is tried as it will train, in float32, where a part in ten thousand counts as a leak, and in
float64, where a part in a billion does unless the backbone rounds. What starts at zero is moved, as it would shield what
follows. Each row of the batch cuts time at another place. `lab check` does this and more at many lengths.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from architectures.backbone import Backbone
from lab.checkpoint import random_states, restore_random_states
from lab.laws.subject import EXACT, difference, largest, noise, wake, widen
from lab.model import Model
from tasks.task import Task, Tokens

PASS_FLOPS = 1e8
"""What a pass may cost, so that the gate takes about a second: so many rows are read. A sequence that alone costs more is one
row, and read in float32 only; a training step on it takes as long as the gate."""
ROUNDING = 1e-4
"""A change that may be rounding in float32, relative to the largest output."""


class Leak(Exception):
    """A backbone sees the future; says where."""


def gate(make: Callable[[], Model], task: Task, seed: int) -> bool:
    """Whether there was a causal form to look at. The global generators are left as they were found.

    make: builds the run's model from torch's generator. seed: of the run.

    Raises:
        Leak: the future is seen.
    """
    states = random_states()
    try:
        torch.manual_seed(seed)
        model = make()
        if model.backbone.causal:
            _look(model.to("cuda" if torch.cuda.is_available() else "cpu"), task, seed)
        return model.backbone.causal
    finally:
        restore_random_states(states)


def cuts(length: int) -> list[int]:
    """Where a future begins, the most telling first: odd places, the last position, the edges of chunks."""
    edges = [1 << power for power in (6, 4, 7, 5, 8, 3, 9, 2, 10, 1, 11, 0, 12, 13, 14)]
    wanted = [length // 2 | 1, length - 1, *edges, length // 4 * 3 + 1]
    return [cut for cut in dict.fromkeys(wanted) if 0 < cut < length]


def _look(model: Model, task: Task, seed: int) -> None:
    backbone, length = wake(model.backbone), task.length // task.towers
    cost = backbone.flops(length).headline
    places = cuts(length)[: max(1, int(PASS_FLOPS // max(cost, 1)))]
    if not places:
        return
    inputs = model.halves(task.batch("train", 0, len(places), seed).inputs)[: len(places)].to(_device(model))
    future = torch.arange(length, device=inputs.device) >= torch.tensor(places, device=inputs.device)[:, None]
    with torch.no_grad():
        x, other = model.read(inputs), model.read(_replaced(inputs, future, task))
    for train in (True, False):
        _by_perturbation(backbone.train(train), x, other, places, seed, ROUNDING)
    if cost > PASS_FLOPS:
        return
    x, other = x.double(), other.double()
    try:
        widen(backbone.train())
        with torch.no_grad(), _Rounds() as rounds:
            _read(backbone, x, seed)
        _by_perturbation(backbone, x, other, places, seed, ROUNDING if rounds.found else EXACT)
    except Leak:
        raise
    except Exception:  # a backbone that knows no float64 can be trained; the laws say so
        return


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device


def _replaced(inputs: Tensor, future: Tensor, task: Task) -> Tensor:
    """The same past with another future: every symbol another one, or real numbers moved by as much as they vary."""
    if isinstance(task.inputs, Tokens):
        step = 1 + (noise(*inputs.shape).abs() * 1e6).long().to(inputs.device) % max(1, task.inputs.vocabulary - 1)
        return torch.where(future, (inputs + step) % task.inputs.vocabulary, inputs)
    spread = inputs.std().nan_to_num(nan=1.0).clamp_min(1e-3)
    return torch.where(future[:, :, None], inputs + spread * noise(*inputs.shape).to(inputs), inputs)


def _read(backbone: Backbone, x: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return backbone(x)


def _by_perturbation(backbone: Backbone, x: Tensor, other: Tensor, places: Sequence[int], seed: int, tolerance: float) -> None:
    with torch.no_grad():
        before, after = _read(backbone, x, seed), _read(backbone, other, seed)
    if not before.isfinite().all():
        return  # nothing to compare with; training says that it diverged
    past = torch.arange(x.shape[1], device=x.device) < torch.tensor(places, device=x.device)[:, None]
    change = difference(after, before).amax(2).masked_fill(~past, 0) / largest(before)
    if change.max() > tolerance:
        row, position = divmod(int(change.argmax()), x.shape[1])
        raise Leak(
            f"its output at position {position} changed by {float(change.max()):.1e} of the largest when the inputs from "
            f"position {places[row]} on were replaced, in {'train' if backbone.training else 'eval'}()"
        )


class _Rounds(TorchDispatchMode):
    """Whether anything was computed in less than double precision."""

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
                self.found |= torch.finfo(leaf.dtype).eps > torch.finfo(torch.float64).eps
        return made

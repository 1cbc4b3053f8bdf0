"""One long text read in consecutive pieces, with the state passed on: truncated back-propagation through time.

The rows of a batch are lanes: each goes through a stretch of its own, one piece a step, and keeps its state between steps; the
gradient ends where the piece begins (Williams & Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of
Recurrent Network Trajectories"). When the stretches are read to the end, all rows begin anew with fresh states.

A state must not grow with what was read, or memory and compute would. Keys and values in a window stop growing; from then on a
piece costs what it adds to the cost of all before it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from architectures.backbone import Backbone, Flops, State
from lab.model import Model
from tasks.task import Batch, Split, Task, random

LANES = 8
"""Rows of the evaluation: few, so that each goes far."""
PIECES = 16
"""Pieces after which a state that still grows is taken to grow for ever."""
FAR = 1 << 16
"""Positions at which it is tried whether a backbone that counts them has an end."""


def stretch(task: Task, split: Split, size: int) -> int:
    """Pieces that each of `size` rows reads before all begin anew.

    Raises:
        NotImplementedError: the task has no long text.
        ValueError: the text is too short for so many rows.
    """
    symbols = len(task.sequence(split))
    pieces = (symbols - task.length) // (task.length * size)
    if pieces < 2:
        raise ValueError(
            f"the {symbols} symbols of its {split} split are too few for {size} rows of two pieces of {task.length}; "
            "take fewer rows or a shorter length"
        )
    return pieces


def piece(task: Task, split: Split, index: int, size: int, seed: int) -> Batch:
    """Batch `index`, a pure function of its arguments. Each time through the training text starts elsewhere."""
    text, pieces = task.sequence(split), stretch(task, split, size)
    time, number = divmod(index, pieces)
    room = len(text) - 1 - pieces * task.length * size
    start = int(random(split, time, seed).integers(0, room + 1)) if split == "train" else 0
    starts = start + (np.arange(size) * pieces + number) * task.length
    window = torch.from_numpy(text[starts[:, None] + np.arange(task.length + 1)].astype(np.int64))
    return Batch(window[:, :-1], window[:, 1:], begins=not number)


def cut(state: State, device: torch.device | None = None) -> State:
    """The same numbers, without how they came about and without what they were a view of; on a device, if one is named."""
    return tree_map(lambda leaf: leaf.detach().to(device, copy=True) if isinstance(leaf, Tensor) else leaf, state)


def row_axes(backbone: Backbone, length: int) -> list[int | None]:
    """Which axis of each tensor of a state counts the rows of a batch; None where none does.

    backbone: on the meta device, so that no memory is touched.
    """

    def shapes(rows: int) -> list[tuple[int, ...]]:
        x = torch.zeros(rows, length, backbone.dim, device="meta")
        return _shapes(backbone.stream(x, backbone.init_state(rows))[1])

    with torch.no_grad():
        both = list(zip(shapes(2), shapes(3), strict=True))
    return [next((axis for axis, sizes in enumerate(zip(a, b, strict=True)) if sizes == (2, 3)), None) for a, b in both]


def joined(states: Sequence[State], axes: Sequence[int | None]) -> State:
    """The state of all rows, from those of equal pieces of a batch."""
    axis = iter(axes)

    def join(*pieces: Any) -> Any:
        if not isinstance(pieces[0], Tensor) or (along := next(axis)) is None:
            return pieces[0]
        return torch.cat(pieces, along)

    return tree_map(join, *states)


def piece_of(state: State, axes: Sequence[int | None], number: int, count: int) -> State:
    """The `number`-th of `count` equal pieces of a state's rows."""
    axis = iter(axes)

    def cut_out(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or (along := next(axis)) is None:
            return leaf
        return leaf.chunk(count, along)[number]

    return tree_map(cut_out, state)


def settled(backbone: Backbone, length: int, pieces: int, most: int = PIECES) -> int:
    """After how many pieces what is remembered no longer grows: 0 where its size never changes.

    backbone: on the meta device, so that no memory is touched. pieces: that are read one after the other. most: after which a
    state that still grows is taken to grow for ever.

    Raises:
        ValueError: it grows without end.
        LengthError: it cannot read so far.
    """

    def stream(positions: int, state: State) -> State:
        return backbone.stream(torch.zeros(1, positions, backbone.dim, device="meta"), state)[1]

    with torch.no_grad():
        state = backbone.init_state(1)
        for count in range(most + 1):
            before, state = state, stream(length, state)
            if _sizes(state) == _sizes(before):
                if _shapes(state) != _shapes(before):  # it counts positions in a tensor without elements
                    stream(min(pieces * length, FAR), backbone.init_state(1))
                return count
    raise ValueError(
        f"its memory grows with what it read: {sum(_sizes(state)):,} numbers after {most + 1} pieces of {length} positions; "
        f"attention needs a window of at most {most} pieces"
    )


def piece_flops(model: Model, length: int, past: int) -> Flops:
    """Forward, one piece: a sequence's, or what it adds to `past` positions before it, where those are remembered one by one."""
    cost = model.flops(past + length, past + length)
    return cost + model.flops(past, past) * -1 if past else cost


@torch.inference_mode()
def evaluate(model: Model, task: Task, *, precision: str) -> tuple[dict[str, float], int]:
    """The task's metrics on the test split with the state carried through it, as `metric@carried`; and the pieces of a lane."""
    device = next(model.parameters()).device
    names = (task.metric, *task.also)
    metrics = {name: task.new_metric(name).to(device) for name in names}
    pieces = min(stretch(task, "test", LANES), max(2, task.held_out // LANES))
    training, state = model.training, model.backbone.init_state(LANES)
    model.eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for index in range(pieces):
            batch = piece(task, "test", index, LANES, 0).to(device)
            predictions, state = model.stream(batch.inputs, state)
            for metric in metrics.values():
                metric.update(predictions.float().movedim(-1, 1).contiguous(), batch.targets)
    model.train(training)
    return {f"{name}@carried": float(metric.compute()) for name, metric in metrics.items()}, pieces


def _sizes(state: State) -> list[int]:
    return [math.prod(shape) for shape in _shapes(state)]


def _shapes(state: State) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]

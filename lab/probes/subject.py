"""What probes look into, and the statistics that several of them share."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from architectures.backbone import Backbone, SequenceMap, State
from lab.analysis.statistics import FEWEST, half_width
from lab.checkpoint import seed_generators
from lab.errors import UsageError
from lab.evaluation import held_out
from lab.model import Model, build_task, model_of
from lab.run import Spec, Store
from lab.stored import load
from tasks.task import Batch, Task

TRAINED, UNTRAINED = "trained", "untrained"
_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


@dataclass(frozen=True)
class Subject:
    """A run: its spec, its task, and its model with the last weights, in eval()."""

    folder: Path
    spec: Spec
    task: Task
    model: Model

    @classmethod
    def of(cls, run: str, store: Store) -> "Subject":
        """
        Raises:
            UsageError: as `lab.stored.load`.
        """
        spec, task, model = load(run, store)
        return cls(store.named(run), spec, task, model.eval())

    @property
    def name(self) -> str:
        """What the run is, for an error."""
        return f"run {self.spec.id} ({self.spec.architecture} on {self.spec.task})"

    def untrained(self) -> Model:
        """The model with the weights that the run began with."""
        seed_generators(self.spec.seed)
        return model_of(self.spec, self.task).eval()

    def both(self) -> dict[str, Model]:
        """After training, and before."""
        return {TRAINED: self.model, UNTRAINED: self.untrained()}

    def examples(self, count: int, task: Task | None = None) -> Iterator[Batch]:
        """Of the test split, at most so many; windows of one long text do not overlap."""
        task = copy.copy(task or self.task)
        try:
            count = min(count, max(1, (len(task.sequence("test")) - 1) // task.length))
        except NotImplementedError:
            count = min(count, task.held_out)
        task.held_out = count
        return held_out(task, "test", count)

    def variant(self, **changes: int) -> Task:
        """The run's task with other settings.

        Raises:
            UsageError: it has no such setting, or refuses the value.
        """
        for name in changes:
            if name not in self.spec.task_settings:
                raise UsageError(f"{self.name}: the task has no setting {name}")
        return build_task(self.spec.names[1], self.spec.task_settings | changes)

    def need_causal(self) -> None:
        """
        Raises:
            UsageError: the backbone reads the whole sequence.
        """
        if not self.model.backbone.causal:
            raise UsageError(f"{self.name}: it reads a sequence in both directions; this probe needs a causal task")


Module = TypeVar("Module", bound=torch.nn.Module)


def wide(module: Module) -> Module:
    """A copy with every number in double precision."""
    return copy.deepcopy(module)._apply(lambda t: t.to(_WIDE.get(t.dtype, t.dtype)))


def numbers(module: SequenceMap, state: State) -> list[Tensor]:
    """Each tensor of a state as real numbers, (rows, numbers); a complex one is two."""
    leaves = tree_leaves(state)
    rows = [leaf.movedim(axis, 0) for leaf, axis in zip(leaves, row_axes(module, len(leaves)), strict=True)]
    return [(torch.view_as_real(leaf) if leaf.is_complex() else leaf).flatten(1) for leaf in rows]


def row_axes(module: SequenceMap, count: int) -> list[int]:
    """Which axis of each of the `count` tensors of its state is the batch: the one that differs between batches of 2 and 3."""
    both = [tree_leaves(module.init_state(batch)) for batch in (2, 3)]
    axes = [next(axis for axis, ends in enumerate(zip(two.shape, three.shape, strict=True)) if len(set(ends)) > 1)
            for two, three in zip(*both, strict=True)]  # fmt: skip
    return axes if len(axes) == count else [0] * count  # without an `init_state` of its own it remembers its inputs


def mixers(backbone: Backbone, length: int) -> dict[str, SequenceMap]:
    """The maps with a state of their own that does not grow with what was read, by name: not those that only hold others."""

    def size(module: SequenceMap, state: State) -> int:
        return sum(each.shape[1] for each in numbers(module, state))

    def after(module: SequenceMap, positions: int) -> int:
        with torch.no_grad():
            x = torch.zeros(1, positions, backbone.dim, device="meta")
            return size(module, module.stream(x, module.init_state(1))[1])

    def fixed(module: SequenceMap) -> bool:
        meta = copy.deepcopy(module).to("meta")
        try:
            return after(meta, length) == after(meta, 2 * length) > 0
        except (RuntimeError, ValueError, TypeError, AssertionError):  # a part that reads something else
            return False

    def below(module: SequenceMap, name: str) -> dict[str, SequenceMap]:
        parts = nearest(module)
        if parts and size(module, module.init_state(1)) == sum(size(part, part.init_state(1)) for part in parts.values()):
            return {key: value for part, inner in parts.items() for key, value in below(inner, f"{name}{part}.").items()}
        return {name.rstrip("."): module} if fixed(module) else {}

    return below(backbone, "")


def nearest(module: torch.nn.Module) -> dict[str, SequenceMap]:
    """The outermost maps inside a module, by name."""
    found: dict[str, SequenceMap] = {}
    for name, child in module.named_children():
        inside = {"": child} if isinstance(child, SequenceMap) else nearest(child)
        found |= {".".join(filter(None, (name, rest))): each for rest, each in inside.items()}  # pyright: ignore
    return found


def octaves(values: np.ndarray) -> np.ndarray:
    """The power of two at or below each; 0 for 0."""
    return np.where(values > 0, 2 ** np.floor(np.log2(np.maximum(values, 1))), 0).astype(np.int64)


def t_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % t-interval; NaN below three values."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    count = len(values)
    mean = float(values.mean()) if count else math.nan
    if count < FEWEST:
        return mean, math.nan, math.nan
    half = float(half_width(values.std(ddof=1, keepdims=True), np.array([count]))[0])
    return mean, mean - half, mean + half

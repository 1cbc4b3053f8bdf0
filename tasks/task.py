"""The contract of every task: what goes in, what is asked, how it is scored, and its batches by index.

`batch(split, index, size, seed)` is a pure function, so batch *i* is the same for every architecture, every number of workers
and after every resume. Generated tasks draw from `random(...)` and pass what they drew through `of_split`, which gives every
possible example to exactly one split by its hash; no example can be in two.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
UNASKED = -100
"""A target that is not asked for: no loss, no score."""


@dataclass(frozen=True)
class Tokens:
    """Each position holds one of `vocabulary` symbols, as an integer."""

    vocabulary: int


@dataclass(frozen=True)
class Vectors:
    """Each position holds `dim` real numbers."""

    dim: int


@dataclass(frozen=True)
class Batch:
    """`size` examples.

    inputs: the symbols, or the real vectors with a last axis for their dimension.
    targets: the classes to predict; one a sequence for pooled tasks, else as many as `answers`, UNASKED where nothing is.
    positions: where in the sequence the answers are read; None reads every position (or, pooled, their mean).
    slices: numbers that describe each target (a distance, a depth), for scores by slice.
    """

    inputs: Shaped[Tensor, "size length *dim"]
    targets: Int[Tensor, "size *answers"]
    positions: Int[Tensor, "size answers"] | None = None
    slices: Mapping[str, Int[Tensor, "size *answers"]] = field(default_factory=dict)


class BitsPerByte(MeanMetric):
    """Cross-entropy of the predictions in bits a symbol; lower is better."""

    higher_is_better = False

    def update(self, predictions: Tensor, targets: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().update(F.cross_entropy(predictions, targets, reduction="none") / np.log(2))


class Task(ABC):
    """A data source with a question. Every keyword of a subclass is a setting, as for a backbone."""

    inputs: Tokens | Vectors
    outputs: int
    """Classes to choose from."""
    length: int
    """Positions of a training sequence."""
    answers: int
    """Answers read from one sequence; the output head is applied as often, and counted so."""
    causal: ClassVar[bool] = True
    pooled: ClassVar[bool] = False
    """One answer for the whole sequence, from the mean over its positions."""
    metric: ClassVar[Literal["accuracy", "bits_per_byte"]] = "accuracy"
    """Name of the score to compare by."""
    data: str = ""
    """Hash of the real data behind the task; empty where it is generated."""
    held_out: int = 1024
    """Examples in the validation set, and in the test set."""

    @abstractmethod
    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        """Batch `index` of a split: a pure function of its arguments and the settings."""

    @abstractmethod
    def baselines(self) -> dict[str, float]:
        """Scores, in units of `metric`, of answers that need no model; `chance` is one of them."""

    def harder(self) -> "dict[str, Task]":
        """The same task beyond what is trained on (longer, more pairs), by a short name; scored on the test split."""
        return {}

    def buckets(self) -> dict[str, list[int]]:
        """For each name in `Batch.slices`, the ascending lower bounds of the ranges that are scored apart."""
        return {}

    def new_metric(self) -> Metric:
        """An empty metric; `update` takes predictions (n, outputs) and targets (n,), and `higher_is_better` says which way."""
        if self.metric == "bits_per_byte":
            return BitsPerByte()
        return MulticlassAccuracy(self.outputs, average="micro", validate_args=False)

    def loss(self, predictions: Float[Tensor, "... outputs"], targets: Int[Tensor, "..."]) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats over the targets that are asked."""
        return F.cross_entropy(predictions.flatten(0, -2).float(), targets.flatten(), ignore_index=UNASKED)


def random(split: Split, index: int, seed: int, attempt: int = 0) -> np.random.Generator:
    """The generator of one batch."""
    return np.random.default_rng((seed, SPLITS.index(split), index, attempt))


_MULTIPLIERS = np.random.default_rng(20210101).integers(0, 2**64, 1 << 14, dtype=np.uint64) | np.uint64(1)


def split_of(examples: Int[np.ndarray, "count length"]) -> Int[np.ndarray, "count"]:
    """Which split each example belongs to, by a hash of its symbols: 14 of 16 train, 1 validation, 1 test."""
    multipliers = np.resize(_MULTIPLIERS, examples.shape[1])
    mixed = ((examples.astype(np.uint64) + np.uint64(1)) * multipliers).sum(1, dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return np.array([0] * 14 + [1, 2])[(mixed >> np.uint64(60)).astype(np.int64)]


def of_split(
    draw: Callable[[np.random.Generator, int], dict[str, np.ndarray]], split: Split, index: int, size: int, seed: int
) -> dict[str, Any]:
    """`size` examples of one split, drawn by `draw(generator, count)`, which returns arrays with an example a row.

    Examples of other splits, known by the hash of the array called `inputs`, are drawn again.

    Raises:
        ValueError: so few distinct examples exist that the split seems to have none.
    """
    wanted, kept, have = SPLITS.index(split), [], 0
    for attempt in range(100):
        count = (size - have) * (1 if split == "train" else 16) + 16
        drawn = draw(random(split, index, seed, attempt), count)
        mine = np.flatnonzero(split_of(drawn["inputs"]) == wanted)[: size - have]
        kept.append({name: array[mine] for name, array in drawn.items()})
        have += len(mine)
        if have == size:
            return {name: torch.from_numpy(np.concatenate([part[name] for part in kept])) for name in kept[0]}
    raise ValueError(f"no {split} examples in 100 tries: these settings leave too few distinct sequences to split")

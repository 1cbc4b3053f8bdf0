"""The contract of every task: what goes in, what is asked, how it is scored, and its batches by index.

`batch(split, index, size, seed)` is a pure function, so batch *i* is the same for every architecture, every number of workers
and after every resume. Generated tasks draw from `random(...)` and pass what they drew through `of_split`, which gives every
possible example to exactly one split by its hash; no example can be in two.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, MeanSquaredError, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassExactMatch

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
UNASKED = -100
"""A target that is not asked for: no loss, no score."""
MetricName = Literal["accuracy", "exact", "bits_per_byte", "mean_squared_error"]
"""Share of answers that are right; share of sequences whose every answer is right; bits a symbol; mean squared error."""


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
        Real tasks have a last axis of `outputs` numbers.
    positions: where in the sequence the answers are read; None reads every position (or, pooled, their mean).
    slices: numbers that describe each target (a distance, a depth), for scores by slice; the training split may leave them out.
    lengths: positions of each sequence (of each half, with two towers) that count for the mean of a pooled task; what follows
        is padding. None counts all.
    begins: false where each row goes on after the same row of the batch before.
    """

    inputs: Shaped[Tensor, "size length *dim"]
    targets: Shaped[Tensor, "size *target"]
    positions: Int[Tensor, "size answers"] | None = None
    slices: Mapping[str, Int[Tensor, "size *answers"]] = field(default_factory=dict)
    lengths: Int[Tensor, "size *towers"] | None = None
    begins: bool = True

    @property
    def asked(self) -> int:
        """How many numbers are asked for; losses are means over them."""
        return self.targets.numel() if self.targets.is_floating_point() else int((self.targets != UNASKED).sum())

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return self._with(lambda values: values.to(device))

    def parts(self, count: int) -> "list[Batch]":
        """Its rows in so many equal parts."""
        size = len(self.inputs) // count
        return [self._with(lambda values, first=first: values[first : first + size]) for first in range(0, count * size, size)]

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        positions = None if self.positions is None else change(self.positions)
        lengths = None if self.lengths is None else change(self.lengths)
        slices = {name: change(values) for name, values in self.slices.items()}
        return Batch(change(self.inputs), change(self.targets), positions, slices, lengths, self.begins)


@dataclass(frozen=True)
class Reference:
    """A published score, in units of the task's metric.

    form: settings of the task that it was reached on, as on the command line; empty for the defaults.
    source: paper and table. Scores that nobody could look up again are not kept.
    """

    name: str
    score: float
    form: str
    source: str


class BitsPerByte(MeanMetric):
    """Cross-entropy of the predictions in bits a symbol; lower is better."""

    higher_is_better = False

    def update(self, predictions: Tensor, targets: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        losses = F.cross_entropy(predictions, targets, reduction="none", ignore_index=UNASKED) / np.log(2)
        super().update(losses[targets != UNASKED])


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
    towers: ClassVar[Literal[1, 2]] = 1
    """2 where a sequence is two halves that the same weights read apart, to be compared."""
    bottleneck: bool = False
    """Every answer is decoded from the vector at the last position and the number of the answer."""
    real: ClassVar[bool] = False
    """The answers are `outputs` real numbers each, not classes."""
    metric: ClassVar[MetricName] = "accuracy"
    """The score to compare by."""
    also: ClassVar[tuple[MetricName, ...]] = ()
    """Further scores."""
    references: ClassVar[Sequence[Reference]] = ()
    """Published scores."""
    image: ClassVar[bool] = False
    """The inputs are the rows of a square picture, one pixel a position."""
    data: str = ""
    """Hash of the real data behind the task; empty where it is generated."""
    held_out: int = 1024
    """Examples in the validation set, and in the test set."""

    @abstractmethod
    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        """Batch `index` of a split: a pure function of its arguments and the settings."""

    def sequence(self, split: Split) -> Integer[np.ndarray, " symbols"]:
        """A whole split as one long sequence of symbols, each to be named from those before it.

        Raises:
            NotImplementedError: there is none.
        """
        raise NotImplementedError("its sequences do not go on from one to the next")

    def endless(self, positions: int, seed: int) -> Iterator[tuple[Shaped[Tensor, "1 piece *dim"], Batch | None]]:
        """One sequence of so many positions, at least `length`, in consecutive pieces; and what is asked after each, if anything.

        The inputs of a question go on where the piece ended, but are no part of the sequence; its slice `distance` is how many
        positions before the question that which it asks for began. Memory does not depend on `positions`.

        Raises:
            NotImplementedError: there is none.
        """
        raise NotImplementedError("it has no sequence without end")

    @abstractmethod
    def baselines(self) -> dict[str, float]:
        """Scores, in units of `metric`, of answers that need no model; `chance` is one of them."""

    def shortcuts(self) -> dict[str, Callable[[Batch], Shaped[Tensor, "size *answers"]]]:
        """Rules that answer without solving the task, by their name among the baselines: answers to a batch's questions."""
        return {}

    def oracle(self, batch: Batch) -> Shaped[Tensor, "size *answers"] | None:
        """The right answers, worked out from `inputs`, `positions` and `lengths` alone; None where nobody has a rule."""
        return None

    def harder(self) -> "dict[str, Task]":
        """The same task beyond what is trained on (longer, more pairs), by a short name; scored on the test split."""
        return {}

    def buckets(self) -> dict[str, list[int]]:
        """For each name in `Batch.slices`, the ascending lower bounds of the ranges that are scored apart."""
        return {}

    def prepare(self, workers: int) -> None:  # noqa: B027 - nothing, for most tasks
        """Make all that the task keeps on disk, in so many processes; batches make what they miss."""

    def symbols(self) -> Sequence[str]:
        """How each symbol of the inputs is written in an example."""
        return [str(symbol) for symbol in range(self.inputs.vocabulary)] if isinstance(self.inputs, Tokens) else []

    def classes(self) -> Sequence[str]:
        """How each class is written in an example; as the inputs where the two are as many."""
        symbols = self.symbols()
        return symbols if len(symbols) == self.outputs else [str(answer) for answer in range(self.outputs)]

    def example(self, batch: Batch, row: int) -> str:
        """A sequence as text, with each answer in brackets at the position that it is read from."""
        return _written(self, batch, row)

    def new_metric(self, name: MetricName | None = None) -> Metric:
        """An empty metric, that of `metric` where none is named; `higher_is_better` says which way.

        `update` takes predictions (n, outputs, *answers) and targets (n, *answers), real ones in the same layout.
        """
        name = name or self.metric
        if name == "bits_per_byte":
            return BitsPerByte()
        if name == "mean_squared_error":
            return MeanSquaredError()
        if name == "exact":
            return MulticlassExactMatch(self.outputs, ignore_index=UNASKED, validate_args=False)
        return MulticlassAccuracy(self.outputs, average="micro", ignore_index=UNASKED, validate_args=False)

    def loss(self, predictions: Float[Tensor, "... outputs"], targets: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Mean over what is asked: cross-entropy in nats, or the squared error of real answers."""
        if self.real:
            return F.mse_loss(predictions.float(), targets.float())
        return F.cross_entropy(predictions.flatten(0, -2).float(), targets.flatten(), ignore_index=UNASKED)


def share_right(task: Task, rule: Callable[[Batch], Tensor], split: Split = "test") -> float:
    """Share of the answers, or of the sequences where the metric is `exact`, that a rule gets right in a held-out split."""
    right = asked = 0
    size = min(task.held_out, max(1, (1 << 20) // task.length))
    for index in range(-(-task.held_out // size)):
        batch = task.batch(split, index, min(size, task.held_out - index * size), 0)
        counts = batch.targets != UNASKED
        found = rule(batch) == batch.targets
        if task.metric == "exact":
            found, counts = (found | ~counts).all(1), counts.any(1)
        right += int((found & counts).sum())
        asked += int(counts.sum())
    return right / asked


def _written(task: Task, batch: Batch, row: int) -> str:
    inputs, targets, classes = batch.inputs[row], batch.targets[row], task.classes()
    if isinstance(task.inputs, Tokens):
        symbols = task.symbols()
        words = [symbols[int(symbol)] for symbol in inputs]
    else:
        words = [" ".join(f"{float(number):.2f}" for number in vector) for vector in inputs]

    def told(answer: Tensor) -> str:
        return " ".join(f"{float(number):.3f}" for number in answer.flatten()) if task.real else classes[int(answer)]

    if task.pooled or task.bottleneck:
        length = len(words) if batch.lengths is None else int(batch.lengths[row])
        answers = [targets] if task.pooled else list(targets)
        return " ".join([*words[:length], f"[{' '.join(map(told, answers))}]"])
    positions = torch.arange(len(words)) if batch.positions is None else batch.positions[row]
    for position, answer in zip(positions.tolist(), targets, strict=True):
        if task.real or int(answer) != UNASKED:
            words[position] += f"[{told(answer)}]"
    return " ".join(words)


def random(split: Split, index: int, seed: int, attempt: int = 0) -> np.random.Generator:
    """The generator of one batch."""
    return np.random.default_rng((seed, SPLITS.index(split), index, attempt))


_MULTIPLIERS = np.random.default_rng(20210101).integers(0, 2**64, 1 << 14, dtype=np.uint64) | np.uint64(1)


def split_of(examples: Integer[np.ndarray, "count length"]) -> Int[np.ndarray, "count"]:
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
        missing = size - have
        count = missing + missing // 4 + 4 if split == "train" else 16 * missing + 16  # as many as are likely to be enough
        drawn = draw(random(split, index, seed, attempt), count)
        mine = np.flatnonzero(split_of(drawn["inputs"]) == wanted)[:missing]
        kept.append({name: array[mine] for name, array in drawn.items()})
        have += len(mine)
        if have == size:
            return {name: torch.from_numpy(np.concatenate([part[name] for part in kept])) for name in kept[0]}
    raise ValueError(f"no {split} examples in 100 tries: these settings leave too few distinct sequences to split")

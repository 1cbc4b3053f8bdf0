"""What happens past the training length: score and loss, and size and spread of the state, at 1, 2, 4 ... 64 times it.

Of one long text the same symbols are scored at every length: sequences of all lengths end at the same places, and what counts is
their last half of a training length. Other tasks are made with each length, and what they ask in the last half is scored (all of
it where they ask at a few positions). Sequences are read in pieces with the state carried along, which is the same map (`lab
check`). Intervals are t-intervals over sequences; that of how far the loss rose above the one at the training length is of the
differences where the symbols are the same, and Welch's otherwise. rms is the root mean square of the tensor of the state where
that is largest, at the end; rank is the effective rank of the states at four moments of the last half and in 8 sequences
together, (sum s^2)^2 / sum s^4 over the singular values s of their deviations from the mean, at most 31: whether the state still
differs between texts.

The verdict, with the first length where it happens

* diverges: the predictions or the state are not finite; or the rms more than quadruples in this doubling and in each that
  follows, of which there is one at least (a sum of inputs doubles, a random walk grows by 1.4); or the loss is beyond that of
  guessing all classes alike, by its whole interval, while at the training length it is not;
* degrades, where it does not diverge: the loss exceeds that at the training length by more than `TOLERANCE` nats, by the whole
  interval of its rise;
* stable: neither happens up to the longest length that was read.

The tolerance is in the spirit of loss by position at lengths beyond training, as for ALiBi (Press et al., arXiv:2108.12409).
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from pandas import DataFrame
from scipy.special import stdtrit
from torch import Tensor
from torch.nn import functional as F

from architectures.backbone import LengthError
from lab.analysis.findings import Finding, Sheet, View
from lab.errors import UsageError
from lab.model import Model
from lab.probes.subject import Subject, numbers, t_interval
from tasks.task import UNASKED, Batch, Task

TOLERANCE = 0.02
GROWTH = 4.0
TOKENS = 1 << 19
"""Of all sequences of a length, where that leaves `FEWEST` or more."""
FEWEST, MOST = 8, 64
PIECE = 1 << 12
"""Positions at once, of all rows together where there are several."""
MOMENTS = 4
LOSS = View(
    "times", "loss", "length / training length", "loss, nats", logx=True, low="low", high="high",
    caption="Loss at the end of sequences that are longer than those of training. Bars: 95 % t-intervals over sequences.",
)  # fmt: skip
STATE = View(
    "times", "rms", "length / training length", "rms of the state", logx=True, logy=True,
    caption="Root mean square of the tensor of the state where it is largest, at the end of the sequences.",
)  # fmt: skip
COLUMNS = ["times", "length", "sequences", "loss", "low", "high", "rise", "rise_low", "rise_high", "accuracy", "rms", "rank"]


@dataclass(frozen=True)
class Verdict:
    """What happens, at which length in the units of training lengths (NaN for stable), and why."""

    name: str
    at: float
    why: str


def measure(subject: Subject, times: int = 64) -> Finding:
    """
    Raises:
        UsageError: the backbone is not causal, or the task has one length.
    """
    subject.need_causal()
    task, rows, refused = subject.task, [], ""
    if task.pooled or task.bottleneck or task.real:
        raise UsageError(f"{subject.name}: this probe needs a task that names classes at positions")
    factors = [1 << k for k in range(times.bit_length()) if 1 << k <= times]
    text, first = _Text.of(task, factors), None
    for factor in factors:
        try:
            longer = subject.variant(length=factor * task.length) if factor > 1 else task
            if longer.length != factor * task.length:
                break
            batches = text.batches(longer.length) if text else subject.examples(_sequences(longer.length), longer)
            losses, *read = _read_all(subject.model, batches, longer.length, text.asked if text else (longer.length + 1) // 2)
        except LengthError as error:
            refused = f"; it cannot read further: {error}"
            break
        except UsageError as error:
            if factor == 1 or "has no setting length" in str(error):
                raise
            refused = f"; at {factor} times: {error}"
            break
        first, finite = losses if first is None else first, bool(np.isfinite(losses).all())
        measured = (*t_interval(losses), *_rise(losses, first, paired=text is not None)) if finite else 6 * (math.nan,)
        rows.append((factor, longer.length, len(losses), *measured, *read))
        if not finite:
            break
    table = DataFrame(rows, columns=COLUMNS)
    ended = verdict(table, math.log(task.outputs))
    found = {"verdict": ended.name, "at": ended.at, "longest": float(table["times"].iloc[-1])}
    found |= {"loss": float(table["loss"].iloc[0]), "loss_longest": float(table["loss"].iloc[-1])}
    found["rise"] = float(table["rise"].iloc[-1])
    said = f"{ended.name} up to {table['times'].iloc[-1]} times the training length of {task.length:,}{refused}" \
        if ended.name == "stable" else \
        f"{ended.name} at {ended.at:g} times the training length of {task.length:,}: {ended.why}{refused}"  # fmt: skip
    return Finding({"extrapolation": Sheet(table, LOSS), "state": Sheet(table[["times", "rms", "rank"]], STATE)}, found, said)


def verdict(table: DataFrame, guessing: float) -> Verdict:
    """By the rule above. table: times, loss, low, rise, rise_low, rms.

    guessing: the loss of guessing all classes alike.
    """
    first, rows = table.iloc[0], list(table.itertuples(index=False))
    for place, row in enumerate(rows):
        if not (math.isfinite(row.loss) and math.isfinite(row.rms)):
            return Verdict("diverges", float(row.times), "not finite")
        growth = [after.rms / before.rms for before, after in pairwise(rows[place - 1 :])] if place else []
        if len(growth) > 1 and min(growth) > GROWTH:
            return Verdict("diverges", float(row.times), f"the state grows {growth[0]:.3g} times in a doubling, to the end")
        if place and row.low > guessing >= first["low"]:
            return Verdict("diverges", float(row.times), f"a loss of {row.loss:.3g} is beyond that of guessing, {guessing:.3g}")
    for row in rows[1:]:
        if row.rise_low > TOLERANCE:
            return Verdict("degrades", float(row.times), f"the loss is {row.rise:.3g} nats above that at the training length")
    return Verdict("stable", math.nan, "")


@dataclass(frozen=True)
class _Text:
    """Places in one long text at which sequences of every length end, and how many of their last symbols are asked."""

    symbols: np.ndarray
    ends: np.ndarray
    asked: int

    @classmethod
    def of(cls, task: Task, factors: list[int]) -> "_Text | None":
        """Evenly spread, none asked twice; None where the task's sequences do not go on from one to the next."""
        try:
            symbols = task.sequence("test")
        except NotImplementedError:
            return None
        asked, last = (task.length + 1) // 2, len(symbols) - 1
        longest = max(factor * task.length for factor in factors if factor * task.length <= last)
        count = min(_sequences(longest), 1 + (last - longest) // asked)
        return cls(symbols, np.linspace(longest, last, count).astype(np.int64), asked)

    def batches(self, length: int) -> list[Batch]:
        """One, of all sequences of a length."""
        window = torch.from_numpy(self.symbols[self.ends[:, None] + np.arange(-length, 1)].astype(np.int64))
        return [Batch(window[:, :-1], window[:, 1:])]


def _sequences(length: int) -> int:
    return min(MOST, max(FEWEST, TOKENS // length))


def _rise(losses: np.ndarray, first: np.ndarray, *, paired: bool) -> tuple[float, float, float]:
    """Of the mean over that of `first`, with the ends of its 95 % interval: over pairs, or Welch's."""
    if paired:
        return t_interval(losses - first)
    rise, squares = float(losses.mean() - first.mean()), np.array([part.var(ddof=1) / len(part) for part in (losses, first)])
    if not squares.sum() > 0:
        return rise, rise, rise
    freedom = squares.sum() ** 2 / (squares**2 / np.array([len(losses) - 1, len(first) - 1])).sum()
    half = float(stdtrit(freedom, 0.975) * math.sqrt(squares.sum()))
    return rise, rise - half, rise + half


def _read_all(model: Model, batches: Iterable[Batch], length: int, asked: int) -> tuple[np.ndarray, float, float, float]:
    """The mean loss of each sequence; accuracy, rms and rank of all."""
    losses, right, states = [], [], []
    for batch in batches:
        for part in batch.parts(-(-len(batch.inputs) // FEWEST)) if len(batch.inputs) % FEWEST == 0 else [batch]:
            loss, hits, moments = _read(model, part, length, asked)
            losses.append(loss)
            right.append(hits)
            states.append(moments)
    rms = max((float(leaf.square().mean().sqrt()) for leaf in states[0][-1]), default=0.0)
    rms = rms if all(bool(leaf.isfinite().all()) for leaf in states[0][-1]) else math.nan
    return np.concatenate(losses), float(np.nanmean(np.concatenate(right))), rms, rank(states[0])


def _read(model: Model, batch: Batch, length: int, asked: int) -> tuple[np.ndarray, np.ndarray, list[list[Tensor]]]:
    """Mean loss and accuracy of each row at its last positions, and the numbers of the state at some moments of the last half."""
    targets = torch.full(batch.inputs.shape[:2], UNASKED)
    if batch.positions is None:
        targets[:, -asked:] = batch.targets[:, -asked:]
    else:
        targets.scatter_(1, batch.positions, batch.targets)
    piece = max(1, min(PIECE // len(targets), length // (2 * MOMENTS)))
    state, moments = model.backbone.init_state(len(targets)), []
    total, hits = torch.zeros(len(targets), dtype=torch.float64), torch.zeros(len(targets), dtype=torch.float64)
    for start in range(0, length, piece):
        with torch.no_grad():
            predictions, state = model.stream(batch.inputs[:, start : start + piece], state)
        wanted = targets[:, start : start + piece]
        total += F.cross_entropy(predictions.movedim(-1, 1).double(), wanted, reduction="none", ignore_index=UNASKED).sum(1)
        hits += (predictions.argmax(-1) == wanted).sum(1)
        if start + piece >= length // 2 + (len(moments) + 1) * (length - length // 2) // MOMENTS:
            moments.append([each.double() for each in numbers(model.backbone, state) if each.numel()])
    counted = (targets != UNASKED).sum(1).clamp(min=1)
    return (total / counted).numpy(), (hits / counted).numpy(), moments


def rank(moments: list[list[Tensor]]) -> float:
    """Effective rank of states that do not grow, with all moments and rows together; NaN where they grow or are not finite."""
    shapes = {tuple(leaf.shape[1] for leaf in moment) for moment in moments}
    if len(shapes) > 1 or not moments[0]:
        return math.nan
    states = torch.cat([torch.cat(moment, 1) for moment in moments])
    if not states.isfinite().all():
        return math.nan
    deviations = states - states.mean(0)
    scale = float(deviations.abs().max())
    if not scale > 0:
        return 0.0
    squares = torch.linalg.svdvals(deviations / scale).square()
    return float(squares.sum() ** 2 / squares.square().sum())

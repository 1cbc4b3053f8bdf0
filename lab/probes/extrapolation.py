"""What happens past the training length: score and loss, and size and spread of the state, at 1, 2, 4 ... 64 times it.

At each length L the task is made with that length, and what it asks in the last half is scored (all of it where it asks at a few
positions). Sequences are read in pieces with the state carried along, which is the same map (`lab check`). Intervals are
t-intervals over sequences. rms is the root mean square of the tensor of the state where that is largest, at the end; rank is the
effective rank of the states at four moments of the last half and in 8 sequences together, (sum s^2)^2 / sum s^4 over the singular
values s of their deviations from the mean, at most 31: whether the state still differs between texts.

The verdict, with the first length where it happens

* diverges: the predictions or the state are not finite; or the rms more than quadruples in this doubling and in each that
  follows, of which there is one at least (a sum of inputs doubles, a random walk grows by 1.4); or the loss is beyond that of
  guessing all classes alike, by its whole interval, while at the training length it is not;
* degrades, where it does not diverge: the loss exceeds that at the training length by more than `TOLERANCE` nats, by the whole
  interval of the difference (Welch's);
* stable: neither happens up to the longest length that was read.

The tolerance is in the spirit of loss by position at lengths beyond training, as for ALiBi (Press et al., arXiv:2108.12409).
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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
TOKENS = 1 << 17
"""Of all sequences of a length, where that leaves `FEWEST` or more."""
FEWEST, MOST = 8, 64
PIECE = 1 << 12
"""Positions at once, of all rows together where there are several."""
MOMENTS = 4
LOSS = View(
    "times", "loss", "length / training length", "loss, nats", logx=True, low="low", high="high",
    caption="Loss in the last half of sequences that are longer than those of training. Bars: 95 % t-intervals over sequences.",
)  # fmt: skip
STATE = View(
    "times", "rms", "length / training length", "rms of the state", logx=True, logy=True,
    caption="Root mean square of the tensor of the state where it is largest, at the end of the sequences.",
)  # fmt: skip
COLUMNS = ["times", "length", "sequences", "loss", "low", "high", "error", "accuracy", "rms", "rank"]


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
    for factor in (1 << k for k in range(times.bit_length()) if 1 << k <= times):
        try:
            longer = subject.variant(length=factor * task.length) if factor > 1 else task
            if longer.length != factor * task.length:
                break
            rows.append(_row(subject, longer, factor))
        except LengthError as error:
            refused = f"; it cannot read further: {error}"
            break
        except UsageError as error:
            if factor == 1 or "has no setting length" in str(error):
                raise
            refused = f"; at {factor} times: {error}"
            break
        if not np.isfinite(rows[-1][3]):
            break
    table = DataFrame(rows, columns=COLUMNS)
    ended = verdict(table, math.log(task.outputs))
    found = {"verdict": ended.name, "at": ended.at, "longest": float(table["times"].iloc[-1])}
    found |= {"loss": float(table["loss"].iloc[0]), "loss_longest": float(table["loss"].iloc[-1])}
    found["rise"] = found["loss_longest"] - found["loss"]
    said = f"{ended.name} up to {table['times'].iloc[-1]} times the training length of {task.length:,}{refused}" \
        if ended.name == "stable" else \
        f"{ended.name} at {ended.at:g} times the training length of {task.length:,}: {ended.why}{refused}"  # fmt: skip
    return Finding({"extrapolation": Sheet(table, LOSS), "state": Sheet(table[["times", "rms", "rank"]], STATE)}, found, said)


def verdict(table: DataFrame, guessing: float) -> Verdict:
    """By the rule above. table: times, loss, low, high, error (standard, of the mean), sequences, rms.

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
        if (worse := row.loss - first["loss"]) - _half_width(row, first) > TOLERANCE:
            return Verdict("degrades", float(row.times), f"the loss is {worse:.3g} nats above that at the training length")
    return Verdict("stable", math.nan, "")


def _half_width(row: Any, first: Any) -> float:
    """Of the interval of a difference of means, Welch's."""
    squares = np.array([row.error**2, first["error"] ** 2])
    spare = np.array([row.sequences - 1, first["sequences"] - 1])
    if not squares.sum() > 0:
        return 0.0 if np.isfinite(squares).all() else math.inf
    freedom = squares.sum() ** 2 / (squares**2 / np.maximum(spare, 1)).sum()
    return float(stdtrit(freedom, 0.975) * math.sqrt(squares.sum()))


def _row(subject: Subject, task: Task, times: int) -> tuple[float, ...]:
    """The columns of the table at one length."""
    count = min(MOST, max(FEWEST, TOKENS // task.length))
    losses, right, states = [], [], []
    for batch in subject.examples(count, task):
        for part in batch.parts(-(-len(batch.inputs) // FEWEST)) if len(batch.inputs) % FEWEST == 0 else [batch]:
            loss, hits, moments = _read(subject.model, part, task.length)
            losses.append(loss)
            right.append(hits)
            states.append(moments)
    rms = max((float(leaf.square().mean().sqrt()) for leaf in states[0][-1]), default=0.0)
    rms = rms if all(bool(leaf.isfinite().all()) for leaf in states[0][-1]) else math.nan
    values = np.concatenate(losses)
    mean, low, high = t_interval(values)
    if not np.isfinite(values).all():
        mean, low, high = math.nan, math.nan, math.nan
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return times, task.length, len(values), mean, low, high, error, float(np.nanmean(np.concatenate(right))), rms, rank(states[0])


def _read(model: Model, batch: Batch, length: int) -> tuple[np.ndarray, np.ndarray, list[list[Tensor]]]:
    """Mean loss and accuracy of each row, and the numbers of the state at some moments of the last half."""
    targets = torch.full(batch.inputs.shape[:2], UNASKED)
    if batch.positions is None:
        targets[:, length // 2 :] = batch.targets[:, length // 2 :]
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
    asked = (targets != UNASKED).sum(1).clamp(min=1)
    return (total / asked).numpy(), (hits / asked).numpy(), moments


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

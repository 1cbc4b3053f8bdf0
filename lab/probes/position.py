"""Loss by position in the context: what reading more is worth, and whether it still falls at the end.

The loss, in nats, of what is asked at each position, as means over ranges that double; intervals are t-intervals over sequences,
whose positions are correlated. The slope at the end is that of the loss against log2 of the position over the last half of the
context, in nats for a context twice as long: a straight line in each sequence, and a t-interval over sequences. It still falls
where the whole interval is below 0. Windows of a text do not overlap.

Some bytes are harder than others, which would drown the slope. So the same model reads the same symbols a second time, in pieces
of `NEAR` of which the last half is kept, so that its context is short. What it then loses has the same mean at all positions that
are as far into a piece; by how much a symbol is harder than that mean is taken off its loss (a control variate).

Kaplan et al., arXiv:2001.08361, section 3.3 and figure 20; Arora et al., arXiv:2312.04927.
"""

import numpy as np
import torch
from jaxtyping import Float
from pandas import DataFrame
from torch.nn import functional as F

from lab.analysis.findings import Finding, Sheet, View
from lab.errors import UsageError
from lab.probes.subject import Subject, octaves, t_interval
from tasks.task import UNASKED, Batch

SEQUENCES = 256
NEAR = 32
"""Symbols of the short context at most; at least half as many."""
Losses = Float[np.ndarray, "size length"]
VIEW = View(
    "position", "loss", "position in the context", "loss, nats", logx=True, low="low", high="high",
    caption="Mean loss over ranges of positions that double, each drawn at its middle; bars: 95 % t-intervals over sequences.",
)  # fmt: skip


def measure(subject: Subject) -> Finding:
    """
    Raises:
        UsageError: the task does not ask at every position.
    """
    read = [both_losses(subject, batch) for batch in subject.examples(SEQUENCES)]
    losses = adjusted(*(np.concatenate(each) for each in zip(*read, strict=True)))
    length = losses.shape[1]
    places = np.arange(1, length + 1)  # symbols read
    ranges, rows = octaves(np.maximum(places - 1, 1)), []  # 2^k + 1 ... 2^(k+1)
    for first in np.unique(ranges):
        mine = places[ranges == first]
        value, low, high = t_interval(np.nanmean(losses[:, ranges == first], 1))
        rows.append((int(first), int(mine[-1]), float(np.sqrt(mine[0] * mine[-1])), value, low, high, len(losses)))
    table = DataFrame(rows, columns=["first", "last", "position", "loss", "low", "high", "sequences"])
    slope, low, high = t_interval(slopes(losses))
    verdict = "still falls" if high < 0 else "rises" if low > 0 else "no longer falls measurably"
    said = f"at the end of {length} positions the loss {verdict}: {slope:+.4f} [{low:+.4f}, {high:+.4f}] nats a doubling"
    numbers = {"slope": slope, "slope_low": low, "slope_high": high, "end": float(table["loss"].iloc[-1]), "verdict": verdict}
    return Finding({"position": Sheet(table, VIEW)}, numbers, said)


def adjusted(whole: Losses, short: Losses) -> Losses:
    """The losses with a whole context, without how hard each symbol is by itself, where that is known."""
    left = whole.copy()
    for phase in range(NEAR // 2):
        some = short[:, phase :: NEAR // 2]
        if np.isfinite(some).any():
            left[:, phase :: NEAR // 2] -= np.nan_to_num(some - np.nanmean(some))
    return left


def both_losses(subject: Subject, batch: Batch) -> tuple[Losses, Losses]:
    """Of every symbol, with all before it as context and with a short one; NaN where nothing is asked or that is no different.

    Raises:
        UsageError: the task does not ask at every position.
    """
    whole = each_loss(subject, batch)
    short, half = np.full_like(whole, np.nan), NEAR // 2
    starts = range(half, whole.shape[1] - NEAR + 1, half)
    if starts:
        pieces = [slice(start, start + NEAR) for start in starts]
        inputs, targets = (torch.cat([each[:, piece] for piece in pieces]) for each in (batch.inputs, batch.targets))
        cut = Batch(inputs, targets)
        for piece, losses in zip(pieces, np.split(each_loss(subject, cut), len(pieces)), strict=True):
            short[:, piece.start + half : piece.stop] = losses[:, half:]
    return whole, short


def each_loss(subject: Subject, batch: Batch) -> Losses:
    """In nats, at each position; NaN where nothing is asked.

    Raises:
        UsageError: the task does not ask at every position.
    """
    if batch.positions is not None or subject.task.pooled or subject.task.real or subject.task.bottleneck:
        raise UsageError(f"{subject.name}: the task does not ask at every position; this probe needs one that does, like text")
    with torch.no_grad():
        predictions = subject.model(batch.inputs).movedim(-1, 1).float()
    losses = F.cross_entropy(predictions, batch.targets, reduction="none", ignore_index=UNASKED)
    return losses.masked_fill(batch.targets == UNASKED, torch.nan).double().numpy()


def slopes(losses: Losses) -> Float[np.ndarray, "size"]:
    """Of a line through each row's last half against log2 of the position, in means over whole pieces."""
    piece = NEAR // 2 if losses.shape[1] >= 4 * NEAR else 1
    first, last = -(-losses.shape[1] // 2 // piece) * piece, losses.shape[1] // piece * piece
    kept = np.nanmean(losses[:, first:last].reshape(len(losses), -1, piece), 2)
    place = np.log2(np.arange(first, last) + 1.0).reshape(-1, piece).mean(1)
    away = place - place.mean()
    return np.nansum(away * (kept - np.nanmean(kept, 1, keepdims=True)), 1) / (away**2).sum()

"""What is recalled from one unbroken sequence of very many positions, read in constant memory.

The task makes the sequence and asks what it likes on the way: each question is read on a fork of the state, so that the sequence
goes on as if it had not been asked. Answers are told apart by their distance, from where that which they ask for began to the
question, in octaves. As one sequence says little, shorter ones are read besides, with other seeds: of a 64th of the positions, a
4096th, and so on, at most `SEQUENCES` of a length, which takes a little more than a quarter of the time again. Intervals are
Wilson's: in an octave each sequence asks for each thing once, but for the very end.

* near: share of right answers at distances below the training length;
* start: of those at the greatest distance there is, at the end;
* longest: the greatest distance up to which every interval lies above guessing; 0 if the first does not;
* fresh, fresh_alone: share of right answers in test sequences of the training length, each read on a fork of the last state,
  and on their own: whether the model still works after so many positions;
* state: numbers that are remembered at the end; memory: the process's peak so far; state_growth, memory_growth: their values at
  the end over those at 2^20 positions, or at the last question before the half of fewer;
* attention_gb: 10^9 bytes of keys and values of full attention, as wide and deep as the model, in float32, at the end;
* attention_flops: of its scores and of what it reads, for the last position: 4 depth dim positions, a multiply-add being two.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import copy
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from pandas import DataFrame

from architectures.backbone import LengthError
from lab import carried, machine
from lab.analysis.findings import Finding, Sheet, View
from lab.errors import UsageError, within
from lab.model import Model, state_size
from lab.probes.forks import Answer, Pieces, by_distance, fresh, longest, read, share
from lab.probes.subject import Subject, numbers
from tasks.task import Batch

SEQUENCES = 64
TOKENS = 1 << 15
"""Of all test sequences, where that leaves `FEWEST` or more."""
FEWEST, MOST = 8, 64
GROWING = 1 << 16
"""Positions that are read where the state grows with them."""
SETTLED = 1 << 20
"""Positions after which neither state nor memory should grow."""
TRIED, PIECES = 1 << 12, 16
"""Positions of a piece, and pieces, after which a state grows for ever."""
SAID_SECONDS = 30.0
RECALL = View(
    "distance", "accuracy", "distance, positions", "accuracy", logx=True, low="low", high="high", ylim=(0, 1),
    caption="Share of right answers by the distance to what was asked for, in octaves. "
            "Bars: Wilson's 95 % intervals.",
)  # fmt: skip
COST = View(
    "positions", "seconds", "positions read", "seconds", logx=True, logy=True,
    caption="Time to read so many positions of one sequence. The table has the peak of memory and the numbers in the state.",
)  # fmt: skip
AFTER = View(
    "positions", "accuracy", "positions read before", "accuracy", logx=True, low="low", high="high", ylim=(0, 1),
    caption="Share of right answers in test sequences of the training length that are read on after so many positions.",
)  # fmt: skip


class Moment(NamedTuple):
    """After the questions at a moment of the long sequence."""

    positions: int
    seconds: float
    memory: int
    state: int
    fresh: tuple[int, int]


def measure(subject: Subject, positions: int = 1 << 20) -> Finding:
    """
    Raises:
        UsageError: the backbone is not causal, grows with what it reads, or cannot read so far; or the task has no such sequence.
    """
    subject.need_causal()
    task, model = subject.task, subject.model
    within("--positions", positions, 4 * task.length, 1 << 50)
    try:
        next(iter(task.endless(positions, 0)))
    except NotImplementedError as error:
        raise UsageError(f"{subject.name}: {error}; this probe needs a task that has, like needle") from None
    _need_constant(subject, positions)
    tests = list(subject.examples(max(FEWEST, min(MOST, TOKENS // task.length))))
    with torch.no_grad():
        alone = fresh(model, model.backbone.init_state(1), tests)
        try:
            answers, moments = _long(model, task.endless(positions, 0), positions, tests)
        except LengthError as error:
            raise UsageError(f"{subject.name}: it cannot read {positions:,} positions: {error}") from None
        start = max(answers)
        for length, seed in _shorter(positions, 2 * task.length):
            answers += [each for _, _, answered in read(model, task.endless(length, seed)) for each in answered]
    recalled = by_distance(answers)
    near = [each for each in answers if each.distance < task.length]
    last, settled = moments[-1], [each for each in moments if each.positions <= min(SETTLED, positions // 2)][-1]
    depth, dim = model.backbone.depth, model.backbone.dim
    found = {
        "near": sum(each.right for each in near) / sum(each.parts for each in near),
        "start": start.right / start.parts,
        "longest": longest(recalled, 1 / task.outputs),
        "fresh": last.fresh[0] / last.fresh[1],
        "fresh_alone": alone[0] / alone[1],
        "positions": positions,
        "tokens_per_second": positions / last.seconds,
        "state": last.state,
        "state_growth": last.state / max(settled.state, 1),
        "memory_growth": last.memory / settled.memory,
        "attention_gb": 2 * depth * dim * 4 * positions / 1e9,
        "attention_flops": 4 * depth * dim * positions,
        "seconds": last.seconds,
    }
    said = (
        f"{positions:,} positions in {last.seconds:.0f} s with a state of {last.state:,} numbers; attention would keep "
        f"{found['attention_gb']:.3g} GB; recall {found['near']:.3f} below the training length of {task.length:,}, of the start "
        f"{found['start']:.3f}, above guessing to a distance of {found['longest']:,}; sequences read after all that "
        f"{found['fresh']:.3f}, alone {found['fresh_alone']:.3f}"
    )
    cost = [(each.positions, each.seconds, each.memory / 1e6, each.state) for each in moments]
    after = [(each.positions, *share(*each.fresh)) for each in moments]
    sheets = {
        "stream": Sheet(recalled, RECALL),
        "stream-cost": Sheet(DataFrame(cost, columns=["positions", "seconds", "memory", "state"]), COST),
        "stream-after": Sheet(DataFrame(after, columns=["positions", "accuracy", "low", "high", "answers"]), AFTER),
    }
    return Finding(sheets, found, said)


def _need_constant(subject: Subject, positions: int) -> None:
    """
    Raises:
        UsageError: the state grows with what was read, and that is much.
    """
    if positions <= GROWING:
        return
    backbone = copy.deepcopy(subject.model.backbone).to("meta")
    try:
        carried.settled(backbone, TRIED, PIECES)
    except LengthError as error:
        raise UsageError(f"{subject.name}: it cannot read {positions:,} positions: {error}") from None
    except ValueError:
        sizes = [state_size(backbone, length) or 0 for length in (TRIED, 2 * TRIED)]
        needed = 4 * (sizes[1] - sizes[0]) * positions // TRIED
        raise UsageError(
            f"{subject.name}: its state grows with what was read, to {needed:,} bytes at {positions:,} positions; "
            f"--positions {GROWING} can be read"
        ) from None


def _shorter(positions: int, least: int) -> Iterator[tuple[int, int]]:
    """Lengths and seeds of the sequences that are read besides."""
    length = positions // 64
    while length >= least:
        yield from ((length, seed) for seed in range(1, 1 + min(SEQUENCES, positions // 4 // length)))
        length //= 64


def _long(model: Model, pieces: Pieces, positions: int, tests: list[Batch]) -> tuple[list[Answer], list[Moment]]:
    machine.reset_peak_memory()
    began = said = time.monotonic()
    answers, moments = [], []
    for done, state, found in read(model, pieces):
        if found:
            answers += found
            size = sum(each.shape[1] for each in numbers(model.backbone, state))
            score = fresh(model, state, tests)
            moments.append(Moment(done, time.monotonic() - began, machine.peak_memory(), size, score))
        if (now := time.monotonic()) - said > SAID_SECONDS:
            said, rate = now, done / (now - began)
            left = (positions - done) / rate / 60
            print(f"{done:,} of {positions:,} positions, {rate:,.0f} a second, {left:.0f} min left", file=sys.stderr, flush=True)
    return answers, moments

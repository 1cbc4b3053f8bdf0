"""Scores while a run trains, from which its compute-to-solve is read.

A small fixed part of the validation split is scored at steps a factor of 1.15 apart, always at a row of the curve. The pass
leaves weights, optimizer and random states as they were; its FLOPs are none of the budget's, its time none of the run's seconds.
"""

from lab.checkpoint import random_states, restore_random_states
from lab.evaluation import cost, held_out, scores_on
from lab.model import Model
from tasks.task import Batch, Task

RATIO = 1.15
FIRST = 1 / 32
"""Share of the steps after which the first score may be taken."""
SHARE = 0.05
"""What all scores of a run together may cost, over its training FLOPs."""
FEWEST, MOST = 16, 256
"""Examples to score on; a run too small for the fewest has no interim scores."""
METRICS = ("accuracy", "exact")
"""A task is solved near 1, where its metric is a share of right answers."""


class Interim:
    """When and on what a run of `steps` steps, with a row of the curve every `every`, is scored while it trains.

    steps: those with a score. examples: of the validation split. flops: forward FLOPs of one score.
    """

    def __init__(self, model: Model, task: Task, *, precision: str, steps: int, every: int, per_step: int) -> None:
        self.task, self.precision = task, precision
        self.steps = schedule(steps, every)
        self.examples = min(MOST, task.held_out)
        while self.examples and len(self.steps) * cost(model, task, self.examples) > SHARE * steps * per_step:
            self.examples //= 2
        if self.examples < min(FEWEST, task.held_out) or task.metric not in METRICS:
            self.steps, self.examples = [], 0
        self.flops = cost(model, task, self.examples) if self.examples else 0
        self._batches: list[Batch] = []

    def score(self, model: Model) -> float:
        """The task's metric now."""
        before = random_states()
        self._batches = self._batches or list(held_out(self.task, "validation", self.examples))
        found = scores_on(model, self.task, self._batches, precision=self.precision)[self.task.metric]
        restore_random_states(before)
        return found

    def spent(self, step: int) -> int:
        """FLOPs of all scores up to a step."""
        return self.flops * sum(each <= step for each in self.steps)


def schedule(steps: int, every: int) -> list[int]:
    """Rows of the curve, each the last within a factor of 1.15 of the one before, or else the next; the last step is one."""
    rows = [*range(every, steps, every), steps]
    chosen: list[int] = []
    for row, following in zip(rows, [*rows[1:], float("inf")], strict=True):
        if row >= FIRST * steps and (not chosen or following > RATIO * chosen[-1]):
            chosen.append(row)
    return chosen

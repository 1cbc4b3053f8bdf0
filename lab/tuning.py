"""Learning rates, and what a backbone declares as its own to be searched, chosen on the validation split at equal cost.

An architecture is tried at several learning rates, a factor of two apart about the recipe's, each with a share of the budget that
it is chosen for: all trials of a choice cost one run of that budget, however many there are, so every architecture is tuned with
the same FLOPs. The best must have a neighbour on either side; until it does, the grid grows there, which costs more and is told.
Trials are ordinary runs in a store of their own, `<results>/tuning`: no score of theirs is ever a result.
"""

import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lab import plugins
from lab.budget import shown
from lab.engines import Start
from lab.errors import UsageError
from lab.planning import Planned, Planner
from lab.run import Store
from lab.settling import Outcomes, settle

TUNING = "tuning"
"""Folder of the trials, below that of the runs."""

RATIO = 2.0
LARGEST_GROWTH = 6
"""Rates added beyond the grid before its edge is taken as the best that was found."""


@dataclass(frozen=True)
class Choice:
    """What was chosen. edge: whether the best rate lies at the end of those tried. worse: how much higher the validation loss is,
    in nats, at half and at twice the rate; None where that one failed. flops: spent on all trials.
    """

    architecture: str
    lr: float
    loss: float
    edge: bool
    worse: tuple[float | None, float | None]
    trials: int
    flops: float

    def __str__(self) -> str:
        beside = ", ".join("failed" if by is None else f"+{by:.3f}" for by in self.worse)
        edge = "; at the edge of those tried" if self.edge else ""
        return f"{self.architecture}: lr {self.lr:.3g} of {self.trials} trials (at half and twice the rate: {beside} nats){edge}"


@dataclass
class Search:
    """The trials of one choice: an architecture on a task, of the planner's size, for runs of `budget` training FLOPs."""

    planner: Planner
    architecture: str
    task: str
    budget: float
    trials: int
    _tried: dict[str, dict[int, Planned]] = field(default_factory=dict)
    _share: float = 0.0
    _usual: float = 0.0

    def __post_init__(self) -> None:
        if not 3 <= self.trials <= 31:
            raise UsageError(f"--tune {self.trials}: must be from 3, as a best rate needs a neighbour on either side, to 31")

    def wanted(self, outcomes: Outcomes) -> list[Planned]:
        """Trials to be done now; none when the choice is made.

        Raises:
            UsageError: the request is wrong.
            BudgetError: a trial's share of the budget does not pay for a step.
        """
        if not self._tried:
            forms = list(_forms(self.architecture))
            half = self.trials // 2
            rates = range(-half, self.trials - half)
            self._share = self.budget / (self.trials * len(forms))
            self._usual = self.planner.plan(self.architecture, self.task, self.budget, 0).spec.recipe["lr"]
            self._tried = {form: {power: self._plan(form, power) for power in rates} for form in forms}
        for left in reversed(range(LARGEST_GROWTH + 1)):
            open_trials = [trial for grid in self._tried.values() for trial in grid.values() if trial.spec.id not in outcomes]
            if open_trials:
                return open_trials
            grown = False
            for form, grid in self._tried.items() if left else ():
                added = _beyond({power: outcomes[trial.spec.id] for power, trial in grid.items()})
                if added is not None and 0 < self._rate(added) <= 1 and len(grid) < self.trials + LARGEST_GROWTH:
                    grid[added] = self._plan(form, added)
                    grown = True
            if not grown:
                break
        return []

    def choice(self, outcomes: Outcomes) -> Choice:
        """The form and the rate of the lowest validation loss.

        Raises:
            UsageError: no trial has a loss.
        """
        losses = {
            (form, power): loss
            for form, grid in self._tried.items()
            for power, trial in grid.items()
            if (loss := outcomes.get(trial.spec.id)) is not None
        }
        if not losses:
            raise UsageError(f"--tune {self.trials}: every trial of {self.architecture} diverged or failed; look at lab report")
        form, power = min(losses, key=lambda key: (losses[key], key))
        grid, best = self._tried[form], losses[form, power]
        half, twice = (None if (loss := losses.get((form, power + side))) is None else loss - best for side in (-1, 1))
        return Choice(
            architecture=form,
            lr=self._rate(power),
            loss=best,
            edge=power in (min(grid), max(grid)),
            worse=(half, twice),
            trials=sum(map(len, self._tried.values())),
            flops=sum(trial.spec.budget for grid in self._tried.values() for trial in grid.values()),
        )

    def planned(self, choice: Choice) -> Planned:
        """The run of seed 0 that the choice was made for."""
        return replace(self.planner, lr=choice.lr).plan(choice.architecture, self.task, self.budget, 0)

    def _rate(self, power: int) -> float:
        return float(f"{self._usual * RATIO**power:.3g}")

    def _plan(self, form: str, power: int) -> Planned:
        return replace(self.planner, lr=self._rate(power)).plan(form, self.task, self._share, 0)


def _beyond(losses: Mapping[int, float | None]) -> int | None:
    """The rate to try next, on the side where the best one has no neighbour; None where it has both."""
    known = {power: loss for power, loss in losses.items() if loss is not None and math.isfinite(loss)}
    if not known:
        return min(losses) - 1  # all diverged: the rates are too high
    best = min(known, key=lambda power: known[power])
    if best == min(losses):
        return best - 1
    return best + 1 if best == max(losses) else None


def _forms(architecture: str) -> Iterator[str]:
    """An architecture with every combination of what it declares as `searched` and the user left open."""
    name, given = plugins.parse("architectures", architecture)
    declared = plugins.load("architectures", name).searched
    asked = {setting: values for setting, values in declared.items() if setting not in given}
    for values in itertools.product(*asked.values()):
        yield plugins.canonical("architectures", name, given | dict(zip(asked, values, strict=True)))


def choose(searches: Mapping[Any, Search], results: str, start_pool: Start, started: float) -> dict[Any, Choice]:
    """Carry the searches out, as far as they are not done, and say what was chosen; a choice a search, by the same keys."""
    store = Store(f"{results}/{TUNING}")
    expected = sum(len(search.wanted({})) for search in searches.values())
    tried = settle(list(searches.values()), store, start_pool, expected, started)
    choices = {key: search.choice(tried) for key, search in searches.items()}
    for key, choice in choices.items():
        print(f"  tuned on {searches[key].task} for {shown(searches[key].budget)} FLOPs: {choice}", file=sys.stderr)
    spent: Counter[str] = Counter()
    for choice in choices.values():
        spent[choice.architecture] += round(choice.flops)
    told = ", ".join(f"{shown(flops)} FLOPs for {name}" for name, flops in sorted(spent.items()))
    print(f"  tuning took {told}", file=sys.stderr)
    return choices

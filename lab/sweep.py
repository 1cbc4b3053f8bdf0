"""Iso-FLOP sweeps: at each budget models of several sizes of one architecture on one task (Hoffmann et al., arXiv:2203.15556,
approach 2).

Sizes lie on one ladder for all architectures and budgets. The sizes of a budget reach a factor of `SPAN` either way of where the
budgets before say that the optimum lies, and are extended where it turns out to be at their edge. What is to be run next follows
from what came out so far, so a sweep that was killed goes on where it was. Sizes are placed by validation loss; the frontier is
read on the test split.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from lab.analysis.isoflop import frontier
from lab.errors import BudgetError, UsageError
from lab.planning import Planned, Planner, Shape
from lab.settling import Outcomes

SPAN = 4
EXTENSIONS = 3
FIRST_SIZE = 1e4
TOKENS_PER_PARAMETER = 20
"""Of the first guess at an optimal size (Hoffmann et al. 2022, table 3); the ladder corrects it."""
GROWTH = 0.5
"""Exponent of the optimal size against FLOPs until two budgets say better, and within `GROWTH_RANGE` from then on."""
GROWTH_RANGE = (0.3, 0.7)
ASPECT = 32
"""Width over depth that the depth of a size aims at."""
SEEDED_SIZES = 3


@dataclass(frozen=True)
class Grid:
    """Budgets in training FLOPs, ascending; sizes at each; seeds of the three sizes next to the optimum at budgets up to the
    (geometric) middle, one elsewhere.
    """

    budgets: tuple[float, ...]
    sizes: int = 7
    seeds: int = 1

    def __post_init__(self) -> None:
        if not 4 <= self.sizes <= 31:
            raise UsageError(f"--sizes {self.sizes}: must be from 4, the fewest that a parabola is fitted to, to 31")
        if not 1 <= self.seeds <= 1000:
            raise UsageError(f"--seeds {self.seeds}: must be from 1 to 1000")

    @property
    def ratio(self) -> float:
        """From one size to the next."""
        return SPAN ** (2 / (self.sizes - 1))

    def size(self, rung: int) -> float:
        """Non-embedding parameters of a rung of the ladder."""
        return FIRST_SIZE * self.ratio**rung

    def rung(self, size: float) -> float:
        """Where a size lies on the ladder, between two rungs."""
        return math.log(size / FIRST_SIZE) / math.log(self.ratio)

    def window(self, size: float) -> list[int]:
        """The rungs about a size."""
        lowest = round(self.rung(size) - (self.sizes - 1) / 2)
        return list(range(lowest, lowest + self.sizes))

    def seeded(self, budget: float) -> bool:
        """Whether more than one seed is asked of a budget."""
        return self.seeds > 1 and budget <= math.sqrt(self.budgets[0] * self.budgets[-1]) * (1 + 1e-9)


def depth_of(size: float) -> int:
    """Layers at which models of a size are about `ASPECT` times as wide as deep, at 12 width^2 parameters a layer; two at least.

    The same for every architecture, so that sizes and not shapes are compared.
    """
    return max(2, round((size / (12 * ASPECT**2)) ** (1 / 3)))


@dataclass
class Sweep:
    """One architecture on one task. depth: of every size, or None for `depth_of`. rates: learning rates by size, interpolated in
    logarithms between them; without any, the recipe's.
    """

    planner: Planner
    architecture: str
    task: str
    grid: Grid
    depth: int | None = None
    rates: Mapping[float, float] = field(default_factory=dict)
    _cells: dict[tuple[float, int], Planned | None] = field(default_factory=dict)

    def wanted(self, outcomes: Outcomes) -> list[Planned]:
        """Runs to be done now; none when the sweep is complete.

        Raises:
            UsageError: the architecture, the task or a setting is wrong, or no size can be had at a budget.
        """
        seeded: list[Planned] = []
        optima: list[tuple[float, float, bool]] = []
        for budget in self.grid.budgets:
            asked = self._window(budget, self.centre(budget, optima))
            left = EXTENSIONS
            while True:
                if open_cells := [cell for cell in asked.values() if cell.spec.id not in outcomes]:
                    return [*open_cells, *seeded]
                best, beyond = self._optimum(budget, asked, outcomes)
                rung = {"smaller": min(asked) - 1, "larger": max(asked) + 1}.get(beyond)
                further = self.cell(budget, rung) if rung is not None and left else None
                if rung is None or further is None:
                    break
                asked[rung] = further
                left -= 1
            optima.append((budget, best, not beyond))
            if self.grid.seeded(budget):
                at = self.grid.rung(best)
                for rung in sorted(asked, key=lambda rung: abs(rung - at))[:SEEDED_SIZES]:
                    each = [replace(asked[rung], spec=replace(asked[rung].spec, seed=s)) for s in range(1, self.grid.seeds)]
                    seeded += [cell for cell in each if cell.spec.id not in outcomes]
        return seeded

    def expected(self) -> list[Planned]:
        """The runs that it takes if optima lie where the first guess says and none is at an edge."""
        runs = []
        for budget in self.grid.budgets:
            cells = list(self._window(budget, self.centre(budget, [])).values())
            middle = cells[len(cells) // 2 - 1 :][:SEEDED_SIZES]
            runs += cells + middle * ((self.grid.seeds - 1) * self.grid.seeded(budget))
        return runs

    def likely(self, budget: float) -> float:
        """The size nearest to the first guess at a budget's optimum that the architecture has."""
        guess = self.centre(budget, [])
        return self.grid.size(min(self._window(budget, guess), key=lambda rung: abs(rung - self.grid.rung(guess))))

    def centre(self, budget: float, optima: list[tuple[float, float, bool]]) -> float:
        """The size to look about at a budget, from (budget, best size, inside its window) of those before."""
        if not optima:
            return math.sqrt(budget / 6 / TOKENS_PER_PARAMETER)
        flops, size, growth = optima[-1][0], optima[-1][1], GROWTH
        inside = np.log([(c, n) for c, n, ok in optima if ok])
        if len(inside) > 1:
            growth = float(np.clip(np.polyfit(inside[:, 0], inside[:, 1], 1)[0], *GROWTH_RANGE))
        return size * (budget / flops) ** growth

    def cell(self, budget: float, rung: int) -> Planned | None:
        """The run of seed 0 at a rung; None where the architecture has no such size or the budget does not pay for it."""
        if (budget, rung) not in self._cells:
            size = self.grid.size(rung)
            shape = Shape(depth=self.depth or depth_of(size), size=size)
            try:
                made = replace(self.planner, shape=shape, lr=self._rate(size)).plan(self.architecture, self.task, budget, 0)
            except (BudgetError, UsageError) as error:
                if not isinstance(error, BudgetError) and "--size" not in str(error):
                    raise
                made = None
            self._cells[budget, rung] = made
        return self._cells[budget, rung]

    def frame(self, records: pd.DataFrame, outcomes: Outcomes) -> pd.DataFrame:
        """Those rows of a results frame that are of this sweep."""
        ids = {cell.spec.id for cell in self._cells.values() if cell is not None}
        seeds = {replace(cell.spec, seed=seed).id for cell in self._cells.values() if cell for seed in range(1, self.grid.seeds)}
        return records.loc[records["id"].isin(list((ids | seeds) & set(outcomes)))]

    def _window(self, budget: float, centre: float) -> dict[int, Planned]:
        cells = {rung: self.cell(budget, rung) for rung in self.grid.window(centre)}
        found = {rung: cell for rung, cell in cells.items() if cell is not None}
        if not found:
            raise UsageError(f"--budgets {budget:.3g}: no size of {self.architecture} near {centre:,.0f} parameters can be had")
        return found

    def _optimum(self, budget: float, asked: Mapping[int, Planned], outcomes: Outcomes) -> tuple[float, str]:
        """The best size, and on which side of the sizes it may lie further out."""
        rows = [(budget, self.grid.size(rung), outcomes[cell.spec.id]) for rung, cell in asked.items()]
        runs = pd.DataFrame(rows, columns=["flops", "params", "loss"]).dropna()
        if runs.empty:
            return self.grid.size(min(asked)), "smaller"  # whatever was large diverged
        point = frontier(runs, replicates=2).points.iloc[0]
        smallest, largest = (float(each) for each in np.sort(runs["params"].to_numpy())[[0, -1]])
        if point["status"] in ("ok", "edge"):
            best, beyond = math.exp(np.clip(point["vertex"], math.log(smallest), math.log(largest))), point["beyond"]
        else:
            best = float(runs["params"].to_numpy()[runs["loss"].argmin()])
            beyond = {smallest: "smaller", largest: "larger"}.get(best, "")
        reached = largest >= self.grid.size(max(asked)) * (1 - 1e-9)
        return best, beyond if beyond != "larger" or reached else ""  # those larger diverged

    def _rate(self, size: float) -> float | None:
        if not self.rates:
            return self.planner.lr
        sizes = sorted(self.rates)
        rate = np.exp(np.interp(math.log(size), np.log(sizes), np.log([self.rates[at] for at in sizes])))
        return float(f"{rate:.3g}")

"""The iso-FLOP sweeps that a store holds: ordinary runs of one task at several budgets, each at several sizes."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAssignmentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false
# pyright: reportOperatorIssue=false
# pyright: reportReturnType=false

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lab.analysis.conventions import restate
from lab.analysis.isoflop import FEWEST_SIZES, WIDENING, Frontier, Multiplier, frontier, multiplier
from lab.analysis.labels import caption, columns_of, labelled, measure, quantity

REPLICATES = 1000
_KEYS = ["column", "row"]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The sweeps of several set-ups on one task.

    runs: as in the frame of results, with `row`, the set-up, and `loss` in `unit`, lower is better; of several learning rates at
    one size only the best on validation. reference: the set-up that the others are compared with.
    """

    task: str
    unit: str
    runs: pd.DataFrame
    reference: str

    @property
    def names(self) -> list[str]:
        """The set-ups that have a frontier, the reference first."""
        return sorted(self.frontiers, key=lambda name: (name != self.reference, columns_of(self.runs, "row").index(name)))

    @property
    def others(self) -> list[str]:
        """The set-ups that are compared with the reference."""
        return [name for name in self.names if name != self.reference]

    @cached_property
    def frontiers(self) -> dict[str, Frontier]:
        """Of every set-up of which a run has a loss."""
        return {str(name): frontier(self.of(str(name)), replicates=REPLICATES) for name in sorted(set(self._usable["row"]))}

    @cached_property
    def multipliers(self) -> dict[str, Multiplier]:
        """FLOPs of the reference over FLOPs of each other set-up, at equal loss."""
        return {
            name: multiplier(
                self.of(name), self.of(self.reference), replicates=REPLICATES, names=(name, self.reference)
            )
            for name in self.others
            if self.reference in self.frontiers
        }  # fmt: skip

    def of(self, name: str) -> pd.DataFrame:
        """The finished runs of a set-up."""
        return self._usable[self._usable["row"] == name]

    @property
    def _usable(self) -> pd.DataFrame:
        return self.runs[(self.runs["status"] == "done") & (self.runs["loss"] > 0) & np.isfinite(self.runs["loss"])]

    def restated(self, name: str, convention: str) -> pd.DataFrame:
        """The finished runs of a set-up with `flops` as another convention counts them.

        Raises:
            ValueError: the records lack what it needs.
        """
        runs = restate(self.of(name), convention)
        if unknown := int((runs["flops"] <= 0).sum()):
            raise ValueError(f"convention {convention}: {unknown} of {len(runs)} runs of {name} were recorded without it")
        return runs

    def caption(self, shown: str, intervals: bool = True) -> str:
        """What a figure shows, with the task, the sizes, how intervals are made and the conditions."""
        sizes = self.runs.loc[self.runs["params"] > 0, "params"]
        made = (
            f" Intervals: 95 % percentiles over {REPLICATES} bootstrap replicates that redo the whole path, half-widths times "
            f"{WIDENING}." if intervals else ""
        )  # fmt: skip
        about = f"Task {self.task}, {quantity(sizes.min())} to {quantity(sizes.max())} parameters."
        return caption(self.runs, f"{shown}{made} {about}", interval=False)


def sweeps(frame: pd.DataFrame, reference: str | None = None) -> list[Sweep]:
    """A sweep for each task of which an architecture was run at 2 budgets or more with 4 sizes or more at each.

    reference: the architecture that others are compared with; the first by name where none is given, or where a task lacks it.
    """
    if frame.empty:
        return []
    frame = by_set_up(frame)
    sizes = frame[frame["params"] > 0].groupby([*_KEYS, "budget"])["params"].nunique()
    wide = (sizes >= FEWEST_SIZES).groupby(level=[0, 1]).sum()
    swept = set(wide.index[wide >= 2])
    frame = frame[[key in swept for key in zip(frame["column"], frame["row"], strict=True)]]
    made = []
    for column in columns_of(frame):
        runs = frame[frame["column"] == column]
        unit, higher = measure(runs)
        runs = _chosen(runs if higher else runs.assign(loss=runs["score"]), higher)
        names = columns_of(runs, "row")
        made.append(Sweep(column, "nats" if higher else unit, runs, reference if reference in names else names[0]))
    return made


def apart(frame: pd.DataFrame, found: list[Sweep]) -> pd.DataFrame:
    """The runs that belong to none of the sweeps found in a frame."""
    if frame.empty:
        return frame
    made = by_set_up(frame)
    swept = {(each.task, row) for each in found for row in each.runs["row"]}
    inside = {
        run for run, column, row in zip(made["id"], made["column"], made["row"], strict=True) if (column, row) in swept
    }  # fmt: skip
    return frame[~frame["id"].isin(inside)]


def by_set_up(frame: pd.DataFrame) -> pd.DataFrame:
    """Labelled by set-up and task: runs that share both may differ in budget, size, batch and learning rate."""
    return labelled(frame, ("precision", "data"), ("set-up", "code"))


def _chosen(runs: pd.DataFrame, higher: bool) -> pd.DataFrame:
    """Of the learning rates at one size and budget the one of best mean validation score; budgets of one or two sizes go."""
    metric = runs.loc[runs["metric"] != "", "metric"]
    column = f"validation.{metric.iloc[0]}" if len(metric) else ""
    quality = runs.get(column, pd.Series(np.nan, index=runs.index)) * (-1 if higher else 1)
    keys = ["row", "budget", "params"]
    means = runs.assign(quality=quality).groupby([*keys, "lr"], dropna=False)["quality"].mean().reset_index()
    best = means.sort_values([*keys, "quality", "lr"]).drop_duplicates(keys)
    kept = runs.merge(best[[*keys, "lr"]], on=[*keys, "lr"])
    sizes = kept.groupby(["row", "budget"])["params"].transform("nunique")
    return kept[sizes >= FEWEST_SIZES - 1].reset_index(drop=True)

"""Every kind of figure by name: what it is called, what it needs, how it is drawn from what a store holds.

frame, points = results("results"), curves("results")
for chart in charts(Material(frame, points), "frontier"): write(chart, chart.data, "figures", chart.name, chart.caption)
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from lab.analysis import crowd
from lab.analysis.canvas import Chart
from lab.analysis.crowd import PANELS
from lab.analysis.figures import cost, extrapolation, isoflop, ladder, multiplier, noise, tasks, tuning
from lab.analysis.figures import frontier as frontiers
from lab.analysis.figures.sweep import Sweep, apart, by_set_up, sweeps
from lab.analysis.labels import labelled
from lab.analysis.plots import quality_against_flops, quality_by_task
from lab.analysis.speed import by_length, speed_by_task, throughput_against_length
from lab.analysis.variants import accuracy_by_slice, quality_beyond_training

SWEEP = "an iso-FLOP sweep, 2 budgets or more with 4 sizes or more at each; lab frontier makes one"
SEVERAL = "runs of two tasks or more; lab compare makes some"
TUNED = "runs of one size at several learning rates; --tune makes some"


@dataclass(frozen=True, eq=False)
class Material:
    """What figures are drawn from: frames of results and of curves; the architecture to compare sweeps with; a ladder's steps;
    how many panels a figure of a comparison has at most.
    """

    frame: pd.DataFrame
    curves: pd.DataFrame
    reference: str | None = None
    ladder: pd.DataFrame | None = None
    panels: int = PANELS

    @cached_property
    def sweeps(self) -> list[Sweep]:
        return sweeps(self.frame, self.reference)

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """The runs of no sweep, labelled."""
        return labelled(apart(self.frame, self.sweeps))

    @cached_property
    def shown(self) -> tuple[pd.DataFrame, str]:
        """The labelled runs of no sweep that are drawn, and in words what is left out, if anything."""
        runs = self.comparison
        return (runs, "") if runs.empty else crowd.drawn(runs, self.panels)

    @property
    def curved(self) -> set[str]:
        """The ids of the runs whose training curves are drawn."""
        return set() if self.shown[0].empty else set(crowd.curved(self.shown[0])[0]["id"])

    def with_curves(self, curves: pd.DataFrame) -> "Material":
        """The same with these curves."""
        made = replace(self, curves=curves)
        for found in ("sweeps", "comparison", "shown"):  # which do not depend on them
            made.__dict__[found] = getattr(self, found)
        return made

    @property
    def swept(self) -> pd.DataFrame:
        """Runs of all sweeps: column, row, flops."""
        return pd.concat([pd.DataFrame(columns=["column", "row", "flops"]), *(each.runs for each in self.sweeps)])


Drawn = Mapping[str, Chart | None]


@dataclass(frozen=True)
class Kind:
    """title: of its figures. needs: what a store must hold and which command makes it. draw: figures by what sets them apart."""

    title: str
    needs: str
    draw: Callable[[Material], Drawn]


def _of_sweeps(draw: Callable[[Sweep], Chart | Drawn | None]) -> Callable[[Material], Drawn]:
    """A figure, or several by name, of each sweep; the task is in the name where there are several."""

    def drawn(material: Material) -> Drawn:
        made: dict[str, Chart | None] = {}
        for sweep in material.sweeps:
            task = sweep.task if len(material.sweeps) > 1 else ""
            found = draw(sweep)
            named = found if isinstance(found, Mapping) else {"": found}
            made |= {" ".join(filter(None, (task, name))): chart for name, chart in named.items()}
        return made

    return drawn


def _of_comparison(draw: Callable[..., Chart | None], *, with_curves: bool = False) -> Callable[[Material], Drawn]:
    """A figure of the runs of no sweep, or of those that it has room for, whose caption says what is left out."""

    def drawn(material: Material) -> Drawn:
        runs, left_out = material.shown
        if runs.empty:
            return {}
        more = [material.curves[material.curves["id"].isin(runs["id"])]] if with_curves else []
        if chart := draw(runs, *more):
            chart.caption += left_out
        return {"": chart}

    return drawn


def _against_flops(runs: pd.DataFrame, curves: pd.DataFrame) -> Chart | None:
    some, left_out = crowd.curved(runs)
    if chart := quality_against_flops(some, curves[curves["id"].isin(some["id"])]):
        chart.caption += left_out
    return chart


def _breakdown(material: Material) -> Drawn:
    if material.frame.empty:
        return {}
    runs, left_out = crowd.drawn(by_set_up(material.frame), material.panels)
    if chart := cost.flop_breakdown_chart(runs):
        chart.caption += left_out
    return {"": chart}


def _speed(frame: pd.DataFrame) -> Chart | None:
    return None if by_length(labelled(frame))[0].empty else speed_by_task(frame)


KINDS: dict[str, Kind] = {
    "frontier": Kind("Compute-optimal frontier", SWEEP, _of_sweeps(frontiers.frontier_chart)),
    "multiplier": Kind(
        "Compute multiplier", SWEEP.replace("an iso-FLOP sweep", "iso-FLOP sweeps of two architectures"),
        _of_sweeps(multiplier.multiplier_charts),
    ),
    "isoflop": Kind("Loss against size at equal compute", SWEEP, _of_sweeps(isoflop.isoflop_charts)),
    "quality-by-task": Kind(
        "Quality at equal compute", "runs outside a sweep; lab compare makes some", _of_comparison(quality_by_task)
    ),
    "task-matrix": Kind("Scores of all tasks", SEVERAL, _of_comparison(tasks.task_matrix_chart)),
    "performance-profile": Kind(
        "Performance profile", "finished runs of two tasks or more that are scored by right answers; lab compare makes some",
        _of_comparison(tasks.performance_profile_chart),
    ),
    "solve-times": Kind(
        "Compute to solve", "curves with scores in which a run solves its task; lab compare makes some with a larger --budget",
        _of_comparison(tasks.solve_times_chart, with_curves=True),
    ),
    "quality-against-flops": Kind(
        "Loss against compute", "curves of runs; lab compare makes some", _of_comparison(_against_flops, with_curves=True)
    ),
    "quality-beyond-training": Kind(
        "Beyond what was trained on", "runs of a task with harder variants, such as recall; lab compare makes some",
        _of_comparison(quality_beyond_training),
    ),
    "length-extrapolation": Kind(
        "Beyond the trained length", "runs of a task that is tested at other lengths, such as text; lab compare makes some",
        _of_comparison(extrapolation.length_extrapolation_chart),
    ),
    "accuracy-by-slice": Kind(
        "By slice", "runs of a task with slices, such as recall; lab compare makes some", _of_comparison(accuracy_by_slice)
    ),
    "convention-sensitivity": Kind(
        "Multiplier by convention", SWEEP.replace("an iso-FLOP sweep", "iso-FLOP sweeps of two architectures"),
        _of_sweeps(multiplier.convention_chart),
    ),
    "wallclock": Kind("Frontier against time", SWEEP, _of_sweeps(frontiers.wallclock_chart)),
    "allocation": Kind("Optimal size and data", SWEEP, _of_sweeps(isoflop.allocation_chart)),
    "seed-noise": Kind(
        "Noise between seeds", SWEEP.replace("sizes or more at each", "sizes or more and 2 seeds or more at each"),
        _of_sweeps(noise.seed_noise_chart),
    ),
    "residuals": Kind("Residuals of the loss surface", SWEEP, _of_sweeps(noise.residuals_chart)),
    "lr-sensitivity": Kind(
        "Sensitivity to the learning rate", TUNED, lambda material: tuning.learning_rate_charts(material.frame)
    ),
    "tuning-fairness": Kind(
        "What tuning bought", TUNED, lambda material: tuning.fairness_charts(material.frame, material.swept)
    ),
    "ladder": Kind(
        "Ablation ladder", "the steps of a frontier in a study; lab study draws it",
        lambda material: {"": None if material.ladder is None else ladder.ladder_chart(material.ladder)},
    ),
    "flop-breakdown": Kind(
        "What FLOPs are spent on", "records with FLOPs by kind; lab compare makes some",
        _breakdown,
    ),
    "throughput-against-length": Kind(
        "Speed", "finished runs; lab compare makes some", _of_comparison(throughput_against_length)
    ),
    "speed-by-task": Kind(
        "Speed of the runs", "speed measured at several lengths; lab compare makes some", _of_comparison(_speed)
    ),
}  # fmt: skip


def charts(material: Material, *kinds: str) -> list[Chart]:
    """The figures of these kinds, of all where none is named, that the material allows; each with its name and title."""
    made: dict[str, Chart] = {}
    for kind in kinds or KINDS:
        for apart_, chart in KINDS[kind].draw(material).items():
            if chart is None:
                continue
            name = "-".join(filter(None, (kind.replace("-", "_"), re.sub(r"[^\w.]+", "-", apart_).strip("-"))))
            while name in made:
                name += "-2"
            chart.name, chart.title = name, KINDS[kind].title + (f": {apart_}" if apart_ else "")
            made[name] = chart
    return list(made.values())


def sweep_figures(frame: pd.DataFrame, reference: str | None = None) -> list[Chart]:
    """All figures of the sweeps in a frame of results. reference: the architecture that multipliers compare the others with."""
    names = ("frontier", "multiplier", "isoflop", "convention-sensitivity", "wallclock", "allocation", "seed-noise", "residuals")
    return charts(Material(frame, pd.DataFrame(), reference), *names)


__all__ = ["KINDS", "PANELS", "Kind", "Material", "charts", "sweep_figures"]

"""From records to frames, tables, figures and a report. Reads records, never trains; figures load when they are asked for.

frame, points = results("results"), curves("results")
print(render(frame, points))
write_report(Material(frame, points), "report", "lab compare")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lab.analysis.aggregate import (
    aggregates,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    sign_flip,
    stratified_bootstrap,
    wilson,
)
from lab.analysis.frame import curves, results
from lab.analysis.solving import compute_to_solve, kaplan_meier, solve_table, solving_multiplier, solving_profile, solving_score
from lab.analysis.statistics import Reading, baselines, holm, pairs, summary, table
from lab.analysis.text import render
from lab.analysis.verdicts import verdicts

if TYPE_CHECKING:
    from lab.analysis.benchmark import benchmark_chart, benchmark_table
    from lab.analysis.canvas import Chart, write
    from lab.analysis.conventions import restate
    from lab.analysis.figures import PANELS, Material, charts, sweep_figures
    from lab.analysis.isoflop import Frontier, Multiplier, frontier, multiplier
    from lab.analysis.plots import quality_against_flops, quality_by_task
    from lab.analysis.report import draw_all, write_report
    from lab.analysis.speed import speed_by_task, throughput_against_length
    from lab.analysis.surface import LossSurface, fit_loss_surface
    from lab.analysis.sweeps import summarise, told
    from lab.analysis.variants import accuracy_by_slice, quality_beyond_training

_MODULES = {
    "benchmark": ("benchmark_chart", "benchmark_table"),
    "canvas": ("Chart", "write"),
    "conventions": ("restate",),
    "figures": ("PANELS", "Material", "charts", "sweep_figures"),
    "isoflop": ("Frontier", "Multiplier", "frontier", "multiplier"),
    "plots": ("quality_against_flops", "quality_by_task"),
    "report": ("draw_all", "write_report"),
    "speed": ("speed_by_task", "throughput_against_length"),
    "sweeps": ("summarise", "told"),
    "surface": ("LossSurface", "fit_loss_surface"),
    "variants": ("accuracy_by_slice", "quality_beyond_training"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "PANELS", "Chart", "Frontier", "LossSurface", "Material", "Multiplier", "Reading", "accuracy_by_slice", "aggregates",
    "baselines",
    "benchmark_chart", "benchmark_table", "charts", "compute_to_solve", "curves", "draw_all", "fit_loss_surface", "frontier",
    "holm", "interquartile_mean", "kaplan_meier", "multiplier", "pairs", "performance_profile",
    "probability_of_improvement", "quality_against_flops", "quality_beyond_training", "quality_by_task", "render",
    "restate", "results", "sign_flip", "solve_table", "solving_multiplier", "solving_profile", "solving_score", "speed_by_task",
    "stratified_bootstrap", "summarise", "summary", "sweep_figures", "table", "throughput_against_length", "told", "verdicts",
    "wilson", "write", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # matplotlib and scipy.optimize take a third of a second that a table does not need
    if name in _HOMES:
        return getattr(import_module(f"lab.analysis.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lab.analysis' has no attribute {name!r}")

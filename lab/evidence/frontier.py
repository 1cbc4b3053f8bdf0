"""Iso-FLOP sweeps of several set-ups: what each saves over those before it, and how that changes with scale."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false

import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace

import numpy as np
import pandas as pd

from lab import plugins, presets
from lab.analysis import sweeps
from lab.analysis.isoflop import frontier, multiplier
from lab.analysis.ladder import ladder, told
from lab.analysis.statistics import Reading
from lab.budget import parse_budgets
from lab.evidence import Evidence, Site
from lab.frontier import Found, Setup, carry_out
from lab.study import Frontier
from lab.sweep import Grid


def gather(part: Frontier, site: Site) -> Evidence:
    """Rows, by step and against, one before it: multiplier: FLOPs of the other over those of the step, at the middle of the
    losses that both reach, or NaN between its bounds; multiplier_least, multiplier_most: at the greatest and the least such loss;
    slope: d ln multiplier / d ln FLOPs. By step alone: loss_exponent: - d ln loss / d ln FLOPs of its frontier. All with their
    bootstrap intervals.
    """
    from lab.analysis.figures import Material, charts

    runs = _carry_out(part, site).runs
    known = {name: sweeps.with_loss(frame) for name, frame in runs.items()}
    names = list(known)
    pairs = [(name, other) for at, name in enumerate(names) for other in names[:at]]
    rows = [{"step": name, **_exponent(frame)} for name, frame in known.items()]
    rows += [{"step": name, "against": other, **_multiplied(name, other, known)} for name, other in pairs]
    frame = pd.concat(runs.values(), ignore_index=True)
    table = ladder(runs)
    drawn = charts(Material(frame, pd.DataFrame(), ladder=table), "ladder")
    budgets = frame["budget"].astype(float)
    made = pd.DataFrame(rows).assign(budget=budgets.max(), seed=np.nan)
    said = f"{sweeps.summarise(runs)}\n\n{told(table, names[0])}"
    return Evidence(made, frame, charts=drawn, said=said, reference=plugins.recorded("architectures", part.steps[0].architecture))


def plan(part: Frontier, site: Site) -> str:
    with redirect_stderr(io.StringIO()) as heard:
        _carry_out(part, site, plan_only=True)
    return heard.getvalue().rstrip()


def _carry_out(part: Frontier, site: Site, plan_only: bool = False) -> Found:
    planner = site.planner()
    setups = {
        step.name: Setup(
            plugins.recorded("architectures", step.architecture),
            replace(planner, recipe=presets.read(step.recipe) if step.recipe else None),
        )
        for step in part.steps
    }
    grid = Grid(tuple(site.scale * budget for budget in parse_budgets(part.budgets)), part.sizes, part.seeds)
    return carry_out(
        setups, part.task, grid, depth=part.depth, trials=part.tune or None, results=site.results, workers=site.workers,
        engine=site.engine, plugin_files=site.plugin_files, plan_only=plan_only, started=site.started,
    )  # fmt: skip


def _ends(name: str, read: Reading) -> dict[str, float]:
    return {name: float(read), f"{name}_low": read.low, f"{name}_high": read.high}


def _multiplied(step: str, other: str, known: Mapping[str, pd.DataFrame]) -> dict[str, float | str]:
    try:
        found = multiplier(known[step], known[other], names=(step, other))
    except ValueError as error:
        return {"reason": str(error)}
    row = {"reason": found.reason, **_ends("multiplier", found.middle)}
    if found.reason:
        return row
    for name, loss in zip(("multiplier_least", "multiplier", "multiplier_most"), found.summary["loss"], strict=True):
        row |= _ends(name, found.at(float(loss))) | {f"{name}_loss": float(loss)}
    return row | _ends("slope", found.slope)


def _exponent(runs: pd.DataFrame) -> dict[str, float | str]:
    """Least squares over the budgets that are not censored, with percentiles of its replicates."""
    try:
        front = frontier(runs)
    except ValueError as error:
        return {"reason": str(error)}
    ok = (front.points["status"] == "ok").to_numpy()
    if ok.sum() < 2:
        return {"reason": "fewer than two budgets with an optimum inside the sizes"}
    x, y = np.log(front.points["flops"].to_numpy()[ok]), np.log(front.points["loss"].to_numpy()[ok])
    drawn = front.log_loss[:, ok]
    drawn = drawn[np.isfinite(drawn).all(1)]
    slope = Reading(-np.polyfit(x, y, 1)[0], np.quantile(-np.polyfit(x, drawn.T, 1)[0], [0.025, 0.975]))
    return _ends("loss_exponent", slope) | {"reason": ""}

"""What the intervals rest on: the spread between seeds, and how far a fitted loss surface is from the runs."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import numpy as np
import pandas as pd
from scipy.special import chdtri

from lab.analysis.canvas import COLUMN, FAINT, Chart, legend, log_axis, panels, sheet
from lab.analysis.figures.sweep import Sweep
from lab.analysis.labels import quantity
from lab.analysis.statistics import LEVEL
from lab.analysis.styles import only, styles
from lab.analysis.surface import fit_loss_surface


def seed_spread(sweep: Sweep) -> pd.DataFrame:
    """A row for each set-up and budget where sizes have 2 seeds or more: flops; sd of the loss over seeds, pooled over sizes,
    with low and high of its 95 % chi-square interval; spare, its degrees of freedom.
    """
    rows = []
    for (name, _), runs in sweep.runs[sweep.runs["status"] == "done"].dropna(subset="loss").groupby(["row", "budget"]):
        cells = runs.groupby("params")["loss"]
        spare = int((cells.count() - 1).sum())
        if spare > 0:
            squares = float(((runs["loss"] - cells.transform("mean")) ** 2).sum())
            tail = (1 - LEVEL) / 2
            low, high = (np.sqrt(squares / chdtri(spare, side)) for side in (tail, 1 - tail))
            rows.append((name, runs["flops"].mean(), np.sqrt(squares / spare), low, high, spare))
    return pd.DataFrame(rows, columns=["setup", "flops", "sd", "low", "high", "spare"])


def seed_noise_chart(sweep: Sweep) -> Chart | None:
    """The spread of the loss between seeds against compute; None where no size has two seeds."""
    data = seed_spread(sweep)
    if data.empty:
        return None
    looks = styles(sweep.names)
    with sheet():
        chart, (axes,) = panels([sweep.task], height=2.2, width=COLUMN)
        for place, (name, mine) in enumerate(data.groupby("setup")):
            style, at = looks[str(name)], mine["flops"] * 1.06**place  # side by side
            ends = np.abs(mine[["low", "high"]].to_numpy() - mine[["sd"]].to_numpy()).T
            axes.errorbar(at, mine["sd"], ends, fmt="none", ecolor=style.colour, elinewidth=0.9)
            axes.plot(at, mine["sd"], **style.line)
        log_axis(axes.xaxis, float(data["flops"].min()), float(data["flops"].max()))
        log_axis(axes.yaxis, float(data["low"].min()), float(data["high"].max()))
        axes.set(xlabel="training FLOPs", ylabel=f"sd over seeds, {sweep.unit}")
        legend(chart, only(looks, data["setup"]))
    chart.data = data
    chart.caption = sweep.caption(
        "Standard deviation of the test loss between seeds, pooled over the sizes of a budget, with its 95 % chi-square "
        "interval. The error model of the frontier takes it as one for all budgets unless Bartlett's test tells them apart.",
        intervals=False,
    )
    chart.alt = "Spread between seeds. " + "; ".join(
        f"{row.setup} at {quantity(row.flops)} FLOPs {row.sd:.2g}" for row in data.itertuples()
    )
    return chart


def residuals_chart(sweep: Sweep) -> Chart | None:
    """How far runs lie from the surface E + A / N^alpha + B / D^beta fitted to them; None where they are too few for one."""
    looks, tables, notes, shown = styles(sweep.names), [], [], {}
    for name in sweep.names:
        runs = sweep.of(name)
        runs = runs[(runs["tokens"] > 0) & (runs["params"] > 0)]
        if len(runs) < 7:
            continue
        surface = fit_loss_surface(runs["params"], runs["tokens"], runs["loss"], replicates=0)
        sigma = float(np.std(surface.residuals))
        shown[f"{name}, 2 sd = {2 * sigma:.2%}"] = looks[name]
        notes.append(f"{name} {np.expm1(surface.held_out):+.1%}")
        tables.append(runs[["flops", "params", "tokens", "seed", "loss"]].assign(
            setup=name, residual=-surface.residuals, sd=sigma, held_out=surface.held_out))  # fmt: skip
    if not tables:
        return None
    data = pd.concat(tables, ignore_index=True)
    with sheet():
        chart, every = panels(["", "", ""], 1.35, across=1, width=COLUMN)
        for axes, (kind, label) in zip(
            every, (("params", "parameters"), ("tokens", "tokens"), ("flops", "training FLOPs")), strict=True
        ):
            for name, mine in data.groupby("setup"):
                style = looks[str(name)]
                axes.plot(mine[kind], 100 * mine["residual"], marker=style.marker, color=style.colour, linestyle="none",
                          markersize=2.8, alpha=0.7, markeredgewidth=0)  # fmt: skip
                for side in (-200, 200):
                    axes.axhline(side * mine["sd"].iloc[0], color=style.colour, linewidth=0.7, linestyle=style.dash, zorder=1)
            axes.axhline(0, color=FAINT, linewidth=0.9, zorder=1)
            log_axis(axes.xaxis, float(data[kind].min()), float(data[kind].max()))
            axes.set(xlabel=label, ylabel="residual, %")
        legend(chart, shown)
    chart.data = data
    chart.caption = sweep.caption(
        "ln of measured over fitted test loss, in per cent, of the surface E + A / parameters^alpha + B / tokens^beta fitted "
        "to each set-up's runs; lines at two standard deviations. The greatest budget, predicted by a fit without it, is off by: "
        f"{', '.join(notes)}. Diagnosis only: no multiplier rests on it.",
        intervals=False,
    )
    chart.alt = "Residuals of the fitted loss surface. " + "; ".join(f"{each} at the greatest budget" for each in notes)
    return chart

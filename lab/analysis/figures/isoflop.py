"""What lies below a frontier: loss against size at each budget, and how compute is best shared between size and data."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lab.analysis.canvas import COLUMN, FAINT, INK, Chart, legend, log_axis, panels, sheet
from lab.analysis.figures.sweep import Sweep
from lab.analysis.isoflop import FEWEST_SIZES, SAME_BUDGET, WINDOW, Reading
from lab.analysis.labels import quantity
from lab.analysis.styles import Style, styles

RULE = 20
"""Tokens a parameter, about what Hoffmann et al. (arXiv:2203.15556) found best for transformers."""


def isoflop_charts(sweep: Sweep) -> dict[str, Chart]:
    """By set-up loss against size, a colour a budget, with the parabola, its vertex, and where a size is missing."""
    return {name: _panel(sweep, name) for name in sweep.names}


def _panel(sweep: Sweep, name: str) -> Chart:
    points, style = sweep.frontiers[name].points, styles(sweep.names)[name]
    colours = colormaps["viridis"](np.linspace(0, 0.88, len(points)))
    tables = []
    with sheet():
        chart, (axes,) = panels([name], height=2.9, width=COLUMN)
        for colour, (_, point) in zip(colours, points.iterrows(), strict=True):
            runs = sweep.of(name)
            runs = runs[np.abs(np.log(runs["flops"] / point["flops"])) < np.log(SAME_BUDGET)]
            axes.plot(runs["params"], runs["loss"], marker=".", markersize=4, linestyle="none", color=colour, alpha=0.8, zorder=2)
            _parabola(axes, runs, point, colour, style)
            tables.append(runs[["budget", "flops", "params", "tokens", "seed", "loss"]].assign(
                setup=name, optimal_params=point["params"], optimal_loss=point["loss"], loss_low=point["loss_low"],
                loss_high=point["loss_high"], bend=point["bend"], status=point["status"], beyond=point["beyond"]))  # fmt: skip
        chart.data = pd.concat(tables, ignore_index=True).sort_values(["flops", "params", "seed"], ignore_index=True)
        log_axis(axes.xaxis, float(chart.data["params"].min()), float(chart.data["params"].max()))
        low, high = float(chart.data["loss"].min()), float(chart.data["loss"].max())
        if high > 4 * low:
            log_axis(axes.yaxis, low, high)
        axes.set(xlabel="parameters", ylabel=f"test loss, {sweep.unit}")
        budgets = [
            Line2D([], [], color=colour, linewidth=2, label=f"{quantity(flops)} FLOPs")
            for colour, flops in zip(colours, points["flops"], strict=True)
        ]
        legend(chart, {}, budgets)
    lost = points[points["status"] != "ok"]
    notes = "; ".join(f"{quantity(p.flops)} FLOPs: {p.note}" for p in lost.itertuples())
    chart.caption = sweep.caption(
        f"Test loss of {name} against size at equal training compute. Dots: runs. Curve: weighted parabola in ln loss and ln "
        "parameters over the sizes that it was fitted to, those within a factor of 4 of the best, and not beyond; marker: its "
        f"vertex with intervals. {f'Hollow, censored: {notes}.' if notes else 'Every optimum lies inside its sizes.'}"
    )
    chart.alt = f"Loss against size of {name}. " + "; ".join(
        f"{quantity(p.flops)} FLOPs: best {quantity(p.params)} parameters, loss {p.loss:.3f}"
        if p.status == "ok"
        else f"{quantity(p.flops)} FLOPs: {p.status}"
        for p in points.itertuples()
    )
    return chart


def _parabola(axes: Axes, runs: pd.DataFrame, point: pd.Series, colour: np.ndarray, style: Style) -> None:
    """The curve within the sizes it was fitted to, and the vertex; where censored a hollow arrow to where a size is missing."""
    means = runs.groupby("params")["loss"].mean()
    sizes = np.log(means.index.to_numpy(float))
    near = sizes[np.abs(sizes - sizes[np.argmin(means)]) <= WINDOW + 1e-9]
    near = near if len(near) >= FEWEST_SIZES else sizes
    if np.isfinite(point["bend"]):
        x = np.linspace(near.min(), near.max(), 80)
        fitted = point["least"] + point["bend"] * (x - point["vertex"]) ** 2
        axes.plot(np.exp(x), np.exp(fitted), color=colour, linewidth=1.1, zorder=3)
    if point["status"] == "ok":
        ends = [np.abs(point[[f"{n}_low", f"{n}_high"]].to_numpy(float) - point[n])[:, None] for n in ("params", "loss")]
        axes.errorbar(point["params"], point["loss"], ends[1], ends[0], fmt="none", ecolor=INK, elinewidth=0.9, zorder=4)
        axes.plot(point["params"], point["loss"], marker=style.marker, color=colour, markeredgecolor=INK, markeredgewidth=0.8,
                  markersize=5, zorder=5)  # fmt: skip
    elif point["beyond"]:
        edge = means.index.min() if point["beyond"] == "smaller" else means.index.max()
        axes.plot(edge, means[edge], marker="<" if point["beyond"] == "smaller" else ">", markerfacecolor="white",
                  markeredgecolor=colour, markeredgewidth=1.1, markersize=6, zorder=5)  # fmt: skip


def allocation_chart(sweep: Sweep) -> Chart:
    """Optimal parameters, tokens and tokens a parameter against FLOPs, with least-squares lines in logarithms."""
    looks, kinds = styles(sweep.names), ("params", "tokens", "ratio")
    tables, shown = [], {}
    with sheet():
        chart, every = panels(["optimal parameters", "optimal tokens", "tokens a parameter"], 1.45, across=1, width=COLUMN)
        for name in sweep.names:
            front, style = sweep.frontiers[name], looks[name]
            points = front.points[front.points["status"] == "ok"].assign(setup=name)
            points["ratio"] = points["tokens"] / points["params"]
            points["ratio_low"], points["ratio_high"] = (
                points["tokens_low"] / points["params_high"],
                points["tokens_high"] / points["params_low"],
            )
            for axes, kind in zip(every, kinds, strict=True):
                _fitted(axes, points, kind, style)
            shown[f"{name}: a = {_exponent(front.params_exponent)}"] = style
            tables.append(points[["setup", "flops", *(f"{k}{end}" for k in kinds for end in ("", "_low", "_high"))]])
        chart.data = pd.concat(tables, ignore_index=True)
        for axes, kind in zip(every, kinds, strict=True):
            known = chart.data[kind].dropna()
            if len(known):
                log_axis(axes.xaxis, float(chart.data["flops"].min()), float(chart.data["flops"].max()))
                log_axis(axes.yaxis, float(known.min()), float(known.max()))
        every[2].axhline(RULE, color=FAINT, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        every[-1].set_xlabel("training FLOPs")
        legend(chart, shown)
    chart.caption = sweep.caption(
        "Compute-optimal size and data against training compute, both axes logarithmic; only budgets whose optimum lies inside "
        f"their sizes. Lines: least squares in logarithms inside the budgets; a is the slope of parameters. Dashed: {RULE} "
        "tokens a parameter."
    )
    chart.alt = "Optimal size and data. " + "; ".join(
        f"{row.setup} at {quantity(row.flops)} FLOPs: {quantity(row.params)} parameters, {quantity(row.tokens)} tokens"
        for row in chart.data.itertuples()
    )
    return chart


def _fitted(axes: Axes, points: pd.DataFrame, kind: str, style: Style) -> None:
    ends = np.abs(points[[f"{kind}_low", f"{kind}_high"]].to_numpy() - points[[kind]].to_numpy()).T
    axes.errorbar(points["flops"], points[kind], ends, fmt="none", ecolor=style.colour, elinewidth=0.9)
    axes.plot(points["flops"], points[kind], marker=style.marker, color=style.colour, linestyle="none")
    if len(points) > 1 and points[kind].notna().all():
        x = np.log(points["flops"])
        line = np.polyfit(x, np.log(points[kind]), 1)
        axes.plot(points["flops"], np.exp(np.polyval(line, x)), color=style.colour, linestyle=style.dash, linewidth=1)


def _exponent(found: Reading) -> str:
    return "not known" if np.isnan(found) else f"{float(found):.2f} [{found.low:.2f}, {found.high:.2f}]"

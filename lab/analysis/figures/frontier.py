"""Loss at the optimal size against what it cost: training FLOPs, and seconds on a machine."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.interpolate import PchipInterpolator

from lab.analysis.canvas import COLUMN, INK, Chart, legend, log_axis, panels, sheet
from lab.analysis.figures.sweep import REPLICATES, Sweep
from lab.analysis.isoflop import frontier
from lab.analysis.labels import quantity, several
from lab.analysis.styles import Style, only, styles


def frontier_chart(sweep: Sweep) -> Chart:
    """The lowest loss of each set-up at each budget, and between budgets a monotone curve; never beyond the first and the last.

    Faint: all runs. Hollow: budgets whose optimum lies outside the sizes, at the least loss that was seen.
    """
    looks = styles(sweep.names)
    tables = []
    with sheet():
        chart, (axes,) = panels([sweep.task], height=2.6, width=COLUMN)
        for name in sweep.names:
            style, runs, points = looks[name], sweep.of(name), sweep.frontiers[name].points
            axes.plot(runs["flops"], runs["loss"], marker=style.marker, color=style.colour, linestyle="none", markersize=2.4,
                      alpha=0.3, markeredgewidth=0, zorder=1)  # fmt: skip
            found, lost = points[points["status"] == "ok"], points[points["status"] != "ok"]
            _between(axes, found, "flops", style.colour, style.dash)
            _points(axes, found, "flops", style.colour, style.marker)
            axes.plot(lost["flops"], lost["loss"], marker=style.marker, color=style.colour, linestyle="none",
                      markerfacecolor="white", markeredgewidth=1, zorder=5)  # fmt: skip
            tables += [points.assign(setup=name, what="optimum"), runs[["flops", "params", "tokens", "loss", "seed"]].assign(
                setup=name, what="run", status="done")]  # fmt: skip
        data = pd.concat(tables, ignore_index=True)
        _scales(axes, data, sweep.unit, "training FLOPs")
        if axes.get_yscale() == "linear":
            _perplexity(axes, sweep.unit)
        hollow = Line2D(
            [], [], color=INK, marker="o", markerfacecolor="white", markeredgewidth=1, linestyle="none", label="censored"
        )
        censored = (data.loc[data["what"] == "optimum", "status"] != "ok").any()
        legend(chart, only(looks, sweep.names), [hollow] if censored else [])
    ranges: dict[str, list[str]] = {}
    for name, front in sweep.frontiers.items():
        ends = front.points.loc[front.points["status"] == "ok", "flops"]
        if len(ends):
            ranges.setdefault(f"{quantity(ends.min())} to {quantity(ends.max())} FLOPs", []).append(name)
    chart.data = data.sort_values(["what", "setup", "flops", "params", "seed"], ignore_index=True)
    chart.caption = sweep.caption(
        "Test loss at the compute-optimal size against training compute. Filled: the optimum of each budget with its interval; "
        "line: monotone interpolation inside the budgets, nothing is extrapolated; faint: single runs. "
        + "Hollow, censored: the optimum lies outside the sizes, and the least loss that was seen is shown. " * bool(censored)
        + "Valid: "
        + ("; ".join(f"{several(names)} {ends}" for ends, names in ranges.items()) or "nowhere")
        + "."
    )
    chart.alt = "Loss at the compute-optimal size. " + _words(sweep, "flops", "FLOPs")
    return chart


def wallclock_chart(sweep: Sweep) -> Chart | None:
    """The frontier when what is paid is training seconds; the speed stands beside the name. None where time was not measured."""
    looks, tables, lost = styles(sweep.names), [], []
    shown: dict[str, Style] = {}
    with sheet():
        chart, (axes,) = panels([sweep.task], height=2.6, width=COLUMN)
        for name in sweep.names:
            style = looks[name]
            try:
                runs = sweep.restated(name, "seconds")
                points = frontier(runs, replicates=REPLICATES).points
            except ValueError as error:  # not measured, or a larger budget took no longer
                lost.append(f"{name} is left out: {error}.")
                continue
            points = points.rename(columns={"flops": "seconds"})[lambda made: made["status"] == "ok"].assign(setup=name)
            _between(axes, points, "seconds", style.colour, style.dash)
            _points(axes, points, "seconds", style.colour, style.marker)
            speed = (sweep.of(name)["flops"] / runs["flops"]).median()
            shown[f"{name}, {speed / 1e9:.3g} GFLOP/s"] = style
            tables.append(points[["setup", "seconds", "params", "loss", "loss_low", "loss_high"]].assign(flops_per_second=speed))
        if not tables:
            return None
        chart.data = pd.concat(tables, ignore_index=True)
        _scales(axes, chart.data, sweep.unit, "training seconds")
        legend(chart, shown)
    ran = sweep.runs
    machines = sorted({f"{d} ({p})" if d == "cpu" else str(d) for d, p in zip(ran["device"], ran["processor"], strict=True)})
    chart.caption = sweep.caption(
        f"Test loss at the size that is optimal for the time against training time on {several(machines)}, evaluation left "
        "out; it depends on the machine, on these implementations and on what else ran. Speeds: median of the runs. "
        + " ".join(lost)
    )
    chart.alt = "Loss against training seconds. " + "; ".join(
        f"{row.setup} {row.loss:.3f} after {quantity(row.seconds)} s" for row in chart.data.itertuples()
    )
    return chart


def _between(axes: Axes, points: pd.DataFrame, x: str, colour: str, dash: object) -> None:
    """A monotone curve through the points, and a band through the ends of their intervals, if they have any."""
    points = points.sort_values(x)
    if len(points) < 2:
        return
    at = np.log(points[x].to_numpy())
    fine = np.linspace(at[0], at[-1], 100)

    def curve(name: str) -> np.ndarray:
        return np.exp(PchipInterpolator(at, np.log(points[name]))(fine))

    axes.plot(np.exp(fine), curve("loss"), color=colour, linestyle=dash, zorder=3)
    if points[["loss_low", "loss_high"]].notna().all(axis=None):
        axes.fill_between(np.exp(fine), curve("loss_low"), curve("loss_high"), color=colour, alpha=0.18, linewidth=0, zorder=2)


def _points(axes: Axes, points: pd.DataFrame, x: str, colour: str, marker: str) -> None:
    ends = np.abs(points[["loss_low", "loss_high"]].to_numpy() - points[["loss"]].to_numpy()).T
    axes.errorbar(points[x], points["loss"], ends, fmt="none", ecolor=colour, elinewidth=0.9, zorder=4)
    axes.plot(points[x], points["loss"], marker=marker, color=colour, linestyle="none", markeredgecolor="white",
              markeredgewidth=0.4, zorder=5)  # fmt: skip


def _scales(axes: Axes, data: pd.DataFrame, unit: str, label: str) -> None:
    x = "seconds" if "seconds" in data else "flops"
    low, high = float(data["loss"].min()), float(data["loss"].max())
    if len(data):
        log_axis(axes.xaxis, float(data[x].min()), float(data[x].max()))
        if high > 4 * low:
            log_axis(axes.yaxis, low, high)
    axes.set(xlabel=label, ylabel=f"test loss, {unit}")


def _perplexity(axes: Axes, unit: str) -> None:
    bits = unit.startswith("bits")
    low, high = (np.exp2 if bits else np.exp)(axes.get_ylim())
    ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    axes.spines["right"].set_visible(True)
    right = axes.secondary_yaxis("right", functions=(np.positive, np.positive))
    right.set_yticks((np.log2 if bits else np.log)(ticks), [f"{tick:g}" for tick in ticks])
    right.set_ylabel("perplexity a byte" if bits else "perplexity")


def _words(sweep: Sweep, x: str, unit: str) -> str:
    parts = []
    for name, front in sweep.frontiers.items():
        found = front.points[front.points["status"] == "ok"]
        read = ", ".join(f"{loss:.3f} at {quantity(at)} {unit}" for at, loss in zip(found[x], found["loss"], strict=True))
        parts.append(f"{name}: {read or 'no budget has an optimum inside its sizes'}")
    return "; ".join(parts) + "."

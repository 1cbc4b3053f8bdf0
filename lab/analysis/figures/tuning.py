"""Was every set-up tuned alike: loss against learning rate, and what more tries would still have bought."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAssignmentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false

from math import comb

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from lab.analysis.canvas import COLUMN, FAINT, INK, Chart, legend, log_axis, panels, sheet
from lab.analysis.figures.sweep import by_set_up
from lab.analysis.labels import caption, columns_of, measure, quantity
from lab.analysis.styles import only, styles

_GROUP = ["column", "row", "budget", "params"]


def tried(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs of which others differ in learning rate alone: column, row, budget, params, lr, seed, flops, and loss, on validation.

    The loss is the task's metric where lower is better, else nats.
    """
    frame = by_set_up(frame)
    done = frame[(frame["status"] == "done") & (frame["params"] > 0)]
    done = done[done.groupby(_GROUP)["lr"].transform("nunique") > 1]
    parts = []
    for _, part in done.groupby("column"):
        metric = "loss" if measure(part)[1] else part["metric"].iloc[0]
        parts.append(part.assign(loss=part.get(f"validation.{metric}", np.nan)))
    names = [*_GROUP, "lr", "seed", "flops", "loss"]
    return pd.concat(parts)[names].dropna(subset="loss").reset_index(drop=True) if parts else pd.DataFrame(columns=names)


def learning_rate_charts(frame: pd.DataFrame) -> dict[str, Chart]:
    """By task: how much worse other learning rates are than the best of each set-up and size."""
    runs = tried(frame)
    means = runs.groupby([*_GROUP, "lr"])["loss"].mean().reset_index()
    if means.empty:
        return {}
    best = means.loc[means.groupby(_GROUP)["loss"].idxmin()].rename(columns={"lr": "best_lr", "loss": "best"})
    data = means.merge(best, on=_GROUP)
    ends = data.groupby(_GROUP)["lr"]
    data["edge"] = (data["best_lr"] == ends.transform("min")) | (data["best_lr"] == ends.transform("max"))
    return {column: _sensitivity(frame, data[data["column"] == column], column) for column in columns_of(data)}


def _sensitivity(frame: pd.DataFrame, data: pd.DataFrame, column: str) -> Chart:
    frame = by_set_up(frame)
    frame = frame[frame["column"] == column]
    looks, sizes = styles(frame["row"]), sorted(data["params"].unique())
    with sheet():
        chart, (axes,) = panels([column], height=2.4, width=COLUMN)
        for (row, _, params), mine in data.groupby(["row", "budget", "params"]):
            style = looks[row]
            large = 3 + 3.5 * sizes.index(params) / max(len(sizes) - 1, 1)
            shown = (mine["lr"] / mine["best_lr"], mine["loss"] - mine["best"])
            axes.plot(*shown, **style.line, markersize=large, linewidth=1)
            if mine["edge"].any():
                axes.plot(1, 0, marker=style.marker, color=style.colour, markersize=large, markerfacecolor="white",
                          markeredgewidth=1, linestyle="none", zorder=5)  # fmt: skip
        ratio = data["lr"] / data["best_lr"]
        log_axis(axes.xaxis, float(ratio.min()), float(ratio.max()))
        axes.axvline(1, color=FAINT, linewidth=0.9, zorder=1)
        unit = _unit(frame)
        axes.set(xlabel="learning rate / best learning rate", ylabel=f"validation loss - best,\n{unit}")
        hollow = Line2D([], [], color=INK, marker="o", markerfacecolor="white", markeredgewidth=1, linestyle="none",
                        label="best at the edge of the grid")  # fmt: skip
        legend(chart, only(looks, data["row"]), [hollow] if data["edge"].any() else [])
    chart.data = data.sort_values([*_GROUP, "lr"], ignore_index=True)
    chart.caption = caption(
        frame,
        f"Task {column}: how much the validation loss rises when the learning rate is off the best, means over seeds; a line a "
        f"size, larger markers larger models ({', '.join(quantity(size) for size in sizes)} parameters). Flat is easy to tune.",
        interval=False,
    )
    found = data.drop_duplicates(_GROUP)
    chart.alt = "Best learning rates. " + "; ".join(
        f"{each.row} with {quantity(each.params)} parameters {each.best_lr:g}{', at the edge of the grid' * each.edge}"
        for each in found.itertuples()
    )
    return chart


def expected_best(losses: np.ndarray) -> pd.DataFrame:
    """A row for each number of tries k, 1 to all: the expected least loss of k of them drawn without replacement, and the central
    95 % of it (Dodge et al., arXiv:1909.03004, draw with replacement).
    """
    ordered, count = np.sort(np.asarray(losses, float)), len(losses)
    rows = []
    for k in range(1, count + 1):
        chance = np.array([comb(count - 1 - i, k - 1) for i in range(count)]) / comb(count, k)
        reached = np.cumsum(chance)
        low, high = (ordered[min(int(np.searchsorted(reached, at - 1e-12)), count - 1)] for at in (0.025, 0.975))
        rows.append((k, float(chance @ ordered), low, high))
    return pd.DataFrame(rows, columns=["tries", "loss", "low", "high"])


def fairness_charts(frame: pd.DataFrame, swept: pd.DataFrame) -> dict[str, Chart]:
    """By task: the loss to expect after tuning for so many FLOPs. swept: column, row, flops of the sweep that tuning served."""
    runs = tried(frame)
    tables = []
    for (column, row, budget, params), mine in runs.groupby(_GROUP):
        means = mine.groupby("lr").agg(loss=("loss", "mean"), flops=("flops", "sum"))
        made = expected_best(means["loss"].to_numpy())
        spent = swept.loc[(swept["column"] == column) & (swept["row"] == row), "flops"].sum()
        cost = made["tries"] * means["flops"].mean()
        tables.append(made.assign(column=column, row=row, budget=budget, params=params, flops=cost, share=cost / spent
                                  if spent else np.nan))  # fmt: skip
    if not tables:
        return {}
    data = pd.concat(tables, ignore_index=True)
    return {column: _fairness(frame, data[data["column"] == column], column) for column in columns_of(data)}


def _fairness(frame: pd.DataFrame, data: pd.DataFrame, column: str) -> Chart:
    frame = by_set_up(frame)
    frame = frame[frame["column"] == column]
    looks, sizes = styles(frame["row"]), sorted(data["params"].unique())
    x = "share" if data["share"].notna().all() else "flops"
    with sheet():
        chart, (axes,) = panels([column], height=2.4, width=COLUMN)
        for (row, _, params), mine in data.groupby(["row", "budget", "params"]):
            style = looks[row]
            large = 3 + 3.5 * sizes.index(params) / max(len(sizes) - 1, 1)
            axes.plot(mine[x], mine["loss"], **style.line, markersize=large, linewidth=1)
            axes.fill_between(mine[x], mine["low"], mine["high"], color=style.colour, alpha=0.12, linewidth=0)
        log_axis(axes.xaxis, float(data[x].min()), float(data[x].max()))
        label = "tuning FLOPs / FLOPs of the sweep" if x == "share" else "tuning FLOPs"
        axes.set(xlabel=label, ylabel=f"expected best validation loss,\n{_unit(frame)}")
        legend(chart, only(looks, data["row"]))
    chart.data = data
    chart.caption = caption(
        frame,
        f"Task {column}: the validation loss to expect of the best of so many learning rates, drawn from those tried; band: the "
        f"central 95 %; a line a size, larger markers larger models ({', '.join(quantity(size) for size in sizes)} parameters). "
        "A set-up that still falls at its end was tuned too little.",
        interval=False,
    )
    last = data.loc[data.groupby(_GROUP)["tries"].idxmax()]
    chart.alt = "Expected best loss after tuning. " + "; ".join(
        f"{each.row} with {quantity(each.params)} parameters {each.loss:.3f} after {each.tries} tries"
        for each in last.itertuples()
    )
    return chart


def _unit(frame: pd.DataFrame) -> str:
    unit, higher = measure(frame)
    return "nats" if higher else unit

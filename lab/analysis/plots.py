"""Figures of a comparison: a frame of results in, a Chart out (a matplotlib figure with its numbers, caption and alt text)."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import math
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lab.analysis.canvas import FAINT, INK, Chart, legend, log_axis, panels, sheet
from lab.analysis.labels import SHARES, caption, columns_of, labelled, measure, quantity
from lab.analysis.statistics import baselines, references, summary
from lab.analysis.styles import Style, only, styles
from lab.analysis.text import score, wrapped_name

NAME = 16
"""Letters of a line of a row's name, about."""
POINTS_A_DECADE = 12
"""Of a training curve; more would hide the lines behind their noise."""
FARTHEST = 1.0
"""A baseline farther from the data than this many spans of the data is named at the edge instead of drawn."""


def quality_by_task(frame: pd.DataFrame) -> Chart:
    """A panel a task: each seed's test score a dot, the mean a bar with its interval, baselines dashed."""
    frame = labelled(frame)
    cells, floors, published = summary(frame), baselines(frame), references(frame)
    columns, looks = columns_of(frame), styles(frame["row"])
    names = columns_of(frame, "row")
    with sheet():
        lines = [len(wrapped_name(name, NAME)) for name in names]
        apart = max(0.3, *(0.06 * (one + other) + 0.04 for one, other in pairwise(lines)), 0)  # inches; long names cover no other
        chart, every = panels(columns, height=1.35 + apart * (len(names) + (len(published) > 0)), sharey=True)
        chart.get_layout_engine().set(wspace=0.07)  # pyright: ignore[reportOptionalMemberAccess]  room for what stands at the right of a panel
        for axes, column in zip(every, columns, strict=True):
            part = frame[frame["column"] == column]
            _dots(axes, part, cells[cells["column"] == column], names, looks)
            if len(published):
                _published(axes, published[published["column"] == column], len(names))
            _floors(axes, floors[floors["column"] == column])
            name, higher = measure(part)
            axes.set_xlabel(f"test {name}\n{'higher is better →' if higher else '← lower is better'}")
    seeds = frame[["column", "row", "seed", "status", "score", "metric"]].sort_values(["column", "row", "seed"])
    keep = ["column", "row", "mean", "half_width", "seeds", "runs", "diverged", "failed"]
    floor = floors.rename(columns={"name": "row", "value": "score"}).assign(status="baseline")
    known = published.rename(columns={"name": "row", "value": "score"}).assign(status="published")
    parts = [seeds.merge(cells[keep], on=["column", "row"]), floor, known]
    chart.data = pd.concat([part for part in parts if len(part)], ignore_index=True)
    chart.caption = caption(
        frame,
        "Score on the test split after equal training compute. Dots: seeds. Bars: mean and interval, cut where no score can be. "
        "Dashed: answers that need no model. "
        + ("Hollow: scores published for the same task, trained as their sources say. " if len(published) else "")
        + "At the right: runs that finished, where not all did.",
    )
    chart.alt = "Test scores. " + " ".join(
        f"{column}: "
        + ", ".join(
            f"{row} {score(mean, half)}" for row, mean, half in zip(part["row"], part["mean"], part["half_width"], strict=True)
        )
        + "."
        for column, part in cells.groupby("column")
    )
    return chart


def quality_against_flops(frame: pd.DataFrame, curves: pd.DataFrame) -> Chart | None:
    """A panel a task: training loss against training FLOPs, a line a run, and the test loss at its end.

    None where no run has a curve.
    """
    frame = labelled(frame)
    runs = frame[["id", "row", "column", "status", "loss"]].rename(columns={"loss": "test_loss"})
    data = _thinned(curves[["id", "seed", "step", "flops", "loss"]]).merge(runs, on="id")
    if data.empty:
        return None
    columns, looks = columns_of(data), styles(frame["row"])
    with sheet():
        chart, every = panels(columns, height=2.3)
        for axes, column in zip(every, columns, strict=True):
            mine = data[data["column"] == column]
            for (row, _), line in mine.groupby(["row", "id"], sort=True):
                style, end = looks[str(row)], line.iloc[-1]
                axes.plot(line["flops"], line["loss"], color=style.colour, linestyle=style.dash, linewidth=0.8, alpha=0.75)
                if end["status"] == "diverged":
                    axes.plot(
                        end["flops"],
                        end["loss"],
                        marker="x",
                        color=style.colour,
                        markersize=6,
                        markeredgewidth=1.4,
                        zorder=6,
                    )
                elif pd.notna(end["test_loss"]):
                    axes.plot(
                        end["flops"],
                        end["test_loss"],
                        marker=style.marker,
                        color=style.colour,
                        markersize=5,
                        markeredgecolor="white",
                        markeredgewidth=0.6,
                        zorder=5,
                        clip_on=False,
                    )
            axes.set(xlabel="training FLOPs", ylabel="loss, nats")
            if len(mine):
                seen = np.concatenate([mine["loss"], mine["test_loss"].dropna()])
                log_axis(axes.xaxis, float(mine["flops"].min()), float(mine["flops"].max()))
                if seen.min() > 0 and seen.max() / seen.min() > 10:
                    log_axis(axes.yaxis, float(seen.min()), float(seen.max()))
        crosses = [Line2D([], [], color=INK, marker="x", markeredgewidth=1.2, linestyle="none", label="diverged")]
        legend(chart, only(looks, data["row"]), crosses if (data["status"] == "diverged").any() else [])
    chart.data = data.drop(columns="id").sort_values(["column", "row", "seed", "step"], ignore_index=True)
    chart.caption = caption(
        frame,
        "Training loss against training compute, logarithmic. A line a run: each point is the mean of all "
        "batches since the point before. Markers at the end: loss on the test split.",
        interval=False,
    )
    ends = data.dropna(subset="test_loss").drop_duplicates("id").groupby(["column", "row"])["test_loss"].mean()
    chart.alt = "Training loss against training FLOPs. Mean test loss at the end: " + ", ".join(
        f"{row} on {column} {value:.3f}" for (column, row), value in ends.items()
    )
    return chart


def _thinned(curves: pd.DataFrame) -> pd.DataFrame:
    """Points of a run that lie in one part of a decade of FLOPs, as one: the mean over their steps, at the last of them."""
    curves = curves[(curves["flops"] > 0) & (curves["loss"] > 0)].sort_values(["id", "step"])
    steps = curves.groupby("id")["step"].diff().fillna(curves["step"])
    part = np.floor(np.log10(curves["flops"].astype(float)) * POINTS_A_DECADE)
    parts = curves.assign(steps=steps, total=curves["loss"] * steps, part=part).groupby(["id", "part"], sort=True)
    thin = parts.agg({"seed": "last", "step": "last", "flops": "last", "steps": "sum", "total": "sum"}).reset_index()
    return thin.assign(loss=thin["total"] / thin["steps"]).drop(columns=["part", "steps", "total"])


def _dots(axes: Axes, part: pd.DataFrame, cells: pd.DataFrame, names: list[str], looks: dict[str, Style]) -> None:
    """Architectures down the side by name, scores along it."""
    for place, name in enumerate(names):
        if name not in set(part["row"]):
            continue
        style, cell = looks[name], cells[cells["row"] == name].iloc[0]
        mine = part[(part["row"] == name) & (part["status"] == "done")].sort_values("seed")
        found = mine["score"].to_numpy()
        jitter = place + 0.3 * (np.arange(len(found)) - (len(found) - 1) / 2) / max(len(found) - 1, 1)
        axes.plot(
            found,
            jitter,
            marker=style.marker,
            linestyle="none",
            color=style.colour,
            markersize=4,
            alpha=0.75,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3,
        )
        if pd.notna(cell["mean"]):
            axes.plot([cell["mean"]] * 2, [place - 0.3, place + 0.3], color=style.colour, linewidth=1.8, zorder=4)
        if pd.notna(cell["half_width"]):
            ends = cell["mean"] + cell["half_width"] * np.array([-1, 1])
            ends = ends.clip(0, 1) if mine["metric"].isin(SHARES).all() else ends
            axes.plot(ends, [place] * 2, color=style.colour, linewidth=1.1, zorder=2)
        if cell["seeds"] < cell["runs"]:
            axes.annotate(
                f"{cell['seeds']}/{cell['runs']}",
                (1.01, place),
                xycoords=("axes fraction", "data"),
                fontsize=6.5,
                color=FAINT,
                va="center",
            )
    axes.set_yticks(range(len(names)), ["\n".join(wrapped_name(name, NAME)) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    if not part["score"].notna().any():
        axes.set_xticks([])
        axes.annotate("no run has a score", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=FAINT)


def _published(axes: Axes, published: pd.DataFrame, place: int) -> None:
    """A last row with the published scores, the best of them named."""
    axes.plot(published["value"], [place] * len(published), marker="D", markersize=3.5, linestyle="none", markerfacecolor="none",
              markeredgecolor=FAINT, markeredgewidth=0.8)  # fmt: skip
    axes.set_ylim(place + 0.6, -0.6)
    names = [label.get_text() for label in axes.get_yticklabels()]
    axes.set_yticks(range(place + 1), [*names[:place], "published"])


def _floors(axes: Axes, floors: pd.DataFrame) -> None:
    """Dashed lines with their names above the panel, in as many lines as keep them apart; far ones are named at the edge."""
    low, high = axes.dataLim.intervalx
    if not math.isfinite(low) or not len(floors):
        return
    reach = FARTHEST * max(high - low, 0.05 * abs(high), 1e-9)
    near = floors[floors["value"].between(low - reach, high + reach)]
    for value in near["value"]:
        axes.axvline(value, color=FAINT, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    edges = [min(low, *near["value"]), max(high, *near["value"])] if len(near) else [low, high]
    margin = 0.06 * (edges[1] - edges[0]) or 0.05 * abs(edges[1]) or 0.05
    left, right = edges[0] - margin, edges[1] + margin
    axes.set_xlim(left, right)
    letter = 0.029 * 2.3 / max(axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols, 1)  # pyright: ignore
    ends: list[float] = []
    placed = []
    for name, value in sorted(zip(floors["name"], floors["value"], strict=True), key=lambda item: item[1]):
        text = f"{name} {quantity(value)}"
        at = (value - left) / (right - left)
        if not 0 <= at <= 1:
            text = f"{text} →" if at > 1 else f"← {text}"
        wide = letter * len(text)
        start = min(max(at - wide / 2, 0), 1 - wide)
        level = next((i for i, end in enumerate(ends) if start > end + 0.03), len(ends))
        ends[level:] = [start + wide, *ends[level + 1 :]]
        anchor = (0, "left") if start <= 0 else (1, "right") if start >= 1 - wide else (at, "center")
        placed.append((text, *anchor, level))
    for text, place, side, level in placed:
        axes.annotate(
            text,
            (place, 1),
            xycoords="axes fraction",
            xytext=(0, 2 + 8 * level),
            textcoords="offset points",
            fontsize=6.5,
            color=FAINT,
            ha=side,
            va="bottom",
        )
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=5 + 8 * len(ends))

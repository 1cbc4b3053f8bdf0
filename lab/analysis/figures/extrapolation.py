"""Scores at lengths that were not trained on."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lab.analysis.canvas import COLUMN, FAINT, Chart, legend, log_axis, panels, sheet
from lab.analysis.labels import SHARES, caption, columns_of, labelled, measure, own_metric
from lab.analysis.statistics import baselines, half_width
from lab.analysis.styles import Style, only, styles

_VARIANT = re.compile(r"test\.(?P<metric>[^@\[]+)@(?P<rest>(?:.*,)?)length=(?P<length>\d+)(?P<more>(?:,.*)?)")


def length_extrapolation_chart(frame: pd.DataFrame) -> Chart | None:
    """A panel a task: the score against test length over training length, where there are two or more, the trained one with them.

    None where there are no such scores.
    """
    frame = labelled(frame)
    data = _scores(frame)
    if data.empty:
        return None
    looks, titles, tables = styles(data["row"]), columns_of(data, "panel"), []
    with sheet():
        chart, every = panels(titles, height=2.2, **({"width": COLUMN} if len(titles) == 1 else {"across": 2}))
        for axes, title in zip(every, titles, strict=True):
            part = data[data["panel"] == title]
            tables.append(_panel(axes, part, looks))
            mine = frame[frame["column"] == part["column"].iloc[0]]
            name, higher = measure(mine)
            axes.set(xlabel="test length / training length", ylabel=f"test {name} {'↑' if higher else '↓'}")
            if mine["metric"].isin(SHARES).all():
                axes.set_ylim(-0.03, 1.03)
            floors = baselines(mine)
            for value in floors.loc[floors["name"] == "chance", "value"]:
                if axes.get_ylim()[0] <= value <= axes.get_ylim()[1]:
                    axes.axhline(value, color=FAINT, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        legend(chart, only(looks, data["row"]))
    chart.data = pd.concat(tables, ignore_index=True)
    chart.caption = caption(
        frame[frame["column"].isin(data["column"])],
        "Test score at lengths other than the trained one, without training there. Lines: means; dots: seeds; bars: intervals; "
        "dashed: chance.",
    )
    means = chart.data.drop_duplicates(["panel", "row", "ratio"])
    chart.alt = "Test score by length. " + "; ".join(
        f"{panel}: {row} " + ", ".join(f"{each.mean_:.3f} at {each.ratio:.3g} times" for each in part.itertuples())
        for (panel, row), part in means.rename(columns={"mean": "mean_"}).groupby(["panel", "row"])
    )
    return chart


def _scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Long: column, row, seed, ratio, value, panel: one for each task and whatever else a variant changes."""
    parts = []
    for name in map(str, frame.columns):
        if match := _VARIANT.fullmatch(name):
            mine = own_metric(frame, name, match["metric"])
            some = mine.loc[mine["length"] > 0, ["column", "row", "seed", "length", name]]
            more = (match["rest"] + match["more"]).strip(",")
            panel = some["column"] + (f" with {more}" if more else "")
            parts.append(
                some.assign(panel=panel, value=some[name], ratio=int(match["length"]) / some["length"]).drop(columns=name)
            )
    made = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["panel", "column", "ratio"])
    if made.empty:
        return made
    made = made[made.groupby("panel")["ratio"].transform("nunique") + made["panel"].eq(made["column"]) > 1]
    trained = frame.loc[frame["column"].isin(set(made["panel"])) & frame["score"].notna()]
    base = trained.assign(panel=trained["column"], value=trained["score"], ratio=1.0)
    names = ["panel", "column", "row", "seed", "ratio", "value"]
    return pd.concat([base[names], made[names]], ignore_index=True)


def _panel(axes: Axes, part: pd.DataFrame, looks: dict[str, Style]) -> pd.DataFrame:
    found = part.groupby(["row", "ratio"])["value"].agg(["mean", "std", "count"]).reset_index()
    found["half_width"] = half_width(found["std"].to_numpy(), found["count"].to_numpy())
    for name, mine in found.groupby("row"):
        style, seeds = looks[str(name)], part[part["row"] == name]
        axes.plot(mine["ratio"], mine["mean"], **style.line, zorder=3)
        axes.errorbar(mine["ratio"], mine["mean"], mine["half_width"], fmt="none", ecolor=style.colour, elinewidth=0.9, zorder=2)
        axes.plot(seeds["ratio"], seeds["value"], marker=".", linestyle="none", color=style.colour, markersize=3, alpha=0.7)
    log_axis(axes.xaxis, float(part["ratio"].min()), float(part["ratio"].max()) * (1 + 1e-9))
    ticks = sorted(set(np.round(part["ratio"], 6)))
    if len(ticks) < 7:
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    return part.merge(found.drop(columns="std").rename(columns={"count": "seeds"}), on=["row", "ratio"])

"""Scores beyond the trained size (`accuracy@pairs=8,length=128`) and by slice (`accuracy[gap=4-7]`)."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lab.analysis.canvas import FAINT, Chart, legend, panels, sheet
from lab.analysis.labels import SHARES, caption, columns_of, labelled, measure, own_metric, several
from lab.analysis.statistics import baselines, half_width
from lab.analysis.styles import Style, only, styles

TRAINED = "as trained"
_SLICE = re.compile(r"test\.(?P<metric>[^@\[]+)\[(?P<slice>[^=\]]+)=(?P<range>[^\]]*)\]")
_HARDER = re.compile(r"test\.(?P<metric>[^@\[]+)@(?P<variant>.+)")


def quality_beyond_training(frame: pd.DataFrame) -> Chart | None:
    """A panel for each task with harder variants: the score as trained, then at each variant in the order of its numbers.

    None where no run has such a score.
    """
    frame = labelled(frame)
    data = _harder(frame)
    if data.empty:
        return None
    refused = sorted(
        {
            (row, column, variant)
            for row, column, named in zip(frame["row"], frame["column"], frame["refused"], strict=True)
            for variant in named
        }
    )
    chart = _lines(frame, data, "panel", "")
    notes = [f"{row} cannot read {column} at {variant}" for row, column, variant in refused]
    chart.caption = caption(
        frame,
        "Test score on harder variants of the task without training on them, after the score as trained. "
        f"Lines: means; dots: seeds; bars: intervals.{' Refused: ' + several(notes) + '.' if notes else ''}",
    )
    chart.alt = _words("Test score by variant", data)
    chart.data = pd.concat(
        [chart.data, pd.DataFrame([{"row": r, "panel": c, "x": v, "status": "refused"} for r, c, v in refused])],
        ignore_index=True,
    )
    return chart


def accuracy_by_slice(frame: pd.DataFrame) -> Chart | None:
    """A panel for each task and slice name: the score within each range of the slice. None where no run has such a score."""
    frame = labelled(frame)
    parts = []
    for name in frame.columns:
        if match := _SLICE.fullmatch(str(name)):
            mine = own_metric(frame, name, match["metric"])
            some = mine[["row", "column", "seed", name]].rename(columns={name: "value"})
            low = float(re.match(r"-?\d*\.?\d*", match["range"])[0] or 0)  # pyright: ignore[reportOptionalSubscript]
            label = re.sub(r"(?<=\d)-$", "+", match["range"]).replace("-", "–")  # noqa: RUF001
            label = label.partition("–")[0] if len(set(label.split("–"))) == 1 else label  # noqa: RUF001
            parts.append(
                some.assign(
                    panel=some["column"] + " by " + match["slice"],
                    slice=match["slice"],
                    x=label,
                    order=[(low,)] * len(some),
                )
            )
    if not parts or not sum(map(len, parts)):
        return None
    data = pd.concat(parts, ignore_index=True)
    chart = _lines(frame, data, "panel", "slice")
    chart.caption = caption(frame, "Test score by slice of the test examples. Lines: means; dots: seeds; bars: intervals.")
    chart.alt = _words("Test score by slice", data)
    return chart


def _harder(frame: pd.DataFrame) -> pd.DataFrame:
    """Long: row, column, seed, value, x (the variant in words), order (its numbers), panel."""
    parts = []
    for name in frame.columns:
        if match := _HARDER.fullmatch(str(name)):
            mine = own_metric(frame, name, match["metric"])
            some = mine[["row", "column", "seed", name]].rename(columns={name: "value"})
            numbers = tuple(float(number) for number in re.findall(r"\d+(?:\.\d+)?", match["variant"]))
            parts.append(some.assign(x=match["variant"].replace(",", "\n"), order=[numbers] * len(some)))
    made = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if made.empty:
        return made
    base = frame.loc[frame["column"].isin(made["column"]) & frame["score"].notna(), ["row", "column", "seed", "score"]]
    base = base.rename(columns={"score": "value"}).assign(x=TRAINED.replace(" ", "\n"), order=[()] * len(base))
    return pd.concat([base, made], ignore_index=True).assign(panel=lambda made: made["column"])


def _lines(frame: pd.DataFrame, data: pd.DataFrame, by: str, label: str) -> Chart:
    looks = styles(frame["row"])
    titles = columns_of(data, by)
    drawn = []
    with sheet():
        chart, every = panels(titles, height=2.4, across=min(2, len(titles)))
        for axes, title in zip(every, titles, strict=True):
            part = data[data[by] == title]
            column = part["column"].iloc[0]
            ticks = part.drop_duplicates("x").sort_values("order")["x"].tolist()
            drawn.append(_one(axes, part.assign(place=part["x"].map(ticks.index)), looks))
            axes.set_xticks(range(len(ticks)), ticks)
            axes.set_xlim(-0.4, len(ticks) - 0.6)
            letters = max(len(line) for tick in ticks for line in tick.split("\n")) * len(ticks)
            axes.tick_params(axis="x", labelsize=min(7.0, max(5.0, 225 / letters)), rotation=0 if letters < 50 else 35)
            mine = frame[frame["column"] == column]
            name, higher = measure(mine)
            axes.set_ylabel(f"test {name} {'↑' if higher else '↓'}")
            if label:
                axes.set_xlabel(part[label].iloc[0])
            if mine["metric"].isin(SHARES).all():
                axes.set_ylim(-0.03, 1.03)
            _chance(axes, baselines(mine))
        legend(chart, only(looks, data["row"]))
    chart.data = pd.concat(drawn, ignore_index=True).drop(columns=["order", "place"])
    chart.data["x"] = chart.data["x"].str.replace("\n", " ")
    return chart


def _one(axes: Axes, part: pd.DataFrame, looks: dict[str, Style]) -> pd.DataFrame:
    names: Sequence[str] = sorted(set(part["row"]))
    found = part.groupby(["row", "place"])["value"].agg(["mean", "std", "count"]).reset_index()
    found["half_width"] = half_width(found["std"].to_numpy(), found["count"].to_numpy())
    for name, shift in zip(names, np.linspace(-0.06, 0.06, len(names)) * min(len(names) - 1, 3), strict=True):
        style, mine = looks[name], found[found["row"] == name].set_index("place")
        mine = mine.reindex(range(int(part["place"].max()) + 1))  # a line breaks where a score is missing
        at = mine.index + shift
        axes.plot(at, mine["mean"], **style.line, zorder=3)
        axes.errorbar(at, mine["mean"], mine["half_width"], fmt="none", ecolor=style.colour, elinewidth=0.9, capsize=0, zorder=2)
        seeds = part[part["row"] == name]
        axes.plot(
            seeds["place"] + shift,
            seeds["value"],
            marker=".",
            linestyle="none",
            color=style.colour,
            markersize=3,
            alpha=0.7,
            zorder=4,
        )
    return part.merge(found.drop(columns="std").rename(columns={"count": "seeds"}), on=["row", "place"])


def _chance(axes: Axes, floors: pd.DataFrame) -> None:
    """A dashed line at chance where it is in sight; its name stands outside, at the right."""
    for value in floors.loc[floors["name"] == "chance", "value"]:
        if axes.get_ylim()[0] <= value <= axes.get_ylim()[1]:
            axes.axhline(value, color=FAINT, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
            axes.annotate(
                "chance",
                (1.0, value),
                xycoords=("axes fraction", "data"),
                xytext=(2, 0),
                textcoords="offset points",
                fontsize=6.5,
                color=FAINT,
                va="center",
            )


def _words(what: str, data: pd.DataFrame) -> str:
    means = data.groupby(["panel", "row", "x"], sort=False)["value"].mean()
    parts = [
        f"{panel}: {row} " + ", ".join(f"{x.replace(chr(10), ' ')} {value:.3f}" for (_, _, x), value in mine.items())
        for (panel, row), mine in means.groupby(level=[0, 1])
    ]
    return f"{what}. {'; '.join(parts)}."

"""What may share a row or a column of a comparison, and short words for names and numbers."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportReturnType=false

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

_APART_AS_COLUMNS = ("budget", "precision", "data")
_APART_AS_ROWS = ("dim", "depth", "batch", "accumulate", "carry_state", "set-up", "lr", "settings", "code")
_SHORT = {"dim": "d", "depth": "x", "batch": "batch ", "accumulate": "accumulate ", "lr": "lr "}
USUAL = "lab"
"""The recipe that need not be named."""
METRICS = {"exact": "share all right", "bits_per_byte": "bits per byte"}
SHARES = ("accuracy", "exact")
"""Metrics that are a share of right answers, from 0 to 1; an interval of a few seeds may go on."""


def labelled(
    frame: pd.DataFrame, columns: Sequence[str] = _APART_AS_COLUMNS, rows: Sequence[str] = _APART_AS_ROWS
) -> pd.DataFrame:
    """The frame with a `row` (architecture) and a `column` (task) for each run; runs that share both differ in seed alone.

    Scores compare only at one budget, precision and data, so a task that was run with several has a column for each. An
    architecture that was run with several sizes or set-ups on one column has a row for each. The label says what differs.
    columns, rows: what sets runs apart.
    """
    if {"row", "column"} <= set(frame.columns):
        return frame
    made = frame.sort_values(["task", "architecture", "budget", "seed", "id"], ignore_index=True)  # sums depend on the order
    made["column"] = made["task"].astype(object)
    for name in columns:
        made["column"] += _difference(made, ["task"], name, " at ")
    made["row"] = made["architecture"].astype(object)
    made["set-up"] = set_ups(made)  # the rate has words of its own
    for name in rows:
        made["row"] += _difference(made, ["row", "column"], name, " ", across=["architecture"])
    return made.drop(columns="set-up")


def _difference(frame: pd.DataFrame, keys: list[str], name: str, joint: str, across: list[str] | None = None) -> pd.Series:
    """For each row of the frame the value of `name` in words, where rows with equal keys differ in it, else nothing.

    across: if any group of keys differs, all rows with these keys equal say their value.
    """
    nothing = pd.Series("", index=frame.index, dtype=object)
    if frame[name].nunique(dropna=False) < 2:
        return nothing
    differs = frame.groupby(keys)[name].transform("nunique", dropna=False).gt(1)
    if across:
        differs = differs.groupby([frame[key] for key in across]).transform("any")
    if not differs.any():
        return nothing
    words = frame[name].map(_word(name, frame.loc[differs, name])).astype(object)
    return (joint + words).where(differs, "")


def _word(name: str, values: pd.Series) -> Any:
    if name == "budget":
        return lambda value: f"{quantity(value)} FLOPs"
    if name == "set-up":
        return lambda value: f"[{value}]"
    if name in ("settings", "code"):  # long: numbered in the order of their text
        order = {value: index for index, value in enumerate(sorted(set(values)), 1)}
        return lambda value: f"{name} {order.get(value, 0)}"
    if name == "carry_state":
        return lambda value: "state carried" if value else "state fresh"
    if name == "data":
        return lambda value: f"data {value[:6]}" if value else "no data"
    return lambda value: f"{_SHORT.get(name, '')}{value:g}" if isinstance(value, (int, float)) else str(value)


def natural(name: str) -> list[Any]:
    """A key to sort names by, with numbers in them as numbers: length=128 before length=1024, 1.3e10 before 1.06e11."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e\d+)?)", name)
    return [[(1, float(part)) if place % 2 else (0, part) for place, part in enumerate(parts) if part], name]


def columns_of(frame: pd.DataFrame, name: str = "column") -> list[str]:
    """The distinct names in a column of a frame, in natural order."""
    return sorted(set(frame[name]), key=natural)


def family(label: str) -> str:
    """The architecture's or task's name at the start of a label."""
    return re.split(r"[: ]", label, maxsplit=1)[0]


def measure(frame: pd.DataFrame) -> tuple[str, bool]:
    """How a column is scored: the metric's name in words, and whether higher is better."""
    known = frame[frame["metric"] != ""]
    if known.empty:
        return "score", True
    metric = known["metric"].iloc[0]
    return METRICS.get(metric, metric.replace("_", " ")), bool(known["higher_is_better"].iloc[0])


def quantity(value: float | np.number) -> str:
    """Three digits and, from ten thousand on, a power of ten or k and M: 512, 23.4k, 1.2M, 3e12."""
    if pd.isna(value):
        return "-"
    if abs(value) >= 1e9:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def span(values: pd.Series) -> str:
    """The one value, or the least and the greatest."""
    return between(values.min(), values.max())


def between(low: float | np.number, high: float | np.number) -> str:
    """One quantity where both are the same, else both."""
    ends = quantity(low), quantity(high)
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def several(names: Sequence[str], last: str = "and") -> str:
    """a, b and c."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "none"


def conditions(frame: pd.DataFrame) -> dict[str, str]:
    """What the runs of a frame have in common, in words: budget, seeds, precision, recipe, convention, interval, runs."""
    budgets = several([f"{quantity(budget)}" for budget in sorted(frame["budget"].unique())])
    seeds = sorted(frame["seed"].unique())
    together = [int(seed) for seed in seeds] == list(range(len(seeds))) and len(seeds) > 2
    return {
        "budget": f"{budgets} training FLOPs a run",
        "seeds": f"seeds 0 to {len(seeds) - 1}"
        if together
        else f"seed{'s' * (len(seeds) > 1)} {several([str(s) for s in seeds])}",
        "precision": several(sorted(frame["precision"].unique())),
        "recipe": recipes(frame),
        "convention": "FLOPs are contraction + mixing, training = 3 x forward",
        "interval": "intervals are 95 % t-intervals over seeds, from 3 seeds on",
        "runs": outcome(frame),
    }


def set_ups(frame: pd.DataFrame) -> pd.Series:
    """The recipes, their learning rates left out."""
    return frame["recipe"].map(lambda recipe: re.sub(r", lr=[^,]+", "", recipe))


def recipes(frame: pd.DataFrame) -> str:
    """The training recipe in words: nothing where it is the lab's for all, and where there are several whose each is.

    Where an architecture has many rates, as after tuning by size, each architecture's range is said.
    """
    of = set_ups(frame)
    rates = frame.groupby([of, "architecture"])["lr"].agg(["min", "max", "nunique"])
    if (rates["nunique"] > 3).any():
        each = [f"{name or 'not recorded'} ({of}: lr {low:g} to {high:g})" for (name, of), low, high, _ in rates.itertuples()]
        return "recipes " + "; ".join(each)
    architectures = frame.groupby("recipe")["architecture"].unique()
    if len(architectures) == 1:
        only = architectures.index[0]
        return f"recipe {only}" if only not in ("", USUAL) else ""
    return "recipes " + "; ".join(f"{name or 'not recorded'} ({several(sorted(those))})" for name, those in architectures.items())


def caption(frame: pd.DataFrame, shown: str, interval: bool = True) -> str:
    """What a figure shows, then the conditions of the comparison."""
    facts = conditions(frame)
    seeds = facts["seeds"].capitalize() + (f"; {facts['interval']}" if interval else "")
    recipe = f" {facts['recipe'].capitalize()}." if facts["recipe"] else ""
    return f"{shown} {facts['budget']}; {facts['convention']}. {seeds}. Precision {facts['precision']}.{recipe} {facts['runs']}."


def own_metric(frame: pd.DataFrame, column: str, metric: str) -> pd.DataFrame:
    """The runs that have the score of this column and whose task is judged by its metric."""
    return frame[frame[column].notna() & (frame["metric"] == metric)]


def outcome(frame: pd.DataFrame) -> str:
    """How many runs finished, diverged, failed, and how many were made without the leak gate."""
    counts = frame["status"].value_counts()
    finished = f"{counts.get('done', 0)} of {len(frame)} runs finished"
    lost = [f"{counts[status]} {status}" for status in ("diverged", "failed", "interrupted") if status in counts]
    ungated = frame[frame["leak_gate"] == "off"] if "leak_gate" in frame else frame[:0]
    made = f"{len(ungated)} made without the leak gate ({several(sorted(set(ungated['architecture'])))})"
    return ", ".join([finished, *lost, *([made] if len(ungated) else [])])


def environments(frame: pd.DataFrame) -> dict[str, str]:
    """Every part of the recorded environments, with the values that occur."""
    seen: dict[str, dict[str, None]] = {}
    for environment in frame["environment"]:
        for name, value in environment.items():
            parts = {f"{name}: {key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
            for key, item in parts.items():
                text = item if isinstance(item, str) else json.dumps(item)
                seen.setdefault(key, {})[text if item is not None else "not known"] = None
    return {name: "; ".join(sorted(values)) for name, values in seen.items()}

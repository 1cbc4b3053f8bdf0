"""Numerical errors by length."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import pandas as pd

from lab.analysis.canvas import Chart, legend, log_axis, panels, sheet
from lab.analysis.styles import styles

KINDS = {
    "streaming": "in pieces (float32)",
    "streaming_float64": "in pieces (float64)",
    "float32": "float32 against float64",
    "bfloat16": "bfloat16 against float32",
}
FLOOR = 1e-17
"""What an error of exactly nothing is drawn at."""


def errors_chart(table: pd.DataFrame) -> Chart:
    """A panel for each kind of error, a line for each architecture: the largest over seeds.

    table: as of lab/evidence/precision.py.
    """
    looks = styles(table["architecture"])
    worst = table.groupby(["architecture", "length"], sort=False)[list(KINDS)].max().reset_index()
    with sheet():
        chart, every = panels(list(KINDS.values()), across=2, height=2.0)
        for axes, kind in zip(every, KINDS, strict=True):
            for name, line in worst.dropna(subset=kind).groupby("architecture"):
                axes.plot(line["length"], line[kind].clip(lower=FLOOR), **looks[str(name)].line)
            log_axis(axes.xaxis, float(worst["length"].min()), float(worst["length"].max()) * (1 + 1e-9))
            known = worst[kind].dropna().clip(lower=FLOOR)
            if len(known):
                log_axis(axes.yaxis, float(known.min()), float(known.max()) * (1 + 1e-9))
            axes.set(xlabel="positions", ylabel="error / largest output")
        legend(chart, looks)
    chart.name, chart.title, chart.data = "errors", "Numerical errors by length", table
    chart.caption = (
        "Largest error relative to the largest output, the worst of all draws of the weights: streamed in four pieces against "
        f"all positions at once, and lower precision against higher. An error of nothing is drawn at {FLOOR:g}."
    )
    chart.alt = "Errors of " + ", ".join(sorted(set(worst["architecture"]))) + " by length."
    return chart

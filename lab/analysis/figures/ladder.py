"""From one set-up to another, one change at a time."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false

import textwrap

import numpy as np
import pandas as pd

from lab.analysis.canvas import COLUMN, FAINT, INK, Chart, legend, panels, sheet
from lab.analysis.figures.multiplier import ratio_axis
from lab.analysis.statistics import bounded, interval
from lab.analysis.styles import COLOURS, DASHES, Style


def ladder_chart(ladder: pd.DataFrame, conditions: str = "") -> Chart:
    """Each step's compute multiplier over the step before, and their product so far.

    ladder: columns step, multiplier, low, high, in the order of the changes; multiplier NaN where there is none, low and
    high then its bounds, if any. conditions: the end of the caption. The product's interval adds the variances of the logarithms
    and stops at a step without a multiplier.
    """
    data = ladder[["step", "multiplier", "low", "high"]].reset_index(drop=True)
    log = np.log(data[["multiplier", "low", "high"]].astype(float))
    together = log["multiplier"].cumsum(skipna=False)
    for end, side in (("low", -1), ("high", 1)):
        half = np.sqrt(((log[end] - log["multiplier"]) ** 2).cumsum(skipna=False))
        data[f"product_{end}"] = np.exp(together + side * half)
    data.insert(4, "product", np.exp(together))
    looks = {"this step": Style(COLOURS["blue"], "o", DASHES[0]), "product so far": Style(COLOURS["vermilion"], "D", DASHES[1])}
    with sheet():
        chart, (axes,) = panels([""], height=0.8 + 0.34 * len(data), width=COLUMN)
        for shift, names, style in zip((-0.14, 0.14), (("multiplier", "low", "high"), ("product", "product_low", "product_high")),
                                       looks.values(), strict=True):  # fmt: skip
            at = np.arange(len(data)) + shift
            axes.hlines(at, data[names[1]], data[names[2]], color=style.colour, linewidth=1.1)
            axes.plot(data[names[0]], at, marker=style.marker, color=style.colour, linestyle="none")
        axes.axvline(1, color=FAINT, linewidth=0.9, zorder=1)
        ends = data[["low", "high", "product_low", "product_high"]].to_numpy(float)
        ends = ends[np.isfinite(ends) & (ends > 0)]
        if ends.size:
            ratio_axis(axes.xaxis, float(ends.min()), float(ends.max()))
        for place, row in data.loc[data["multiplier"].isna()].iterrows():
            known = bounded(row["low"], row["high"])
            at, side = (row["low"], ">") if np.isinf(row["high"]) else (row["high"], "<")
            if known:
                axes.plot(at, place, marker=side, color=COLOURS["blue"], linestyle="none")
            axes.annotate(known or "no multiplier", (at if known else 1, place), xytext=(5, 0), textcoords="offset points",
                          va="center", color=INK, fontsize=6.5)  # fmt: skip
        axes.set_yticks(range(len(data)), [textwrap.fill(str(step), 18) for step in data["step"]])
        axes.set_ylim(len(data) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel("compute multiplier (above 1: less compute)")
        legend(chart, looks, line=False)
    chart.data = data
    chart.caption = (
        "Ablation ladder: from the first set-up to the last one change at a time. Each step's compute multiplier over the step "
        "before it, and the product so far, whose interval adds the variances of the logarithms as if steps were independent. "
        "Arrows: only a bound is known, as the two share no losses. " + conditions
    ).strip()
    chart.alt = "Compute multiplier of each step. " + "; ".join(
        f"{row.step} {interval(row.multiplier, row.low, row.high)}" for row in data.itertuples()
    )
    return chart

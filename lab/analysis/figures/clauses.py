"""The clauses of a study: each number with its interval, beside the bound that it is held to."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from lab.analysis.canvas import FAINT, FULL, Chart, log_axis, sheet
from lab.analysis.canvas import panels as make_panels
from lab.analysis.statistics import bounded, interval
from lab.analysis.styles import COLOURS

LOOKS = {"supported": ("blue", "o"), "not supported": ("vermilion", "X"), "undecided": ("slate", "D")}
WIDE = 46
"""Characters of a line of what a clause says."""


def clauses_chart(table: pd.DataFrame, caption: str) -> Chart:
    """A panel for each quantity, a row for each clause. table: as of `deciding.table`."""
    said = [textwrap.fill(str(text), WIDE) for text in table["said"]]
    groups = table.groupby("quantity", sort=False).indices
    lines = {name: sum(said[at].count("\n") + 1.6 for at in places) for name, places in groups.items()}
    with sheet():
        chart, every = make_panels(list(groups), across=1, width=FULL, height=1)
        grid: Any = every[0].get_gridspec()
        grid.set_height_ratios([2.2 + lines[name] for name in groups])
        chart.set_figheight(0.4 + sum(0.5 + 0.145 * lines[name] for name in groups))
        for axes, (name, places) in zip(every, groups.items(), strict=True):
            mine = table.iloc[places]
            for y, row in enumerate(mine.itertuples()):
                colour, marker = LOOKS[row.verdict]
                bound, above = float(row.asked.split()[1]), row.asked.startswith("above")
                axes.plot([bound, bound], [y - 0.38, y + 0.38], color=FAINT, linewidth=1.4, zorder=1)
                axes.annotate(
                    "", (bound, y), xytext=(12 if above else -12, 0), textcoords="offset points",
                    arrowprops={"arrowstyle": "<-", "color": FAINT, "linewidth": 0.8},
                )  # fmt: skip
                if np.isfinite([row.low, row.high]).all():
                    axes.hlines(y, row.low, row.high, color=COLOURS[colour], linewidth=1.4)
                if np.isfinite(row.value):
                    axes.plot(row.value, y, marker=marker, color=COLOURS[colour], linestyle="none")
                elif known := bounded(row.low, row.high):
                    at, side = (row.low, ">") if np.isinf(row.high) else (row.high, "<")
                    axes.plot(at, y, marker=side, color=COLOURS[colour], linestyle="none")
                    axes.annotate(known, (at, y), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=6.5)
                else:
                    axes.annotate(row.reason, (bound, y), xytext=(16, 0), textcoords="offset points", va="center", fontsize=6.5)
            axes.set_yticks(range(len(mine)), [said[at] for at in places])
            axes.set_ylim(len(mine) - 0.5, -0.5)
            axes.grid(False, axis="y")
            ends = mine[["value", "low", "high"]].to_numpy(float)
            ends = np.append(ends[np.isfinite(ends)], [float(asked.split()[1]) for asked in mine["asked"]])
            if ends.min() > 0 and ends.max() > (4 if "ratio of" in str(name) else 100) * ends.min():
                log_axis(axes.xaxis, float(ends.min()), float(ends.max()) * (1 + 1e-9))
        keys = [
            Line2D([], [], label=verdict, color=COLOURS[colour], marker=marker, linewidth=1.4)
            for verdict, (colour, marker) in LOOKS.items()
            if verdict in set(table["verdict"])
        ]
        keys.append(Line2D([], [], label="asked for, on the arrow's side", color=FAINT, linewidth=1.4))
        chart.legend(handles=keys, loc="outside upper center", ncols=len(keys), handlelength=2.0)
    chart.name, chart.title, chart.data = "verdict", "What the rules ask and what was measured", table
    chart.caption = f"Dot and bar: what was measured, with its 95 % interval. Grey: the bound. {caption}"
    chart.alt = "; ".join(f"{row.said}: {interval(row.value, row.low, row.high)}" for row in table.itertuples())
    return chart

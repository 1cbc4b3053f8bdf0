"""What FLOPs are spent on."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import pandas as pd
from matplotlib.patches import Patch

from lab.analysis.canvas import COLUMN, FAINT, Chart, panels, sheet
from lab.analysis.figures.sweep import by_set_up
from lab.analysis.labels import caption, columns_of
from lab.analysis.styles import styles
from lab.analysis.text import wrapped_name

KINDS = {"contraction": 1.0, "mixing": 0.5, "pointwise": 0.2}
"""Kinds of FLOPs, and how opaque they are drawn."""


def flop_breakdown_chart(frame: pd.DataFrame) -> Chart | None:
    """Shares of all FLOPs by kind, a bar a set-up; None where no record holds them by kind."""
    frame = by_set_up(frame)
    names = [f"flops_{kind}" for kind in KINDS]
    if not set(names) <= set(frame.columns):
        return None
    known = frame[frame["flops_contraction"] > 0].dropna(subset=names)
    if known.empty:
        return None
    shares = known[names].div(known[names].sum(axis=1), axis=0).set_axis(list(KINDS), axis=1)
    data = pd.concat([known[["column", "row"]], shares], axis=1).groupby(["column", "row"]).mean().reset_index()
    looks, columns = styles(data["row"]), columns_of(data)
    at, headings, below = {}, {}, 0.0
    for column in columns:
        if len(columns) > 1:
            headings[column], below = below, below + 1.1
        for row in columns_of(data[data["column"] == column], "row"):
            lines = wrapped_name(row, 24)
            slot = max(1.0, 0.85 * len(lines))
            at[column, row], below = (below + (slot - 1) / 2, lines), below + slot
    with sheet():
        chart, (axes,) = panels([""], height=0.7 + 0.17 * below, width=COLUMN)
        for column, top in headings.items():
            axes.text(0, top + 0.4, column, fontsize="small", fontweight="bold", va="bottom")
        for each in data.itertuples():
            left = 0.0
            for kind, opaque in KINDS.items():
                wide = 100 * float(getattr(each, kind))
                axes.barh(at[each.column, each.row][0], wide, 0.8, left, color=looks[each.row].colour, alpha=opaque, linewidth=0)
                left += wide
        axes.set_yticks([place for place, _ in at.values()], ["\n".join(lines) for _, lines in at.values()])
        axes.set(xlim=(0, 100), ylim=(below - 0.4, -0.6), xlabel="share of all training FLOPs, %")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        keys = [Patch(color=FAINT, alpha=opaque, linewidth=0, label=kind) for kind, opaque in KINDS.items()]
        chart.legend(handles=keys, loc="outside upper center", ncols=3, handlelength=1.2, columnspacing=1.4)
    chart.data = data
    chart.caption = caption(
        frame,
        "What equal compute is spent on. Contraction: matrix products, convolutions; mixing: what carries information along the "
        "sequence without one, softmax and scans and FFTs; pointwise: norms, activations, residuals, outside the "
        "budget. Means over runs.",
        interval=False,
    )
    chart.alt = "Shares of FLOPs by kind. " + "; ".join(
        f"{each.row} on {each.column}: " + ", ".join(f"{kind} {getattr(each, kind):.0%}" for kind in KINDS)
        for each in data.itertuples()
    )
    return chart

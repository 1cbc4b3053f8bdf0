"""What `lab bench` measured: a frame of its rows in, a table or a Chart out."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from lab.analysis.text import grid

if TYPE_CHECKING:
    from lab.analysis.canvas import Chart

_COLUMNS = {
    "length": ("length", "{:.0f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "forward_ms": ("forward\nms", "{:.0f}"),
    "backward_ms": ("backward\nms", "{:.0f}"),
    "optimizer_ms": ("optimizer\nms", "{:.1f}"),
    "peak_mb": ("peak\nMB", "{:.0f}"),
    "gflops_per_second": ("GFLOP/s", "{:,.0f}"),
    "gbytes_per_second": ("GB/s", "{:.0f}"),
    "relative": ("cost over\nthat at 1,024", "{:.2f}"),
    "share": ("share of\nlimit", "{:.2f}"),
    "times": ("ours is\ntimes faster", "{:.2f}"),
    "decode_ms": ("decode\nms a token", "{:.3f}"),
    "decode_mb": ("stream\nMB", "{:.0f}"),
}


def benchmark_table(frame: pd.DataFrame) -> str:
    """A line for each stack and length, those of peers below the architecture they took turns with."""
    known = set(frame.columns[frame.notna().any()])
    shown = {name: how for name, how in _COLUMNS.items() if name in known}
    body, last = [], None
    for row in frame.to_dict("records"):
        name = _name(row)
        cells = [_cell(row, column, form) for column, (_, form) in shown.items()]
        body.append(["" if name == last else name, *cells])
        last = name
    return grid(["stack", *(head for head, _ in shown.values())], body, [])


def benchmark_chart(frame: pd.DataFrame, title: str) -> "Chart":
    """Training speed against length, and the share of the machine's limit, a line for each stack."""
    from lab.analysis.canvas import legend, log_axis, panels, sheet
    from lab.analysis.styles import styles

    ran = frame[frame["tokens_per_second"].notna()] if "tokens_per_second" in frame else frame.head(0)
    ran = ran.assign(row=[_name(row) for row in ran.to_dict("records")])
    looks = styles(ran["row"])
    with sheet():
        chart, (left, right) = panels(["speed", "share of the limit"], height=3.2)
        for name, mine in ran.groupby("row", sort=True):
            for axes, value in ((left, "tokens_per_second"), (right, "share")):
                axes.plot(mine["length"], mine[value], **looks[str(name)].line, markersize=3.5)
        lengths = sorted(ran["length"].unique())
        for axes, words in ((left, "training tokens a second"), (right, "share of the machine's limit")):
            log_axis(axes.xaxis, min(lengths), max(lengths))
            axes.set_xticks(lengths, _apart(lengths))
            axes.set(xlabel="length, positions", ylabel=words)
            axes.set_xlim(min(lengths) / 1.3, max(lengths) * 1.3)
        slowest, fastest = (float(ran["tokens_per_second"].agg(which)) for which in ("min", "max"))
        log_axis(left.yaxis, slowest / 2, fastest * 2)
        left.set_ylim(slowest / 2, fastest * 2)
        right.set_ylim(0, 1.08 * float(ran["share"].max()))
        legend(chart, looks)
    chart.data, chart.caption = ran.drop(columns="row"), title
    chart.alt = "Training tokens a second: " + ", ".join(
        f"{row['row']} at length {row['length']:.0f} {row['tokens_per_second']:,.0f}" for _, row in ran.iterrows()
    )
    return chart


def _apart(lengths: Sequence[float]) -> list[str]:
    """Labels for ticks, empty for a length that is less than three times the last one that has a label."""
    labels, last = [], 0.0
    for length in lengths:
        close = length < 3 * last
        labels.append("" if close else f"{length:.0f}")
        last = last if close else length
    return labels


def _name(row: Mapping[Any, Any]) -> str:
    name = str(row["stack"]).rpartition("/")[2]
    return name if row["settings"] == "tuned" else f"{name} ({row['settings']})"


def _cell(row: Mapping[Any, Any], column: str, form: str) -> str:
    for told, why in (("tokens_per_second", "failed"), ("decode_ms", "undecoded")):
        if column == told and isinstance(row.get(why), str):
            return str(row[why])[:60]
    return "" if math.isnan(row[column]) else form.format(row[column])

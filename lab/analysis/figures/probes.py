"""What probes found in several runs, one figure for each table of a probe, drawn as its view says."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import textwrap
from collections.abc import Iterable, Mapping
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from matplotlib.ticker import FuncFormatter

from lab.analysis.canvas import COLUMN, FAINT, FULL, INK, Chart, legend, log_axis, panels, sheet
from lab.analysis.findings import Finding, View
from lab.analysis.labels import columns_of, quantity
from lab.analysis.styles import COLOURS, Style, only, styles
from lab.analysis.text import wrapped_name

SHADES = (1.0, 0.4, 0.2)
"""How opaque the values of a shade are drawn, in their order."""
MARKED = 24
"""Points of a line that all have markers."""
FARTHEST = 1e8
"""Times that the greatest value of a logarithmic axis is above its end."""
PARTS = ("blue", "orange", "green", "purple", "sky", "vermilion", "tan", "brown", "slate", "violet", "gold")
"""Colours of stacked parts."""


def probe_charts(findings: Iterable[Finding], names: Mapping[str, tuple[str, str]]) -> dict[str, Chart]:
    """A figure for each sheet of each probe, by the sheet's name.

    names: for each run its row (what its line is called) and its column (the task), as `labelled` gives them.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    views: dict[str, View] = {}
    for finding in findings:
        row, column = names.get(finding.run, (finding.run, ""))
        for name, each in finding.sheets.items():
            name = name if name.startswith(finding.probe) else f"{finding.probe}-{name}"
            tables.setdefault(name, []).append(each.table.assign(run=finding.run, row=row, column=column))
            views[name] = each.view
    made = {name: _chart(pd.concat(parts, ignore_index=True), views[name]) for name, parts in tables.items()}
    for name, chart in made.items():
        chart.name, chart.title = name.replace("-", "_"), name
    return made


def _chart(table: pd.DataFrame, view: View) -> Chart:
    apart = [view.panel] if view.panel else []
    apart += ["row", "run"] if view.kind in ("map", "points") else []
    table["panel"] = table["column"].str.cat([table[name].astype(str) for name in apart if name != "run"], sep=", ")
    if table["column"].nunique() == 1:
        table["panel"] = table["panel"].str[len(table["column"].iloc[0]) + 2 :] if apart else table["column"]
    if "run" in apart:  # seeds of one row
        twice = table.groupby("panel")["run"].transform("nunique").gt(1)
        table["panel"] = table["panel"].where(~twice, table["panel"] + ", run " + table["run"].str[:4])
    titles, looks = columns_of(table, "panel"), styles(table["row"])
    with sheet():
        height = 2.3 if view.kind != "points" else 2.1
        wide = None if len(titles) > 1 else COLUMN if len(looks) < 4 else 1.4 * COLUMN
        chart, every = panels(titles, height, width=wide, sharey=view.kind == "lines" and bool(view.panel))
        across = len({axes.get_position().x0 for axes in every})
        xlabel = textwrap.fill(view.xlabel, int(15 * chart.get_figwidth() / across) - 6)
        for axes, title in zip(every, titles, strict=True):
            mine = table[table["panel"] == title]
            {"lines": _lines, "points": _points, "bars": _bars, "map": _map}[view.kind](axes, mine, view, looks)
            axes.set(xlabel=xlabel, ylabel=view.ylabel)
        if view.kind == "map":
            for axes, title in zip(every, titles, strict=True):  # narrower than others
                axes.set_title("\n".join(wrapped_name(title, 22)), loc="left")
            _scale(chart, every, view)
        elif view.kind == "bars":
            _parts(chart, table, view)
        else:
            legend(chart, only(looks, table["row"]), _shades(table, view), line=view.kind == "lines")
    chart.data = table.drop(columns="panel")
    chart.caption = view.caption
    chart.alt = f"{view.ylabel} against {view.xlabel}, for {', '.join(sorted(set(table['row'])))}."
    return chart


def _order(table: pd.DataFrame, view: View) -> list[str]:
    return list(dict.fromkeys(table[view.shade])) if view.shade else [""]


def _lines(axes: Axes, table: pd.DataFrame, view: View, looks: dict[str, Style]) -> None:
    order = _order(table, view)
    for (row, _), run in table.groupby(["row", "run"], sort=True):
        style = looks[str(row)]
        for place, name in enumerate(order):
            line = (run[run[view.shade] == name] if view.shade else run).sort_values(view.x)
            line = line[(line[view.x] > 0) | (not view.logx)]
            if view.logy:
                line = line[line[view.y] > 0]
            look = style.line | {"alpha": SHADES[min(place, 2)], "zorder": 3 - place * 0.5, "markevery": _marked(line, view)}
            look |= {"markerfacecolor": "white", "markeredgecolor": style.colour, "markeredgewidth": 0.8} if place else {}
            axes.plot(line[view.x], line[view.y].astype(float), **look)
            if view.low and not place:
                ends = np.abs(line[[view.low, view.high]].astype(float).sub(line[view.y].astype(float), axis=0)).to_numpy().T
                axes.errorbar(line[view.x], line[view.y], ends, fmt="none", ecolor=style.colour, elinewidth=0.8, zorder=2)
    shown = table[(table[view.x] > 0) | (not view.logx)]
    if view.logx:
        log_axis(axes.xaxis, float(shown[view.x].min()), float(shown[view.x].max()) * (1 + 1e-9))
        ticks = sorted(set(shown[view.x]))
        if len(ticks) < 8 and ticks[0] < ticks[-1]:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    if view.logy:
        seen = shown.loc[shown[view.y] > 0, view.y].astype(float)
        log_axis(axes.yaxis, float(seen.min()), float(seen.max()) * (1 + 1e-9))
        if seen.max() > FARTHEST * seen.min():
            axes.set_ylim(bottom=seen.max() / FARTHEST)
    if view.ylim:
        axes.set_ylim(*view.ylim)


def _marked(line: pd.DataFrame, view: View) -> list[int]:
    """Where a line has markers: everywhere if it has few points, else at a few, evenly as the axis shows them."""
    count = len(line)
    if count <= MARKED:
        return list(range(count))
    x = line[view.x].to_numpy(dtype=float)
    places = np.geomspace(x[0], x[-1], 6) if view.logx else np.linspace(x[0], x[-1], 6)
    return sorted({int(np.abs(x - place).argmin()) for place in places})


def _points(axes: Axes, table: pd.DataFrame, view: View, looks: dict[str, Style]) -> None:
    """In the complex plane."""
    axes.add_patch(Circle((0, 0), 1, fill=False, color=FAINT, linewidth=0.7, zorder=1))
    for place, name in reversed(list(enumerate(_order(table, view)))):
        some = table[table[view.shade] == name] if view.shade else table
        colour = looks[str(some["row"].iloc[0])].colour if len(some) else INK
        look = {"color": FAINT, "markersize": 1.6, "alpha": 0.3} if place else {"color": colour, "markersize": 2.2, "alpha": 0.6}
        axes.plot(some[view.x], some[view.y], marker="o", linestyle="none", markeredgewidth=0, zorder=3 - place, **look)
    reach = max(1.1, 1.05 * float(table[[view.x, view.y]].abs().to_numpy().max()))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _bars(axes: Axes, table: pd.DataFrame, view: View, looks: dict[str, Style]) -> None:
    """A bar for each run and x, stacked by shade."""
    mean = table.groupby(["row", view.x, view.shade], sort=True)[view.y].mean()
    rows, places = columns_of(table, "row"), sorted(set(table[view.x]))
    colours = _colours(table, view)
    for at, row in enumerate(rows):
        for step, x in enumerate(places):
            bottom = 0.0
            for name, colour in colours.items():
                value = float(mean.get((row, x, name), 0.0))
                axes.bar(at * (len(places) + 1) + step, value, 0.85, bottom, color=colour, linewidth=0)
                bottom += value
    middles = [at * (len(places) + 1) + (len(places) - 1) / 2 for at in range(len(rows))]
    axes.set_xticks([at * (len(places) + 1) + step for at in range(len(rows)) for step in range(len(places))],
                    [f"{x:g}" for _ in rows for x in places])  # fmt: skip
    for at, row in zip(middles, rows, strict=True):
        axes.annotate(row, (at, 0), xycoords=("data", "axes fraction"), xytext=(0, -22), textcoords="offset points", ha="center",
                      fontsize=7)  # fmt: skip
    axes.xaxis.labelpad = 16
    axes.yaxis.set_major_formatter(FuncFormatter(_told))
    axes.grid(False, axis="x")


def _told(value: float, place: int | None = None) -> str:
    return quantity(value)


def _map(axes: Axes, table: pd.DataFrame, view: View, looks: dict[str, Style]) -> None:
    grid = table.groupby([view.y, view.x])[view.value].mean().unstack()
    high = 1.0 if view.value == "accuracy" else max(2.0, float(table[view.value].max()))
    low = 0.0 if view.value == "accuracy" else 1.0
    if len(grid) > 16:  # positions
        steps = [np.diff(grid.index).min() / 2, np.diff(grid.columns).min() / 2]
        extent = (grid.columns[0] - steps[1], grid.columns[-1] + steps[1], grid.index[-1] + steps[0], grid.index[0] - steps[0])
        axes.imshow(grid, cmap="viridis_r", vmin=low, vmax=high, extent=extent, interpolation="nearest", aspect="auto")
    else:
        axes.imshow(grid, cmap="viridis", vmin=low, vmax=high, interpolation="nearest", aspect="auto", origin="lower")
        axes.set_xticks(range(len(grid.columns)), [f"{x:g}" for x in grid.columns])
        axes.set_yticks(range(len(grid)), [f"{y:g}" for y in grid.index])
        for (y, x), value in np.ndenumerate(grid.to_numpy()):
            if np.isfinite(value) and len(grid.columns) <= 10:
                axes.annotate(f"{value:.2f}".lstrip("0") if value < 1 else "1", (x, y), ha="center", va="center", fontsize=6,
                              color="white" if value < 0.6 else INK)  # fmt: skip
    axes.grid(False)


def _scale(chart: Chart, every: list[Axes], view: View) -> None:
    image = every[0].images[0]
    low, high = image.get_clim()
    bar = chart.colorbar(image, ax=every, shrink=0.8, pad=0.02, label=view.valuelabel)
    if view.value != "accuracy":
        bar.set_ticks(list(range(int(low), int(high) + 1)))


def _colours(table: pd.DataFrame, view: View) -> dict[str, str]:
    names = table.groupby(view.shade)[view.y].sum().sort_values(ascending=False).index
    return dict(zip(map(str, names), cycle(COLOURS[name] for name in PARTS)))


def _parts(chart: Chart, table: pd.DataFrame, view: View) -> None:
    keys = [Patch(color=colour, linewidth=0, label=name) for name, colour in _colours(table, view).items()]
    bars = len(table[["row", view.x]].drop_duplicates())
    chart.set_figwidth(min(FULL, max(chart.get_figwidth(), 0.32 * bars + 1.2)))
    across = max(1, int(chart.get_figwidth() / 1.25))
    chart.legend(handles=keys, loc="outside upper center", ncols=across, handlelength=1.2, columnspacing=1.4)


def _shades(table: pd.DataFrame, view: View) -> list[Line2D]:
    order = _order(table, view)
    if len(order) < 2:
        return []
    look = {"color": FAINT, "linestyle": "-" if view.kind == "lines" else "none", "marker": "o"}
    hollow = {"markerfacecolor": "white", "markeredgecolor": FAINT, "markeredgewidth": 0.8} if view.kind == "lines" else {}
    looks = [look | {"alpha": SHADES[min(place, 2)]} | (hollow if place else {}) for place in range(len(order))]
    return [Line2D([], [], label=name, **each) for name, each in zip(order, looks, strict=True)]

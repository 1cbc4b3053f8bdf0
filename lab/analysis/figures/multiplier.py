"""The compute multiplier between two set-ups, as a curve over the loss and under several conventions."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from lab.analysis.canvas import COLUMN, FAINT, Chart, legend, panels, power, sheet
from lab.analysis.figures.sweep import REPLICATES, Sweep
from lab.analysis.isoflop import Multiplier, multiplier
from lab.analysis.labels import quantity
from lab.analysis.statistics import Reading
from lab.analysis.styles import only, styles
from lab.analysis.text import wrapped_name

NAME = 44
"""Letters of a line of a name beside or above a panel, about."""
_TICKS = (
    tuple(10.0**k for k in range(-6, 7)), tuple(4.0**k for k in range(-6, 7)), tuple(2.0**k for k in range(-6, 7)),
    (0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 2.5), tuple(k / 10 for k in range(5, 20)), tuple(k / 20 for k in range(10, 40)),
)  # fmt: skip


def multiplier_charts(sweep: Sweep) -> dict[str, Chart]:
    """By pair, each set-up over the reference: the multiplier where it is valid, from worse to better loss."""
    return {f"{name} over {sweep.reference}": _curve(sweep, name, found) for name, found in sweep.multipliers.items()}


def readings(found: Multiplier) -> list[str]:
    """The multiplier at the greatest valid loss, in the middle of the FLOPs and at the least valid loss, with intervals."""
    read = [(loss, found.at(loss)) for loss in found.summary["loss"]]
    return [f"{float(at):.3g} [{at.low:.3g}, {at.high:.3g}] at {loss:.3g}" for loss, at in read]


def _curve(sweep: Sweep, name: str, found: Multiplier) -> Chart:
    style = styles(sweep.names)[name]
    valid = found.curve[found.curve["valid"]]
    with sheet():
        chart, (axes,) = panels([f"{name} over {sweep.reference}"], height=2.9, width=COLUMN)
        cost = f"FLOPs of {sweep.reference}", f"/ FLOPs of {name}"
        axes.set_ylabel("\n".join(line for each in cost for line in wrapped_name(each, NAME)))
        if found.reason:
            axes.set(xticks=[], yticks=[], xlabel=f"test loss, {sweep.unit}")
            axes.text(0.5, 0.5, _wrapped(found.reason), transform=axes.transAxes, ha="center", va="center", color=FAINT)
        else:
            _drawn(axes, valid, style.colour, style.dash)
            axes.set_xlim(float(found.curve["loss"].max()), float(found.curve["loss"].min()))
            axes.axvspan(*found.interval, color=FAINT, alpha=0.07, linewidth=0, zorder=0)
            marks = found.summary
            axes.plot(marks["loss"], marks["multiplier"], marker=style.marker, color=style.colour, linestyle="none", zorder=5)
            _top(axes, valid, sweep.reference)
            read = "\n".join(readings(found))
            axes.set_xlabel(f"test loss, {sweep.unit} (better to the right)\n\n{read}\nslope {slope(found)}: {found.scaling}")
    chart.data = found.curve.assign(a=name, b=sweep.reference)
    where = (
        f"Valid for losses {found.interval[1]:.3g} to {found.interval[0]:.3g}, {quantity(found.flops[0])} to "
        f"{quantity(found.flops[1])} FLOPs of {sweep.reference} (shaded); outside it there is no multiplier. "
        f"Slope: d ln M / d ln FLOPs, {slope(found)}: {found.scaling}. Verdict: {found.verdict}."
        if not found.reason
        else f"There is none: {found.reason}."
    )
    chart.caption = sweep.caption(
        f"Compute multiplier: how many times the training FLOPs of {name} {sweep.reference} needs for equal test loss; above 1, "
        f"{name} needs less. Dark band: pointwise interval; light band: simultaneous. {where}"
    )
    read = "; ".join(f"{each} {sweep.unit}" for each in readings(found))
    chart.alt = f"Multiplier of {name} over {sweep.reference}: {read or 'none'}. {found.scaling}; {found.verdict}."
    return chart


def _drawn(axes: Axes, valid: pd.DataFrame, colour: str, dash: object) -> None:
    axes.axhline(1, color=FAINT, linewidth=0.9, zorder=1)
    axes.fill_between(valid["loss"], valid["band_low"], valid["band_high"], color=colour, alpha=0.14, linewidth=0, zorder=2)
    axes.fill_between(valid["loss"], valid["low"], valid["high"], color=colour, alpha=0.22, linewidth=0, zorder=2)
    axes.plot(valid["loss"], valid["multiplier"], color=colour, linestyle=dash, zorder=3)
    ratio_axis(axes.yaxis, float(valid["band_low"].min()), float(valid["band_high"].max()))


def ratio_axis(axis, low: float, high: float) -> None:
    """A logarithmic axis to base 2 that holds 1, with ticks at round ratios."""
    low, high = min(low, 1 / 1.1) / 1.05, max(high, 1.1) * 1.05
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})
    inside = [[tick for tick in ticks if low <= tick <= high] for ticks in _TICKS]
    axis.set_ticks(next((ticks for ticks in inside if len(ticks) >= 3), inside[-1]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_ratio))


def _ratio(value: float, place: int | None = None) -> str:
    return f"{value:.3g}"


def _top(axes: Axes, valid: pd.DataFrame, reference: str) -> None:
    """At the top the FLOPs of the reference, at round values inside the valid losses."""
    flops, loss = np.log(valid["flops_b"].to_numpy()), valid["loss"].to_numpy()
    decades = np.arange(np.floor(flops[0] / np.log(10)), np.ceil(flops[-1] / np.log(10)))
    factors = (1,) if flops[-1] - flops[0] > np.log(300) else (1, 3) if flops[-1] - flops[0] > np.log(10) else (1, 2, 3, 5)
    round_ = np.array([factor * 10.0**decade for decade in decades for factor in factors])
    inside = round_[(np.log(round_) >= flops[0]) & (np.log(round_) <= flops[-1])]
    top = axes.secondary_xaxis("top", functions=(np.positive, np.positive))
    top.set_xticks(np.interp(np.log(inside), flops, loss), [power(value) for value in inside])
    top.set_xlabel("\n".join(wrapped_name(f"FLOPs of {reference}", NAME)))


def slope(found: Multiplier) -> str:
    """d ln M / d ln FLOPs, with its interval."""
    return f"{float(found.slope):.3f} [{found.slope.low:.3f}, {found.slope.high:.3f}]"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 42)


CONVENTIONS: dict[str, str] = {
    "headline": "contraction + mixing",
    "contraction": "contraction alone",
    "all": "with pointwise",
    "minimum": "least exact work",
    "6nd": "6 N D",
    "6nd_nonembedding": "6 N D, no embedding",
    "palm": "PaLM's formula",
    "seconds": "seconds",
}


def by_convention(sweep: Sweep) -> pd.DataFrame:
    """A row for each set-up and convention: setup, convention (in words), the multiplier with its interval at the loss in the
    middle of the headline's valid range, and whether it lies on the other side of 1; or the reason why there is none.
    """
    rows = []
    for name, headline in sweep.multipliers.items():
        if headline.reason:
            continue
        loss = float(headline.summary["loss"].iloc[1])
        side = _side(headline.at(loss))
        for convention, words in CONVENTIONS.items():
            try:
                runs = (sweep.restated(each, convention) for each in (name, sweep.reference))
                at = multiplier(*runs, replicates=REPLICATES, names=(name, sweep.reference)).at(loss)
            except ValueError as error:  # what the records or the frontiers lack
                at = Reading(reason=str(error))
            rows.append({"setup": name, "convention": words, "loss": loss, "multiplier": float(at), "low": at.low,
                         "high": at.high, "opposite": side * _side(at) < 0, "reason": at.reason})  # fmt: skip
    return pd.DataFrame(rows)


def convention_chart(sweep: Sweep) -> Chart | None:
    """The multiplier in the middle of its range under every convention; hollow where it says the opposite of the headline. None
    where there is no multiplier.
    """
    data = by_convention(sweep)
    if data.empty:
        return None
    looks, shown = styles(sweep.names), data.dropna(subset="multiplier")
    conventions = [words for words in CONVENTIONS.values() if words in set(shown["convention"])]
    with sheet():
        chart, (axes,) = panels([f"over {sweep.reference}"], height=0.9 + 0.3 * len(conventions), width=COLUMN)
        names = [name for name in sweep.others if name in set(shown["setup"])]
        shifts = np.linspace(-0.22, 0.22, len(names)) if len(names) > 1 else [0.0]
        for name, shift in zip(names, shifts, strict=True):
            mine, style = shown[shown["setup"] == name], looks[name]
            at = np.array([conventions.index(words) for words in mine["convention"]]) + shift
            axes.hlines(at, mine["low"], mine["high"], color=style.colour, linewidth=1.1)
            for place, value, opposite in zip(at, mine["multiplier"], mine["opposite"], strict=True):
                axes.plot(value, place, marker=style.marker, color=style.colour, linestyle="none",
                          markerfacecolor="white" if opposite else style.colour, markeredgewidth=1)  # fmt: skip
        axes.axvline(1, color=FAINT, linewidth=0.9, zorder=1)
        ratio_axis(axes.xaxis, float(shown["low"].min()), float(shown["high"].max()))
        axes.set_yticks(range(len(conventions)), conventions)
        axes.set_ylim(len(conventions) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel("multiplier at the middle of its range")
        legend(chart, only(looks, names), line=False)
    chart.data = data
    read = ", ".join(f"{name} {loss:.3g}" for name, loss in data.drop_duplicates("setup")[["setup", "loss"]].to_numpy())
    turned = data.loc[data["opposite"], ["setup", "convention"]].agg(" under ".join, axis=1)
    chart.caption = sweep.caption(
        f"Compute multiplier over {sweep.reference} when cost is counted in other ways, at the middle of each valid range (loss "
        f"{read}). "
        + (f"Hollow, the opposite of the headline: {'; '.join(turned)}. " if len(turned) else "No convention turns a sign. ")
        + "Seconds are of one machine."
    )
    chart.alt = "Multiplier by convention. " + "; ".join(
        f"{row.setup}, {row.convention}: {row.multiplier:.3g} [{row.low:.3g}, {row.high:.3g}]" for row in shown.itertuples()
    )
    return chart


def _side(at: Reading) -> int:
    """1 where the interval lies above 1, -1 where below, else 0."""
    return int(at.low > 1) - int(at.high < 1)

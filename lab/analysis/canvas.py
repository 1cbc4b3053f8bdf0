"""The sheet that figures are drawn on: panels, legend, caption, and writing all of it in three forms."""

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from lab.analysis.styles import Style
from lab.analysis.text import wrapped_name

FULL = 7.0
"""Inches: the width of a text column on a page."""
PANEL = {1: 3.9, 2: 2.9, 3: FULL / 3}
"""Inches a panel, by the number of panels in a line."""
INK, FAINT = "#222222", "#6b6b6b"
_SHEET = [
    "seaborn-v0_8-ticks",
    "seaborn-v0_8-paper",
    {
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
        "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
        "legend.fontsize": 7.5, "axes.titleweight": "bold", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "#444444",
        "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4,
        "xtick.major.size": 3, "ytick.major.size": 3, "xtick.minor.size": 1.8, "ytick.minor.size": 1.8, "xtick.color": INK,
        "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
        "grid.linewidth": 0.5, "axes.axisbelow": True, "lines.linewidth": 1.3, "lines.markersize": 4.2, "legend.frameon": False,
        "svg.hashsalt": "sequence-lab", "svg.fonttype": "none", "figure.facecolor": "white", "savefig.facecolor": "white",
        "savefig.dpi": 200, "text.usetex": False, "text.parse_math": False, "axes.formatter.use_mathtext": False,
    },
]  # fmt: skip


class Chart(Figure):
    """A matplotlib figure that carries the numbers it shows, its caption, and words for those who do not see it."""

    data: pd.DataFrame
    caption: str = ""
    alt: str = ""


@contextmanager
def sheet() -> Iterator[None]:
    """The lab's look for what is drawn inside; a file that is read or a name with a $ changes nothing."""
    with style.context(_SHEET, after_reset=True):
        yield


def panels(titles: Sequence[str], height: float = 2.2, across: int | None = None, sharey: bool = False) -> tuple[Chart, list[Axes]]:
    """A chart with a titled panel for each name. height: inches a panel."""
    count = len(titles)
    across = across or {1: 1, 2: 2, 4: 2}.get(count, 3)
    width = min(FULL, PANEL[min(across, 3)] * across) if across < 3 else FULL
    down = math.ceil(count / across)
    chart = Chart(figsize=(width, height * down + 0.3), layout="constrained")
    FigureCanvasAgg(chart)
    chart.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.05)  # pyright: ignore[reportOptionalMemberAccess]
    grid = chart.subplots(down, across, squeeze=False, sharey="row" if sharey else False)
    flat = list(grid.flat)
    for extra in flat[count:]:
        extra.set_visible(False)
    for axes, title in zip(flat, titles, strict=False):
        axes.set_title("\n".join(wrapped_name(title, int(width / across * 11))), loc="left")
    return chart, flat[:count]


def legend(chart: Chart, drawn: dict[str, Style], more: Sequence[Line2D] = (), line: bool = True) -> None:
    """The styles by name above all panels, where it covers no data."""
    size = chart.get_figwidth()
    keys = [
        Line2D([], [], label=name, **(style.line if line else {**style.line, "linestyle": "none"})) for name, style in drawn.items()
    ] + list(more)
    longest = max(len(str(key.get_label())) for key in keys)
    across = max(1, min(len(keys), int(size * 72 / (longest * 4.4 + 34))))
    chart.legend(handles=keys, loc="outside upper center", ncols=across, handlelength=3.0 if line else 1.2, columnspacing=1.4)


def log_axis(axis: Any) -> None:
    """Plain labels at the powers of ten, and at more ticks where few powers are in sight."""
    axis.set_minor_formatter(NullFormatter())


def svg(chart: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with sheet():
        chart.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def write(figure: Figure, data: pd.DataFrame, folder: str | Path, name: str, caption: str) -> list[Path]:
    """Write <name>.png (200 dots an inch), <name>.svg, both with the caption below the drawing, and <name>.csv with the data.

    Drawing twice gives the same bytes. The figure is left as it was.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{kind}" for kind in ("png", "svg", "csv")]
    with sheet(), _captioned(figure, caption):
        figure.savefig(files[0], metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None, "Creator": None})
    data.to_csv(files[2], index=False)
    return files


@contextmanager
def _captioned(figure: Figure, caption: str) -> Iterator[None]:
    """The caption in small type under the drawing, on paper added for it."""
    width, height = (float(inches) for inches in figure.get_size_inches())
    lines = textwrap.wrap(caption, max(30, int(width * 20.5)), break_on_hyphens=False)
    extra = 0.14 * len(lines) + 0.12 if lines else 0.0
    whole = height + extra
    engine: Any = figure.get_layout_engine()
    figure.set_size_inches(width, whole)
    engine.set(rect=(0, extra / whole, 1, height / whole))
    note = figure.text(0.01, 0.06 / whole, "\n".join(lines), fontsize=6.4, color=FAINT, va="bottom", linespacing=1.35)
    note.set_in_layout(False)
    try:
        yield
    finally:
        note.remove()
        figure.set_size_inches(width, height)
        engine.set(rect=(0, 0, 1, 1))


matplotlib.use("agg", force=False)

"""The sheet that figures are drawn on: panels, legend, caption, and writing all of it in three forms."""

import io
import math
import pickle
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from lab.analysis.styles import Style
from lab.analysis.text import wrapped_name

FULL = 7.0
"""Inches: the width of a text column on a page."""
COLUMN = 3.4
"""Inches: the width of one of two columns on a page."""
PANEL = {1: 3.9, 2: 2.9, 3: FULL / 3}
"""Inches a panel, by the number of panels in a line."""
INK, FAINT = "#222222", "#6b6b6b"
_SHEET = [
    "seaborn-v0_8-ticks",
    "seaborn-v0_8-paper",
    {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7.5,
        "axes.titleweight": "bold",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#444444",
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.minor.size": 1.8,
        "ytick.minor.size": 1.8,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "lines.linewidth": 1.3,
        "lines.markersize": 4.2,
        "legend.frameon": False,
        "svg.hashsalt": "sequence-lab",
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "savefig.dpi": 200,
        "text.usetex": False,
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
    },
]


_NO_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class Chart(Figure):
    """A matplotlib figure that carries its file's name, its title, numbers and caption, and words for those who do not see it."""

    name: str
    title: str
    data: pd.DataFrame
    caption: str = ""
    alt: str = ""


@contextmanager
def sheet() -> Iterator[None]:
    """The lab's look for what is drawn inside; a file that is read or a name with a $ changes nothing."""
    with style.context(_SHEET, after_reset=True):
        yield


def panels(
    titles: Sequence[str],
    height: float = 2.2,
    across: int | None = None,
    sharey: bool = False,
    width: float | None = None,
) -> tuple[Chart, list[Axes]]:
    """A chart with a titled panel for each name. height: inches a panel; width: inches in all."""
    count = len(titles)
    across = across or {1: 1, 2: 2, 4: 2}.get(count, 3)
    width = width or (min(FULL, PANEL[min(across, 3)] * across) if across < 3 else FULL)
    down = math.ceil(count / across)
    chart = Chart(figsize=(width, height * down + 0.3), layout="constrained")
    FigureCanvasAgg(chart)
    engine: Any = chart.get_layout_engine()
    engine.set(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.05)
    grid = chart.subplots(down, across, squeeze=False, sharey="row" if sharey else False)
    flat = list(grid.flat)
    for extra in flat[count:]:
        extra.set_visible(False)
    for axes, title in zip(flat, titles, strict=False):
        axes.set_title("\n".join(wrapped_name(title, int(width / across * 9.5))), loc="left")
    return chart, flat[:count]


def legend(chart: Chart, drawn: dict[str, Style], more: Sequence[Line2D] = (), line: bool = True) -> None:
    """The styles by name above all panels, where it covers no data."""
    size = chart.get_figwidth()
    room = int((size * 72 - 44) / 4.4)
    keys = [
        Line2D([], [], label=name, **(style.line if line else {**style.line, "linestyle": "none"}))
        for name, style in drawn.items()
    ] + list(more)
    names = [len(str(key.get_label())) for key in keys]

    def points(across: int) -> float:
        return sum(max(column) * 4.4 + 39 for column in np.array_split(names, across))

    across = next((count for count in range(len(keys), 1, -1) if points(count) <= size * 72), 1)
    for key in keys:
        key.set_label("\n".join(wrapped_name(str(key.get_label()), room)))
    lines = math.ceil(sum(str(key.get_label()).count("\n") + 1 for key in keys) / across)
    chart.set_figheight(chart.get_figheight() + 0.16 * max(0, lines - 2))  # many lines of names take nothing from the panels
    chart.legend(handles=keys, loc="outside upper center", ncols=across, handlelength=3.0 if line else 1.2, columnspacing=1.4)


def log_axis(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis labelled at powers of ten, and between them where few are in sight. low, high: of the data."""
    few = math.log10(high / low) < 1.7
    if high == low:
        axis.axes.set(**{f"{axis.axis_name}lim": (low / 1.5, high * 1.5)})
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(MaxNLocator(4) if high < 3 * low else LogLocator(subs=(1, 2, 5) if few else (1,), numticks=6))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(power))


def power(value: float, place: int | None = None) -> str:
    """10\u2079 or 2\u00b710\u2079; plain from 0.01 to 9999."""
    if 0.01 <= value < 1e4:
        return f"{value:g}"
    if value <= 0:  # a linear locator on a logarithmic axis may ask for it
        return ""
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = value / 10**exponent
    raised = str(exponent).translate(
        str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    )
    return f"10{raised}" if abs(factor - 1) < 1e-6 else f"{factor:.3g}\u00b710{raised}"


def images(figure: Figure, kinds: Sequence[str], caption: str = "") -> list[bytes]:
    """The figure as png (200 dots an inch), svg or pdf, with the caption below it: the same bytes for the same figure."""
    # drawing moves the panels, from where the next drawing would begin: only a copy is drawn
    fresh = pickle.loads(pickle.dumps(figure))  # noqa: S301  what was dumped here
    made = []
    with sheet():
        if caption:
            _add(fresh, caption)
        FigureCanvasAgg(fresh)
        engine: Any = fresh.get_layout_engine()
        engine.execute(fresh)
        fresh.set_layout_engine(None)  # else the panels' places depend on the kind of file; "none" would draw each of them twice
        for kind in kinds:
            buffer = io.BytesIO()
            fresh.savefig(buffer, format=kind, metadata=_NO_DATES[kind])
            made.append(buffer.getvalue())
    return made


def write(figure: Figure, data: pd.DataFrame, folder: str | Path, name: str, caption: str) -> list[Path]:
    """Write <name> as .png, .svg and .pdf, all with the caption below the drawing, and as .csv with the data; the files.

    Drawing twice gives the same bytes. The figure stays as it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = tuple(_NO_DATES)
    files = [folder / f"{name}.{kind}" for kind in (*kinds, "csv")]
    for file, content in zip(files, images(figure, kinds, caption), strict=False):
        file.write_bytes(content)
    data.to_csv(files[-1], index=False)
    return files


def uncaptioned(figure: Figure, file: Path) -> bytes:
    """A png or svg of `write` cut where the paper that was added for the caption begins."""
    width, height = (float(inches) for inches in figure.get_size_inches())
    if file.suffix == ".svg":
        size = f'height="{height * 72:g}pt" viewBox="0 0 {width * 72:g} {height * 72:g}"'
        return re.sub(r'height="[\d.]+pt" viewBox="[\d. ]+"', size, file.read_text("utf-8"), count=1).encode()
    image, buffer = Image.open(file), io.BytesIO()
    image.crop((0, 0, image.width, round(image.width * height / width))).save(buffer, "png")
    return buffer.getvalue()


def _add(figure: Figure, caption: str) -> None:
    """Put the caption in small type under the drawing, on paper added for it."""
    width, height = (float(inches) for inches in figure.get_size_inches())
    lines = textwrap.wrap(caption, max(30, int(width * 19)), break_on_hyphens=False)
    extra = 0.14 * len(lines) + 0.12
    whole = height + extra
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, extra / whole, 1, height / whole))
    figure.set_size_inches(width, whole)
    note = figure.text(0.01, 0.06 / whole, "\n".join(lines), fontsize=6.4, color=FAINT, va="bottom", linespacing=1.35)
    note.set_in_layout(False)

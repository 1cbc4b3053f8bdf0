"""One HTML page about a comparison: a single file that opens without a network, prints, and can be mailed."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false

import base64
import hashlib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lab.analysis.aggregate import aggregate_verdict, aggregates
from lab.analysis.canvas import Chart, uncaptioned, write
from lab.analysis.figures import Material, charts
from lab.analysis.figures.multiplier import readings, slope
from lab.analysis.figures.sweep import by_set_up
from lab.analysis.labels import between, columns_of, conditions, environments, measure, quantity, several
from lab.analysis.solving import solve_table
from lab.analysis.statistics import baselines, leaders, pairs, references, summary
from lab.analysis.text import aggregate_cells, cell, probability, score, solve_cells
from lab.analysis.verdicts import verdicts

LARGEST_SVG, LARGEST_CSV = 1 << 20, 1 << 20
"""Bytes up to which the page holds a figure as SVG (else PNG), and its numbers (else only the file beside the page does)."""
LONGEST_TABLE = 500
"""Rows of a table up to which the page holds all of it."""
PLACES = {
    "frontiers": ("frontier", "multiplier", "isoflop"),
    "tasks": ("quality-by-task", "task-matrix", "performance-profile", "solve-times", "quality-against-flops",
              "quality-beyond-training", "length-extrapolation", "accuracy-by-slice"),
    "sensitivity": ("convention-sensitivity", "wallclock", "allocation", "seed-noise", "residuals", "lr-sensitivity",
                    "tuning-fairness", "ladder"),
    "costs": ("flop-breakdown", "throughput-against-length", "speed-by-task"),
}  # fmt: skip
"""Where on the page each kind of figure stands."""
_HERE = Path(__file__).parent
_TEMPLATE, _SCRIPT = ((_HERE / name).read_text("utf-8") for name in ("report.html.j2", "report_sort.js.j2"))


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it; image and csv are data URIs, csv is empty where the numbers are too many."""

    title: str
    name: str
    image: str
    csv: str
    alt: str
    caption: str
    width: int


def draw_all(material: Material, folder: str | Path, *kinds: str) -> list[Path]:
    """Write every figure of these kinds, of all where none is named, that a store allows, as PNG, SVG, PDF and CSV; the files."""
    return [path for chart in charts(material, *kinds) for path in write(chart, chart.data, folder, chart.name, chart.caption)]


def write_report(material: Material, folder: str | Path, command: str) -> Path:
    """Write report.html into a folder, the figures below it in figures/, and tables that are too long for a page in tables/.

    command: what made the runs, as typed.

    Raises:
        ValueError: there are no runs.
    """
    if material.frame.empty:
        raise ValueError("a report needs at least one run")
    folder, curves = Path(folder), material.curves
    single, swept = material.comparison, material.frame[~material.frame["id"].isin(material.comparison["id"])]
    compared = single if len(single) else None
    frame = pd.concat([part for part in (single, by_set_up(swept) if len(swept) else swept) if len(part)], ignore_index=True)
    drawn = {place: charts(material, *kinds) for place, kinds in PLACES.items()}
    for chart in chain.from_iterable(drawn.values()):
        write(chart, chart.data, folder / "figures", chart.name, chart.caption)
    shown, left_out = material.shown
    setups = _setups(frame)
    tables: dict[str, tuple[list[Any], list[str]]] = {
        "setups": (setups["rows"], [row[1][0] for row in setups["rows"]]),
        "pairs": _with_columns([] if compared is None else _pairs(compared)),
        "lost": _with_columns(_lost(frame)),
    }
    fitting = {
        name: _fitting(*table, set(shown.get("column", ())), folder / "tables" / f"{name}.csv") for name, table in tables.items()
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE).render(
        script=Markup(_SCRIPT),  # noqa: S704  our own file
        script_hash=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        summary=_headline(frame),
        multipliers=_multipliers(material),
        verdicts={} if compared is None else verdicts(compared),
        conditions=conditions(frame),
        scores=None if compared is None else _scores(compared),
        together=[] if compared is None else _together(compared),
        solving=[] if compared is None else _solving(shown, curves),
        left_out=left_out.strip(),
        pictures={place: [_picture(chart, folder / "figures") for chart in some] for place, some in drawn.items()},
        setups=setups["heads"],
        tables={name: rows for name, (rows, _) in fitting.items()},
        longer={name: said for name, (_, said) in fitting.items()},
        refused=_refused(frame),
        published=[] if compared is None else _published(compared),
        command=command,
        environments=environments(frame),
        data={column: value for column, value in zip(frame["column"], frame["data"], strict=True) if value},
    )
    path = folder / "report.html"
    path.write_text(page, "utf-8", "backslashreplace")
    return path


def _with_columns(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    return rows, [row["column"] for row in rows]


def _fitting(rows: list[Any], columns: list[str], first: set[str], file: Path) -> tuple[list[Any], str]:
    """What a page holds of a table, those of the columns that are drawn first, and in words what it leaves to a file, if any."""
    if len(rows) <= LONGEST_TABLE:
        return rows, ""
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(file, index=False)
    ordered = [row for _, row in sorted(zip(columns, rows, strict=True), key=lambda pair: pair[0] not in first)]
    return ordered[:LONGEST_TABLE], f"{LONGEST_TABLE} of {len(rows):,} rows; all are in tables/{file.name} beside this page."


def _multipliers(material: Material) -> list[dict[str, Any]]:
    """A row for each two set-ups of each sweep: who needs less, and where that is known."""
    return [
        {
            "task": sweep.task,
            "pair": f"{name} over {sweep.reference}",
            "verdict": found.verdict,
            "value": "" if found.reason else float(found.at(float(found.summary["loss"].iloc[1]))),
            "readings": readings(found),
            "unit": sweep.unit,
            "losses": "-" if found.reason else f"{found.interval[1]:.3g} to {found.interval[0]:.3g}",
            "flops": "-" if found.reason else f"{quantity(found.flops[0])} to {quantity(found.flops[1])}",
            "scaling": "-" if found.reason else f"{found.scaling}, slope {slope(found)}",
        }
        for sweep in material.sweeps
        for name, found in sweep.multipliers.items()
    ]


def _picture(chart: Chart, figures: Path) -> Picture:
    file, kind = figures / f"{chart.name}.svg", "svg+xml"
    if file.stat().st_size > LARGEST_SVG:
        file, kind = file.with_suffix(".png"), "png"
    drawn = uncaptioned(chart, file)
    table = chart.data.to_csv(index=False).encode()
    return Picture(
        title=chart.title,
        name=chart.name,
        image=_uri(f"image/{kind}", drawn),
        alt=chart.alt,
        caption=chart.caption,
        csv=_uri("text/csv", table) if len(table) <= LARGEST_CSV else "",
        width=round(96 * chart.get_figwidth()),
    )


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _headline(frame: pd.DataFrame) -> str:
    def counted(number: int, name: str) -> str:
        return f"{number} {name}{'s' * (number != 1)}"

    return several(
        [
            counted(frame["row"].nunique(), "architecture"),
            counted(frame["column"].nunique(), "task"),
            counted(len(frame), "run"),
        ]
    )


def _scores(frame: pd.DataFrame) -> dict[str, Any]:
    """The table of scores: columns with their unit, and rows of (text, number to sort by, whether it leads)."""
    cells, floors, best = summary(frame), baselines(frame), leaders(frame)
    columns, at = columns_of(frame), {}
    for _, row in cells.iterrows():
        leads = best.get(row["column"]) == row["row"]
        at[row["row"], row["column"]] = (cell(row, False), "" if pd.isna(row["mean"]) else row["mean"], leads)
    for name, column, value in zip(floors["name"], floors["column"], floors["value"], strict=True):
        at[name, column] = (score(value), value, False)
    empty = ("", "", False)
    units = {column: measure(frame[frame["column"] == column]) for column in columns}
    floor_names = dict.fromkeys(sorted(floors["name"], key=lambda name: (name != "chance", name)))
    return {
        "columns": [(column, f"{name} {'↑' if higher else '↓'}") for column, (name, higher) in units.items()],
        "rows": [(row, [at.get((row, column), empty) for column in columns]) for row in columns_of(frame, "row")],
        "floors": [(name, [at.get((name, column), empty) for column in columns]) for name in floor_names],
    }


def _together(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """All tasks scored by right answers together: for each budget a verdict and rows of texts."""
    return [
        {
            "verdict": aggregate_verdict(part),
            "tasks": part["tasks"].iloc[0],
            "budget": quantity(budget),
            "rows": [(row["row"], *aggregate_cells(row)) for _, row in part.iterrows()],
        }
        for budget, part in aggregates(frame).groupby("budget")
    ]


def _solving(frame: pd.DataFrame, curves: pd.DataFrame) -> list[tuple[Any, ...]]:
    solved = solve_table(frame, curves)
    return [(row["column"], row["row"], *solve_cells(row), row["verdict"] or "-") for _, row in solved.iterrows()]


def _setups(frame: pd.DataFrame) -> dict[str, Any]:
    """What every architecture was on every task, seeds together: texts and numbers to sort by."""
    heads = [
        "architecture",
        "task",
        "dim",
        "depth",
        "parameters",
        "FLOPs/token, forward",
        "FLOPs spent",
        "state size",
        "lr",
        "batch",
        "steps",
        "seconds",
        "tokens/s",
        "peak MB",
    ]
    done = frame["status"].eq("done")
    some = frame[done | ~done.groupby([frame["row"], frame["column"]]).transform("any")]  # where none finished, what was begun
    above = some.assign(
        **{name: some[name].where(some[name] > 0) for name in ("params", "flops", "steps", "seconds")},
        flops_per_token=some["flops_per_token"].where(some["params"] > 0),
    )
    above["speed"] = above["tokens"] / above["seconds"]
    above["peak"] = above["peak_memory"].where(above["seconds"] > 0) / 1e6
    spans = ["dim", "depth", "params", "flops_per_token", "flops", "state_size", "lr", "batch", "steps"]
    groups = above.groupby(["row", "column"], sort=True)
    lows, highs, means = groups[spans].min(), groups[spans].max(), groups[["seconds", "speed", "peak"]].mean()
    rows = [
        [
            *((name, "") for name in key),
            *((between(low, high), "" if pd.isna(high) else high) for low, high in zip(lowest, highest, strict=True)),
            *((quantity(mean), "" if pd.isna(mean) else mean) for mean in mine),
        ]
        for key, lowest, highest, mine in zip(lows.index, lows.to_numpy(), highs.to_numpy(), means.to_numpy(), strict=True)
    ]
    return {"heads": heads, "rows": rows}


def _published(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return references(frame).assign(shown=lambda made: made["value"].map(score)).to_dict("records")


def _pairs(frame: pd.DataFrame) -> list[dict[str, Any]]:
    tested = pairs(frame)
    tested["shown"] = [
        f"{d:+.3f} ± {h:.3f}" if h == h else f"{d:+.3f}" if d == d else "-"
        for d, h in zip(tested["difference"], tested["half_width"], strict=True)
    ]
    tested["p_shown"] = [probability(p) for p in tested["p_holm"]]
    return tested.to_dict("records")


def _lost(frame: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["row", "column", "seed", "status", "steps", "planned_steps", "reason", "id"]
    return frame.loc[frame["status"] != "done", columns].sort_values(columns[:3]).to_dict("records")


def _refused(frame: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    return sorted(
        {
            (row, column, variant, why)
            for row, column, named in zip(frame["row"], frame["column"], frame["refused"], strict=True)
            for variant, why in named.items()
        }
    )

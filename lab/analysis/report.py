"""One HTML page about a comparison: a single file that opens without a network, prints, and can be mailed."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lab.analysis.aggregate import aggregate_verdict, aggregates
from lab.analysis.canvas import Chart, image, write
from lab.analysis.labels import columns_of, conditions, environments, labelled, measure, quantity, several, span
from lab.analysis.plots import quality_against_flops, quality_by_task
from lab.analysis.solving import solve_table
from lab.analysis.speed import by_length, speed_by_task, throughput_against_length
from lab.analysis.statistics import baselines, leaders, pairs, references, summary
from lab.analysis.text import aggregate_cells, cell, probability, score, solve_cells
from lab.analysis.variants import accuracy_by_slice, quality_beyond_training
from lab.analysis.verdicts import verdicts

LARGEST_SVG, LARGEST_CSV = 1 << 20, 1 << 20
"""Bytes up to which the page holds a figure as SVG (else PNG), and its numbers (else only the file beside the page does)."""
TITLES = {
    "quality_by_task": "Quality at equal compute",
    "quality_against_flops": "Loss against compute",
    "quality_beyond_training": "Beyond what was trained on",
    "accuracy_by_slice": "By slice",
    "throughput_against_length": "Speed",
    "speed_by_task": "Speed of the runs",
}
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


def draw_all(frame: pd.DataFrame, curves: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write every figure that the data allows, as PNG, SVG and CSV; the files written."""
    return [
        path for name, chart in _charts(frame, curves).items() for path in write(chart, chart.data, folder, name, chart.caption)
    ]


def write_report(frame: pd.DataFrame, curves: pd.DataFrame, folder: str | Path, command: str) -> Path:
    """Write report.html into a folder, and the figures below it in figures/. command: what made the runs, as typed.

    Raises:
        ValueError: there are no runs.
    """
    if frame.empty:
        raise ValueError("a report needs at least one run")
    frame, folder = labelled(frame), Path(folder)
    charts, solved = _charts(frame, curves), solve_table(frame, curves)
    for name, chart in charts.items():
        write(chart, chart.data, folder / "figures", name, chart.caption)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE).render(
        script=Markup(_SCRIPT),  # noqa: S704  our own file
        script_hash=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        summary=_headline(frame),
        verdicts=verdicts(frame),
        conditions=conditions(frame),
        scores=_scores(frame),
        together=_together(frame),
        solving=[(row["column"], row["row"], *solve_cells(row), row["verdict"] or "-") for _, row in solved.iterrows()],
        pictures=[_picture(name, chart) for name, chart in charts.items()],
        setups=_setups(frame),
        pairs=_pairs(frame),
        lost=_lost(frame),
        refused=_refused(frame),
        published=references(frame).assign(shown=lambda made: made["value"].map(score)).to_dict("records"),
        command=command,
        environments=environments(frame),
        data={column: value for column, value in zip(frame["column"], frame["data"], strict=True) if value},
    )
    path = folder / "report.html"
    path.write_text(page, "utf-8")
    return path


def _charts(frame: pd.DataFrame, curves: pd.DataFrame) -> dict[str, Chart]:
    drawers: dict[str, Callable[[], Chart | None]] = {
        "quality_by_task": lambda: quality_by_task(frame),
        "quality_against_flops": lambda: quality_against_flops(frame, curves),
        "quality_beyond_training": lambda: quality_beyond_training(frame),
        "accuracy_by_slice": lambda: accuracy_by_slice(frame),
        "throughput_against_length": lambda: throughput_against_length(frame),
        "speed_by_task": lambda: None if by_length(labelled(frame))[0].empty else speed_by_task(frame),
    }
    if frame.empty:
        return {}
    return {name: chart for name, draw in drawers.items() if (chart := draw()) is not None}


def _picture(name: str, chart: Chart) -> Picture:
    drawn, kind = image(chart, "svg"), "svg+xml"
    if len(drawn) > LARGEST_SVG:
        drawn, kind = image(chart, "png"), "png"
    table = chart.data.to_csv(index=False).encode()
    return Picture(
        title=TITLES[name],
        name=name,
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
    rows = []
    for (row, column), part in frame.groupby(["row", "column"], sort=True):
        part = finished if len(finished := part[part["status"] == "done"]) else part
        ran = part[part["seconds"] > 0]
        values = [
            part["dim"],
            part["depth"],
            part["params"].where(part["params"] > 0),
            part["flops_per_token"].where(part["params"] > 0),
            part["flops"].where(part["flops"] > 0),
            part["state_size"],
            part["lr"],
            part["batch"],
            part["steps"].where(part["steps"] > 0),
        ]
        means = [ran["seconds"].mean(), (ran["tokens"] / ran["seconds"]).mean(), ran["peak_memory"].mean() / 1e6]
        numbers = [(span(value), "" if value.isna().all() else value.max()) for value in values]
        rows.append([(row, ""), (column, ""), *numbers, *((quantity(mean), "" if pd.isna(mean) else mean) for mean in means)])
    return {"heads": heads, "rows": rows}


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

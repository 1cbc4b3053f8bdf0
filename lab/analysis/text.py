"""The table of a comparison for the terminal: plain text, at most WIDTH columns wide where names allow."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false

import re
import textwrap
from collections.abc import Sequence

import pandas as pd

from lab.analysis.aggregate import aggregate_verdict, aggregates
from lab.analysis.crowd import PANELS, drawn
from lab.analysis.labels import columns_of, conditions, labelled, measure, quantity, several, span
from lab.analysis.solving import solve_table
from lab.analysis.statistics import baselines, leaders, summary
from lab.analysis.verdicts import verdicts

WIDTH = 100
NAME = 26
"""Names are wrapped to this width."""
SOLVES = (
    "A run solves at the first of three evaluations in a row that are 0.9 of the way from chance to 1, on part of the validation "
    "split. >: runs that did not count to their end. Intervals: Wilson, Greenwood, BCa bootstrap over runs."
)


def render(frame: pd.DataFrame, curves: pd.DataFrame | None = None, panels: int = PANELS) -> str:
    """Scores with intervals, an architecture a row and a task a column, baselines below; where the curves say so, the compute
    that solves each task; all tasks together; what each architecture was and cost; the conditions; a verdict for each task.

    panels: tasks and budgets of which the compute that solves them is told, at most.
    """
    if frame.empty:
        return "no runs"
    frame = labelled(frame)
    solving = "" if curves is None else _solved(frame, curves, panels)
    parts = [_scores(frame), _aggregates(aggregates(frame)), solving, _costs(frame), _conditions(frame), _sentences(frame)]
    return "\n\n".join(filter(None, parts))


def score(value: float, half_width: float = float("nan")) -> str:
    """0.873 ± 0.021, or 0.873 where there is no interval, or - where there is no value."""
    if pd.isna(value):
        return "-"
    return f"{value:.3f}" if pd.isna(half_width) else f"{value:.3f} ± {half_width:.3f}"


def cell(row: pd.Series, best: bool) -> str:
    """A score with its interval, * where it is the best that can be told apart, and how many of the runs finished if not all."""
    lost = int(row["runs"] - row["seeds"])
    if not row["seeds"]:
        statuses = [status for status in ("diverged", "failed", "interrupted") if row[status]]
        return f"{several(statuses)} {lost}/{int(row['runs'])}" if statuses else "no score"
    text = score(row["mean"], row["half_width"]) + "*" * best
    if lost:
        return f"{text} ({int(row['seeds'])}/{int(row['runs'])})"
    return text if pd.notna(row["half_width"]) else f"{text} ({int(row['seeds'])} seed{'s' * (row['seeds'] > 1)})"


def _scores(frame: pd.DataFrame) -> str:
    cells, floors, best = summary(frame), baselines(frame), leaders(frame)
    columns, rows = columns_of(frame), columns_of(frame, "row")
    filled = {(row["row"], row["column"]): cell(row, best.get(row["column"]) == row["row"]) for _, row in cells.iterrows()}
    floor_names = list(dict.fromkeys(sorted(floors["name"], key=lambda name: (name != "chance", name))))
    below = {
        (name, column): score(value)
        for name, column, value in zip(floors["name"], floors["column"], floors["value"], strict=True)
    }
    blocks = []
    for some in _fitting(columns):
        heads = [[*wrapped_name(column, 18), _unit(frame, column)] for column in some]
        body = [[name, *(filled.get((name, column), "") for column in some)] for name in rows]
        floor = [[name, *(below.get((name, column), "") for column in some)] for name in floor_names]
        blocks.append(grid(["", *("\n".join(head) for head in heads)], body, [line for line in floor if any(line[1:])]))
    return "\n\n".join(blocks)


def _unit(frame: pd.DataFrame, column: str) -> str:
    name, higher = measure(frame[frame["column"] == column])
    return f"{name} {'↑' if higher else '↓'}"


def _fitting(columns: list[str]) -> list[list[str]]:
    """The columns in blocks that fit the width."""
    each = max(1, (WIDTH - NAME) // 18)
    return [columns[i : i + each] for i in range(0, len(columns), each)]


def _aggregates(table: pd.DataFrame) -> str:
    """All tasks scored by right answers together, a block a budget."""
    blocks = []
    for budget, part in table.groupby("budget"):
        lines = [[row["row"], *aggregate_cells(row)] for _, row in part.iterrows()]
        heads = [f"{part['tasks'].iloc[0]} tasks, {quantity(budget)} FLOPs", "interquartile mean\n0 chance, 1 all right",
                 "P(the first\nis better)", "p, sign flips\nHolm"]  # fmt: skip
        blocks.append(f"{grid(heads, lines, [])}\n{_wrapped(aggregate_verdict(part) + '.')}")
    return "\n\n".join(blocks)


def aggregate_cells(row: pd.Series) -> list[str]:
    """A row of `aggregates` in words: interquartile mean, probability that the best improves on it, corrected p."""
    return [
        ranged(row["iqm"], row["low"], row["high"]),
        ranged(row["improvement"], row["improvement_low"], row["improvement_high"]),
        probability(row["p_holm"]),
    ]


def _solved(frame: pd.DataFrame, curves: pd.DataFrame, panels: int) -> str:
    """Compute to solve, of as many tasks and budgets as a figure has."""
    some, left_out = drawn(frame, panels)
    found = _solving(solve_table(some, curves))
    return "\n".join(filter(None, [found, _wrapped(left_out.strip()) if found else ""]))


def _solving(table: pd.DataFrame) -> str:
    """Solve rates and compute to solve, a block a task."""
    blocks = []
    for column, part in table.groupby("column", sort=False):
        lines = [[row["row"], *solve_cells(row)] for _, row in part.iterrows()]
        heads = [f"{column}: solving", "runs that\nsolve", "FLOPs to solve", "FLOPs over\nthe first's", "p, log-rank\nHolm"]
        said = [row["verdict"] if "needs" in row["verdict"] else f"{part['row'].iloc[0]} and {row['row']}: {row['verdict']}"
                for _, row in part.iterrows() if row["verdict"]]  # fmt: skip
        blocks.append("\n".join([grid(heads, lines, []), *(_wrapped(f"{each}.") for each in said)]))
    if blocks:
        blocks.append(_wrapped(SOLVES))
    return "\n\n".join(blocks)


def solve_cells(row: pd.Series) -> list[str]:
    """A row of `solve_table` in words: solve rate, compute to solve, multiplier of the quickest over it, corrected p."""
    mean = f"{'' if row['all'] else '> '}{row['flops']:.2g}".replace("e+", "e")
    spread = f" [{row['flops_low']:.2g}, {row['flops_high']:.2g}]".replace("e+", "e") if row["all"] and row["runs"] > 1 else ""
    share = f"{row['solved']}/{row['runs']} [{row['low']:.2f}, {row['high']:.2f}]"
    return [share, (mean + spread) if row["solved"] else "-", row["multiplier"].split(":")[0] or "-", probability(row["p_holm"])]


def ranged(value: float, low: float, high: float) -> str:
    """0.873 [0.851, 0.902], or what there is of it."""
    return "-" if pd.isna(value) else f"{value:.3f}" if pd.isna(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def probability(p: float) -> str:
    """A p-value to three places."""
    return "-" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _costs(frame: pd.DataFrame) -> str:
    lines = []
    for row, part in frame.groupby("row", sort=True):
        ran = part[(part["status"] == "done") & (part["seconds"] > 0)]
        speed = ran["tokens"] / ran["seconds"]
        shape = several(sorted({f"{dim}x{depth}" for dim, depth in zip(part["dim"], part["depth"], strict=True)}), "or")
        shape = shape if len(shape) <= 20 else f"{span(part['dim'])} x {span(part['depth'])}"
        known = part[part["params"] > 0]
        lines.append(
            [
                str(row),
                shape,
                span(known["params"]),
                span(known["flops_per_token"]),
                quantity(part.loc[part["status"] == "done", "flops"].mean()),
                span(part["state_size"]),
                span(speed.groupby(ran["column"]).mean()),
            ]
        )
    heads = [
        "",
        "dim x depth",
        "parameters",
        "FLOPs/token\nforward",
        "FLOPs spent\nmean",
        "state size\nnumbers",
        "tokens/s\ntraining",
    ]
    return grid(heads, lines, [])


def _conditions(frame: pd.DataFrame) -> str:
    facts = conditions(frame)
    lines = [
        "; ".join(facts[name] for name in ("runs", "budget", "seeds", "precision", "recipe") if facts[name]) + ".",
        f"± and *: {facts['interval']}; * is best and told apart from every other (paired t-test over shared seeds, Holm).",
        f"{facts['convention']}; the intervals leave out what the choice of test examples adds.",
    ]
    lost = frame[frame["status"] != "done"]
    for (row, column, status, reason), part in lost.groupby(["row", "column", "status", "reason"], sort=True):
        lines.append(
            f"{row} on {column}: {status}, seed{'s' * (len(part) > 1)} {several([str(s) for s in sorted(part['seed'])])}: "
            f"{' '.join(str(reason).split()) or 'no reason given'}"
        )
    return "\n".join(_wrapped(line) for line in lines)


def _sentences(frame: pd.DataFrame) -> str:
    return "\n".join(_wrapped(f"{column}: {sentence}.") for column, sentence in verdicts(frame).items())


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def wrapped_name(name: str, width: int) -> list[str]:
    """A name in lines of about `width`, broken after its commas and colons only."""
    lines = [""]
    for part in re.split(r"(?<=[,:]) ?|(?= at | by )", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return [line.strip() for line in lines]


def grid(heads: Sequence[str], body: list[list[str]], floor: list[list[str]]) -> str:
    """Left-aligned names, right-aligned values, a rule below the head and above the floor; cells may have several lines."""

    def lines(cells: Sequence[str], bottom: bool = False) -> list[list[str]]:
        split = [cells[0].split("\n") if bottom else wrapped_name(cells[0], NAME)]
        split += [each.split("\n") for each in cells[1:]]
        tall = max(map(len, split))
        padded = [[""] * (tall - len(part)) + part if bottom else part + [""] * (tall - len(part)) for part in split]
        return [list(line) for line in zip(*padded, strict=True)]

    groups = [
        lines(heads, bottom=True),
        [line for row in body for line in lines(row)],
        [line for row in floor for line in lines(row)],
    ]
    widths = [max(len(line[i]) for group in groups for line in group) for i in range(len(heads))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    shown = [
        "  ".join([line[0].ljust(widths[0]), *(value.rjust(width) for value, width in zip(line[1:], widths[1:], strict=True))])
        for group in groups
        for line in [*group, None]
        if line is not None
    ]
    cuts = [len(groups[0]), len(groups[0]) + len(groups[1])]
    made = [*shown[: cuts[0]], rule, *shown[cuts[0] : cuts[1]]]
    return "\n".join(line.rstrip() for line in ([*made, rule, *shown[cuts[1] :]] if floor else made))

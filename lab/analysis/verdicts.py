"""What the scores say, in sentences that claim no more than the seeds allow."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from itertools import pairwise

import pandas as pd

from lab.analysis.labels import columns_of, labelled, measure, several
from lab.analysis.statistics import FEWEST, averages, baselines, pairs, rankings, summary

MANY = 6
"""More names or pairs than these are counted, not listed twice."""


def verdicts(frame: pd.DataFrame) -> dict[str, str]:
    """A sentence for each column: who leads, who cannot be told apart, who is not shown to beat a baseline, what failed; and
    the means over the forms of a task where there are several.
    """
    frame = labelled(frame)
    tests, cells, floors = pairs(frame), summary(frame), baselines(frame)
    said, orders, nothing = {}, rankings(frame), tests.head(0)
    of_column, tests_of = dict(list(frame.groupby("column"))), dict(list(tests.groupby("column")))
    for column in columns_of(frame):
        mine = cells[cells["column"] == column].set_index("row")
        order = orders[column]
        clauses = [
            _order(order, tests_of.get(column, nothing), mine),
            *_floors(order, mine, floors[floors["column"] == column], measure(of_column[column])[1]),
            *_losses(mine),
        ]
        said[column] = "; ".join(clauses)
    for name, part in averages(frame).groupby("family"):
        means = [
            f"{row} {mean:.3f}" + (f" ± {half:.3f}" if half == half else "")
            for row, mean, half in zip(part["row"], part["mean"], part["half_width"], strict=True)
        ]
        said[f"{name}, mean over its {part['forms'].iloc[0]} forms"] = ", ".join(means)
    return said


def _order(order: list[str], tests: pd.DataFrame, cells: pd.DataFrame) -> str:
    if not order:
        return "no run has a score"
    if len(order) == 1:
        return f"only {order[0]} has a score, so there is nothing to compare"
    known = {
        frozenset((a, b)): (apart, count)
        for a, b, apart, count in zip(tests["a"], tests["b"], tests["apart"], tests["seeds"], strict=True)
    }

    def tied(a: str, b: str) -> bool:
        return not known[frozenset((a, b))][0]

    def thin(names: list[str]) -> bool:
        """Whether some two of them share too few seeds to be tested at all."""
        return any(known[frozenset((a, b))][1] < FEWEST for a in names for b in names if a < b)

    first, rest = order[0], order[1:]
    level = [name for name in rest if tied(first, name)]
    behind = [name for name in rest if name not in level]
    if not level:
        return "; ".join([f"{first} leads, ahead of {_gap(first, rest[0], tests)}", *_among(behind, tied)])
    top = [first, *level]
    clauses = [f"{several(top, 'and')} cannot be told apart" if not thin(top) else _thin(top, cells)]
    if behind:
        clauses.append(f"{several(behind)} {'are' if len(behind) > 1 else 'is'} behind {first}")
    return "; ".join(clauses)


def _gap(first: str, second: str, tests: pd.DataFrame) -> str:
    row = tests[((tests["a"] == first) & (tests["b"] == second)) | ((tests["a"] == second) & (tests["b"] == first))].iloc[0]
    return f"{second} by {abs(row['difference']):.3f} ± {row['half_width']:.3f}"


def _thin(names: list[str], cells: pd.DataFrame) -> str:
    short = [name for name in names if cells.loc[name, "seeds"] < FEWEST] or names
    counts = {int(cells.loc[name, "seeds"]) for name in short}
    has = "they have" if len(short) == len(names) > MANY else f"{several(short)} {'have' if len(short) > 1 else 'has'}"
    number = f"{counts.pop()} finished" if len(counts) == 1 else "too few finished"
    return f"{several(names)} cannot be told apart ({has} {number}; {FEWEST} shared seeds are needed)"


def _among(names: list[str], tied) -> list[str]:
    """How those behind the leader stand to one another: best first, equals together."""
    if len(names) < 2:
        return []
    unclear = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if tied(a, b)]
    if len(unclear) == len(names) * (len(names) - 1) // 2:
        return [f"{several(names)} cannot be told apart"]
    if not unclear:
        return [
            ", ".join(
                [
                    f"{names[0]} is ahead of {names[1]}",
                    *(f"{a} of {b}" for a, b in pairwise(names[1:])),
                ]
            )
        ]
    if len(unclear) > MANY:
        return [f"of the {len(names) * (len(names) - 1) // 2} pairs behind, {len(unclear)} cannot be told apart"]
    return [f"{a} and {b} cannot be told apart" for a, b in unclear]


def _floors(order: list[str], cells: pd.DataFrame, floors: pd.DataFrame, higher: bool) -> list[str]:
    """Which architectures do not beat chance (by their interval, where there is one), and which baselines nobody beats."""
    stand: dict[tuple[str, ...], list[str]] = {}
    for name, value in zip(floors["name"], floors["value"], strict=True):
        losers = tuple(row for row in order if not _beats(cells.loc[row], value, higher))
        if losers:
            stand.setdefault(losers, []).append(_named(name))
        if len(losers) == len(order) and name == "chance":  # the weakest: the others would only say it again
            break
    return [
        f"none is shown to beat {several(names, 'or')}"
        if len(losers) == len(order)
        else f"{several(losers)} {'are' if len(losers) > 1 else 'is'} not shown to beat {several(names, 'or')}"
        for losers, names in stand.items()
    ]


def _named(baseline: str) -> str:
    return baseline if baseline == "chance" else f"the baseline '{baseline}'"


def _beats(cell: pd.Series, value: float, higher: bool) -> bool:
    margin = cell["half_width"] if pd.notna(cell["half_width"]) else 0.0
    return bool(cell["mean"] - margin > value if higher else cell["mean"] + margin < value)


def _losses(cells: pd.DataFrame) -> list[str]:
    clauses = []
    for status in ("diverged", "failed", "interrupted"):
        lost = cells[cells[status] > 0]
        clauses += [
            f"{row} {status} in {n} of {of} runs" for row, n, of in zip(lost.index, lost[status], lost["runs"], strict=True)
        ]
    return clauses

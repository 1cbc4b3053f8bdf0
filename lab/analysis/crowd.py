"""What is drawn of a comparison that has more tasks, budgets and architectures than a figure holds; tables keep all of it."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAssignmentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportReturnType=false

import pandas as pd

from lab.analysis.labels import columns_of, measure, several

PANELS = 12
ROWS = 24
"""Architectures of a figure."""
LINES = 60
"""Training curves of a panel."""


def drawn(frame: pd.DataFrame, panels: int = PANELS) -> tuple[pd.DataFrame, str]:
    """The runs of a labelled frame that its figures show, and in words what they leave out, if anything.

    Of each task the column with the largest budget comes first, then the next of each; of architectures those with the best mean
    rank in these columns.
    """
    said = []
    columns = _columns(frame)
    if len(columns) > panels:
        said.append(f"{len(columns) - panels} of {len(columns)} tasks and budgets, after the largest budgets of each task")
        frame = frame[frame["column"].isin(columns[:panels])]
    rows = _rows(frame)
    if len(rows) > ROWS:
        said.append(f"{len(rows) - ROWS} of {len(rows)} architectures, after the best mean ranks")
        frame = frame[frame["row"].isin(rows[:ROWS])]
    return frame, f" Left out: {several(said)}; lab report --panels shows more, --task some tasks alone." if said else ""


def curved(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The runs whose training curves are drawn, as many seeds of each as make 60 lines a panel; and so in words."""
    place = frame.sort_values(["seed", "id"]).groupby(["column", "row"]).cumcount().reindex(frame.index)
    each = max(1, LINES // max(frame.groupby("column")["row"].nunique(), default=1))
    most = int(place.max()) + 1 if len(frame) else 0
    return frame[place < each], f" Of up to {most} seeds the first {each} are drawn." if most > each else ""


def _columns(frame: pd.DataFrame) -> list[str]:
    """By the place of their budget among those of their task, largest first, then by name."""
    of = frame.groupby("column").agg(task=("task", "first"), budget=("budget", "max"))
    place = of.groupby("task")["budget"].rank(method="first", ascending=False)
    return sorted(columns_of(frame), key=lambda column: place[column])


def _rows(frame: pd.DataFrame) -> list[str]:
    """By mean rank over the columns, best first, then by name; those without a score last."""
    ranks = [pd.Series(dtype=float)]
    for _, part in frame.groupby("column"):
        means = part[part["status"] == "done"].groupby("row")["score"].mean()
        ranks.append(means.rank(ascending=not measure(part)[1]))
    mean = pd.concat(ranks).groupby(level=0).mean()
    return sorted(columns_of(frame, "row"), key=lambda row: mean.get(row, float("inf")))

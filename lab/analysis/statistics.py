"""Means and intervals over seeds, and which architectures can be told apart.

The interval is the 95 % t-interval of the mean over seeds, from 3 seeds on. Two architectures are compared by the paired t-test
over the seeds they share (a seed fixes the order of the data for both), Holm-corrected over all pairs of a task. Runs without a
score have no part in a mean; they are counted beside it.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

from lab.analysis.labels import columns_of, family, labelled, measure

FEWEST = 3
"""Seeds from which on an interval is given."""
LEVEL = 0.95


class Reading(float):
    """A number with its 95 % interval: `low` to `high`, in a curve also the simultaneous `band_low` to `band_high`; or NaN, with
    the `reason` why there is none, and in `low` and `high` what bounds it, if anything.
    """

    low: float
    high: float
    band_low: float
    band_high: float
    reason: str

    def __new__(cls, value: float = np.nan, interval: Any = (np.nan, np.nan), band: Any = None, reason: str = ""):
        self = super().__new__(cls, value)
        self.low, self.high = (float(end) for end in interval)
        self.band_low, self.band_high = (float(end) for end in (interval if band is None else band))
        self.reason = reason
        return self

    def __repr__(self) -> str:
        if np.isnan(self):
            return f"{bounded(self.low, self.high) or 'none'}: {self.reason}"
        return f"{float(self):.4g} [{self.low:.4g}, {self.high:.4g}]"

    __str__ = __repr__


def bounded(low: float, high: float) -> str:
    """In words where a number lies of which only one bound is known; empty where none is."""
    if np.isinf(high):
        return f"above {low:.3g}"
    return f"below {high:.3g}" if low == 0 else ""


def interval(value: float, low: float, high: float) -> str:
    """A number with its interval, or what bounds it, or that it cannot be told."""
    return bounded(low, high) or "cannot be told" if np.isnan(value) else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def summary(frame: pd.DataFrame, value: str = "score") -> pd.DataFrame:
    """A row for each `row` and `column` of the labelled frame, by name: mean, half_width (NaN below 3 seeds) and sd of a value
    over `seeds` finished runs; `runs` in all, of which `diverged`, `failed` and `interrupted`.
    """
    frame = labelled(frame)
    groups = frame.assign(finished=frame[value].where(frame["status"] == "done")).groupby(["column", "row"], sort=True)
    made = groups["finished"].agg(mean="mean", sd="std", seeds="count").reset_index()
    made["half_width"] = half_width(made["sd"].to_numpy(), made["seeds"].to_numpy())
    made["runs"] = groups.size().to_numpy()
    for status in ("diverged", "failed", "interrupted"):
        made[status] = (frame["status"] == status).groupby([frame["column"], frame["row"]]).sum().to_numpy()
    return made


def half_width(sd: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Half the 95 % t-interval of a mean of `count` values with standard deviation `sd`; NaN where there are fewer than 3."""
    enough = np.maximum(count, FEWEST)
    return np.where(count >= FEWEST, stdtrit(enough - 1, (1 + LEVEL) / 2) * sd / np.sqrt(enough), np.nan)


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each two architectures of each column: the mean difference a - b over the seeds that both finished, its 95 %
    half-width, the number of those seeds, p of the paired t-test, Holm's p, and `apart`: whether that is below 0.05.
    """
    frame = labelled(frame)
    found = []
    for column, part in frame[frame["status"] == "done"].groupby("column"):
        scores = part.pivot_table(index="seed", columns="row", values="score")
        first, second = np.triu_indices(scores.shape[1], 1)
        tested = _paired(scores.to_numpy()[:, first] - scores.to_numpy()[:, second])
        corrected = holm(tested["p"])
        names = {"column": column, "a": scores.columns[first], "b": scores.columns[second]}
        found.append(pd.DataFrame(names | tested | {"p_holm": corrected, "apart": corrected < 1 - LEVEL}))
    names = ["column", "a", "b", "difference", "half_width", "seeds", "p", "p_holm", "apart"]
    return pd.concat(found, ignore_index=True)[names] if found else pd.DataFrame(columns=names)


def _paired(differences: np.ndarray) -> dict[str, np.ndarray]:
    """The paired t-test of each column of differences, a row a seed, NaN where a seed is not shared."""
    shared = ~np.isnan(differences)
    count = shared.sum(0)
    enough = np.maximum(count, FEWEST)
    mean = np.where(shared, differences, 0.0).sum(0) / np.where(count, count, np.nan)
    sd = np.sqrt(np.where(shared, (differences - mean) ** 2, 0.0).sum(0) / (enough - 1))
    same = sd <= 1e-12 * np.maximum(np.abs(mean), 1e-300)  # the same difference at every seed
    p = np.where(mean != 0, 0.0, 1.0)
    p[~same] = 2 * stdtr(enough - 1, -np.abs(mean) * np.sqrt(enough) / np.where(same, 1.0, sd))[~same]
    p[count < FEWEST] = np.nan
    return {"difference": mean, "half_width": half_width(sd, count), "seeds": count, "p": p}


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of the known p-values; NaN stays NaN."""
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else []
    return corrected


def baselines(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each `column` and baseline `name`, chance first: its score as `value`."""
    known: dict[tuple[str, str], float] = {}
    for column, named in zip(labelled(frame)["column"], frame["baselines"], strict=True):
        for name, value in named.items():
            if value is not None:
                known[column, name] = float(value)
    rows = [{"column": column, "name": name, "value": value} for (column, name), value in known.items()]
    made = pd.DataFrame(rows, columns=["column", "name", "value"])
    return made.sort_values(["column", "name"], key=lambda s: s.map(lambda x: (x != "chance", x)), ignore_index=True)


def references(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each `column` and score published for the task's very settings, by `name`: `value` and `source`."""
    known = {
        (column, each["name"], float(each["score"]), each["source"])
        for column, named in zip(labelled(frame)["column"], frame["references"], strict=True)
        for each in named
    }
    return pd.DataFrame(sorted(known), columns=["column", "name", "value", "source"])


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """For each task of which several forms were run, a row an architecture: the mean over the forms of a seed's scores, as `mean`
    with `half_width` over the `seeds` that finished every one of the `forms`; best first.

    Forms that are scored by different metrics, or run at several budgets, have no mean.
    """
    frame = labelled(frame)
    found = []
    for family_, part in frame.groupby(frame["column"].map(family)):
        columns = part["column"].unique()
        if len(columns) < 2 or len(columns) != part["task"].nunique() or part.loc[part["metric"] != "", "metric"].nunique() != 1:
            continue
        scores = part[part["status"] == "done"].pivot_table(index=["row", "seed"], columns="column", values="score")
        whole = scores.reindex(columns=columns).mean(axis=1, skipna=False).dropna()
        made = whole.groupby("row").agg(["mean", "std", "count"]).reset_index()
        made["half_width"] = half_width(made["std"].to_numpy(), made["count"].to_numpy())
        made = made.sort_values("mean", ascending=not bool(part["higher_is_better"].iloc[0]))
        found.append(made.rename(columns={"count": "seeds"}).assign(family=family_, forms=len(columns)))
    names = ["family", "forms", "row", "mean", "half_width", "seeds"]
    return pd.concat(found, ignore_index=True).reindex(columns=names) if found else pd.DataFrame(columns=names)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row an architecture, by name, then a row a baseline; columns are (task, what): mean, half_width, seeds, runs, diverged,
    failed, and best: told apart from every other architecture that finished, and better.
    """
    frame = labelled(frame)
    cells = summary(frame)
    best = leaders(frame)
    cells["best"] = [best.get(column) == row for column, row in zip(cells["column"], cells["row"], strict=True)]
    cells["kind"] = "architecture"
    floor = baselines(frame).rename(columns={"name": "row", "value": "mean"}).assign(kind="baseline")
    whats = ["mean", "half_width", "seeds", "runs", "diverged", "failed", "best"]
    made = pd.concat([cells, floor]).pivot(index=["kind", "row"], columns="column", values=whats)
    made = made.swaplevel(axis=1).reindex(columns=pd.MultiIndex.from_product([columns_of(frame), whats]))
    chance_first = sorted(made.index, key=lambda key: (key[0], key[1] != "chance" and key[0] == "baseline", key[1]))
    return made.reindex(chance_first)


def leaders(frame: pd.DataFrame) -> dict[str, str]:
    """For each column the architecture that is better than every other that finished, and told apart from it, if any is."""
    frame = labelled(frame)
    tests, found = dict(list(pairs(frame).groupby("column"))), {}
    for column, ranked in rankings(frame).items():
        if len(ranked) > 1:
            mine = tests[column][(tests[column]["a"] == ranked[0]) | (tests[column]["b"] == ranked[0])]
            if mine["apart"].all():
                found[column] = ranked[0]
    return found


def rankings(frame: pd.DataFrame) -> dict[str, list[str]]:
    """For each column the rows that have a score, best mean first."""
    scored = {column: part.dropna(subset="mean") for column, part in summary(frame).groupby("column")}
    return {
        str(column): list(scored[column].sort_values(["mean", "row"], ascending=[not measure(part)[1], True])["row"])
        for column, part in labelled(frame).groupby("column")
    }

"""Compute-to-solve: the training FLOPs at which a run first solves its task, where some runs never do.

A run solves at the first of three evaluations in a row at or above a level between chance and 1. One that has not by its end is
right-censored there. Survival: Kaplan and Meier 1958, JASA 53, 457-481, with Greenwood's variance on the log-log scale; log-rank:
Mantel 1966. The multiplier of a over b is M = FLOPs that b needs / FLOPs that a needs, from an accelerated-failure-time model
ln C = task + [b] ln M + s eps with normal eps, fitted by censored maximum likelihood in Olsen's form (Econometrica 46, 1978,
1211-1215), which is concave. Its interval is the BCa bootstrap over runs (Efron 1987, JASA 82, 171-185).
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAssignmentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtrc, erfcx, ndtr, ndtri, stdtrit

from lab.analysis.aggregate import REPLICATES, TAIL, normalised, wilson
from lab.analysis.statistics import FEWEST, Reading, holm

THETA = 0.9
"""A task is solved this far from chance to 1; .5 and .99 show how much that decides."""
IN_A_ROW = 3
REACH = 4.0
"""Factor of the quickest architecture's compute up to which a profile looks."""
MARGIN = 1.1
"""Multipliers within this factor of 1 are no difference that matters."""
LEAST_SPREAD = 0.04
"""Standard deviation of ln C below which none is believed: evaluations 15 % apart alone give this much (ln 1.15 / sqrt 12)."""


def compute_to_solve(curves: pd.DataFrame, chance: float | Mapping[str, float], theta: float = THETA) -> pd.DataFrame:
    """A row a run that was evaluated while it trained: id, architecture, task, budget, seed; flops; solved.

    curves: as `lab.analysis.curves` gives them, `score` NaN where there was no evaluation. chance: the score of guessing, or
    one for each task; runs of other tasks are left out. flops: at the first of three evaluations in a row at or above chance +
    theta (1 - chance), too late by at most the spacing of the evaluations; or at the last evaluation, where solved is false.
    """
    scored = curves.dropna(subset="score").sort_values(["id", "flops"])
    floor = scored["task"].map(chance) if isinstance(chance, Mapping) else pd.Series(chance, scored.index)
    scored, floor = scored[floor.notna()], floor.dropna()
    reached = scored["score"] >= floor + theta * (1 - floor) - 1e-6  # scores are float32
    runs = reached.groupby(scored["id"])
    stays = reached & runs.shift(-1, fill_value=False) & runs.shift(-2, fill_value=False)
    heads = scored.groupby("id")[["architecture", "task", "budget", "seed", "flops"]].last()
    first = scored[stays].groupby("id")["flops"].first().reindex(heads.index)
    heads["flops"] = first.fillna(heads["flops"]).astype("float64")
    return heads.assign(solved=first.notna()).reset_index()


def solve_runs(frame: pd.DataFrame, curves: pd.DataFrame, theta: float = THETA) -> pd.DataFrame:
    """`compute_to_solve` of the finished and diverged runs of a frame, labelled: also row and column.

    A run that diverged before it solved would not have solved by its budget either: it is censored there. Finished runs without
    an evaluation (short ones, and those of an older lab) are left out.
    """
    frame = normalised(frame)
    chance = dict(zip(frame["task"], frame.groupby("column")["chance"].transform("first"), strict=True))
    found = compute_to_solve(curves[curves["id"].isin(frame["id"])], chance, theta).set_index("id")[["flops", "solved"]]
    runs = frame.loc[frame["status"].isin(("done", "diverged")), ["id", "row", "column", "task", "budget", "seed", "status"]]
    runs = runs.join(found, on="id")
    runs["solved"] = runs["solved"].eq(True)
    lost = (runs["status"] == "diverged") & ~runs["solved"]
    runs["flops"] = runs["flops"].where(~lost, runs["budget"])
    evaluated = runs["column"].isin(runs.loc[~lost & runs["flops"].notna(), "column"])
    return runs[evaluated].dropna(subset="flops").reset_index(drop=True)


def solve_table(frame: pd.DataFrame, curves: pd.DataFrame, theta: float = THETA) -> pd.DataFrame:
    """A row for each `column` and `row` with evaluations, the quickest first: runs, solved, share with low and high (Wilson).

    flops, flops_low, flops_high: restricted mean of the compute to solve, up to the least end of an architecture's longest run;
    `all`: whether every run solved by then, else it is a lower bound. Of the quickest over this one: multiplier (in words),
    p_holm (log-rank, over the architectures of the column) and verdict; empty for the quickest, and where none solves.
    """
    names = ["column", "row", "runs", "solved", "share", "low", "high", "flops", "flops_low", "flops_high", "all"]
    found = []
    for column, part in solve_runs(frame, curves, theta).groupby("column"):
        arms = {str(row): mine for row, mine in part.groupby("row")}
        most = min(mine["flops"].max() for mine in arms.values())
        means = {row: restricted_mean(mine["flops"], mine["solved"], most) for row, mine in arms.items()}
        order = sorted(arms, key=lambda row: (float(means[row]), row))
        first, rest = order[0], order[1:] if part["solved"].any() else []
        p = dict(zip(rest, holm(np.array([log_rank(arms[first], arms[row]) for row in rest])), strict=True))
        for row in order:
            solved, runs, mean = int(arms[row]["solved"].sum()), len(arms[row]), means[row]
            share = wilson(solved, runs)
            by_then = bool((arms[row]["solved"] & (arms[row]["flops"] <= most)).all())
            values = [column, row, runs, solved, float(share), share.low, share.high, float(mean), mean.low, mean.high, by_then]
            said = {"multiplier": "", "verdict": "", "p_holm": p.get(row, np.nan)}
            if row in rest:
                against = solving_multiplier(arms[first], arms[row])
                who = {"a": first, "b": row}.get(against.verdict[:1]) if "needs" in against.verdict else None
                said["multiplier"] = str(against).partition(";")[0]
                said["verdict"] = f"{who}{against.verdict[1:]} than {row if who == first else first}" if who else against.verdict
            found.append(dict(zip(names, values, strict=True)) | said)
    return pd.DataFrame(found, columns=[*names, "multiplier", "p_holm", "verdict"])


def solving_profile(table: pd.DataFrame, ratios: ArrayLike | None = None) -> pd.DataFrame:
    """The share of tasks that an architecture solves within a factor of the quickest one's compute, for each factor (1 to 4).

    table: as `solve_table` gives it. Solved means by at least half of the runs. Columns: row, ratio, share. Dahl et al.,
    "Benchmarking Neural Network Training Algorithms", arXiv:2306.07179, section 4.
    """
    at, ratio = np.geomspace(1, REACH, 61) if ratios is None else np.asarray(ratios, float), _ratios(table)
    shares = (ratio.to_numpy()[None] <= at[:, None, None] * (1 + 1e-12)).mean(1)
    made = pd.DataFrame(shares, index=pd.Index(at, name="ratio"), columns=ratio.columns)
    return made.melt(ignore_index=False, var_name="row", value_name="share").reset_index()[["row", "ratio", "share"]]


def solving_score(table: pd.DataFrame) -> pd.Series:
    """The area below each `solving_profile` over ln of the factor from 1 to 4, over ln 4: 1 is the quickest on every task."""
    return (1 - np.log(_ratios(table)) / np.log(REACH)).clip(lower=0).mean()


def _ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Compute over the quickest architecture's, a row a task and a column an architecture; infinite where it does not solve."""
    flops = table["flops"].where(table["solved"] >= table["runs"] / 2, np.inf)
    wide = table.assign(flops=flops).pivot(index="column", columns="row", values="flops").fillna(np.inf)
    return wide.div(wide.min(axis=1).replace(np.inf, 1.0), axis=0)


def kaplan_meier(flops: ArrayLike, solved: ArrayLike) -> pd.DataFrame:
    """The share of runs that have not solved their task after so many FLOPs, with its 95 % band.

    A row for each compute at which some run solved, ascending: flops, at_risk, solved, unsolved, low, high. Before the first
    row all are unsolved; censored runs count as at risk up to their end. Where none is left unsolved the band is NaN.
    """
    c, event = np.asarray(flops, float), np.asarray(solved, bool)
    at = np.unique(c[event])
    risk, deaths = (c >= at[:, None]).sum(1), (c[event] == at[:, None]).sum(1)
    unsolved = np.cumprod(1 - deaths / risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt(np.cumsum(deaths / (risk * (risk - deaths)))) / np.log(unsolved)
        low, high = unsolved ** np.exp(ndtri(1 - TAIL) * np.abs(np.stack([se, se])) * [[1], [-1]])
    rows = {"flops": at, "at_risk": risk, "solved": deaths, "unsolved": unsolved, "low": low, "high": high}
    return pd.DataFrame(rows)


def restricted_mean(flops: ArrayLike, solved: ArrayLike, most: float) -> Reading:
    """exp of the mean of ln C up to ln `most`, the area below the Kaplan-Meier curve over ln flops; Greenwood's 95 % interval.

    A run that has not solved by `most` counts as `most`, so this is a lower bound of the geometric mean.
    """
    c = np.asarray(flops, float)
    curve = kaplan_meier(c, solved)
    curve = curve[curve["flops"] <= most]
    start = np.log(min(c.min(), most))
    at = np.array([start, *np.log(curve["flops"]), np.log(most)])
    areas = np.diff(at) * [1.0, *curve["unsolved"]]
    left = areas[::-1].cumsum()[::-1][1:]  # of each jump, the area after it
    risk, deaths = curve["at_risk"].to_numpy(), curve["solved"].to_numpy()
    variance = np.sum(left**2 * deaths / (risk * np.maximum(risk - deaths, 1)))
    mean, half = start + areas.sum(), float(ndtri(1 - TAIL)) * np.sqrt(variance)
    return Reading(np.exp(mean), (np.exp(mean - half), np.exp(mean + half)))


def log_rank(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Two-sided p that runs of a and b (columns flops, solved) solve at the same rate at every compute; NaN if none solves."""
    c, event = (np.concatenate([a[name], b[name]]) for name in ("flops", "solved"))
    mine = np.arange(len(c)) < len(a)
    at = np.unique(c[event.astype(bool)])
    risk, deaths = (c >= at[:, None]).sum(1), ((c == at[:, None]) & event).sum(1)
    ours = (c[mine] >= at[:, None]).sum(1)
    surplus = ((c == at[:, None]) & event & mine).sum() - (deaths * ours / risk).sum()
    variance = (deaths * ours * (risk - ours) * (risk - deaths) / (risk**2 * np.maximum(risk - 1, 1))).sum()
    return float(chdtrc(1, surplus**2 / variance)) if variance else np.nan


@dataclass(frozen=True)
class SolvingMultiplier:
    """M = FLOPs to solve of b / of a; above 1, a needs less.

    value: with its 95 % interval, or NaN with the reason. bound: where too few runs solve, what is known instead: `M > x` or
    `M < x`. verdict: who needs less.
    """

    value: Reading
    bound: str
    verdict: str

    def __str__(self) -> str:
        shown = self.bound or ("no multiplier: " if np.isnan(self.value) else "M = ") + str(self.value).removeprefix("none: ")
        return f"{shown}; {self.verdict}"


def solving_multiplier(a: pd.DataFrame, b: pd.DataFrame, replicates: int = REPLICATES, seed: int = 0) -> SolvingMultiplier:
    """The compute multiplier of a over b from their compute to solve: columns flops, solved and, for several tasks, task.

    Where fewer than half of all runs solve, or none of one, those of the slower that did not are taken to have solved when they
    were stopped, and the end of the interval that this cannot have moved too far is the bound. There is no multiplier without 3
    runs of each, or where fewer than half solve of both.
    """
    few = [f"{name} has {len(each)} runs" for name, each in (("a", a), ("b", b)) if len(each) < FEWEST]
    shares = np.array([each["solved"].mean() if len(each) else 0.0 for each in (a, b)])
    if few or shares.max() < 0.5:
        reason = f"{' and '.join(few)}, of {FEWEST} needed" if few else "fewer than half of the runs solve, in both"
        return SolvingMultiplier(Reading(reason=reason), "", f"cannot tell: {reason}")
    enough = shares.min() > 0 and (shares @ [len(a), len(b)]) / (len(a) + len(b)) >= 0.5
    slower = int(shares.argmin())
    runs = pd.concat(
        [each.assign(arm=arm, solved=each["solved"] | (not enough and arm == slower)) for arm, each in enumerate((a, b))]
    )
    value = _multiplier(runs, replicates, seed)
    if enough:
        return SolvingMultiplier(value, "", _verdict(value.low, value.high))
    low, high = (value.low, np.inf) if slower else (0.0, value.high)
    reason = f"only {a['solved'].sum() + b['solved'].sum()} of {len(a) + len(b)} runs solve"
    return SolvingMultiplier(Reading(reason=reason), f"M > {low:.3g}" if slower else f"M < {high:.3g}", _verdict(low, high))


def _verdict(low: float, high: float) -> str:
    """Who needs less by an interval of M: two one-sided tests where it is within the margin."""
    if low > 1 or high < 1:
        return f"{'a' if low > 1 else 'b'} needs less compute"
    return f"no difference beyond a factor of {MARGIN}" if max(high, 1 / max(low, 1e-300)) < MARGIN else "cannot be told apart"


def _multiplier(runs: pd.DataFrame, replicates: int, seed: int) -> Reading:
    tasks = runs["task"] if "task" in runs else pd.Series("", runs.index)
    runs = runs.assign(task=tasks)[["task", "arm", "flops", "solved"]]
    return _estimated(tuple(sorted(runs.itertuples(index=False, name=None))), replicates, seed)


@lru_cache(maxsize=10_000)
def _estimated(rows: tuple[tuple[str, int, float, bool], ...], replicates: int, seed: int) -> Reading:
    """Of rows of task, arm, flops, solved; kept, as a terminal's table and a page's ask for the same."""
    runs = pd.DataFrame(rows, columns=["task", "arm", "flops", "solved"])
    stratum = runs.groupby(["task", "arm"]).ngroup().to_numpy()
    arm, solved = runs["arm"].to_numpy(), runs["solved"].to_numpy(bool)
    design = np.column_stack([pd.get_dummies(runs["task"]).to_numpy(float), arm])
    log = np.log(runs["flops"].to_numpy(float))

    rng = np.random.default_rng(seed)
    counts = np.zeros((replicates, len(runs)))
    for each in np.unique(stratum):
        mine = np.flatnonzero(stratum == each)
        counts[:, mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=replicates)
    left_out = 1 - np.eye(len(runs))
    fitted = _fit(log, solved, design, np.concatenate([np.ones((1, len(runs))), left_out, counts]))
    value, jackknife, drawn = fitted[0], fitted[1 : len(runs) + 1], fitted[len(runs) + 1 :]
    return Reading(np.exp(value), np.exp(_bca(value, jackknife, stratum, drawn[~np.isnan(drawn)], len(runs) - design.shape[1])))


def _fit(log: np.ndarray, solved: np.ndarray, design: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ln M for each row of weights (replicates, runs): Newton's method on Olsen's parameters, coefficients / s and 1 / s.

    Without a solved run in one arm it is infinite; without any NaN.
    """
    arm = design[:, -1] > 0
    alive = np.stack([(weights * (solved & side)).sum(1) > 0 for side in (~arm, arm)])
    tasks = design[:, :-1]
    weights = weights * (((weights * solved) @ tasks > 0) @ tasks.T)  # a task that nobody solves says nothing
    y = log - log.mean()
    start = np.linalg.lstsq(design, y, rcond=None)[0]
    scale = 1 / max(float((y - design @ start).std()), LEAST_SPREAD)
    guess = np.tile([*(start * scale), scale], (len(weights), 1))
    features = np.column_stack([-design, y])
    events = (weights * solved).sum(1)
    ridge = 1e-9 * np.eye(guess.shape[1])
    squares = (features[:, :, None] * features[:, None]).reshape(len(features), -1)
    for _ in range(40):
        z = guess @ features.T
        slope, bend, left = -z, np.ones_like(z), z[:, ~solved]
        hazard = np.sqrt(2 / np.pi) / erfcx(left / np.sqrt(2))  # the normal density over what lies above
        slope[:, ~solved], bend[:, ~solved] = -hazard, hazard * (hazard - left)
        gradient = (weights * slope) @ features
        gradient[:, -1] += events / guess[:, -1]
        curvature = ((weights * bend) @ squares).reshape(-1, *ridge.shape) + ridge
        curvature[:, -1, -1] += events / guess[:, -1] ** 2
        held = (guess[:, -1] >= 1 / LEAST_SPREAD) & (gradient[:, -1] > 0)
        gradient[held, -1] = 0
        curvature[held, -1, :-1] = curvature[held, :-1, -1] = 0
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        step *= np.minimum(1, guess[:, -1:] / (2 * np.abs(step[:, -1:]) + 1e-300))
        guess = guess + step
        guess[:, -1] = np.minimum(guess[:, -1], 1 / LEAST_SPREAD)
        if np.abs(step).max() < 1e-9:
            break
    found = guess[:, -2] / guess[:, -1]
    return np.select([alive.all(0), alive[0], alive[1]], [found, np.inf, -np.inf], np.nan)


def _bca(value: float, jackknife: np.ndarray, stratum: np.ndarray, drawn: np.ndarray, freedom: int) -> np.ndarray:
    """Bias-corrected and accelerated 95 % interval; several samples as in Davison and Hinkley 1997, section 5.3.2.

    Few runs resampled spread too little by the root of freedom / runs, and their spread is itself unsure: the normal quantile
    gives way to that of t over this root (Hesterberg, The American Statistician 69, 2015, 371-386, section 3.3).
    """
    below = ((drawn < value).sum() + 0.5 * (drawn == value).sum()) / len(drawn)
    bias = ndtri(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    cubes = squares = 0.0
    for each in np.unique(stratum):
        mine = jackknife[stratum == each]
        if np.isfinite(mine).all():
            influence = mine.mean() - mine
            cubes, squares = cubes + float((influence**3).sum()), squares + float((influence**2).sum())
    acceleration = cubes / (6 * squares**1.5) if squares else 0.0
    shift = bias + np.array([-1, 1]) * stdtrit(freedom, 1 - TAIL) * np.sqrt(len(jackknife) / freedom)
    return np.quantile(drawn, ndtr(bias + shift / (1 - acceleration * shift)), method="inverted_cdf")

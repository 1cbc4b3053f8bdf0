"""One number over many tasks: interquartile means, probability of improvement, performance profiles, each with its interval.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264: few runs on each of
several tasks, normalised, resampled within each task. Scores are (score - chance) / (1 - chance), so only what counts right
answers is aggregated. Nothing depends on the order of tasks or runs; every draw comes from a generator of its own.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportOperatorIssue=false
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr

from lab.analysis.labels import SHARES, labelled, several
from lab.analysis.statistics import FEWEST, LEVEL, Reading, holm

REPLICATES = 2000
EXACT = 20
"""Pairs up to which every pattern of signs is counted."""
TAIL = (1 - LEVEL) / 2


def normalised(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of tasks scored by a share of right answers, labelled, with `normalised`: 0 is chance, 1 is all right.

    A run that diverged learnt nothing that lasted: 0. One that failed (its process did) has none: NaN.
    """
    frame = labelled(frame)
    by_column = frame.groupby("column")
    chance = by_column["chance"].transform("first").astype("float64")
    some = by_column["metric"].transform("max").isin(SHARES) & (chance < 1)
    score = ((frame["score"].astype("float64") - chance) / (1 - chance)).mask(frame["status"] == "diverged", 0.0)
    return frame.assign(normalised=score)[some]


def interquartile_mean(scores: ArrayLike, axis: int = -1) -> np.ndarray:
    """Mean without the lowest and the highest quarter, rounded down, along an axis: `scipy.stats.trim_mean(scores, 0.25)`."""
    ordered = np.sort(np.moveaxis(np.asarray(scores, float), axis, -1), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(-1))


def stratified_bootstrap(
    scores_by_task: Mapping[str, ArrayLike],
    statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Reading:
    """A statistic of all runs of all tasks together, with its 95 % percentile interval.

    scores_by_task: for each task the scores of its runs, which are drawn anew within the task. statistic: of the last axis. No
    interval, and the reason, where a task has fewer than 3 runs.
    """
    strata, reason = _strata(scores_by_task)
    value = float(statistic(np.concatenate(strata)))
    drawn = statistic(np.concatenate(_drawn(strata, replicates, np.random.default_rng(seed)), axis=-1))
    return Reading(value, reason=reason) if reason else Reading(value, np.quantile(drawn, [TAIL, 1 - TAIL]))


def probability_of_improvement(
    a: Mapping[str, ArrayLike], b: Mapping[str, ArrayLike], replicates: int = REPLICATES, seed: int = 0
) -> Reading:
    """P(a run of a scores above one of b), equals counted half, averaged over the tasks that both have; 95 % interval.

    For each task it is the Mann-Whitney U of a over the number of pairs.

    Raises:
        ValueError: they share no task.
    """
    shared = sorted(set(a) & set(b))
    if not shared:
        raise ValueError("no task that both have")
    (ours, why), (theirs, why_not) = (_strata({task: each[task] for task in shared}) for each in (a, b))
    once = [[np.ones((1, len(scores))) for scores in strata] for strata in (ours, theirs)]
    value = float(np.mean([_above(*each) for each in zip(ours, theirs, *once, strict=True)]))
    if reason := why or why_not:
        return Reading(value, reason=reason)
    times = _times((*map(len, ours), *map(len, theirs)), replicates, seed)
    drawn = [_above(*each) for each in zip(ours, theirs, times[: len(ours)], times[len(ours) :], strict=True)]
    return Reading(value, np.quantile(np.mean(drawn, axis=0), [TAIL, 1 - TAIL]))


def performance_profile(
    scores_by_task: Mapping[str, ArrayLike],
    thresholds: ArrayLike | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The share of (run, task) that score above each threshold (0 to 1 by hundredths), with its pointwise 95 % band.

    Columns: threshold, share, low, high; NaN for low and high where a task has fewer than 3 runs.
    """
    at = np.linspace(0, 1, 101) if thresholds is None else np.asarray(thresholds, float)
    strata, reason = _strata(scores_by_task)
    every, times = np.concatenate(strata), np.concatenate(_times((*map(len, strata),), replicates, seed), axis=-1)
    above = every > at[:, None]
    band = np.quantile(times @ above.T.astype(float) / len(every), [TAIL, 1 - TAIL], axis=0).T
    band = np.full_like(band, np.nan) if reason else band
    return pd.DataFrame({"threshold": at, "share": above.mean(1), "low": band[:, 0], "high": band[:, 1]})


def wilson(solved: int, runs: int) -> Reading:
    """The share of runs that solved a task, with Wilson's 95 % interval: Wilson 1927, JASA 22, 209-212.

    Raises:
        ValueError: there are no runs, or more solved than there are.
    """
    if not 0 <= solved <= runs or not runs:
        raise ValueError(f"{solved} of {runs} runs solved")
    z2, share = float(ndtri(1 - TAIL)) ** 2, solved / runs
    centre = (share + z2 / (2 * runs)) / (1 + z2 / runs)
    half = np.sqrt(z2 * (share * (1 - share) / runs + z2 / (4 * runs**2))) / (1 + z2 / runs)
    return Reading(share, (min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))))


def sign_flip(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of paired values: the share of all patterns of signs of a - b with a mean as far from 0, or farther.

    Exact up to 20 pairs, so no less than 2^(1-n) for n of them; beyond, the paired t-test, which it comes to. Pairs with
    a missing value are left out; without any p is NaN. Fisher, The Design of Experiments, 1935, section 21.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    size = np.sort(np.abs(difference[~np.isnan(difference)]))
    total, count = abs(float(np.nansum(difference))), len(size)
    if not count:
        return np.nan
    if count > EXACT:
        known = difference[~np.isnan(difference)]
        return float(2 * stdtr(count - 1, -total / np.sqrt(count * known.var(ddof=1))))
    sums = size[:1]  # the first sign is free: the other half is the mirror image
    for each in size[1:]:
        sums = np.concatenate([sums + each, sums - each])
    return float((np.abs(sums) >= total - 1e-9 * size.sum()).mean())


def aggregate_verdict(table: pd.DataFrame) -> str:
    """What the rows of one budget of `aggregates` say: who leads, and who cannot be told apart from it."""
    order, apart = list(table["row"]), dict(zip(table["row"], table["apart"], strict=True))
    level = [row for row in order[1:] if not apart[row]]
    behind = [row for row in order[1:] if apart[row]]
    if not level:
        return f"{order[0]} leads over all {table['tasks'].iloc[0]} tasks together"
    said = f"{several([order[0], *level])} cannot be told apart over {table['tasks'].iloc[0]} tasks together"
    return said + (f"; {several(behind)} {'are' if len(behind) > 1 else 'is'} behind {order[0]}" if behind else "")


def aggregates(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A row an architecture that ran all of two or more tasks scored by a share of right answers, for each budget; best first.

    tasks, runs; iqm of the normalised scores with low and high; and of the best against it: `improvement` (the probability
    of) with improvement_low and improvement_high, `p_holm` of the sign-flip test over pairs of equal task and seed, and `apart`:
    whether that is below 0.05. Without rows where there is nothing to aggregate.
    """
    names = ["budget", "row", "tasks", "runs", "iqm", "low", "high"]
    names += ["improvement", "improvement_low", "improvement_high", "p_holm", "apart"]
    found = []
    for budget, part in normalised(frame).dropna(subset="normalised").groupby("budget"):
        wide = part.pivot_table(index=["column", "seed"], columns="row", values="normalised")
        tasks = set(part["column"])
        whole = [row for row in wide if set(wide[row].dropna().index.get_level_values("column")) == tasks]
        if len(tasks) < 2 or len(whole) < 2:
            continue
        scores = {row: _by_task(part[part["row"] == row]) for row in whole}
        iqm = {row: stratified_bootstrap(scores[row], seed=seed) for row in whole}
        order = sorted(whole, key=lambda row: (-float(iqm[row]), row))
        best, rest = order[0], order[1:]
        p = dict(zip(rest, holm(np.array([sign_flip(wide[best], wide[row]) for row in rest])), strict=True))
        for row in order:
            made = {"budget": budget, "row": row, "tasks": len(tasks), "runs": sum(map(len, scores[row].values()))}
            made |= {"iqm": float(iqm[row]), "low": iqm[row].low, "high": iqm[row].high}
            if row != best:
                above = probability_of_improvement(scores[best], scores[row], seed=seed)
                made |= {"improvement": float(above), "improvement_low": above.low, "improvement_high": above.high}
            found.append(made | {"p_holm": p.get(row, np.nan), "apart": bool(p.get(row, 1.0) < 1 - LEVEL)})
    return pd.DataFrame(found, columns=names)


def _by_task(part: pd.DataFrame) -> dict[str, np.ndarray]:
    return {str(column): values.to_numpy() for column, values in part.groupby("column")["normalised"]}


def _strata(scores_by_task: Mapping[str, ArrayLike]) -> tuple[list[np.ndarray], str]:
    """The runs of each task in an order of their own, so that no other order matters; and why they have no interval, if so."""
    runs = {task: np.sort(np.asarray(scores, float).ravel()) for task, scores in scores_by_task.items()}
    if not runs or any(not len(scores) or np.isnan(scores).any() for scores in runs.values()):
        raise ValueError("a task without runs, or a run without a score")
    few = sorted(task for task, scores in runs.items() if len(scores) < FEWEST)
    reason = f"{', '.join(few)}: fewer than {FEWEST} runs" if few else ""
    return [runs[task] for task in sorted(runs)], reason


def _drawn(strata: list[np.ndarray], replicates: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Each stratum resampled: (replicates, runs)."""
    return [scores[rng.integers(len(scores), size=(replicates, len(scores)))] for scores in strata]


@lru_cache(maxsize=1)
def _times(sizes: tuple[int, ...], replicates: int, seed: int) -> list[np.ndarray]:
    """How often each run of a stratum is drawn when that is resampled: (replicates, runs); kept, as most comparisons have as
    many runs as the one before.
    """
    rng, first = np.random.default_rng(seed), np.arange(replicates)[:, None]
    return [
        np.bincount((first * n + rng.integers(n, size=(replicates, n))).ravel(), minlength=replicates * n).reshape(-1, n)
        for n in sizes
    ]


def _above(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """Share of the pairs in which x is above y, equals counted half, where runs occur so often: ordered x and y, (n) and (m);
    of_x (replicates, n), of_y (replicates, m) -> (replicates).
    """
    below = np.pad(of_y.cumsum(1), ((0, 0), (1, 0)))  # how many draws of y are among its first 0 to m runs
    passed = below[:, np.searchsorted(y, x, "left")] + below[:, np.searchsorted(y, x, "right")]
    return (of_x * passed).sum(1) / (2 * of_x.sum(1) * of_y.sum(1))

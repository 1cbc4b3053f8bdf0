"""Compute-optimal frontiers from iso-FLOP sweeps, and the compute multiplier between two of them.

At each budget a parabola in ln params through ln loss, within a factor of 4 of the best size, gives the loss at the optimal size
(Hoffmann et al., arXiv:2203.15556, approach 2). Where the vertex is at the edge of the sizes or beyond, the budget is censored:
the least loss that was measured only bounds the frontier from above. Between budgets ln flops is interpolated monotonically
(PCHIP, Fritsch and Carlson 1980) as a function of ln loss: no asymptote is fitted and nothing is extrapolated.

Runs that `restate` counted in another way share a budget but not its FLOPs. A run's loss is then moved to the cost that its
budget has at the optimal size, along the slope of the frontier there: what more compute is worth at the optimal size is what it
is worth on the frontier. So the parabola is again one of equal cost, and its optimum that of the convention.

The multiplier of a over b is M(loss) = flops that b needs / flops that a needs; above 1, a needs less. Intervals are percentiles
over replicates that redo the whole path, with half-widths times `WIDENING`. Frontiers that share no losses still bound it: where
a's loss at a budget lies below b's at one that is k times as large, M is above k.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import chdtrc, ndtri, stdtr

from lab.analysis.statistics import LEVEL, Reading

WINDOW = np.log(4)
"""The parabola sees sizes this near the best one, in ln params: within it the loss at the vertex is off by less than 0.5 % of
compute, at +-16 by up to 14 %."""
WIDENING = 1.1
"""Percentile intervals of this path cover 92 to 95 % where 95 % are meant, 96 to 98 % with half-widths times 1.15, by simulation
with 1 to 3 seeds; the slow test of coverage checks the value between.
"""
GRID = 33
"""Losses at which a multiplier's curve is given."""
DEFINED = 0.95
"""Share of the replicates that must reach a loss for the multiplier to be given there."""
FEWEST_SIZES = 4
SAME_BUDGET = 1.05
"""Runs of one budget agree in FLOPs to this factor."""
BELOW = 0.95
"""Of the least loss of a budget: restated runs whose optimum is below this do not say what it is. The best run moves little."""
TURNS = 3
"""After which the cost of a restated optimum moves by less than 0.2 %."""
_PURE = 6  # degrees of freedom from which on the noise is taken from seeds alone

Method = Literal["quadratic", "akima"]


@dataclass(frozen=True)
class Frontier:
    """Lowest loss for each budget.

    points: a row a budget, ascending: flops; runs; sizes; params, tokens and loss at the optimal size, each with `_low` and
    `_high`, where censored at the best size that was measured, of which only `loss_high` is known; vertex, at which ln loss is
    least on the parabola: ln loss = least + bend (ln params - vertex)^2; se of least; status (`ok`, else censored: `edge`,
    `no minimum`, `too few sizes`); beyond: on which side a size is missing; cubic_p: of the test for a cubic term; akima_loss:
    the least value of an Akima spline; stable: share of the replicates that are ok; note.
    params_exponent, tokens_exponent: slopes of ln params and ln tokens against ln flops over budgets that are not censored.
    log_loss, log_params: replicates x budgets, NaN where censored.
    """

    points: pd.DataFrame
    params_exponent: Reading
    tokens_exponent: Reading
    notes: list[str]
    log_loss: np.ndarray = field(repr=False)
    log_params: np.ndarray = field(repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """Least and greatest loss at budgets that are not censored; NaN without any."""
        reached = self.points.loc[self.points["status"] == "ok", "loss"]
        return float(reached.min()), float(reached.max())

    def flops_at(self, loss: float) -> Reading:
        """Training FLOPs that reach a loss, with interval; outside the range NaN with the reason."""
        points = np.log(np.where(self.points["status"] == "ok", self.points["loss"], np.nan))
        at, flops = np.log([loss]), np.log(self.points["flops"].to_numpy())
        value = _inverse(points[None], flops, at)[0, 0]
        if np.isnan(value):
            return Reading(reason=_unreached("it", self, loss))
        drawn = _inverse(self.log_loss, flops, at)[:, 0]
        if np.isfinite(drawn).mean() < DEFINED:
            return Reading(reason=f"fewer than {DEFINED:.0%} of the replicates reach loss {loss:.4g}")
        return Reading(np.exp(value), np.exp(_percentiles(value, drawn)))


@dataclass(frozen=True)
class Multiplier:
    """M(loss) = flops of b / flops of a at equal loss, only where it is valid.

    curve: a row a loss, descending: loss; flops_a, flops_b; multiplier; low, high: pointwise; band_low, band_high: simultaneous;
    defined: share of the replicates; valid; reason. interval, flops: least and greatest valid loss, and b's FLOPs there; NaN if
    none. slope: d ln M / d ln flops of b. scaling: `a constant factor`, `scale-dependent`, or why that cannot be told. verdict:
    who needs less. reason: why there is no multiplier at all. names: what sentences call a and b.
    """

    curve: pd.DataFrame
    interval: tuple[float, float]
    flops: tuple[float, float]
    slope: Reading
    scaling: str
    verdict: str
    reason: str
    a: Frontier = field(repr=False)
    b: Frontier = field(repr=False)
    names: tuple[str, str] = ("a", "b")
    _critical: float = field(default=np.nan, repr=False)

    def at(self, loss: float) -> Reading:
        """M at a loss with its intervals; outside the validity interval NaN with the reason."""
        low, high = self.interval
        if not low * (1 - 1e-9) <= loss <= high * (1 + 1e-9):  # the ends came through a logarithm
            beyond = [_unreached(name, front, loss) for name, front in zip(self.names, (self.a, self.b), strict=True)]
            found = "; ".join(filter(None, [self.reason, *beyond]))
            return Reading(
                reason=found or f"loss {loss:.4g} is outside {low:.4g} to {high:.4g}, where {DEFINED:.0%} of replicates agree"
            )
        value, drawn = _log_multiplier(self.a, self.b, np.log([np.clip(loss, low, high)]))
        interval, band = _intervals(value, drawn, self._critical)
        return Reading(np.exp(value[0]), np.exp(interval[0]), np.exp(band[0]))

    @property
    def middle(self) -> Reading:
        """M in the middle of b's FLOPs (geometric); where there is none NaN with the reason, and as interval what bounds it.

        Frontiers that share no losses bound it, where each budget of one has a lower loss than each of the other, beyond their
        intervals, and some with fewer FLOPs; a censored budget may be of the better one, as its loss is lower still.
        """
        if not self.reason:
            return self.at(float(self.summary["loss"].iloc[1]))
        saved = _at_least(self.a, self.b)
        if saved > 1:
            return Reading(interval=(saved, np.inf), reason=self.reason)
        needed = _at_least(self.b, self.a)
        return Reading(interval=(0, 1 / needed) if needed > 1 else (np.nan, np.nan), reason=self.reason)

    @property
    def summary(self) -> pd.DataFrame:
        """Rows of the curve at the greatest valid loss, the middle of b's FLOPs (geometric) and the least valid loss, if any."""
        valid = self.curve[self.curve["valid"]]
        if valid.empty:
            return valid
        middle = np.argmin(np.abs(np.log(valid["flops_b"]) - np.log(self.flops).mean()))
        return valid.iloc[[0, int(middle), len(valid) - 1]]

    def __str__(self) -> str:
        if self.reason:
            return f"no multiplier: {self.middle}"
        read = ", ".join(f"{self.at(loss)} at loss {loss:.3g}" for loss in self.summary["loss"])
        where = f"losses {self.interval[0]:.3g} to {self.interval[1]:.3g}, {self.flops[0]:.2g} to {self.flops[1]:.2g} FLOPs"
        a, b = self.names
        return f"FLOPs of {b} / FLOPs of {a}: {read} (valid for {where}); {self.scaling}, slope {self.slope}; {self.verdict}"


def frontier(runs: pd.DataFrame, method: Method = "quadratic", replicates: int = 1000, seed: int = 0) -> Frontier:
    """The frontier of one set-up from its runs: columns flops, params, loss, and where there are any, tokens, seed, budget,
    status, convention.

    Runs that did not finish or whose loss is not a number have no part in it. method `akima` takes the least value of an Akima
    spline over all sizes instead of the parabola, censored only at the outermost sizes (Porian et al., arXiv:2406.19146).
    seed: of the bootstrap.
    """
    return _fitted(_sweep(runs, "runs"), method, replicates, np.random.default_rng(seed))


def multiplier(
    a: pd.DataFrame,
    b: pd.DataFrame,
    method: Method = "quadratic",
    replicates: int = 1000,
    seed: int = 0,
    names: tuple[str, str] = ("a", "b"),
) -> Multiplier:
    """How many times the FLOPs of `a` `b` needs for equal loss, from the runs of both as for `frontier`. names: for sentences."""
    if _convention(a, names[0]) != _convention(b, names[1]):
        ways = [f"{name} counts FLOPs as {_convention(runs, name)}" for name, runs in zip(names, (a, b), strict=True)]
        raise ValueError(f"{', '.join(ways)}: restate one of them")
    streams = np.random.default_rng(seed).spawn(2)
    front_a, front_b = (
        _fitted(_sweep(runs, name), method, replicates, rng) for runs, name, rng in zip((a, b), names, streams, strict=True)
    )
    (low_a, high_a), (low_b, high_b) = front_a.interval, front_b.interval
    for name, front in zip(names, (front_a, front_b), strict=True):
        if refusal := _refusal(front):
            return _refused(f"{name} {refusal}", front_a, front_b, names)
    low, high = max(low_a, low_b), min(high_a, high_b)
    if not low < high:
        told = f"{names[0]} from {low_a:.4g} to {high_a:.4g}, {names[1]} from {low_b:.4g} to {high_b:.4g}"
        return _refused(f"the frontiers share no losses: {told}", front_a, front_b, names)

    loss = np.geomspace(high, low, GRID)
    loss[[0, -1]] = high, low
    at = np.log(loss)
    value, drawn = _log_multiplier(front_a, front_b, at)
    defined = np.isfinite(drawn).mean(0)
    valid = _longest((defined >= DEFINED) & np.isfinite(value))
    if valid.sum() < 3:
        reason = f"fewer than {DEFINED:.0%} of the replicates define both frontiers where they overlap"
        return _refused(reason, front_a, front_b, names)
    critical = _critical(value[valid], drawn[:, valid])
    intervals, bands = _intervals(value, drawn, critical)
    log_a, log_b = (_inverse(_log_points(f), np.log(f.points["flops"].to_numpy()), at)[0] for f in (front_a, front_b))
    curve = pd.DataFrame({"loss": loss, "flops_a": np.exp(log_a), "flops_b": np.exp(log_b), "multiplier": np.exp(value)})
    curve[["low", "high"]], curve[["band_low", "band_high"]] = np.exp(intervals), np.exp(bands)
    curve["defined"], curve["valid"] = defined, valid
    curve["reason"] = np.where(valid, "", f"fewer than {DEFINED:.0%} of the replicates define both frontiers here")
    curve.loc[~valid, ["multiplier", "low", "high", "band_low", "band_high"]] = np.nan

    slope = _slope(log_b[valid], value[valid], drawn[:, valid])
    scaling = "a constant factor" if slope.low <= 0 <= slope.high else "scale-dependent"
    inside = loss[valid]
    interval, flops = (float(inside[-1]), float(inside[0])), (float(np.exp(log_b[valid][0])), float(np.exp(log_b[valid][-1])))
    verdict = _verdict(curve[valid], *names)
    return Multiplier(curve, interval, flops, slope, scaling, verdict, "", front_a, front_b, names, critical)


@dataclass(frozen=True)
class _Budget:
    """Runs of one budget: per size, ascending, ln params, mean ln loss, ln tokens; per run the index of its size, its ln loss.

    cost: of every run, ln of its FLOPs over those of the budget.
    """

    flops: float
    x: np.ndarray
    y: np.ndarray
    tokens: np.ndarray
    count: np.ndarray
    which: np.ndarray
    each: np.ndarray
    cost: np.ndarray

    def at_cost(self, flops: float, slope: float) -> "_Budget":
        """As if every run had used `flops`, where ln loss falls with ln FLOPs by `slope`."""
        each = self.each + slope * (np.log(flops / self.flops) - self.cost)
        mean = np.bincount(self.which, each) / self.count
        return replace(self, flops=flops, y=mean, each=each, cost=np.zeros_like(each))


def same_budget(flops: pd.Series) -> np.ndarray:
    """For each run the number of its budget: FLOPs in which there is no gap of more than `SAME_BUDGET`."""
    order = np.argsort(flops.to_numpy(), kind="stable")
    number = np.empty(len(flops), int)
    number[order] = np.cumsum(np.diff(np.log(flops.to_numpy()[order]), prepend=-np.inf) > np.log(SAME_BUDGET))
    return number


def _sweep(runs: pd.DataFrame, name: str) -> list[_Budget]:
    missing = {"flops", "params", "loss"} - set(runs.columns)
    if missing:
        raise ValueError(f"{name} lack the columns {', '.join(sorted(missing))}")
    for column in ("architecture", "arch", "task"):
        if column in runs and runs[column].nunique() > 1:
            raise ValueError(
                f"{name} hold several values of {column}, a frontier is of one: {', '.join(map(str, runs[column].unique()))}"
            )
    known = runs[runs["status"] == "done"] if "status" in runs else runs
    known = known[np.isfinite(known["loss"]) & (known["loss"] > 0)]
    if known.empty:
        raise ValueError(f"{name} hold no run with a loss")
    known = known.assign(tokens=known.get("tokens", np.nan)).sort_values(["flops", "params", "loss"])
    group = known["budget"].to_numpy() if "budget" in known else same_budget(known["flops"])
    restated = _convention(runs, name) != "headline"
    found = []
    for label, part in known.groupby(group):
        least, most = part["flops"].min(), part["flops"].max()
        if most > SAME_BUDGET * least and not restated:
            raise ValueError(f"{name} of one budget ({label:g}) used {least:.4g} to {most:.4g} FLOPs: not an iso-FLOP sweep")
        sizes, which = np.unique(part["params"].to_numpy(float), return_inverse=True)
        count = np.bincount(which)
        each = np.log(part["loss"].to_numpy(float))
        mean = [np.bincount(which, values) / count for values in (each, np.log(part["tokens"].to_numpy(float)))]
        spent = np.log(part["flops"].to_numpy(float))
        flops = float(np.exp(spent.mean()))
        found.append(_Budget(flops, np.log(sizes), mean[0], mean[1], count, which, each, spent - spent.mean()))
    return _levelled(found, name) if restated else sorted(found, key=lambda budget: budget.flops)


def _convention(runs: pd.DataFrame, name: str) -> str:
    """How the FLOPs of these runs are counted."""
    named = runs["convention"].unique() if "convention" in runs else ["headline"]
    if len(named) > 1:
        raise ValueError(f"{name} hold several values of convention: {', '.join(map(str, named))}")
    return str(named[0])


def _levelled(sweep: list[_Budget], name: str) -> list[_Budget]:
    """Each budget at the cost of its optimal size, or where none is optimal of its best one.

    Which size is optimal depends on the slope by which losses are moved, and the slope on where the optima are: found in turns.
    """
    levelled, slope = sweep, np.zeros(len(sweep))
    for _ in range(TURNS):
        least, at = np.full(len(sweep), np.nan), np.empty(len(sweep))
        for k, (budget, moved) in enumerate(zip(sweep, levelled, strict=True)):
            x, y, _, status, _ = _optimum(moved.x, moved.y[None], moved.count, 0.0, "quadratic")
            inside = status[0] == "ok"
            cost = np.bincount(budget.which, budget.cost) / budget.count
            at[k] = np.log(budget.flops) + np.interp(x[0] if inside else moved.x[np.argmin(moved.y)], budget.x, cost)
            least[k] = y[0] if inside else np.nan
        if not (np.diff(at) > 0).all():
            raise ValueError(f"{name} of a larger budget cost no more in this convention: there is no frontier over it")
        known = np.isfinite(least)
        if known.sum() > 1:
            slope = np.interp(at, at[known], np.gradient(least[known], at[known]))
        levelled = [budget.at_cost(float(np.exp(to)), down) for budget, to, down in zip(sweep, at, slope, strict=True)]
    for budget, moved in zip(sweep, levelled, strict=True):
        _, y, _, status, _ = _optimum(moved.x, moved.y[None], moved.count, 0.0, "quadratic")
        if status[0] == "ok" and y[0] < np.log(BELOW) + budget.y.min():
            raise ValueError(
                f"{name} of one budget cost so different amounts in this convention that no run comes near an optimum"
            )
    return levelled


def _fitted(sweep: list[_Budget], method: Method, replicates: int, rng: np.random.Generator) -> Frontier:
    """Points of the frontier, and the same path for every replicate."""
    if method not in ("quadratic", "akima"):
        raise ValueError(f"method is {method}; there are quadratic, akima")
    sigma, pools, centres, notes = _noise(sweep)
    rows, losses, sizes = [], [], []
    for budget, pool, centre, scale in zip(sweep, pools, centres, sigma, strict=True):
        drawn = _replicates(budget, pool, centre, replicates, rng)
        vertex, least, bend, status, beyond = (
            each[0] for each in _optimum(budget.x, budget.y[None], budget.count, scale, method)
        )
        x_drawn, y_drawn, _, status_drawn, _ = _optimum(budget.x, drawn, budget.count, scale, method)
        ok = status_drawn == "ok"
        losses.append(np.where(ok, y_drawn, np.nan))
        sizes.append(np.where(ok, x_drawn, np.nan))
        rows.append(_point(budget, vertex, least, bend, status, beyond, losses[-1], scale))
    points = pd.DataFrame(rows)
    log_loss, log_params = np.stack(losses, axis=1), np.stack(sizes, axis=1)
    flops = np.log(points["flops"].to_numpy())
    ok = (points["status"] == "ok").to_numpy()
    log_tokens = np.stack([np.interp(log_params[:, k], b.x, b.tokens) for k, b in enumerate(sweep)], axis=1)
    for name, drawn in (("params", log_params), ("tokens", log_tokens)):
        ends = np.full((len(points), 2), np.nan)
        ends[ok] = np.exp(_percentiles(np.log(points.loc[ok, name].to_numpy()), drawn[:, ok]))
        points[[f"{name}_low", f"{name}_high"]] = ends
    exponents = [
        _exponent(flops[ok], np.log(points.loc[ok, name].to_numpy()), drawn[:, ok])
        for name, drawn in (("params", log_params), ("tokens", log_tokens))
    ]
    for found in points.loc[points["note"] != ""].itertuples():
        notes.append(f"{found.flops:.3g} FLOPs: {found.note}")
    if ok.sum() < 4:
        notes.append(f"{ok.sum()} budgets have an optimum inside their sizes; 4 or more are needed to see a curve")
    return Frontier(points, exponents[0], exponents[1], notes, log_loss, log_params)


def _noise(sweep: list[_Budget]) -> tuple[np.ndarray, list[list[np.ndarray]], list[np.ndarray], list[str]]:
    """For each budget the standard deviation of one run's ln loss; for each size the deviations to draw; what to add them to;
    notes.

    Seeds of one size give it where they are many enough: own deviations from 4 seeds on, else those of all sizes. Otherwise
    residuals of a cubic in ln params, with either sign (wild bootstrap), as if runs had them. Budgets share one variance unless
    they differ.
    """
    pure = [_deviations(budget) for budget in sweep]
    spare = np.array([(budget.count - 1).sum() for budget in sweep])
    centres, residuals = (
        [budget.y for budget in sweep],
        [np.concatenate([own for own in cells if len(own) > 1] or [[]]) for cells in pure],
    )
    seeded = bool(spare.sum() >= _PURE)
    if not seeded:
        found = [_smooth(budget) for budget in sweep]
        centres, residuals, spare = [f[0] for f in found], [f[1] for f in found], np.array([f[2] for f in found])
    if spare.sum() < 3:
        note = "too few runs to know the noise: no intervals; add seeds or sizes"
        return np.zeros(len(sweep)), [[np.array([np.nan])] * len(b.x) for b in sweep], [b.y for b in sweep], [note]
    sigma = _scales(
        np.array([(values**2).sum() for values in residuals]), spare, np.array([len(values) for values in residuals]), seeded
    )
    usual = np.concatenate([values / scale for values, scale in zip(residuals, sigma, strict=True) if scale > 0] or [np.zeros(1)])
    usual /= max(np.sqrt(np.mean(usual**2)), 1e-300)
    both = np.concatenate([usual, -usual])
    pools = [
        [own if seeded and len(own) >= 4 else both * scale for own in cells] for cells, scale in zip(pure, sigma, strict=True)
    ]
    return sigma, pools, centres, []


def _scales(squares: np.ndarray, spare: np.ndarray, count: np.ndarray, scaled: bool) -> np.ndarray:
    """Standard deviation of each budget from its sum of squares: one for all, or each its own where Bartlett's test tells
    variances apart (p < 0.01). scaled: whether the squares, `count` of them, have the variance already.
    """
    squares = squares * np.where(scaled, spare / np.maximum(count, 1), 1)
    shared = squares.sum() / spare.sum()
    known = (spare > 1) & (squares > 0)
    if known.sum() > 1:
        own, free = squares[known] / spare[known], spare[known]
        together = (own * free).sum() / free.sum()
        correction = 1 + ((1 / free).sum() - 1 / free.sum()) / (3 * (len(free) - 1))
        statistic = (free.sum() * np.log(together) - (free * np.log(own)).sum()) / correction
        if chdtrc(len(free) - 1, statistic) < 0.01:
            return np.sqrt(np.where(known, squares / np.maximum(spare, 1), shared))
    return np.full(len(squares), np.sqrt(shared))


def _deviations(budget: _Budget) -> list[np.ndarray]:
    """Of every size its runs' ln loss from their mean, scaled to the variance of one run; 0 of a single run."""
    count = budget.count[budget.which]
    scaled = (budget.each - budget.y[budget.which]) * np.sqrt(count / np.maximum(count - 1, 1))
    return [scaled[budget.which == size] for size in range(len(budget.x))]


def _smooth(budget: _Budget) -> tuple[np.ndarray, np.ndarray, int]:
    """Per size the cubic through those within a factor of 4 of the best, as measured beyond; its residuals; those to spare."""
    best = budget.x[np.argmin(budget.y)]
    near = np.abs(budget.x - best) <= WINDOW + 1e-9
    if near.sum() < 6:
        near[:] = True
    degree = min(3, int(near.sum()) - 2)
    if degree < 2:
        return budget.y, np.zeros(0), 0
    weight = np.sqrt(budget.count[near])
    x = budget.x[near] - best
    design = np.vander(x, degree + 1) * weight[:, None]
    coefficients = np.linalg.lstsq(design, budget.y[near] * weight, rcond=None)[0]
    made = budget.y.copy()
    made[near] = np.polyval(coefficients, x)
    return made, (budget.y - made)[near] * weight, int(near.sum()) - degree - 1


def _replicates(
    budget: _Budget, pools: list[np.ndarray], centre: np.ndarray, replicates: int, rng: np.random.Generator
) -> np.ndarray:
    """Mean ln loss of every size as redrawn, replicates x sizes."""
    drawn = [
        pool[rng.integers(len(pool), size=(replicates, count))].mean(1) for pool, count in zip(pools, budget.count, strict=True)
    ]
    return centre + np.stack(drawn, axis=1)


def _optimum(
    x: np.ndarray, y: np.ndarray, count: np.ndarray, sigma: float, method: Method
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each row of y (rows x sizes): ln params and ln loss at the optimum, the parabola's bend, the status of the optimum, and
    where a size is missing.
    """
    rows = len(y)
    if len(x) < FEWEST_SIZES or not np.isfinite(y).all():
        nothing = np.full(rows, np.nan)
        return nothing, nothing, nothing, np.full(rows, "too few sizes", object), np.full(rows, "", object)
    if method == "akima":
        best, least = _akima(x, y)
        first, last = x[0] + 1e-9, x[-1] - 1e-9
        curved, bend = np.ones(rows, bool), np.full(rows, np.nan)
    else:
        best, least, bend = _parabola(x, y, count, sigma)
        curved = np.isfinite(bend)
        first, last = x[1], x[-2]
    beyond = np.where(best < first, "smaller", np.where(best > last, "larger", ""))
    status = np.where(~curved, "no minimum", np.where(beyond != "", "edge", "ok"))
    return best, least, bend, status.astype(object), np.where(curved, beyond, "").astype(object)


def _windows(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the distance of every size from the best, and which sizes are near enough; all where these are too few."""
    distance = x - x[np.argmin(y, axis=1)][:, None]
    near = np.abs(distance) <= WINDOW + 1e-9
    return distance, near | (near.sum(1, keepdims=True) < FEWEST_SIZES)


def _parabola(x: np.ndarray, y: np.ndarray, count: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertex of each row's weighted parabola with Huber's weights beyond 2 sigma, and its bend; NaN where it opens downwards."""
    distance, near = _windows(x, y)
    powers = distance[:, :, None] ** np.arange(3)
    weight = near * count
    coefficients = _least_squares(powers, y, weight)
    for _ in range(5 if sigma > 0 else 0):
        off = np.abs(y - np.einsum("rsp,rp->rs", powers, coefficients)) * np.sqrt(count)
        coefficients = _least_squares(powers, y, weight * np.minimum(1, 2 * sigma / np.maximum(off, 1e-300)))
    c0, c1, c2 = coefficients.T
    bend = np.where(c2 > 0, c2, np.nan)
    return x[np.argmin(y, axis=1)] - c1 / (2 * bend), c0 - c1**2 / (4 * bend), bend


def _least_squares(powers: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    weighted = powers * weight[:, :, None]
    gram = np.einsum("rsp,rsq->rpq", weighted, powers)
    return np.linalg.solve(gram, np.einsum("rsp,rs->rp", weighted, y)[:, :, None])[:, :, 0]


def _akima(x: np.ndarray, y: np.ndarray, fine: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    from scipy.interpolate import Akima1DInterpolator  # takes a quarter of a second that no other analysis needs

    grid = np.linspace(x[0], x[-1], fine)
    values = Akima1DInterpolator(x, y, axis=1)(grid)
    least = np.argmin(values, axis=1)
    return grid[least], values[np.arange(len(y)), least]


def _point(
    budget: _Budget, vertex: float, least: float, bend: float, status: str, beyond: str, drawn: np.ndarray, sigma: float
) -> dict[str, float | int | str]:
    """A row of `Frontier.points`."""
    best = int(np.argmin(budget.y))
    x, y = (vertex, least) if status == "ok" else (budget.x[best], budget.y[best])
    around = ndtri((1 + LEVEL) / 2) * WIDENING * sigma / np.sqrt(budget.count[best]) if sigma > 0 else np.nan
    low, high = _percentiles(y, drawn) if status == "ok" else (np.nan, y + around if status == "edge" else np.nan)
    finite = drawn[np.isfinite(drawn)]
    se = float(finite.std(ddof=1)) if len(finite) > 1 else np.nan
    spline = float(_akima(budget.x, budget.y[None])[1][0]) if len(budget.x) >= FEWEST_SIZES else np.nan
    cubic = _cubic_test(budget, sigma)
    notes = []
    if status == "edge":
        notes.append(f"the optimum lies at the edge of the sizes: add a {beyond} one; the least measured loss is an upper bound")
    elif status != "ok":
        notes.append(f"{status}: no optimum")
    elif abs(spline - y) > 3 * se:
        notes.append(f"an Akima spline finds loss {np.exp(spline):.4g} against {np.exp(y):.4g}")
    if status == "ok" and np.abs(budget.x - x).max() > WINDOW and (np.abs(budget.x - x) <= WINDOW).sum() < FEWEST_SIZES:
        notes.append("fewer than 4 sizes lie within a factor of 4 of the optimum: the parabola is biased")
    if cubic < 0.01:
        notes.append(f"a cubic term is significant (p = {cubic:.2g})")
    return {
        "flops": budget.flops,
        "runs": len(budget.each),
        "sizes": len(budget.x),
        "params": float(np.exp(x)),
        "tokens": float(np.exp(np.interp(x, budget.x, budget.tokens))),
        "loss": float(np.exp(y)),
        "loss_low": float(np.exp(low)),
        "loss_high": float(np.exp(high)),
        "se": se,
        "vertex": vertex,
        "least": least,
        "bend": bend,
        "status": status,
        "beyond": beyond,
        "cubic_p": cubic,
        "akima_loss": float(np.exp(spline)),
        "stable": float(np.isfinite(drawn).mean()),
        "note": "; ".join(notes),
    }


def _cubic_test(budget: _Budget, sigma: float) -> float:
    """p of the cubic coefficient of the sizes in the window against the noise between seeds; NaN for fewer than 5 sizes."""
    distance, near = _windows(budget.x, budget.y[None])
    kept = near[0]
    if kept.sum() < 5 or not sigma > 0:
        return np.nan
    design = distance[0, kept, None] ** np.arange(4)
    weight = budget.count[kept]
    covariance = np.linalg.inv(design.T * weight @ design)
    coefficient = (covariance @ (design.T * weight @ budget.y[kept]))[3]
    return float(2 * stdtr(max(int(kept.sum()) - 4, _PURE), -abs(coefficient) / (sigma * np.sqrt(covariance[3, 3]))))


def _exponent(flops: np.ndarray, values: np.ndarray, drawn: np.ndarray) -> Reading:
    """Least-squares slope over the budgets; replicates without one of them use the others."""
    if len(flops) < 2 or not np.isfinite(values).all():
        return Reading(reason="fewer than two budgets with an optimum, or no tokens")
    slope = _ols(flops, values[None])[0]
    return Reading(slope, _percentiles(slope, _ols(flops, drawn)))


def _slope(flops: np.ndarray, value: np.ndarray, drawn: np.ndarray) -> Reading:
    slope = _ols(flops, value[None])[0]
    return Reading(slope, _percentiles(slope, _ols(flops, drawn)))


def _ols(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope of each row of y against x over its finite values; NaN below two."""
    known = np.isfinite(y)
    count = np.maximum(known.sum(1), 1)
    from_x = np.where(known, x - (known @ x / count)[:, None], 0)
    spread = (from_x**2).sum(1)
    return np.where(known.sum(1) > 1, (from_x * np.where(known, y, 0)).sum(1) / np.where(spread > 0, spread, np.nan), np.nan)


def _percentiles(value: Any, drawn: np.ndarray) -> np.ndarray:
    """95 % interval round a value (scalar or columns) from its replicates, half-widths widened; NaN without any."""
    tail = (1 - LEVEL) / 2
    if not np.isfinite(drawn).any():
        return np.full((*np.shape(value), 2), np.nan)
    ends = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    value = np.asarray(value, float)
    low, high = np.minimum(ends[0], value), np.maximum(ends[1], value)
    return np.stack([value - WIDENING * (value - low), value + WIDENING * (high - value)], axis=-1)


def _critical(value: np.ndarray, drawn: np.ndarray) -> float:
    """The 95 % quantile over replicates of the greatest deviation along the curve, in pointwise standard deviations."""
    spread = np.nanstd(drawn, axis=0)
    scaled = np.abs(drawn - value) / np.where(spread > 0, spread, np.inf)
    return float(np.quantile(np.nanmax(scaled[np.isfinite(scaled).any(1)], axis=1), LEVEL))


def _intervals(value: np.ndarray, drawn: np.ndarray, critical: float) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise interval and simultaneous band of every column; the band holds the interval."""
    some = np.isfinite(drawn).any(0)
    interval, spread = np.full((len(value), 2), np.nan), np.full(len(value), np.nan)
    interval[some] = _percentiles(value[some], drawn[:, some])
    spread[some] = np.nanstd(drawn[:, some], axis=0)
    half = WIDENING * critical * spread
    return interval, np.stack([np.minimum(value - half, interval[:, 0]), np.maximum(value + half, interval[:, 1])], axis=-1)


def _log_points(front: Frontier) -> np.ndarray:
    return np.log(np.where(front.points["status"] == "ok", front.points["loss"], np.nan))[None]


def _log_multiplier(a: Frontier, b: Frontier, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln M at every ln loss, and for every replicate."""
    flops_a, flops_b = (np.log(front.points["flops"].to_numpy()) for front in (a, b))
    value = _inverse(_log_points(b), flops_b, at)[0] - _inverse(_log_points(a), flops_a, at)[0]
    return value, _inverse(b.log_loss, flops_b, at) - _inverse(a.log_loss, flops_a, at)


def _inverse(log_loss: np.ndarray, log_flops: np.ndarray, at: np.ndarray) -> np.ndarray:
    """ln flops at the given ln losses, rows x losses, by PCHIP through each row's finite points; NaN outside them, and all along
    a row that does not fall strictly with flops.
    """
    found = np.full((len(log_loss), len(at)), np.nan)
    known = np.isfinite(log_loss)
    for pattern in np.unique(known, axis=0):
        rows = np.flatnonzero((known == pattern).all(1))
        x, y = -log_loss[rows][:, pattern], log_flops[pattern]
        falls = (np.diff(x, axis=1) > 0).all(1)
        if pattern.sum() >= 2 and falls.any():
            found[rows[falls]] = _pchip(x[falls], y, -at)
    return found


def _pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Monotone cubic through each row of x (rows x knots, ascending) and common y, at common positions; NaN outside."""
    step = np.diff(x, axis=1)
    rise = np.diff(y) / step
    slope = np.repeat(rise[:, :1], x.shape[1], axis=1)
    if x.shape[1] > 2:
        left, right = 2 * step[:, 1:] + step[:, :-1], step[:, 1:] + 2 * step[:, :-1]
        slope[:, 1:-1] = (left + right) / (left / rise[:, :-1] + right / rise[:, 1:])
        slope[:, 0] = _end_slope(step[:, 0], step[:, 1], rise[:, 0], rise[:, 1])
        slope[:, -1] = _end_slope(step[:, -1], step[:, -2], rise[:, -1], rise[:, -2])
    piece = np.clip((x[:, :, None] <= at).sum(1) - 1, 0, x.shape[1] - 2)
    row = np.arange(len(x))[:, None]
    width = step[row, piece]
    t = (at - x[row, piece]) / width
    found = (
        y[piece] * (1 + 2 * t) * (1 - t) ** 2
        + slope[row, piece] * width * t * (1 - t) ** 2
        + y[piece + 1] * t**2 * (3 - 2 * t)
        + slope[row, piece + 1] * width * t**2 * (t - 1)
    )
    slack = 1e-12 * np.abs(x).max(1, keepdims=True)
    return np.where((at >= x[:, :1] - slack) & (at <= x[:, -1:] + slack), found, np.nan)


def _end_slope(near: np.ndarray, far: np.ndarray, rise: np.ndarray, next_rise: np.ndarray) -> np.ndarray:
    """Three-point slope at an end of rising knots, held between 0 and three times the first rise."""
    return np.clip(((2 * near + far) * rise - near * next_rise) / (near + far), 0, 3 * rise)


def _longest(flags: np.ndarray) -> np.ndarray:
    """The longest unbroken stretch of true."""
    kept, start = np.zeros(len(flags), bool), 0
    for end in range(len(flags) + 1):
        if end == len(flags) or not flags[end]:
            if end - start > kept.sum():
                kept[:] = False
                kept[start:end] = True
            start = end + 1
    return kept


def _refusal(front: Frontier) -> str:
    """Why no loss can be turned into FLOPs, if so."""
    ok = front.points[front.points["status"] == "ok"]
    if len(ok) < 2:
        return f"has {len(ok)} of {len(front.points)} budgets with an optimum inside its sizes, and needs two"
    log_loss, se = np.log(ok["loss"].to_numpy()), ok["se"].to_numpy()
    if not np.isfinite(se).all():
        return "has too few runs to know its noise: add seeds or sizes"
    rises = np.diff(log_loss)
    if (rises < 0).all():
        return ""
    worst = int(np.argmax(rises))
    where = f"from {ok['flops'].iloc[worst]:.3g} to {ok['flops'].iloc[worst + 1]:.3g} FLOPs"
    if rises[worst] > 2 * np.hypot(se[worst], se[worst + 1]):
        return f"gets worse {where} by more than the noise: a fault, or poor tuning"
    return f"does not improve {where} beyond the noise: add seeds"


def _refused(reason: str, a: Frontier, b: Frontier, names: tuple[str, str]) -> Multiplier:
    columns = ["loss", "flops_a", "flops_b", "multiplier", "low", "high", "band_low", "band_high", "defined", "valid", "reason"]
    curve = pd.DataFrame(columns=columns).astype({"valid": bool})
    nothing = (np.nan, np.nan)
    return Multiplier(
        curve, nothing, nothing, Reading(reason=reason), f"cannot tell: {reason}", f"cannot tell: {reason}", reason, a, b, names
    )


def _at_least(better: Frontier, worse: Frontier) -> float:
    """How many times the least FLOPs of one frontier the other may use and still be worse than it; NaN where it is not worse at
    all budgets, or gets worse with more of them.
    """
    known, tops = worse.points[worse.points["status"] == "ok"], better.points[better.points["status"].isin(("ok", "edge"))]
    falling = not any((points["loss"].diff() >= 0).any() for points in (known, tops))
    if falling and len(known) and len(tops) and tops["loss_high"].max() < known["loss_low"].min():
        return float(known["flops"].max() / tops["flops"].min())
    return np.nan


def _unreached(name: str, front: Frontier, loss: float) -> str:
    """Why a frontier does not define a loss, if so."""
    low, high = front.interval
    if np.isnan(low):
        return f"{name} has no budget with an optimum inside its sizes"
    if loss < low:
        return f"loss {loss:.4g} is below {low:.4g}, the least that {name} reached"
    return f"loss {loss:.4g} is above {high:.4g}, where {name} starts" if loss > high else ""


def _verdict(curve: pd.DataFrame, a: str, b: str) -> str:
    """Who needs less, from the simultaneous band over the valid losses."""
    less, more = curve["band_low"] > 1, curve["band_high"] < 1
    if less.any() and more.any():
        return f"mixed: {a} needs less at some losses, {b} at others"
    if less.any() or more.any():
        who, everywhere = (a, less.all()) if less.any() else (b, more.all())
        return f"{who} needs less compute" + ("" if everywhere else " at some losses, elsewhere they cannot be told apart")
    if max(curve["high"].max(), 1 / curve["low"].min()) < 1.1:
        return "no difference beyond a factor of 1.1"
    return "cannot be told apart"

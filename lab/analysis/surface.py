"""Loss as a function of params and tokens, fitted to runs: for allocation, diagnosis and planning, never for the headline.

hoffmann: L = E + A / N^alpha + B / D^beta (arXiv:2203.15556, approach 3). kaplan: L = ((Nc / N)^(alpha_N / alpha_D) + Dc /
D)^alpha_D (arXiv:2001.08361, eq. 1.5). The objective is the sum, not the mean, of Huber's loss of ln L, which keeps the optimizer
from stopping early (Besiroglu et al., arXiv:2404.10102). Starts: Hoffmann's grid, thinned to 72, and variable projection: at
fixed exponents L is linear in E, A and B, which leaves a search in two dimensions.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import huber
from threadpoolctl import threadpool_limits

from lab.analysis.isoflop import SAME_BUDGET, Reading
from lab.analysis.statistics import LEVEL

DELTA = 1e-3
"""Least scale of Huber's loss, in ln loss; half the noise between seeds where that is more."""
FLOPS_PER_PARAM_AND_TOKEN = 6
_SCALE = 1e4  # of the objective inside the optimizer, whose tolerances are absolute below 1

Form = Literal["hoffmann", "kaplan"]
Values = np.ndarray | pd.Series
_Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class LossSurface:
    """A fitted surface.

    coefficients: by name, as in the form's equation; samples: a row a bootstrap replicate. objective: sum of Huber's loss.
    starts: how many of all came within 1e-6 of the best. gradient: its greatest element at the optimum. condition, correlation:
    of the curvature. held_out: ln of predicted over measured loss at the greatest budget, fitted without it. plannable: whether
    that is within twice the noise, or 0.5 %. warnings: what the data do not identify.
    """

    form: Form
    coefficients: dict[str, float]
    samples: pd.DataFrame = field(repr=False)
    objective: float
    delta: float
    starts: tuple[int, int]
    gradient: float
    condition: float
    correlation: pd.DataFrame = field(repr=False)
    residuals: np.ndarray = field(repr=False)
    held_out: float
    plannable: bool
    failures: int
    warnings: list[str]

    def coefficient(self, name: str) -> Reading:
        """A coefficient with its 95 % percentile interval."""
        return _reading(self.coefficients[name], self.samples[name].to_numpy())

    @property
    def params_exponent(self) -> Reading:
        """The exponent of optimal params against FLOPs, with interval."""
        return _reading(_allocation(self.form, self.coefficients), _allocation(self.form, dict(self.samples.items())))

    def loss(self, params: Values | float, tokens: Values | float) -> np.ndarray:
        """Predicted loss in nats."""
        return _loss(self.form, self.coefficients, np.asarray(params, float), np.asarray(tokens, float))

    def optimum(self, flops: Values | float, params: Values | None = None, flops_per_token: Values | None = None) -> pd.DataFrame:
        """A row a budget: params, tokens and loss at the compute-optimal size, each with `_low` and `_high`.

        In closed form for 6 FLOPs a param and token; with the `params` of models that can be built and the exact
        `flops_per_token` of each, the best of these.
        """
        if (params is None) != (flops_per_token is None):
            raise ValueError("params and flops_per_token come together: one names the models, the other what a token costs them")
        budgets = np.atleast_1d(np.asarray(flops, float))
        best = _optima(self.form, self.coefficients, budgets, params, flops_per_token)
        drawn = _optima(self.form, {k: v.to_numpy()[:, None] for k, v in self.samples.items()}, budgets, params, flops_per_token)
        made = pd.DataFrame({"flops": budgets})
        for name, value, spread in zip(("params", "tokens", "loss"), best, drawn, strict=True):
            made[name] = value
            made[f"{name}_low"], made[f"{name}_high"] = _ends(np.broadcast_to(spread, (len(self.samples), len(budgets))))
        return made


@threadpool_limits.wrap(limits=1)  # products of five numbers: a second thread only waits
def fit_loss_surface(
    params: Values,
    tokens: Values,
    loss: Values,
    form: Form = "hoffmann",
    delta: float | None = None,
    replicates: int = 400,
    seed: int = 0,
) -> LossSurface:
    """Fit a surface to runs: each value a run; loss in nats, above 0. delta: scale of Huber's loss in ln loss. seed: of the
    bootstrap, which resamples runs and starts each refit at the optimum.
    """
    n, d, y = (np.asarray(values, float) for values in (params, tokens, loss))
    if not n.shape == d.shape == y.shape or n.ndim != 1:
        raise ValueError(f"params, tokens and loss differ in shape: {n.shape}, {d.shape}, {y.shape}")
    if form not in _PREDICT:
        raise ValueError(f"form is {form}; there are {', '.join(_PREDICT)}")
    names = _NAMES[form]
    if len(y) < len(names) + 2:
        raise ValueError(f"{len(y)} runs cannot give {len(names)} coefficients; 30 or more are needed to trust them")
    if not all((np.isfinite(values) & (values > 0)).all() for values in (n, d, y)):
        raise ValueError("params, tokens and loss must be finite and above 0")
    data = _Data(n, d, y)
    sigma = data.noise()
    scale = max(DELTA, sigma / 2) if delta is None else delta
    found = [_descend(form, start, data, scale) for start in _starts(form, data)]
    best, objective = _polish(form, min(found, key=lambda pair: pair[1])[0], data, scale)
    agreeing = sum(value <= objective * (1 + 1e-6) + 1e-15 for _, value in found)

    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(replicates):
        count = np.bincount(rng.integers(len(y), size=len(y)), minlength=len(y)).astype(float)
        drawn.append(_named(form, _descend(form, best, data, scale, count)[0], data))
    samples = pd.DataFrame(drawn, columns=list(names)).astype(float)
    failed = ~np.isfinite(samples).all(axis=1)
    coefficients = _named(form, best, data)
    predicted, slopes = _PREDICT[form](best, data.x, data.z)
    residuals = predicted - data.y
    curvature = slopes * np.minimum(1, scale / np.maximum(np.abs(residuals), 1e-300)) @ slopes.T
    norm = np.sqrt(np.maximum(np.diag(curvature), 1e-300))
    covariance = np.linalg.pinv(curvature / np.outer(norm, norm))
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    correlation = pd.DataFrame(covariance / np.outer(spread, spread), index=list(names), columns=list(names))
    condition = float(np.linalg.cond(curvature))
    held_out = _held_out(form, best, data, scale)
    allowed = max(2 * (sigma or 1.4826 * float(np.median(np.abs(residuals)))), 0.005)
    surface = LossSurface(
        form, coefficients, samples[~failed].reset_index(drop=True), objective, scale, (agreeing, len(found)),
        float(np.abs(_value(best, form, data, scale)[1]).max()) / _SCALE, condition, correlation, residuals,
        held_out, bool(abs(held_out) <= allowed), int(failed.sum()), [],
    )  # fmt: skip
    surface.warnings.extend(_warnings(surface, data))
    return surface


class _Data:
    """Runs in logarithms; x and z are centred, so that level and exponent of a term are nearly independent."""

    def __init__(self, params: np.ndarray, tokens: np.ndarray, loss: np.ndarray):
        log_n, log_d = np.log(params), np.log(tokens)
        self.mean_n, self.mean_d = float(log_n.mean()), float(log_d.mean())
        self.x, self.z, self.y = log_n - self.mean_n, log_d - self.mean_d, np.log(loss)

    def noise(self) -> float:
        """Standard deviation of ln loss between runs of equal params and tokens; 0 where there are none."""
        groups = pd.Series(self.y).groupby([self.x.round(9), self.z.round(9)])
        spare = len(self.y) - groups.ngroups
        return float(np.sqrt(((self.y - groups.transform("mean")) ** 2).sum() / spare)) if spare else 0.0

    def kept(self, rows: np.ndarray) -> "_Data":
        made = object.__new__(_Data)
        made.mean_n, made.mean_d = self.mean_n, self.mean_d
        made.x, made.z, made.y = self.x[rows], self.z[rows], self.y[rows]
        return made


def _hoffmann(theta: np.ndarray, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln L and its slopes by ln A, ln B, ln E, alpha, beta."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * x, b - beta * z, np.full_like(x, e)])
    top = terms.max(0)
    shares = np.exp(terms - top)
    total = shares.sum(0)
    shares /= total
    return top + np.log(total), np.stack([shares[0], shares[1], shares[2], -x * shares[0], -z * shares[1]])


def _kaplan(theta: np.ndarray, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln L and its slopes by alpha_N ln Nc, alpha_D ln Dc, alpha_N, ln alpha_D."""
    n, d, alpha, log_beta = theta
    beta = np.exp(np.clip(log_beta, -20, 5))
    terms = np.stack([n - alpha * x, d - beta * z]) / beta
    top = terms.max(0)
    shares = np.exp(terms - top)
    total = shares.sum(0)
    shares /= total
    folded = top + np.log(total)
    by_beta = beta * (folded - (shares * terms).sum(0) - z * shares[1])
    return beta * folded, np.stack([shares[0], shares[1], -x * shares[0], by_beta])


_PREDICT: dict[str, _Predict] = {"hoffmann": _hoffmann, "kaplan": _kaplan}
_NAMES = {"hoffmann": ("A", "B", "E", "alpha", "beta"), "kaplan": ("Nc", "Dc", "alpha_N", "alpha_D")}


def _named(form: Form, theta: np.ndarray, data: _Data) -> dict[str, float]:
    """Coefficients of the form's equation from those of the centred one; NaN where they overflow."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if form == "hoffmann":
            a, b, e, alpha, beta = theta
            values = np.exp(a + alpha * data.mean_n), np.exp(b + beta * data.mean_d), np.exp(e), alpha, beta
        else:
            n, d, alpha, beta = *theta[:3], np.exp(theta[3])
            values = np.exp(n / alpha + data.mean_n), np.exp(d / beta + data.mean_d), alpha, beta
    return dict(zip(_NAMES[form], (float(value) for value in values), strict=True))


def _value(theta: np.ndarray, form: Form, data: _Data, delta: float, count: np.ndarray | float = 1.0) -> tuple[float, np.ndarray]:
    """The scaled objective and its gradient."""
    predicted, slopes = _PREDICT[form](theta, data.x, data.z)
    off = predicted - data.y
    pull = count * np.clip(off, -delta, delta)
    return _SCALE * float((count * huber(delta, off)).sum()), _SCALE * np.einsum("pn,n->p", slopes, pull)


def _descend(
    form: Form, start: np.ndarray, data: _Data, delta: float, count: np.ndarray | float = 1.0
) -> tuple[np.ndarray, float]:
    """The minimum below a start, and the objective there."""
    found = minimize(
        _value, start, (form, data, delta, count), "L-BFGS-B", jac=True, options={"maxiter": 500, "ftol": 1e-10, "gtol": 1e-7}
    )
    return found.x, found.fun / _SCALE


def _polish(form: Form, start: np.ndarray, data: _Data, delta: float) -> tuple[np.ndarray, float]:
    found = minimize(_value, start, (form, data, delta), "BFGS", jac=True, options={"gtol": 1e-9, "maxiter": 1000})
    return found.x, found.fun / _SCALE


def _starts(form: Form, data: _Data) -> list[np.ndarray]:
    if form == "kaplan":
        level = data.y.mean()
        return [np.array([level, level, alpha, np.log(beta)]) for alpha, beta in product((0.05, 0.1, 0.2, 0.4), repeat=2)]
    grid = product((0, 10, 20), (0, 10, 20), (-0.5, 0.5), (0.2, 0.6), (0.2, 0.6))
    coarse = [np.array([a - alpha * data.mean_n, b - beta * data.mean_d, e, alpha, beta]) for a, b, e, alpha, beta in grid]
    return [_projected(data), *coarse]


def _projected(data: _Data) -> np.ndarray:
    """The best least squares of L on a grid of exponents, refined, with E, A and B at their best for them and not negative."""
    exponents = np.linspace(0.05, 1.5, 40)
    grid = np.array(list(product(exponents, exponents)))
    loss = np.exp(data.y)
    first = grid[np.argmin(_linear(grid, data, loss)[1])]
    found = minimize(
        lambda pair: float(_linear(pair[None], data, loss)[1][0]), first, method="Nelder-Mead", options={"maxiter": 200}
    )
    e, a, b = np.log(np.maximum(_linear(found.x[None], data, loss)[0][0], 1e-6))
    return np.array([a, b, e, *found.x])


def _linear(exponents: np.ndarray, data: _Data, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each (alpha, beta) the E, A, B of least squared error, not negative, and that error: least over which are 0."""
    alpha, alpha_at = np.unique(exponents[:, 0], return_inverse=True)
    beta, beta_at = np.unique(exponents[:, 1], return_inverse=True)
    by_n, by_d = np.exp(-np.outer(alpha, data.x)), np.exp(-np.outer(beta, data.z))
    rows = len(exponents)
    gram, right = np.empty((rows, 3, 3)), np.empty((rows, 3))
    gram[:, 0, 0] = len(loss)
    gram[:, 0, 1] = gram[:, 1, 0] = by_n.sum(1)[alpha_at]
    gram[:, 0, 2] = gram[:, 2, 0] = by_d.sum(1)[beta_at]
    gram[:, 1, 1], gram[:, 2, 2] = (by_n**2).sum(1)[alpha_at], (by_d**2).sum(1)[beta_at]
    gram[:, 1, 2] = gram[:, 2, 1] = (by_n @ by_d.T)[alpha_at, beta_at]
    right[:, 0], right[:, 1], right[:, 2] = loss.sum(), (by_n @ loss)[alpha_at], (by_d @ loss)[beta_at]
    best, least = np.zeros((rows, 3)), np.full(rows, np.inf)
    for used in ([0, 1, 2], [1, 2], [0, 1], [0, 2], [1], [2]):
        part = gram[:, used][:, :, used]
        ridge = 1e-12 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(len(used))
        solved = np.linalg.solve(part + ridge, right[:, used][:, :, None])[:, :, 0]
        error = loss @ loss - (solved * right[:, used]).sum(1)
        better = (solved >= 0).all(1) & (error < least)
        least = np.where(better, error, least)
        full = np.zeros((rows, 3))
        full[:, used] = solved
        best[better] = full[better]
    return best, least


def _held_out(form: Form, best: np.ndarray, data: _Data, delta: float) -> float:
    """Mean ln of predicted over measured loss at the greatest budget (else the tenth with the most FLOPs), fitted without it."""
    order = np.argsort(data.x + data.z)
    steps = np.flatnonzero(np.diff((data.x + data.z)[order]) > np.log(SAME_BUDGET))
    top = len(order) - 1 - steps[-1] if len(steps) else 0
    share = max(1, len(order) // 10)
    rows = order[-(top if 2 <= top <= len(order) // 2 else share) :]
    kept = np.setdiff1d(order, rows)
    if len(kept) < len(best) + 2:
        return float("nan")
    fitted = _descend(form, best, data.kept(kept), delta)[0]
    return float((_PREDICT[form](fitted, data.x[rows], data.z[rows])[0] - data.y[rows]).mean())


def _warnings(surface: LossSurface, data: _Data) -> list[str]:
    found, least = [], float(np.exp(data.y.min()))
    if len(data.y) < 30:
        found.append(f"{len(data.y)} runs: 30 or more are needed to trust the coefficients")
    ratio = np.ptp(data.z - data.x)
    if ratio < np.log(10):
        found.append(f"tokens per param span a factor of {np.exp(ratio):.2g}: a factor of 10 is needed to tell size from data")
    agreeing, starts = surface.starts
    if agreeing < 3:
        found.append(f"{agreeing} of {starts} starts agree on the optimum: it may not be the best")
    if surface.form == "hoffmann":
        floor, tied = surface.coefficients["E"], float(surface.correlation.loc["E", "alpha"])
        why = [
            (floor < 1e-3 * least, f"E is {floor:.2g}"),
            (floor > 0.98 * least, f"E = {floor:.4g} is not below the least loss, {least:.4g}"),
            (abs(tied) > 0.98, f"E and alpha are correlated by {tied:.3f}"),
        ]
        found += [f"E unidentified: {told}" for told_if, told in why if told_if]
    if not surface.plannable:
        found.append(f"the greatest budget is predicted {np.expm1(surface.held_out):+.1%} off: not for planning beyond the data")
    if surface.failures:
        found.append(f"{surface.failures} bootstrap refits failed")
    return found


def _loss(form: Form, at: dict, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    if form == "hoffmann":
        return at["E"] + at["A"] / params ** at["alpha"] + at["B"] / tokens ** at["beta"]
    return ((at["Nc"] / params) ** (at["alpha_N"] / at["alpha_D"]) + at["Dc"] / tokens) ** at["alpha_D"]


def _allocation(form: Form, at: dict) -> np.ndarray:
    n, d = (at["alpha"], at["beta"]) if form == "hoffmann" else (at["alpha_N"], at["alpha_D"])
    return np.asarray(d / (n + d))


def _optima(
    form: Form, at: dict, flops: np.ndarray, params: Values | None, flops_per_token: Values | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Optimal params and tokens and the loss there, for each row of coefficients and budget."""
    if params is not None:
        sizes, cost = np.asarray(params, float), np.asarray(flops_per_token, float)
        tokens = flops[:, None] / cost
        wide = {name: np.asarray(value)[..., None] for name, value in at.items()}
        losses = _loss(form, wide, sizes, tokens)
        best = np.argmin(losses, axis=-1)
        row = np.arange(len(flops))
        return sizes[best], tokens[row, best], np.take_along_axis(losses, best[..., None], -1)[..., 0]
    product_ = flops / FLOPS_PER_PARAM_AND_TOKEN
    if form == "hoffmann":
        alpha, beta = at["alpha"], at["beta"]
        n = (alpha * at["A"] / (beta * at["B"])) ** (1 / (alpha + beta)) * product_ ** (beta / (alpha + beta))
    else:
        ratio = at["alpha_N"] / at["alpha_D"]
        n = (ratio * at["Nc"] ** ratio * product_ / at["Dc"]) ** (1 / (1 + ratio))
    return n, product_ / n, _loss(form, at, n, product_ / n)


def _ends(drawn: np.ndarray) -> np.ndarray:
    tail = (1 - LEVEL) / 2
    return np.quantile(drawn, [tail, 1 - tail], axis=0) if len(drawn) else np.full((2, *drawn.shape[1:]), np.nan)


def _reading(value: float | np.ndarray, drawn: np.ndarray) -> Reading:
    return Reading(float(value), _ends(drawn))

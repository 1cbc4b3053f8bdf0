"""How much an output depends on inputs before it: the size of d y[t] / d x[t-k] by lag k, and where attention looks.

x is what the backbone reads, embedded; y is what it gives to the head. With J[k] the Jacobian of y[t] by x[t-k],

    influence(k) = root mean of |J[k]|_F^2 / dim      over sequences and positions t of the last half

|J|_F^2 is estimated without bias as E |v^T J|^2 over v ~ N(0, 1) (Hutchinson 1990), one backward pass for each t. At lag 0 the
residual stream passes the input on, so the half-life counts from lag 1: the lag within which half of the sum of influence lies.
Of a^k that is ln 2 / ln(1/a), of a delay by d it is d. How fast it falls is a line through the logarithm against the lag
(exponential) or its logarithm (power law), each octave of lags weighing the same; the R^2 of both is given. The idea is that of
effective receptive fields, Luo et al., arXiv:1701.04128.

Where attention looks is the mean weight at each distance over sequences, heads and queries of the last half.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import numpy as np
import torch
from pandas import DataFrame, concat
from torch import Tensor

from architectures.ops.watching import watched
from lab.analysis.findings import Finding, Sheet, View
from lab.model import Model
from lab.probes.subject import TRAINED, Subject, octaves

SEQUENCES = 16
POSITIONS = 12
WATCHED = 1024
"""Positions up to which weights are kept: all pairs of them."""
HALF_LIVES = ("half_life", "half_life_untrained")
VIEW = View(
    "lag", "influence", "lag, positions", "|dy[t] / dx[t-lag]|", logx=True, logy=True, shade="weights",
    caption="Root mean square Jacobian of an output by the embedded input so many positions before; faint: before training.",
)  # fmt: skip
ATTENTION = View(
    "distance", "mass", "distance, positions (octaves)", "share of attention", logx=True, panel="layer", shade="weights",
    caption="Mean attention weight by distance to the key, in octaves, over heads and queries of the last half of the context; "
    "faint: before training.",
)  # fmt: skip


def measure(subject: Subject) -> Finding:
    """
    Raises:
        UsageError: the backbone is not causal.
    """
    subject.need_causal()
    inputs = torch.cat([batch.inputs for batch in subject.examples(SEQUENCES)])
    parts, looks, numbers = [], [], {}
    for weights, model in subject.both().items():
        found = profile(model, inputs)
        parts.append(DataFrame({"weights": weights, "lag": np.arange(len(found)), "influence": found}))
        after = "" if weights == TRAINED else "_untrained"
        numbers |= {f"half_life{after}": half_life(found), f"peak{after}": int(found[1:].argmax()) + 1}
        masses = attention(model, inputs)
        looks += [_by_octave(each, layer, weights) for layer, each in enumerate(masses, 1)]
        if weights == TRAINED:
            numbers |= decay(found)
            numbers["exponential_over_power"] = numbers["exponential_r2"] - numbers["power_r2"]
            numbers |= {"attention_distance": float(np.mean([_mean_distance(each) for each in masses]))} if masses else {}
    sheets = {"influence": Sheet(concat(parts, ignore_index=True), VIEW)}
    if looks:
        sheets["attention"] = Sheet(concat(looks, ignore_index=True), ATTENTION)
    told = {each: f"within {value:.3g} positions" if (value := numbers[each]) == value else "nowhere" for each in HALF_LIVES}
    said = f"half of the influence of earlier inputs lies {told[HALF_LIVES[0]]}; before training {told[HALF_LIVES[1]]}"
    return Finding(sheets, numbers, said)


def profile(model: Model, inputs: Tensor) -> np.ndarray:
    """Influence at lags 0 .. length - 1."""
    x = model.read(model.halves(inputs)).detach().requires_grad_()
    y = model.backbone(x)
    length = x.shape[1]
    generator = torch.Generator().manual_seed(0)
    total, count = np.zeros(length), np.zeros(length)
    for position in np.unique(np.linspace(length // 2, length - 1, POSITIONS).astype(int)):
        drawn = torch.randn(y.shape[0], y.shape[2], generator=generator)
        (gradient,) = torch.autograd.grad((y[:, position] * drawn).sum(), x, retain_graph=True)
        squares = gradient[:, : position + 1].square().sum(2).mean(0).flip(0).double().numpy()
        total[: position + 1] += squares
        count[: position + 1] += 1
    return np.sqrt(total / count / y.shape[2])


def half_life(influence: np.ndarray) -> float:
    """The lag, from 1 on and between lags in a straight line, within which half of the sum lies; NaN where there is none."""
    sums = np.concatenate([[0], np.cumsum(influence[1:])])
    return float(np.interp(sums[-1] / 2, sums, np.arange(len(sums)))) if sums[-1] > 0 else float("nan")


def decay(influence: np.ndarray) -> dict[str, float]:
    """R^2 of a line through the logarithm of influence against the lag, and against its logarithm."""
    lags = np.arange(1, len(influence))
    kept = lags[influence[1:] > 0]
    if len(kept) < 8:
        return {"exponential_r2": float("nan"), "power_r2": float("nan")}
    values, weights = np.log(influence[kept]), 1 / np.sqrt(kept)  # polyfit squares them
    spread = np.average((values - np.average(values, weights=weights**2)) ** 2, weights=weights**2)

    def explained(x: np.ndarray) -> float:
        left = values - np.polyval(np.polyfit(x, values, 1, w=weights), x)
        return float(1 - np.average(left**2, weights=weights**2) / spread) if spread > 0 else float("nan")

    return {"exponential_r2": explained(kept), "power_r2": explained(np.log(kept))}


def attention(model: Model, inputs: Tensor) -> list[np.ndarray]:
    """For each layer with attention, the mean weight at distances 0 .. length - 1; none where the sequence is too long."""
    if inputs.shape[1] > WATCHED:
        return []
    with torch.no_grad(), watched() as seen:
        model.backbone(model.read(model.halves(inputs)))
    return [_by_distance(weights.double().mean((0, 1)).numpy()) for weights in seen]


def _by_distance(weights: np.ndarray) -> np.ndarray:
    queries, keys = weights.shape
    rows = np.arange(queries // 2, queries)
    found = np.zeros(keys)
    np.add.at(found, (rows[:, None] + keys - queries - np.arange(keys)).clip(0), np.tril(weights, keys - queries)[rows])
    return found / len(rows)


def _by_octave(mass: np.ndarray, layer: int, weights: str) -> DataFrame:
    table = DataFrame({"distance": octaves(np.arange(len(mass))), "mass": mass}).groupby("distance", as_index=False).sum()
    return table.assign(layer=f"layer {layer}", weights=weights)


def _mean_distance(mass: np.ndarray) -> float:
    return float((mass * np.arange(len(mass))).sum())

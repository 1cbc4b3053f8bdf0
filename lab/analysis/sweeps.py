"""What iso-FLOP sweeps say, in words and tables: the frontier of each architecture, and multipliers over the first."""

# what pandas' own hints say of a row is a union of everything
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from lab.analysis.isoflop import Frontier, Multiplier, frontier, multiplier
from lab.analysis.labels import METRICS, outcome, quantity

if TYPE_CHECKING:
    from lab.analysis.figures.sweep import Sweep

LOSSES = ("bits_per_byte",)
"""Metrics that are losses themselves, and read instead of nats."""


@dataclass(frozen=True)
class Summary:
    """Frontiers by architecture, and the multiplier of each other one over the first."""

    runs: Mapping[str, pd.DataFrame]
    unit: str
    frontiers: dict[str, Frontier]
    refusals: dict[str, str]
    multipliers: dict[str, Multiplier]

    def __str__(self) -> str:
        parts = [self._of(name) for name in self.runs]
        parts += [f"{name} over {next(iter(self.runs))}: {found}" for name, found in self.multipliers.items()]
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Frontiers and multipliers as plain values."""
        return {
            "loss": self.unit,
            "frontiers": {name: front.points.to_dict("records") for name, front in self.frontiers.items()},
            "refused": self.refusals,
            "multipliers": {
                name: {"curve": found.curve.to_dict("records"), "verdict": str(found)} for name, found in self.multipliers.items()
            },
        }

    def _of(self, name: str) -> str:
        runs = self.runs[name]
        head = f"{name}: {outcome(runs)}"
        if name in self.refusals:
            return f"{head}; no frontier: {self.refusals[name]}"
        front = self.frontiers[name]
        lines = [head, f"  {'budget':>8} {'runs':>5} {'params':>8} {'tokens':>8} {self.unit:>15}  interval"]
        for point in front.points.itertuples():
            interval = f"[{point.loss_low:.4g}, {point.loss_high:.4g}]" if point.status == "ok" else f"censored: {point.status}"
            lines.append(
                f"  {quantity(point.flops):>8} {point.runs:>5} {quantity(point.params):>8} {quantity(point.tokens):>8} "
                f"{point.loss:>15.4f}  {interval}"
            )
        lines.append(f"  best params grow as FLOPs^{front.params_exponent}, tokens as FLOPs^{front.tokens_exponent}")
        return "\n".join([*lines, *(f"  note: {note}" for note in front.notes)])


def summarise(runs: Mapping[str, pd.DataFrame]) -> Summary:
    """Frontiers of the runs of each architecture, and multipliers of the others over the first; loss on the test split."""
    known = {name: with_loss(frame) for name, frame in runs.items()}
    metrics = {str(metric) for frame in known.values() for metric in frame["metric"]} & set(LOSSES)
    unit = METRICS[metrics.pop()] if metrics else "loss (nats)"
    frontiers, refusals = {}, {}
    for name, frame in known.items():
        try:
            frontiers[name] = frontier(frame)
        except ValueError as error:
            refusals[name] = str(error)
    first = next(iter(known))
    multipliers = {
        name: multiplier(known[name], known[first], names=(name, first))
        for name in frontiers
        if first in frontiers and name != first
    }
    return Summary(runs, unit, frontiers, refusals, multipliers)


def told(sweep: "Sweep") -> str:
    """The same of a sweep whose frontiers and multipliers are there already."""
    unit = "loss (nats)" if sweep.unit == "nats" else sweep.unit
    return str(Summary({name: sweep.of(name) for name in sweep.names}, unit, sweep.frontiers, {}, sweep.multipliers))


def with_loss(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `loss` as it is read: the score itself where the metric is a loss."""
    return frame.assign(loss=frame["loss"].where(~frame["metric"].isin(LOSSES), frame["score"]))

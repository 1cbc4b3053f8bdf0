"""What each step of a ladder of set-ups saves: its multiplier over the step before, and over the first."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from lab.analysis.isoflop import Multiplier, multiplier
from lab.analysis.statistics import Reading, interval
from lab.analysis.sweeps import with_loss


def ladder(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a step: step; against: the step before; loss: where it is read, the middle of the valid ones; multiplier, low, high:
    FLOPs of the step before over those of this one, 95 %, or NaN between its bounds; valid_low, valid_high: least and greatest
    valid loss; scaling; reason: why there is none; total, total_low, total_high, total_loss, total_reason: the same against the
    first step.
    """
    rows = []
    names = list(runs)
    known = {name: with_loss(frame) for name, frame in runs.items()}
    for before, step in pairwise(names):
        own, whole = _against(step, before, known), _against(step, names[0], known)
        total = {"total" if key == "multiplier" else f"total_{key}": value for key, value in whole.items()}
        rows.append({"step": step, "against": before, **own, **total})
    return pd.DataFrame(rows)


def told(found: pd.DataFrame, first: str) -> str:
    """The ladder as a table."""
    width = max(12, *(len(step) for step in (first, *found["step"])))
    lines = [f"{'step':<{width}}  {'against the step before':>26}  {'against the first':>26}  at loss", f"{first:<{width}}"]
    for row in found.to_dict("records"):
        own = interval(row["multiplier"], row["low"], row["high"])
        whole = interval(row["total"], row["total_low"], row["total_high"])
        lines.append(f"{row['step']:<{width}}  {own:>26}  {whole:>26}  {_at(row['loss'])}, {_at(row['total_loss'])}")
    lines += [f"{row['step']}: {row['reason']}" for row in found.to_dict("records") if row["reason"]]
    lines += [f"{row['step']} against {first}: {row['total_reason']}" for row in found.to_dict("records") if row["total_reason"]]
    lines.append("above 1: the step needs less compute; 95 % intervals; each holds about the loss where it is read")
    return "\n".join(lines)


def _against(a: str, b: str, known: Mapping[str, pd.DataFrame]) -> dict[str, float | str]:
    try:
        found = multiplier(known[a], known[b], names=(a, b))
    except ValueError as error:
        return _row(Reading(reason=str(error)), None)
    return _row(found.middle, found)


def _row(middle: Reading, found: Multiplier | None) -> dict[str, float | str]:
    read = {"multiplier": float(middle), "low": middle.low, "high": middle.high, "reason": middle.reason}
    if found is None or found.reason:
        return {"loss": np.nan, **read, "valid_low": np.nan, "valid_high": np.nan, "scaling": ""}
    low, high = found.interval
    loss = float(found.summary["loss"].iloc[1])
    return {"loss": loss, **read, "valid_low": low, "valid_high": high, "scaling": found.scaling}


def _at(loss: float) -> str:
    return "-" if np.isnan(loss) else f"{loss:.3g}"

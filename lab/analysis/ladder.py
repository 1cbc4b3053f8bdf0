"""What each step of a ladder of set-ups saves: its multiplier over the step before, and over the first."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from lab.analysis.isoflop import Multiplier, multiplier
from lab.analysis.sweeps import with_loss


def ladder(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a step: step; against: the step before; loss: where it is read, the middle of the valid ones; multiplier, low, high:
    FLOPs of the step before over those of this one, 95 %; valid_low, valid_high: least and greatest valid loss; scaling; reason:
    why there is none; total, total_low, total_high, total_loss, total_reason: the same against the first step.
    """
    rows = []
    names = list(runs)
    known = {name: with_loss(frame) for name, frame in runs.items()}
    for before, step in pairwise(names):
        own, whole = _against(known[step], known[before]), _against(known[step], known[names[0]])
        total = {"total" if key == "multiplier" else f"total_{key}": value for key, value in whole.items()}
        rows.append({"step": step, "against": before, **own, **total})
    return pd.DataFrame(rows)


def told(found: pd.DataFrame, first: str) -> str:
    """The ladder as a table."""
    width = max(12, *(len(step) for step in (first, *found["step"])))
    lines = [f"{'step':<{width}}  {'against the step before':>26}  {'against the first':>26}  at loss", f"{first:<{width}}"]
    for row in found.to_dict("records"):
        own = _interval(row["multiplier"], row["low"], row["high"])
        whole = _interval(row["total"], row["total_low"], row["total_high"])
        lines.append(f"{row['step']:<{width}}  {own:>26}  {whole:>26}  {_at(row['loss'])}, {_at(row['total_loss'])}")
    lines += [f"{row['step']}: {row['reason']}" for row in found.to_dict("records") if row["reason"]]
    lines += [f"{row['step']} against {first}: {row['total_reason']}" for row in found.to_dict("records") if row["total_reason"]]
    lines.append("above 1: the step needs less compute; 95 % intervals; each holds about the loss where it is read")
    return "\n".join(lines)


def _against(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float | str]:
    try:
        found = multiplier(a, b)
    except ValueError as error:
        return _row(None, str(error))
    return _row(None if found.reason else found, found.reason)


def _row(found: Multiplier | None, reason: str) -> dict[str, float | str]:
    if found is None:
        nothing = dict.fromkeys(("loss", "multiplier", "low", "high", "valid_low", "valid_high"), np.nan)
        return {**nothing, "scaling": "", "reason": reason}
    loss = float(found.summary["loss"].iloc[1])
    at = found.at(loss)
    low, high = found.interval
    return {"loss": loss, "multiplier": float(at), "low": at.low, "high": at.high, "valid_low": low, "valid_high": high,
            "scaling": found.scaling, "reason": ""}  # fmt: skip


def _interval(value: float, low: float, high: float) -> str:
    return "cannot be told" if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _at(loss: float) -> str:
    return "-" if np.isnan(loss) else f"{loss:.3g}"

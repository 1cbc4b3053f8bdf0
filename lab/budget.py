"""Budgets: training compute in FLOPs, turned into optimizer steps once.

Convention (lab-exact v1): a multiply-add is two operations, causal attention is counted over its L(L+1)/2 pairs, the headline
is contraction plus mixing, and a training step costs three times its forward pass. Evaluation is not part of a budget.
"""

import math
import re
from collections.abc import Sequence

from architectures.backbone import Flops
from lab.errors import BudgetError, UsageError

TRAIN_OVER_FORWARD = 3
LARGEST = 1e27
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


def parse_amount(text: str, flag: str) -> float:
    """A positive number, with an optional unit: "1e13", "3PF", "250GF", "200k", "1.5M".

    Raises:
        UsageError: it is not a number, not finite, not positive or absurdly large.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([kKMGTPE]?)(?:F|FLOPs?)?\s*", text)
    try:
        value = float(match[1]) * _UNITS[match[2].upper()] if match else float(text)
    except ValueError:
        raise UsageError(f"{flag} {text}: not a number; write it like 1e13 or 10TF") from None
    if not 0 < value <= LARGEST:  # false for NaN too
        raise UsageError(f"{flag} {text}: must be above zero and at most {LARGEST:.0e}")
    return value


def parse_budgets(texts: Sequence[str]) -> tuple[float, ...]:
    """Budgets, ascending: amounts, or FIRST:LAST:COUNT for a geometric row.

    Raises:
        UsageError: one is not an amount, or a row has fewer than two.
    """
    found: set[float] = set()
    for text in texts:
        parts = text.split(":")
        if len(parts) == 1:
            found.add(parse_amount(text, "--budgets"))
            continue
        if len(parts) != 3 or not parts[2].isdecimal() or not 2 <= int(parts[2]) <= 100:
            raise UsageError(f"--budgets {text}: a row is FIRST:LAST:COUNT with 2 to 100 budgets, like 1e11:1e13:5")
        first, last = (parse_amount(part, "--budgets") for part in parts[:2])
        if not first < last:
            raise UsageError(f"--budgets {text}: a row goes from a smaller budget to a larger one")
        ratio = (last / first) ** (1 / (int(parts[2]) - 1))
        found |= {float(f"{first * ratio**step:.4g}") for step in range(int(parts[2]))}
    return tuple(sorted(found))


def step_flops(forward: Flops, batch: int) -> int:
    """Training FLOPs (headline) of one optimizer step on `batch` sequences that cost `forward` each to read."""
    return TRAIN_OVER_FORWARD * forward.batch(batch).headline


def steps_for(budget: float, per_step: int) -> int:
    """How many whole optimizer steps the budget pays for.

    Raises:
        BudgetError: not even one.
    """
    steps = math.floor(budget / per_step)
    if steps < 1:
        raise BudgetError(f"--budget {budget:.3g}: does not pay for one step; the smallest is {per_step:.4g} here")
    return steps


def shown(flops: float) -> str:
    """FLOPs for people: 2.5e12."""
    return f"{flops:.3g}".replace("e+", "e")

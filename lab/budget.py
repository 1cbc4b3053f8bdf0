"""Budgets: training compute in FLOPs, turned into optimizer steps once.

Convention (lab-exact v1): a multiply-add is two operations, causal attention is counted over its L(L+1)/2 pairs, the headline
is contraction plus mixing, and a training step costs three times its forward pass. Evaluation is not part of a budget.
"""

import math
import re
from collections.abc import Iterable, Sequence

from architectures.backbone import Flops
from lab.errors import BudgetError, UsageError

TRAIN_OVER_FORWARD = 3
LARGEST = 1e27
NEWTON_SCHULZ = 5
"""Iterations by which Muon makes a matrix nearly orthogonal (Jordan et al. 2024)."""
PER_PARAMETER = {"adam": 13, "adamw": 14, "adafactor": 16, "muon": 12}
"""Operations of an update on each parameter, outside of products of matrices. Of adamw: decay 1, first moment 3, second moment 4,
its root, correction and epsilon 3, step 3; adam has no decay. Of adafactor: decay 1, squares over rows, columns, parameter and
update 8, variance and its root 4, update 1, step 2. Of muon: momentum 3, Nesterov's 3, norm 3, decay 1, step 2."""
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


def optimizer_flops(name: str, shapes: Iterable[Sequence[int]]) -> int:
    """Operations of one update of parameters of these shapes, a complex one as two numbers; clipping is not among them.

    Raises:
        ValueError: the optimizer is not one of `PER_PARAMETER`, or muon is to update what is no matrix.
    """
    if name not in PER_PARAMETER:
        raise ValueError(f"optimizer {name}: its cost is not known; there are {', '.join(PER_PARAMETER)}")
    shapes = [tuple(shape) for shape in shapes]
    elementwise = PER_PARAMETER[name] * sum(math.prod(shape) for shape in shapes)
    return elementwise + (sum(newton_schulz_flops(shape) for shape in shapes) if name == "muon" else 0)


def newton_schulz_flops(shape: Sequence[int]) -> int:
    """Muon's iterations X <- a X + (b A + c A A) X with A = X X^T, on the longer side's transpose where that is the first.

    Raises:
        ValueError: not a matrix.
    """
    if len(shape) != 2:
        raise ValueError(f"muon updates matrices; a parameter of shape {tuple(shape)} needs another optimizer")
    m, n = sorted(shape)
    return NEWTON_SCHULZ * (4 * m**2 * n + 2 * m**3 + 3 * m**2 + 2 * m * n)


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
    return f"{flops:.3g}".replace("e+0", "e").replace("e+", "e")

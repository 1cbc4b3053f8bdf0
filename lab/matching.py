"""Widths at which architectures are of the same size: equal parameters, or equal FLOPs a token."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch

from lab import plugins
from lab.errors import UsageError
from lab.model import Model, build, count_parameters
from tasks.task import Task

Match = Literal["params", "flops"]
TOLERANCE = 0.02
WIDEST = 1 << 14


def solve(match: Match, size: float, name: str, settings: dict[str, Any], task: Task, depth: int) -> tuple[int, dict[str, Any]]:
    """The width, and the settings with the channel mixer's hidden width filled in, at which the model has `size`.

    Sizes are non-embedding parameters (head included), or forward headline FLOPs a token at the task's length. Widths are
    multiples of 8; what they leave over is made up by the setting `hidden` where the architecture has it and the user left it
    open. Architectures without it may take any width.

    Raises:
        UsageError: nothing within 2 %; names the nearest size.
    """
    measure = measure_of(match, task)

    @cache
    def at(dim: int, hidden: int | None) -> float:
        """The size, or infinity where the architecture refuses."""
        filled = settings | ({"hidden": hidden} if hidden else {})
        try:
            with torch.device("meta"):
                return measure(build(name, task, dim=dim, depth=depth, settings=filled))
        except UsageError:
            return float("inf")

    has_hidden = any(setting.name == "hidden" for setting in plugins.settings("architectures", name))
    best: tuple[float, int, int | None] = (float("inf"), 0, None)
    for step in (8, 1):
        candidates = range(step, WIDEST, step)

        def from_here(i: int, candidates: range = candidates) -> float:
            """The size at the first width from this one on that the architecture takes (its heads must divide it)."""
            return next((s for dim in candidates[i : i + 16] if (s := at(dim, None)) < float("inf")), float("inf"))

        around = _first_above(from_here, size, len(candidates))
        near = candidates[max(0, around - 4) : around + 4 if step > 1 else around + 16]
        for dim in sorted((dim for dim in near if at(dim, None) < float("inf")), key=lambda dim: abs(at(dim, None) / size - 1)):
            open_hidden = has_hidden and not settings.get("hidden") and at(dim, 1) != at(dim, 2)
            hidden = _first_above(lambda h, dim=dim: at(dim, h + 1), size, 8 * dim) if open_hidden else 0
            for choice in {max(hidden, 1), hidden + 1} if open_hidden else {None}:
                # among fits better than half a percent, the one nearest to the usual proportions wins
                error = max(abs(at(dim, choice) / size - 1), 0.005) + 1e-4 * abs(at(dim, None) / size - 1)
                best = min(best, (error, dim, choice), key=lambda fit: fit[0])
            if best[1] == dim and abs(at(*best[1:]) / size - 1) <= 0.005:
                break  # those that follow are farther from the usual proportions
        if best[0] <= TOLERANCE:
            return best[1], settings | ({"hidden": best[2]} if best[2] else {})
    if not best[1]:
        with torch.device("meta"):
            build(name, task, dim=64, depth=depth, settings=settings)  # says why
    nearest = f"the nearest is {at(*best[1:]):.4g}" if best[1] else "it refuses every width"
    raise UsageError(f"--size {size:g}: no width of {name} at depth {depth} comes within {TOLERANCE:.0%}; {nearest}")


def measure_of(match: Match, task: Task) -> Callable[[Model], float]:
    """What a size is measured in."""
    if match == "flops":
        return lambda model: model.flops(task.length, task.answers).batch(1).headline / task.length
    return lambda model: count_parameters(model) - count_parameters(model.read)


def _first_above(value: Callable[[int], float], target: float, end: int) -> int:
    """The first i below `end` with value(i) >= target, for a rising function, by bisection; `end` where there is none."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        if value(middle) >= target:
            high = middle
        else:
            low = middle + 1
    return low

"""How near the scan that recurrences share comes to the speed of memory, in one run.

A scan must read driving terms and write states, and on the way back read states and gradients and write the gradients of the
driving terms; a decay that varies is read on both ways, and its gradients are written. These bytes over the time are set
against a copy that takes turns with the scan.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from architectures.ops.scan import planar_scan, planes, scan
from lab import machine

COPIED = 1 << 26  # numbers, far more than caches hold
CALLS = 4
FORMS = {"real": (torch.float32, scan), "complex": (torch.complex64, scan), "complex, in planes": (torch.complex64, planar_scan)}


def scans(lengths: Sequence[int], tokens: int, states: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each kind of numbers and decay and each length: milliseconds forward and with the way back, and the shares of the
    speed of copying that both reach, medians of the rounds.
    """
    machine.tune()
    torch.set_num_threads(threads)
    source = torch.zeros(COPIED)
    target = torch.empty_like(source)
    rows = []
    for numbers, (dtype, form) in FORMS.items():
        for decay in ("constant", "varying"):
            for length in lengths:
                batch = max(1, tokens // length)
                there, both, moved = _ways(form, dtype, decay == "varying", (batch, length, states))
                found: dict[str, list[float]] = {"forward_ms": [], "ms": [], "forward_share": [], "share": []}
                for _ in range(rounds + 1):
                    copied = 2 * source.nbytes / _seconds(lambda: target.copy_(source))
                    for name, run, bytes_ in (("forward_", there, moved[0]), ("", both, sum(moved))):
                        seconds = _seconds(run)
                        found[f"{name}ms"].append(1000 * seconds)
                        found[f"{name}share"].append(bytes_ / seconds / copied)
                medians = {name: statistics.median(values[1:]) for name, values in found.items()}  # the first round warms up
                rows.append({"numbers": numbers, "decay": decay, "batch": batch, "length": length, "states": states} | medians)
    return rows


def told(rows: list[dict[str, Any]]) -> str:
    """The rows of `scans` as text."""
    head = f"{'numbers':<18} {'decay':<8} {'batch':>5} {'length':>7} {'states':>6}"
    lines = [f"{head} {'forward, ms':>11} {'share':>5} {'and back, ms':>12} {'share':>5}"]
    for row in rows:
        kind = f"{row['numbers']:<18} {row['decay']:<8} {row['batch']:>5} {row['length']:>7} {row['states']:>6}"
        there = f"{row['forward_ms']:>11.2f} {row['forward_share']:>5.2f}"
        lines.append(f"{kind} {there} {row['ms']:>12.2f} {row['share']:>5.2f}")
    lines.append("share: bytes that cannot be avoided over the time, relative to a copy of 256 MB in the same round")
    return "\n".join(lines)


def _ways(form: Callable[..., Any], dtype: torch.dtype, varies: bool, shape: tuple[int, int, int]) -> tuple[Any, Any, list[int]]:
    """What runs a scan, what runs it there and back, and the bytes that each way must move."""
    batch, _, states = shape
    sizes = shape if varies else (states,), shape, (batch, states), shape
    a, b, initial, to_h = (torch.randn(size, dtype=dtype) for size in sizes)
    given = [0.5 * a / a.abs().clamp_min(1), b, initial]
    if form is planar_scan:
        *given, to_h = (planes(x) for x in (*given, to_h))
    learned = [x.requires_grad_() for x in given[:2]]

    def there() -> None:
        with torch.no_grad():
            form(*given)

    def both() -> None:
        torch.autograd.grad(form(*given), learned, to_h)

    return there, both, [(2 + varies) * b.nbytes, (3 + 2 * varies) * b.nbytes]


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        run()
    return (time.perf_counter() - started) / CALLS

"""Training tokens a second by length and by batch: how much of training runs in parallel.

A training step (forward, backward, AdamW) of the run's backbone by itself, without embedding and head, in a process of its own
(lab/speed.py), the median of `ROUNDS`. Where positions depend on each other one after the other, tokens a second hardly rise with
the length and rise with the batch. `parallel` is tokens a second of one sequence of the longest length over those of one of the
shortest: what length alone brings.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false

import math
import os

from pandas import DataFrame

from lab import plugins
from lab.analysis.findings import Finding, Sheet, View
from lab.errors import UsageError
from lab.probes.subject import Subject
from lab.speed import Stand, compared

LENGTHS = (64, 256, 1024)
BATCHES = (1, 8)
ROUNDS = 3
VIEW = View(
    "length", "tokens_per_second", "positions in a sequence", "training tokens / s", logx=True, logy=True, shade="sequences",
    caption="Training tokens a second on this machine, forward, backward and AdamW, by length; faint: several sequences a step.",
)  # fmt: skip


def measure(subject: Subject) -> Finding:
    """
    Raises:
        UsageError: it could not be measured at any length; says why.
    """
    spec, rows, failed = subject.spec, [], ""
    stand = Stand(spec.architecture, spec.dim, spec.depth, os.cpu_count() or 1, spec.precision, plugin_files=plugins.files())
    for length in LENGTHS:
        for batch in BATCHES:
            (cell,) = compared(
                stand, [], length, batch * length, ROUNDS, {"flops_per_second": math.inf, "bytes_per_second": math.inf}
            )
            failed = cell.get("failed", failed)
            if "failed" not in cell:
                named = f"{batch} sequence{'s' * (batch > 1)}"
                rows.append((length, batch, named, cell["tokens_per_second"], cell["peak_mb"]))
    table = DataFrame(rows, columns=["length", "batch", "sequences", "tokens_per_second", "peak_mb"])
    alone = table[table["batch"] == 1]
    if alone.empty:
        raise UsageError(f"{subject.name}: no step could be timed: {failed}")
    first, last = alone.iloc[0], alone.iloc[-1]
    best = table.loc[table["tokens_per_second"].idxmax()]
    alone_brings = float(last["tokens_per_second"] / first["tokens_per_second"])
    numbers = {"best": float(best["tokens_per_second"]), "parallel": alone_brings}
    said = f"{best['tokens_per_second']:,.0f} training tokens/s at best ({best['sequences']} of {best['length']}); " \
           f"{alone_brings:.3g} times as many with one sequence of {last['length']} as with one of {first['length']}"  # fmt: skip
    return Finding({"throughput": Sheet(table, VIEW)}, numbers, said)

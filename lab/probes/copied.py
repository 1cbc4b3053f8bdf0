"""Loss on bytes that complete something already in the context, and on the others; by distance.

A byte is copied where it ends a run of bytes, four of them in the text task, that is already in its window; its distance goes
back to the end of the latest such run. These are the task's own slices `copied` and `distance` (tasks/text.py), after the
repeated n-grams of Arora et al., arXiv:2312.04927, section 3. The loss is in nats; intervals are t-intervals over sequences.

Copied bytes are also easy by themselves: what is often repeated is common. So the same bytes are read a second time by the same
model with no more than the last `NEAR` of them as context. What this loses on bytes whose run is farther back, beyond what it
loses on others, is what looking back there was worth: `copying`.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false

import numpy as np
from pandas import DataFrame, concat

from lab.analysis.findings import Finding, Sheet, View
from lab.errors import UsageError
from lab.probes.position import NEAR, both_losses
from lab.probes.subject import Subject, octaves, t_interval
from tasks.task import Batch

SEQUENCES = 128
VIEW = View(
    "distance", "loss", "distance to the latest copy, bytes (octaves)", "loss, nats", logx=True, shade="context",
    low="low", high="high",
    caption="Loss on bytes that end a run of four that is already in the context, by the distance to it; faint: the same bytes, "
    f"with no more than {NEAR} bytes before them to read. Bars: 95 % t-intervals over sequences.",
)  # fmt: skip


def measure(subject: Subject) -> Finding:
    """
    Raises:
        UsageError: the task does not say which symbols are copied.
    """
    rows = [_rows(subject, batch) for batch in subject.examples(SEQUENCES)]
    every = concat([each.assign(sequence=each["sequence"] + 1000 * at) for at, each in enumerate(rows)], ignore_index=True)
    parts, numbers = [], {}
    for context in ("whole", "short"):
        mine = every[every["context"] == context]
        found = mine[mine["copied"] == 1].groupby("distance")
        for distance, some in found:
            value, low, high = t_interval(some.groupby("sequence")["loss"].mean().to_numpy())
            parts.append((context, int(distance), value, low, high, len(some)))
        for name, flag in (("copied", 1), ("others", 0)):
            value, low, high = t_interval(mine[mine["copied"] == flag].groupby("sequence")["loss"].mean().to_numpy())
            after = "" if context == "whole" else "_short"
            numbers[f"{name}{after}"] = value
            numbers |= {f"{name}_low": low, f"{name}_high": high} if context == "whole" else {}
    table = DataFrame(parts, columns=["context", "distance", "loss", "low", "high", "bytes"])
    whole = every[every["context"] == "whole"]
    numbers["share"] = float(whole["copied"].mean())
    numbers["copying"] = _worth(every)
    said = f"{numbers['share']:.0%} of the bytes are copied: {numbers['copied']:.3f} nats on them, {numbers['others']:.3f} on " \
           f"the others; looking back further than {NEAR} bytes was worth {numbers['copying']:+.3f}"  # fmt: skip
    return Finding({"copied": Sheet(table, VIEW)}, numbers, said)


def _worth(every: DataFrame) -> float:
    """Nats that a short context costs on bytes whose run is farther back than it reaches, beyond what it costs on others."""
    mean = every.assign(far=every["distance"] >= NEAR).groupby(["far", "copied", "context"])["loss"].mean()
    found: dict[tuple[bool, int, str], float] = mean.to_dict()

    def lost(far: bool, copied: int) -> float:
        return float(found.get((far, copied, "short"), np.nan) - found.get((far, copied, "whole"), np.nan))

    return lost(True, 1) - lost(False, 0)


def _rows(subject: Subject, batch: Batch) -> DataFrame:
    """A row for each byte and context: sequence, copied, distance in octaves, loss."""
    if not {"copied", "distance"} <= set(batch.slices):
        raise UsageError(f"{subject.name}: the task does not say what is copied; this probe needs a run on text")
    whole, short = both_losses(subject, batch)
    asked = np.isfinite(short)  # the same bytes in both
    copied, distance = (batch.slices[name].numpy()[asked] for name in ("copied", "distance"))
    about = {"sequence": np.nonzero(asked)[0], "copied": copied, "distance": octaves(distance)}
    return concat(
        [DataFrame(about | {"context": name, "loss": losses[asked]}) for name, losses in (("whole", whole), ("short", short))]
    )

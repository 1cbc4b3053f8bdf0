"""Accuracy by distance and by number of pairs, beside the pairs of positions that attention can connect in 1, 2, ... layers.

The task is made with 1, 2, 4 times as many pairs (`pairs` of recall, `keys` of needle) as in training, and fewer, at the same
length; accuracy is by the task's own slice, in octaves of the distance (recall) or tenths of the depth (needle, 0 is far away).
Intervals are Wilson's.

Which input a layer's output depends on is found by trying: in a batch of as many equal sequences as there are positions, row j
is changed at position j; where its output differs, there the layer connects them. Nothing need be known of the mask. Layers are
taken one by one, with residual branches; what several connect is the boolean product of theirs. Child et al., arXiv:1904.10509,
section 4.2, ask of factorised attention that its layers together connect all.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

from typing import Any

import numpy as np
import torch
from pandas import DataFrame, concat

from architectures.backbone import Backbone, LengthError, SequenceMap
from lab.analysis.aggregate import wilson
from lab.analysis.findings import Finding, Sheet, View
from lab.errors import UsageError
from lab.evaluation import held_out
from lab.probes.subject import Subject, octaves, wide
from tasks.task import UNASKED, Task

COUNTS = {"pairs": "gap", "keys": "depth"}
"""The setting that is the number of pairs, and the slice that is the distance."""
EXAMPLES = 256
FACTORS = (-4, -2, 1, 2, 4)
"""Times the pairs of training; negative ones divide."""
LENGTH = 256
"""Positions at which connections are tried."""
CELLS = 64
"""Of the map of connections along each side."""


def measure(subject: Subject) -> Finding:
    """
    Raises:
        UsageError: the backbone is not causal, or the task has no pairs to recall.
    """
    subject.need_causal()
    setting = next(
        (name for name in COUNTS if name in subject.spec.task_settings and COUNTS[name] in subject.task.buckets()), None
    )
    if setting is None or subject.task.pooled:
        raise UsageError(f"{subject.name}: this probe needs a task with pairs to recall: recall or needle")
    trained = _count(subject.task, setting)
    parts = []
    for factor in FACTORS:
        count = trained * factor if factor > 0 else trained // -factor
        try:
            task = subject.variant(**{setting: count, "length": subject.task.length}) if count >= 1 else None
            parts += [] if task is None else [_accuracy(subject, task, COUNTS[setting]).assign(pairs=count)]
        except (UsageError, LengthError):  # so many do not fit
            continue
    table = concat(parts, ignore_index=True)
    mine = table[table["pairs"] == trained]
    numbers = {"accuracy": float(np.average(mine["accuracy"], weights=mine["answers"]))}
    nearest, farthest = mine.loc[mine["distance"].idxmin()], mine.loc[mine["distance"].idxmax()]
    if setting == "keys":
        nearest, farthest = farthest, nearest
    numbers |= {"nearest": float(nearest["accuracy"]), "farthest": float(farthest["accuracy"])}
    label = "distance, positions (octaves)" if setting == "pairs" else "depth of the needle, tenths"
    view = View(
        "distance", "pairs", label, "pairs", kind="map", value="accuracy", valuelabel="accuracy", logx=setting == "pairs",
        caption=f"Accuracy by {label.partition(',')[0]} and by number of pairs; trained on {trained}.",
    )  # fmt: skip
    sheets = {"recall-map": Sheet(table, view)}
    said = f"accuracy {numbers['accuracy']:.3f} with {trained} {setting}; near {numbers['nearest']:.3f}, " \
           f"far {numbers['farthest']:.3f}"  # fmt: skip
    layers = connections(subject.model.backbone, min(subject.task.length, LENGTH))
    if layers:
        needed = layers_needed(layers)
        sheets["reach"] = Sheet(_cells(needed), REACH)
        below = np.tril_indices(len(needed))
        shares = {depth: float((needed[below] <= depth).mean()) for depth in range(1, len(layers) + 1)}
        numbers |= {"reach_1": shares[1], "reach": shares[len(layers)]}
        said += (
            "; positions before reached in " + ", ".join(f"{depth}: {share:.0%}" for depth, share in shares.items()) + " layers"
        )
    return Finding(sheets, numbers, said)


REACH = View(
    "key", "query", "position that is read", "position that reads", kind="map", value="layers", valuelabel="layers", reverse=True,
    caption="The number of layers after which a position can depend on an earlier one; white: on none.",
)  # fmt: skip


def connections(backbone: Backbone, length: int) -> list[np.ndarray]:
    """For each layer, (query, key): whether its output there depends on its input there; none where it cannot be taken apart."""
    found = []
    for index in range(backbone.depth):
        try:
            layer = backbone.as_layer(index)
        except ValueError:
            return []
        found.append(dependence(layer, backbone.dim, length))
    return found


def dependence(layer: SequenceMap, dim: int, length: int) -> np.ndarray:
    """(output, input): whether the output at a position changes with the input at another."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, dim, dtype=torch.float64, generator=generator)
    layer, found = wide(layer).eval(), []
    with torch.no_grad():
        same = layer(x)
        for rows in torch.arange(length).split(32):
            changed = x.repeat(len(rows), 1, 1)
            changed[torch.arange(len(rows)), rows] = torch.randn(len(rows), dim, dtype=torch.float64, generator=generator)
            found.append((layer(changed) - same).abs().amax(2) > 1e-13 * same.abs().max())
    return torch.cat(found).numpy().T


def layers_needed(layers: list[np.ndarray]) -> np.ndarray:
    """(query, key): the first number of layers that connect them; infinite where none do."""
    reached, needed = np.eye(len(layers[0]), dtype=bool), np.full(layers[0].shape, np.inf)
    for depth, layer in enumerate(layers, 1):
        reached = (layer.astype(np.float32) @ reached.astype(np.float32)) > 0
        needed = np.where(reached & np.isinf(needed), depth, needed)
    return needed


def _cells(needed: np.ndarray) -> DataFrame:
    """The least of each cell of a coarse map."""
    length = len(needed)
    size = -(-length // CELLS)
    coarse = np.full((-(-length // size) * size,) * 2, np.inf)
    coarse[:length, :length] = needed
    least = coarse.reshape(len(coarse) // size, size, len(coarse) // size, size).min((1, 3))
    query, key = np.nonzero(np.isfinite(least))
    return DataFrame({"query": query * size, "key": key * size, "layers": least[query, key].astype(int)})


def _count(task: Task, setting: str) -> int:
    value: Any = getattr(task, setting, None) or getattr(getattr(task, "_source", None), setting, None)
    return int(value)


def _accuracy(subject: Subject, task: Task, name: str) -> DataFrame:
    right, places = [], []
    for batch in held_out(task, "test", EXAMPLES):
        with torch.no_grad():
            predictions = subject.model(batch.inputs, batch.positions, batch.lengths)
        asked = batch.targets != UNASKED
        right.append((predictions.argmax(-1) == batch.targets)[asked])
        places.append(batch.slices[name][asked])
    value = torch.cat(places).numpy()
    frame = DataFrame({"distance": value if name == "depth" else octaves(value), "right": torch.cat(right).numpy()})
    rows = []
    for distance, some in frame.groupby("distance"):
        share = wilson(int(some["right"].sum()), len(some))
        rows.append((distance, float(share), share.low, share.high, len(some)))
    return DataFrame(rows, columns=["distance", "accuracy", "low", "high", "answers"])

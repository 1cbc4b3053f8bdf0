"""Where FLOPs go: those of training on one position, by part of the model and by kind, at 1, 4 and 16 times the training length.

A part is what an architecture's own maps count for themselves (`flops` of its attention, its recurrence, its channel mixer, by
class), the head, and what is left: norms, residual sums, positions, the input layer. The parts add up to what budgets count, with
pointwise operations beside: those are no part of a budget (lab/budget.py). Counts are of shapes; nothing is run.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false

import torch
from pandas import DataFrame

from architectures.backbone import Flops, LengthError, SequenceMap
from lab.analysis.findings import Finding, Sheet, View
from lab.budget import TRAIN_OVER_FORWARD
from lab.model import Model, model_of
from lab.probes.subject import Subject, nearest

TIMES = (1, 4, 16)
REST = "norms, sums, input"
VIEW = View(
    "times", "flops", "length / training length", "training FLOPs a position", kind="bars", shade="part",
    caption="Training FLOPs (contraction and mixing) of a position by part of the model, at multiples of the training length.",
)  # fmt: skip


def measure(subject: Subject) -> Finding:
    """What its spec's model costs."""
    with torch.device("meta"):
        model = model_of(subject.spec, subject.task)
    length, answers, rows = subject.task.length, subject.task.answers, []
    for times in TIMES:
        try:
            parts = by_part(model, times * length, times * answers if answers == length else answers)
        except LengthError:
            break
        for part, cost in parts.items():
            each = TRAIN_OVER_FORWARD / (times * length)
            kinds = {kind: each * value for kind, value in cost.kinds.items()}
            rows.append({"times": times, "length": times * length, "part": part, "flops": each * cost.headline, **kinds})
    table = DataFrame(rows)
    first = table[table["times"] == 1].set_index("part")["flops"]
    most = str(first.idxmax())
    numbers = {"per_token": float(first.sum()), "largest_part": most, "largest_share": float(first.max() / first.sum())}
    said = f"{first.sum():,.0f} training FLOPs a position, {first.max() / first.sum():.0%} of them in {most}"
    return Finding({"flops": Sheet(table, VIEW)}, numbers, said)


def by_part(model: Model, length: int, answers: int) -> dict[str, Flops]:
    """Forward FLOPs of one sequence alone, what a batch would share included, by part; together those of `model.flops`."""
    total = model.flops(length, answers).batch(1)
    found = {"head": Flops(contraction=2 * answers * model.head.weight.numel())}
    for module in _own(model.backbone):
        name = type(module).__name__
        found[name] = found.get(name, Flops()) + module.flops(length // model.towers).batch(1) * model.towers
    rest = total + sum(found.values(), Flops()) * -1
    return {name: Flops(cost.contraction, cost.mixing, cost.pointwise) for name, cost in (found | {REST: rest}).items()}


def _own(module: SequenceMap) -> list[SequenceMap]:
    """The maps that do not only hold others: a block is taken apart, a mixer that counts more than its helpers is not."""
    parts = list(nearest(module).values())
    if not parts or (module.flops(64).headline > sum(part.flops(64).headline for part in parts)):
        return [module]
    return [each for part in parts for each in _own(part)]

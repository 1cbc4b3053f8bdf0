"""Law 6, operations: `flops` declares the contractions that torch executes, to the last operation.

They are counted in `forward` at several lengths and batch sizes, with and without causality. They grow in proportion to
the batch, but for what its sequences are declared to share, so that the cost of a sequence is well defined; and what is
declared of every kind, like what is counted, grows by the same amount with every layer, or with every turn of layers of several
kinds. A declared minimum is no more than what is declared. Every operator, backward ones too, is known to the counter.
"""

import math
from collections.abc import Sequence

import torch

from architectures.backbone import Backbone, Flops
from lab.counter import Counter
from lab.laws.subject import LONG, Broken, Subject, noise

KINDS = ("contraction", "mixing", "pointwise")


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    turn = subject.build().period * subject.depth
    depths = [turn, 2 * turn, 3 * turn]
    for causal in subject.forms:
        deep = [subject.build(depth=depth, causal=causal) for depth in depths]
        for batch, length in zip((1, 2, 3), (7, 33, 61), strict=True):
            _declared_is_counted(subject, deep[0], batch, min(length, subject.longest), causal)
        if subject.longest > 61:
            _declared_is_counted(subject, deep[0], 1, min(LONG - 1, subject.longest), causal)
        length = subject.lengths(33)[0]
        _backward_is_known(subject, deep[0], length)
        costs = [_declared(subject, model, length) for model in deep]
        counts = [_counted(subject, model, 1, length).contraction for model in deep]
        for kind in KINDS:
            _linear_in_depth(f"declared {kind}", depths, [cost.kinds[kind] for cost in costs])
            _linear_in_depth(f"declared shared {kind}", depths, [_shared(cost).kinds[kind] for cost in costs])
        _linear_in_depth("counted contraction", depths, counts)
    return ""


def _declared_is_counted(subject: Subject, model: Backbone, batch: int, length: int, causal: bool) -> None:
    cost = _declared(subject, model, length)
    shared, declared = _shared(cost).contraction, cost.batch(batch).contraction
    single = _counted(subject, model, 1, length)
    counted = single if batch == 1 else _counted(subject, model, batch, length)
    where = f"at length {length}, batch {batch}" + ("" if causal else ", causal=False")
    if counted.contraction - shared != batch * (single.contraction - shared):
        raise Broken(
            f"counted contraction is not linear in batch: {single.contraction} for one sequence, "
            f"{counted.contraction} {where}; what a batch shares is declared as such, and {shared} was"
        )
    if counted.contraction != declared:
        ratio = declared / counted.contraction if counted.contraction else math.inf
        raise Broken(
            f"declared contraction {declared} is {ratio:.4g} times the counted "
            f"{counted.contraction} {where}; counted {dict(counted.by_operator)}"
        )


def _declared(subject: Subject, model: Backbone, length: int) -> Flops:
    subject.doing = f"flops({length})"
    cost = model.flops(length)
    least = cost.least
    for part, which in ((cost, ""), (_shared(cost), "shared."), (least, "minimum."), (_shared(least), "minimum.shared.")):
        for kind, value in part.kinds.items():
            if type(value) is not int or value < 0:
                raise Broken(f"flops({length}).{which}{kind} is {value!r}, not a non-negative int")
    if least.batch(1).headline > cost.batch(1).headline:
        raise Broken(f"flops({length}).minimum is {least.batch(1).headline}, more than the {cost.batch(1).headline} declared")
    return cost


def _shared(cost: Flops) -> Flops:
    return cost.shared or Flops()


def _counted(subject: Subject, model: Backbone, batch: int, length: int) -> Counter:
    x = noise(batch, length, subject.dim)
    with torch.no_grad(), Counter() as counter:
        subject.read(model, x)
    _known(counter, "forward")
    return counter


def _backward_is_known(subject: Subject, model: Backbone, length: int) -> None:
    subject.doing = f"backward of length {length}"
    with Counter() as counter:
        subject.read(model, noise(2, length, subject.dim)).sum().backward()
    _known(counter, "backward")


def _known(counter: Counter, where: str) -> None:
    if counter.unknown:
        raise Broken(f"operators in {where} that lab/counter.py cannot count: {', '.join(sorted(counter.unknown))}")


def _linear_in_depth(what: str, depths: Sequence[int], costs: Sequence[int]) -> None:
    if costs[2] - costs[1] != costs[1] - costs[0]:
        shown = ", ".join(f"{cost} at depth {depth}" for depth, cost in zip(depths, costs, strict=True))
        raise Broken(f"{what} is not linear in depth: {shown}")

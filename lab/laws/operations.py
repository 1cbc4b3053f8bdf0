"""Law 6, operations: `flops` declares the contractions that torch executes, to the last operation.

They are counted in `forward` at several lengths and batch sizes, with and without causality. They grow in proportion to
the batch, so that the cost of a sequence is well defined; and what is declared of every kind, like what is counted, grows
by the same amount with every layer, or with every turn of layers of several kinds.
"""

import math
from collections.abc import Sequence

import torch

from architectures.backbone import Backbone, Flops
from lab.counter import Counter
from lab.laws.subject import Broken, Subject, noise

KINDS = ("contraction", "mixing", "pointwise")


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    turn = subject.build().period * subject.depth
    depths = [turn, 2 * turn, 3 * turn]
    for causal in subject.forms:
        deep = [subject.build(depth=depth, causal=causal) for depth in depths]
        for batch, length in zip((1, 2, 3), (7, 33, 61), strict=True):
            _declared_is_counted(subject, deep[0], batch, min(length, subject.longest), causal)
        length = subject.lengths(33)[0]
        costs = [_declared(subject, model, length) for model in deep]
        counts = [_counted(subject, model, 1, length).contraction for model in deep]
        for kind in KINDS:
            _linear_in_depth(f"declared {kind}", depths, [getattr(cost, kind) for cost in costs])
        _linear_in_depth("counted contraction", depths, counts)
    return ""


def _declared_is_counted(subject: Subject, model: Backbone, batch: int, length: int, causal: bool) -> None:
    declared = _declared(subject, model, length)
    single = _counted(subject, model, 1, length)
    counted = _counted(subject, model, batch, length)
    where = f"at length {length}, batch {batch}" + ("" if causal else ", causal=False")
    if counted.contraction != batch * single.contraction:
        raise Broken(
            f"counted contraction is not linear in batch: {single.contraction} for one sequence, "
            f"{counted.contraction} {where}; work that a batch shares must not be a contraction"
        )
    if counted.contraction != batch * declared.contraction:
        ratio = batch * declared.contraction / counted.contraction if counted.contraction else math.inf
        raise Broken(
            f"declared contraction {batch * declared.contraction} is {ratio:.4g} times the counted "
            f"{counted.contraction} {where}; counted {dict(counted.by_operator)}"
        )


def _declared(subject: Subject, model: Backbone, length: int) -> Flops:
    subject.doing = f"flops({length})"
    cost = model.flops(length)
    for kind in KINDS:
        value = getattr(cost, kind)
        if type(value) is not int or value < 0:
            raise Broken(f"flops({length}).{kind} is {value!r}, not a non-negative int")
    return cost


def _counted(subject: Subject, model: Backbone, batch: int, length: int) -> Counter:
    x = noise(batch, length, subject.dim)
    with torch.no_grad(), Counter() as counter:
        subject.read(model, x)
    if counter.unknown:
        raise Broken(f"operators that lab/counter.py cannot count: {', '.join(sorted(counter.unknown))}")
    return counter


def _linear_in_depth(what: str, depths: Sequence[int], costs: Sequence[int]) -> None:
    if costs[2] - costs[1] != costs[1] - costs[0]:
        shown = ", ".join(f"{cost} at depth {depth}" for depth, cost in zip(depths, costs, strict=True))
        raise Broken(f"{what} is not linear in depth: {shown}")

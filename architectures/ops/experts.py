"""A mixture of experts: a router sends each position through a few of many channel mixers.

    z = W_r x;   T = the `active` largest of z;   y = sum_{i in T} softmax_T(z)[i] E_i(x)
    auxiliary = 0.01 experts sum_i f[i] P[i]      f: share of all choices that fell on i;   P: mean of softmax(z)[i]

Eight experts with two active and the softmax over those: Mixtral, Jiang et al., arXiv:2401.04088, section 2.1. The auxiliary
loss, least where all experts get as much, and the router in float32: Switch, Fedus et al., arXiv:2101.03961, sections 2.2 and
2.4; two experts of each position: GShard, Lepikhin et al., arXiv:2006.16668, section 2.2. Departures: no expert has a capacity,
because dropping positions would make them depend on each other; f counts both choices, where Switch has one to count; the
router starts as torch's linear maps. Where several processes share a batch, f is of all that they read at once; P, in which the
loss is linear, is averaged with the gradients: together the loss of one process. Positions are sorted by expert, and each expert
is called once.

The choice is a jump: where two logits are equal to rounding, two ways to compute the same may choose differently.
"""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as dist

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops.precision import full_precision

BALANCE = 0.01


class Experts(SequenceMap):
    """`experts` maps of each position by itself, of which the `active` that the router scores highest are used."""

    def __init__(self, dim: int, expert: Callable[[], SequenceMap], experts: int = 8, active: int = 2) -> None:
        super().__init__()
        self.active = active
        self.router = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(expert() for _ in range(experts))

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of (positions, dim): all probabilities, and the weights and numbers of the chosen experts."""
        with full_precision(x):  # autocast would round the router's scores
            scores = self.router(x.to(self.router.weight.dtype))
        best, chosen = scores.topk(self.active)
        return scores.softmax(-1), best.softmax(-1), chosen

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        positions = x.flatten(0, 1)
        probabilities, weights, chosen = self.route(positions)
        choices, balanced = chosen.flatten(), self.training and torch.is_grad_enabled()
        order = choices.argsort()
        if x.is_meta:  # any split will do
            counts = [len(choices), *[0] * (len(self.experts) - 1)]
            shares = torch.zeros_like(probabilities[0])
        else:
            counted = choices.bincount(minlength=len(self.experts))
            counts = counted.tolist()
            if balanced and dist.is_initialized():
                dist.all_reduce(counted)
            shares = counted.to(probabilities.dtype) / counted.sum()
        if balanced:
            self.auxiliary = BALANCE * len(self.experts) * (shares * probabilities.mean(0)).sum()
        parts = positions.index_select(0, order.div(self.active, rounding_mode="floor"))[None].split(counts, 1)
        found = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)], 1)[0]
        found = found.index_select(0, order.argsort()).unflatten(0, chosen.shape)
        return (weights[..., None].to(found.dtype) * found).sum(1).view_as(x)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        return self.forward(x) if x.shape[1] else x, state

    def flops(self, length: int) -> Flops:
        """Of what is active, whichever experts that are."""
        experts, dim = self.router.weight.shape
        chosen = cast(SequenceMap, self.experts[0]).flops(length * self.active)
        # softmax over the chosen (5), weights times outputs and their sum
        pointwise = (5 + 2 * dim) * self.active - dim
        return chosen + Flops(contraction=2 * dim * experts, pointwise=pointwise) * length


def experts_definition(x: Tensor, mixture: Experts) -> Tensor:
    """Every expert on every position, weighted, with weight zero for those that are not chosen."""
    probabilities = (x @ mixture.router.weight.T).exp()
    least = probabilities.sort(-1).values[..., -mixture.active, None]
    kept = probabilities * (probabilities >= least)
    weights = kept / kept.sum(-1, keepdim=True)
    return torch.stack([expert(x) for expert in mixture.experts], -1).mul(weights[..., None, :]).sum(-1)

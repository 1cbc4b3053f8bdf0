"""A backbone between an input layer and an output head: the one model every architecture trains in."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from architectures.backbone import Backbone, Flops
from lab import plugins
from lab.errors import UsageError
from tasks.task import Task, Tokens, Vectors


class Model(nn.Module):
    """Input layer, backbone, head. Embeddings are normal with the backbone's `embedding_std`; its own weights are left alone."""

    def __init__(self, backbone: Backbone, task: Task) -> None:
        super().__init__()
        self.backbone, self.pooled = backbone, task.pooled
        if isinstance(task.inputs, Tokens):
            self.read: nn.Module = nn.Embedding(task.inputs.vocabulary, backbone.dim)
            nn.init.normal_(self.read.weight, std=backbone.embedding_std)
        else:
            assert isinstance(task.inputs, Vectors)
            self.read = nn.Linear(task.inputs.dim, backbone.dim)
        self.head = nn.Linear(backbone.dim, task.outputs, bias=False)

    def forward(
        self, inputs: Shaped[Tensor, "size length *dim"], positions: Int[Tensor, "size answers"] | None = None
    ) -> Float[Tensor, "size *answers outputs"]:
        """Predictions at `positions`, at every position where None is given, or one a sequence in a pooled task."""
        y = self.backbone(self.read(inputs))
        if self.pooled:
            y = y.mean(1)
        elif positions is not None:
            y = y.gather(1, positions[:, :, None].expand(-1, -1, y.shape[-1]))
        return self.head(y)

    def flops(self, length: int, answers: int) -> Flops:
        """Forward, one sequence of `length` positions with the head at `answers` of them."""
        cost = self.backbone.flops(length) + Flops(contraction=2 * answers * self.head.weight.numel())
        if isinstance(self.read, nn.Linear):
            cost = cost + Flops(contraction=2 * length * self.read.weight.numel(), pointwise=length * self.backbone.dim)
        return cost + (Flops(pointwise=length * self.backbone.dim) if self.pooled else Flops())


def build(name: str, task: Task, *, dim: int, depth: int, settings: Mapping[str, Any]) -> Model:
    """The model of an architecture for a task, on torch's current device, drawn from torch's current generator.

    Raises:
        UsageError: the architecture refuses these settings; says its reason.
    """
    cls = plugins.load("architectures", name)
    try:
        return Model(cls(dim, depth, causal=task.causal, **settings), task)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"--architectures {name} at dim={dim}, depth={depth}: {error}") from error


def build_task(name: str, settings: Mapping[str, Any]) -> Task:
    """A task from its settings.

    Raises:
        UsageError: the task refuses them; says its reason.
    """
    try:
        return plugins.load("tasks", name)(**settings)
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(f"--tasks {name}: {error}") from error


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers; a complex one is two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters() if p.requires_grad)


def state_size(backbone: Backbone, length: int) -> int | None:
    """Numbers remembered after `length` positions of one sequence, measured; None where it cannot stream.

    The backbone must be on the meta device, so that no memory is touched.
    """
    if not backbone.causal:
        return None
    x = torch.zeros(1, length, backbone.dim, device="meta")
    with torch.no_grad():
        leaves = tree_leaves(backbone.stream(x, backbone.init_state(1))[1])
    return sum(leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in leaves if isinstance(leaf, Tensor))

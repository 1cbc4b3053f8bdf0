"""A backbone between an input layer and an output head: the one model every architecture trains in."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from architectures.backbone import Backbone, Flops, SequenceMap, State
from architectures.ops.positions import sinusoids
from architectures.stack import Residual
from lab import plugins
from lab.errors import UsageError, reason
from lab.recipe import Recipe
from lab.run import Spec
from tasks.task import Task, Tokens, Vectors


class Model(nn.Module):
    """Input layer, backbone, head. Embeddings are normal with the backbone's `embedding_std`; its own weights are left alone.

    Where a task says so, the head reads two towers side by side or decodes every answer from the last position. Where the recipe
    says so, the head is the embedding (of a task whose answers are its tokens), and training drops a share of the embeddings and
    of what each residual branch of the shared stack adds.
    """

    def __init__(self, backbone: Backbone, task: Task, recipe: Recipe = Recipe()) -> None:  # noqa: B008  it is frozen
        super().__init__()
        self.dropout = recipe.dropout
        for branch in backbone.modules():
            if isinstance(branch, Residual):
                branch.dropout = recipe.dropout
        self.backbone, self.pooled, self.towers, self.answers = backbone, task.pooled, task.towers, task.answers
        if isinstance(task.inputs, Tokens):
            self.read: nn.Module = nn.Embedding(task.inputs.vocabulary, backbone.dim)
            nn.init.normal_(self.read.weight, std=backbone.embedding_std)
        else:
            assert isinstance(task.inputs, Vectors)
            self.read = nn.Linear(task.inputs.dim, backbone.dim)
        if recipe.tied and isinstance(task.inputs, Tokens) and task.inputs.vocabulary == task.outputs and task.towers == 1:
            self.head: nn.Linear = Tied(self.read, backbone.embedding_std)
        else:
            self.head = nn.Linear(backbone.dim * (4 if task.towers == 2 else 1), task.outputs, bias=False)
        self.decoder = Decoder(backbone.dim) if task.bottleneck else None

    def forward(
        self,
        inputs: Shaped[Tensor, "size length *dim"],
        positions: Int[Tensor, "size answers"] | None = None,
        lengths: Int[Tensor, "size *towers"] | None = None,
    ) -> Float[Tensor, "size *answers outputs"]:
        """Predictions at `positions`, at every position where None is given, or one a sequence in a pooled task."""
        y = self.backbone(F.dropout(self.read(self.halves(inputs)), self.dropout, self.training))
        if self.pooled:
            y = y.mean(1) if lengths is None else mean_of_first(y, lengths.flatten())
            if self.towers == 2:
                first, second = rearrange(y, "(size two) dim -> two size dim", two=2)
                y = torch.cat([first, second, first * second, first - second], 1)
        elif self.decoder is not None:
            y = self.decoder(y[:, -1], self.answers)
        elif positions is not None:
            y = y.gather(1, positions[:, :, None].expand(-1, -1, y.shape[-1]))
        return self.head(y)

    def stream(
        self, inputs: Shaped[Tensor, "size length *dim"], state: State
    ) -> tuple[Float[Tensor, "size length outputs"], State]:
        """Predictions at every position of what goes on after `state` of the backbone, and the state after it."""
        y, state = self.backbone.stream(F.dropout(self.read(inputs), self.dropout, self.training), state)
        return self.head(y), state

    def halves(self, inputs: Shaped[Tensor, "size length *dim"]) -> Shaped[Tensor, "rows positions *dim"]:
        """What the backbone reads as a row: a sequence, or with two towers each half of it."""
        return rearrange(inputs, "size (two half) ... -> (size two) half ...", two=2) if self.towers == 2 else inputs

    def in_pieces(
        self, inputs: Shaped[Tensor, "size length *dim"], positions: Int[Tensor, "size answers"], piece: int
    ) -> Float[Tensor, "size answers outputs"]:
        """`forward` of a sequence too long to be held whole: `piece` positions at a time, with the state carried along."""
        state, found = self.backbone.init_state(len(inputs)), 0
        for start in range(0, inputs.shape[1], piece):
            y, state = self.backbone.stream(self.read(inputs[:, start : start + piece]), state)
            here = positions - start
            read = y.gather(1, here.clamp(0, y.shape[1] - 1)[:, :, None].expand(-1, -1, y.shape[-1]))
            found = found + read * ((here >= 0) & (here < y.shape[1]))[:, :, None]
        return self.head(found)

    @property
    def parameters_by_part(self) -> dict[str, int]:
        """Trainable numbers of embeddings that are only looked up, and not the head's too; of the head; and of the rest."""
        looked_up = isinstance(self.read, nn.Embedding) and self.read.weight is not self.head.weight
        embedding = count_parameters(self.read) if looked_up else 0
        head = count_parameters(self.head)
        return {"embedding": embedding, "body": count_parameters(self) - embedding - head, "head": head}

    def flops(self, length: int, answers: int) -> Flops:
        """Forward, one sequence of `length` positions with the head at `answers` of them."""
        cost = self.backbone.flops(length // self.towers) * self.towers
        cost = cost + Flops(contraction=2 * answers * self.head.weight.numel())
        if isinstance(self.read, nn.Linear):
            cost = cost + Flops(contraction=2 * length * self.read.weight.numel(), pointwise=length * self.backbone.dim)
        if self.decoder is not None:
            cost = cost + self.decoder.flops(answers)
        return cost + (Flops(pointwise=length * self.backbone.dim) if self.pooled else Flops())


class Tied(nn.Linear):
    """The embedding as a head. Where its scale would make logits larger than one at first, they are divided by that: by the root
    of the width for embeddings N(0, 1), as in PaLM (arXiv:2204.02311, section 5), and by nothing for N(0, 0.02), as in GPT-2.
    """

    def __init__(self, embedding: nn.Module, std: float) -> None:
        weight = embedding.get_parameter("weight")
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = weight
        self.scale = min(1.0, 1 / (std * math.sqrt(weight.shape[1])))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * self.scale)


class Decoder(nn.Module):
    """Answers of a bottleneck: the one vector and a sinusoid for each answer's number, through two layers as wide as itself.

    Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844, section 3 and appendix B.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.RMSNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.RMSNorm(dim), nn.Linear(dim, dim), nn.GELU()
        )
        self.dim = dim

    def forward(self, vector: Float[Tensor, "size dim"], answers: int) -> Float[Tensor, "size answers dim"]:
        return self.layers(vector[:, None] + sinusoids(0, answers, vector))

    def flops(self, answers: int) -> Flops:
        return Flops(contraction=4 * answers * self.dim**2, pointwise=16 * answers * self.dim)


def mean_of_first(y: Float[Tensor, "size length dim"], lengths: Int[Tensor, "size"]) -> Float[Tensor, "size dim"]:
    """The mean over the first `lengths` positions of each sequence."""
    counted = torch.arange(y.shape[1], device=y.device) < lengths[:, None]
    return (y * counted[:, :, None]).sum(1) / lengths[:, None]


def build(
    name: str,
    task: Task,
    *,
    dim: int,
    depth: int,
    settings: Mapping[str, Any],
    recipe: Recipe = Recipe(),  # noqa: B008  it is frozen
) -> Model:
    """The model of an architecture for a task, on torch's current device, drawn from torch's current generator.

    Raises:
        UsageError: the architecture refuses these settings; says its reason.
    """
    cls = plugins.load("architectures", name)
    try:
        return Model(cls(dim, depth, causal=task.causal, **settings), task, recipe)
    except Exception as error:
        named = plugins.told("architectures", name)
        raise UsageError(f"--architectures {named} at dim={dim}, depth={depth}: {reason(error)}") from error


def model_of(spec: Spec, task: Task) -> Model:
    """The model of a run, with the weights it begins with from torch's generator. task: the spec's."""
    return build(spec.names[0], task, dim=spec.dim, depth=spec.depth, settings=spec.settings, recipe=Recipe.read(spec.recipe))


def build_task(name: str, settings: Mapping[str, Any]) -> Task:
    """A task from its settings.

    Raises:
        UsageError: the task refuses them; says its reason.
    """
    try:
        return plugins.load("tasks", name)(**settings)
    except Exception as error:
        raise UsageError(f"--tasks {plugins.told('tasks', name)}: {reason(error)}") from error


def code_of(architecture: str, task: str, backbone: Backbone) -> dict[str, str]:
    """Hashes of the code of two plug-ins, by kind. architecture, task: their names; backbone: built of the first."""
    parts = {type(module) for module in backbone.modules() if isinstance(module, SequenceMap)}
    return {
        "architectures": plugins.fingerprint("architectures", architecture, parts),
        "tasks": plugins.fingerprint("tasks", task),
    }


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

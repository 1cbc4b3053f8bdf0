"""The contract of every sequence architecture.

A sequence map turns (batch, length, dim) into (batch, length, dim). A layer is one, a stack of layers is one, and both keep
the same promise, the streaming law: cut x into pieces in any way, `stream` them one after the other, and the outputs laid
end to end are `forward(x)`. One piece is the parallel form; one position at a time is the recurrent form.

A new architecture writes `flops` and any one of

* `forward(x)`: streaming then remembers the inputs and recomputes, which is correct for every causal map;
* `stream(x, state)` with `init_state`: `forward` is then one piece;
* `step(x, state)` with `init_state`: one position; `stream` and `forward` are then loops.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

State = Any
"""Tensors in any nesting of tuples, lists and dicts. It is a value: `stream` returns a new one and leaves the old one valid."""


@dataclass(frozen=True)
class Tuning:
    """How one parameter trains: its learning rate relative to the recipe's, and whether weight decay applies to it."""

    lr_scale: float = 1.0
    decay: bool = False


@dataclass(frozen=True)
class Flops:
    """Real floating point operations of one forward pass over one sequence; a multiply-add is two.

    contraction: matrix products and convolutions, with causal attention counted over its L(L+1)/2 pairs.
    mixing: what else mixes positions or states: softmax over scores, scans, FFTs, state updates.
    pointwise: norms, activations, gates, residual sums, rotations.
    shared: besides, what is done once for all sequences of a batch: a filter that is made of parameters.
    minimum: the cheapest exact form, where it is not the one that trains: a recurrence that training runs in chunks.
    """

    contraction: int = 0
    mixing: int = 0
    pointwise: int = 0
    shared: "Flops | None" = None
    minimum: "Flops | None" = None

    def __add__(self, other: "Flops") -> "Flops":
        shared = self.shared + other.shared if self.shared and other.shared else self.shared or other.shared
        minimum = self.least + other.least if self.minimum or other.minimum else None
        sums = (self.contraction + other.contraction, self.mixing + other.mixing, self.pointwise + other.pointwise)
        return Flops(*sums, shared, minimum)

    def __mul__(self, times: int) -> "Flops":
        products = (self.contraction * times, self.mixing * times, self.pointwise * times)
        return Flops(*products, self.shared and self.shared * times, self.minimum and self.minimum * times)

    def batch(self, size: int) -> "Flops":
        """Those of one forward pass over a batch, with what its sequences share."""
        each = Flops(self.contraction, self.mixing, self.pointwise) * size
        return replace(each + self.shared if self.shared else each, minimum=self.minimum and self.minimum.batch(size))

    def or_cheaper(self, other: "Flops") -> "Flops":
        """These, with another exact form of the same map as `minimum` where it costs less for every size of a batch."""
        saves = other.headline < self.headline and other.batch(1).headline < self.batch(1).headline
        return replace(self, minimum=other) if saves else self

    @property
    def least(self) -> "Flops":
        """The cheapest exact form; itself where it declares no other."""
        return self.minimum or self

    @property
    def headline(self) -> int:
        """What budgets are measured in: contraction plus mixing. What a batch shares is apart: see `batch`."""
        return self.contraction + self.mixing

    @property
    def kinds(self) -> dict[str, int]:
        """By name, without what a batch shares."""
        return {"contraction": self.contraction, "mixing": self.mixing, "pointwise": self.pointwise}


class LengthError(ValueError):
    """The sequence is longer than this architecture can read."""


class SequenceMap(nn.Module, ABC):
    """A map from sequences to sequences of the same shape: a layer, or a stack of layers."""

    tuned: ClassVar[Mapping[str, Tuning]] = {}
    """Parameters of this module (by attribute name) that train with their own learning rate or without decay."""

    auxiliary: Tensor | None = None
    """A loss of this map's own, left by `forward` in training; it is added to the task's, but not to what is recorded."""

    def __init__(self) -> None:
        cls = type(self)
        if all(getattr(cls, way) is getattr(SequenceMap, way) for way in ("forward", "stream", "step")):
            raise TypeError(f"{cls.__name__} defines none of forward, stream and step; it needs one")
        super().__init__()

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """All positions at once."""
        return self.stream(x, self.init_state(x.shape[0]))[0]

    def init_state(self, batch: int) -> State:
        """What is remembered before the first position, for `batch` sequences."""
        return ()

    def stream(self, x: Float[Tensor, "batch length dim"], state: State) -> tuple[Float[Tensor, "batch length dim"], State]:
        """The next positions, any number of them (none included), after `state`; and the state after them."""
        if not x.shape[1]:  # a `forward` need not read an empty sequence
            return x, state
        if type(self).step is not SequenceMap.step:
            outputs = []
            for position in x.unbind(1):
                y, state = self.step(position, state)
                outputs.append(y)
            return torch.stack(outputs, 1), state
        seen = torch.cat([*state, x], 1)
        return self.forward(seen)[:, seen.shape[1] - x.shape[1] :], (seen,)

    def step(self, x: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        """The next position after `state`, and the state after it."""
        y, state = self.stream(x[:, None], state)
        return y[:, 0], state

    @abstractmethod
    def flops(self, length: int) -> Flops:
        """Operations of `forward` on one sequence of `length` positions, exactly as this architecture executes them."""

    def zeros(self, *shape: int) -> Tensor:
        """Zeros where this map's parameters live, for `init_state`."""
        like = next(self.parameters())
        return torch.zeros(shape, dtype=like.dtype, device=like.device)  # a parameter that is shared out would make such zeros


class Backbone(SequenceMap):
    """What `--architecture` names: a stack `depth` deep and `dim` wide.

    Every keyword of a subclass is a setting: typed, with a default and a one-line meaning in `Annotated`. It initialises
    itself; the lab never touches its weights. `causal=False` builds the form that reads the whole sequence, which has no
    `stream`.
    """

    embedding_std: float = 0.25
    """Scale of the token embeddings this architecture is meant to read. A small one hides the token behind the first blocks'
    output in the residual stream, and a model that must look a token up then hardly learns to: lab/studies/default.toml."""

    searched: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Settings that `--tune` tries besides the learning rate, each with the values to try."""

    recipe: ClassVar[str] = ""
    """The training recipe that its authors prescribe, as `--recipe` takes it (`gpt3:lr=1e-3`), with its source in a comment. It
    is used where `--recipe` is not given; none asked for is the lab's, the same for all."""

    period: int = 1
    """Layers after which the kinds of layers repeat."""

    def __init__(self, dim: int, depth: int, *, causal: bool = True) -> None:
        super().__init__()
        self.dim, self.depth, self.causal = dim, depth, causal

    def as_layer(self, index: int) -> SequenceMap:
        """Block `index` itself, as a layer of another stack: with a copy of what this one does to its input, and no final norm.

        Raises:
            ValueError: this architecture cannot be taken apart.
        """
        raise ValueError(f"{type(self).__name__} cannot be taken apart into layers")

    @staticmethod
    def named(text: str) -> tuple[type["Backbone"], dict[str, Any]]:
        """What `name:key=value,...` stands for, for a backbone that is made of others. lab/plugins.py, which knows, replaces it.

        Raises:
            ValueError: there is no such architecture or setting; names the nearest.
        """
        raise ValueError(f"{text}: architectures have names once lab.plugins.load was called")

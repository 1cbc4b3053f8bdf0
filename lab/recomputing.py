"""Less memory for a third more work: most of what the forward pass computes is dropped and computed again in the backward pass.

Of each layer its input is kept (Chen et al., arXiv:1604.06174, section 4). A long sequence that is read by a backbone whose state
has a constant size is cut in time instead: of each piece its input and the state before it are kept, so that all layers together
need the memory of a piece, however long the sequence, and nothing is computed a third time. The gradient is that of the whole
sequence, through all states.
"""

import copy
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from architectures.backbone import Backbone, SequenceMap, State
from lab import carried

PIECE = 4096
"""Positions; shorter pieces need less memory, and more of it for the states between them."""


def recompute(backbone: Backbone) -> None:
    """Change a backbone in place; names of parameters stay."""
    in_pieces = _remembers_little(backbone)
    for layer in layers(backbone):
        for way in ("forward", "stream"):
            setattr(layer, way, partial(_by_layer, getattr(layer, way)))
    if in_pieces:
        backbone.forward = partial(_forward, backbone, backbone.forward, backbone.stream)


def layers(backbone: Backbone) -> list[nn.Module]:
    """Those of a stack, or else the backbone as a whole."""
    found = getattr(backbone, "layers", None)
    return list(found) if isinstance(found, nn.ModuleList) else [backbone]


def _forward(backbone: Backbone, whole: Callable[..., Tensor], stream: Callable[..., Any], x: Tensor) -> Tensor:
    if x.shape[1] < 2 * PIECE:
        return whole(x)
    state, outputs = backbone.init_state(x.shape[0]), []
    for piece in x.split(PIECE, 1):
        y, state = checkpoint(_whole_piece, stream, piece, state, use_reentrant=False)
        outputs.append(y)
    return torch.cat(outputs, 1)


_pieces: ContextVar[bool] = ContextVar("pieces", default=False)


def _whole_piece(stream: Callable[..., Any], piece: Tensor, state: State) -> Any:
    """Computed again as one, with all of its layers."""
    before = _pieces.set(True)
    try:
        return stream(piece, state)
    finally:
        _pieces.reset(before)


def _by_layer(layer: Callable[..., Any], *inputs: Any) -> Any:
    return layer(*inputs) if _pieces.get() else checkpoint(layer, *inputs, use_reentrant=False)


def _remembers_little(backbone: Backbone) -> bool:
    """Whether its state is of constant size, and no loss of its own wants the whole sequence."""
    if not backbone.causal:
        return False
    shape = copy.deepcopy(backbone).to("meta", torch.float32)
    try:
        carried.settled(shape, PIECE, 2, most=2)
    except (ValueError, NotImplementedError):
        return False
    return all(module.auxiliary is None for module in shape.modules() if isinstance(module, SequenceMap))

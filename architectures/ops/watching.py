"""Where attention looks: an attention function, given the identity for values, answers with its weights.

with watched() as seen: backbone(x)        seen has the weights of every call, (batch, heads, queries, keys)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

Function = TypeVar("Function", bound=Callable[..., Tensor])
_watchers: list[list[Tensor]] = []


def watchable(attention: Function) -> Function:
    """The same function of queries, keys and values, and more; while it is watched, it is asked for its weights too."""

    @wraps(attention)
    def asked(q: Tensor, k: Tensor, v: Tensor, *args: Any, **settings: Any) -> Tensor:
        if _watchers:
            weights = _weights(attention, q, k, v, *args, **settings)
            for seen in _watchers:
                seen.append(weights)
        return attention(q, k, v, *args, **settings)

    return cast(Function, asked)


@torch.no_grad()
def _weights(attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **settings: Any) -> Tensor:
    """The columns of the identity, as many at a time as values are wide."""
    width = v.shape[3]
    identity = torch.eye(k.shape[2], dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)
    columns = [attention(q, k, F.pad(part, (0, width - part.shape[3])), *args, **settings) for part in identity.split(width, 3)]
    return torch.cat(columns, 3)[..., : k.shape[2]]


@contextmanager
def watched() -> Iterator[list[Tensor]]:
    """The weights of all watchable attention that is called in the block, in the order of the calls."""
    seen: list[Tensor] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)

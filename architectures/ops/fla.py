"""Kernels of flash-linear-attention (github.com/fla-org/flash-linear-attention) on a GPU, where the extra `gpu` is installed.

They serve what autocast computes in bfloat16: queries, keys, values and rates go in as bfloat16, log decays and states, in which
they add up, as float32. In float32 their products would be TensorFloat-32, and some refuse it; so there, as without the extra,
the form in tensors runs. All of them take (batch, length, heads, width) and a state (batch, heads, key, value).
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from architectures.ops import native

SHORTEST = 64  # positions of one of their chunks


def kernels(topic: str, length: int, state: Tensor) -> ModuleType | None:
    """`fla.ops.<topic>`, or None where the form in tensors is to run."""
    if length < SHORTEST or native.watched() or not _in_bfloat16_on_a_gpu(state):
        return None
    return _load(topic)


def simple_gla(found: ModuleType, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """A decay for each head; queries and keys of one head serve all."""
    q, k = (x.expand(*v.shape[:3], -1) for x in (q, k))
    given = [*_half(q, k, v), log_decay.expand(v.shape[:3]).contiguous()]
    return _done(v, found.chunk_simple_gla(*given, scale=1.0, **_from(state)))


def gla(found: ModuleType, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """A decay for each key."""
    log_decay = decay.clamp_min(torch.finfo(decay.dtype).tiny).log()
    return _done(v, found.chunk_gla(*_half(q, k, v), log_decay, scale=1.0, **_from(state)))


def delta_rule(found: ModuleType, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return _done(v, found.chunk_delta_rule(*_half(q, k, v, beta), scale=1.0, **_from(state)))


def gated_delta_rule(
    found: ModuleType, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    *qkv, beta = _half(q, k, v, beta)
    return _done(v, found.chunk_gated_delta_rule(*qkv, log_decay, beta, scale=1.0, **_from(state)))


def wkv6(
    found: ModuleType, r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    given = [*_half(r, k, v), log_decay.expand_as(r).contiguous(), bonus]
    return _done(v, found.chunk_rwkv6(*given, scale=1.0, **_from(state)))


def wkv7(
    found: ModuleType, r: Tensor, log_decay: Tensor, k: Tensor, v: Tensor, c: Tensor, a: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    r, *rest = _half(r, k, v, -c, a * c)
    return _done(v, found.chunk_rwkv7(r, log_decay.contiguous(), *rest, scale=1.0, **_from(state)))


def _half(*tensors: Tensor) -> list[Tensor]:
    return [x.to(torch.bfloat16).contiguous() for x in tensors]


def _from(state: Tensor) -> dict[str, Tensor | bool]:
    return {"initial_state": state.contiguous(), "output_final_state": True}


def _done(v: Tensor, made: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    y, last = made
    return y.to(v.dtype), last


def _in_bfloat16_on_a_gpu(state: Tensor) -> bool:
    on = state.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    return on and state.dtype == torch.float32


@cache
def _load(topic: str) -> ModuleType | None:
    return import_module(f"fla.ops.{topic}") if find_spec("fla") else None

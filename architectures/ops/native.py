"""Compiled kernels for recurrences on a CPU, where numba is installed.

A recurrence written with tensors passes over memory many times; a kernel runs it as one loop over time with its state in the
core's own memory. The kernels of a topic are `ops/kernels/<topic>.py`; the op beside this file has the form in tensors, which
runs everywhere else (without numba, on a GPU, in other dtypes, under tracing and counting) and whose operations are the ones that
`flops` declares: the same budget buys the same steps with and without kernels.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd import Function

Kernel = Callable[..., None]
"""kernel(first, last, *arrays): does the items of work from `first` up to `last`, which share no output."""

FEW = 2**17
"""Numbers that one thread is through with before another would have begun."""

_timed = ContextVar("timed", default=False)


def kernels(topic: str, *tensors: Tensor) -> ModuleType | None:
    """The compiled kernels of a topic, or None where they cannot take these tensors, all of one dtype."""
    if watched():
        return None
    dtype = tensors[0].dtype
    if dtype not in (torch.float32, torch.float64):
        return None
    for x in tensors:
        if not x.is_cpu or x.dtype != dtype:
            return None
    return _load(topic)


def watched() -> bool:
    """Whether operations are counted or traced, for which they must be torch's own."""
    return bool(torch._C._len_torch_dispatch_stack()) or torch.compiler.is_compiling()


def reformed() -> bool:
    """Whether a form may run that takes less time but more operations than those which are declared."""
    return not watched() or _timed.get()


@contextmanager
def timed() -> Iterator[None]:
    """What is counted inside is for the sake of its time, and not of what is declared."""
    token = _timed.set(True)
    try:
        yield
    finally:
        _timed.reset(token)


def call(function: type[Function], *arguments: Any) -> Any:
    """`function.apply`; without gradients its `forward` alone, as what autograd does around it costs more than one position."""
    return function.apply(*arguments) if torch.is_grad_enabled() else function.forward(_Unrecorded(), *arguments)


def recorded(ctx: Any) -> bool:
    """Whether there may be a way back."""
    return not isinstance(ctx, _Unrecorded)


def run(kernel: Kernel, items: int, *arguments: Tensor | float | None) -> None:
    """Do all items of work, on as many threads as torch uses if there is enough of it. Arguments: contiguous tensors without
    gradients, numbers, and None."""
    view = _view if dist.is_initialized() else Tensor.numpy
    arrays = [view(x) if isinstance(x, Tensor) else x for x in arguments]
    threads = min(torch.get_num_threads(), items)
    if threads < 2 or sum(x.size for x in arrays if isinstance(x, np.ndarray)) < FEW:
        kernel(0, items, *arrays)
        return
    own, *parts = pairwise(items * i // threads for i in range(threads + 1))
    others: list[Future[None]] = [_pool(os.getpid(), threads).submit(kernel, *part, *arrays) for part in parts]
    kernel(*own, *arrays)
    for other in others:
        other.result()


def flat(x: Tensor) -> Tensor:
    """All numbers from the first of x to its last, along which its strides count."""
    reach = 1 + sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((max(reach, 0),), (1,))


def _view(x: Tensor) -> np.ndarray:
    """As `x.numpy()`, after which a storage keeps its size for ever; that of a weight that processes share does not."""
    return np.from_dlpack(x.detach())


class _Unrecorded:
    """Where a function leaves what its way back needs, when there is none."""

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


@cache
def _load(topic: str) -> ModuleType | None:
    return import_module(f"architectures.ops.kernels.{topic}") if find_spec("numba") else None


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; one that was forked off makes its own."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix=f"kernels-{process}")

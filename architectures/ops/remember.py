"""What is made of parameters alone, remembered from one position to the next until a parameter changes."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")
Key = tuple[tuple[Tensor, int, int], ...]


class Remembered:
    """While gradients are off, `make` is called again only after a parameter was written to or replaced. Copies begin empty.

    A call with gradients forgets: torch's fused optimizers write to parameters without a new version.
    """

    def __init__(self) -> None:
        self._key: Key = ()
        self._value: Any = None

    def __call__(self, make: Callable[[], Value], *parameters: Tensor) -> Value:
        if torch.is_grad_enabled() or torch._C._len_torch_dispatch_stack():
            self._key, self._value = (), None
            return make()
        key = tuple((parameter, parameter._version, parameter.data_ptr()) for parameter in parameters)
        if not _same(key, self._key):
            self._key, self._value = key, make()
        return self._value

    def __reduce__(self) -> tuple[type["Remembered"], tuple[()]]:
        return Remembered, ()


def _same(now: Key, before: Key) -> bool:
    return len(now) == len(before) and all(
        a is b and version == earlier and place == former
        for (a, version, place), (b, earlier, former) in zip(now, before, strict=True)
    )

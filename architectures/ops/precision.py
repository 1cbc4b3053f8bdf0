"""Recurrences and routers compute in the precision of their states, whatever autocast says; small products begin at once."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

FEW = 2048


def full_precision(x: Tensor) -> AbstractContextManager:
    """No autocast where `x` is; some devices, such as meta, have none, and where it is off it stays so."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def few(x: Tensor) -> bool:
    """Whether these are the numbers of some positions that are streamed, all of whose products are small."""
    return x.is_cpu and x.numel() <= FEW and not torch.is_grad_enabled()


@contextmanager
def quick_start(small: bool) -> Iterator[None]:
    """Where products are small: those of the library that float32 may have been told to use (lab/machine.py) are twice as fast
    but take 12 us to begin, torch's own hardly any."""
    chosen = torch.get_float32_matmul_precision()
    if not small or chosen == "highest" or torch.compiler.is_compiling():
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)

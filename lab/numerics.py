"""How far arithmetic in lower precision carries a backbone from the exact output, by length.

All weights are those of one float32 backbone, all errors are relative to the largest output of their sequence.
"""

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from architectures.backbone import Backbone, LengthError
from lab.laws.subject import SEED, Subject, difference, largest, noise, widen

LENGTHS = (16, 64, 256, 1024, 4096, 16384)
_COLUMNS = ("float32", "rms", "streaming", "bfloat16", "rms")


@dataclass(frozen=True)
class Errors:
    """float32 against float64 of the same weights; streaming in four pieces against `forward`, both float32 or both float64;
    bfloat16 autocast against float32. Largest, and root mean square. `refused` says why there are none at this length."""

    length: int
    float32: float | None = None
    float32_rms: float | None = None
    streaming: float | None = None
    streaming_float64: float | None = None
    bfloat16: float | None = None
    bfloat16_rms: float | None = None
    refused: str = ""


def errors(subject: Subject, lengths: Collection[int], seed: int = SEED) -> tuple[Errors, ...]:
    """Measured at each length, of weights drawn under a seed; a length that the backbone refuses or fails at is told so."""
    model = subject.awake(seed=seed)
    exact = widen(deepcopy(model))
    found = []
    for length in lengths:
        try:
            with torch.no_grad():
                found.append(_at(subject, model, exact, length))
        except LengthError as error:
            found.append(Errors(length, refused=f"refuses this length: {_line(error)}"))
        except Exception as error:
            found.append(Errors(length, refused=f"{type(error).__name__}: {_line(error)} (while {subject.doing})"))
    return tuple(found)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def _at(subject: Subject, model: Backbone, exact: Backbone, length: int) -> Errors:
    x = noise(1, length, subject.dim)
    single = subject.read(model, x)
    with torch.autocast(x.device.type, torch.bfloat16):
        half = model(x)
    exact_y = subject.read(exact, x.double())
    exactly, low = _relative(single, exact_y), _relative(half, single)
    if not model.causal:
        return Errors(length, *exactly, None, None, *low)
    pieces, wide = _relative(_in_pieces(model, x), single)[0], _relative(_in_pieces(exact, x.double()), exact_y)[0]
    return Errors(length, *exactly, pieces, wide, *low)


def _in_pieces(model: Backbone, x: Tensor) -> Tensor:
    """Streamed in four pieces, one of them a single position."""
    length, state, pieces = x.shape[1], model.init_state(1), []
    for piece in x.split([length // 2, 1, length // 4, length - length // 2 - 1 - length // 4], 1):
        y, state = model.stream(piece, state)
        pieces.append(y)
    return torch.cat(pieces, 1)


def _relative(y: Tensor, reference: Tensor) -> tuple[float, float]:
    change = difference(y.double(), reference.double()) / max(largest(reference), 1e-300)
    return change.max().item(), change.square().mean().sqrt().item()


def table(found: Collection[Errors]) -> str:
    """Aligned, a row a length."""
    rows = [f"{'positions':>13}" + "".join(f"{title:>11}" for title in _COLUMNS)]
    for at in found:
        cells = (at.float32, at.float32_rms, at.streaming, at.bfloat16, at.bfloat16_rms)
        shown = (
            f"    {at.refused}" if at.refused else "".join(f"{'-':>11}" if cell is None else f"{cell:>11.1e}" for cell in cells)
        )
        rows.append(f"{at.length:>13,}{shown}")
    return "\n".join(rows)

"""Reconstruct: having read a signal to its end, say what its last part was.

    0.00 0.31 0.52 0.44 0.17 -0.20        with a window of 4 and 2 points the answer at the end is -0.20 0.44

What HiPPO (Gu et al., arXiv:2008.07669) is made for: the state must hold the recent past, and a linear map must read it back. The
sizes are those of the data published with S4 (state-spaces/s4): 4000 steps of a band-limited white signal
(tasks/sources/signals.py) of 100 Hz and rms 0.5, in steps of 1 ms; the window is the last 1000. Its data asks for all 1000
values. Ours asks for `points` of them, evenly spaced from the last one back: 2 * frequency * window, as many as there are
independent numbers in a window of such a signal, so 200 of 1000. That keeps the output head small and asks for as much memory;
points=1000 is the published form. The published score is the root of ours, which is the mean square.
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.sources.signals import count_waves, mean_square_change, white_signals
from tasks.task import Batch, Split, Task, Vectors

SIZES = {"published": (4000, 1000), "laptop": (256, 64)}
"""Length and window."""


class Reconstruct(Task):
    """Remember the last part of a white signal. After Gu et al., arXiv:2008.07669; sizes of state-spaces/s4."""

    real = True
    metric = "mean_squared_error"

    def __init__(
        self,
        *,
        preset: Annotated[Literal["published", "laptop"], "sizes: length 4000 and window 1000; 256 and 64"] = "published",
        length: Annotated[int | None, "steps of a signal; none given: as in the preset"] = None,
        window: Annotated[int | None, "steps to remember at the end; none given: as in the preset"] = None,
        frequency: Annotated[float, "highest of the signal, in cycles a step"] = 0.1,
        points: Annotated[int | None, "values of the window to give; none given: 2 * frequency * window"] = None,
    ) -> None:
        length = SIZES[preset][0] if length is None else length
        window = SIZES[preset][1] if window is None else window
        if not 1 <= window <= length:
            raise ValueError(f"window={window} for length={length}: at least 1 and at most the length")
        count_waves(length, frequency)
        points = math.ceil(2 * frequency * window) if points is None else points
        if not 1 <= points <= window:
            raise ValueError(f"points={points} for window={window}: at least 1 and at most the window")
        self.length, self.window, self.frequency, self.points = length, window, frequency, points
        self.inputs, self.outputs, self.answers = Vectors(1), points, 1
        self._asked = length - 1 - window * np.arange(points) // points

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        signals = white_signals(split, index, size, seed, length=self.length, frequency=self.frequency)
        return Batch(signals, self._read(signals), torch.full((size, 1), self.length - 1))

    def _read(self, signals: Tensor) -> Tensor:
        return signals[:, self._asked].mT.contiguous()

    def baselines(self) -> dict[str, float]:
        change = mean_square_change(self.length, self.frequency)
        last = change[self.length - 1 - self._asked]
        return {"chance": float(change[self._asked].mean()), "the last value": float(last.mean())}

    def shortcuts(self):
        return {
            "chance": lambda batch: torch.zeros_like(batch.targets),
            "the last value": lambda batch: batch.inputs[:, -1:].expand_as(batch.targets),
        }

    def oracle(self, batch: Batch) -> Tensor:
        return self._read(batch.inputs)

    def harder(self) -> dict[str, Task]:
        fixed = {"window": self.window, "frequency": self.frequency, "points": self.points}
        return {f"length={length}": Reconstruct(length=length, **fixed) for length in (2 * self.length, 4 * self.length)}

    def example(self, batch: Batch, row: int) -> str:
        signal, answer = batch.inputs[row, -self.window :, 0], batch.targets[row, 0]
        shown, told = (" ".join(f"{number:.2f}" for number in numbers) for numbers in (signal[-8:], answer[:8]))
        return f"... {shown} [{told}{' ...' if self.points > 8 else ''}]"

"""Delay: say at every position what the input was some steps ago.

    0.00 0.31 0.52 0.44        with a delay of 2 the answers are 0, 0, 0.00, 0.31

Gu et al., "How to Train Your HiPPO", arXiv:2206.12037, the continuous delay task, with the sizes of its published data: 4000
steps of a band-limited white signal (tasks/sources/signals.py) of 1000 Hz and rms 0.5, in steps of 0.25 ms, delayed by 1000 of
them. A window of 1000 steps of such a signal holds 2 * 0.25 * 1000 = 500 independent numbers, and nothing less than a memory of
as many passes it on. Answers before the delay is over are 0. The published score is the root of ours, which is the mean square.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.sources.signals import count_waves, mean_square_change, white_signals
from tasks.task import Batch, Split, Task, Vectors

SIZES = {"published": (4000, 1000), "laptop": (256, 64)}
"""Length and delay."""


class Delay(Task):
    """Repeat a white signal after a delay. Gu et al., arXiv:2206.12037."""

    real = True
    metric = "mean_squared_error"

    def __init__(
        self,
        *,
        preset: Annotated[Literal["published", "laptop"], "sizes: length 4000 and delay 1000; 256 and 64"] = "published",
        length: Annotated[int | None, "steps of a signal; none given: as in the preset"] = None,
        delay: Annotated[int | None, "steps between input and answer; none given: as in the preset"] = None,
        frequency: Annotated[float, "highest of the signal, in cycles a step"] = 0.25,
    ) -> None:
        length = SIZES[preset][0] if length is None else length
        delay = SIZES[preset][1] if delay is None else delay
        if not 1 <= delay < length:
            raise ValueError(f"delay={delay} for length={length}: at least 1 and less than the length")
        count_waves(length, frequency)
        self.length, self.delay, self.frequency = length, delay, frequency
        self.inputs, self.outputs, self.answers = Vectors(1), 1, length

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        signals = white_signals(split, index, size, seed, length=self.length, frequency=self.frequency)
        return Batch(signals, self._delayed(signals))

    def _delayed(self, signals: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(signals[:, : self.delay]), signals[:, : -self.delay]], 1)

    def baselines(self) -> dict[str, float]:
        change = mean_square_change(self.length, self.frequency)
        early, late = change[: self.delay].sum(), (self.length - self.delay) * change[self.delay]
        return {
            "chance": float(change[: -self.delay].sum() / self.length),
            "the present value": float((early + late) / self.length),
        }

    def shortcuts(self):
        return {"chance": lambda batch: torch.zeros_like(batch.targets), "the present value": lambda batch: batch.inputs}

    def oracle(self, batch: Batch) -> Tensor:
        return self._delayed(batch.inputs)

    def harder(self) -> dict[str, Task]:
        lengths = [times * self.length for times in (2, 4)]
        return {f"length={length}": Delay(length=length, delay=self.delay, frequency=self.frequency) for length in lengths}

    def example(self, batch: Batch, row: int) -> str:
        signal, answers = batch.inputs[row, :, 0], batch.targets[row, :, 0]
        shown = np.linspace(0, self.length - 1, 9).astype(int)
        return " ... ".join(f"{signal[t]:.2f}[{answers[t]:.2f}]" for t in shown)

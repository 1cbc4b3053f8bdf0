"""The adding problem: two of many numbers are marked; give their sum at the end.

    0.31 0.72* 0.05 0.44 0.90* 0.63        the answer at the end is 1.62

Hochreiter & Schmidhuber, "Long Short-Term Memory", 1997, in the form of Arjovsky et al., "Unitary Evolution Recurrent Neural
Networks", arXiv:1511.06464, section 5.2: a position holds a number from U(0, 1) and a 0, or a 1 where it is marked; one position
of each half is. Answering 1 always errs by 1/6. Numbers are multiples of 2^-24, which single precision holds exactly.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.task import Batch, Split, Task, Vectors, of_split

LENGTHS = {"published": 1000, "laptop": 64}
BITS = 24


class Adding(Task):
    """The adding problem. Arjovsky et al., arXiv:1511.06464, section 5.2."""

    real = True
    metric = "mean_squared_error"

    def __init__(
        self,
        *,
        preset: Annotated[Literal["published", "laptop"], "size: length 1000; 64"] = "published",
        length: Annotated[int | None, "numbers of a sequence; none given: as in the preset"] = None,
    ) -> None:
        length = LENGTHS[preset] if length is None else length
        if length < 2:
            raise ValueError(f"length={length}: at least 2 numbers are needed, one to mark in each half")
        self.length = length
        self.inputs, self.outputs, self.answers = Vectors(2), 1, 1

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        half = self.length // 2
        drawn = rng.integers(1 << BITS, size=(count, self.length + 2), dtype=np.int32)
        drawn[:, -2], drawn[:, -1] = rng.integers(half, size=count), rng.integers(half, self.length, count)
        return {"inputs": drawn}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)["inputs"]
        numbers = drawn[:, :-2] * 2.0**-BITS
        marks = torch.zeros_like(numbers).scatter_(1, drawn[:, -2:].long(), 1.0)
        inputs = torch.stack([numbers, marks], 2)
        return Batch(inputs, self._sum(inputs), torch.full((size, 1), self.length - 1))

    def _sum(self, inputs: Tensor) -> Tensor:
        return inputs.prod(2).sum(1)[:, None, None]

    def baselines(self) -> dict[str, float]:
        return {"chance": 1 / 6, "the second number and a half": 1 / 12}

    def shortcuts(self):
        def second(batch: Batch) -> Tensor:
            return self._sum(batch.inputs[:, self.length // 2 :]) + 0.5

        return {"chance": lambda batch: torch.ones_like(batch.targets), "the second number and a half": second}

    def oracle(self, batch: Batch) -> Tensor:
        return self._sum(batch.inputs)

    def harder(self) -> dict[str, Task]:
        return {f"length={length}": Adding(length=length) for length in (2 * self.length, 5 * self.length)}

    def example(self, batch: Batch, row: int) -> str:
        words = [f"{number:.2f}{'*' if mark else ''}" for number, mark in batch.inputs[row].tolist()]
        return " ".join([*words, f"[{batch.targets[row].item():.2f}]"])

"""Parity: is the number of ones odd?

    1 0 1 1 =[1] . .        the answer is read at the =; dots are padding

Trained on 3 to 40 bits and tested on 40 to 256, as in Beck et al., "xLSTM", arXiv:2405.04517, and Grazzi et al., "Unlocking
State-Tracking in Linear RNNs Through Negative Eigenvalues", arXiv:2411.12537, section 5.1, after Deletang et al., "Neural
Networks and the Chomsky Hierarchy", arXiv:2207.02098. Every number of bits is as likely. A linear recurrence of finite precision
can only do it with negative or complex eigenvalues. Published scores are scaled accuracies, (accuracy - 1/2) / (1 - 1/2), of the
best of three runs; here they are accuracies again. longest=10 is a laptop's size.
"""

from functools import cache
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tasks.task import Batch, Reference, Split, Task, Tokens, of_split, share_right

END, PADDING = 2, 3
WINDOW = 8


class Parity(Task):
    """Parity of a string of bits. Grazzi et al., arXiv:2411.12537, section 5.1."""

    references = tuple(
        Reference(
            name, round((1 + scaled) / 2, 4), "longest=256,shortest=40", "arXiv:2411.12537, table 3, trained on 3 to 40 bits"
        )
        for name, scaled in [
            ("Transformer", 0.022),
            ("mLSTM", 0.087),
            ("sLSTM", 1.0),
            ("Mamba, eigenvalues in [0, 1]", 0.0),
            ("Mamba, eigenvalues in [-1, 1]", 1.0),
            ("DeltaNet, eigenvalues in [0, 1]", 0.017),
            ("DeltaNet, eigenvalues in [-1, 1]", 1.0),
        ]
    )

    def __init__(
        self,
        *,
        shortest: Annotated[int, "fewest bits"] = 3,
        longest: Annotated[int, "most bits, at least 10"] = 40,
    ) -> None:
        if not 1 <= shortest <= longest or longest < 10:
            raise ValueError(f"shortest={shortest}, longest={longest}: give 1 <= shortest <= longest, and longest at least 10")
        self.shortest, self.longest = shortest, longest
        self.inputs, self.outputs, self.length, self.answers = Tokens(4), 2, longest + 1, 1

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        bits = rng.integers(0, 2, (count, self.length))
        ends = rng.integers(self.shortest, self.longest + 1, (count, 1))
        ahead = ends - np.arange(self.length)
        inputs = np.where(ahead > 0, bits, np.where(ahead, PADDING, END))
        return {"inputs": inputs, "targets": (bits * (ahead > 0)).sum(1, keepdims=True) % 2, "positions": ends}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        return Batch(drawn["inputs"], drawn["targets"], drawn["positions"], slices={"bits": drawn["positions"]})

    def baselines(self) -> dict[str, float]:
        return {"chance": 0.5, **_measured(self.shortest, self.longest)}

    def shortcuts(self):
        return {f"last {WINDOW} bits only": lambda batch: self._parity(batch, WINDOW)}

    def oracle(self, batch: Batch) -> Int[Tensor, "size 1"]:
        return self._parity(batch, self.longest)

    def _parity(self, batch: Batch, window: int) -> Int[Tensor, "size 1"]:
        assert batch.positions is not None
        ahead = batch.positions - torch.arange(batch.inputs.shape[1])
        return (batch.inputs * ((ahead > 0) & (ahead <= window))).sum(1, keepdim=True) % 2

    def harder(self) -> dict[str, Task]:
        return {"longer": Parity(shortest=self.longest, longest=256 * self.longest // 40)}

    def buckets(self) -> dict[str, list[int]]:
        return {"bits": [2**k for k in range(self.longest.bit_length())]}

    def symbols(self) -> list[str]:
        return ["0", "1", "=", "."]


@cache
def _measured(shortest: int, longest: int) -> dict[str, float]:
    task = Parity(shortest=shortest, longest=longest)
    return {name: share_right(task, rule) for name, rule in task.shortcuts().items()}

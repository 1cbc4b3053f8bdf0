"""Induction heads: a trigger stands once among random symbols; when it comes again, say what followed it.

    c a f * k b a d ... e c *        the answer at the last * is k

Gu & Dao, "Mamba", arXiv:2312.00752, section 4.1.2: 16 symbols, trained at length 256 and tested from 64 up to 1,048,576 without
further training. Solving it at every length needs a rule (remember what follows the trigger), not a table of distances. The
trigger is one of the 16 symbols and the place of its first occurrence is uniform. Tested up to `longest`; longest=1048576 is the
published range. A laptop learns it sooner at length=64.
"""

from collections.abc import Callable
from functools import cache
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from tasks.task import Batch, Reference, Split, Task, Tokens, of_split, share_right

PUBLISHED = {
    "attention, absolute positions": {256: 1.0, 512: 0.586, 1024: 0.266, 2048: 0.188, 4096: 0.098, 16384: 0.078},
    "attention, RoPE": {256: 1.0, 512: 0.836, 1024: 0.313, 2048: 0.184, 4096: 0.086, 16384: 0.055},
    "attention, xPos": {256: 1.0, 512: 0.996, 1024: 0.676, 2048: 0.254, 4096: 0.070, 16384: 0.078},
    "H3": {256: 1.0, 512: 0.809, 1024: 0.395, 2048: 0.238, 4096: 0.148, 16384: 0.059},
    "Hyena": {256: 1.0, 1024: 0.441, 2048: 0.125, 4096: 0.066, 16384: 0.070},
    "Mamba": {2**k: 1.0 for k in range(8, 21)},
}
"""Accuracy of models trained at length 256, by the length that they were tested at."""


class Induction(Task):
    """Induction heads, tested far beyond the length trained on. Gu & Dao, arXiv:2312.00752, section 4.1.2."""

    references = [
        Reference(
            f"{model}, trained at 256",
            score,
            "" if length == 256 else f"length={length}",
            "arXiv:2312.00752, table of the induction heads",
        )
        for model, scores in PUBLISHED.items()
        for length, score in scores.items()
    ]

    def __init__(
        self,
        *,
        length: Annotated[int, "positions of a training sequence"] = 256,
        vocabulary: Annotated[int, "symbols, the trigger included"] = 16,
        longest: Annotated[int, "longest sequence that is tested, from a quarter of the length on, each twice as long"] = 4096,
    ) -> None:
        if vocabulary < 3:
            raise ValueError(f"vocabulary={vocabulary}: at least 3 symbols, one of them the trigger")
        if length < 4:
            raise ValueError(f"length={length}: at least 4 positions, for the trigger twice, the answer and what it stands among")
        self.vocabulary, self.longest = vocabulary, longest
        self.inputs, self.outputs, self.length, self.answers = Tokens(vocabulary), vocabulary, length, 1

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        rows, last = np.arange(count), self.length - 1
        kind = np.uint8 if self.vocabulary <= 256 else np.int64
        inputs = rng.integers(1, self.vocabulary, (count, self.length), kind)
        trigger = rng.integers(last - 1, size=count)
        inputs[rows, trigger] = inputs[:, last] = 0
        return {"inputs": inputs, "targets": inputs[rows, trigger + 1, None], "gap": (last - trigger)[:, None]}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        asked = torch.full((size, 1), self.length - 1)
        return Batch(drawn["inputs"].long(), drawn["targets"].long(), asked, slices={"gap": drawn["gap"]})

    def baselines(self) -> dict[str, float]:
        return {"chance": 1 / (self.vocabulary - 1), "the most frequent symbol": _most_frequent(self.length, self.vocabulary)}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        def most_frequent(batch: Batch) -> Tensor:
            return F.one_hot(batch.inputs, self.vocabulary)[..., 1:].sum(1).argmax(1, keepdim=True) + 1

        return {"the most frequent symbol": most_frequent}

    def oracle(self, batch: Batch) -> Int[Tensor, "size 1"]:
        trigger = (batch.inputs == 0).int().argmax(1, keepdim=True)
        return batch.inputs.gather(1, trigger + 1)

    def harder(self) -> dict[str, Task]:
        shortest = max(4, self.length // 4)
        lengths = [shortest << k for k in range((self.longest // shortest).bit_length())]
        return {
            f"length={length}": Induction(length=length, vocabulary=self.vocabulary, longest=self.longest)
            for length in lengths
            if length != self.length
        }

    def buckets(self) -> dict[str, list[int]]:
        return {"gap": [2**k for k in range(1, self.length.bit_length())]}

    def symbols(self) -> list[str]:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return ["*", *(letters if self.vocabulary <= 27 else map(str, range(1, self.vocabulary)))][: self.vocabulary]


@cache
def _most_frequent(length: int, vocabulary: int) -> float:
    task = Induction(length=length, vocabulary=vocabulary)
    return share_right(task, task.shortcuts()["the most frequent symbol"])

"""Selective copying: data tokens lie scattered in noise; reproduce them in order.

    . a . . b . c . . | > > >        the answers at the three markers are a, b, c; dots are noise (token 0)

Gu & Dao, "Mamba", arXiv:2312.00752, section 4.1.1, after Jing et al. 2019. A model that cannot select by content keeps the
noise as well as the data. Symbol 0 is noise, the last symbol is the marker, the others are data. The published size is
tokens=16,length=4096 of vocabulary=16; the default is a laptop's. The vocabulary holds the marker too, so that of 16 symbols 14
are data.
"""

from functools import cache
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from tasks.task import Batch, Reference, Split, Task, Tokens, of_split, share_right

PUBLISHED = "tokens=16,length=4096"
GU = "Gu & Dao, arXiv:2312.00752, table 1"
FENG = "Feng et al., arXiv:2410.01201, table of selective copying"


class SelectiveCopying(Task):
    """Selective copying. Gu & Dao, arXiv:2312.00752, section 4.1.1."""

    also = ("exact",)
    references = (
        Reference("S4", 0.183, PUBLISHED, GU),
        Reference("S6 without gate", 0.970, PUBLISHED, GU),
        Reference("H3 with S4", 0.570, PUBLISHED, GU),
        Reference("Hyena", 0.301, PUBLISHED, GU),
        Reference("H3 with S6", 0.997, PUBLISHED, GU),
        Reference("Mamba with S4", 0.564, PUBLISHED, GU),
        Reference("Mamba with Hyena", 0.284, PUBLISHED, GU),
        Reference("Mamba", 0.998, PUBLISHED, GU),
        Reference("minGRU", 0.995, PUBLISHED, FENG),
        Reference("minLSTM", 0.960, PUBLISHED, FENG),
    )

    def __init__(
        self,
        *,
        tokens: Annotated[int, "data tokens to reproduce"] = 8,
        length: Annotated[int, "positions of a sequence, markers included"] = 64,
        vocabulary: Annotated[int, "symbols, noise and marker included"] = 16,
    ) -> None:
        if tokens < 1 or vocabulary < 4:
            raise ValueError(f"tokens={tokens}, vocabulary={vocabulary}: at least 1 token of at least 4 symbols is needed")
        if length < 2 * tokens:
            raise ValueError(f"length={length} for tokens={tokens}: at least {2 * tokens} positions are needed")
        self.tokens, self.length, self.vocabulary = tokens, length, vocabulary
        self.inputs, self.outputs, self.answers = Tokens(vocabulary), vocabulary, tokens

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        field = self.length - self.tokens
        data = rng.integers(1, self.vocabulary - 1, (count, self.tokens))
        places = np.sort(np.argpartition(rng.random((count, field)), self.tokens - 1, 1)[:, : self.tokens], 1)
        inputs = np.zeros((count, self.length), np.int64)
        np.put_along_axis(inputs, places, data, 1)
        inputs[:, field:] = self.vocabulary - 1
        asked = np.broadcast_to(np.arange(field, self.length), data.shape)
        return {"inputs": inputs, "targets": data, "positions": np.ascontiguousarray(asked)}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        place = torch.arange(self.tokens).expand(size, -1)
        return Batch(drawn["inputs"], drawn["targets"], drawn["positions"], slices={"place": place})

    def baselines(self) -> dict[str, float]:
        commonest = _commonest_right(self.tokens, self.length, self.vocabulary)
        return {"chance": 1 / (self.vocabulary - 2), "the commonest token": commonest}

    def shortcuts(self):
        return {"the commonest token": lambda batch: self._counts(batch).argmax(1, keepdim=True).expand_as(batch.targets)}

    def _counts(self, batch: Batch) -> Tensor:
        """How often each data token occurs; noise and marker count as none."""
        counts = torch.zeros(len(batch.inputs), self.vocabulary, dtype=torch.int64)
        counts.scatter_add_(1, batch.inputs, torch.ones_like(batch.inputs))
        counts[:, [0, -1]] = 0
        return counts

    def oracle(self, batch: Batch) -> Tensor:
        field = batch.inputs[:, : self.length - self.tokens]
        return field[field > 0].reshape(-1, self.tokens)

    def harder(self) -> dict[str, Task]:
        sizes = [(self.tokens, 2 * self.length), (2 * self.tokens, 2 * self.length)]
        return {
            f"tokens={tokens},length={length}": SelectiveCopying(tokens=tokens, length=length, vocabulary=self.vocabulary)
            for tokens, length in sizes
        }

    def buckets(self) -> dict[str, list[int]]:
        return {"place": list(range(self.tokens))}

    def symbols(self) -> list[str]:
        return [".", *map(str, range(1, self.vocabulary - 1)), "|"]


@cache
def _commonest_right(tokens: int, length: int, vocabulary: int) -> float:
    task = SelectiveCopying(tokens=tokens, length=length, vocabulary=vocabulary)
    return share_right(task, task.shortcuts()["the commonest token"])

"""Selective copying: data tokens lie scattered in noise; reproduce them in order.

    . a . . b . c . . | > > >        the answers at the three markers are a, b, c; dots are noise (token 0)

Gu & Dao, "Mamba", arXiv:2312.00752, section 4.1.1 (length 4096, 16 data tokens, 16 symbols), after Jing et al. 2019. A model
that cannot select by content keeps the noise as well as the data. Symbol 0 is noise, the last symbol is the marker, the
others are data. The default is a laptop's size.
"""

from typing import Annotated

import numpy as np
import torch

from tasks.task import Batch, Split, Task, Tokens, of_split


class Copying(Task):
    """Selective copying. Gu & Dao, arXiv:2312.00752, section 4.1.1."""

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
        places = np.sort(np.argsort(rng.random((count, field)), 1)[:, : self.tokens], 1)
        inputs = np.zeros((count, self.length), np.int64)
        np.put_along_axis(inputs, places, data, 1)
        inputs[:, field:] = self.vocabulary - 1
        asked = np.broadcast_to(np.arange(field, self.length), data.shape)
        return {"inputs": inputs, "targets": data, "positions": np.ascontiguousarray(asked)}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        place = torch.arange(self.tokens).expand(size, -1)
        return Batch(drawn["inputs"], drawn["targets"], drawn["positions"], {"place": place})

    def baselines(self) -> dict[str, float]:
        return {"chance": 1 / (self.vocabulary - 2)}

    def harder(self) -> dict[str, Task]:
        sizes = [(self.tokens, 2 * self.length), (2 * self.tokens, 2 * self.length)]
        return {
            f"tokens={tokens},length={length}": Copying(tokens=tokens, length=length, vocabulary=self.vocabulary)
            for tokens, length in sizes
        }

    def buckets(self) -> dict[str, list[int]]:
        return {"place": list(range(self.tokens))}

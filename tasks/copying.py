"""Copying memory: hold the symbols through a delay without news, then reproduce them in order.

    b a c . . . . . . | | |        the answers at the three markers are b, a, c; dots are blanks (symbol 0)

Hochreiter & Schmidhuber, "Long Short-Term Memory", 1997, in the form of Arjovsky et al., "Unitary Evolution Recurrent Neural
Networks", arXiv:1511.06464, section 5.1: 10 symbols of 8, then `delay` blanks (100 to 5000), then markers. The last symbol is
the marker. As in the data published with S4 (state-spaces/s4), a marker stands at each of the 10 positions that are read, not
at the first of them alone, and only these positions are trained and scored. Without memory their loss is ln 8 = 2.079.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.task import Batch, Split, Task, Tokens, of_split

SIZES = {"published": (10, 100), "laptop": (5, 20)}
"""Symbols and delay."""


class Copying(Task):
    """Copying memory: reproduce symbols after a delay. Arjovsky et al., arXiv:1511.06464, section 5.1."""

    also = ("exact",)

    def __init__(
        self,
        *,
        preset: Annotated[Literal["published", "laptop"], "sizes: 10 symbols and a delay of 100; 5 and 20"] = "published",
        tokens: Annotated[int | None, "symbols to reproduce; none given: as in the preset"] = None,
        delay: Annotated[int | None, "blanks between the last symbol and the first marker; none given: as in the preset"] = None,
        vocabulary: Annotated[int, "symbols, blank and marker included"] = 10,
    ) -> None:
        tokens = SIZES[preset][0] if tokens is None else tokens
        delay = SIZES[preset][1] if delay is None else delay
        if tokens < 1 or delay < 0 or vocabulary < 4:
            raise ValueError(
                f"tokens={tokens}, delay={delay}, vocabulary={vocabulary}: at least 1 token, delay 0 and 4 symbols are needed"
            )
        self.tokens, self.delay, self.vocabulary = tokens, delay, vocabulary
        self.length = delay + 2 * tokens
        self.inputs, self.outputs, self.answers = Tokens(vocabulary), vocabulary, tokens

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        inputs = np.zeros((count, self.length), np.int64)
        inputs[:, : self.tokens] = data = rng.integers(1, self.vocabulary - 1, (count, self.tokens))
        inputs[:, self.length - self.tokens :] = self.vocabulary - 1
        return {"inputs": inputs, "targets": data}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        place = torch.arange(self.tokens).expand(size, -1)
        return Batch(drawn["inputs"], drawn["targets"], place + self.length - self.tokens, slices={"place": place})

    def baselines(self) -> dict[str, float]:
        chance = 1 / (self.vocabulary - 2)
        return {"chance": chance, "the first symbol": chance + (1 - chance) / self.tokens}

    def shortcuts(self):
        return {"the first symbol": lambda batch: batch.inputs[:, :1].expand_as(batch.targets)}

    def oracle(self, batch: Batch) -> Tensor:
        return batch.inputs[:, : self.tokens]

    def harder(self) -> dict[str, Task]:
        delays = [times * max(1, self.delay) for times in (2, 5, 10, 50)]
        return {f"delay={delay}": Copying(tokens=self.tokens, delay=delay, vocabulary=self.vocabulary) for delay in delays}

    def buckets(self) -> dict[str, list[int]]:
        return {"place": list(range(self.tokens))}

    def symbols(self) -> list[str]:
        return [".", *map(str, range(1, self.vocabulary - 1)), "|"]

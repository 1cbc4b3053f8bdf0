"""Multi-query associative recall: look up what followed a key the first time, when the key comes again.

    k1 v1 k2 v2 ... kD vD  . . k2 . . . . k1 . .        at the second k2 the answer is v2; dots are filler (token 0)

Arora et al., "Zoology", arXiv:2312.04927, section 3 and appendix E, in the form of its published generator: keys are drawn
without replacement from 1 ... V/2-1 and values from V/2 ... V-1; the query of a pair stands at 2D + 2g with the gaps g drawn
without replacement with p(g) proportional to (g+1)^(a-1), a = 0.01, so that most are near. The filler is never a live key.
The published sizes are vocabulary=8192 with (length, pairs) of (64,4) (128,8) (256,16) (512,64); the default vocabulary is
small enough that a laptop's budget sees every key often.
"""

from typing import Annotated

import numpy as np

from tasks.task import Batch, Split, Task, Tokens, of_split

POWER = 0.01


class Recall(Task):
    """Multi-query associative recall (MQAR). Arora et al., arXiv:2312.04927."""

    def __init__(
        self,
        *,
        pairs: Annotated[int, "key-value pairs to remember"] = 4,
        length: Annotated[int | None, "positions of a sequence, at least 4 for each pair; none given: 16 for each"] = None,
        vocabulary: Annotated[int, "symbols, even; half are keys, half are values"] = 64,
    ) -> None:
        length = length or 16 * pairs
        if pairs < 1 or vocabulary % 2 or pairs > vocabulary // 2 - 1:
            raise ValueError(f"pairs={pairs} of vocabulary={vocabulary}: an even vocabulary of V has V/2-1 keys to draw from")
        if length % 2 or length < 4 * pairs:
            raise ValueError(f"length={length} for pairs={pairs}: an even length of at least {4 * pairs} is needed")
        self.pairs, self.length, self.vocabulary = pairs, length, vocabulary
        self.inputs, self.outputs, self.answers = Tokens(vocabulary), vocabulary, pairs

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        half, pairs = self.vocabulary // 2, self.pairs
        keys = 1 + _distinct(rng.random((count, half - 1), dtype=np.float32), pairs)
        values = half + _distinct(rng.random((count, half), dtype=np.float32), pairs)
        slots = (self.length - 2 * pairs) // 2
        # the Gumbel trick draws without replacement: the largest of log p + noise, in falling order
        noise = (POWER - 1) * np.log(np.arange(1, slots + 1)) + rng.gumbel(size=(count, slots))
        queries = 2 * pairs + 2 * _distinct(-noise, pairs)
        inputs = np.zeros((count, self.length), np.int64)
        inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
        np.put_along_axis(inputs, queries, keys, 1)
        return {"inputs": inputs, "targets": values, "positions": queries, "gap": queries - 2 * np.arange(pairs)}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        return Batch(drawn["inputs"], drawn["targets"], drawn["positions"], {"gap": drawn["gap"]})

    def baselines(self) -> dict[str, float]:
        return {"chance": 2 / self.vocabulary, "a value of the context": 1 / self.pairs}

    def harder(self) -> dict[str, Task]:
        sizes = [(self.pairs, 2 * self.length), (self.pairs, 4 * self.length), (2 * self.pairs, 2 * self.length)]
        return {
            f"pairs={pairs},length={length}": Recall(pairs=pairs, length=length, vocabulary=self.vocabulary)
            for pairs, length in sizes
            if pairs < self.vocabulary // 2
        }

    def buckets(self) -> dict[str, list[int]]:
        return {"gap": [2**k for k in range(self.length.bit_length())]}


def _distinct(weights: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` smallest weights of each row, in rising order of weight."""
    smallest = np.argpartition(weights, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(weights, smallest, 1), 1)
    return np.take_along_axis(smallest, order, 1)

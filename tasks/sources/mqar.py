"""Multi-query associative recall: all pairs first, then each key once among filler. Defined in `tasks/recall.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tasks.task import Batch

EXPONENT = {"power": 0.01, "uniform": 1.0}


@dataclass(frozen=True)
class PairsThenQueries:
    """`pairs` bindings, `rebound` of them once more with another value, then the queries; half of the symbols are values.

    Raises:
        ValueError: there are too few symbols, positions or keys for that.
    """

    pairs: int
    length: int
    vocabulary: int
    gaps: Literal["power", "uniform"]
    filler: Literal["zero", "random"]
    rebound: int

    def __post_init__(self) -> None:
        pairs, vocabulary, length = self.pairs, self.vocabulary, self.length
        if pairs < 1 or vocabulary % 2 or pairs > vocabulary // 2 - 1:
            raise ValueError(f"pairs={pairs} of vocabulary={vocabulary}: an even vocabulary of V has V/2-1 keys to draw from")
        most = min(pairs, vocabulary // 2 - pairs)
        if not 0 <= self.rebound <= most:
            raise ValueError(f"rebound={self.rebound} for pairs={pairs}, vocabulary={vocabulary}: 0 to {most} are possible")
        least = 4 * pairs + 2 * self.rebound
        if length % 2 or length < least:
            raise ValueError(f"length={length} for pairs={pairs}: an even length of at least {least} is needed")

    @property
    def answers(self) -> int:
        return self.pairs

    @property
    def bound(self) -> int:
        """Pairs that are shown."""
        return self.pairs + self.rebound

    def draw(self, rng: np.random.Generator, count: int, *, training: bool) -> dict[str, np.ndarray]:
        """`count` sequences, one a row, with targets, positions, and the distance of each query from where its key was bound."""
        half, pairs, bound = self.vocabulary // 2, self.pairs, self.bound
        keys = 1 + _chosen(rng, count, half - 1, pairs)
        values = half + _chosen(rng, count, half, bound)
        slots = (self.length - 2 * bound) // 2
        # waiting times of rate p, in rising order, are a draw without replacement
        waits = rng.standard_exponential((count, slots), np.float32) * _inverse_rates(slots, EXPONENT[self.gaps])
        queries = 2 * bound + 2 * distinct(waits, pairs)
        inputs = np.zeros((count, self.length), np.int64)
        inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * bound : 2] = keys, values
        last = np.tile(np.arange(pairs), (count, 1))  # which pair binds each key last
        answers = values[:, :pairs]
        if self.rebound:
            again = np.argsort(rng.random((count, pairs)), 1)[:, : self.rebound]
            inputs[:, 2 * pairs : 2 * bound : 2] = np.take_along_axis(keys, again, 1)
            np.put_along_axis(last, again, np.arange(pairs, bound)[None], 1)
            answers = np.take_along_axis(values, last, 1)
        np.put_along_axis(inputs, queries, keys, 1)
        if self.filler == "random":
            inputs = np.where(inputs == 0, rng.integers(self.vocabulary, size=inputs.shape), inputs)
        return {
            "inputs": inputs,
            "targets": answers,
            "positions": queries,
            "gap": queries - 2 * last,
        }

    def oracle(self, batch: Batch) -> Int[Tensor, "size answers"]:
        """The value of the last pair that has the key of the query."""
        keys, values = batch.inputs[:, 0 : 2 * self.bound : 2], batch.inputs[:, 1 : 2 * self.bound : 2]
        return values.gather(1, (_same(batch, keys) * torch.arange(1, self.bound + 1)).argmax(2))

    def baselines(self) -> dict[str, float]:
        first = {"the first value of the key": 1 - self.rebound / self.pairs} if self.rebound else {}
        return {"chance": 2 / self.vocabulary, "a value of the context": 1 / self.pairs, **first}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        def any_value(batch: Batch) -> Tensor:
            return batch.inputs[:, 2 * self.bound - 1, None].expand_as(batch.targets)

        def first_value(batch: Batch) -> Tensor:
            keys, values = batch.inputs[:, 0 : 2 * self.pairs : 2], batch.inputs[:, 1 : 2 * self.pairs : 2]
            return values.gather(1, _same(batch, keys).int().argmax(2))

        first = {"the first value of the key": first_value} if self.rebound else {}
        return {"a value of the context": any_value, **first}

    def symbols(self) -> list[str]:
        half = self.vocabulary // 2
        return [".", *(f"k{symbol}" for symbol in range(1, half)), *(f"v{symbol}" for symbol in range(half, 2 * half))]

    def harder(self) -> dict[str, dict[str, Any]]:
        """Settings of the harder variants by name."""
        sizes = [(self.pairs, 2 * self.length), (self.pairs, 4 * self.length), (2 * self.pairs, 2 * self.length)]
        return {
            f"pairs={pairs},length={length}": {"pairs": pairs, "length": length}
            for pairs, length in sizes
            if pairs + max(1, self.rebound) <= self.vocabulary // 2
        }


@lru_cache
def _inverse_rates(slots: int, exponent: float) -> np.ndarray:
    return (np.arange(1, slots + 1) ** (1 - exponent)).astype(np.float32)


def _same(batch: Batch, keys: Int[Tensor, "size pairs"]) -> Bool[Tensor, "size answers pairs"]:
    """Which of the keys is that of each query."""
    assert batch.positions is not None
    return batch.inputs.gather(1, batch.positions)[:, :, None] == keys[:, None]


def distinct(weights: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` smallest weights along the last axis, in rising order of weight."""
    smallest = np.argpartition(weights, count - 1, axis=-1)[..., :count]
    order = np.argsort(np.take_along_axis(weights, smallest, -1), -1)
    return np.take_along_axis(smallest, order, -1)


def _chosen(rng: np.random.Generator, count: int, symbols: int, wanted: int) -> np.ndarray:
    """`wanted` different numbers below `symbols` a row, in random order."""
    if symbols < 16 * wanted or 2 * symbols < wanted**2:
        return distinct(rng.random((count, symbols), dtype=np.float32), wanted)
    chosen = rng.integers(symbols, size=(count, wanted))  # of many symbols few agree: rows that have two alike are drawn again
    while len(alike := _with_twins(chosen)):
        chosen[alike] = rng.integers(symbols, size=(len(alike), wanted))
    return chosen


def _with_twins(chosen: np.ndarray) -> np.ndarray:
    """The rows that have a number twice."""
    ranked = np.sort(chosen, 1)
    return np.flatnonzero((ranked[:, 1:] == ranked[:, :-1]).any(1))

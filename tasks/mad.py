"""The six tasks of mechanistic architecture design (MAD): recall, copying, compression and memorization, small and apart.

    mad:task=selective_copying,length=14,tokens=3      3 . . 7 . . 1 | . . .   answers, at the dots after the bar: 3 7 1

Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844, section 3 and appendix B, with sizes,
symbols and rules from the published generator. Its symbols, of V:

    in_context_recall   pairs of a key (the first half of the symbols) and the value (the second half) that the sequence gives
                        to it. The answer after a key that was there before is its value; the last key always was.
    noisy_recall        the same; 16 of the symbols are noise, two of which stand where a share `noise` of the pairs would.
    fuzzy_recall        keys and values are each 1 to 3 different symbols (keys of 3 where it is scored); V-1 pads on the left.
    selective_copying   blanks (V-2) fall at random between the data; after one copy symbol (V-1) the data are asked in order.
    compression         random symbols, then one (V-1), from whose vector alone every one before it must be decoded.
    memorization        keys, each followed by an insert symbol (V-1) where its value is asked; the map is the same everywhere.

The recall tasks (their rules: tasks/sources/mad.py) train on the next symbol everywhere and are scored on the answers alone.
Their pairs make `length` symbols, of which the last is only ever an answer; a fuzzy sequence has `length` beside it. Training
examples are finite in number and the same for every seed, which orders them anew in each epoch. Sizes, which a laptop can do,
and the published changes of difficulty, each alone; a score of the suite is the mean over all, each trained apart:

                        vocabulary             length               tokens            noise          examples
    in_context_recall   16  (32 64 128)        128 (256 512 1024)                                    12800 (6400 3200 1600 800)
    noisy_recall        32  (48 80 144)        128 (256 512 1024)                     .2 (.4 .6 .8)  the same
    fuzzy_recall        16  (32 64 128)        128 (256 512 1024)                                    the same
    selective_copying   16  (32 64 128)        256 (512 1024)       16 (32 64 96)                    the same
    compression         16  (32 64 128)        32  (64 128 256)                                      the same
    memorization        256 (512 ... 8192)     32                                                    256

Longer sequences, more noise and more tokens are also scored without training on them.

Departures: validation and test are 1,280 examples each that training cannot hold; where a slip of the generator shows,
it is mended unless `compat=true`: there a blank never comes between the last data symbol and the copy symbol, the compression
symbol is asked of its own vector, and a few fuzzy sequences ask for a key that they never gave.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tasks.sources.mad import PairStream, latest
from tasks.task import Batch, Split, Task, Tokens, of_split, random, share_right

Name = Literal["in_context_recall", "noisy_recall", "fuzzy_recall", "selective_copying", "compression", "memorization"]
SIZES = {
    "in_context_recall": (16, 128, 12800),
    "noisy_recall": (32, 128, 12800),
    "fuzzy_recall": (16, 128, 12800),
    "selective_copying": (16, 256, 12800),
    "compression": (16, 32, 12800),
    "memorization": (256, 32, 256),
}
"""Vocabulary, length and examples as published."""
MAP_SEED, BLOCK = 12345, 128


class Mad(Task):
    """One of the six tasks of mechanistic architecture design (MAD). Poli et al., arXiv:2403.17844."""

    held_out = 1280

    def __init__(
        self,
        *,
        task: Annotated[Name, "which of the six"] = "in_context_recall",
        vocabulary: Annotated[int | None, "symbols, special ones and noise among them; none given: as published"] = None,
        length: Annotated[int | None, "symbols of a sequence; none given: as published"] = None,
        examples: Annotated[int | None, "different training sequences; none given: as published"] = None,
        noise: Annotated[float | None, "share of noise, in noisy_recall; none given: 0.2"] = None,
        tokens: Annotated[int | None, "symbols to copy, in selective_copying; none given: 16"] = None,
        compat: Annotated[bool, "keep the slips of the published generator"] = False,
    ) -> None:
        self._settings: dict[str, Any] = {
            "task": task, "vocabulary": vocabulary, "length": length, "examples": examples,
            "noise": noise, "tokens": tokens, "compat": compat,
        }  # fmt: skip
        for name, value, only in (("noise", noise, "noisy_recall"), ("tokens", tokens, "selective_copying")):
            if value is not None and task != only:
                raise ValueError(f"{name}={value} with task={task}: only {only} has it")
        vocabulary, length, examples = (
            size if given is None else given for given, size in zip((vocabulary, length, examples), SIZES[task], strict=True)
        )
        if examples < 1 or (tokens is not None and tokens < 1):
            raise ValueError(f"examples={examples}, tokens={tokens}: at least one of each is needed")
        self.task, self.vocabulary, self.examples, self.compat = task, vocabulary, examples, compat
        self.tokens = (16 if tokens is None else tokens) if task == "selective_copying" else 0
        self._stream = None
        if task.endswith("recall"):
            noise = (0.2 if noise is None else noise) if task == "noisy_recall" else None
            self._stream = PairStream(length, vocabulary, noise, 3 if task == "fuzzy_recall" else 1, compat)
            self.low, self.high, length = self._stream.keys, self._stream.values, self._stream.answers
        else:
            least, pairs = 2 * self.tokens + 2, task == "memorization"
            if vocabulary < 4 or length < least or (pairs and length % 2):
                need = f"at least 4 symbols and at least {least} positions{', an even number' * pairs}"
                raise ValueError(f"vocabulary={vocabulary}, length={length}: {task} needs {need}")
            self.high = vocabulary - (2 if self.tokens else 1)
            self.low = self.high // 2 if pairs else 0
        self.inputs, self.outputs, self.length = Tokens(vocabulary), vocabulary, length
        fewer = {"selective_copying": self.tokens, "compression": length - (not compat), "memorization": length // 2}
        self.answers = fewer.get(task, length)
        self.bottleneck = task == "compression"
        self._made: dict[tuple[Split, int], dict[str, Tensor]] = {}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        made = self._examples(split)
        count = len(made["inputs"])
        numbers = np.arange(index * size, (index + 1) * size)
        if split == "train":
            epochs = range(numbers[0] // count, numbers[-1] // count + 1)
            chosen = np.concatenate([_order(count, seed, epoch) for epoch in epochs])[numbers - count * epochs[0]]
        else:
            chosen = numbers % count
        found = {name: array[chosen].long() for name, array in made.items()}
        slices = {name: found["gap"] for name in self.buckets()}
        return Batch(found["inputs"], found["targets"], found.get("positions"), slices)

    def _examples(self, split: Split) -> dict[str, Tensor]:
        """All examples of a split, made when first asked for: with seed 0 whatever the seed of the run, a block at a time."""
        count = self.examples if split == "train" else self.held_out
        if (split, count) not in self._made:
            draw = partial(self._draw, training=split == "train")
            blocks = [of_split(draw, split, index, BLOCK, 0) for index in range(-(-count // BLOCK))]
            self._made[split, count] = {name: torch.cat([part[name].int() for part in blocks])[:count] for name in blocks[0]}
        return self._made[split, count]

    def _draw(self, rng: np.random.Generator, count: int, *, training: bool) -> dict[str, np.ndarray]:
        if self._stream:
            return self._stream.draw(rng, count, training=training)
        if self.tokens:
            return self._copying(rng, count)
        inputs = np.full((count, self.length), self.vocabulary - 1)
        if self.bottleneck:
            inputs[:, :-1] = rng.integers(0, self.high, (count, self.length - 1))
            return {"inputs": inputs, "targets": inputs[:, : self.answers]}
        inputs[:, ::2] = keys = rng.integers(0, self.low, (count, self.answers))
        positions = np.broadcast_to(np.arange(1, self.length, 2), keys.shape)
        return {"inputs": inputs, "targets": _map(self.low, self.high)[keys], "positions": positions}

    def _copying(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        tokens, rows = self.tokens, np.arange(count)[:, None]
        gaps = tokens + (0 if self.compat else 1)
        drawn = rng.integers(0, gaps, (count, self.length - 2 * tokens - 1)) + gaps * rows
        blanks = np.bincount(drawn.ravel(), minlength=count * gaps).reshape(count, gaps)[:, :tokens]
        at = np.arange(tokens) + blanks.cumsum(1)
        data = rng.integers(0, self.high, (count, tokens))
        inputs = np.full((count, self.length), self.vocabulary - 2)
        inputs[rows, at], inputs[:, -tokens - 1] = data, self.vocabulary - 1
        positions = np.broadcast_to(np.arange(self.length - tokens, self.length), data.shape)
        return {"inputs": inputs, "targets": data, "positions": positions, "gap": positions - at}

    def baselines(self) -> dict[str, float]:
        return {"chance": 1 / (self.high - self.low), "the latest value": share_right(self, self._latest)}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return {"the latest value": self._latest}

    def _latest(self, batch: Batch) -> Int[Tensor, "size answers"]:
        """The last symbol so far that could be an answer; where no such symbol is ever read, that of key 0."""
        if self.task == "memorization":
            return torch.full_like(batch.targets, int(_map(self.low, self.high)[0]))
        found = latest(batch.inputs, self.low, self.high)
        if self.bottleneck:
            return found[:, -1:].expand(-1, self.answers)
        return found if batch.positions is None else found.gather(1, batch.positions)

    def oracle(self, batch: Batch) -> Int[Tensor, "size answers"]:
        """The answers; for memorization by the map, which no sequence tells, and in training those of recall alone."""
        if self._stream:
            return self._stream.oracle(batch)
        if self.bottleneck:
            return batch.inputs[:, : self.answers]
        if self.tokens:
            return batch.inputs[batch.inputs < self.high].reshape(len(batch.inputs), -1)
        return torch.from_numpy(_map(self.low, self.high))[batch.inputs[:, ::2]]

    def harder(self) -> dict[str, Task]:
        changes: dict[str, dict[str, Any]] = self._stream.harder() if self._stream else {}
        if self.tokens:
            sizes = [("length", n * self.length) for n in (2, 4)]
            sizes += [("tokens", n * self.tokens) for n in (2, 4, 6) if 2 * n * self.tokens + 2 <= self.length]
            changes = {f"{name}={value}": {name: value} for name, value in sizes}
        return {name: Mad(**self._settings | changed) for name, changed in changes.items()}

    def buckets(self) -> dict[str, list[int]]:
        return {"distance": [2**k for k in range(self.length.bit_length())]} if self._stream or self.tokens else {}

    def symbols(self) -> list[str]:
        if self._stream:
            return self._stream.symbols()
        kinds = ["k"] * self.low + ["v" if self.low else ""] * (self.high - self.low)
        return [f"{kind}{symbol}" for symbol, kind in enumerate(kinds)] + ([".", "|"] if self.tokens else ["?"])


@lru_cache(8)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return random("train", epoch, seed).permutation(count)


def _map(low: int, high: int) -> np.ndarray:
    """The value of each key: both in random order, paired off."""
    rng = np.random.default_rng(MAP_SEED)
    keys, values = rng.permutation(low), rng.permutation(np.arange(low, high))
    return values[np.argsort(keys)]

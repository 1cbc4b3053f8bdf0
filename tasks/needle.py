"""Needle in a haystack: a named number is hidden in a long text; at the end its name is asked for, the answer is the number.

    l m n o p q K = 3 1 4 1 5 y z a b ... d e f ? K[3] 3[1] 1[4] 4[1] 1[5]        in brackets: the answers at these positions

The passkey test of Mohtashami & Jaggi, arXiv:2305.16300 (a number of up to 5 digits in a text of repeated sentences), in the form
of RULER's needles in a haystack, Hsieh et al., arXiv:2404.06654: a needle is a name and its value, and with keys=K there are K
needles, one of which is asked for (its single and multi-key retrieval). Departures, since both ask a language model and here one
is trained from nothing: a symbol is a character, the question is two of them, needles lie over the text, and every number has
`digits` digits. The answer is read with its digits fed back, as in generation; a sequence counts if all of them are right.

The text is no language, and this matters. filler=repeated, as in the passkey test, is the alphabet again and again: nothing in it
must be remembered, and any digit stands out. In filler=walk each letter is one to four letters after the last (2 bits a symbol);
it crowds the memory, but holds nothing that resembles a needle. Other needles do: those are `keys`.
Depth is the place of the needle from the first (0) to the last (1) that is possible, scored in tenths, at every length.

The endless sequence has `keys` needles as well, the first at its very beginning. With one key it is the only one; others are put
4^k positions after the beginning and 4^k before the end, k from 3, as many as `keys` says and spread evenly over these places.
After 2^k positions, and at the end, all needles so far are asked for, each on its own.
"""

import string
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tasks.task import Batch, Split, Task, Tokens, of_split

SYMBOLS = [*string.digits, *string.ascii_uppercase, *string.ascii_lowercase, "=", "?"]
NAMES, LETTERS, IS, ASKS = 10, 36, 62, 63
TENTHS = 10
PIECE = 1 << 14
"""Positions of the endless sequence at once; recurrences are hardly faster in longer ones."""


class Needle(Task):
    """Passkey retrieval and needles in a haystack, by length and depth. Hsieh et al., arXiv:2404.06654."""

    metric = "exact"
    also = ("accuracy",)

    def __init__(
        self,
        *,
        length: Annotated[int, "positions of a training sequence"] = 256,
        digits: Annotated[int, "digits of a number"] = 5,
        keys: Annotated[int, "needles in a sequence, one of them asked for"] = 1,
        filler: Annotated[Literal["repeated", "walk"], "the alphabet again and again, or a random walk on it"] = "repeated",
        longest: Annotated[int, "longest sequence that is tested, each twice as long"] = 4096,
    ) -> None:
        if digits < 1 or not 1 <= keys <= 26:
            raise ValueError(f"digits={digits}, keys={keys}: at least 1 digit, and 1 to 26 keys")
        if length < _least(keys, digits):
            raise ValueError(
                f"length={length} for keys={keys}, digits={digits}: at least {_least(keys, digits)} positions are needed"
            )
        self.length, self.digits, self.keys, self.filler, self.longest = length, digits, keys, filler, longest
        self.inputs, self.outputs, self.answers = Tokens(len(SYMBOLS)), 10, digits

    @property
    def _field(self) -> int:
        """Positions before the question."""
        return self.length - self.digits - 1

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        size, rows = self.digits + 2, np.arange(count)
        text = np.empty((count, self.length), np.uint8)
        text[:] = 1 if self.filler == "repeated" else rng.integers(1, 5, text.shape, np.uint8)
        text[:, 0] += rng.integers(26, size=count, dtype=np.uint8)
        text = (LETTERS + np.cumsum(text, 1, np.int32) % 26).astype(np.uint8)
        needles = np.full((count, self.keys, size), IS, np.uint8)
        needles[:, :, 0] = NAMES + np.argsort(rng.random((count, 26)), 1)[:, : self.keys]
        needles[:, :, 2:] = rng.integers(10, size=(count, self.keys, self.digits))
        room = self._field - size * self.keys
        begins = np.sort(rng.integers(room + 1, size=(count, self.keys)), 1) + size * np.arange(self.keys)
        places = begins[:, :, None] + np.arange(size)
        np.put_along_axis(text, places.reshape(count, -1), needles.reshape(count, -1), 1)
        asked = rng.integers(self.keys, size=count)
        name, value = needles[rows, asked, 0], needles[rows, asked, 2:]
        text[:, self._field], text[:, self._field + 1], text[:, self._field + 2 :] = ASKS, name, value[:, :-1]
        depth = begins[rows, asked, None] * TENTHS // (self._field - size + 1)
        return {"inputs": text, "targets": value, "depth": np.repeat(depth, self.digits, 1)}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        asked = torch.arange(self.length - self.digits, self.length).expand(size, -1)
        return Batch(drawn["inputs"].long(), drawn["targets"].long(), asked, slices={"depth": drawn["depth"]})

    def endless(self, positions: int, seed: int) -> Iterator[tuple[Int[Tensor, "1 piece"], Batch | None]]:
        rng, size = np.random.default_rng((seed, positions)), self.digits + 2
        places = self._places(positions)
        needles = np.full((len(places), size), IS, np.uint8)
        needles[:, 0] = NAMES + rng.permutation(26)[: len(places)]
        needles[:, 2:] = rng.integers(10, size=(len(places), self.digits))
        letter, done = rng.integers(26), 0
        moments = [1 << k for k in range(positions.bit_length()) if size <= 1 << k < positions]
        for moment in [*moments, positions]:
            while done < moment:
                length = min(PIECE, moment - done)
                steps = np.ones(length, np.uint8) if self.filler == "repeated" else rng.integers(1, 5, length, np.uint8)
                walk = letter + np.cumsum(steps, dtype=np.int64)
                letter, text = walk[-1] % 26, LETTERS + walk % 26
                for place in np.flatnonzero((places < done + length) & (places + size > done)):
                    begin, end = max(places[place], done), min(places[place] + size, done + length)
                    text[begin - done : end - done] = needles[place, begin - places[place] : end - places[place]]
                done += length
                whole = places + size <= moment
                asked = self._questions(needles[whole], moment - places[whole]) if done == moment else None
                yield torch.from_numpy(text)[None], asked

    def _places(self, positions: int) -> Int[np.ndarray, "keys"]:
        """Where the needles of an endless sequence begin; fewer than `keys` where it is too short for so many."""
        size, steps = self.digits + 2, [4**k for k in range(3, positions.bit_length())]
        places = [0]
        for place in sorted({*steps, *(positions - step for step in steps)}):
            if places[-1] + size <= place <= positions - size:
                places.append(place)
        spread = np.linspace(0, len(places) - 1, min(self.keys, len(places))).round().astype(int)
        return np.array(places)[spread]

    def _questions(self, needles: UInt8[np.ndarray, "count size"], distances: Int[np.ndarray, "count"]) -> Batch:
        values = torch.from_numpy(needles[:, 2:]).long()
        asks, names = torch.full((len(needles), 1), ASKS), torch.from_numpy(needles[:, :1]).long()
        read = torch.arange(1, self.digits + 1).expand(len(needles), -1)
        distance = torch.from_numpy(distances)[:, None].expand(-1, self.digits)
        return Batch(torch.cat([asks, names, values[:, :-1]], 1), values, read, slices={"distance": distance})

    def baselines(self) -> dict[str, float]:
        begins = self._field - self.digits - 1
        known = 1 / self.keys if self.keys > 1 else 1 - self.length // 2 / begins
        chance = 10.0**-self.digits
        return {"chance": chance} | {name: known + (1 - known) * chance for name in self.shortcuts()}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        def last_key(batch: Batch) -> Tensor:
            begins = ((batch.inputs == IS) * torch.arange(self.length)).argmax(1) - 1
            value = self._value(batch, begins)
            return value if self.keys > 1 else value * (begins >= self.length // 2)[:, None]

        return {"the last key" if self.keys > 1 else "the last half": last_key}

    def oracle(self, batch: Batch) -> Int[Tensor, "size digits"]:
        named = batch.inputs == batch.inputs[:, self._field + 1, None]
        return self._value(batch, named.int().argmax(1))

    def _value(self, batch: Batch, begins: Int[Tensor, "size"]) -> Int[Tensor, "size digits"]:
        """The digits of the needle that begins there."""
        return batch.inputs.gather(1, begins[:, None] + 2 + torch.arange(self.digits))

    def harder(self) -> dict[str, Task]:
        settings = {"digits": self.digits, "filler": self.filler, "longest": self.longest}
        doublings = (self.longest // self.length).bit_length() - 1
        sizes = {f"length={self.length << k}": (self.length << k, self.keys) for k in range(1, doublings + 1)}
        if 4 * self.keys <= 26 and _least(4 * self.keys, self.digits) <= self.length:
            sizes[f"keys={4 * self.keys}"] = (self.length, 4 * self.keys)
        return {name: Needle(length=length, keys=keys, **settings) for name, (length, keys) in sizes.items()}

    def buckets(self) -> dict[str, list[int]]:
        return {"depth": list(range(TENTHS))}

    def symbols(self) -> list[str]:
        return SYMBOLS

    def classes(self) -> list[str]:
        return SYMBOLS[:10]


def _least(keys: int, digits: int) -> int:
    """Positions that the needles and the question take, with room for a needle at every tenth of the depth."""
    return (keys + 1) * (digits + 2) + TENTHS

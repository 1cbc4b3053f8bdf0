"""Copying strings: say a string of any length again, or what follows a given n-gram in it.

    copy       $ b a c | b a c .        an answer is read from | on, a letter a time, up to the full stop
    prefix     $ b a | b a c a | c a .  what follows the key (here of 2 letters), which stands before the string
    suffix     $ b a c a | b a c a .    the same with the key after the string
    duplicate  $ b a c b a | b a c b a .    copy, but a later n-gram is overwritten with an earlier: for evaluation

Jelassi et al., "Repeat After Me", arXiv:2402.01032, sections 3 and 4.1, with its letters a-z and its symbols $ | . *, the last
for padding. The default lengths are its training lengths 1 ... 50; strings of one length, up to 20 times as long, are the
harder variants. Only the answer has a loss. With all earlier letters of an answer right, the next one is predicted from what
greedy generation would see; so the string comes out right exactly if each of its letters, and the stop, does with the truth
read in, and `exact` is the published string accuracy. Accuracy is that of characters, the stop included.

Departures: keys are drawn from the n-grams that occur once and have a letter after them, where the published code makes sure
that there is one and then draws from all, so that a key can be ambiguous. Each sequence holds one string and padding, where the
published training fills a context of 220 with several. `duplicate` overwrites one place, where the published code overwrites
every occurrence. No string is in two splits; as there are few strings of one or two letters, a split may have none of them.
"""

from collections.abc import Callable
from functools import cache
from string import ascii_lowercase
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.task import UNASKED, Batch, Split, Task, Tokens, of_split, share_right

Kind = Literal["copy", "prefix", "suffix", "duplicate"]
SIZES = {"published": (50, 26), "laptop": (8, 8)}
"""Longest string and letters."""
LONGEST_NGRAM = 8
SYMBOLS = "$|.*"


class StringCopy(Task):
    """Copy a string, or the part of it after an n-gram. Jelassi et al., "Repeat After Me", arXiv:2402.01032."""

    metric = "exact"
    also = ("accuracy",)

    def __init__(
        self,
        *,
        kind: Annotated[Kind, "what is asked"] = "copy",
        preset: Annotated[Literal["published", "laptop"], "sizes: up to 50 of 26 letters; 8 of 8"] = "published",
        longest: Annotated[int | None, "letters of the longest string; none given: as in the preset"] = None,
        shortest: Annotated[int | None, "letters of the shortest string; none given: the fewest that the kind allows"] = None,
        letters: Annotated[int | None, "of the alphabet; none given: as in the preset"] = None,
        ngram: Annotated[int, "letters of a key, or of what is overwritten"] = 3,
    ) -> None:
        longest = SIZES[preset][0] if longest is None else longest
        letters = SIZES[preset][1] if letters is None else letters
        if not 1 <= ngram <= LONGEST_NGRAM:
            raise ValueError(f"ngram={ngram}: 1 to {LONGEST_NGRAM} letters")
        fewest = {"copy": 1, "prefix": ngram + 1, "suffix": ngram + 1, "duplicate": 2 * ngram}[kind]
        shortest = fewest if shortest is None else shortest
        if not 2 <= letters <= len(ascii_lowercase):
            raise ValueError(f"letters={letters}: 2 to {len(ascii_lowercase)}")
        if not fewest <= shortest <= longest:
            raise ValueError(f"shortest={shortest}, longest={longest} for kind={kind}: from {fewest} letters on, shortest first")
        self.kind: Kind = kind
        self.longest, self.shortest, self.letters, self.ngram = longest, shortest, letters, ngram
        self.keyed = kind in ("prefix", "suffix")
        self.head = ngram + 2 if kind == "prefix" else 1
        self.answers = longest + 1 - (ngram if self.keyed else 0)
        self.length = self.head + longest + 1 + (ngram if kind == "suffix" else 0) + self.answers
        self.inputs, self.outputs = Tokens(letters + len(SYMBOLS)), letters + len(SYMBOLS)
        self.start, self.bar, self.stop, self.pad = range(letters, self.outputs)

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        sizes = rng.integers(self.shortest, self.longest + 1, (count, 1))
        strings = rng.integers(self.letters, size=(count, self.longest))
        strings[np.arange(self.longest) >= sizes] = self.pad
        begin = np.zeros_like(sizes)
        if self.keyed:
            once = self._once(strings, sizes)
            kept = once.any(1)
            sizes, strings, once = sizes[kept], strings[kept], once[kept]
            wanted = (rng.random((len(sizes), 1)) * once.sum(1, keepdims=True)).astype(np.int64)
            begin = (once.cumsum(1) > wanted).argmax(1)[:, None] + self.ngram
        elif self.kind == "duplicate":
            key = np.arange(self.ngram)
            earlier = (rng.random(sizes.shape) * (sizes - 2 * self.ngram + 1)).astype(np.int64)
            later = earlier + self.ngram + (rng.random(sizes.shape) * (sizes - earlier - 2 * self.ngram + 1)).astype(np.int64)
            np.put_along_axis(strings, later + key, np.take_along_axis(strings, earlier + key, 1), 1)
        return {"inputs": strings, **self._sequences(strings, sizes, begin)}

    def _once(self, strings: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Where n-grams begin that occur once in their string and have a letter after them."""
        starts = np.arange(self.longest - self.ngram + 1)
        names = (strings[:, starts[:, None] + np.arange(self.ngram)] * self.outputs ** np.arange(self.ngram)).sum(2)
        order = names.argsort(1)
        differs = np.diff(np.take_along_axis(names, order, 1), axis=1, prepend=-1, append=-1) != 0
        once = np.empty(names.shape, bool)
        np.put_along_axis(once, order, differs[:, :-1] & differs[:, 1:], 1)
        return once & (starts + self.ngram < sizes)

    def _sequences(self, strings: np.ndarray, sizes: np.ndarray, begin: np.ndarray) -> dict[str, np.ndarray]:
        """Strings laid out with their answers, which begin at letter `begin`."""
        ended = np.pad(strings, ((0, 0), (0, 2)), constant_values=self.pad)
        np.put_along_axis(ended, sizes, self.stop, 1)
        place = np.arange(self.answers)
        answers = np.take_along_axis(ended, np.minimum(begin + place, self.longest + 1), 1)
        inputs = np.full((len(strings), self.length), self.pad)
        inputs[:, 0] = self.start
        inputs[:, self.head : self.head + self.longest] = strings
        read = self.head + sizes
        np.put_along_axis(inputs, read, self.bar, 1)
        if self.keyed:
            key = np.take_along_axis(strings, begin - self.ngram + np.arange(self.ngram), 1)
            if self.kind == "prefix":
                inputs[:, 1 : self.head - 1], inputs[:, self.head - 1] = key, self.bar
            else:
                np.put_along_axis(inputs, read + 1 + np.arange(self.ngram), key, 1)
                read = read + self.ngram
        np.put_along_axis(inputs, read + 1 + place, answers, 1)
        targets = np.where(answers == self.pad, UNASKED, answers)
        return {"sequences": inputs, "targets": targets, "positions": read + place, "sizes": np.repeat(sizes, self.answers, 1)}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        return Batch(drawn["sequences"], drawn["targets"], drawn["positions"], slices={"letters": drawn["sizes"]})

    def baselines(self) -> dict[str, float]:
        answers = [m for n in range(self.shortest, self.longest + 1) for m in self._answer_lengths(n)]
        shares = [
            1 / len(self._answer_lengths(n)) for n in range(self.shortest, self.longest + 1) for _ in self._answer_lengths(n)
        ]
        guessed = (self.letters + 1.0) ** -np.array(answers)
        return {
            "chance": float(np.average(guessed, weights=shares)),
            "what followed the same letter": _followed_right(self.kind, self.longest, self.shortest, self.letters, self.ngram),
        }

    def _answer_lengths(self, letters: int) -> range:
        """Answers, stop included, that a string of so many letters can have; all as likely."""
        return range(2, letters - self.ngram + 2) if self.keyed else range(letters + 1, letters + 2)

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return {"what followed the same letter": self._followed}

    def _followed(self, batch: Batch) -> Tensor:
        """The letter after the first occurrence, in the string, of the letter that the answer comes after."""
        assert batch.positions is not None
        last = batch.inputs.gather(1, batch.positions)
        if self.kind == "prefix":
            last[:, 0] = batch.inputs[:, self.ngram]
        elif not self.keyed:
            last[:, 0] = self.start
        columns = torch.arange(self.head - 1, self.length - 1).expand(len(last), -1)
        first = torch.full((len(last), self.outputs), self.length - 2)
        first.scatter_reduce_(1, batch.inputs[:, self.head - 1 : -1], columns, "amin")
        answers = batch.inputs.gather(1, first.gather(1, last) + 1)
        return answers.where(answers != self.bar, self.stop)

    def oracle(self, batch: Batch) -> Tensor:
        assert batch.positions is not None
        strings = batch.inputs[:, self.head : self.head + self.longest + 1]
        sizes = (strings == self.bar).int().argmax(1, keepdim=True)
        place = torch.arange(self.answers).expand(len(strings), -1)
        if self.keyed:
            ends = batch.positions[:, :1] if self.kind == "suffix" else torch.full_like(sizes, self.ngram)
            key = batch.inputs.gather(1, ends + torch.arange(1 - self.ngram, 1))
            found = (strings.unfold(1, self.ngram, 1) == key[:, None]).all(2)
            place = place + found.int().argmax(1, keepdim=True) + self.ngram
        answers = strings.gather(1, place.clamp(max=self.longest))
        return answers.where(place < sizes, self.stop).where(place <= sizes, UNASKED)

    def harder(self) -> dict[str, Task]:
        variants: dict[str, Task] = {}
        if self.kind == "copy" and self.longest >= 2 * self.ngram:
            variants["kind=duplicate"] = StringCopy(
                kind="duplicate", longest=self.longest, letters=self.letters, ngram=self.ngram
            )
        for n in (times * self.longest for times in (2, 4, 8, 20)):
            variants[f"letters={n}"] = StringCopy(kind=self.kind, longest=n, shortest=n, letters=self.letters, ngram=self.ngram)
        return variants

    def buckets(self) -> dict[str, list[int]]:
        return {"letters": [2**k for k in range(self.longest.bit_length())]}

    def symbols(self) -> list[str]:
        return [*ascii_lowercase[: self.letters], *SYMBOLS]

    def example(self, batch: Batch, row: int) -> str:
        return super().example(batch, row).rstrip(" *")


@cache
def _followed_right(kind: Kind, longest: int, shortest: int, letters: int, ngram: int) -> float:
    task = StringCopy(kind=kind, longest=longest, shortest=shortest, letters=letters, ngram=ngram)
    return share_right(task, task._followed)

"""A stream of pairs, in which a key that was seen asks for its value: in-context, noisy and fuzzy recall of MAD.

Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844, section 3 and appendix B, by the rules of
the published generator. `tasks/mad.py` has its finite training sets, `tasks/recall.py` (layout=mad) draws without end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, no_type_check

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tasks.sources.splitmix import below, compiled, start
from tasks.task import UNASKED, Batch

NOISE = 16
"""Symbols without meaning, where there is noise."""
FINE = 1 << 30  # steps between shares of noise that can be told apart


@dataclass(frozen=True)
class PairStream:
    """Pairs of keys and values, a share `noise` of them without meaning, or motifs of up to `motif` symbols, then a known key.

    Keys are the symbols below `keys` and values those from there up to `values`; then come 16 of noise unless `noise` is None, or
    one that pads on the left where there are motifs. Pairs make `size` symbols, of which the last is only ever an answer; motifs
    leave `length` symbols beside it. compat: as in the published generator, some motifs are asked for that were never given.

    Raises:
        ValueError: there are too few symbols or positions for that.
    """

    length: int
    vocabulary: int
    noise: float | None = None
    motif: int = 1
    compat: bool = False

    def __post_init__(self) -> None:
        length, vocabulary, noise, motif = self.length, self.vocabulary, self.noise, self.motif
        if noise is not None and not 0 <= noise < 1:
            raise ValueError(f"noise={noise}: a share of at least 0 and below 1")
        if noise is not None and motif != 1:
            raise ValueError(f"noise={noise} with motif={motif}: noisy and fuzzy recall are two tasks; leave one out")
        if motif < 1 or self.keys < max(2, motif):
            least = 2 * max(2, motif) + vocabulary - self.values
            raise ValueError(f"vocabulary={vocabulary} for motif={motif}: motif >= 1 and at least {least} symbols are needed")
        if length < 8 * motif or (motif == 1 and length % 2):
            raise ValueError(f"length={length} for motif={motif}: at least {8 * motif}, and whole pairs, are needed")

    @property
    def keys(self) -> int:
        return self.values // 2

    @property
    def values(self) -> int:
        return self.vocabulary - (NOISE if self.noise is not None else int(self.motif > 1))

    @property
    def size(self) -> int:
        """Symbols of a sequence with its last answer."""
        return self.length + int(self.motif > 1)

    @property
    def answers(self) -> int:
        return self.size - 1

    def draw(self, rng: np.random.Generator, count: int, *, training: bool) -> dict[str, np.ndarray]:
        """`count` sequences, one a row, with targets and the distance of each question from where its key last stood.

        As published, training asks for every next symbol, and has keys of every size where there are motifs.
        """
        text = np.full((count, self.size), self.vocabulary - 1)
        targets, gaps = np.full(text.shape, UNASKED), np.zeros(text.shape, np.int64)
        noise, fewest = self.noise or 0.0, 1 if training else self.motif
        _write(start(rng), self.keys, self.values, noise, self.motif, fewest, self.compat, text, targets, gaps)
        asked = text if training else targets
        return {"inputs": text[:, :-1], "targets": asked[:, 1:], "gap": gaps[:, 1:]}

    def oracle(self, batch: Batch) -> Int[Tensor, "size answers"]:
        """Reads each sequence once and keeps what followed each key; UNASKED where no whole key was seen before."""
        return torch.tensor([self._looked_up(row) for row in batch.inputs.tolist()])

    def _looked_up(self, row: list[int]) -> list[int]:
        answers, known, key, value = [UNASKED] * len(row), {}, (), ()
        for at, symbol in enumerate(row):
            if self.keys <= symbol < self.values:
                value += (symbol,)
                continue
            if value:
                known[key] = value
                key = value = ()
            if symbol < self.keys:
                key += (symbol,)
            if len(key) == self.motif:
                for step, answer in enumerate(known.get(key, ())):
                    answers[at + step] = answer
        return answers

    def baselines(self) -> dict[str, float]:
        return {"chance": 1 / (self.values - self.keys)}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return {"the latest value": lambda batch: latest(batch.inputs, self.keys, self.values)}

    def symbols(self) -> list[str]:
        names = [f"{'k' if symbol < self.keys else 'v'}{symbol}" for symbol in range(self.values)]
        return names + ["." if self.motif > 1 else "~"] * (self.vocabulary - self.values)

    def harder(self) -> dict[str, dict[str, Any]]:
        """Settings of the harder variants by name."""
        longer: dict[str, dict[str, Any]] = {f"length={k * self.length}": {"length": k * self.length} for k in (2, 4, 8)}
        if self.noise is None:
            return longer
        return longer | {f"noise={noise}": {"noise": noise} for noise in (0.4, 0.6, 0.8) if noise > self.noise}


def latest(symbols: Int[Tensor, "size length"], low: int, high: int) -> Int[Tensor, "size length"]:
    """At each position the last symbol so far that is one of low ... high - 1; before any, the first of all."""
    places = torch.arange(symbols.shape[1]) * ((symbols >= low) & (symbols < high))
    return symbols.gather(1, places.cummax(1).values)


class Row(NamedTuple):
    """A sequence as it is written: pair i is symbols[begins[i] : begins[i + 1]], with its value from middles[i] on.

    Pair 0 stands before the sequence. It is the one that fuzzy recall asks for in the end, and empty elsewhere.
    """

    symbols: Any
    targets: Any
    gaps: Any
    begins: Any
    middles: Any


@compiled
@no_type_check
def _write(random, keys, values, noise, motif, fewest, compat, text, targets, gaps):
    """Fill the ends of the rows of the last three."""
    size = text.shape[1]
    room = size + 4 * motif
    rows = np.zeros((5, room), np.int64)
    row = Row(rows[0], rows[1], rows[2], rows[3], rows[4])
    for number in range(len(text)):
        row.targets[:], row.gaps[:] = UNASKED, 0
        if motif == 1:
            last = _pairs(random, row, keys, values, noise, size // 2)
        else:
            last = _motifs(random, row, keys, values, motif, fewest, compat, size - 1)
        begin, end = row.begins[1], row.begins[last + 1]
        text[number, size + begin - end :] = row.symbols[begin:end]
        targets[number, size + begin - end :] = row.targets[begin:end]
        gaps[number, size + begin - end :] = row.gaps[begin:end]


@compiled
@no_type_check
def _pairs(random, row, keys, values, noise, pairs):
    """Pairs of single symbols, one of them beside the last surely not noise; the last has any of the keys before it."""
    row.begins[1] = 0
    certain, seen, probe = 1 + below(random, pairs - 1), 0, 0
    for pair in range(1, pairs + 1):
        at = row.begins[pair]
        row.middles[pair], row.begins[pair + 1] = at + 1, at + 2
        if pair not in (certain, pairs) and below(random, FINE) < noise * FINE:
            row.symbols[at], row.symbols[at + 1] = values + below(random, NOISE), values + below(random, NOISE)
            continue
        row.symbols[at] = below(random, keys) if pair < pairs else probe
        if _answer(random, row, pair, keys, values, 1) < 0:
            seen += 1
            if below(random, seen) == 0:  # each of those seen is the probe with the same chance
                probe = row.symbols[at]
    return pairs


@compiled
@no_type_check
def _motifs(random, row, keys, values, motif, fewest, compat, length):
    """The pair to ask for first, apart; then pairs while there is room, that one at a random place among them; then its key."""
    _key(random, row, 0, keys, motif, fewest)
    _answer(random, row, 0, keys, values, motif)
    width = row.begins[1]
    shown, place = False, width + below(random, length - 2 * width)
    pair = 1
    while row.begins[pair] < length - 2 * motif:
        if not shown and row.begins[pair] >= place:
            _probe(row, pair)
        else:
            _key(random, row, pair, keys, motif, fewest)
        shown |= _answer(random, row, pair, keys, values, motif) == 0
        pair += 1
    if not shown and not compat:
        row.targets[row.begins[pair - 1] :], row.gaps[row.begins[pair - 1] :] = UNASKED, 0
        _probe(row, pair - 1)
        _answer(random, row, pair - 1, keys, values, motif)
    _probe(row, pair)
    _answer(random, row, pair, keys, values, motif)
    row.targets[row.middles[pair] : row.begins[pair + 1]] = row.symbols[row.middles[pair] : row.begins[pair + 1]]
    return pair


@compiled
@no_type_check
def _key(random, row, pair, keys, motif, fewest):
    row.middles[pair] = row.begins[pair] + fewest + below(random, motif - fewest + 1)
    _different(random, row.symbols[row.begins[pair] : row.middles[pair]], 0, keys)


@compiled
@no_type_check
def _probe(row, pair):
    """The key of pair 0 again."""
    row.middles[pair] = row.begins[pair] + row.middles[0]
    row.symbols[row.begins[pair] : row.middles[pair]] = row.symbols[: row.middles[0]]


@compiled
@no_type_check
def _answer(random, row, pair, keys, values, motif):
    """Write the value of a pair, that of the latest pair before it with the same key or a new one; gives that pair, or -1."""
    at, earlier = row.middles[pair], _latest(row, pair)
    if earlier < 0:
        end = at + 1 + below(random, motif)
        _different(random, row.symbols[at:end], keys, values)
    else:
        end = at + row.begins[earlier + 1] - row.middles[earlier]
        row.symbols[at:end] = row.symbols[row.middles[earlier] : row.begins[earlier + 1]]
    if earlier > 0:
        row.targets[at:end] = row.symbols[at:end]
        row.gaps[at:end] = row.begins[pair] - row.begins[earlier]
    row.begins[pair + 1] = end
    return earlier


@compiled
@no_type_check
def _latest(row, pair):
    begin, width = row.begins[pair], row.middles[pair] - row.begins[pair]
    for earlier in range(pair - 1, -1, -1):
        if row.middles[earlier] - row.begins[earlier] == width:
            place = 0
            while place < width and row.symbols[row.begins[earlier] + place] == row.symbols[begin + place]:
                place += 1
            if place == width:
                return earlier
    return -1


@compiled
@no_type_check
def _different(random, symbols, low, high):
    """Random symbols of low ... high - 1, no two alike."""
    place = 0
    while place < len(symbols):
        symbols[place] = low + below(random, high - low)
        if symbols[place] not in symbols[:place]:
            place += 1

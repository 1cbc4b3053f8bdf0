"""ListOps: the value of a nested list of operators on digits.

    [MAX 2 9 [MIN 4 7 ] 0 ] [9]        MIN, MAX, MED (median, rounded down) and SM (sum modulo 10)

Tay et al., "Long Range Arena", arXiv:2011.04006, section 2.2.1, after Nangia & Bowman, "ListOps", arXiv:1804.06028. A list has an
operator and 2 to 10 arguments; an argument is a list with probability 0.25, above depth 10, else a digit. Trees are drawn until
one has more than 500 and fewer than 2000 tokens. It is not causal: the answer is read from the mean over the tokens, which are
padded at the end. Departures: splits are by hash and the training set has no end, where the publication has 96,000 examples.

Digits are not equally frequent answers, and shortcuts go far: for a list whose value it does not work out, a rule guesses 0 for
MIN, 9 for MAX, 4 for MED and 6 for SM. Guessing from the root's operator alone scores 36 %, working out the root and guessing for
the lists in it 60 %, one level more 74 %. Scores up to these lines say nothing about hierarchical reasoning.
"""

from functools import cache
from typing import Annotated, Literal, NamedTuple, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.sources.splitmix import below, compiled, following, scaled, start
from tasks.task import Batch, Reference, Split, Task, Tokens, of_split, share_right

MIN, MAX, MED, SUM, END, PADDING = range(10, 16)
GUESSES = np.array([0, 9, 4, 6])
"""For a list of each operator whose value is not worked out."""
ARGUMENTS = 10
"""The most in a list; the fewest are 2."""
RAREST = 1e-3
HALF = np.uint64(32)


class _Sizes(NamedTuple):
    depth: int
    shortest: int
    longest: int
    nested: float


PRESETS = {"published": _Sizes(10, 500, 2000, 0.25), "laptop": _Sizes(3, 4, 40, 0.35)}


class ListOps(Task):
    """ListOps of the Long Range Arena: evaluate nested lists. Tay et al., arXiv:2011.04006, section 2.2.1."""

    causal = False
    pooled = True
    references = tuple(
        Reference(name, score, "", source)
        for source, scores in {
            "Tay et al., arXiv:2011.04006, table 1": {
                "Transformer": 0.3637,
                "Local attention": 0.1582,
                "Sparse Transformer": 0.1707,
                "Longformer": 0.3563,
                "Linformer": 0.3570,
                "Reformer": 0.3727,
                "Sinkhorn Transformer": 0.3367,
                "Synthesizer": 0.3699,
                "BigBird": 0.3605,
                "Linear Transformer": 0.1613,
                "Performer": 0.1801,
            },
            "Smith et al., arXiv:2208.04933, table 1": {"S4": 0.5960, "S4D": 0.6047, "Mega": 0.6314, "S5": 0.6215},
        }.items()
        for name, score in scores.items()
    )

    def __init__(
        self,
        *,
        preset: Annotated[Literal["published", "laptop"], "sizes of what is not given"] = "published",
        depth: Annotated[int | None, "deepest level of a tree, the root's is 1; published: 10, laptop: 3"] = None,
        shortest: Annotated[int | None, "sequences have more tokens than this; published: 500, laptop: 4"] = None,
        longest: Annotated[int | None, "sequences have fewer tokens than this; published: 2000, laptop: 40"] = None,
        nested: Annotated[float | None, "probability that an argument is a list; published: 0.25, laptop: 0.35"] = None,
    ) -> None:
        given = {"depth": depth, "shortest": shortest, "longest": longest, "nested": nested}
        sizes = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
        if sizes.depth < 2 or not 0 <= sizes.nested <= 1 or not 0 <= sizes.shortest < sizes.longest - 1:
            raise ValueError(f"{_told(sizes)}: needs depth >= 2, 0 <= nested <= 1 and shortest >= 0, at least 2 below longest")
        if not _common(sizes):
            raise ValueError(f"{_told(sizes)}: not one tree in 1000 is as long; give another depth, nested or range of lengths")
        self.sizes = sizes
        self.inputs, self.outputs, self.length, self.answers = Tokens(16), 10, sizes.longest, 1

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        inputs, lengths = np.full((count, self.length), PADDING), np.empty(count, np.int64)
        _fill(start(rng), *self.sizes[:3], round(self.sizes.nested * 2**32), inputs, lengths)
        return {"inputs": inputs, "lengths": lengths}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        inputs, lengths = drawn["inputs"], drawn["lengths"]
        slices = {"length": lengths, "depth": torch.from_numpy(_depths(inputs.numpy()))}
        return Batch(inputs, _values(inputs, self.sizes.depth), lengths=lengths, slices=slices)

    def baselines(self) -> dict[str, float]:
        return {"chance": 0.1, **_measured(self.sizes)}

    def shortcuts(self):
        guesses = ["root operator only", "one level", "two levels"][: self.sizes.depth - 1]
        return {
            "always 9": lambda batch: torch.full_like(batch.targets, 9),
            **{name: lambda batch, levels=levels: _values(batch.inputs, levels) for levels, name in enumerate(guesses)},
        }

    def oracle(self, batch: Batch) -> Int[Tensor, "size"]:
        return _values(batch.inputs, self.sizes.depth)

    def harder(self) -> dict[str, Task]:
        deeper = self.sizes._replace(depth=self.sizes.depth + 2)
        longer = deeper._replace(shortest=deeper.longest, longest=2 * deeper.longest)
        return {name: ListOps(**sizes._asdict()) for name, sizes in [("deeper", deeper), ("longer", longer)] if _common(sizes)}

    def buckets(self) -> dict[str, list[int]]:
        lengths = [2**k for k in range(self.sizes.longest.bit_length()) if 2 ** (k + 1) > self.sizes.shortest + 1]
        return {"length": lengths, "depth": list(range(2, self.sizes.depth + 1))}

    def symbols(self) -> list[str]:
        return [*map(str, range(10)), "[MIN", "[MAX", "[MED", "[SM", "]", "."]


def _told(sizes: _Sizes) -> str:
    return ", ".join(f"{name}={value}" for name, value in sizes._asdict().items())


def _common(sizes: _Sizes) -> bool:
    """Whether drawing trees until one has the right length ends soon."""
    return bool(_lengths(sizes.depth, sizes.nested, sizes.longest)[sizes.shortest + 1 :].sum() >= RAREST)


@cache
def _lengths(depth: int, nested: float, longest: int) -> Float[np.ndarray, "longest"]:
    """The probability of each length, below `longest`, of a tree whose root is a list."""
    digit = np.eye(1, longest, 1)[0]
    argument = lists = digit
    for _ in range(depth - 1):
        arguments, lists = argument, np.zeros(longest)
        for _ in range(ARGUMENTS - 1):
            product = np.fft.rfft(arguments, 2 * longest) * np.fft.rfft(argument, 2 * longest)
            arguments = np.fft.irfft(product, 2 * longest)[:longest]
            lists[2:] += arguments[:-2] / (ARGUMENTS - 1)
        argument = nested * lists + (1 - nested) * digit
    return lists


@cache
def _measured(sizes: _Sizes) -> dict[str, float]:
    task = ListOps(**sizes._asdict())
    return {name: share_right(task, rule) for name, rule in task.shortcuts().items()}


def _values(inputs: Int[Tensor, "size length"], levels: int) -> Int[Tensor, "size"]:
    """What each sequence comes to where only lists of the first `levels` levels are worked out, and others guessed."""
    values = np.empty(len(inputs), np.int64)
    _evaluate(inputs.numpy(), levels, values)
    return torch.from_numpy(values)


def _depths(inputs: Int[np.ndarray, "size length"]) -> Int[np.ndarray, "size"]:
    """The deepest level of each tree; a list's digits are one below it."""
    opened = ((inputs >= MIN) & (inputs <= SUM)).astype(np.int16)
    return (opened - (inputs == END)).cumsum(1, dtype=np.int16).max(1).astype(np.int64) + 1


@compiled
@no_type_check
def _fill(random, depth, shortest, longest, nested, inputs, lengths):
    """Write a tree into each row, drawn again until its length is in the range. nested: in parts of 2^32."""
    for row in range(len(inputs)):
        length = 0
        while not shortest < length < longest:
            length = _grow(random, depth, longest, nested, inputs[row])
        inputs[row, length:] = PADDING
        lengths[row] = length


@compiled
@no_type_check
def _grow(random, depth, longest, nested, tokens):
    """Write a tree in order; its length, which is given up as soon as it must reach `longest`."""
    missing = np.empty(depth, np.int64)  # arguments that each open list still lacks
    missing[0] = 2 + below(random, ARGUMENTS - 1)
    length = 2 + missing[0]
    tokens[0] = MIN + below(random, 4)
    level, at = 1, 1
    while level > 0 and length < longest:
        if missing[level - 1] == 0:
            tokens[at] = END
            level -= 1
        else:
            missing[level - 1] -= 1
            bits = following(random)
            if level + 1 < depth and scaled(bits, 1 << 32) < nested:
                tokens[at] = MIN + scaled(bits >> HALF, 4)
                missing[level] = 2 + below(random, ARGUMENTS - 1)
                length += 1 + missing[level]
                level += 1
            else:
                tokens[at] = scaled(bits >> HALF, 10)
        at += 1
    return length


@compiled
@no_type_check
def _evaluate(inputs, levels, values):
    deepest = inputs.shape[1]
    operators, counts = np.empty(deepest, np.int64), np.empty(deepest, np.int64)
    arguments = np.empty((deepest, ARGUMENTS), np.int64)
    for row in range(len(inputs)):
        level, at, value = 0, 0, 0
        while level > 0 or at == 0:
            token = inputs[row, at]
            at += 1
            if MIN <= token <= SUM:
                operators[level], counts[level] = token, 0
                level += 1
                continue
            value = token
            if token == END:
                level -= 1
                operator = operators[level]
                value = _apply(operator, arguments[level, : counts[level]]) if level < levels else GUESSES[operator - MIN]
            if level > 0:
                arguments[level - 1, counts[level - 1]] = value
                counts[level - 1] += 1
        values[row] = value


@compiled
@no_type_check
def _apply(operator, arguments):
    if operator == MIN:
        return arguments.min()
    if operator == MAX:
        return arguments.max()
    if operator == SUM:
        return arguments.sum() % 10
    arguments.sort()
    middle = len(arguments) // 2
    return (arguments[middle] + arguments[-1 - middle]) // 2

"""Modular arithmetic: the value of an expression modulo 5.

    1 + 2 * 3 =[2] . .                   the answer is read at the =; dots are padding
    ( ( - 1 ) * ( 4 - 2 ) ) =[3] . .     with brackets=true

Deletang et al., "Neural Networks and the Chomsky Hierarchy", arXiv:2207.02098. Without brackets, digits and operators take turns,
each as likely, and products come before sums: a regular language. With brackets, an expression of n > 4 symbols is ( left op
right ) with the length of its left side uniform over 1 ... n-4, and one of n = 1, 2, 3, 4 is d, -d, (d), (-d). Trained on 3 to 40
symbols and tested on 40 to 256, as in Beck et al., "xLSTM", arXiv:2405.04517, and Grazzi et al., arXiv:2411.12537, section 5.1;
every length is as likely, and without brackets even ones are made odd by leaving out a symbol. Published scores are scaled
accuracies, (accuracy - 1/5) / (1 - 1/5), of the best of three runs; here they are accuracies again. Those with brackets are left
out, as they differ between versions of the paper. longest=10 is a laptop's size.
"""

from functools import cache
from typing import Annotated, no_type_check

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tasks.sources.splitmix import below, compiled, start
from tasks.task import Batch, Reference, Split, Task, Tokens, of_split, share_right

MODULUS = 5
PLUS, MINUS, TIMES, OPEN, CLOSE, EQUALS, PADDING = range(MODULUS, 12)


class ModularArithmetic(Task):
    """Expressions modulo 5, with and without brackets. Deletang et al., arXiv:2207.02098."""

    references = tuple(
        Reference(
            name,
            round((1 + 4 * scaled) / 5, 4),
            "longest=256,shortest=40",
            "arXiv:2411.12537, table 3, trained on 3 to 40 symbols",
        )
        for name, scaled in [
            ("Transformer", 0.031),
            ("mLSTM", 0.040),
            ("sLSTM", 0.787),
            ("Mamba, eigenvalues in [0, 1]", 0.095),
            ("Mamba, eigenvalues in [-1, 1]", 0.241),
            ("DeltaNet, eigenvalues in [0, 1]", 0.314),
            ("DeltaNet, eigenvalues in [-1, 1]", 0.971),
        ]
    )

    def __init__(
        self,
        *,
        brackets: Annotated[bool, "nested brackets"] = False,
        shortest: Annotated[int, "fewest symbols of an expression"] = 3,
        longest: Annotated[int, "most symbols of an expression, at least 10"] = 40,
    ) -> None:
        if not 1 <= shortest <= longest or longest < 10:
            raise ValueError(f"shortest={shortest}, longest={longest}: give 1 <= shortest <= longest, and longest at least 10")
        self.brackets, self.shortest, self.longest = brackets, shortest, longest
        self.inputs, self.outputs, self.length, self.answers = Tokens(12), MODULUS, longest + 1, 1

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        inputs = np.full((count, self.length), PADDING)
        ends = rng.integers(self.shortest, self.longest + 1, (count, 1))
        if not self.brackets:
            ends -= ends % 2 == 0
        _write(start(rng), self.brackets, inputs, ends)
        return {"inputs": inputs, "positions": ends}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        inputs, ends = drawn["inputs"], drawn["positions"]
        return Batch(inputs, _values(inputs, in_order=False), ends, slices={"symbols": ends})

    def baselines(self) -> dict[str, float]:
        return {"chance": 1 / MODULUS, **_measured(self.brackets, self.shortest, self.longest)}

    def shortcuts(self):
        return {
            "always 0": lambda batch: torch.zeros_like(batch.targets),
            "from left to right": lambda batch: _values(batch.inputs, in_order=True),
        }

    def oracle(self, batch: Batch) -> Int[Tensor, "size 1"]:
        return _values(batch.inputs, in_order=False)

    def harder(self) -> dict[str, Task]:
        longest = 256 * self.longest // 40
        return {"longer": ModularArithmetic(brackets=self.brackets, shortest=self.longest, longest=longest)}

    def buckets(self) -> dict[str, list[int]]:
        return {"symbols": [2**k for k in range(self.longest.bit_length())]}

    def symbols(self) -> list[str]:
        return [*map(str, range(MODULUS)), *"+-*()=."]


@cache
def _measured(brackets: bool, shortest: int, longest: int) -> dict[str, float]:
    task = ModularArithmetic(brackets=brackets, shortest=shortest, longest=longest)
    return {name: share_right(task, rule) for name, rule in task.shortcuts().items()}


def _values(inputs: Int[Tensor, "size length"], in_order: bool) -> Int[Tensor, "size 1"]:
    """What each expression comes to; in_order: brackets are skipped, and operators applied as they come."""
    values = np.empty((len(inputs), 1), np.int64)
    _evaluate(inputs.numpy(), in_order, values)
    return torch.from_numpy(values)


@compiled
@no_type_check
def _write(random, brackets, inputs, ends):
    """Write an expression of each length and the = after it."""
    planned = np.empty(inputs.shape[1], np.int64)  # a symbol, or minus the length of an expression; last comes first
    for row in range(len(inputs)):
        tokens, end = inputs[row], ends[row, 0]
        tokens[end] = EQUALS
        if not brackets:
            for at in range(end):
                tokens[at] = PLUS + below(random, 3) if at % 2 else below(random, MODULUS)
            continue
        planned[0] = -end
        waiting, at = 1, 0
        while waiting:
            waiting -= 1
            length = -planned[waiting]
            if length <= 0:
                tokens[at] = planned[waiting]
            elif length > 4:
                left = 1 + below(random, length - 4)
                tokens[at] = OPEN
                planned[waiting], planned[waiting + 1] = CLOSE, left + 3 - length
                planned[waiting + 2], planned[waiting + 3] = PLUS + below(random, 3), -left
                waiting += 4
            else:
                bracketed, negative = length > 2, length % 2 == 0
                if bracketed:
                    tokens[at] = OPEN
                if negative:
                    tokens[at + bracketed] = MINUS
                tokens[at + bracketed + negative] = below(random, MODULUS)
                if bracketed:
                    tokens[at + length - 1] = CLOSE
                at += length - 1
            at += 1


@compiled
@no_type_check
def _evaluate(inputs, in_order, values):
    """Each open bracket has a sum so far and the product that it will next add."""
    sums, products = np.empty(inputs.shape[1], np.int64), np.empty(inputs.shape[1], np.int64)
    for row in range(len(inputs)):
        level, at = 0, 0
        sums[0], products[0] = 0, 1
        operand = True  # one is awaited, so that a minus is a sign
        while inputs[row, at] != EQUALS:
            token = inputs[row, at]
            at += 1
            if token < MODULUS:
                products[level] = products[level] * token % MODULUS
                operand = False
            elif token == MINUS and operand:
                products[level] *= -1
            elif token in (PLUS, MINUS):
                sums[level] += products[level]
                products[level] = 1 if token == PLUS else -1
                operand = True
            elif token == TIMES:
                if in_order:
                    products[level] += sums[level]
                    sums[level] = 0
                operand = True
            elif not in_order and token == OPEN:
                level += 1
                sums[level], products[level] = 0, 1
            elif not in_order:
                level -= 1
                products[level] = products[level] * (sums[level + 1] + products[level + 1]) % MODULUS
        values[row, 0] = (sums[0] + products[0]) % MODULUS

"""Sudoku as a sequence: read a puzzle with one solution, then give the solution cell by cell, row after row.

    3 . 1 . . 1 3 . 1 4 . . . 3 4 . | 3[2] 2 1[4] 4[4] 4 1 3[2] 2 1 4[2] 2[3] 3[2] 2 3 4[1] 1

Dots are blanks (symbol 0), answers stand in brackets: a cell is predicted from the position before it.

A definition of ours. A puzzle is a random filled grid, emptied in random order until `blanks` cells are blank, but for cells
without which it would have a second solution (tasks/sources/grids.py). Only the blanks are asked for; given digits are put in.
With all earlier cells right, the next one is predicted from what greedy generation would see; so `exact` is the share of boards
that generation solves. Nothing is written down on the way to the solution, so a blank that needs a look ahead must be seen
through at once; `open` counts the blanks of a board at which the given digits and the cells already solved leave two or more.

The solved grid decides the split: no two splits share one. Of the 288 grids of size 4, 14 of 16 are trained on.
"""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.sources import grids
from tasks.task import UNASKED, Batch, Split, Task, Tokens, of_split, share_right

BLANKS = {4: 8, 9: 40}
MOST_BLANKS = {4: 12, 9: 56}
"""Size 4 has no puzzles with more blanks. Size 9 has, up to 64, but they are rare."""
HARDER = {4: (10, 11, 12), 9: (45, 50, 54)}


class Sudoku(Task):
    """Solve sudoku puzzles of 4 x 4 or 9 x 9 cells, left to right."""

    metric = "exact"
    also = ("accuracy",)

    def __init__(
        self,
        *,
        size: Annotated[Literal[4, 9], "digits; 4 is a laptop's"] = 9,
        blanks: Annotated[int | None, "cells to solve; none given: 40 of 81, 8 of 16"] = None,
    ) -> None:
        if size not in BLANKS:
            raise ValueError(f"size={size}: 4 or 9")
        blanks = BLANKS[size] if blanks is None else blanks
        if not 1 <= blanks <= MOST_BLANKS[size]:
            raise ValueError(f"blanks={blanks} for size={size}: 1 to {MOST_BLANKS[size]}")
        self.size: Literal[4, 9] = size
        self.blanks, self.cells = blanks, size * size
        self.bar = size + 1
        self.length, self.answers = 2 * self.cells + 1, self.cells
        self.inputs, self.outputs = Tokens(size + 2), size + 2

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        seeds = rng.integers(1 << 63, size=count)
        return {"inputs": grids.random_grids(self.size, seeds), "seeds": seeds}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        solved = drawn["inputs"].numpy()
        puzzles = grids.dig(solved, self.blanks, drawn["seeds"].numpy())
        inputs = np.concatenate([puzzles, np.full((size, 1), self.bar), solved], 1)
        targets = np.where(puzzles == 0, solved, UNASKED)
        positions = np.tile(np.arange(self.cells, 2 * self.cells), (size, 1))
        unsure = (np.bitwise_count(grids.fitting(puzzles, solved)) > 1).sum(1)
        tensors = map(torch.from_numpy, (inputs, targets, positions))
        return Batch(*tensors, slices={"open": torch.from_numpy(unsure)[:, None].expand(-1, self.cells)})

    def baselines(self) -> dict[str, float]:
        return {"chance": float(self.size) ** -self.blanks, "the first digit that fits": _first_right(self.size, self.blanks)}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return {"the first digit that fits": self._first}

    def _first(self, batch: Batch) -> Tensor:
        """The smallest digit that the puzzle and the cells already solved leave."""
        fits = grids.fitting(*self._parts(batch))
        return torch.from_numpy(np.bitwise_count((fits & -fits) - 1).astype(np.int64) + 1)

    def oracle(self, batch: Batch) -> Tensor:
        puzzles, _ = self._parts(batch)
        return torch.from_numpy(np.where(puzzles == 0, grids.solve(puzzles), UNASKED))

    def _parts(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Puzzles and solved grids."""
        return batch.inputs[:, : self.cells].numpy(), batch.inputs[:, self.cells + 1 :].numpy()

    def harder(self) -> dict[str, Task]:
        return {f"blanks={n}": Sudoku(size=self.size, blanks=n) for n in HARDER[self.size] if n > self.blanks}

    def buckets(self) -> dict[str, list[int]]:
        return {"open": [0, 1, 2, 4, 8, 16, 32][: self.blanks.bit_length() + 1]}

    def symbols(self) -> list[str]:
        return [".", *map(str, range(1, self.size + 1)), "|"]

    def example(self, batch: Batch, row: int) -> str:
        """Rows of the puzzle, and beside them those of the solution, with its answers in brackets."""
        puzzle, solved = (part[row].reshape(self.size, -1) for part in self._parts(batch))
        return "\n".join(
            f"{' '.join(str(digit or '.') for digit in given)}  |  "
            + "".join(f" {digit} " if old else f"[{digit}]" for old, digit in zip(given, right, strict=True))
            for given, right in zip(puzzle, solved, strict=True)
        )


@cache
def _first_right(size: Literal[4, 9], blanks: int) -> float:
    task = Sudoku(size=size, blanks=blanks)
    return share_right(task, task._first)

"""Sudoku grids and puzzles: a solver by depth-first search, and what it makes.

A grid of `size` has digits 1 ... size, each once in every row, column and box; 0 is a blank. The search fills the blank with the
fewest digits that fit and tries these in random order, so from the empty grid it makes a random one. All is in whole numbers
and draws from a generator of its own: the same bytes on every machine.
"""

from functools import cache
from typing import no_type_check

import numpy as np
from jaxtyping import Int
from numba import njit

COUNT = np.array([i.bit_count() for i in range(1 << 9)])
"""Digits in a set, which is an integer with bit d - 1 for digit d."""


def random_grids(size: int, seeds: Int[np.ndarray, "count"]) -> Int[np.ndarray, "count cells"]:
    """A filled grid for each seed."""
    grids = np.zeros((len(seeds), size * size), np.int64)
    _solve_all(grids, _groups(size), seeds)
    return grids


def dig(grids: Int[np.ndarray, "count cells"], blanks: int, seeds: Int[np.ndarray, "count"]) -> Int[np.ndarray, "count cells"]:
    """Puzzles with one solution: cells are emptied in random order, but for those without which there would be two solutions.

    An order that ends before so many are empty is given up for another.
    """
    puzzles = grids.copy()
    _dig_all(puzzles, _groups(round(grids.shape[1] ** 0.5)), blanks, ~seeds)
    return puzzles


def solve(puzzles: Int[np.ndarray, "count cells"]) -> Int[np.ndarray, "count cells"]:
    """A solution of each; where there is none, the puzzle."""
    grids = puzzles.copy()
    _solve_all(grids, _groups(round(puzzles.shape[1] ** 0.5)), np.zeros(len(puzzles), np.int64))
    return grids


def fitting(puzzles: Int[np.ndarray, "count cells"], grids: Int[np.ndarray, "count cells"]) -> Int[np.ndarray, "count cells"]:
    """For each blank the set of digits that no given digit excludes, nor one that the solution has before it; else none."""
    sets = np.zeros_like(puzzles)
    _fit_all(puzzles, grids, _groups(round(puzzles.shape[1] ** 0.5)), sets)
    return sets


@cache
def _groups(size: int) -> Int[np.ndarray, "3 cells"]:
    """Row, column and box of each cell."""
    row, column = np.divmod(np.arange(size * size), size)
    side = round(size**0.5)
    return np.stack([row, column, row // side * side + column // side])


@njit(cache=True)
@no_type_check
def _below(random, count):
    """A whole number from 0 to count - 1: SplitMix64 of Steele, Lea & Flood 2014; `random` is its state."""
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(((z ^ (z >> np.uint64(31))) >> np.uint64(32)) * np.uint64(count) >> np.uint64(32))


@njit(cache=True)
@no_type_check
def _toggle(used, groups, cell, digit):
    """Put a digit into the sets of its row, column and box, or take it out."""
    for kind in range(3):
        used[kind, groups[kind, cell]] ^= 1 << (digit - 1)


@njit(cache=True)
@no_type_check
def _used(grid, groups):
    """The set of digits in each row, column and box."""
    used = np.zeros((3, groups.max() + 1), np.int64)
    for cell in np.flatnonzero(grid):
        _toggle(used, groups, cell, grid[cell])
    return used


@njit(cache=True)
@no_type_check
def _fitting(used, groups, cell):
    full = (1 << used.shape[1]) - 1
    return full & ~(used[0, groups[0, cell]] | used[1, groups[1, cell]] | used[2, groups[2, cell]])


@njit(cache=True)
@no_type_check
def _next_blank(used, groups, blanks, filled):
    """Put the blank with the fewest digits that fit next after those already filled; which digits these are."""
    fewest, chosen, left = used.shape[1] + 1, filled, 0
    for i in range(filled, len(blanks)):
        fits = _fitting(used, groups, blanks[i])
        if COUNT[fits] < fewest:
            fewest, chosen, left = COUNT[fits], i, fits
            if fewest < 2:
                break
    blanks[filled], blanks[chosen] = blanks[chosen], blanks[filled]
    return left


@njit(cache=True)
@no_type_check
def _solutions(grid, groups, limit, random):
    """How many solutions there are, up to `limit`; the grid becomes the last of so many, else it is as it was."""
    used, blanks = _used(grid, groups), np.flatnonzero(grid == 0)
    if len(blanks) == 0:
        return 1
    left = np.zeros(len(blanks), np.int64)
    left[0] = _next_blank(used, groups, blanks, 0)
    filled = found = 0
    while filled >= 0:
        cell = blanks[filled]
        if grid[cell]:
            _toggle(used, groups, cell, grid[cell])
            grid[cell] = 0
        if left[filled] == 0:
            filled -= 1
            continue
        digit = left[filled]
        for _ in range(_below(random, COUNT[digit]) if COUNT[digit] > 1 else 0):
            digit &= digit - 1
        digit &= -digit
        left[filled] ^= digit
        grid[cell] = COUNT[digit - 1] + 1
        _toggle(used, groups, cell, grid[cell])
        if filled + 1 == len(blanks):
            found += 1
            if found == limit:
                return found
        else:
            filled += 1
            left[filled] = _next_blank(used, groups, blanks, filled)
    return found


@njit(cache=True)
@no_type_check
def _solve_all(grids, groups, seeds):
    random = np.empty(1, np.uint64)
    for i in range(len(grids)):
        random[0] = seeds[i]
        _solutions(grids[i], groups, 1, random)


@njit(cache=True)
@no_type_check
def _dig_all(puzzles, groups, blanks, seeds):
    random, cells = np.empty(1, np.uint64), puzzles.shape[1]
    for i in range(len(puzzles)):
        random[0] = seeds[i]
        order = np.arange(cells)
        grid, puzzle = puzzles[i].copy(), puzzles[i]
        gone = 0
        while gone < blanks:
            for cell in range(cells - 1, 0, -1):
                other = _below(random, cell + 1)
                order[cell], order[other] = order[other], order[cell]
            puzzle[:] = grid
            gone, at, step = 0, 0, blanks
            while gone < blanks and at < cells:  # many at once: had one of them been too many, all would be
                step = min(step, blanks - gone, cells - at)
                puzzle[order[at : at + step]] = 0
                if _solutions(puzzle.copy(), groups, 2, random) == 1:
                    gone, at = gone + step, at + step
                else:
                    puzzle[order[at : at + step]] = grid[order[at : at + step]]
                    if step == 1:
                        at += 1
                    step = max(1, step // 2)


@njit(cache=True)
@no_type_check
def _fit_all(puzzles, grids, groups, sets):
    for i in range(len(puzzles)):
        used = _used(puzzles[i], groups)
        for cell in np.flatnonzero(puzzles[i] == 0):
            sets[i, cell] = _fitting(used, groups, cell)
            for kind in range(3):
                used[kind, groups[kind, cell]] |= 1 << (grids[i, cell] - 1)

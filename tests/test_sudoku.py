"""Sudoku: grids and puzzles against plain-Python rules and a solver of another kind."""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from tasks.sources import grids
from tasks.sudoku import Sudoku
from tasks.task import SPLITS, UNASKED


def peers(size, cell):
    side = round(size**0.5)
    row, column = divmod(cell, size)
    for other in range(size * size):
        r, c = divmod(other, size)
        if other != cell and (r == row or c == column or (r // side == row // side and c // side == column // side)):
            yield other


def all_solutions(puzzle, size):
    """Every solution, cell by cell in reading order: no heuristics, no bits."""
    puzzle = list(puzzle)
    if 0 not in puzzle:
        return [puzzle]
    cell = puzzle.index(0)
    taken = {puzzle[other] for other in peers(size, cell)}
    free = [digit for digit in range(1, size + 1) if digit not in taken]
    return [found for digit in free for found in all_solutions([*puzzle[:cell], digit, *puzzle[cell + 1 :]], size)]


@pytest.mark.parametrize(("size", "blanks", "count"), [(4, 8, 60), (4, 12, 60), (9, 40, 20)])
def test_puzzles_have_the_one_solution_that_is_asked(size, blanks, count):
    task, cells = Sudoku(size=size, blanks=blanks), size * size
    batch = task.batch("train", 0, count, 0)
    for row, targets, positions in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.positions.tolist(), strict=True):
        puzzle, bar, solved = row[:cells], row[cells], row[cells + 1 :]
        assert bar == size + 1
        assert puzzle.count(0) == blanks
        assert all_solutions(puzzle, size) == [solved]
        assert all(solved[cell] != solved[other] for cell in range(cells) for other in peers(size, cell))
        assert targets == [right if given == 0 else UNASKED for given, right in zip(puzzle, solved, strict=True)]
        assert positions == list(range(cells, 2 * cells))


def shuffled(seed, count):
    """An order of `count` things by Fisher and Yates, with whole numbers from SplitMix64."""
    state, order = seed % 2**64, list(range(count))
    for last in range(count - 1, 0, -1):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        other = ((z ^ z >> 31) >> 32) * (last + 1) >> 32
        order[last], order[other] = order[other], order[last]
    return order


def test_cells_are_emptied_one_after_another():
    """What goes many at a time is what goes one by one."""
    solved = grids.random_grids(4, np.arange(60))
    for seed, grid, dug in zip(range(60), solved.tolist(), grids.dig(solved, 9, np.arange(60)).tolist(), strict=True):
        puzzle = grid[:]
        for cell in shuffled(~seed, 16):
            fewer = [0 if other == cell else digit for other, digit in enumerate(puzzle)]
            if puzzle.count(0) < 9 and len(all_solutions(fewer, 4)) == 1:
                puzzle = fewer
        assert puzzle.count(0) < 9 or puzzle == dug


def test_all_grids_of_size_4_are_drawn_and_their_splits_share_none():
    everything = {tuple(grid) for grid in all_solutions([0] * 16, 4)}
    assert len(everything) == 288
    assert {tuple(grid) for grid in grids.random_grids(4, np.arange(4000)).tolist()} == everything
    task = Sudoku(size=4)
    seen = [{tuple(row) for i in range(8) for row in task.batch(split, i, 128, 0).inputs[:, 17:].tolist()} for split in SPLITS]
    assert all(not one & other for one, other in itertools.combinations(seen, 2))
    assert set.union(*seen) <= everything
    assert [len(some) for some in seen] == pytest.approx([14 * 18, 18, 18], rel=0.3)


def test_the_solver_counts_as_brute_force_does():
    rng = np.random.default_rng(0)
    for grid in grids.random_grids(4, np.arange(40)):
        puzzle = np.where(rng.random(16) < 0.6, 0, grid)
        count = len(all_solutions(puzzle.tolist(), 4))
        state = np.ones(1, np.uint64)
        assert grids._solutions(puzzle.copy(), grids._groups(4), 1000, state) == count
        assert grids._solutions(puzzle.copy(), grids._groups(4), 2, state) == min(2, count)
        assert grids.solve(puzzle[None])[0].tolist() in all_solutions(puzzle.tolist(), 4)
    impossible = np.array([[1, 1] + [0] * 14])
    assert (grids.solve(impossible) == impossible).all()


def test_grids_are_the_same_bytes_everywhere():
    made = np.concatenate([grids.random_grids(size, np.arange(50)).ravel() for size in (4, 9)])
    made = np.concatenate([made, grids.dig(grids.random_grids(9, np.arange(20)), 45, np.arange(20)).ravel()])
    assert hashlib.sha256(made.astype("<i8").tobytes()).hexdigest()[:16] == "2f10d054f9a21f18"


@pytest.mark.parametrize(("size", "blanks"), [(4, 6), (9, 40), (9, 52)])
def test_sudoku_oracle_and_open_cells(size, blanks):
    task, cells = Sudoku(size=size, blanks=blanks), size * size
    batch = task.batch("test", 0, 24, 0)
    assert torch.equal(task.oracle(batch), batch.targets)
    first = task.shortcuts()["the first digit that fits"](batch)
    for row, opened, answers in zip(batch.inputs.tolist(), batch.slices["open"], first.tolist(), strict=True):
        board, count = row[:cells], 0
        for cell in range(cells):
            if board[cell] == 0:
                free = set(range(1, size + 1)) - {board[other] for other in peers(size, cell)}
                assert answers[cell] == min(free)
                count += len(free) > 1
                board[cell] = row[cells + 1 + cell]
        assert (opened == count).all()


def test_sudoku_baselines_are_what_the_rules_score():
    task = Sudoku(size=4)
    metric = task.new_metric()
    batch = task.batch("test", 1, 2048, 1)
    answers = task.shortcuts()["the first digit that fits"](batch)
    metric.update(torch.nn.functional.one_hot(answers, task.outputs).movedim(-1, 1).float(), batch.targets)
    assert float(metric.compute()) == pytest.approx(task.baselines()["the first digit that fits"], abs=0.04)
    assert task.baselines()["chance"] == 4.0**-8


@pytest.mark.parametrize(("settings", "message"), [({"size": 4, "blanks": 13}, "blanks=13"), ({"blanks": 0}, "blanks=0")])
def test_sudoku_refuses_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Sudoku(**settings)


def test_harder_sudokus_have_more_blanks_and_the_example_shows_them():
    assert [task.blanks for task in Sudoku(size=9).harder().values()] == [45, 50, 54]
    assert list(Sudoku(size=4, blanks=11).harder()) == ["blanks=12"]
    task = Sudoku(size=4)
    lines = task.example(task.batch("test", 0, 1, 0), 0).split("\n")
    assert len(lines) == 4
    assert sum(line.count(".") for line in lines) == sum(line.count("[") for line in lines) == 8

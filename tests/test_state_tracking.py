"""Word problems, parity, modular arithmetic and flip-flops against rules written in plain Python."""

import itertools

import numpy as np
import pytest
import torch

from tasks.flip_flop import FlipFlop
from tasks.modular_arithmetic import ModularArithmetic
from tasks.parity import Parity
from tasks.task import SPLITS, UNASKED, share_right
from tasks.word_problem import WordProblem, cosets, elements, table

ORDERS = {"S3": 6, "A4xZ5": 60, "A5": 60, "S5": 120, "Z60": 60}
TASKS = [
    *(WordProblem(group=group, length=9) for group in ORDERS),
    WordProblem(),
    Parity(),
    Parity(shortest=40, longest=256),
    Parity(shortest=1, longest=10),
    ModularArithmetic(),
    ModularArithmetic(brackets=True),
    ModularArithmetic(shortest=9, longest=10),
    ModularArithmetic(brackets=True, shortest=1, longest=100),
    FlipFlop(),
    FlipFlop(length=64, ignores=0.98),
    FlipFlop(length=16, ignores=0.1),
    FlipFlop(length=32, ignores=1.0),
]


def words(task, row):
    """The symbols of a sequence, without padding."""
    return [task.symbols()[symbol] for symbol in row.tolist() if task.symbols()[symbol] != "."]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__class__.__name__)
@pytest.mark.parametrize("split", SPLITS)
def test_the_oracle_finds_every_target(task, split):
    batch = task.batch(split, 0, 40, 0)
    assert torch.equal(task.oracle(batch), batch.targets)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__class__.__name__)
def test_shortcuts_score_what_the_baselines_say(task):
    baselines = task.baselines()
    assert task.shortcuts()
    for name, rule in task.shortcuts().items():
        batches = [task.batch("train", index, 512, 3) for index in range(8)]
        right = torch.cat([(rule(batch) == batch.targets)[batch.targets != UNASKED] for batch in batches]).float()
        error = (baselines[name] * (1 - baselines[name]) / 512) ** 0.5  # of what was measured on held-out examples
        assert float(right.mean()) == pytest.approx(baselines[name], abs=0.01 + 3 * error), name


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__class__.__name__)
def test_batches_repeat_and_slices_fit_their_targets(task):
    first, again = task.batch("train", 5, 7, 1), task.batch("train", 5, 7, 1)
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, task.batch("train", 6, 7, 1).inputs)
    for name, bounds in task.buckets().items():
        values = first.slices[name][first.targets != UNASKED]
        assert values.min() >= bounds[0]
        assert bounds == sorted(set(bounds))


# Word problem


@pytest.mark.parametrize("group", ORDERS)
def test_the_table_is_that_of_a_group(group):
    product = table(group)
    order = len(product)
    assert order == ORDERS[group]
    assert product.min() == 0
    assert product.max() == order - 1
    assert (product[0] == np.arange(order)).all(), "the identity comes first"
    assert (product[:, 0] == np.arange(order)).all()
    for sides in (product, product.T):
        assert (np.sort(sides, 1) == np.arange(order)).all(), "each element once in each row and column: inverses exist"
    assert (product[product] == product[:, product]).all(), "(a b) c = a (b c)"


def test_the_groups_are_the_ones_they_are_called():
    """Told apart by commuting and by the orders of their elements."""

    def orders(group):
        product, counts = table(group), {}
        for element in range(len(product)):
            power, order = element, 1
            while power:
                power, order = product[power, element], order + 1
            counts[order] = counts.get(order, 0) + 1
        return counts

    assert orders("S3") == {1: 1, 2: 3, 3: 2}
    assert orders("A5") == {1: 1, 2: 15, 3: 20, 5: 24}
    assert orders("A4xZ5") == {1: 1, 2: 3, 3: 8, 5: 4, 10: 12, 15: 32}
    assert orders("S5") == {1: 1, 2: 25, 3: 20, 4: 30, 5: 24, 6: 20}
    assert orders("Z60")[60] == 16
    assert (table("Z60") == table("Z60").T).all()


def test_elements_are_in_lexicographic_order():
    for group in ("S3", "A4xZ5", "A5", "S5"):
        assert elements(group) == sorted(elements(group))


@pytest.mark.parametrize(("group", "cosets_of_commutators"), [("S3", 2), ("A4xZ5", 15), ("A5", 1), ("S5", 2), ("Z60", 60)])
def test_commutators_leave_what_order_does_not_change(group, cosets_of_commutators):
    coset, product = cosets(group), table(group)
    assert len(set(coset)) == cosets_of_commutators
    assert (coset[product] == coset[product.T]).all()
    assert (coset[product] == coset[product[coset][:, coset]]).all()


@pytest.mark.parametrize("group", ["S3", "A4xZ5", "A5", "S5"])
def test_word_problems_follow_where_points_go(group):
    task = WordProblem(group=group, length=12)
    batch = task.batch("test", 0, 10, 0)
    for row, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        for place, target in enumerate(targets):
            for point, image in enumerate(elements(group)[target]):
                for element in reversed(row[: place + 1]):
                    point = elements(group)[element][point]
                assert point == image


def test_cyclic_words_are_sums():
    batch = WordProblem(group="Z60").batch("train", 0, 10, 0)
    assert torch.equal(batch.inputs.cumsum(1) % 60, batch.targets)


def test_elements_and_products_are_uniform():
    batches = [WordProblem().batch("train", index, 512, 0) for index in range(8)]
    for values in (torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])):
        shares = values.flatten().bincount(minlength=60) / values.numel()
        assert shares.numpy() == pytest.approx(np.full(60, 1 / 60), abs=0.0025)


# Parity


def test_parity_counts_the_ones():
    task = Parity()
    batch = task.batch("train", 0, 200, 0)
    for row, target, position in zip(batch.inputs, batch.targets.flatten(), batch.positions.flatten(), strict=True):
        *bits, end = words(task, row)
        assert end == "="
        assert len(bits) == int(position)
        assert set(bits) <= {"0", "1"}
        assert bits.count("1") % 2 == int(target)


def test_every_number_of_bits_is_as_likely():
    batches = [Parity().batch("train", index, 512, 0) for index in range(20)]
    counts = torch.cat([batch.positions.flatten() for batch in batches]).bincount()
    assert counts[:3].sum() == 0
    assert len(counts) == 41
    assert counts[8:].float().numpy() / 10240 == pytest.approx(np.full(33, 1 / 38), abs=0.007)
    assert torch.cat([batch.targets for batch in batches]).float().mean() == pytest.approx(0.5, abs=0.02)


def test_published_lengths_are_tested_beyond_training():
    for task in (Parity(), ModularArithmetic(), ModularArithmetic(brackets=True)):
        longer = task.harder()["longer"]
        assert (task.shortest, task.longest, longer.shortest, longer.longest) == (3, 40, 40, 256)
        assert longer.batch("test", 0, 200, 0).positions.min() >= 39
    assert ModularArithmetic(brackets=True).harder()["longer"].brackets


# Modular arithmetic


@pytest.mark.parametrize("brackets", [False, True])
@pytest.mark.parametrize(("shortest", "longest"), [(3, 40), (1, 10), (40, 256)])
def test_expressions_come_to_what_python_says(brackets, shortest, longest):
    task = ModularArithmetic(brackets=brackets, shortest=shortest, longest=longest)
    batch = task.batch("train", 0, 200, 0)
    for row, target, position in zip(batch.inputs, batch.targets.flatten(), batch.positions.flatten(), strict=True):
        *expression, end = words(task, row)
        assert end == "="
        assert len(expression) == int(position)
        assert shortest <= len(expression) + (len(expression) % 2 and not brackets) <= longest + 1
        assert eval("".join(expression)) % 5 == int(target)


def test_without_brackets_digits_and_operators_take_turns():
    task = ModularArithmetic()
    batch = task.batch("train", 0, 2000, 0)
    written = [words(task, row)[:-1] for row in batch.inputs]
    assert all(len(expression) % 2 for expression in written)
    digits = list(itertools.chain(*(expression[::2] for expression in written)))
    operators = list(itertools.chain(*(expression[1::2] for expression in written)))
    assert [digits.count(digit) / len(digits) for digit in "01234"] == pytest.approx([0.2] * 5, abs=0.01)
    assert [operators.count(operator) / len(operators) for operator in "+-*"] == pytest.approx([1 / 3] * 3, abs=0.015)


def test_with_brackets_the_left_side_is_uniform():
    """An expression of 12 symbols is ( left op right ), the length of the left side 1 to 8."""
    task = ModularArithmetic(brackets=True, shortest=12, longest=12)
    counts = np.zeros(9)
    for row in task.batch("train", 0, 4000, 0).inputs:
        expression = words(task, row)[1:-2]
        for length in range(1, 9):
            left = expression[:length]
            if left.count("(") == left.count(")") and left[-1] not in "+-*(" and expression[length] in "+-*":
                counts[length] += 1
                break
    assert counts.sum() == 4000
    assert counts[1:] / 4000 == pytest.approx(np.full(8, 1 / 8), abs=0.025)


def test_products_come_before_sums_and_left_to_right_does_not_know():
    task = ModularArithmetic(shortest=9, longest=10)
    batch = task.batch("test", 0, 200, 0)
    simple = task.shortcuts()["from left to right"](batch)
    for row, answer in zip(batch.inputs, simple.flatten(), strict=True):
        expression = words(task, row)[:-1]
        value = int(expression[0])
        for operator, digit in zip(expression[1::2], expression[2::2], strict=True):
            value = eval(f"{value}{operator}{digit}") % 5
        assert value == int(answer)


# Flip-flop


@pytest.mark.parametrize(("length", "ignores"), [(512, 0.8), (512, 0.98), (512, 0.1), (16, 0.5)])
def test_reads_give_the_last_bit_written(length, ignores):
    task = FlipFlop(length=length, ignores=ignores)
    batch = task.batch("train", 0, 40, 0)
    assert torch.equal(batch.positions[0], torch.arange(0, length, 2))
    for row, targets, distances in zip(batch.inputs, batch.targets.tolist(), batch.slices["distance"].tolist(), strict=True):
        symbols = words(task, row)
        memory = written = None
        for pair, (instruction, bit) in enumerate(zip(symbols[::2], symbols[1::2], strict=True)):
            assert instruction in "wri"
            if instruction == "w":
                memory, written = bit, pair
            if instruction == "r":
                assert bit == memory
                assert targets[pair] == int(bit)
                assert distances[pair] == pair - written
            else:
                assert targets[pair] == UNASKED
        assert symbols[0] == "w"
        assert symbols[-2] == "r"


@pytest.mark.parametrize("ignores", [0.8, 0.98, 0.1])
def test_flip_flop_statistics(ignores):
    """Instructions have their shares, bits are fair, and the distance of a read from the last write is geometric."""
    task = FlipFlop(ignores=ignores)
    batch = task.batch("train", 0, 400, 0)
    inner = batch.inputs[:, 2:-2:2]
    shares = inner.flatten().bincount(minlength=3) / inner.numel()
    each = (1 - ignores) / 2
    assert shares.numpy() == pytest.approx([each, each, ignores], abs=0.006)
    free = batch.inputs[:, 1::2][batch.inputs[:, ::2] != 1]
    assert (free - 3).float().mean() == pytest.approx(0.5, abs=0.006)
    late = batch.slices["distance"][:, 150:-1][batch.targets[:, 150:-1] != UNASKED]
    expected = [each * (1 - each) ** (distance - 1) for distance in range(1, 4)]
    assert [float((late == distance).float().mean()) for distance in range(1, 4)] == pytest.approx(expected, abs=0.02)


def test_flip_flop_is_tested_where_writes_are_rare_and_where_they_are_many():
    harder = FlipFlop().harder()
    assert {name: (task.length, task.ignores) for name, task in harder.items()} == {"sparse": (512, 0.98), "dense": (512, 0.1)}
    assert share_right(harder["sparse"], harder["sparse"].oracle) == 1


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        (WordProblem, {"length": 0}),
        (WordProblem, {"group": "S3", "length": 3}),
        (Parity, {"shortest": 0}),
        (Parity, {"shortest": 41}),
        (Parity, {"shortest": 3, "longest": 9}),
        (ModularArithmetic, {"shortest": 0}),
        (ModularArithmetic, {"shortest": 20, "longest": 12}),
        (ModularArithmetic, {"longest": 9}),
        (FlipFlop, {"length": 33}),
        (FlipFlop, {"length": 8}),
        (FlipFlop, {"ignores": 1.5}),
        (FlipFlop, {"ignores": -0.1}),
    ],
)
def test_what_cannot_be_is_refused(task, settings):
    with pytest.raises(ValueError, match=f"{list(settings)[-1]}="):
        task(**settings)


def test_what_is_refused_is_told_the_way_out():
    with pytest.raises(ValueError, match="at least length=4 is needed"):
        WordProblem(group="S3", length=3)
    WordProblem(group="S3", length=4).batch("test", 0, 64, 0)

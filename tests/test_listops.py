"""ListOps against a recursive sampler and evaluator in plain Python, and its published figures."""

import random

import numpy as np
import pytest
import torch

from tasks.listops import ListOps, _common, _lengths, _Sizes, _values
from tasks.task import SPLITS

PRIORS = {"[MIN": 0, "[MAX": 9, "[MED": 4, "[SM": 6}
SETTINGS = [{}, {"preset": "laptop"}, {"depth": 4, "shortest": 20, "longest": 100}, {"depth": 2, "shortest": 3, "longest": 13}]


def parse(words):
    """A tree as a digit, or an operator and its arguments."""
    word = words.pop(0)
    if word.isdigit():
        return int(word)
    arguments = []
    while words[0] != "]":
        arguments.append(parse(words))
    words.pop(0)
    return word, arguments


def value(tree, levels=99):
    """What a tree comes to where lists below the first levels are guessed."""
    if isinstance(tree, int):
        return tree
    operator, arguments = tree
    if levels == 0:
        return PRIORS[operator]
    values = [value(argument, levels - 1) for argument in arguments]
    if operator == "[SM":
        return sum(values) % 10
    return {"[MIN": min, "[MAX": max, "[MED": lambda found: int(np.median(found))}[operator](values)


def depth(tree):
    return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1]))


def trees(task, batch):
    written = [task.symbols()[symbol] for symbol in range(16)]
    return [parse([written[symbol] for symbol in row if written[symbol] != "."]) for row in batch.inputs.tolist()]


def tokens(text):
    symbols = ListOps().symbols()
    return torch.tensor([[symbols.index(word) for word in text.split()]])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 3 8 5 ]", 3),
        ("[MED 1 2 ]", 1),
        ("[MED 9 0 5 ]", 5),
        ("[MED 8 1 4 7 ]", 5),
        ("[SM 9 9 9 ]", 7),
        ("[SM 5 5 ]", 0),
        ("[MED [SM 6 7 ] [MAX 1 2 ] [MIN 9 8 ] 4 ]", 3),
        ("[SM [SM [SM 1 2 ] 3 ] [SM 4 [SM 5 6 ] ] ]", 1),
        ("[MIN [MAX [MIN 7 8 ] 2 ] [MED 9 9 9 9 9 9 9 9 9 0 ] ]", 7),
    ],
)
def test_lists_written_by_hand(text, answer):
    assert int(_values(tokens(text), 10)) == answer
    assert value(parse(text.split())) == answer


def test_guesses_replace_what_is_not_worked_out():
    written = tokens("[SM 1 [MAX 2 [MED 1 8 ] ] [MIN 3 5 ] ]")
    assert [int(_values(written, levels)) for levels in range(4)] == [6, (1 + 9 + 0) % 10, (1 + 4 + 3) % 10, (1 + 4 + 3) % 10]
    assert [int(_values(tokens(f"{operator} 3 3 ]"), 0)) for operator in PRIORS] == list(PRIORS.values())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("split", SPLITS)
def test_trees_are_well_formed_and_worked_out(settings, split):
    task = ListOps(**settings)
    batch = task.batch(split, 0, 12, 0)
    sizes = task.sizes
    found = trees(task, batch)
    assert torch.equal(batch.targets, task.oracle(batch))
    assert batch.targets.tolist() == [value(tree) for tree in found]
    assert batch.slices["depth"].tolist() == [depth(tree) for tree in found]
    assert batch.slices["depth"].max() <= sizes.depth
    assert batch.lengths.min() > sizes.shortest
    assert batch.lengths.max() < sizes.longest
    padded = batch.inputs == 15
    assert torch.equal(padded, torch.arange(task.length) >= batch.lengths[:, None])
    for levels in range(3):
        assert _values(batch.inputs, levels).tolist() == [value(tree, levels) for tree in found]


def drawn(rng, sizes):
    """The published sampler, written again: a random tree, or None where it is as long as `longest`."""
    length = 0

    def grow(level):
        nonlocal length
        listed = level < sizes.depth and rng.random() < sizes.nested
        length += 2 if listed else 1
        if length >= sizes.longest:
            raise OverflowError
        if not listed:
            return rng.randrange(10)
        arguments = [grow(level + 1) for _ in range(rng.randint(2, 10))]
        return rng.choice(list(PRIORS)), arguments

    try:
        return grow(1), length
    except OverflowError:
        return None, sizes.longest


def test_trees_are_distributed_as_by_the_recursive_sampler():
    task = ListOps(preset="laptop")
    rng, theirs = random.Random(1), []
    while len(theirs) < 3000:
        tree, length = drawn(rng, task.sizes)
        if task.sizes.shortest < length < task.sizes.longest:
            theirs.append((tree, length))
    batch = task.batch("train", 0, 3000, 0)
    ours = list(zip(trees(task, batch), batch.lengths.tolist(), strict=True))

    def statistics(found):
        roots = [tree for tree, _ in found]
        lengths = [length for _, length in found]
        nested = [sum(isinstance(argument, tuple) for argument in tree[1]) for tree in roots]
        operators = [[tree[0] for tree in roots].count(operator) for operator in PRIORS]
        return {
            "mean length": (np.mean(lengths), 10 / 3000**0.5),
            "share of long ones": (np.mean(np.array(lengths) > 25), 0.5 / 3000**0.5),
            "arguments": (np.mean([len(tree[1]) for tree in roots]), 2.5 / 3000**0.5),
            "nested": (np.mean(nested), 2 / 3000**0.5),
            **{f"operator {i}": (share / 3000, 0.43 / 3000**0.5) for i, share in enumerate(operators)},
            **{f"answer {digit}": (np.mean([value(tree) == digit for tree in roots]), 0.35 / 3000**0.5) for digit in range(10)},
            **{f"first digit {d}": (np.mean([tree[1][0] == d for tree in roots]), 0.25 / 3000**0.5) for d in range(10)},
        }

    for (name, (mine, error)), (published, _) in zip(statistics(ours).items(), statistics(theirs).values(), strict=True):
        assert mine == pytest.approx(published, abs=4 * 2**0.5 * error), name


@pytest.mark.parametrize("preset", ["published", "laptop"])
def test_lengths_follow_their_law(preset):
    """The lengths of what is drawn against the probability of each, worked out without drawing."""
    task = ListOps(preset=preset)
    depth, shortest, longest, nested = task.sizes
    law = _lengths(depth, nested, longest)
    law = np.where(np.arange(longest) > shortest, law, 0).cumsum()
    lengths = torch.cat([task.batch("train", index, 2000, 0).lengths for index in range(3)]).numpy()
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        bound = np.searchsorted(law, share * law[-1])
        expected = law[bound] / law[-1]
        assert (lengths <= bound).mean() == pytest.approx(expected, abs=4 * (share * (1 - share) / 6000) ** 0.5)


def test_the_law_of_lengths_counts_small_trees():
    """Depth 2: a list of n digits has n + 2 tokens. Depth 3 with two arguments, one of them a list of two digits: 7."""
    flat = _lengths(2, 0.25, 20)
    assert flat[4:13] == pytest.approx(np.full(9, 1 / 9))
    assert flat.sum() == pytest.approx(1)
    three = _lengths(3, 0.25, 2000)
    assert three[4] == pytest.approx(0.75**2 / 9)
    assert three[7] == pytest.approx(0.75**5 / 9 + 2 * 0.25 * 0.75 / 81)
    assert three.sum() == pytest.approx(1)


def test_one_tree_in_twelve_is_accepted():
    """Long Range Arena's sampler keeps 8.2 % of its trees, of which three in four are a digit."""
    assert 0.25 * _lengths(10, 0.25, 2000)[501:].sum() == pytest.approx(0.082, abs=0.001)


def test_published_statistics():
    """Every tree is 10 deep; 0 and 9 are the frequent answers; how far each number of levels goes, measured on 40,000 trees."""
    task = ListOps()
    batches = [task.batch("train", index, 500, 0) for index in range(20)]
    targets = torch.cat([batch.targets for batch in batches])
    shares = (targets.bincount() / len(targets)).tolist()
    assert [shares[0], shares[9]] == pytest.approx([0.165, 0.165], abs=0.015)
    assert all(0.065 < share < 0.1 for share in shares[1:9])
    depths = torch.cat([batch.slices["depth"] for batch in batches])
    assert (depths == 10).all()
    for levels, score in enumerate([0.355, 0.595, 0.738, 0.834, 0.896, 0.935, 0.957, 0.975, 0.985]):
        right = torch.cat([_values(batch.inputs, levels) == batch.targets for batch in batches]).float().mean()
        assert float(right) == pytest.approx(score, abs=0.015), levels


@pytest.mark.parametrize("preset", ["published", "laptop"])
def test_shortcuts_score_what_the_baselines_say(preset):
    task = ListOps(preset=preset)
    baselines = task.baselines()
    batch = task.batch("train", 0, 3000, 0)
    for name, rule in task.shortcuts().items():
        assert float((rule(batch) == batch.targets).float().mean()) == pytest.approx(baselines[name], abs=0.06), name
    assert list(baselines.values()) == sorted(baselines.values()), "each one looks at more than the last"
    assert max(baselines.values()) < 0.8


def test_deeper_and_longer_trees():
    task = ListOps(preset="laptop")
    harder = task.harder()
    assert harder["deeper"].batch("test", 0, 200, 0).slices["depth"].max() == task.sizes.depth + 2
    assert harder["longer"].batch("test", 0, 200, 0).lengths.min() > task.length
    assert ListOps().harder().keys() == {"deeper", "longer"}
    flat = ListOps(depth=2, shortest=3, longest=13)
    assert all(_common(variant.sizes) for variant in flat.harder().values())


def test_the_same_trees_come_again():
    task = ListOps(preset="laptop")
    first = task.batch("train", 3, 20, 7)
    assert torch.equal(first.inputs, task.batch("train", 3, 20, 7).inputs)
    assert not torch.equal(first.inputs, task.batch("train", 4, 20, 7).inputs)
    assert not torch.equal(first.inputs, task.batch("train", 3, 20, 8).inputs)


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 1},
        {"nested": 1.5},
        {"nested": -0.1},
        {"shortest": 1999},
        {"longest": 400},
        {"shortest": -1},
        {"depth": 3},
        {"nested": 0.0},
        {"depth": 10, "nested": 0.9, "shortest": 2, "longest": 4},
    ],
)
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        ListOps(**settings)


def test_a_preset_gives_what_is_not_given():
    assert ListOps().sizes == _Sizes(10, 500, 2000, 0.25)
    assert ListOps(preset="laptop", depth=5).sizes.depth == 5
    assert ListOps(preset="laptop", depth=5).sizes[1:] == ListOps(preset="laptop").sizes[1:]

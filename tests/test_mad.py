"""The six tasks of MAD against their rules in plain Python, their finite sets, and the mended slips of the generator."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest
import torch

from tasks.mad import Mad, Name
from tasks.sources.repeats import back
from tasks.task import UNASKED, share_right

NAMES = get_args(Name)
RECALL = NAMES[:3]
SETTINGS = [
    *({"task": name} for name in NAMES),
    {"task": "in_context_recall", "vocabulary": 9, "length": 20},
    {"task": "noisy_recall", "noise": 0.8, "vocabulary": 48},
    {"task": "noisy_recall", "noise": 0.0, "length": 10},
    {"task": "fuzzy_recall", "vocabulary": 32, "length": 40},
    {"task": "fuzzy_recall", "vocabulary": 7, "length": 24},
    {"task": "selective_copying", "tokens": 3, "length": 8},
    {"task": "selective_copying", "tokens": 1, "vocabulary": 40, "length": 31, "compat": True},
    {"task": "compression", "length": 9, "compat": True},
    {"task": "memorization", "vocabulary": 21, "length": 12},
]


def small(**settings):
    return Mad(**{"examples": 64, **settings})


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_oracle_gives_every_answer(settings, split):
    task = small(**settings)
    batch = task.batch(split, 0, 200, 0)
    assert (batch.targets != UNASKED).any(1).all()
    assert torch.equal(task.oracle(batch), batch.targets)


def plain_recall(row: list[int], keys: int, noise_from: int) -> tuple[list[int], list[int]]:
    """Targets and distances of pairs, one after the other."""
    value_of, last, targets, distances = {}, {}, [], []
    for at in range(0, len(row), 2):
        key, value = row[at], row[at + 1] if at + 1 < len(row) else None
        if key >= noise_from:
            assert value is not None
            assert value >= noise_from
            targets += [UNASKED, UNASKED]
            distances += [0, 0]
            continue
        assert key < keys
        if value is not None:
            assert keys <= value < noise_from
            assert value_of.setdefault(key, value) == value, "a key has one value"
        targets += [value_of[key] if key in last else UNASKED, UNASKED]
        distances += [at - last[key] if key in last else 0, 0]
        last[key] = at
    return targets[: len(row)], distances[: len(row)]


@pytest.mark.parametrize(
    "settings", [{}, {"vocabulary": 9, "length": 20}, {"task": "noisy_recall"}, {"task": "noisy_recall", "noise": 0.6}]
)
def test_recall_is_its_definition(settings):
    task = small(**settings)
    plain = task.vocabulary - (16 if task.task == "noisy_recall" else 0)
    batch = task.batch("test", 0, 100, 0)
    assert batch.inputs.shape[1] == settings.get("length", 128) - 1
    for row, targets, distances in zip(
        batch.inputs.tolist(), batch.targets.tolist(), batch.slices["distance"].tolist(), strict=True
    ):
        assert (targets, distances) == plain_recall(row, plain // 2, plain)
        assert targets[-1] != UNASKED


def test_noise_has_its_share():
    inputs = Mad(task="noisy_recall", noise=0.4).batch("test", 0, 1280, 0).inputs
    pairs = inputs[:, :-1:2]
    assert (pairs >= 16).float().mean() == pytest.approx(0.4 * 62 / 63, abs=0.01)


def test_the_last_key_is_any_of_those_seen():
    inputs = Mad().batch("test", 0, 1280, 0).inputs[:, ::2].tolist()
    ranks = [list(dict.fromkeys(keys[:-1])).index(keys[-1]) for keys in inputs]
    assert np.bincount(ranks, minlength=8) / 1280 == pytest.approx([1 / 8] * 8, abs=0.04)


@pytest.mark.parametrize("name", RECALL)
def test_training_predicts_every_next_symbol(name):
    batch = small(task=name).batch("train", 0, 32, 0)
    assert batch.positions is None
    assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:])
    assert (batch.targets != UNASKED).all()


def motifs(row: list[int], keys: int, pad: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    while row[0] == pad:
        row = row[1:]
    pairs, at = [], 0
    while at < len(row):
        middle = next((i for i in range(at, len(row)) if row[i] >= keys), len(row))
        end = next((i for i in range(middle, len(row)) if row[i] < keys), len(row))
        pairs.append((tuple(row[at:middle]), tuple(row[middle:end])))
        at = end
    return pairs


@pytest.mark.parametrize(("split", "sizes"), [("train", {1, 2, 3}), ("test", {3})])
def test_fuzzy_recall_is_its_definition(split, sizes):
    task = Mad(task="fuzzy_recall", examples=400)
    batch = task.batch(split, 0, 400, 0)
    counted = Counter()
    for row, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        whole = [*row, targets[-1]]
        pairs = motifs(whole, 7, 15)
        asked, seen, wanted = [], {}, [UNASKED] * len(row)
        assert pairs[-1][0] in {key for key, _ in pairs[:-1]}
        for key, value in pairs:
            assert len(key) in sizes
            assert 1 <= len(value) <= 3
            assert len(set(key)) == len(key)
            assert len(set(value)) == len(value)
            assert max(value) < 15
            assert seen.setdefault(key, value) == value
            counted[len(key), len(value)] += 1
        at = len(whole) - sum(len(key) + len(value) for key, value in pairs)
        assert at > 0
        for number, (key, value) in enumerate(pairs):
            at += len(key)
            if key in {earlier for earlier, _ in pairs[:number]}:
                wanted[at - 1 : at - 1 + len(value)] = value
                asked.append(number)
            at += len(value)
        assert len(asked) >= 1
        if split == "test":
            assert targets == wanted
    shares = np.array([sum(counted[key, value] for key in sizes) for value in (1, 2, 3)]) / counted.total()
    assert shares == pytest.approx([1 / 3] * 3, abs=0.05)


def test_compat_sometimes_asks_for_a_fuzzy_key_that_was_never_given():
    def unanswerable(task):
        batch = task.batch("test", 0, 1280, 0)
        return int((task.oracle(batch) != batch.targets).any(1).sum())

    assert unanswerable(Mad(task="fuzzy_recall")) == 0
    assert 0 < unanswerable(Mad(task="fuzzy_recall", compat=True)) < 60


@pytest.mark.parametrize("compat", [False, True])
def test_copying_is_its_definition(compat):
    task = Mad(task="selective_copying", compat=compat)
    batch = task.batch("test", 0, 500, 0)
    last_gap = []
    for row, targets, positions, distance in zip(
        batch.inputs.tolist(), batch.targets.tolist(), batch.positions.tolist(), batch.slices["distance"].tolist(), strict=True
    ):
        field, bar, rest = row[:239], row[239], row[240:]
        where = [at for at, symbol in enumerate(field) if symbol != 14]
        assert bar == 15
        assert rest == [14] * 16
        assert [field[at] for at in where] == targets
        assert max(targets) < 14
        assert positions == list(range(240, 256))
        assert distance == [240 + i - at for i, at in enumerate(where)]
        last_gap.append(238 - where[-1])
    assert np.mean(last_gap) == (0 if compat else pytest.approx(223 / 17, abs=1))


def test_compression_is_its_definition():
    batch = Mad(task="compression").batch("test", 0, 300, 0)
    assert (batch.inputs[:, -1] == 15).all()
    assert torch.equal(batch.inputs[:, :-1], batch.targets)
    assert batch.targets.flatten().bincount(minlength=15) / batch.targets.numel() == pytest.approx(np.full(15, 1 / 15), abs=0.01)
    assert Mad(task="compression", compat=True).batch("test", 0, 3, 0).targets.shape == (3, 32)
    assert Mad(task="compression").bottleneck
    assert not Mad().bottleneck


def test_memorization_uses_the_published_map():
    rng = np.random.default_rng(12345)
    keys, values = [(key,) for key in range(127)], [(value,) for value in range(127, 255)]
    rng.shuffle(keys)
    rng.shuffle(values)
    known = {key: value for (key,), (value,) in zip(keys, values, strict=False)}
    for split in ("train", "test"):
        batch = Mad(task="memorization").batch(split, 0, 60, 0)
        assert (batch.inputs[:, 1::2] == 255).all()
        for row, targets, positions in zip(batch.inputs, batch.targets, batch.positions, strict=True):
            assert [known[int(row[at - 1])] for at in positions] == targets.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_training_examples_are_finite_and_each_comes_once_in_an_epoch(name):
    task, epochs = Mad(task=name, examples=90), []
    for start in range(0, 18, 9):
        batches = [task.batch("train", start + i, 10, 3).inputs for i in range(9)]
        epochs.append([tuple(row) for row in torch.cat(batches).tolist()])
    assert len(set(epochs[0])) == 90
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]
    across = torch.cat([task.batch("train", i, 60, 3).inputs for i in range(3)])
    assert [tuple(row) for row in across.tolist()] == epochs[0] + epochs[1]
    other = {tuple(row) for i in range(9) for row in task.batch("train", i, 10, 4).inputs.tolist()}
    assert other == set(epochs[0])
    assert not set(epochs[0]) & {tuple(row) for row in task.batch("test", 0, 1280, 0).inputs.tolist()}


@pytest.mark.parametrize("settings", SETTINGS[:6], ids=str)
def test_shortcuts_score_what_the_baselines_say(settings):
    task = small(**settings)
    rule = task.shortcuts()["the latest value"]
    assert share_right(task, rule, "validation") == pytest.approx(task.baselines()["the latest value"], abs=0.015)


def test_harder_variants_are_the_published_sizes():
    names = {name: list(small(task=name).harder()) for name in NAMES}
    lengths = ["length=256", "length=512", "length=1024"]
    assert names == {
        "in_context_recall": lengths,
        "noisy_recall": [*lengths, "noise=0.4", "noise=0.6", "noise=0.8"],
        "fuzzy_recall": lengths,
        "selective_copying": ["length=512", "length=1024", "tokens=32", "tokens=64", "tokens=96"],
        "compression": [],
        "memorization": [],
    }
    for name in NAMES:
        for variant in small(task=name).harder().values():
            variant.held_out = 3
            batch = variant.batch("test", 0, 3, 0)
            assert variant.inputs == small(task=name).inputs
            assert torch.equal(variant.oracle(batch), batch.targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": 0.4}, "noise=0.4 with task=in_context_recall: only noisy_recall has it"),
        ({"task": "compression", "tokens": 4}, "only selective_copying"),
        ({"task": "fuzzy_recall", "vocabulary": 6}, "vocabulary=6 for motif=3.*at least 7"),
        ({"length": 7}, "length=7"),
        ({"task": "selective_copying", "tokens": 16, "length": 33}, "length=33: selective_copying needs.* at least 34"),
        ({"task": "selective_copying", "tokens": 0}, "tokens=0"),
        ({"examples": 0}, "examples=0"),
        ({"task": "noisy_recall", "noise": 1.0}, "noise=1.0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Mad(**settings)


def test_repeats_by_hand():
    rows = np.array([[5, 3, 5, 5, 3, 9], [1, 1, 1, 1, 1, 1]])
    assert back(rows).tolist() == [[0, 0, 2, 1, 3, 0], [0, 1, 1, 1, 1, 1]]

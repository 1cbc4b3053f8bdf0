"""Needles in a haystack against rules written out in plain Python."""

import re
import string
from itertools import pairwise

import pytest
import torch

from tasks.needle import SYMBOLS, Needle

SETTINGS = [
    {},
    {"filler": "walk"},
    {"keys": 4},
    {"keys": 3, "digits": 2, "length": 26, "filler": "walk"},
    {"digits": 1, "length": 16},
    {"keys": 26, "digits": 3, "length": 300},
]


def text(row):
    return "".join(SYMBOLS[symbol] for symbol in row.tolist())


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_number_of_the_name_that_is_asked_for(settings):
    task = Needle(**settings)
    digits, keys = settings.get("digits", 5), settings.get("keys", 1)
    batch = task.batch("train", 0, 64, 0)
    for row, targets, positions, depth in zip(batch.inputs, batch.targets, batch.positions, batch.slices["depth"], strict=True):
        field, question = text(row).split("?")
        needles = re.findall(rf"([A-Z])=(\d{{{digits}}})", field)
        assert len(needles) == len(dict(needles)) == keys
        answer = "".join(map(str, targets.tolist()))
        assert answer == dict(needles)[question[0]]
        assert question[1:] == answer[:-1]
        assert positions.tolist() == list(range(task.length - digits, task.length))
        last = len(field) - digits - 2
        assert set(depth.tolist()) == {int(10 * field.index(question[0] + "=") / (last + 1))}
        assert len(re.findall(r"[^a-z]", field)) == keys * (digits + 2)


@pytest.mark.parametrize("filler", ["repeated", "walk"])
def test_the_filler_steps_through_the_alphabet(filler):
    task = Needle(filler=filler, length=512)
    steps, begins = [], set()
    for row in task.batch("train", 0, 64, 0).inputs:
        field = text(row).split("?")[0]
        begins.add(field[0])
        letters = [string.ascii_lowercase.find(letter) for letter in field]
        steps += [(b - a) % 26 for a, b in pairwise(letters) if min(a, b) >= 0]
    shares = [steps.count(step) / len(steps) for step in range(26)]
    expected = [1.0] if filler == "repeated" else [0.25] * 4
    assert shares == pytest.approx([0, *expected, *[0] * (25 - len(expected))], abs=0.02)
    assert len(begins) > 15


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_oracle_is_right_and_batches_repeat(settings, split):
    task = Needle(**settings)
    batch, again = task.batch(split, 3, 40, 2), task.batch(split, 3, 40, 2)
    assert torch.equal(batch.inputs, again.inputs)
    assert torch.equal(batch.targets, again.targets)
    assert torch.equal(task.oracle(batch), batch.targets)


@pytest.mark.parametrize("settings", SETTINGS)
def test_shortcuts_score_what_the_baselines_say(settings):
    task = Needle(**settings)
    known = task.baselines()
    assert known["chance"] == 10.0 ** -settings.get("digits", 5)
    assert set(known) == {"chance", *task.shortcuts()}
    batch = task.batch("test", 0, 4096, 0)
    for name, rule in task.shortcuts().items():
        assert (rule(batch) == batch.targets).all(1).float().mean() == pytest.approx(known[name], abs=0.03)


def test_single_needles_lie_at_every_depth_alike():
    depths = torch.cat([Needle().batch("train", i, 1024, 0).slices["depth"][:, 0] for i in range(8)])
    assert (depths.bincount(minlength=10) / len(depths)).tolist() == pytest.approx([0.1] * 10, abs=0.015)
    assert Needle().buckets() == {"depth": list(range(10))}


def test_the_asked_needle_is_any_of_them():
    task, places = Needle(keys=4), []
    for row in task.batch("train", 0, 2048, 0).inputs:
        field, question = text(row).split("?")
        places.append(re.findall(r"[A-Z]", field).index(question[0]))
    assert [places.count(place) / len(places) for place in range(4)] == pytest.approx([0.25] * 4, abs=0.04)


def test_tested_on_longer_texts_and_more_needles_at_every_depth():
    harder = Needle(filler="walk", digits=4).harder()
    assert list(harder) == ["length=512", "length=1024", "length=2048", "length=4096", "keys=4"]
    for name, task in harder.items():
        assert f"length={task.length}" == name or (task.length, task.keys) == (256, 4)
        assert (task.filler, task.digits) == ("walk", 4)
        assert task.buckets() == Needle().buckets()
        batch = task.batch("test", 0, 8, 0)
        assert torch.equal(task.oracle(batch), batch.targets)
    assert list(Needle(longest=100, keys=7).harder()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"digits": 0}, "digits=0"),
        ({"keys": 0}, "keys=0"),
        ({"keys": 27}, "keys=27.*26"),
        ({"length": 23}, "length=23.*at least 24"),
        ({"keys": 5, "digits": 2, "length": 33}, "length=33.*at least 34"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as refused:
        Needle(**settings)
    assert "\n" not in str(refused.value)


def test_an_example_marks_the_digits():
    task = Needle(length=24)
    batch = task.batch("test", 0, 1, 0)
    words = task.example(batch, 0).split()
    assert [word[2] for word in words[-5:]] == [str(digit) for digit in batch.targets[0].tolist()]
    assert words[-6] == "?"
    assert len(task.symbols()) == task.inputs.vocabulary == 64

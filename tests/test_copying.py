"""Copying after a delay, selective copying, and copying strings, against rules written without arrays."""

import itertools
import math
from string import ascii_lowercase

import numpy as np
import pytest
import torch

from tasks.copying import Copying
from tasks.selective_copying import SelectiveCopying
from tasks.string_copy import StringCopy
from tasks.task import SPLITS, UNASKED, share_right


@pytest.mark.parametrize("settings", [{}, {"preset": "laptop"}, {"tokens": 3, "delay": 0, "vocabulary": 4}])
def test_copying_is_the_published_definition(settings):
    task = Copying(**settings)
    batch = task.batch("train", 0, 30, 0)
    for row, targets, positions in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.positions.tolist(), strict=True):
        data = row[: task.tokens]
        assert row == data + [0] * task.delay + [task.vocabulary - 1] * task.tokens
        assert all(1 <= symbol <= task.vocabulary - 2 for symbol in data)
        assert targets == data
        assert positions == [task.tokens + task.delay + i for i in range(task.tokens)]
    assert torch.equal(task.oracle(batch), batch.targets)


def test_copying_has_the_published_size_and_loss_without_memory():
    task = Copying()
    assert (task.length, task.answers, task.vocabulary) == (120, 10, 10)
    assert task.harder()["delay=5000"].length == 5020
    batch = task.batch("test", 0, 1000, 0)
    uniform = torch.zeros(1000, 10, 10)
    uniform[:, :, [0, 9]] = -math.inf
    assert float(task.loss(uniform, batch.targets)) == pytest.approx(2.079, abs=5e-4)
    counts = batch.targets.flatten().bincount(minlength=10)
    assert counts[1:9] / 10_000 == pytest.approx(torch.full((8,), 1 / 8).numpy(), abs=0.015)


@pytest.mark.parametrize(
    "task", [Copying(), Copying(preset="laptop"), SelectiveCopying(), SelectiveCopying(tokens=3, length=20, vocabulary=6)]
)
def test_shortcuts_of_copying_score_what_the_baselines_say(task):
    for name, rule in task.shortcuts().items():
        assert share_right(task, rule, "validation") == pytest.approx(task.baselines()[name], abs=0.025)


@pytest.mark.parametrize("settings", [{}, {"tokens": 5, "length": 40, "vocabulary": 9}, {"tokens": 16, "length": 4096}])
def test_selective_copying_oracle(settings):
    task = SelectiveCopying(**settings)
    batch = task.batch("validation", 0, 20, 0)
    assert torch.equal(task.oracle(batch), batch.targets)
    for row, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert [symbol for symbol in row[: -task.tokens] if symbol] == targets


def test_references_of_selective_copying_are_on_the_published_form():
    assert {reference.form for reference in SelectiveCopying.references} == {"tokens=16,length=4096"}
    assert all(0 < reference.score < 1 for reference in SelectiveCopying.references)
    assert SelectiveCopying(tokens=16, length=4096).vocabulary == 16


def written(task, row):
    """A row as the publication writes it."""
    return "".join((ascii_lowercase[: task.letters] + "$|.*")[symbol] for symbol in row)


KINDS = ["copy", "prefix", "suffix", "duplicate"]
FORMS = [
    {"kind": kind, **sizes}
    for kind in KINDS
    for sizes in ({}, {"preset": "laptop"}, {"longest": 30, "shortest": 30, "letters": 5, "ngram": 2})
]


@pytest.mark.parametrize("settings", FORMS)
def test_strings_are_the_published_formats(settings):
    task = StringCopy(**settings)
    batch = task.batch("train", 0, 60, 0)
    for row, targets, positions in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.positions.tolist(), strict=True):
        text = written(task, row).rstrip("*")
        assert text[0] == "$"
        assert text[-1] == "."
        parts = text[1:-1].split("|")
        if task.kind in ("copy", "duplicate"):
            string, answer = parts
            prompt = f"${string}|"
            assert answer == string
        elif task.kind == "prefix":
            key, string, answer = parts
            prompt = f"${key}|{string}|"
        else:
            string, rest = parts
            key, answer = rest[: task.ngram], rest[task.ngram :]
            prompt = f"${string}|{key}"
        if task.keyed:
            assert len(key) == task.ngram
            assert sum(string[i:].startswith(key) for i in range(len(string))) == 1
            assert answer
            assert answer == string[string.index(key) + task.ngram :]
        if task.kind == "duplicate":
            names = [string[i : i + task.ngram] for i in range(len(string) - task.ngram + 1)]
            assert any(name in names[i + task.ngram :] for i, name in enumerate(names))
        assert task.shortest <= len(string) <= task.longest
        assert text == prompt + answer + "."
        asked = [(position, target) for position, target in zip(positions, targets, strict=True) if target != UNASKED]
        assert [position for position, _ in asked] == list(range(len(prompt) - 1, len(text) - 1))
        assert written(task, [target for _, target in asked]) == answer + "."
    assert torch.equal(task.oracle(batch), batch.targets)


@pytest.mark.parametrize("settings", FORMS)
def test_the_letter_after_the_same_letter(settings):
    """The shortcut against a rule on text, and its share of whole strings against the baseline."""
    task = StringCopy(**settings)
    batch = task.batch("validation", 0, 1024, 0)
    answers = task.shortcuts()["what followed the same letter"](batch)
    for row, guesses, targets in zip(batch.inputs[:40].tolist(), answers.tolist(), batch.targets.tolist(), strict=False):
        parts = written(task, row).rstrip("*")[1:-1].split("|")
        string = parts[1] if task.kind == "prefix" else parts[0]
        key = {"prefix": parts[0], "suffix": parts[1][: task.ngram]}.get(task.kind, "")
        last = key[-1:]
        for guess, target in zip(guesses, targets, strict=True):
            if target != UNASKED:
                expected = (string + ".")[string.index(last) + 1] if last else string[0]
                assert written(task, [guess]) == expected
                last = written(task, [target])
    right = ((answers == batch.targets) | (batch.targets == UNASKED)).all(1).float().mean()
    assert float(right) == pytest.approx(task.baselines()["what followed the same letter"], abs=0.06)


def test_lengths_of_strings_are_uniform_and_chance_is_what_guessing_gets():
    task = StringCopy(shortest=3, longest=10)
    batch = task.batch("train", 0, 8000, 0)
    letters = batch.slices["letters"][:, 0]
    assert letters.bincount(minlength=11)[3:] / 8000 == pytest.approx(np.full(8, 1 / 8), abs=0.015)
    assert task.baselines()["chance"] == pytest.approx(np.mean([27.0 ** -(n + 1) for n in range(3, 11)]))
    asked = (batch.targets != UNASKED).sum(1)
    assert torch.equal(asked, letters + 1)
    keyed = StringCopy(kind="suffix", preset="laptop")
    asked = (keyed.batch("train", 0, 8000, 0).targets != UNASKED).sum(1).numpy()
    assert float((9.0**-asked).mean()) == pytest.approx(keyed.baselines()["chance"], rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_no_string_is_in_two_splits(kind):
    task = StringCopy(kind=kind, preset="laptop")

    def strings(split):
        rows = task.batch(split, 0, 600, 0).inputs.tolist()
        return {written(task, row).split("|")[kind == "prefix"].strip("$") for row in rows}

    assert all(not one & other for one, other in itertools.combinations(map(strings, SPLITS), 2))


def test_longer_strings_and_duplicates_are_harder():
    task = StringCopy()
    assert task.length == 103
    assert {name: (other.shortest, other.longest, other.kind) for name, other in task.harder().items()} == {
        "kind=duplicate": (6, 50, "duplicate"),
        "letters=100": (100, 100, "copy"),
        "letters=200": (200, 200, "copy"),
        "letters=400": (400, 400, "copy"),
        "letters=1000": (1000, 1000, "copy"),
    }
    long = StringCopy(kind="suffix").harder()["letters=1000"]
    batch = long.batch("test", 0, 4, 0)
    assert torch.equal(long.oracle(batch), batch.targets)


def test_whole_strings_are_scored():
    task = StringCopy(preset="laptop")
    batch = task.batch("test", 0, 64, 0)
    right = batch.targets.clamp(min=0)
    right[:16, 0] = (right[:16, 0] + 1) % task.letters  # one letter of every fourth string
    metric = task.new_metric()
    metric.update(torch.nn.functional.one_hot(right, task.outputs).movedim(-1, 1).float(), batch.targets)
    assert float(metric.compute()) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (Copying, {"tokens": 0}, "tokens=0"),
        (Copying, {"delay": -1}, "delay=-1"),
        (Copying, {"vocabulary": 3}, "vocabulary=3"),
        (SelectiveCopying, {"length": 15}, "length=15"),
        (StringCopy, {"letters": 27}, "letters=27"),
        (StringCopy, {"ngram": 0}, "ngram=0"),
        (StringCopy, {"longest": 5, "shortest": 6}, "shortest=6"),
        (StringCopy, {"kind": "prefix", "shortest": 3}, "shortest=3"),
        (StringCopy, {"kind": "duplicate", "longest": 5}, "longest=5"),
    ],
)
def test_copying_tasks_refuse_what_cannot_be(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_examples_are_readable():
    task = Copying(tokens=2, delay=3)
    words = task.example(task.batch("train", 0, 1, 0), 0).split()
    a, b = words[:2]
    assert words == [a, b, ".", ".", ".", f"|[{a}]", f"|[{b}]"]
    task = StringCopy(preset="laptop", shortest=2, longest=2)
    words = task.example(task.batch("train", 0, 1, 0), 0).split()
    assert words == ["$", *words[1:3], f"|[{words[1]}]", f"{words[1]}[{words[2]}]", f"{words[2]}[.]", "."]

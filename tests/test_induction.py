"""Induction heads against the rule written out in plain Python."""

import string

import numpy as np
import pytest
import torch

from tasks.induction import Induction
from tasks.task import share_right

SETTINGS = [{}, {"length": 64}, {"length": 4, "vocabulary": 9}, {"length": 33, "vocabulary": 300}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_trigger_stands_twice_and_the_answer_followed_it_the_first_time(settings):
    task = Induction(**settings)
    batch = task.batch("train", 0, 64, 0)
    for row, target, position, gap in zip(
        batch.inputs.tolist(), batch.targets.tolist(), batch.positions.tolist(), batch.slices["gap"].tolist(), strict=True
    ):
        places = [at for at, symbol in enumerate(row) if symbol == 0]
        assert len(places) == 2
        assert places[1] == position[0] == task.length - 1
        assert target == [row[places[0] + 1]]
        assert target[0] != 0
        assert gap == [places[1] - places[0]]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_oracle_is_right_and_batches_repeat(settings, split):
    task = Induction(**settings)
    batch, again = task.batch(split, 3, 40, 2), task.batch(split, 3, 40, 2)
    assert torch.equal(batch.inputs, again.inputs)
    assert torch.equal(batch.targets, again.targets)
    assert torch.equal(task.oracle(batch), batch.targets)


def test_places_and_symbols_are_uniform():
    task = Induction(length=16, vocabulary=5)
    batches = [task.batch("train", i, 512, 0) for i in range(16)]
    gaps = np.bincount(torch.cat([batch.slices["gap"].flatten() for batch in batches]), minlength=16)
    assert gaps[:2].tolist() == [0, 0]
    assert gaps[2:] / gaps.sum() == pytest.approx([1 / 14] * 14, abs=0.012)
    symbols = np.bincount(torch.cat([batch.inputs.flatten() for batch in batches]))[1:]
    assert symbols / symbols.sum() == pytest.approx([1 / 4] * 4, abs=0.01)


@pytest.mark.parametrize("settings", [{}, {"length": 32, "vocabulary": 6}])
def test_shortcuts_score_what_the_baselines_say(settings):
    task = Induction(**settings)
    known = task.baselines()
    assert known["chance"] == 1 / (task.inputs.vocabulary - 1)
    assert known["the most frequent symbol"] > known["chance"] + 0.01
    assert share_right(task, task.shortcuts()["the most frequent symbol"], "validation") == pytest.approx(
        known["the most frequent symbol"], abs=0.05
    )


def test_tested_from_a_quarter_of_the_length_up_to_the_longest():
    lengths = {name: task.length for name, task in Induction().harder().items()}
    assert lengths == {f"length={length}": length for length in (64, 128, 512, 1024, 2048, 4096)}
    assert [task.length for task in Induction(longest=1 << 20).harder().values()] == [2**k for k in range(6, 21) if k != 8]
    assert [task.length for task in Induction(longest=100).harder().values()] == [64]
    assert [task.length for task in Induction(length=24, longest=24).harder().values()] == [6, 12]
    for task in Induction().harder().values():
        batch = task.batch("test", 0, 2, 0)
        assert batch.inputs.shape == (2, task.length)
        assert torch.equal(task.oracle(batch), batch.targets)


def test_published_scores_are_of_lengths_that_are_tested():
    forms = {reference.form for reference in Induction.references}
    published = {"", *Induction(longest=1 << 20).harder()}
    assert forms <= published
    scores = {(reference.name, reference.form): reference.score for reference in Induction.references}
    assert scores["Mamba, trained at 256", "length=1048576"] == 1.0
    assert scores["H3, trained at 256", "length=512"] == 0.809
    assert all(score == 1 for (_, form), score in scores.items() if not form)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"vocabulary": 2}, "vocabulary=2"), ({"length": 3}, "length=3")],
)
def test_what_cannot_be_is_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as refused:
        Induction(**settings)
    assert "\n" not in str(refused.value)


def test_an_example_shows_the_trigger_and_the_answer():
    task = Induction(length=12)
    words = task.example(task.batch("test", 0, 1, 0), 0).split()
    assert words[-1] == f"*[{words[words.index('*') + 1]}]"
    assert Induction(vocabulary=28).symbols()[-1] == "27"
    assert Induction().symbols() == ["*", *string.ascii_lowercase[:15]]

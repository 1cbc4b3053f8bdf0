"""Associative recall against rules written out in plain Python."""

import numpy as np
import pytest
import torch

from tasks.recall import Recall
from tasks.sources.mqar import _chosen
from tasks.task import UNASKED, share_right

VARIANTS = [
    {},
    {"pairs": 8, "length": 32, "vocabulary": 20},
    {"gaps": "uniform", "filler": "random"},
    {"rebound": 3},
    {"pairs": 4, "rebound": 4, "length": 24, "vocabulary": 16, "filler": "random"},
    {"layout": "mad"},
    {"layout": "mad", "length": 8},
    {"layout": "mad", "noise": 0.4},
    {"layout": "mad", "motif": 3},
    {"layout": "mad", "motif": 2, "length": 40, "vocabulary": 11},
]
PUBLISHED = [(64, 4), (128, 8), (256, 16), (512, 64), (1024, 256)]


def kinds(task):
    """Keys, values: the ranges of symbols, from the settings alone."""
    settings, symbols = task._settings, task.inputs.vocabulary
    meaning = symbols - 16 if settings["noise"] else symbols - (settings["motif"] > 1)
    return range(meaning // 2), range(meaning // 2, meaning)


def chunks(task, row):
    """Each key of a MAD sequence with its value: where it begins, its symbols, and where its value begins and its symbols."""
    keys, values = kinds(task)
    found, at = [], 0
    while at < len(row):
        if row[at] not in keys:
            at += 1
            continue
        value_at = next((i for i in range(at, len(row)) if row[i] not in keys), len(row))
        end = next((i for i in range(value_at, len(row)) if row[i] not in values), len(row))
        found.append((at, tuple(row[at:value_at]), value_at, tuple(row[value_at:end])))
        at = end
    return found


@pytest.mark.parametrize(("length", "pairs"), PUBLISHED)
def test_the_published_sizes(length, pairs):
    task = Recall(pairs=pairs, length=length, vocabulary=8192)
    batch = task.batch("train", 0, 8, 0)
    for row, targets, positions in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.positions.tolist(), strict=True):
        keys, values = row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert 1 <= min(keys) <= max(keys) <= 4095 < 4096 <= min(values) <= max(values) <= 8191
        lookup = dict(zip(keys, values, strict=True))
        assert [lookup[row[at]] for at in positions] == targets
        assert sum(symbol != 0 for symbol in row) == 3 * pairs
    assert task.baselines()["chance"] == pytest.approx(0.00024, abs=1e-5)


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_oracle_is_right_and_batches_repeat(settings, split):
    task = Recall(**settings)
    first, again = task.batch(split, 2, 24, 1), task.batch(split, 2, 24, 1)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert (first.targets != UNASKED).any(1).all()
    assert task.oracle(first)[first.targets != UNASKED].equal(first.targets[first.targets != UNASKED])
    assert {"gap"} == set(first.slices) == set(task.buckets())
    assert first.slices["gap"][first.targets != UNASKED].min() >= task.buckets()["gap"][0]


@pytest.mark.parametrize("settings", VARIANTS)
def test_shortcuts_score_what_the_baselines_say(settings):
    task = Recall(**settings)
    known = task.baselines()
    for name, rule in task.shortcuts().items():
        asked = 1024 * (task.batch("validation", 0, 256, 0).targets != UNASKED).sum(1).float().mean()
        error = (2 * known[name] * (1 - known[name]) / asked) ** 0.5  # of the difference between two held-out splits
        assert share_right(task, rule, "validation") == pytest.approx(known[name], abs=4 * float(error))
        if settings.get("layout") != "mad":
            assert share_right(task, rule) == pytest.approx(known[name], abs=1e-9)


def test_uniform_gaps_and_power_law_gaps():
    """Slots 0 ... 27 of 64 positions: uniform queries lie 13.5 slots in, those of the power law 7."""
    for gaps, mean in (("uniform", 13.5), ("power", 7.2)):
        positions = torch.cat([Recall(gaps=gaps).batch("train", i, 256, 0).positions for i in range(8)])
        assert ((positions - 8) / 2).mean() == pytest.approx(mean, abs=0.3)


def test_random_filler_is_any_symbol_and_leaves_pairs_and_queries_alone():
    task = Recall(filler="random", vocabulary=16, pairs=3, length=32)
    batch = task.batch("train", 0, 512, 0)
    filler = torch.ones_like(batch.inputs, dtype=torch.bool)
    filler[:, :6] = False
    filler.scatter_(1, batch.positions, False)
    shares = batch.inputs[filler].bincount(minlength=16) / filler.sum()
    assert shares.tolist() == pytest.approx([1 / 16] * 16, abs=0.01)


def test_rebound_keys_take_their_last_value():
    task = Recall(pairs=5, rebound=2, length=48)
    batch = task.batch("train", 0, 64, 0)
    again = set()
    for number, row in enumerate(batch.inputs.tolist()):
        bound = {}
        for at in range(0, 14, 2):
            assert (row[at] in bound) == (at >= 10)
            bound[row[at]] = (at, row[at + 1])
        for where, target, gap in zip(
            batch.positions[number].tolist(), batch.targets[number].tolist(), batch.slices["gap"][number].tolist(), strict=True
        ):
            assert where >= 14
            assert (where - gap, target) == bound[row[where]]
        again |= {row[0:10:2].index(row[10]), row[0:10:2].index(row[12])}
    assert again == set(range(5))


@pytest.mark.parametrize("settings", VARIANTS[5:])
def test_mad_sequences_are_their_definition(settings):
    task = Recall(**settings)
    keys, _ = kinds(task)
    longest = task._settings["motif"]
    batch = task.batch("test", 0, 64, 0)
    for row, targets, gaps in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.slices["gap"].tolist(), strict=True):
        known, seen, expected, distance = {}, {}, {}, {}
        found = chunks(task, row)
        for begin, key, value_at, value in found:
            assert len(key) == longest == len(set(key))
            if key in known:
                for place, symbol in enumerate(known[key]):
                    expected[value_at - 1 + place] = symbol
                    distance[value_at - 1 + place] = begin - seen[key]
                assert value == known[key][: len(value)]
            else:
                assert 1 <= len(value) == len(set(value)) <= longest
                known[key] = value
            seen[key] = begin
        assert {at: target for at, target in enumerate(targets) if target != UNASKED} == expected
        assert all(gaps[at] == gap for at, gap in distance.items())
        assert found[-1][1] in known
        assert targets[-1] == known[found[-1][1]][-1]
        if longest > 1:
            text = len(row) - found[0][0]
            assert row[:-text] == [task.inputs.vocabulary - 1] * (len(row) - text)
            assert len(row) - text <= 3 * longest  # room for the largest last pair is 4, its key takes 1
        elif not settings.get("noise"):
            assert [symbol in keys for symbol in row] == [True, False] * (len(row) // 2) + [True]
            assert len(row) == settings.get("length", 128) - 1


def test_mad_trains_on_every_next_symbol_with_keys_of_every_size():
    for settings in VARIANTS[5:]:
        task = Recall(**settings)
        batch = task.batch("train", 0, 256, 0)
        assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:])
        assert (batch.targets != UNASKED).all()
        sizes = np.bincount([len(chunk[1]) for row in batch.inputs.tolist() for chunk in chunks(task, row)[:-1]])
        longest = task._settings["motif"]
        assert sizes[1:] / sizes.sum() == pytest.approx([1 / longest] * longest, abs=0.04)


def test_a_share_of_the_pairs_is_noise():
    for noise in (0.2, 0.6):
        task = Recall(layout="mad", noise=noise)
        assert task.inputs.vocabulary == 32
        symbols = torch.cat([task.batch("test", i, 64, 0).inputs for i in range(8)])
        share = noise * 62 / 64  # one pair beside the last is never noise
        assert (symbols[:, 0::2] >= 16).float().mean() == pytest.approx(share, abs=0.02)
        assert ((symbols[:, 0:-1:2] >= 16) == (symbols[:, 1::2] >= 16)).all()
        assert symbols.unique().tolist() == list(range(32))


def test_harder_variants_keep_the_symbols_and_the_variant():
    for settings in VARIANTS:
        task = Recall(**settings)
        for name, harder in task.harder().items():
            changed = {key: harder._settings[key] for key in harder._settings if harder._settings[key] != task._settings[key]}
            assert all(f"{key}={value:g}" in name for key, value in changed.items())
            assert harder.inputs == task.inputs
            batch = harder.batch("test", 0, 2, 0)
            assert batch.inputs.shape == (2, harder.length)
    assert list(Recall(layout="mad").harder()) == ["length=256", "length=512", "length=1024"]
    assert "noise=0.8" in Recall(layout="mad", noise=0.2).harder()


@pytest.mark.parametrize(("symbols", "wanted"), [(5, 3), (40, 2), (400, 20)])
def test_chosen_symbols_differ_and_every_one_is_as_likely_at_every_place(symbols, wanted):
    drawn = _chosen(np.random.default_rng(0), 20_000, symbols, wanted)
    assert (np.diff(np.sort(drawn, 1), axis=1) > 0).all()
    for place in (0, wanted - 1):
        counts = np.bincount(drawn[:, place], minlength=symbols)
        assert ((counts - 20_000 / symbols) ** 2 / (20_000 / symbols)).sum() < symbols + 5 * np.sqrt(2 * symbols)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": 0}, "pairs=0"),
        ({"length": 14}, "length=14"),
        ({"vocabulary": 7}, "vocabulary=7"),
        ({"rebound": 5}, "rebound=5"),
        ({"pairs": 9, "rebound": 2, "vocabulary": 20}, "rebound=2"),
        ({"rebound": 2, "length": 18}, "at least 20"),
        ({"noise": 0.2}, "noise=0.2.*layout=mad"),
        ({"motif": 2}, "motif=2.*layout=mad"),
        ({"layout": "mad", "pairs": 4}, "layout=mad: pairs"),
        ({"layout": "mad", "gaps": "uniform"}, "layout=mad: pairs, gaps"),
        ({"layout": "mad", "noise": 1.0}, "noise=1"),
        ({"layout": "mad", "noise": 0.2, "motif": 2}, "leave one out"),
        ({"layout": "mad", "motif": 0}, "motif=0"),
        ({"layout": "mad", "motif": 4, "vocabulary": 8}, "vocabulary=8.*at least 9"),
        ({"layout": "mad", "noise": 0.5, "vocabulary": 19}, "vocabulary=19.*at least 20"),
        ({"layout": "mad", "vocabulary": 3}, "vocabulary=3.*at least 4"),
        ({"layout": "mad", "motif": 3, "length": 22}, "length=22"),
        ({"layout": "mad", "length": 9}, "length=9"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as refused:
        Recall(**settings)
    assert "\n" not in str(refused.value)


def test_examples_mark_keys_values_and_answers():
    task = Recall(pairs=2, length=12, vocabulary=8)
    batch = task.batch("test", 0, 1, 0)
    words = task.example(batch, 0).split()
    assert [word[0] for word in words[:4]] == ["k", "v", "k", "v"]
    assert {words[0] + f"[{words[1]}]", words[2] + f"[{words[3]}]"} == {word for word in words if "[" in word}
    assert Recall(layout="mad", motif=3).symbols() == [f"k{i}" for i in range(7)] + [f"v{i}" for i in range(7, 15)] + ["."]

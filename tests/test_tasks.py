"""Laws that every task keeps, and the definitions of each."""

import hashlib

import numpy as np
import pytest
import torch

from lab import plugins
from lab.model import build_task
from lab.task_overview import laptop
from tasks import text as text_module
from tasks.digits import Digits, _members
from tasks.recall import Recall
from tasks.selective_copying import SelectiveCopying
from tasks.task import SPLITS, UNASKED, Batch, BitsPerByte, Tokens, of_split, split_of
from tasks.text import Text

NAMES = plugins.names("tasks")


@pytest.fixture(params=dict.fromkeys(form for name in NAMES for form in (name, laptop(name))))
def task(request):
    return build_task(*plugins.parse("tasks", request.param))


@pytest.mark.parametrize("split", SPLITS)
def test_a_batch_is_a_function_of_its_arguments(task, split):
    first, other = task.batch(split, 3, 5, 7), task.batch(split, 4, 5, 7)
    task.batch("train", 0, 2, 1)
    again = task.batch(split, 3, 5, 7)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)


def test_seeds_give_other_training_batches(task):
    assert not torch.equal(task.batch("train", 0, 8, 0).inputs, task.batch("train", 0, 8, 1).inputs)


@pytest.mark.parametrize("split", SPLITS)
def test_batches_are_as_announced(task, split):
    batch = task.batch(split, 0, 6, 0)
    assert batch.inputs.shape[:2] == (6, task.length)
    if isinstance(task.inputs, Tokens):
        assert batch.inputs.dtype == torch.int64
        assert batch.inputs.min() >= 0
        assert batch.inputs.max() < task.inputs.vocabulary
    else:
        assert batch.inputs.shape[2] == task.inputs.dim
    if task.real:
        assert batch.targets.shape == ((6, task.outputs) if task.pooled else (6, task.answers, task.outputs))
        assert batch.targets.isfinite().all()
    else:
        answers = batch.targets.shape[1:]
        assert answers == (() if task.pooled else (task.answers,)) or split != "train"
        asked = batch.targets[batch.targets != UNASKED]
        assert len(asked)
        assert asked.min() >= 0
        assert asked.max() < task.outputs
    if batch.positions is not None:
        assert batch.positions.shape == batch.targets.shape[:2]
        assert batch.positions.min() >= 0
        assert batch.positions.max() < task.length
    if batch.lengths is not None:
        assert task.pooled
        assert batch.lengths.min() >= 1
        assert batch.lengths.max() <= task.length // task.towers
    assert set(batch.slices) == set(task.buckets()) or (split == "train" and not batch.slices)


def test_splits_share_no_example(task):
    if isinstance(task, Text):
        pytest.skip("its splits are different documents: test_text_splits_share_no_document")
    rows = {
        split: {row.tobytes() for index in range(8) for row in task.batch(split, index, 64, 0).inputs.numpy()} for split in SPLITS
    }
    assert not rows["train"] & rows["validation"]
    assert not rows["train"] & rows["test"]
    assert not rows["validation"] & rows["test"]


def test_a_perfect_answer_scores_best_and_chance_is_what_guessing_gets(task):
    batch = task.batch("test", 0, 64, 0)
    best = 0.0 if task.metric in ("bits_per_byte", "mean_squared_error") else 1.0
    assert measured(task, batch, batch.targets) == pytest.approx(best, abs=1e-6)
    assert task.new_metric().higher_is_better == (best == 1)
    assert "chance" in task.baselines()
    assert all(0 <= score <= (8 if task.metric == "bits_per_byte" else 1) for score in task.baselines().values())


def measured(task, batch, answers):
    """The score of definite answers."""
    metric = task.new_metric()
    if task.real:
        metric.update(answers.contiguous(), batch.targets.contiguous())
    else:
        logits = 50.0 * torch.nn.functional.one_hot(answers.clamp(0), task.outputs).float()
        metric.update(logits if task.pooled else logits.movedim(-1, 1).contiguous(), batch.targets)
    return float(metric.compute())


@pytest.mark.parametrize("split", SPLITS)
def test_the_oracle_answers_from_what_a_model_sees(task, split):
    batch = task.batch(split, 1, 24, 0)
    if split == "train" and not task.pooled and torch.equal(batch.targets[:, :-1], batch.inputs[:, 1 : batch.targets.shape[1]]):
        pytest.skip("trains on every next symbol, whatever it asks for later")
    answers = task.oracle(Batch(batch.inputs.clone(), torch.zeros_like(batch.targets), batch.positions, {}, batch.lengths))
    if answers is None:
        pytest.skip("nobody has a rule for it")
    if task.real:
        assert torch.allclose(answers, batch.targets, atol=1e-4)
    else:
        asked = batch.targets != UNASKED
        assert torch.equal(answers[asked], batch.targets[asked])
    assert measured(task, batch, answers) == pytest.approx(0.0 if task.real else 1.0, abs=1e-6)


def test_shortcuts_score_what_the_baselines_say(task):
    """Within four standard errors of what is measured on the held-out sequences themselves."""
    said, rules = task.baselines(), task.shortcuts()
    assert set(rules) <= set(said)
    for name, rule in rules.items():
        scores = []
        for index in range(16):
            batch = task.batch("test", index, 64, 0)
            scores.append(measured(task, batch, rule(batch)))
        assert np.mean(scores) == pytest.approx(said[name], abs=4 * np.std(scores) / 4 + 1e-3), name


def test_examples_are_written_with_their_answers(task):
    text = task.example(task.batch("train", 0, 1, 0), 0)
    assert "[" in text
    assert len(text) > 8
    assert len(task.symbols()) == (task.inputs.vocabulary if isinstance(task.inputs, Tokens) else 0)
    assert len(task.classes()) == task.outputs


def test_references_name_settings_that_exist_and_a_source(task):
    for reference in task.references:
        name = type(task).__module__.partition(".")[2]
        plugins.parse("tasks", f"{name}:{reference.form}")
        assert len(reference.source) > 8
        assert 0 <= reference.score <= 1 or task.metric in ("bits_per_byte", "mean_squared_error")


def test_split_of_gives_each_example_one_split_in_the_announced_shares():
    rows = np.random.default_rng(0).integers(0, 50, (32_000, 9))
    shares = np.bincount(split_of(rows), minlength=3) / len(rows)
    assert shares == pytest.approx([14 / 16, 1 / 16, 1 / 16], abs=0.005)
    assert (split_of(rows) == split_of(rows.copy())).all()


def test_of_split_says_so_when_there_are_too_few_examples():
    def only_one(rng, count):
        return {"inputs": np.zeros((count, 4), np.int64)}

    empty = next(split for split in SPLITS if SPLITS.index(split) != split_of(np.zeros((1, 4), np.int64))[0])
    with pytest.raises(ValueError, match="too few distinct"):
        of_split(only_one, empty, 0, 4, 0)


@pytest.mark.parametrize(("pairs", "length", "vocabulary"), [(4, 64, 64), (4, 64, 8192), (8, 32, 20), (1, 4, 4), (64, 512, 8192)])
def test_recall_is_the_published_definition(pairs, length, vocabulary):
    task = Recall(pairs=pairs, length=length, vocabulary=vocabulary)
    batch = task.batch("train", 0, 32, 0)
    for row, targets, positions in zip(batch.inputs, batch.targets, batch.positions, strict=True):
        keys, values = row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2]
        assert len(set(keys.tolist())) == pairs
        assert keys.min() >= 1
        assert keys.max() < vocabulary // 2
        assert len(set(values.tolist())) == pairs
        assert values.min() >= vocabulary // 2
        lookup = dict(zip(keys.tolist(), values.tolist(), strict=True))
        assert [lookup[int(row[at])] for at in positions] == targets.tolist()
        assert len(set(positions.tolist())) == pairs
        assert ((positions - 2 * pairs) % 2 == 0).all()
        assert positions.min() >= 2 * pairs
        filler = torch.ones(length, dtype=torch.bool)
        filler[: 2 * pairs] = False
        filler[positions] = False
        assert (row[filler] == 0).all(), "filler must not hold a live key"


def test_recall_gaps_follow_the_power_law():
    """Median key-to-query distance 14 and 90th percentile 44 at (64, 4); first and last key 6 and 8.3 slots away."""
    gaps = torch.cat([Recall(vocabulary=8192).batch("train", i, 256, 0).slices["gap"] for i in range(16)]).float()
    assert gaps.median() == pytest.approx(14, abs=2)
    assert gaps.flatten().quantile(0.9) == pytest.approx(44, abs=3)
    slots = (gaps - 8 + 2 * torch.arange(4)) / 2
    assert slots[:, 0].mean() == pytest.approx(6, abs=0.5)
    assert slots[:, -1].mean() == pytest.approx(8.3, abs=0.5)


@pytest.mark.parametrize(
    "settings",
    [{"pairs": 0}, {"pairs": 4, "length": 14}, {"length": 33}, {"vocabulary": 7}, {"pairs": 32, "vocabulary": 64}],
)
def test_recall_refuses_what_cannot_be(settings):
    with pytest.raises(ValueError, match="="):
        Recall(**settings)


def test_copying_asks_for_the_data_in_order():
    task = SelectiveCopying(tokens=5, length=40, vocabulary=9)
    batch = task.batch("train", 0, 50, 0)
    for row, targets, positions in zip(batch.inputs, batch.targets, batch.positions, strict=True):
        field = row[:35]
        assert field[field != 0].tolist() == targets.tolist()
        assert positions.tolist() == [35, 36, 37, 38, 39]
        assert (row[35:] == 8).all()
        assert targets.min() >= 1
        assert targets.max() <= 7
    with pytest.raises(ValueError, match="length=9"):
        SelectiveCopying(tokens=5, length=9)


def test_digits_are_all_there_once():
    assert sum(map(len, _members())) == 1797
    labels = torch.cat([Digits().batch("test", i, 40, 0).targets for i in range(9)])
    assert labels.bincount(minlength=10).min() > 20
    assert not Digits().causal


def test_text_splits_share_no_document(tmp_path):
    for i in range(400):
        (tmp_path / f"{i}.txt").write_text("\n".join(f"document {i} says line number {j} in full" for j in range(30)))
    (train, validation, test), _ = text_module._splits(str(tmp_path))
    found = [set(bytes(split).split(b"\n")) for split in (train, validation, test)]
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]
    total = sum(map(len, (train, validation, test)))
    assert len(test) / total == pytest.approx(0.05, abs=0.01)
    assert len(validation) / total == pytest.approx(0.05, abs=0.01)


def test_near_duplicates_are_dropped(tmp_path):
    lines = [f"a line of a text that is long enough, {i}" for i in range(40)]
    for i in range(250):
        (tmp_path / f"{i}.txt").write_text("\n".join([f"copy {i}", *lines]))
    (tmp_path / "other.txt").write_text("\n".join(f"something else entirely, line {i}" for i in range(40)))
    with pytest.raises(ValueError, match="too little distinct text"):
        Text(path=str(tmp_path))


def test_text_predicts_the_next_byte_and_knows_its_data():
    task = Text(length=64)
    batch = task.batch("train", 0, 4, 0)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert len(task.data) == 64
    assert task.data == Text(length=128).data


def test_text_reads_any_bytes_and_one_file(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes("\n".join(f"Zeile {i}: größer, schöner, {i * 7919 % 1000}" for i in range(3000)).encode("latin-1"))
    task = Text(path=str(file), length=32)
    assert bytes(task.batch("train", 0, 64, 0).inputs.flatten().tolist()).find(b"\xf6") >= 0
    changed = file.read_bytes() + b"!"
    (tmp_path / "other.txt").write_bytes(changed)
    assert Text(path=str(tmp_path / "other.txt"), length=32).data != task.data


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "no text"), (b" \n", "no text"), (b"a\0b", "binary"), (b"short", "too little")],
)
def test_text_refuses_what_is_no_text(tmp_path, content, message):
    file = tmp_path / "file.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Text(path=str(file))


def test_ngram_baseline_against_a_plain_count(tmp_path):
    """The vectorised order-3 model equals one written with dictionaries."""
    rng = np.random.default_rng(1)
    words = [b"alpha", b"beta", b"gamma", b"delta"]
    file = tmp_path / "words.txt"
    file.write_bytes(b"\n".join(b" ".join(words[i] for i in rng.integers(0, 4, 9)) + b" %d" % j for j in range(900)))
    task = Text(path=str(file), length=16)
    train = bytes(text_module._splits(str(file))[0][0])
    counts: dict[bytes, dict[int, int]] = {}
    for order in range(3):
        for at in range(order, len(train)):
            seen = counts.setdefault(train[at - order : at], {})
            seen[train[at]] = seen.get(train[at], 0) + 1

    def probability(context: bytes, byte: int) -> float:
        lower = probability(context[1:], byte) if context else 1 / 256
        seen = counts.get(context, {})
        total = sum(seen.values())
        return (seen.get(byte, 0) + len(seen) * lower) / (total + len(seen)) if total else lower

    window = task.batch("test", 0, task.held_out, 0)
    rows = torch.cat([window.inputs, window.targets[:, -1:]], 1)
    bits = [
        -np.log2(probability(bytes(row[max(0, at - 2) : at].tolist()), int(row[at]))) for row in rows for at in range(1, len(row))
    ]
    assert text_module._ngram_bits(str(file), 16, 256) == pytest.approx(np.mean(bits), rel=1e-9)


def test_bits_per_byte_of_uniform_predictions_is_eight():
    metric = BitsPerByte()
    metric.update(torch.zeros(10, 256), torch.arange(10))
    assert float(metric.compute()) == pytest.approx(8.0)


def test_standard_library_corpus_is_what_it_says():
    (train, validation, test), digest = text_module._splits(None)
    assert 5e6 < len(train) < 5e7
    assert min(len(validation), len(test)) > 2e5
    assert (
        digest
        == hashlib.sha256(
            b"".join(len(part).to_bytes(8, "little") + part.tobytes() for part in (train, validation, test))
        ).hexdigest()
    )

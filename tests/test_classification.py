"""Text classification and retrieval: what is read, cut, padded and split, on folders that the tests write."""

import importlib.util
import json
from collections import Counter

import numpy as np
import pytest
import torch

from tasks import retrieval, text_classification
from tasks.retrieval import FILES, Retrieval
from tasks.sources.corpus import Shelf, byte_counts, share
from tasks.task import SPLITS, share_right
from tasks.text_classification import PACKAGES, TextClassification

COMMIT = "0123456789" * 4
needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the optional package datasets")


@pytest.fixture(autouse=True)
def forget():
    yield
    for load in (text_classification._load, retrieval._files, retrieval._published):
        load.cache_clear()


def review(label, i, split="train"):
    word = ("awful", "splendid")[label]
    return f"{split} review {i}: {word} {'and ' * (i % 7)}{i * 7919 % 1000}".encode()


@pytest.fixture
def reviews(tmp_path):
    """As the published reviews come: a third folder beside the classes, for training without labels."""
    for split, count in (("train", 120), ("test", 25)):
        for label, name in enumerate(("neg", "pos")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.txt").write_bytes(review(label, i, split))
    (tmp_path / "train" / "unsup").mkdir()
    (tmp_path / "train" / "unsup" / "0.txt").write_bytes(b"no label")
    return tmp_path


def texts(batch):
    return [bytes(row[:length].tolist()) for row, length in zip(batch.inputs, batch.lengths, strict=True)]


def test_shelves_give_bytes_back_and_pad_with_zeros():
    shelf = Shelf.of([b"one", b"three", b"fifteen"])
    chosen = np.array([2, 0, 1])
    rows = shelf.read(shelf.starts[chosen], shelf.lengths[chosen], 6)
    assert [bytes(row.tolist()) for row in rows] == [b"fiftee", b"one\0\0\0", b"three\0"]


def test_a_folder_of_reviews_is_cut_padded_and_named(reviews):
    task = TextClassification(path=str(reviews), length=24)
    assert (task.outputs, task.classes(), task.held_out) == (2, ("neg", "pos"), 50)
    batch = task.batch("test", 0, 50, 0)
    wanted = Counter((review(label, i, "test")[:24], label) for label in (0, 1) for i in range(25))
    assert Counter(zip(texts(batch), batch.targets.tolist(), strict=True)) == wanted
    padding = torch.arange(24) >= batch.lengths[:, None]
    assert (batch.inputs[padding] == 0).all()
    long = TextClassification(path=str(reviews), length=200).batch("test", 0, 50, 0)
    assert len(set(long.lengths.tolist())) > 5


def test_a_tenth_of_the_training_documents_validates(reviews):
    task = TextClassification(path=str(reviews), length=200)
    everything = {review(label, i) for label in (0, 1) for i in range(120)}
    validation = set(texts(task.batch("validation", 0, task.held_out, 0)))
    assert validation == {text for text in everything if share(text) < 0.1}
    trained = set(texts(task.batch("train", 0, 4000, 0)))
    assert trained == everything - validation


def test_without_a_test_set_a_fifth_is_held_out(tmp_path):
    for label, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for i in range(400):
            (tmp_path / name / f"{i}.txt").write_bytes(review(label, i))
    labels = TextClassification(path=str(tmp_path), length=64)._labels
    assert sum(map(len, labels.values())) == 800
    assert len(labels["test"]) / 800 == pytest.approx(0.2, abs=0.05)
    assert len(labels["validation"]) / 800 == pytest.approx(0.08, abs=0.04)


def test_the_bag_of_bytes_is_naive_bayes(reviews):
    task = TextClassification(path=str(reviews), length=40)
    shelf, labels = task._shelves["train"], task._labels["train"]
    known = [bytes(shelf.text[start : start + length]) for start, length in zip(shelf.starts, shelf.lengths, strict=True)]
    counts = [Counter(b"".join(text for text, label in zip(known, labels, strict=True) if label == each)) for each in (0, 1)]
    totals = [sum(count.values()) + 256 for count in counts]

    def guess(text):
        scores = [
            np.log((labels == each).mean()) + sum(np.log((counts[each][byte] + 1) / totals[each]) for byte in text)
            for each in (0, 1)
        ]
        return int(np.argmax(scores))

    batch = task.batch("test", 0, 50, 0)
    assert task._bag(batch).tolist() == [guess(text) for text in texts(batch)]
    assert task.baselines()["bag of bytes"] == share_right(task, task.shortcuts()["bag of bytes"])
    assert task.baselines()["bag of bytes"] > 0.9, "awful and splendid have other letters"


def test_byte_counts_leave_padding_out():
    inputs, lengths = torch.tensor([[7, 7, 0, 9], [1, 2, 3, 0]]), torch.tensor([2, 4])
    counts = byte_counts(inputs, lengths)
    assert counts.sum(1).tolist() == [2, 4]
    assert counts[0, 7] == 2
    assert counts[0, 0] == 0
    assert counts[1, 0] == 1


@pytest.fixture(scope="module")
def packages():
    return TextClassification(length=512)


def test_the_stand_in_asks_for_the_package_of_a_piece(packages):
    assert packages.classes() == PACKAGES
    pieces = {split: set(texts(packages.batch(split, 0, 2000, 0))) for split in SPLITS}
    assert not pieces["train"] & (pieces["validation"] | pieces["test"])
    assert not pieces["validation"] & pieces["test"]
    assert min(np.bincount(packages._labels["train"])) > 1000
    score = packages.baselines()["bag of bytes"]
    assert 0.2 < score < 0.7
    assert share_right(packages, packages.shortcuts()["bag of bytes"], "validation") == pytest.approx(score, abs=0.1)


@needs_datasets
def test_reviews_in_the_format_of_the_hub(tmp_path):
    for split in ("train", "test"):
        rows = [{"text": review(i % 2, i, split).decode(), "label": i % 2} for i in range(200)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = TextClassification(corpus=f"hub:{tmp_path}@{COMMIT}", length=64)
    batch = task.batch("test", 0, 200, 0)
    wanted = {(review(i % 2, i, "test")[:64], i % 2) for i in range(200)}
    assert set(zip(texts(batch), batch.targets.tolist(), strict=True)) == wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length=0"),
        ({"corpus": "path"}, "path=None with corpus=path"),
        ({"corpus": "books"}, "corpus=books: no such documents"),
        ({"corpus": "hub:a/b"}, "pin the data"),
        ({"path": "nowhere"}, "path=nowhere: nowhere needs a folder"),
    ],
)
def test_classification_refuses_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        TextClassification(**settings)


def test_too_few_documents_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "only.txt").write_text(name)
    with pytest.raises(ValueError, match="too few different documents"):
        TextClassification(path=str(tmp_path))


@pytest.fixture
def files(tmp_path):
    """Each file repeats a word of its own, so that a piece tells which it is from, and numbers that tell where."""
    for i in range(60):
        (tmp_path / f"{i}.txt").write_bytes(b"".join(b"<%02d:%03d>" % (i, at) for at in range(40)))
    return tmp_path


@pytest.mark.parametrize("split", SPLITS)
def test_two_pieces_are_of_one_file_or_of_two_and_never_overlap(files, split):
    task = Retrieval(path=str(files), document=120)
    batch = task.batch(split, 0, 600, 0)
    assert batch.inputs.shape == (600, 240)
    ahead = 0
    for row, target in zip(batch.inputs, batch.targets.tolist(), strict=True):
        one, other = (bytes(half.tolist()) for half in row.reshape(2, 120))
        names, numbers = ([piece[piece.index(b"<") :] for piece in (one, other)] for _ in range(2))
        assert (names[0][1:3] == names[1][1:3]) == target
        if target:
            first, second = (int(piece[4:7]) for piece in numbers)
            assert abs(first - second) * 8 >= 120 - 8
            ahead += first < second
    together = int(batch.targets.sum())
    assert together / 600 == pytest.approx(0.5, abs=0.07)
    assert ahead / together == pytest.approx(0.5, abs=0.1)


def test_files_are_in_one_split(files):
    shelves = Retrieval(path=str(files), document=120)._shelves
    names = {split: {bytes(shelf.text[start : start + 3]) for start in shelf.starts} for split, shelf in shelves.items()}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == 60


@pytest.mark.parametrize("document", [60, 160])
def test_the_bag_of_two_scores_what_the_baselines_say(files, document):
    task = Retrieval(path=str(files), document=document)
    said = task.baselines()["bag of bytes"]
    assert share_right(task, task.shortcuts()["bag of bytes"]) == said
    assert 0.5 < said <= 1


def paper(i):
    return f"paper {i}: {'word ' * (i % 9)}".encode()


@pytest.fixture
def pairs(tmp_path):
    for split, count in (("train", 50), ("validation", 10), ("test", 12)):
        lines = [b"%.1f\tP%d\tQ%d\t%s\t%s" % (i % 2, i, i, paper(i), paper(3 * i + 1)) for i in range(count)]
        (tmp_path / FILES[split]).write_bytes(b"\n".join(lines) + b"\n")
    return tmp_path


def test_published_pairs_are_read_as_they_are(pairs):
    task = Retrieval(path=str(pairs), document=20)
    assert task.held_out == 10
    batch = task.batch("validation", 0, 10, 0)
    assert batch.lengths.shape == (10, 2)
    for i, (row, lengths) in enumerate(zip(batch.inputs.reshape(10, 2, 20), batch.lengths.tolist(), strict=True)):
        read = [bytes(half[:length].tolist()) for half, length in zip(row, lengths, strict=True)]
        assert read == [paper(i)[:20], paper(3 * i + 1)[:20]]
        assert not row[0, lengths[0] :].any()
    assert batch.targets.tolist() == [0, 1] * 5
    assert 0 <= task.baselines()["bag of bytes"] <= 1
    assert "---" in task.example(batch, 0)


def test_broken_pairs_are_refused(pairs):
    with (pairs / FILES["test"]).open("ab") as file:
        file.write(b"yes\ta\tb\tc\td\n")
    with pytest.raises(ValueError, match=r"new_aan_pairs.test.tsv, line 13"):
        Retrieval(path=str(pairs))


def test_retrieval_refuses_what_cannot_be(tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ValueError, match="document=0"):
        Retrieval(document=0)
    with pytest.raises(ValueError, match="only 0 files are long enough"):
        Retrieval(path=str(tmp_path))


def test_references_are_of_the_published_data_alone():
    assert {reference.form.partition("@")[0] for reference in TextClassification.references} == {"corpus=hub:stanfordnlp/imdb"}
    assert {reference.form for reference in Retrieval.references} == {"path=lra_release/tsv_data"}
    assert {reference.name: reference.score for reference in Retrieval.references}["S5"] == 0.9140

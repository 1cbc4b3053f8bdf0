"""Text: where it comes from, that its splits are fixed, and what its slices say, counted by hand."""

import hashlib
import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from tasks.sources import corpus
from tasks.text import COPIED, Text, _slices

FIRST = {
    "train": b")\n                except",
    "validation": b'"""Python \'bz2_codec\' Co',
    "test": b"\ntry:\n    from _decimal ",
}
LIBRARY = "af1cb633e6d562b9dc9aebbf4ec7737113aa1d6e8ad7a3e5c9090cf18d837429"
COMMIT = "0123456789" * 4
needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the optional package datasets")


def latest_copy(window: list[int], at: int) -> int:
    """How far before `at` the run of bytes that ends there ended before, by looking everywhere; 0 for nowhere."""
    run = window[at - COPIED + 1 : at + 1]
    if len(run) < COPIED:
        return 0
    found = [end for end in range(COPIED - 1, at) if window[end - COPIED + 1 : end + 1] == run]
    return at - found[-1] if found else 0


@pytest.mark.parametrize("length", [1, 2, 3, 4, 64, 300])
def test_slices_are_what_a_search_finds(length):
    batch = Text(length=length).batch("test", 1, 12, 0)
    for inputs, targets, position, copied, distance in zip(
        batch.inputs, batch.targets, *(batch.slices[name] for name in ("position", "copied", "distance")), strict=True
    ):
        window = [*inputs.tolist(), int(targets[-1])]
        wanted = [latest_copy(window, at) for at in range(1, len(window))]
        assert distance.tolist() == wanted
        assert copied.tolist() == [int(far > 0) for far in wanted]
        assert position.tolist() == list(range(1, len(window)))


def test_slices_tell_any_bytes_apart():
    windows = np.random.default_rng(0).choice([0, 1, 127, 128, 255], (20, 400))
    found = _slices(windows)["distance"].tolist()
    assert found == [[latest_copy(window, at) for at in range(1, 400)] for window in windows.tolist()]


def test_slices_of_a_known_string(tmp_path):
    file = tmp_path / "rhyme.txt"
    file.write_bytes(b"".join(b"%05d the cat, the cat.\n" % (i * 7919 % 100_000) for i in range(4000)))
    batch = Text(path=str(file), length=64).batch("test", 0, 8, 0)
    for inputs, targets, distance in zip(batch.inputs, batch.targets, batch.slices["distance"], strict=True):
        window = bytes([*inputs.tolist(), int(targets[-1])])
        second = window.index(b" the cat, the cat") + len(b" the cat, the ca")
        assert distance[second - 1] == len(b", the cat")


def test_every_slice_falls_into_a_bucket_and_training_has_none():
    task = Text(length=100)
    assert not task.batch("train", 0, 2, 0).slices
    batch = task.batch("validation", 0, 16, 0)
    assert set(batch.slices) == set(task.buckets())
    for name, bounds in task.buckets().items():
        assert bounds == sorted(set(bounds))
        assert int(batch.slices[name].min()) >= bounds[0]


def test_the_default_draws_are_those_of_the_published_results():
    """On the Python that they were reached with; every other Python has other text, and so another hash."""
    if hashlib.sha256(b"".join(sorted(corpus.texts_of(corpus.library_files())))).hexdigest() != LIBRARY:
        pytest.skip("the standard library of another Python")
    task = Text()
    assert task.data == "49dd34d58c379a2c68a69b944ef348577b19cd9675e2c0a0a545c2563c06204e"
    first = {split: bytes(task.batch(split, 0, 1, 5).inputs[0, :24].tolist()) for split in ("train", "validation", "test")}
    assert first == FIRST
    assert task.baselines()["order-3 n-gram"] == pytest.approx(2.7332759995762204, rel=1e-9)


def test_docs_are_prose_of_the_standard_library():
    task = Text(corpus="docs", length=64)
    text = b"".join(bytes(part) for part in task._bytes)
    assert 1.5e6 < len(text) < 4e6
    assert b"Return a list of the words in the string" in text or b"regular expression" in text
    assert b"import os\nimport sys\n" not in text
    assert task.data != Text(length=64).data
    assert task.data == Text(corpus="docs", length=32).data


def test_path_is_as_before_and_may_be_said_twice(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("\n".join(f"line {i} of a small text, {i * i}" for i in range(2000)))
    assert Text(path=str(file), length=32).data == Text(path=str(file), corpus="path", length=32).data


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corpus": "path"}, "path=None with corpus=path"),
        ({"corpus": "docs", "path": "x"}, "path=x with corpus=docs"),
        ({"corpus": "books"}, "corpus=books: no such text"),
        ({"corpus": "hub:a/b"}, "hub:a/b: pin the data"),
        ({"corpus": "hub:a/b@main"}, "pin the data to a commit"),
        ({"length": 0}, "length=0"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        Text(**settings)
    assert "\n" not in str(error.value)


def test_without_the_optional_package_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'sequence-lab\[data\]'"):
        Text(corpus=f"hub:owner/name@{COMMIT}")


def write_rows(file, rows):
    file.write_text("\n".join(json.dumps({"text": row}) for row in rows))


@needs_datasets
def test_the_hubs_splits_are_kept_in_order(tmp_path):
    rows = {split: [f"{split} row {i}: grün" for i in range(30)] for split in ("train", "validation", "test")}
    for split in rows:
        write_rows(tmp_path / f"{split}.jsonl", rows[split])
    task = Text(corpus=f"hub:{tmp_path}@{COMMIT}", length=16)
    for split, part in zip(("train", "validation", "test"), task._bytes, strict=True):
        assert bytes(part).decode() == "\n".join(rows[split])
    torch.testing.assert_close(task.batch("train", 0, 2, 0).inputs[:, 1:], task.batch("train", 0, 2, 0).targets[:, :-1])


@needs_datasets
def test_a_data_set_of_one_split_is_divided_as_files_are(tmp_path):
    rows = [f"document {i} says {i * 7919 % 1000} times that it is no other" for i in range(600)]
    write_rows(tmp_path / "train.jsonl", rows)
    found = [set(bytes(part).decode().split("\n")) for part in Text(corpus=f"hub:{tmp_path}@{COMMIT}", length=16)._bytes]
    assert set.union(*found) == set(rows)
    assert sum(map(len, found)) == len(rows)


@needs_datasets
def test_a_data_set_without_text_says_which_columns_it_has(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"words": "a"}\n{"words": "b"}')
    with pytest.raises(ValueError, match="no column called text; there are words"):
        Text(corpus=f"hub:{tmp_path}@{COMMIT}")
    with pytest.raises(ValueError, match="cannot be read"):
        corpus.hub(f"{tmp_path}/nowhere@{COMMIT}")

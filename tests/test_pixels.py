"""Pixels: orders, splits, scales and sources, on pictures that the tests draw."""

import hashlib
import importlib.util
import io
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from tasks import pixels
from tasks.pixels import HUB, Pixels
from tasks.task import SPLITS, share_right

needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the optional package datasets")


@pytest.fixture(autouse=True)
def forget():
    yield
    pixels._load.cache_clear()


def draw(seed, side=6):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write(folder, count, start=0):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(draw(start + i)).save(folder / f"{i:03}.png")


def png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for split, count, start in (("train", 40, 0), ("test", 9, 5000)):
        for label, name in enumerate(("cat", "dog")):
            write(tmp_path / split / name, count, start + 1000 * label)
    return tmp_path


@pytest.mark.parametrize("colour", [False, True])
def test_a_folder_is_read_in_rows_and_in_shares_of_full_brightness(folder, colour):
    task = Pixels(path=str(folder), colour=colour)
    assert (task.length, task.inputs.dim, task.outputs, task.held_out) == (36, 3 if colour else 1, 2, 18)
    batch = task.batch("test", 0, 18, 0)
    assert batch.targets.tolist() == [0] * 9 + [1] * 9
    for row, seed in zip(batch.inputs, [*range(5000, 5009), *range(6000, 6009)], strict=True):
        rgb = draw(seed).reshape(36, 3)
        weights = np.array([19595, 38470, 7471])
        wanted = rgb if colour else ((rgb @ weights + 0x8000) >> 16)[:, None]
        torch.testing.assert_close(row, torch.tensor(wanted / 255).float())


def test_a_tenth_of_the_training_pictures_validates_and_each_is_in_one_split(folder):
    images = Pixels(path=str(folder))._images
    rows = {split: {image.tobytes() for image in images.pixels[split]} for split in SPLITS}
    assert len(rows["train"]) + len(rows["validation"]) == 80
    assert not rows["train"] & rows["validation"]
    assert rows["validation"] == {
        row for row in rows["train"] | rows["validation"] if hashlib.sha256(row).digest() < bytes.fromhex("1999999999999a")
    }


def test_without_a_test_set_a_fifth_is_held_out_and_equal_pictures_stay_together(tmp_path):
    for label, name in enumerate("abc"):
        write(tmp_path / name, 150, 1000 * label)
        for copy in range(30):
            Image.fromarray(draw(1000 * label + copy)).save(tmp_path / name / f"copy{copy}.png")
    images = Pixels(path=str(tmp_path))._images
    rows = {split: {image.tobytes() for image in images.pixels[split]} for split in SPLITS}
    assert not rows["train"] & rows["validation"]
    assert not rows["test"] & (rows["train"] | rows["validation"])
    assert sum(len(images.labels[split]) for split in SPLITS) == 540
    assert len(images.labels["test"]) / 540 == pytest.approx(0.2, abs=0.06)
    assert len(images.labels["validation"]) / 540 == pytest.approx(0.08, abs=0.04)


def test_digits_are_all_there_in_three_splits():
    task = Pixels()
    counts = Counter({split: len(task._images.labels[split]) for split in SPLITS})
    assert counts.total() == 1797
    assert counts["test"] == task.held_out
    seen = torch.cat([task.batch("test", i, 44, 0).inputs for i in range(task.held_out // 44)])
    assert len({row.numpy().tobytes() for row in seen}) == task.held_out // 44 * 44
    values = torch.cat([task.batch("train", i, 64, 0).inputs for i in range(8)]).unique()
    assert len(values) == 17
    assert (values.min(), values.max()) == (0, 1)


@pytest.mark.parametrize("order", ["permuted", "bit_reversed"])
def test_orders_are_permutations_of_the_raster(order):
    raster, other = Pixels().batch("test", 0, 9, 0), Pixels(order=order).batch("test", 0, 9, 0)
    assert not torch.equal(raster.inputs, other.inputs)
    assert torch.equal(raster.inputs[:, Pixels(order=order).order], other.inputs)
    for length in (36, 64, 784):
        assert sorted(pixels._order(order, length)) == list(range(length))


def test_bit_reversal_by_hand():
    assert pixels._order("bit_reversed", 8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert pixels._order("bit_reversed", 6).tolist() == [0, 4, 2, 1, 5, 3]
    assert pixels._order("permuted", 784).tolist() == np.random.RandomState(92916).permutation(784).tolist()


@pytest.mark.parametrize("order", ["raster", "permuted"])
def test_the_bag_of_pixels_scores_what_the_baselines_say(order):
    task = Pixels(order=order)
    rule = task.shortcuts()["bag of pixels"]
    said = task.baselines()["bag of pixels"]
    assert share_right(task, rule) == pytest.approx(said)
    assert share_right(task, rule, "validation") == pytest.approx(said, abs=0.12)
    assert 0.15 < said < 0.6
    batch = task.batch("test", 0, 20, 0)
    shuffled = type(batch)(batch.inputs[:, torch.randperm(task.length)], batch.targets)
    assert torch.equal(rule(batch), rule(shuffled))


def test_references_name_settings_that_exist():
    forms = {reference.form for reference in Pixels.references}
    assert forms == {"dataset=mnist", "dataset=mnist,order=permuted", "dataset=mnist,order=bit_reversed"} | {
        "dataset=cifar10",
        "dataset=cifar10,colour=true",
    }
    assert all(0.3 < reference.score < 1 for reference in Pixels.references)


def test_an_example_shows_the_picture_and_its_class():
    task = Pixels()
    lines = task.example(task.batch("test", 0, 1, 0), 0).split("\n")
    assert [len(line) for line in lines[:-1]] == [8] * 8
    assert lines[-1] in {f"[{digit}]" for digit in range(10)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "path"}, "path=None with dataset=path"),
        ({"dataset": "mnist", "path": "x"}, "path=x with dataset=mnist"),
        ({"colour": True}, "colour=true with dataset=digits"),
        ({"path": "nowhere"}, "path=nowhere: nowhere needs a folder"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Pixels(**settings)


def test_pictures_of_other_sizes_and_other_files_are_refused(folder):
    (folder / "train" / "cat" / "notes.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"notes.png"):
        Pixels(path=str(folder))
    Image.fromarray(draw(1, side=7)).save(folder / "train" / "cat" / "notes.png")
    with pytest.raises(ValueError, match="one square size are needed, not 6x6, 7x7"):
        Pixels(path=str(folder))


def test_too_few_pictures_are_refused(tmp_path):
    for name in "ab":
        write(tmp_path / name, 2)
    with pytest.raises(ValueError, match="too few different pictures"):
        Pixels(path=str(tmp_path))


def test_without_the_optional_package_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'sequence-lab\[data\]'"):
        Pixels(dataset="mnist")


@needs_datasets
@pytest.mark.parametrize(("dataset", "colour"), [("mnist", False), ("cifar10", False), ("cifar10", True)])
def test_a_data_set_in_the_format_of_the_hub(tmp_path, monkeypatch, dataset, colour):
    """Parquet files of encoded pictures and class labels, as the two data sets have them."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    source, image, label = HUB[dataset]
    names = [f"class {i}" for i in range(10)]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=names)})
    for split, count in (("train", 60), ("test", 20)):
        encoded = [{"bytes": png(draw(i) if dataset == "cifar10" else draw(i)[:, :, 0]), "path": None} for i in range(count)]
        table = pyarrow.Table.from_pydict({image: encoded, label: [i % 10 for i in range(count)]}, schema=features.arrow_schema)
        parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    monkeypatch.setitem(pixels.HUB, dataset, (f"{tmp_path}@{source.partition('@')[2]}", image, label))
    task = Pixels(dataset=dataset, colour=colour)
    assert (task.held_out, task.classes()) == (20, tuple(names))
    batch = task.batch("test", 0, 20, 0)
    assert batch.targets.tolist() == [i % 10 for i in range(20)]
    raw = draw(3).reshape(36, 3).astype(float)
    if dataset == "mnist":
        wanted = raw[:, :1] / 255
    elif colour:
        wanted = (raw / 255 - [0.4914, 0.4822, 0.4465]) / [0.247, 0.243, 0.261]
    else:
        wanted = (((raw.astype(int) @ [19595, 38470, 7471] + 0x8000) >> 16)[:, None] - 122.6) / 61
    torch.testing.assert_close(batch.inputs[3], torch.tensor(wanted).float(), atol=1e-5, rtol=1e-5)

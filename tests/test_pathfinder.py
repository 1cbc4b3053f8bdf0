"""The drawing against Pillow and scipy and against figures of the public generator, the shards, and the task."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from lab.cli import main
from tasks.pathfinder import Pathfinder, _shuffled
from tasks.sources import shards, snakes
from tasks.sources.shards import Shards
from tasks.task import Batch


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    shards._mapped.cache_clear()
    return tmp_path / "cache"


def spans(made):
    """From marker to marker, pixels."""
    return np.hypot(*np.diff(made["markers"].astype(float), axis=1)[:, 0].T)


# The drawing


@pytest.mark.parametrize(("size", "margin"), [(32, 1), (64, 1), (128, 2), (256, 3)])
def test_stamps_are_those_of_pillow_and_scipy(size, margin):
    """Every stroke and its mask, drawn at twice the size and brought down by Pillow."""
    style, stamps = snakes.STYLES[size], snakes._stamps(size, margin)
    side = stamps.line.shape[1]
    fine, middle = 2 * side - 1, side - 1
    rows, columns = np.mgrid[-2 * margin : 2 * margin + 1, -2 * margin : 2 * margin + 1]
    disc = rows**2 + columns**2 <= (2 * margin) ** 2
    ends = np.arctan2(stamps.candidate[:, 0], stamps.candidate[:, 1])
    angles = [*(np.arange(-180, 180) * np.pi / 180), *(ends + np.where(ends < 0, np.pi, -np.pi))]
    for angle, line, mask in zip(angles, stamps.line, stamps.mask, strict=True):
        canvas = Image.new("L", (fine, fine))
        tip = [int(np.ceil(middle + 2 * style.paddle * turned)) for turned in (np.cos(angle), np.sin(angle))]
        ImageDraw.Draw(canvas).line([(middle, middle), tuple(tip)], fill=255, width=style.width)
        grown = Image.fromarray(ndimage.grey_dilation(np.asarray(canvas), footprint=disc))
        for drawn, stamp in ((canvas, line), (grown, mask)):
            np.testing.assert_array_equal(stamp, np.asarray(drawn.resize((side, side), Image.Resampling.LANCZOS)))


@pytest.mark.parametrize("place", [(0, 0), (1, 31), (2, 15), (16, 16), (31, 31), (30, 3)])
def test_markers_are_those_of_pillow(place):
    style, level = snakes.STYLES[32], np.zeros((32, 32), np.int64)
    snakes._mark(level, snakes._stamps(32, 1), *place)
    rows, columns = np.mgrid[:64, :64]
    disc = (rows - 2 * place[0]) ** 2 + (columns - 2 * place[1]) ** 2 <= style.marker**2
    shrunk = Image.fromarray(np.uint8(255 * disc)).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(level, 10 * np.asarray(shrunk, int))


@pytest.mark.parametrize(("size", "digest"), [(16, "eacae9dfbaa46600"), (32, "114db618cb0a611d"), (128, "916cbca46ed92c84")])
def test_bytes_are_the_same_everywhere(size, digest):
    assert hashlib.sha256(snakes.images(size, 7, 1, 3, 2)[0].tobytes()).hexdigest()[:16] == digest


def test_bytes_are_the_same_without_the_compiler():
    program = "from tasks.sources import snakes; import sys; sys.stdout.buffer.write(snakes.images(16, 2, 0, 3, 1)[0].tobytes())"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, env=environment, check=True)
    assert done.stdout == snakes.images(16, 2, 0, 3, 1)[0].tobytes()


def test_an_image_depends_on_its_number_alone():
    drawn, labels, made = snakes.images(16, 3, 0, 0, 8)
    again, labels_again, made_again = snakes.images(16, 3, 0, 5, 2)
    np.testing.assert_array_equal(drawn[5:7], again)
    np.testing.assert_array_equal(labels[5:7], labels_again)
    np.testing.assert_array_equal(made[5:7], made_again)


def test_no_image_is_in_two_splits():
    splits = [{image.tobytes() for image in snakes.images(16, 0, split, 0, 3000, 3)[0]} for split in range(3)]
    assert len(set.union(*splits)) == sum(map(len, splits))
    assert len(splits[0]) < 3000, "some come twice, so this is not by chance"


def test_no_published_size_has_an_image_twice():
    drawn = np.concatenate([snakes.images(32, 0, split, 0, 1000, 6)[0] for split in range(3)])
    assert len({image.tobytes() for image in drawn}) == len(drawn)


def test_no_two_images_meet_in_their_random_numbers():
    states = set()
    for split in range(3):
        for number in range(50):
            state = np.zeros(4, np.int64)
            snakes._start(state, 2**40 + 5, split, number)
            states.add(tuple(state))
            assert state[3] == 13
    assert len(states) == 150


@pytest.mark.parametrize("size", [16, 32])
def test_labels_say_whether_the_markers_end_one_contour(size):
    drawn, labels, made = snakes.images(size, 0, 0, 0, 1000)
    ends = made["contours"][:, :, [0, -1]]
    same = (ends == made["markers"][:, None]).all((2, 3)).any(1)
    meet = (ends[:, 0, 1] == ends[:, 1, 1]).all(1)  # the public generator too lets both targets end at one point
    np.testing.assert_array_equal(labels[~meet], same[~meet])
    assert same[meet].all()
    assert meet.mean() < 0.05
    lit = drawn.reshape(-1, size, size)[np.arange(1000)[:, None], made["markers"][..., 0], made["markers"][..., 1]]
    assert lit.min() > 100
    steps = np.hypot(*np.moveaxis(np.diff(made["contours"].astype(float), axis=2)[:, :, 1:], -1, 0))
    style = snakes.STYLES[size]
    assert steps.min() >= style.paddle - 1
    assert steps.max() <= 2 * (style.paddle + style.margins[0]) + 2


def test_labels_are_fair_coins():
    assert abs(snakes.images(16, 0, 0, 0, 4000, 3)[1].mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("size", "contour", "count", "restarts", "mean", "deviation"),
    [(32, 14, 2000, (316, 42), 20.25, 51.2), (32, 6, 4000, (21.25, 1.6), 12.96, 43.1), (128, 6, 400, (0.815, 0.3), 6.32, 32.2)],
)
def test_figures_of_the_public_generator(size, contour, count, restarts, mean, deviation):
    """Pixels, and configurations given up for each image, the sharpest test of the rule of acceptance.

    The figures are those of drewlinsley/pathfinder, run with its images rescaled to 8 bits: 958, 2000 and 200 images.
    """
    drawn, _, made = snakes.images(size, 0, 0, 0, count, contour)
    assert abs(made["restarts"].mean() - restarts[0]) < restarts[1]
    assert abs(drawn.mean() / mean - 1) < 0.025
    assert abs(drawn.std() / deviation - 1) < 0.015


def test_distractors_and_distances_of_the_public_generator():
    """958 of its images of 32 pixels, contours of 14."""
    _, _, made = snakes.images(32, 0, 0, 0, 2000, 14)
    shares = np.bincount(made["distractors"], minlength=6) / 2000
    np.testing.assert_allclose(shares, [0.24, 0.40, 0.285, 0.06, 0.01, 0], atol=0.045)
    assert abs(spans(made).mean() - 13.0) < 0.5


@pytest.mark.slow
def test_figures_of_path_x():
    drawn, _, made = snakes.images(128, 0, 0, 0, 1000)
    assert abs(made["restarts"].mean() - 316) < 90
    assert abs(drawn.mean() - 7.91) < 0.08
    assert abs(drawn.std() - 35.69) < 0.2


# Shards


def counting(width, first, count):
    return np.arange(first * width, (first + count) * width, dtype=np.int64).reshape(count, width) % 251


def counted(**settings):
    return Shards("counting", settings, 25, (3,), partial(counting, 3), per_shard=10)


def test_rows_are_those_that_were_asked_for_and_only_their_shards_are_made(cache):
    kept, wanted = counted(), np.array([24, 3, 3, 20])
    np.testing.assert_array_equal(kept.rows(wanted), counting(3, 0, 25)[wanted])
    assert sorted(path.name for path in kept.folder.iterdir()) == ["00000.rows", "00002.rows"]
    assert kept.folder.parent == cache


def test_workers_make_the_same_bytes(capsys):
    alone, together = counted(by="one"), counted(by="two")
    alone.ensure(0, 25)
    together.ensure(0, 25, workers=2)
    assert alone.folder != together.folder
    for path in alone.folder.iterdir():
        assert path.read_bytes() == (together.folder / path.name).read_bytes()
    assert "3 of 3 shards" in capsys.readouterr().err
    alone.ensure(0, 25)
    assert not capsys.readouterr().err, "what is there is not made again"


def test_a_cut_shard_is_made_again_and_a_flipped_one_is_found():
    kept = counted()
    kept.ensure(0, 25)
    first, second = sorted(kept.folder.iterdir())[:2]
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    shards._mapped.cache_clear()
    with pytest.warns(UserWarning, match="made again"):
        np.testing.assert_array_equal(kept.rows(np.arange(10)), counting(3, 0, 10))
    assert first.read_bytes() == whole
    assert kept.verify() == []
    flipped = bytearray(second.read_bytes())
    flipped[4] ^= 1
    second.write_bytes(flipped)
    assert kept.verify() == [1]
    np.testing.assert_array_equal(kept.rows(np.arange(10, 20)), counting(3, 10, 10))


def test_what_is_interrupted_leaves_nothing():
    def interrupted(path, target):
        raise KeyboardInterrupt

    kept = counted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kept.rows(np.array([0]))
    assert list(kept.folder.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_an_hour_later():
    kept = counted()
    kept.rows(np.array([0]))
    old, new = kept.folder / "old.part", kept.folder / "new.part"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    kept.rows(np.array([24]))
    assert sorted(path.name for path in kept.folder.iterdir()) == ["00000.rows", "00002.rows", "new.part"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_path_x_comes_through_kills_of_its_builder(cache):
    """10,000 images by two workers, the builder killed whenever three more shards are there; then one worker, undisturbed."""
    kept = Pathfinder(size=128).shards("train")
    program = "from tasks.pathfinder import Pathfinder; Pathfinder(size=128).shards('train').ensure(0, 10_000, workers=2)"

    def built():
        return len(list(kept.folder.glob("*.rows")))

    def digest():
        return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(kept.folder.glob("*.rows")))).hexdigest()

    for wanted in (3, 6, 9):
        builder = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
        while built() < wanted:
            assert builder.poll() is None
            time.sleep(0.05)
        builder.kill()
        builder.communicate(timeout=30)  # returns when its workers too have ended
        assert wanted <= built() < 10
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert built() == 10
    disturbed = digest()
    shutil.rmtree(kept.folder)
    kept.ensure(0, 10_000)
    assert digest() == disturbed


def test_rows_of_another_shape_are_refused():
    wrong = Shards("wrong", {}, 5, (4,), partial(counting, 3))
    with pytest.raises(ValueError, match=r"shard 0 of wrong: rows are \(5, 3\), \(5, 4\) are asked for"):
        wrong.rows(np.array([0]))


# The task


def test_batches_are_the_images_of_the_split():
    task = Pathfinder(contour=3)
    batch = task.batch("validation", 1, 4, seed=9)
    drawn, labels, _ = snakes.images(16, 0, 1, 4, 4, 3)
    assert batch.inputs.shape == (4, 256, 1)
    torch.testing.assert_close(batch.inputs[..., 0], torch.from_numpy(drawn / np.float32(255)))
    assert batch.targets.tolist() == labels.tolist()
    torch.testing.assert_close(task.batch("validation", 1, 4, seed=0).inputs, batch.inputs)
    train = task.batch("train", 2, 8, seed=1)
    torch.testing.assert_close(Pathfinder(contour=3).batch("train", 2, 8, seed=1).inputs, train.inputs)
    assert (task.batch("train", 2, 8, seed=2).inputs != train.inputs).any()


def test_the_distance_of_the_markers_is_told():
    batch = Pathfinder(contour=3).batch("test", 0, 100, 0)
    np.testing.assert_allclose(batch.slices["distance"], spans(snakes.images(16, 0, 2, 0, 100, 3)[2]), atol=0.5)


def test_shortcuts_say_little():
    """Brightness, lit pixels, the pixels as they are; the distance between the markers tells more, at 32 pixels little."""
    small, published = Pathfinder().baselines(), Pathfinder(size=32).baselines()
    assert small.pop("marker distance") == pytest.approx(0.59, abs=0.02)
    assert published.pop("marker distance") == pytest.approx(0.53, abs=0.03)
    for name, score in [*small.items(), *published.items()]:
        assert score == pytest.approx(0.5, abs=0.035), name


def test_shortcuts_find_what_is_planted():
    """A label that each rule can tell is told by that rule."""
    images = torch.rand(1000, 256, 1) ** 2
    for name, planted in {
        "brightness": images.mean((1, 2)) < 0.33,
        "lit pixels": (images > 8 / 255).float().mean((1, 2)) >= 0.83,
        "marker distance": torch.arange(1000) % 20 < 7,
        "linear in pixels": images[:, 3, 0] > images[:, 77, 0],
    }.items():
        batch = Batch(images, planted.long(), None, {"distance": torch.arange(1000) % 20})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pathfinder, "batch", lambda self, *place, batch=batch: batch)
            rule = Pathfinder().shortcuts()[name]
        assert (rule(batch) == batch.targets).float().mean() > 0.95, name


def test_each_pass_has_every_image_once_in_another_order():
    first, second = _shuffled(np.arange(2500), 2500, 0), _shuffled(np.arange(2500, 5000), 2500, 0)
    for numbers in (first, second):
        np.testing.assert_array_equal(np.sort(numbers), np.arange(2500))
    assert (first != second).any()
    assert len(set(first[:1000] // 1000)) == 1, "a short run touches one shard"


def test_prepare_makes_every_image_and_makes_damaged_ones_again(capsys, monkeypatch, cache):
    monkeypatch.setattr("tasks.pathfinder.COUNTS", (7, 2, 2))
    with pytest.raises(SystemExit) as left:
        main(["prepare", "pathfinder:contour=3,held_out=2"])
    assert not left.value.code
    made = {path: path.read_bytes() for path in cache.glob("*/*.rows")}
    assert sorted(len(content) for content in made.values()) == [rows * 258 + 32 for rows in (2, 2, 7)]
    assert "pathfinder16-train: 1 of 1 shards made" in capsys.readouterr().err
    damaged = min(made)
    damaged.write_bytes(b"x" + made[damaged][1:])
    shards._mapped.cache_clear()
    Pathfinder(contour=3, held_out=2).prepare(1)
    assert {path: path.read_bytes() for path in cache.glob("*/*.rows")} == made


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 20}, "size=20: 16, 32, 64, 128, 256 are the sizes there are"),
        ({"size": 16, "contour": 9}, "contour=9: 3 to 5 strokes fit at size=16; 0 takes the most"),
        ({"held_out": 30_000}, "held_out=30000: 1 to 20000 images are there"),
        ({"source": "web"}, "source=web: own, or lra:FOLDER of the published images"),
        ({"source": "lra:x"}, "contour=5: 6, 9 and 14 are published; source=own draws any"),
        ({"size": 32, "source": "lra:nowhere"}, "source=lra:nowhere: no curv_contour_length_14/metadata/"),
    ],
)
def test_errors_name_the_setting_and_the_way_out(settings, message):
    with pytest.raises(ValueError, match=message):
        Pathfinder(**settings)


def test_published_images_are_read_but_for_empty_files(tmp_path):
    root = tmp_path / "curv_contour_length_14"
    drawn, labels, _ = snakes.images(32, 0, 0, 0, 31, 6)
    (root / "imgs" / "0").mkdir(parents=True)
    (root / "metadata").mkdir()
    lines = []
    for i, (image, label) in enumerate(zip(drawn, labels, strict=True)):
        file = root / "imgs" / "0" / f"sample_{i}.png"
        Image.fromarray(image.reshape(32, 32)).save(file)
        lines.append(f"imgs/0 sample_{i}.png {i} {label} 1.0 14 4 2 0.5 1 1")
    (root / "imgs" / "0" / "sample_30.png").write_bytes(b"")
    (root / "metadata" / "0.npy").write_text("\n".join(lines[:20]) + "\n")
    np.save(root / "metadata" / "1.npy", np.array([line.split() for line in lines[20:]]))
    task = Pathfinder(size=32, source=f"lra:{tmp_path}")
    assert task.data
    assert task.held_out == 3
    seen = {}
    for batch in (task.batch("train", 0, 24, 0), task.batch("validation", 0, 3, 0), task.batch("test", 0, 3, 0)):
        for pixels, label in zip(batch.inputs, batch.targets, strict=True):
            seen[np.rint(pixels.numpy() * 255).astype(np.uint8).tobytes()] = int(label)
    assert seen == {image.tobytes(): label for image, label in zip(drawn[:-1], labels[:-1], strict=True)}
    with pytest.raises(ValueError, match="is 32x32; give its size"):
        Pathfinder(size=64, source=f"lra:{tmp_path}").batch("test", 0, 1, 0)

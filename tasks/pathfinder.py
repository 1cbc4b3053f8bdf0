"""Pathfinder, and at 128 pixels a side Path-X: do two discs lie on the ends of one dashed contour? Read pixel by pixel.

Linsley et al., arXiv:1805.08315; as sequences, "Long Range Arena", arXiv:2011.04006, sections 2.5 and 2.6. The pixels come in
raster order in 0 ... 1, so neighbours on a contour may lie a row apart: size 128 is 16,384 positions. There are 160,000 images to
train on and 20,000 each to validate and test on. `tasks/sources/snakes.py` draws them as the public generator does, when they are
first asked for, and shards under `$LAB_CACHE` or `~/.cache/sequence-lab` keep them; `lab prepare pathfinder:size=128 --workers 2`
makes them all at once. A seed decides their order, not the images.

The default of 16 pixels is a laptop's size and ours; 32, 64, 128 and 256 are published ones. The distance between the markers
alone answers 60 % at 16 pixels and 53 % at 32. A model learns nothing for long and then at once, and how long hangs on its norm
more than on anything else: try `norm=instance` before a score of chance is believed. docs/pathfinder.md compares the images with
those of the public generator.

python -m tasks.pathfinder docs/pathfinder.png      draws examples of each size
"""

import hashlib
import sys
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tasks.sources import snakes
from tasks.sources.shards import Shards
from tasks.task import SPLITS, Batch, Reference, Split, Task, Vectors, share_right

COUNTS = (160_000, 20_000, 20_000)
_CHUNK = 1000  # images of a shard, which are shuffled among themselves
_LINEAR = 32  # up to this size a linear rule is fitted to the pixels
_RIDGE = 10.0
_LIT = 8 / 255
_FOLDERS = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}


class Pathfinder(Task):
    """Do two discs mark the ends of one contour? Long Range Arena, arXiv:2011.04006, sections 2.5 and 2.6."""

    causal = False
    pooled = True
    image = True
    references = (
        Reference("Transformer", 0.714, "size=32", "Tay et al., arXiv:2011.04006, Table 1"),
        Reference("Performer", 0.7705, "size=32", "Tay et al., arXiv:2011.04006, Table 1"),
        Reference("BigBird", 0.7487, "size=32", "Tay et al., arXiv:2011.04006, Table 1"),
        Reference("S5", 0.9533, "size=32", "Smith et al., arXiv:2208.04933, Table 1"),
        Reference("S5", 0.9858, "size=128", "Smith et al., arXiv:2208.04933, Table 1"),
    )

    def __init__(
        self,
        *,
        size: Annotated[int, "pixels of a side: 16, 32, 64, 128 (Path-X) or 256"] = 16,
        contour: Annotated[int, "strokes of a target; 0 is the size's own: 5 at 16 pixels, 14 (hard) at the others"] = 0,
        held_out: Annotated[int, "images to validate on, and to test on, of the 20,000"] = 2000,
        source: Annotated[str, "own, or lra:FOLDER of the published images"] = "own",
    ) -> None:
        if size not in snakes.STYLES:
            raise ValueError(f"size={size}: {', '.join(map(str, snakes.STYLES))} are the sizes there are")
        self.contour = contour or snakes.STYLES[size].contour
        if not 3 <= self.contour <= snakes.STYLES[size].contour:
            raise ValueError(
                f"contour={contour}: 3 to {snakes.STYLES[size].contour} strokes fit at size={size}; 0 takes the most"
            )
        if not 1 <= held_out <= COUNTS[1]:
            raise ValueError(f"held_out={held_out}: 1 to {COUNTS[1]} images are there")
        self.size, self.held_out, self.source = size, held_out, source
        self.inputs, self.outputs, self.length, self.answers = Vectors(1), 2, size * size, 1
        if source != "own":
            if not source.startswith("lra:"):
                raise ValueError(f"source={source}: own, or lra:FOLDER of the published images")
            if self.contour not in _FOLDERS:
                raise ValueError(f"contour={self.contour}: 6, 9 and 14 are published; source=own draws any")
            self.data = _published(source.removeprefix("lra:"), self.contour)[1]
            self.held_out = min(held_out, len(self._members("validation")), len(self._members("test")))

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        places = np.arange(index * size, (index + 1) * size)
        count = self._count(split)
        numbers = _shuffled(places, count, seed) if split == "train" else places % min(self.held_out, count)
        rows = self._rows(split, numbers)
        images = rows[:, : self.length, None]
        slices = {"distance": torch.from_numpy(rows[:, -2].astype(np.int64))} if self.source == "own" else {}
        return Batch(
            torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(rows[:, -1].astype(np.int64)), None, slices
        )

    def baselines(self) -> dict[str, float]:
        return {"chance": 0.5, **self._scores}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return self._rules

    def buckets(self) -> dict[str, list[int]]:
        return {"distance": [0, *(eighths * self.size // 8 for eighths in (1, 2, 3, 4, 6))]} if self.source == "own" else {}

    def prepare(self, workers: int) -> None:
        """Images that were damaged since they were written are made again."""
        if self.source == "own":
            for split in SPLITS:
                kept = self.shards(split)
                kept.verify()
                kept.ensure(0, kept.count, workers)

    @cached_property
    def _rules(self) -> dict[str, Callable[[Batch], Tensor]]:
        """Fitted to the first thousand images that seed 0 trains on: those of one shard."""
        known = self.batch("train", 0, _CHUNK, 0)
        features = {"brightness": _brightness, "lit pixels": _lit}
        if "distance" in known.slices:
            features["marker distance"] = _distance
        rules = {name: partial(_cut, feature, *_fitted_cut(feature(known), known.targets)) for name, feature in features.items()}
        if self.size <= _LINEAR:
            rules["linear in pixels"] = partial(_linear, _ridge(known))
        return rules

    @cached_property
    def _scores(self) -> dict[str, float]:
        return {name: share_right(self, rule) for name, rule in self._rules.items()}

    def shards(self, split: Split) -> Shards:
        """The images of a split, each with two more bytes: the pixels between its markers, 255 at most, and its label."""
        number = SPLITS.index(split)
        decides = {"version": snakes.VERSION, "style": snakes.STYLES[self.size]}
        decides |= {"size": self.size, "contour": self.contour, "split": number, "seed": 0}
        name = f"pathfinder{self.size}-{split}"
        make = partial(_labelled, self.size, self.contour, number)
        return Shards(name, decides, COUNTS[number], (self.length + 2,), make, _CHUNK)

    def _count(self, split: Split) -> int:
        return COUNTS[SPLITS.index(split)] if self.source == "own" else len(self._members(split))

    def _rows(self, split: Split, numbers: np.ndarray) -> np.ndarray:
        if self.source == "own":
            return self.shards(split).rows(numbers)
        members = self._members(split)
        return np.stack([_decoded(path, label, self.size) for path, label in (members[number] for number in numbers)])

    def _members(self, split: Split) -> list[tuple[Path, int]]:
        """Eight, one and one tenths of the published images, in the order of their hashes."""
        images = _published(self.source.removeprefix("lra:"), self.contour)[0]
        tenth, number = len(images) // 10, SPLITS.index(split)
        return [images[2 * tenth :], images[:tenth], images[tenth : 2 * tenth]][number]


def _labelled(size: int, contour: int, split: int, first: int, count: int) -> np.ndarray:
    """Images of a split, the distances of their markers, and their labels, uint8 (count, pixels + 2)."""
    drawn, labels, made = snakes.images(size, 0, split, first, count, contour)
    apart = np.diff(made["markers"].astype(np.float64), axis=1)[:, 0]
    distances = np.minimum(np.rint(np.hypot(*apart.T)), 255).astype(np.uint8)
    return np.column_stack([drawn, distances, labels])


def _shuffled(places: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The numbers of the images at these places of the training order: each pass has every image once.

    Chunks are shuffled, and the images in each; as images are independent of each other, a short run touches few chunks.
    """
    numbers = np.empty_like(places)
    for i, place in enumerate(places.tolist()):
        epoch, within = divmod(place, count)
        rank, offset = divmod(within, _CHUNK)
        whole = count // _CHUNK
        if rank == whole:  # what is left over comes last
            numbers[i] = rank * _CHUNK + _order(seed, epoch, rank, count % _CHUNK)[offset]
        else:
            chunk = _order(seed, epoch, -1, whole)[rank]
            numbers[i] = chunk * _CHUNK + _order(seed, epoch, rank, _CHUNK)[offset]
    return numbers


@cache
def _order(seed: int, epoch: int, rank: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, rank + 1)).permutation(count)


def _brightness(batch: Batch) -> Float[Tensor, "size"]:
    return batch.inputs.mean((1, 2))


def _lit(batch: Batch) -> Float[Tensor, "size"]:
    return (batch.inputs > _LIT).float().mean((1, 2))


def _distance(batch: Batch) -> Float[Tensor, "size"]:
    return batch.slices["distance"].float()


def _cut(feature: Callable[[Batch], Tensor], least: float, above: bool, batch: Batch) -> Bool[Tensor, "size"]:
    return (feature(batch) >= least) == above


def _fitted_cut(values: Float[Tensor, "size"], labels: Int[Tensor, "size"]) -> tuple[float, bool]:
    """The threshold, and whether label 1 lies above it, with the most right answers."""
    cuts = values.unique()
    right = ((values >= cuts[:, None]) == (labels == 1)).float().mean(1)
    best = int((right - 0.5).abs().argmax())
    return float(cuts[best]), bool(right[best] > 0.5)


def _linear(weights: Float[Tensor, "pixels_and_one"], batch: Batch) -> Bool[Tensor, "size"]:
    return batch.inputs[..., 0] @ weights[:-1] + weights[-1] > 0


def _ridge(known: Batch) -> Float[Tensor, "pixels_and_one"]:
    """Weights of the pixels and a constant, by ridge regression of +1 for label 1 and -1 for label 0."""
    table = torch.cat([known.inputs[..., 0], torch.ones(len(known.targets), 1)], 1)
    gram = table.T @ table + _RIDGE * torch.eye(table.shape[1])
    return torch.linalg.solve(gram, table.T @ (2.0 * known.targets - 1))


@cache
def _published(folder: str, contour: int) -> tuple[list[tuple[Path, int]], str]:
    """Files and labels of the published images in the order of their hashes, and the hash of all; empty files are left out.

    Lines of `metadata/*.npy` are text or, by later generators, rows of an array: folder, file, number, label, settings.
    """
    root = Path(folder) / _FOLDERS[contour]
    lists = sorted((root / "metadata").glob("*.npy"))
    if not lists:
        raise ValueError(f"source=lra:{folder}: no {_FOLDERS[contour]}/metadata/*.npy there; unpack the published archive there")
    rows = [row for path in lists for row in _listed(path)]
    for row in rows:
        if len(row) < 4 or not (root / row[0] / row[1]).resolve().is_relative_to(root.resolve()):
            raise ValueError(f"source=lra:{folder}: the line {' '.join(row)[:80]!r} of its metadata names no file below it")
    labels = {f"{row[0]}/{row[1]}": int(row[3]) for row in rows}
    names = sorted(labels, key=lambda name: hashlib.sha256(name.encode()).digest())
    names = [name for name in names if (root / name).stat().st_size]
    digest = hashlib.sha256("".join(f"{name} {labels[name]}\n" for name in names).encode()).hexdigest()
    return [(root / name, labels[name]) for name in names], digest


def _listed(path: Path) -> list[list[str]]:
    if path.read_bytes()[:6] == b"\x93NUMPY":
        return [[str(value) for value in row] for row in np.load(path)]
    return [line.split() for line in path.read_text().splitlines()]


def _decoded(path: Path, label: int, size: int) -> np.ndarray:
    """Pixels in raster order, then the label."""
    try:
        from PIL import Image  # only the published images need it
    except ImportError:
        raise ValueError("source=lra: reading PNG files needs Pillow; pip install pillow") from None
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"), np.uint8)
    if pixels.shape != (size, size):
        raise ValueError(f"size={size}: {path} is {pixels.shape[0]}x{pixels.shape[1]}; give its size")
    return np.append(pixels.ravel(), np.uint8(label))


def gallery(path: str) -> None:
    """Draw examples of every size, four in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # only the picture needs it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(snakes.STYLES), 4)
    for size, axes in zip(snakes.STYLES, rows, strict=True):
        drawn, labels, _ = snakes.images(size, 0, 0, 0, len(axes))
        for image, label, axis in zip(drawn, labels, axes, strict=True):
            axis.imshow(image.reshape(size, size), cmap="gray", interpolation="nearest")
            axis.set_title(f"{size} x {size}: {'same' if label else 'different'}", fontsize=8)
            axis.set_axis_off()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    gallery(sys.argv[1])

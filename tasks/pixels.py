"""Images as sequences of pixels: read them one by one, in rows or shuffled, and name the class.

    pixels:dataset=mnist,order=bit_reversed        784 grey values in an order that tears neighbours apart, then: 7

Sequential and permuted MNIST (Le, Jaitly & Hinton, arXiv:1504.00941, section 4.2) and sequential CIFAR-10 in grey, which is the
image task of the Long Range Arena (Tay et al., arXiv:2011.04006, section 2.2.4), or in colour. Orders: `raster`; `permuted`, one
random permutation that others have used (NumPy's RandomState with seed 92916); `bit_reversed`, the order of pixel numbers read
from their last bit, which S4 and its kin report as permuted MNIST. Values are shares of full brightness; CIFAR-10's are also
centred and scaled by (122.6, 61)/255 in grey, (.4914, .4822, .4465) and (.247, .243, .261) in colour. Not causal: the answer is
read from the mean over all positions.

`mnist` and `cifar10` come from the Hugging Face hub at pinned commits (optional package `datasets`). `digits`, the default,
is scikit-learn's 1,797 images of 8x8 pixels, on every machine and small enough for a laptop. `path=` is a folder of square
pictures of one size, in a folder for each class; these may stand in folders `train` and `test`. Where there is no test set,
a fifth is held out, and in any case a tenth of what is left validates; which images, their SHA-256 says, so that equal images
stay together. A validation set smaller than the test set is read round again.

Baseline `bag of pixels`: the nearest class mean of the sorted pixel values, which is all that is left without their order.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tasks.sources.corpus import column, hub, share
from tasks.sources.long_range_arena import published
from tasks.task import SPLITS, Batch, Reference, Split, Task, Vectors, random, share_right

HUB = {  # pinned source, columns of images and labels
    "mnist": ("ylecun/mnist@77f3279092a1c1579b2250db8eafed0ad422088c", "image", "label"),
    "cifar10": ("uoft-cs/cifar10@0b2714987fa478483af9968de7c934580d0bb9a2", "img", "label"),
}
SEED = 92916
PIXELS = "Gu et al., arXiv:2111.00396, table of pixel-level classification"
SHADES = " .:-=+*#%@"
Part = tuple[np.ndarray, np.ndarray]
"""Pixels and labels."""


@dataclass(frozen=True)
class Images:
    """Pixels (count, length, channels) and labels (count) of each split, the names of the classes, and the hash of it all."""

    pixels: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: tuple[str, ...]
    data: str


class Pixels(Task):
    """Classify images from their pixels as a sequence: sequential and permuted MNIST, sequential CIFAR-10, or your own."""

    causal = False
    pooled = True
    image = True
    references = (
        *(Reference(name, score, "dataset=mnist", PIXELS) for name, score in (("LSSL", 0.9953), ("S4", 0.9963))),
        *(
            Reference(name, score, "dataset=mnist", PIXELS)
            for name, score in (("Transformer", 0.989), ("LSTM", 0.988), ("GRU", 0.991))
        ),
        Reference("S5", 0.9965, "dataset=mnist", "Smith et al., arXiv:2208.04933, table of pixel-level classification"),
        *(
            Reference(name, score, "dataset=mnist,order=bit_reversed", PIXELS)
            for name, score in (("LSSL", 0.9876), ("S4", 0.9870))
        ),
        *(
            Reference(name, score, "dataset=mnist,order=permuted", f"{PIXELS}; another random permutation")
            for name, score in (("Transformer", 0.979), ("LSTM", 0.929), ("GRU", 0.941))
        ),
        *(
            Reference(name, score, "dataset=cifar10,colour=true", PIXELS)
            for name, score in (("Transformer", 0.622), ("LSSL", 0.8465))
        ),
        Reference(
            "S5", 0.901, "dataset=cifar10,colour=true", "Smith et al., arXiv:2208.04933, table of pixel-level classification"
        ),
        *published("image", "dataset=cifar10"),
    )

    def __init__(
        self,
        *,
        dataset: Annotated[Literal["digits", "mnist", "cifar10", "path"] | None, "none given: path or digits"] = None,
        path: Annotated[str | None, "a folder with a folder of pictures for each class"] = None,
        colour: Annotated[bool, "red, green and blue of each pixel, not its grey"] = False,
        order: Annotated[Literal["raster", "permuted", "bit_reversed"], "in which pixels are read"] = "raster",
    ) -> None:
        dataset = dataset or ("digits" if path is None else "path")
        if (dataset == "path") != (path is not None):
            raise ValueError(f"path={path} with dataset={dataset}: a path goes with dataset=path, or none")
        if colour and dataset in ("digits", "mnist"):
            raise ValueError(f"colour=true with dataset={dataset}: its images are grey")
        self._images = _load(dataset, path, colour)
        self.data, self.held_out = self._images.data, len(self._images.labels["test"])
        self.length, channels = self._images.pixels["train"].shape[1:]
        self.inputs, self.outputs, self.answers = Vectors(channels), len(self._images.classes), 1
        self.mean, self.deviation = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        if dataset == "cifar10":
            mean, deviation = ([0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]) if colour else ([122.6 / 255], [61 / 255])
            self.mean, self.deviation = np.array(mean, np.float32), np.array(deviation, np.float32)
        self.order = _order(order, self.length)

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        pixels, labels = self._images.pixels[split], self._images.labels[split]
        if split == "train":
            chosen = random(split, index, seed).integers(0, len(labels), size)
        else:
            chosen = np.arange(index * size, (index + 1) * size) % len(labels)
        return Batch(torch.from_numpy(self._scaled(pixels[chosen][:, self.order])), torch.from_numpy(labels[chosen]))

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        return (pixels * np.float32(1 / 255) - self.mean) / self.deviation

    def baselines(self) -> dict[str, float]:
        return {"chance": 1 / self.outputs, "bag of pixels": self._bag_score}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return {"bag of pixels": self._bag}

    @cached_property
    def _bag_score(self) -> float:
        return share_right(self, self._bag)

    @cached_property
    def _bags(self) -> Tensor:
        """The mean over each class's training images of their sorted values."""
        labels = self._images.labels["train"]
        ordered = np.sort(self._images.pixels["train"], 1)
        means = [ordered[labels == label].mean(0, dtype=np.float32) for label in range(self.outputs)]
        return torch.from_numpy(self._scaled(np.stack(means)))

    def _bag(self, batch: Batch) -> Int[Tensor, "size"]:
        return torch.cdist(batch.inputs.sort(1).values.flatten(1), self._bags.flatten(1)).argmin(1)

    def classes(self) -> tuple[str, ...]:
        return self._images.classes

    def example(self, batch: Batch, row: int) -> str:
        grey = (batch.inputs[row].numpy() * self.deviation + self.mean).mean(1)
        side = int(len(grey) ** 0.5)
        shades = np.array(list(SHADES))[(grey.clip(0, 1) * (len(SHADES) - 1)).round().astype(int)]
        lines = ["".join(line) for line in shades.reshape(side, side)]
        return "\n".join([*lines, f"[{self.classes()[int(batch.targets[row])]}]"])


@cache
def _load(dataset: str, path: str | None, colour: bool) -> Images:
    """Every split of a data set.

    Raises:
        ValueError: it cannot be read, or leaves no picture of some class to train on, or none to score.
    """
    if dataset == "digits":
        train, test, classes = _digits(), None, tuple("0123456789")
    elif path is not None:
        train, test, classes = _folder(Path(path), colour)
    else:
        train, test, classes = _hub(*HUB[dataset], colour)
    if test is None:
        test, train = _parted(train, 0.0, 0.2)
        validation, train = _parted(train, 0.2, 0.28)
    else:
        validation, train = _parted(train, 0.0, 0.1)
    if not len(validation[1]) or not len(test[1]) or len(set(train[1].tolist())) < len(classes):
        raise ValueError(f"path={path}: too few different pictures for a training, a validation and a test set of all classes")
    parts, digest = {"train": train, "validation": validation, "test": test}, hashlib.sha256()
    for split in SPLITS:
        pixels, labels = parts[split]
        digest.update(len(labels).to_bytes(8, "little") + pixels.tobytes() + labels.astype("<i8").tobytes())
    pixels, labels = ({split: part[i] for split, part in parts.items()} for i in (0, 1))
    return Images(pixels, labels, classes, digest.hexdigest())


def _parted(part: Part, start: float, end: float) -> tuple[Part, Part]:
    """The images whose hash lies in a range of all hashes, written as 0 ... 1, and the others."""
    inside = np.array([start <= share(image.tobytes()) < end for image in part[0]], bool)
    return (part[0][inside], part[1][inside]), (part[0][~inside], part[1][~inside])


def _digits() -> Part:
    from sklearn.datasets import load_digits  # one second to import, and only this needs it

    raw, named = load_digits(return_X_y=True)
    return (np.asarray(raw) * 255 / 16).round().astype(np.uint8)[:, :, None], np.asarray(named, np.int64)


def _hub(source: str, image: str, label: str, colour: bool) -> tuple[Part, Part, tuple[str, ...]]:
    splits = hub(source)
    train, test = (
        (_pixels(column(part, image, source), colour), np.array(column(part, label, source), np.int64))
        for part in (splits["train"], splits["test"])
    )
    return train, test, tuple(splits["train"].features[label].names)


def _folder(root: Path, colour: bool) -> tuple[Part, Part | None, tuple[str, ...]]:
    """Pictures and labels of the folder's `train` and `test`, or of all of it and None, and the names of the classes.

    Raises:
        ValueError: there are not two classes or more, or a file there is no picture of the size of the others.
    """
    whole = not ((root / "train").is_dir() and (root / "test").is_dir())
    top = root if whole else root / "test"
    classes = tuple(sorted(each.name for each in top.iterdir() if each.is_dir())) if top.is_dir() else ()
    if len(classes) < 2:
        raise ValueError(f"path={root}: {top} needs a folder of pictures for each of two classes or more, and has {len(classes)}")
    try:
        if whole:
            return _classes(root, classes, colour), None, classes
        return _classes(root / "train", classes, colour), _classes(top, classes, colour), classes
    except (OSError, ValueError) as error:
        raise ValueError(f"path={root}: {error}") from None


def _classes(root: Path, classes: tuple[str, ...], colour: bool) -> Part:
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((root / name).glob("[!.]*"))]
    return _pixels(_opened(file for file, _ in files), colour), np.array([label for _, label in files], np.int64)


def _opened(files: Iterable[Path]) -> Iterator[Any]:
    from PIL import Image

    for file in files:
        with Image.open(file) as picture:
            yield picture


def _pixels(pictures: Iterable[Any], colour: bool) -> np.ndarray:
    """Pixels in rows, (count, side^2, 3 or 1).

    Raises:
        ValueError: the pictures are not square and of one size.
    """
    read = [np.asarray(picture.convert("RGB" if colour else "L")) for picture in pictures]
    sizes = {each.shape[:2] for each in read}
    if len(sizes) != 1 or len(set(next(iter(sizes)))) != 1:
        raise ValueError(f"pictures of one square size are needed, not {', '.join(f'{w}x{h}' for h, w in sorted(sizes)[:4])}")
    return np.stack(read).reshape(len(read), -1, 3 if colour else 1)


def _order(order: str, length: int) -> np.ndarray:
    if order == "permuted":
        return np.random.RandomState(SEED).permutation(length)
    if order == "bit_reversed":
        bits = (length - 1).bit_length()
        numbers = np.array([int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits)])
        return numbers[numbers < length]
    return np.arange(length)

"""Handwritten digits as a sequence of pixels: read 64 grey values in raster order, name the digit.

scikit-learn's bundled `load_digits`: 1,797 images of 8x8 pixels with 17 grey levels (UCI, Alpaydin & Kaynak 1998, CC BY 4.0).
It is not causal: the answer is read from the mean over the whole sequence. Real but small, so its scores carry the sampling
error of 360 test images (2 points at 95 %).
"""

import hashlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from tasks.task import SPLITS, Batch, Split, Task, Vectors, random, share_right


class Digits(Task):
    """Classify handwritten digits from their pixels in raster order. scikit-learn's load_digits."""

    causal = False
    pooled = True
    image = True
    held_out = 360

    def __init__(self) -> None:
        self.inputs, self.outputs, self.length, self.answers = Vectors(1), 10, 64, 1
        self.data = _load()[2]

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        images, labels, _ = _load()
        mine = _members()[SPLITS.index(split)]
        if split == "train":
            chosen = random(split, index, seed).choice(mine, size)
        else:
            chosen = mine[np.arange(index * size, (index + 1) * size) % len(mine)]
        return Batch(torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]))

    def baselines(self) -> dict[str, float]:
        return {"chance": 0.1, "bag of pixels": share_right(self, self._bag)}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return {"bag of pixels": self._bag}

    def _bag(self, batch: Batch) -> Tensor:
        """The digit whose training images have, in the mean, the nearest counts of each grey level, wherever they stand."""
        images, labels, _ = _load()
        known, named = _levels(torch.from_numpy(images)[_members()[0]]), torch.from_numpy(labels)[_members()[0]]
        means = torch.stack([known[named == digit].mean(0) for digit in range(10)])
        return torch.cdist(_levels(batch.inputs), means).argmin(1)


def _levels(images: Tensor) -> Tensor:
    """How often each of the 17 grey levels occurs in an image."""
    return torch.nn.functional.one_hot((8 * images[:, :, 0] + 8).long(), 17).float().sum(1)


@cache
def _load() -> tuple[np.ndarray, np.ndarray, str]:
    """Pixels (1797, 64, 1) in -1 ... 1, labels, and the hash of both."""
    from sklearn.datasets import load_digits  # one second to import, and only this task needs it

    raw, named = load_digits(return_X_y=True)
    pixels, labels = np.asarray(raw, np.float32), np.asarray(named, np.int64)
    digest = hashlib.sha256(pixels.astype("<f4").tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    return pixels[:, :, None] / 8 - 1, labels, digest


@cache
def _members() -> list[np.ndarray]:
    """Row numbers of each split: images in the order of their hash, 1,257 train, 180 validation, 360 test."""
    pixels = _load()[0]
    order = np.array(sorted(range(len(pixels)), key=lambda i: hashlib.sha256(pixels[i].tobytes()).digest()))
    return [order[540:], order[:180], order[180:540]]

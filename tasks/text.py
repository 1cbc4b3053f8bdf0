"""Byte-level language modelling: predict every next byte of real text, in bits a byte.

By default the text is the source of the installed Python's standard library without its tests, about 11 MB on every machine;
`path=` is any file, or a folder read recursively. Whole documents go to train, validation or test in the order of their
SHA-256 (90, 5 and 5 % of the bytes), after near duplicates are dropped; few large documents are first cut into pieces at line
ends. The hash of the three splits is the run's data hash: scores compare only where it agrees.

Baseline: an interpolated n-gram model of order 3 (a byte given the two before it; Jelinek & Mercer 1980, weights by Witten &
Bell 1991) counted on the whole training split, scored on the same test bytes as the models.
"""

import hashlib
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from tasks.task import SPLITS, Batch, Split, Task, Tokens, random

PIECES = 200  # fewer documents than this are cut into about as many pieces, so that 5 % can be held out
LONG = 24  # bytes from which on a line is telling: two documents that share many of these are near duplicates


class Text(Task):
    """Byte-level language modelling on real text, in bits per byte. The standard library's source, or your own."""

    metric = "bits_per_byte"
    held_out = 256

    def __init__(
        self,
        *,
        path: Annotated[str | None, "a file or folder of text; none given: Python's standard library"] = None,
        length: Annotated[int, "bytes of context"] = 256,
    ) -> None:
        if length < 1:
            raise ValueError(f"length={length}: at least one byte of context is needed")
        self.path, self.length = path, length
        self.inputs, self.outputs, self.answers = Tokens(256), 256, length
        splits, self.data = _splits(path)
        self._bytes = splits
        shortest = min(map(len, splits))
        if shortest < length + 1:
            raise ValueError(
                f"path={path}: too little distinct text: the smallest split has {shortest} bytes, length={length} is asked for"
            )

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        text = self._bytes[SPLITS.index(split)]
        last = len(text) - self.length - 1
        if split == "train":
            starts = random(split, index, seed).integers(0, last + 1, size)
        else:  # evenly spread over the whole split, whatever the batch size
            wanted = np.arange(index * size, (index + 1) * size) % self.held_out
            starts = wanted * last // max(self.held_out - 1, 1)
        window = torch.from_numpy(text[starts[:, None] + np.arange(self.length + 1)].astype(np.int64))
        return Batch(window[:, :-1], window[:, 1:])

    def baselines(self) -> dict[str, float]:
        return {"chance": 8.0, "order-3 n-gram": _ngram_bits(self.path, self.length, self.held_out)}

    def harder(self) -> dict[str, Task]:
        longer = Text(path=self.path, length=4 * self.length) if 4 * self.length < min(map(len, self._bytes)) else None
        return {} if longer is None else {f"length={longer.length}": longer}


@cache
def _splits(path: str | None) -> tuple[tuple[np.ndarray, ...], str]:
    """The bytes of train, validation and test, and the hash over all three."""
    documents = sorted(_documents(path), key=lambda text: hashlib.sha256(text).digest())
    total = sum(map(len, documents))
    parts: dict[str, list[bytes]] = {"test": [], "validation": [], "train": []}
    filled = 0
    for text in documents:
        share = filled / total
        parts["test" if share < 0.05 else "validation" if share < 0.1 else "train"].append(text)
        filled += len(text)
    known: set[bytes] = set()
    digest, splits = hashlib.sha256(), []
    for split in SPLITS:
        kept = np.frombuffer(b"\n".join(_without_near_duplicates(parts[split], known)), np.uint8)
        splits.append(kept)
        digest.update(len(kept).to_bytes(8, "little") + kept.tobytes())
    return tuple(splits), digest.hexdigest()


def _documents(path: str | None) -> list[bytes]:
    """Every distinct document.

    Raises:
        ValueError: nothing is there, it is empty, or it is not text.
    """
    if path is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__"}
        files = [file for file in sorted(root.rglob("*.py")) if not skipped & set(file.relative_to(root).parts)]
    elif Path(path).is_dir():
        files = [file for file in sorted(Path(path).rglob("*")) if file.is_file() and not _hidden(file, Path(path))]
    elif Path(path).is_file():
        files = [Path(path)]
    else:
        raise ValueError(f"path={path}: no such file or folder")
    texts = {text for text in (file.read_bytes() for file in files) if text.strip()}
    if path is not None and Path(path).is_dir():
        texts = {text for text in texts if b"\0" not in text}
    if not texts:
        raise ValueError(f"path={path}: no text in it")
    if any(b"\0" in text for text in texts):
        raise ValueError(f"path={path}: a binary file (it has NUL bytes); give a text file, or a folder of them")
    if len(texts) >= PIECES:
        return list(texts)
    piece = max(sum(map(len, texts)) // PIECES, 1)
    return [part for text in sorted(texts) for part in _pieces(text, piece)]


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _pieces(text: bytes, size: int) -> Iterable[bytes]:
    """Consecutive pieces of at least `size` bytes that end at a line's end, or after twice the size in a line without one."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + size, start + 2 * size) + 1 or min(start + 2 * size, len(text))
        yield text[start:end]
        start = end


def _without_near_duplicates(documents: list[bytes], known: set[bytes]) -> Iterable[bytes]:
    """The documents of which less than half of the long lines are in earlier ones; `known` is added to."""
    for text in documents:
        lines = {line for line in map(bytes.strip, text.split(b"\n")) if len(line) >= LONG}
        if 2 * len(lines & known) <= len(lines):
            known |= lines
            yield text


@cache
def _ngram_bits(path: str | None, length: int, held_out: int) -> float:
    """Bits a byte of the order-3 model on the test windows, each byte predicted from inside its window as the models do."""
    train = _splits(path)[0][0].astype(np.int32)
    task = Text(path=path, length=length)
    window = task.batch("test", 0, held_out, 0)
    rows = torch.cat([window.inputs, window.targets[:, -1:]], 1).numpy()
    target = rows[:, 1:]
    probability = np.full(target.shape, 1 / 256)
    for order in (0, 1, 2):
        context = np.zeros(len(train) - order, np.int64)
        asked = np.zeros(target.shape, np.int64)
        for back in range(1, order + 1):
            context = context * 256 + train[order - back : len(train) - back]
            asked[:, order - 1 :] = asked[:, order - 1 :] * 256 + rows[:, order - back : rows.shape[1] - back]
        joint = np.bincount(context * 256 + train[order:], minlength=256 ** (order + 1)).reshape(-1, 256)
        seen, kinds = joint.sum(1), (joint > 0).sum(1)
        weight = np.divide(seen, seen + kinds, where=seen > 0, out=np.zeros(len(seen)))[asked]
        count, all_seen = joint[asked, target], np.maximum(seen[asked], 1)
        interpolated = weight * count / all_seen + (1 - weight) * probability
        usable = np.arange(target.shape[1]) >= order - 1  # the first bytes of a window have a shorter past
        probability = np.where(usable, interpolated, probability)
    return float(-np.log2(probability).mean())

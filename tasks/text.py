"""Byte-level language modelling: predict every next byte of real text, in bits a byte.

    text:corpus=docs,length=512        reads 512 bytes of a text, and after each of them names the next

`corpus=stdlib` is the source of the installed Python's standard library without its tests, about 11 MB on every machine;
`docs` is English about it: the docstrings of the standard library and the topics of `help()`, 2 MB; `path=` is any file, or a
folder read recursively; `hub:OWNER/NAME@COMMIT` is the column `text` of a data set of the Hugging Face hub (optional package
`datasets`). Documents are joined by a newline, and windows of `length + 1` bytes are cut from the whole: they cross the
borders of documents, and nothing is reset there. Training windows start anywhere; the held-out ones are evenly spread over
their split and always the same.

Whole documents go to train, validation or test in the order of their SHA-256 (90, 5 and 5 % of the bytes), after near
duplicates are dropped; few large documents are first cut into pieces at line ends. A data set of the hub that has all three
splits keeps them, in its order. The hash of the three splits is the run's data hash: scores compare only where it agrees.

Scores by slice: `position` counts the bytes read so far; `copied` is 1 where the byte ends a run of 4 bytes that is already
in the context, and `distance` says how far back its latest copy ends (0 where there is none). After Arora et al., "Zoology",
arXiv:2312.04927, section 3, who split by repeated pairs of words; 4 is the shortest run for bytes of which that is telling:
on `stdlib` what followed the latest copy of the last 1, 2, 3, 4 and 7 bytes is right 34, 61, 74, 77 and 77 times of 100.

Baseline: an interpolated n-gram model of order 3 (a byte given the two before it; Jelinek & Mercer 1980, weights by Witten &
Bell 1991) counted on the whole training split, scored on the same test bytes as the models.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Integer

from tasks.sources.corpus import (
    column,
    documentation,
    hub,
    in_order_of_hash,
    library_files,
    local_files,
    texts_of,
    without_near_duplicates,
)
from tasks.sources.repeats import back
from tasks.task import SPLITS, Batch, Split, Task, Tokens, random

PIECES = 200  # fewer documents than this are cut into about as many pieces, so that 5 % can be held out
COPIED = 4  # bytes of the shortest copy


class Text(Task):
    """Byte-level language modelling on real text, in bits per byte. The standard library's source, or your own."""

    metric = "bits_per_byte"
    held_out = 256

    def __init__(
        self,
        *,
        path: Annotated[str | None, "a file or folder of text; none given: Python's standard library"] = None,
        corpus: Annotated[str | None, "stdlib, docs, path or hub:OWNER/NAME@COMMIT; none given: path or stdlib"] = None,
        length: Annotated[int, "bytes of context"] = 256,
    ) -> None:
        if length < 1:
            raise ValueError(f"length={length}: at least one byte of context is needed")
        self.path, self.corpus, self.length = path, corpus, length
        self.inputs, self.outputs, self.answers = Tokens(256), 256, length
        splits, self.data = _splits(path, corpus)
        self._bytes = splits
        shortest = min(map(len, splits))
        if shortest < length + 1:
            where = f"path={path}" if path is not None else f"corpus={corpus or 'stdlib'}"
            raise ValueError(
                f"{where}: too little distinct text: the smallest split has {shortest} bytes, length={length} is asked for"
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
        slices = {} if split == "train" else {name: torch.from_numpy(found) for name, found in _slices(window.numpy()).items()}
        return Batch(window[:, :-1], window[:, 1:], slices=slices)

    def sequence(self, split: Split) -> Integer[np.ndarray, " symbols"]:
        return self._bytes[SPLITS.index(split)]

    def baselines(self) -> dict[str, float]:
        return {"chance": 8.0, "order-3 n-gram": _ngram_bits(self.path, self.length, self.held_out, self.corpus)}

    def harder(self) -> dict[str, Task]:
        if 4 * self.length >= min(map(len, self._bytes)):
            return {}
        longer = Text(path=self.path, corpus=self.corpus, length=4 * self.length)
        return {f"length={longer.length}": longer}

    def buckets(self) -> dict[str, list[int]]:
        powers = [2**k for k in range(self.length.bit_length())]
        return {"position": powers, "copied": [0, 1], "distance": [0, *powers]}

    def example(self, batch: Batch, row: int) -> str:
        return (
            f"{bytes(batch.inputs[row].tolist())!r}, then [{bytes(batch.targets[row, -1:].tolist())!r}]; asked after every byte"
        )


def _slices(window: np.ndarray) -> dict[str, np.ndarray]:
    """For every byte of each window but its first, which is never asked: the bytes before it, and its latest copy."""
    ends = np.arange(1, window.shape[1])
    count = max(window.shape[1] - COPIED + 1, 0)
    runs = np.sum([window[:, i : i + count] << 8 * i for i in range(COPIED)], axis=0)
    distance = np.zeros((len(window), len(ends)), np.int64)
    distance[:, COPIED - 2 :] = back(runs)
    position = np.broadcast_to(ends, distance.shape).copy()
    return {"position": position, "copied": (distance > 0).astype(np.int64), "distance": distance}


@cache
def _splits(path: str | None, corpus: str | None = None) -> tuple[tuple[np.ndarray, ...], str]:
    """The bytes of train, validation and test, and the hash over all three."""
    parts = _published(corpus.removeprefix("hub:")) if corpus and corpus.startswith("hub:") else {}
    if parts.keys() != set(SPLITS):
        parts = _divided(in_order_of_hash(_documents(path, corpus, [text for part in parts.values() for text in part])))
    digest, splits = hashlib.sha256(), []
    for split in SPLITS:
        kept = np.frombuffer(b"\n".join(parts[split]), np.uint8)
        splits.append(kept)
        digest.update(len(kept).to_bytes(8, "little") + kept.tobytes())
    return tuple(splits), digest.hexdigest()


def _published(source: str) -> dict[str, list[bytes]]:
    """The texts of each split that a data set of the hub has."""
    return {name: [text.encode() for text in column(split, "text", source)] for name, split in hub(source).items()}


def _divided(documents: list[bytes]) -> dict[str, list[bytes]]:
    """The documents of each split, without those that are near duplicates of others."""
    total = sum(map(len, documents))
    parts: dict[str, list[bytes]] = {"test": [], "validation": [], "train": []}
    filled = 0
    for text in documents:
        share = filled / total
        parts["test" if share < 0.05 else "validation" if share < 0.1 else "train"].append(text)
        filled += len(text)
    known: set[bytes] = set()
    return {split: list(without_near_duplicates(parts[split], known)) for split in SPLITS}


def _documents(path: str | None, corpus: str | None, rows: list[bytes]) -> list[bytes]:
    """Every distinct document; `rows` are those of a data set of the hub.

    Raises:
        ValueError: there is no such corpus, it is empty, or it is not text.
    """
    if (corpus == "path" and path is None) or (path is not None and corpus not in (None, "path")):
        raise ValueError(f"path={path} with corpus={corpus}: a path goes with corpus=path, or none")
    if path is not None:
        texts = texts_of(local_files(path), path)
    elif rows:
        texts = {text for text in rows if text.strip()}
    elif corpus == "docs":
        texts = set(documentation())
    elif corpus in (None, "stdlib"):
        texts = texts_of(library_files())
    else:
        raise ValueError(f"corpus={corpus}: no such text; there are stdlib, docs, path and hub:OWNER/NAME@COMMIT")
    if len(texts) >= PIECES:
        return list(texts)
    piece = max(sum(map(len, texts)) // PIECES, 1)
    return [part for text in sorted(texts) for part in _pieces(text, piece)]


def _pieces(text: bytes, size: int) -> Iterable[bytes]:
    """Consecutive pieces of at least `size` bytes that end at a line's end, or after twice the size in a line without one."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + size, start + 2 * size) + 1 or min(start + 2 * size, len(text))
        yield text[start:end]
        start = end


@cache
def _ngram_bits(path: str | None, length: int, held_out: int, corpus: str | None = None) -> float:
    """Bits a byte of the order-3 model on the test windows, each byte predicted from inside its window as the models do."""
    train = _splits(path, corpus)[0][0].astype(np.int32)
    task = Text(path=path, corpus=corpus, length=length)
    window = task.batch("test", 0, held_out, 0)
    rows = torch.cat([window.inputs, window.targets[:, -1:]], 1).numpy()
    target = rows[:, 1:]
    probability = np.full(target.shape, 1 / 256)
    for order in (0, 1, 2):
        context = np.zeros(len(train) - order, np.int64)
        asked = np.zeros(target.shape, np.int64)
        for ago in range(1, order + 1):
            context = context * 256 + train[order - ago : len(train) - ago]
            asked[:, order - 1 :] = asked[:, order - 1 :] * 256 + rows[:, order - ago : rows.shape[1] - ago]
        joint = np.bincount(context * 256 + train[order:], minlength=256 ** (order + 1)).reshape(-1, 256)
        seen, kinds = joint.sum(1), (joint > 0).sum(1)
        weight = np.divide(seen, seen + kinds, where=seen > 0, out=np.zeros(len(seen)))[asked]
        count, all_seen = joint[asked, target], np.maximum(seen[asked], 1)
        interpolated = weight * count / all_seen + (1 - weight) * probability
        usable = np.arange(target.shape[1]) >= order - 1  # the first bytes of a window have a shorter past
        probability = np.where(usable, interpolated, probability)
    return float(-np.log2(probability).mean())

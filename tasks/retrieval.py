"""Byte-level document retrieval: read two documents apart, then say whether they belong together.

    retrieval:path=lra_release/tsv_data        the first 4,000 bytes of two papers: does one cite the other, yes or no?

Retrieval of the Long Range Arena (Tay et al., arXiv:2011.04006, section 2.2.3): pairs of papers of the ACL Anthology Network,
each read by the same weights, and compared only by the vectors that come of it. That is `path=` a folder with its files
`new_aan_pairs.train.tsv`, `.eval.tsv` and `.test.tsv`, whose lines are label, two names and two texts. Not causal: each document
is read as the mean over the bytes there are. Scores are over at most 2,000 pairs, evenly spread.

With nothing given there is a stand-in that every machine has, and that is not the Long Range Arena: are two pieces, of
`document` bytes each and apart, of one file of Python's standard library, or of two? The same is asked of the text files in any
other folder at `path=`. Whole files go to one split by their SHA-256: a fifth to test, a tenth of the rest to validation. The
pieces are drawn anew for each batch, half of them from one file. A laptop learns it at `document=256`.

Baseline `bag of bytes`: how far apart the two are in the shares of each byte, told by which of the two means is nearer.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.sources.corpus import Shelf, byte_counts, library_files, local_files, share, texts_of
from tasks.sources.long_range_arena import published
from tasks.task import SPLITS, Batch, Split, Task, Tokens, random, share_right

FILES = {"train": "new_aan_pairs.train.tsv", "validation": "new_aan_pairs.eval.tsv", "test": "new_aan_pairs.test.tsv"}
FITTED = 2048  # training pairs that the baseline's two means are taken over


class Retrieval(Task):
    """Say whether two documents belong together: the Long Range Arena's retrieval, or pieces of one file or of two."""

    causal = False
    pooled = True
    towers = 2
    references = published("retrieval", "path=lra_release/tsv_data")

    def __init__(
        self,
        *,
        path: Annotated[str | None, "a folder, of the published pairs or of text files; none given: the standard library"] = None,
        document: Annotated[int, "bytes read of each of the two documents"] = 4000,
    ) -> None:
        if document < 1:
            raise ValueError(f"document={document}: at least one byte of each document is needed")
        self.path, self.document = path, document
        self.length, self.inputs, self.outputs, self.answers = 2 * document, Tokens(256), 2, 1
        self._pairs = None
        if path is not None and all((Path(path) / file).is_file() for file in FILES.values()):
            self._pairs, self._shelf, self.data = _published(path, document)
            self.held_out = min(2000, *(len(self._pairs[split]) for split in ("validation", "test")))
        else:
            self._shelves, self.data = _files(path, document)
            self.held_out = 2000

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        if self._pairs is None:
            return self._drawn(random(split, index, seed), self._shelves[split], size)
        pairs = self._pairs[split]
        if split == "train":
            chosen = pairs[random(split, index, seed).integers(0, len(pairs), size)]
        else:
            chosen = pairs[np.arange(index * size, (index + 1) * size) % self.held_out * len(pairs) // self.held_out]
        labels, documents = chosen[:, 0], chosen[:, 1:]
        lengths = self._shelf.lengths[documents]
        inputs = self._shelf.read(self._shelf.starts[documents].ravel(), lengths.ravel(), self.document)
        return Batch(
            torch.from_numpy(inputs.reshape(size, -1)), torch.from_numpy(labels.copy()), lengths=torch.from_numpy(lengths)
        )

    def _drawn(self, rng: np.random.Generator, shelf: Shelf, size: int) -> Batch:
        """Two pieces of one file that do not overlap, or one piece each of two files."""
        same = rng.integers(0, 2, size)
        one = rng.integers(0, len(shelf.lengths), size)
        other = (one + rng.integers(1, len(shelf.lengths), size)) % len(shelf.lengths)
        spare = shelf.lengths - 2 * self.document
        ahead, behind = np.sort(rng.integers(0, spare[one] + 1, (2, size)), 0)
        apart = np.stack([ahead, behind + self.document], 1)
        apart = np.where(rng.integers(0, 2, (size, 1)), apart, apart[:, ::-1])
        files = np.stack([one, np.where(same, one, other)], 1)
        alone = rng.integers(0, spare[files] + self.document + 1)
        starts = shelf.starts[files] + np.where(same[:, None], apart, alone)
        inputs = shelf.read(starts.ravel(), np.full(2 * size, self.document), self.document)
        return Batch(torch.from_numpy(inputs.reshape(size, -1)), torch.from_numpy(same))

    def baselines(self) -> dict[str, float]:
        return {"chance": 0.5, "bag of bytes": self._bag_score}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return {"bag of bytes": self._bag}

    @cached_property
    def _bag_score(self) -> float:
        return share_right(self, self._bag)

    @cached_property
    def _means(self) -> Tensor:
        """Of the distance between two documents that do not belong together, and of two that do."""
        size = max(1, (1 << 20) // self.length)
        batches = [self.batch("train", index, size, 0) for index in range(-(-FITTED // size))]
        distances = torch.cat([self._distance(batch) for batch in batches])
        labels = torch.cat([batch.targets for batch in batches])
        return torch.stack([distances[labels == label].mean() for label in (0, 1)])

    def _distance(self, batch: Batch) -> Float[Tensor, "size"]:
        documents = batch.inputs.reshape(-1, self.document)
        lengths = torch.full((len(documents),), self.document) if batch.lengths is None else batch.lengths.flatten()
        one, other = (byte_counts(documents, lengths) / lengths[:, None]).reshape(-1, 2, 256).unbind(1)
        return (one - other).abs().sum(1)

    def _bag(self, batch: Batch) -> Int[Tensor, "size"]:
        return (self._distance(batch)[:, None] - self._means).abs().argmin(1)

    def classes(self) -> list[str]:
        return ["apart", "together"]

    def example(self, batch: Batch, row: int) -> str:
        lengths = [self.document] * 2 if batch.lengths is None else batch.lengths[row].tolist()
        one, other = (
            bytes(half[:length].tolist()).decode(errors="replace")
            for half, length in zip(batch.inputs[row].reshape(2, -1), lengths, strict=True)
        )
        return f"{one}\n---\n{other}\n[{self.classes()[int(batch.targets[row])]}]"


@cache
def _files(path: str | None, document: int) -> tuple[dict[str, Shelf], str]:
    """The documents of each split that are long enough for two pieces, and the hash of them all.

    Raises:
        ValueError: fewer than two of some split are.
    """
    texts = sorted(texts_of(library_files() if path is None else local_files(path), path))
    texts = [text for text in texts if len(text) >= 2 * document]
    borders = {"test": (0.0, 0.2), "validation": (0.2, 0.28), "train": (0.28, 1.0)}
    parts = {split: [text for text in texts if low <= share(text) < high] for split, (low, high) in borders.items()}
    if min(map(len, parts.values())) < 2:
        raise ValueError(f"path={path}, document={document}: only {len(texts)} files are long enough to draw two documents from")
    digest = hashlib.sha256()
    for split in SPLITS:
        for text in parts[split]:
            digest.update(len(text).to_bytes(8, "little") + text)
    return {split: Shelf.of(documents) for split, documents in parts.items()}, digest.hexdigest()


@cache
def _published(path: str, document: int) -> tuple[dict[str, np.ndarray], Shelf, str]:
    """Rows of label and two numbers of documents for each split, the documents, and the hash of the three files.

    Raises:
        ValueError: a line is not label, two names and two texts, parted by tabs.
    """
    known: dict[bytes, int] = {}
    digest, pairs = hashlib.sha256(), {}
    for split in SPLITS:
        rows = []
        for number, line in enumerate(_lines(Path(path) / FILES[split], digest.update), 1):
            fields = line.split(b"\t")
            if len(fields) != 5 or fields[0] not in (b"0", b"1", b"0.0", b"1.0"):
                raise ValueError(f"path={path}: {FILES[split]}, line {number}, is not label 0 or 1, two names and two texts")
            rows.append([int(float(fields[0])), *(known.setdefault(text[:document], len(known)) for text in fields[3:])])
        pairs[split] = np.array(rows, np.int64)
    return pairs, Shelf.of(list(known)), digest.hexdigest()


def _lines(file: Path, seen: Callable[[bytes], None]) -> Iterator[bytes]:
    with file.open("rb") as lines:
        for line in lines:
            seen(line)
            if line.strip():
                yield line.rstrip(b"\r\n")

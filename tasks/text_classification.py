"""Byte-level text classification: read a document byte by byte, name its class.

    text_classification:path=aclImdb        "Nothing in this film works ..." is neg

Text of the Long Range Arena (Tay et al., arXiv:2011.04006, section 2.2.2): IMDb reviews (Maas et al. 2011) as bytes, cut at
4,096, two classes. That is `corpus=hub:stanfordnlp/imdb@e6281661ce1c48d982bc483cf8a173c1bbeb5d31` (optional package
`datasets`), or `path=` the folder that the reviews come in. Any folder will do that has a folder of text files for each class,
in folders `train` and `test` or not, and any data set of the hub with columns `text` and `label`. A tenth of the training
documents validates; where there is no test set, a fifth is held out first. The SHA-256 of each document says which. Not causal:
the answer is read from the mean over the bytes there are. Scores are over at most 2,000 documents, evenly spread.

With nothing given there is a stand-in that every machine has, and that is not the Long Range Arena: `corpus=packages` asks which
of eight Python packages, all of them needed here, a piece of source comes from; at most 2 MB of each, whole files to one split. A
laptop learns it at `length=512`. Baseline `bag of bytes`: naive Bayes on how often each byte occurs.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from tasks.sources.corpus import Shelf, byte_counts, column, hub, local_files, share
from tasks.sources.long_range_arena import published
from tasks.task import SPLITS, Batch, Split, Task, Tokens, random, share_right

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch")
PACKAGE_BYTES = 2_000_000
Documents = list[tuple[bytes, int]]
"""Texts, and the number of the class of each."""


class TextClassification(Task):
    """Classify documents from their bytes: the Long Range Arena's text, or your own. Tay et al., arXiv:2011.04006."""

    causal = False
    pooled = True
    references = published("text", "corpus=hub:stanfordnlp/imdb@e6281661ce1c48d982bc483cf8a173c1bbeb5d31")

    def __init__(
        self,
        *,
        path: Annotated[str | None, "a folder with a folder of text files for each class"] = None,
        corpus: Annotated[str | None, "packages, path or hub:OWNER/NAME@COMMIT; none given: path or packages"] = None,
        length: Annotated[int, "bytes read of a document; the rest is cut off"] = 4096,
    ) -> None:
        if length < 1:
            raise ValueError(f"length={length}: at least one byte of a document is needed")
        self.length = length
        self._shelves, self._labels, self._classes, self.data = _load(path, corpus, length)
        self.held_out = min(2000, len(self._labels["test"]))
        self.inputs, self.outputs, self.answers = Tokens(256), len(self._classes), 1

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        shelf, labels = self._shelves[split], self._labels[split]
        if split == "train":
            chosen = random(split, index, seed).integers(0, len(labels), size)
        else:
            chosen = np.arange(index * size, (index + 1) * size) % self.held_out * len(labels) // self.held_out
        lengths = np.minimum(shelf.lengths[chosen], self.length)
        inputs = shelf.read(shelf.starts[chosen], lengths, self.length)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(labels[chosen]), lengths=torch.from_numpy(lengths))

    def baselines(self) -> dict[str, float]:
        return {"chance": 1 / self.outputs, "bag of bytes": self._bag_score}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return {"bag of bytes": self._bag}

    @cached_property
    def _bag_score(self) -> float:
        return share_right(self, self._bag)

    @cached_property
    def _log_probabilities(self) -> Tensor:
        """(classes, 257): of each byte in each class, then of the class."""
        shelf, labels = self._shelves["train"], self._labels["train"]
        of_byte = np.repeat(labels, shelf.lengths) * 256 + shelf.text
        counts = np.bincount(of_byte, minlength=256 * self.outputs).reshape(-1, 256) + 1.0
        prior = np.bincount(labels, minlength=self.outputs) / len(labels)
        return torch.from_numpy(np.log(np.column_stack([counts / counts.sum(1, keepdims=True), prior])))

    def _bag(self, batch: Batch) -> Int[Tensor, "size"]:
        assert batch.lengths is not None
        counts = byte_counts(batch.inputs, batch.lengths).double()
        return (F.pad(counts, (0, 1), value=1.0) @ self._log_probabilities.T).argmax(1)

    def classes(self) -> Sequence[str]:
        return self._classes

    def example(self, batch: Batch, row: int) -> str:
        assert batch.lengths is not None
        text = bytes(batch.inputs[row, : int(batch.lengths[row])].tolist()).decode(errors="replace")
        return f"{text}\n[{self._classes[int(batch.targets[row])]}]"


@cache
def _load(
    path: str | None, corpus: str | None, length: int
) -> tuple[dict[str, Shelf], dict[str, np.ndarray], tuple[str, ...], str]:
    """Documents and labels of each split, the names of the classes, and the hash of it all.

    Raises:
        ValueError: there is no such corpus, or it leaves some class nothing to train on, or nothing to score.
    """
    if (corpus == "path" and path is None) or (path is not None and corpus not in (None, "path")):
        raise ValueError(f"path={path} with corpus={corpus}: a path goes with corpus=path, or none")
    if path is not None:
        parts, classes = _folder(Path(path))
    elif corpus in (None, "packages"):
        parts, classes = _packages()
    elif corpus.startswith("hub:"):
        parts, classes = _hub(corpus.removeprefix("hub:"))
    else:
        raise ValueError(f"corpus={corpus}: no such documents; there are packages, path and hub:OWNER/NAME@COMMIT")
    if "test" not in parts:
        whole = parts["train"]
        parts = {
            "test": [each for each in whole if share(each[0]) < 0.2],
            "train": [(text, label) for text, label in whole if share(text) >= 0.2],
        }
        border = 0.28
    else:
        border = 0.1
    parts["validation"] = [each for each in parts["train"] if share(each[0]) < border]
    parts["train"] = [each for each in parts["train"] if share(each[0]) >= border]
    if not parts["validation"] or not parts["test"] or len({label for _, label in parts["train"]}) < len(classes):
        where = f"path={path}" if path else f"corpus={corpus}"
        raise ValueError(f"{where}: too few different documents for a training, a validation and a test set of all classes")
    if path is None and corpus in (None, "packages"):
        known: set[bytes] = set()
        parts = {split: _cut(parts[split], length, known) for split in SPLITS}
    digest = hashlib.sha256()
    for split in SPLITS:
        for text, label in parts[split]:
            digest.update(len(text).to_bytes(8, "little") + label.to_bytes(8, "little") + text)
    shelves = {split: Shelf.of([text[:length] for text, _ in documents]) for split, documents in parts.items()}
    labels = {split: np.array([label for _, label in documents], np.int64) for split, documents in parts.items()}
    return shelves, labels, classes, digest.hexdigest()


def _folder(root: Path) -> tuple[dict[str, Documents], tuple[str, ...]]:
    """Documents of the folder's `train` and `test`, or of all of it as `train`; classes are the folders of the last of these.

    Raises:
        ValueError: there are not two classes or more.
    """
    parts = {name: root / name for name in ("train", "test") if (root / name).is_dir()}
    parts = parts if len(parts) == 2 else {"train": root}
    top = list(parts.values())[-1]
    classes = tuple(sorted(each.name for each in top.iterdir() if each.is_dir())) if top.is_dir() else ()
    if len(classes) < 2:
        raise ValueError(f"path={root}: {top} needs a folder of texts for each of two classes or more, and has {len(classes)}")
    return {
        name: [
            (text, label)
            for label, each in enumerate(classes)
            for text in (file.read_bytes() for file in local_files(str(part / each)))
            if text.strip() and b"\0" not in text
        ]
        for name, part in parts.items()
    }, classes


def _hub(source: str) -> tuple[dict[str, Documents], tuple[str, ...]]:
    splits = hub(source)
    parts = {
        name: [
            (text.encode(), label)
            for text, label in zip(column(split, "text", source), column(split, "label", source), strict=True)
            if text.strip()
        ]
        for name, split in splits.items()
        if name in ("train", "test")
    }
    names = getattr(splits["train"].features["label"], "names", None)
    return parts, tuple(names or map(str, range(1 + max(label for _, label in parts["train"]))))


def _packages() -> tuple[dict[str, Documents], tuple[str, ...]]:
    found: Documents = []
    for label, name in enumerate(PACKAGES):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        root, size = Path(spec.origin).parent, 0
        files = [file for file in root.rglob("*.py") if "tests" not in file.parts]
        for file in sorted(files, key=lambda file: share(str(file.relative_to(root)).encode())):
            text = file.read_bytes()
            if text.strip() and b"\0" not in text and size < PACKAGE_BYTES:
                found.append((text, label))
                size += len(text)
    return {"train": found}, PACKAGES


def _cut(documents: Documents, length: int, known: set[bytes]) -> Documents:
    """Consecutive pieces of `length` bytes, and what is left, without those in `known`, which is added to."""
    pieces = [(text[at : at + length], label) for text, label in documents for at in range(0, len(text), length)]
    new = [(text, label) for text, label in pieces if text not in known]
    known |= {text for text, _ in new}
    return new

"""Real text, as documents: Python's standard library, its documentation, files of your own, or the Hugging Face hub."""

import ast
import hashlib
import importlib
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

LONG = 24  # bytes from which on a line is telling: two documents that share many of these are near duplicates


def library_files() -> list[Path]:
    """Modules of the running Python's standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__"}
    return [file for file in sorted(root.rglob("*.py")) if not skipped & set(file.relative_to(root).parts)]


def documentation() -> list[bytes]:
    """English prose about Python: the docstrings of each module of the standard library, and each topic of `help()`.

    About 2 MB that come with every Python, and depend on nothing but its version, which documents of installed packages do not.
    """
    texts = ["\n\n".join(_docstrings(ast.parse(file.read_bytes()))) for file in library_files()]
    texts += importlib.import_module("pydoc_data.topics").topics.values()
    return sorted({text.encode() for text in texts if text.strip()})


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    text = ast.get_docstring(node)
    if text:
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)


def local_files(path: str) -> list[Path]:
    """The file, or every file below the folder but hidden ones.

    Raises:
        ValueError: nothing is there.
    """
    root = Path(path)
    if root.is_dir():
        files = [file for file in sorted(root.rglob("*")) if file.is_file()]
        return [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    if root.is_file():
        return [root]
    raise ValueError(f"path={path}: no such file or folder")


def texts_of(files: Iterable[Path], path: str | None = None) -> set[bytes]:
    """Their distinct contents; binary files among several (of the folder `path`) are passed over.

    Raises:
        ValueError: no text is in them, or the only one is binary.
    """
    texts = {text for text in (file.read_bytes() for file in files) if text.strip()}
    if path is not None and Path(path).is_dir():
        texts = {text for text in texts if b"\0" not in text}
    if not texts:
        raise ValueError(f"path={path}: no text in it")
    if any(b"\0" in text for text in texts):
        raise ValueError(f"path={path}: a binary file (it has NUL bytes); give a text file, or a folder of them")
    return texts


def hub(source: str) -> Mapping[str, Any]:
    """The splits of a data set of the Hugging Face hub, by name: `OWNER/NAME@COMMIT`, or `OWNER/NAME:CONFIGURATION@COMMIT`.

    NAME may be a folder on this machine, in any format that `datasets.load_dataset` reads.

    Raises:
        ValueError: no commit pins the data, the optional package is missing, or the data cannot be read.
    """
    name, _, commit = source.rpartition("@")
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ValueError(f"hub:{source}: pin the data to a commit, hub:OWNER/NAME@ and its 40 hexadecimal digits")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ValueError(f"hub:{source}: reading it needs an optional package: pip install 'sequence-lab[data]'") from None
    path, _, configuration = name.partition(":")
    try:
        return datasets.load_dataset(path, configuration or None, revision=commit)
    except OSError as error:
        raise ValueError(f"hub:{source}: cannot be read: {error}") from error


def column(split: Any, name: str, source: str) -> list[Any]:
    """A column of a split of a data set.

    Raises:
        ValueError: it has no such column.
    """
    if name not in split.column_names:
        raise ValueError(f"hub:{source}: it has no column called {name}; there are {', '.join(split.column_names)}")
    return list(split[name])


def in_order_of_hash(texts: Iterable[bytes]) -> list[bytes]:
    """In an order that depends on nothing but each text itself: by SHA-256."""
    return sorted(texts, key=lambda text: hashlib.sha256(text).digest())


def without_near_duplicates(documents: Iterable[bytes], known: set[bytes]) -> Iterator[bytes]:
    """The documents of which less than half of the long lines are in earlier ones; `known` is added to."""
    for text in documents:
        lines = {line for line in map(bytes.strip, text.split(b"\n")) if len(line) >= LONG}
        if 2 * len(lines & known) <= len(lines):
            known |= lines
            yield text


def share(text: bytes) -> float:
    """A number in 0 ... 1 that depends on nothing but the text: its SHA-256 as a share of all there are."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) / 2**64


@dataclass(frozen=True)
class Shelf:
    """Documents one after the other, `lengths` bytes each from `starts`."""

    text: UInt8[np.ndarray, "bytes"]
    starts: Int64[np.ndarray, "documents"]
    lengths: Int64[np.ndarray, "documents"]

    @classmethod
    def of(cls, documents: Sequence[bytes]) -> "Shelf":
        lengths = np.array([len(document) for document in documents], np.int64)
        return cls(np.frombuffer(b"".join(documents), np.uint8), lengths.cumsum() - lengths, lengths)

    def read(
        self, starts: Int64[np.ndarray, "count"], lengths: Int64[np.ndarray, "count"], length: int
    ) -> Int64[np.ndarray, "count length"]:
        """So many bytes from each start, padded with zeros to `length`."""
        steps = np.arange(length)
        found = self.text[np.minimum(starts[:, None] + steps, len(self.text) - 1)]
        return np.where(steps < lengths[:, None], found, 0).astype(np.int64)


def byte_counts(inputs: Int[Tensor, "size length"], lengths: Int[Tensor, "size"]) -> Int[Tensor, "size 256"]:
    """How often each byte occurs among the first `lengths` of each row."""
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    return torch.zeros(len(inputs), 256, dtype=torch.int64).scatter_add_(1, inputs, there.long())

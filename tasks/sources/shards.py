"""Rows that are slow to make, made once: shards of a fixed number of rows in a folder of the cache, mapped into memory.

A shard is one file: its rows, then the SHA-256 of their bytes. It is written under another name and renamed, so a file is whole
or absent, whatever ended the process; two processes that make one shard at a time make the same bytes, and either may win. What
a killed process left half written is removed by the next writer an hour later. The folder is named by a hash of all that decides
the rows.
"""

import hashlib
import json
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

_SOUND: set[Path] = set()
"""Shards that this process has found to be as they were written."""
DIGEST = 32  # bytes of a SHA-256
STALE = 3600  # seconds; writing a shard takes less than one


def cache() -> Path:
    """Where shards are kept: `$LAB_CACHE`, else `sequence-lab` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("LAB_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sequence-lab"


def damaged(folder: Path) -> list[Path]:
    """The shards of a cache whose bytes are not those that were written."""
    return [path for path in sorted(folder.glob("*/*.rows")) if not _whole_and_unchanged(path)]


def abandoned(folder: Path) -> list[Path]:
    """What killed writers left half written in a cache."""
    return [path for path in sorted(folder.glob("*/*.part")) if time.time() - path.stat().st_mtime > STALE]


def _whole_and_unchanged(path: Path) -> bool:
    content = path.read_bytes()
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


@dataclass(frozen=True)
class Shards:
    """`count` rows, made by `make(first, count)` in shards of `per_shard` when they are first asked for.

    name: of the folder, before the hash.
    settings: all that decides the rows, as JSON can write it.
    make: a pure function, importable by name where several processes are to make shards.
    """

    name: str
    settings: Mapping[str, Any]
    count: int
    shape: tuple[int, ...]
    make: Callable[[int, int], np.ndarray]
    per_shard: int = 1000
    dtype: str = "uint8"

    @property
    def folder(self) -> Path:
        """Of the shards; the hash is of the settings and the layout."""
        decides = json.dumps([self.settings, self.count, self.shape, self.per_shard, self.dtype], sort_keys=True)
        return cache() / f"{self.name}-{hashlib.sha256(decides.encode()).hexdigest()[:16]}"

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.count // self.per_shard)

    def rows(self, numbers: Int[np.ndarray, "rows"]) -> Shaped[np.ndarray, "rows ..."]:
        """The rows of these numbers, in this order; shards that are missing are made."""
        found = np.empty((len(numbers), *self.shape), self.dtype)
        belongs = numbers // self.per_shard
        for shard in np.unique(belongs).tolist():
            mine = belongs == shard
            found[mine] = self._opened(shard)[numbers[mine] - shard * self.per_shard]
        return found

    def ensure(self, first: int, last: int, workers: int = 1) -> None:
        """Make the missing shards of rows `first` to `last`, exclusive, in this many processes, with progress on stderr."""
        missing = [k for k in range(first // self.per_shard, -(-last // self.per_shard)) if not self._whole(k)]
        if workers == 1 or len(missing) < 2:
            for done, shard in enumerate(missing, 1):
                self._write(shard)
                self._report(done, len(missing))
            return
        with ProcessPoolExecutor(min(workers, len(missing)), get_context("spawn"), _end_with_parent) as pool:
            try:
                for done, future in enumerate(as_completed([pool.submit(self._write, shard) for shard in missing]), 1):
                    future.result()
                    self._report(done, len(missing))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def verify(self) -> list[int]:
        """Remove the shards whose bytes are not those that were written, and name them."""
        damaged = [k for k in range(self.shards) if self._path(k).exists() and not (self._whole(k) and self._sound(k))]
        for shard in damaged:
            self._path(shard).unlink()
        _mapped.cache_clear()
        return damaged

    def _span(self, shard: int) -> tuple[int, int]:
        first = shard * self.per_shard
        return first, min(self.per_shard, self.count - first)

    def _bytes(self, shard: int) -> int:
        return self._span(shard)[1] * int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.rows"

    def _whole(self, shard: int) -> bool:
        path = self._path(shard)
        return path.exists() and path.stat().st_size == self._bytes(shard) + DIGEST

    def _sound(self, shard: int) -> bool:
        return _whole_and_unchanged(self._path(shard))

    def _opened(self, shard: int) -> np.ndarray:
        path = self._path(shard)
        if not self._whole(shard) or (path not in _SOUND and not self._sound(shard)):
            if path.exists():
                warnings.warn(f"{path}: its bytes are not those that were written; it is made again", stacklevel=3)
            self._write(shard)
            _mapped.cache_clear()
        _SOUND.add(path)
        return _mapped(path, (self._span(shard)[1], *self.shape), self.dtype)

    def _write(self, shard: int) -> None:
        first, count = self._span(shard)
        rows = np.ascontiguousarray(self.make(first, count), self.dtype)
        if rows.shape != (count, *self.shape):
            raise ValueError(f"shard {shard} of {self.name}: rows are {rows.shape}, {(count, *self.shape)} are asked for")
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in self.folder.glob("*.part"):
            with suppress(FileNotFoundError):  # another writer was faster
                if time.time() - part.stat().st_mtime > STALE:
                    part.unlink()
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
            try:
                file.write(rows.tobytes())
                file.write(hashlib.sha256(rows.tobytes()).digest())
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(self._path(shard))
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    def _report(self, done: int, of: int) -> None:
        print(f"{self.name}: {done} of {of} shards made", file=sys.stderr)


def _end_with_parent() -> None:
    """Let this worker end when the process that started it is killed; it would wait for work forever."""
    parent = parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=1024)
def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.memmap(path, dtype, "r", shape=shape)

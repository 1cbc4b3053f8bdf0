"""Checkpoints that are whole or noticed to be broken, and never execute anything when they are read.

A checkpoint is one file, or a folder where a model is shared out (lab/dcp.py). Beside `checkpoint` lie `checkpoint.previous`,
the one before, taken when the newest is broken, and `checkpoint.sha256` with the SHA-256 of both; it is written first, so that
at any moment it knows whatever is there.
"""

import hashlib
import io
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO

from lab.errors import UsageError
from lab.run import sync_folder, write_durably

Value = TypeVar("Value")


class DurableIO(CheckpointIO):
    """Lightning's checkpoints, written durably and atomically in place and read with `weights_only=True`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        _make_room(path, hashlib.sha256(buffer.getbuffer()).hexdigest())
        write_durably(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> dict:
        """The newest that is whole.

        Raises:
            UsageError: none is; says what is wrong with each.
        """

        def read(file: Path) -> dict:
            if file.is_dir():
                from lab import dcp

                return dcp.read(file)
            return torch.load(file, map_location=map_location or "cpu", weights_only=True)

        return newest_whole(path, read)

    def remove_checkpoint(self, path: Any) -> None:
        for each in parts(path):
            remove(each)


def place(folder: Path, path: Path) -> None:
    """Make a folder that was written beside it the newest checkpoint, on the disk when this returns."""
    for file in _files(folder):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    sync_folder(folder)
    _make_room(path, _digest(folder))
    os.rename(folder, path)
    sync_folder(path.parent)


def _make_room(path: str | Path, digest: str) -> None:
    """Before a checkpoint with this sum is put at `path`: note it, and make the one there the one before, if it is whole."""
    newest, before, sums = parts(path)
    whole = _sound(newest, sums)  # a broken one must not push out the one before
    kept = [_digest(newest)] if whole else _known(sums)
    write_durably(sums, "\n".join([digest, *kept]).encode())
    if newest.is_dir():
        if whole:
            remove(before)
            os.rename(newest, before)
        remove(newest)
    elif whole:
        spare = newest.with_name(f".{before.name}")
        spare.unlink(missing_ok=True)
        os.link(newest, spare)
        os.replace(spare, before)
        spare.unlink(missing_ok=True)  # still there where a killed save had made both one file: then a rename does nothing


def newest_whole(path: str | Path, read: Callable[[Path], Value]) -> Value:
    """What `read` makes of the newest of a checkpoint and the one before it that is whole.

    Raises:
        UsageError: neither is, or `read` refuses them; says what is wrong with each.
    """
    wrong = []
    newest, before, sums = parts(path)
    for file in (newest, before):
        if not file.exists():
            continue
        if not _sound(file, sums):
            wrong.append(f"{file.name} was cut or changed: its SHA-256 is not in {sums.name}")
            continue
        try:
            found = read(file)
        except UsageError:
            raise
        except Exception as error:
            wrong.append(f"{file.name} holds more than tensors and plain numbers and is not loaded ({type(error).__name__})")
            continue
        if wrong:
            # at level 2 it would be Lightning's, whose warnings are silenced
            warnings.warn(f"{wrong[0]}; going on from the checkpoint before, {file}", stacklevel=1)
        return found
    raise UsageError(f"no checkpoint in {Path(path).parent} can be read ({'; '.join(wrong)}); lab run --restart begins anew")


def there(path: str | Path) -> Path | None:
    """A checkpoint, or else the one before it, if there is one."""
    return next((each for each in parts(path)[:2] if each.exists()), None)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def parts(path: str | Path) -> tuple[Path, Path, Path]:
    """A checkpoint, the one before it and the sums of both."""
    newest = Path(path)
    return newest, newest.with_name(f"{newest.name}.previous"), newest.with_name(f"{newest.name}.sha256")


def broken(path: str | Path) -> list[Path]:
    """Those of a checkpoint and the one before it that were cut or changed."""
    *files, sums = parts(path)
    return [file for file in files if file.exists() and not _sound(file, sums)]


def _sound(path: Path, sums: Path) -> bool:
    """Whether it is a file or a folder with one of the sums."""
    return (path.is_file() or path.is_dir()) and _digest(path) in _known(sums)


def _digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and sums of a folder's files."""
    if path.is_dir():
        listed = "".join(f"{file.relative_to(path)} {_digest(file)}\n" for file in _files(path))
        return hashlib.sha256(listed.encode()).hexdigest()
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _known(sums: Path) -> list[str]:
    try:
        return sums.read_text("ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


def seed_generators(seed: int) -> None:
    """Begin every global generator anew."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """The state of every global generator, as tensors and plain numbers."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    version, words, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(words), gauss_next],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo whatever happened to the global generators since `random_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, words, gauss_next = states["python"]
    random.setstate((version, tuple(words), gauss_next))

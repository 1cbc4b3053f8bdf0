"""Checkpoints that are whole or noticed to be broken, and never execute anything when they are read.

Beside `checkpoint` lie `checkpoint.previous`, the one before, taken when the newest is broken, and `checkpoint.sha256` with the
SHA-256 of both; it is written first, so that at any moment it knows whatever is there.
"""

import hashlib
import io
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO

from lab.errors import UsageError
from lab.run import write_durably


class DurableIO(CheckpointIO):
    """Lightning's checkpoints, written durably and atomically in place and read with `weights_only=True`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        newest, before, sums = parts(path)
        whole = _sound(newest, sums)  # a broken one must not push out the one before
        kept = [_digest(newest)] if whole else _known(sums)
        write_durably(sums, "\n".join([hashlib.sha256(buffer.getbuffer()).hexdigest(), *kept]).encode())
        if whole:
            spare = newest.with_name(f".{before.name}")
            spare.unlink(missing_ok=True)
            os.link(newest, spare)
            os.replace(spare, before)
            spare.unlink(missing_ok=True)  # still there where a killed save had made both one file: then a rename does nothing
        write_durably(newest, buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> dict:
        """The newest that is whole.

        Raises:
            UsageError: none is; says what is wrong with each.
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
                found = torch.load(file, map_location=map_location or "cpu", weights_only=True)
            except Exception as error:
                wrong.append(f"{file.name} holds more than tensors and plain numbers and is not loaded ({type(error).__name__})")
                continue
            if wrong:
                # at level 2 it would be Lightning's, whose warnings are silenced
                warnings.warn(f"{wrong[0]}; going on from the checkpoint before, {file}", stacklevel=1)
            return found
        raise UsageError(f"no checkpoint in {Path(path).parent} can be read ({'; '.join(wrong)}); lab run --restart begins anew")

    def remove_checkpoint(self, path: Any) -> None:
        for file in parts(path):
            file.unlink(missing_ok=True)


def parts(path: str | Path) -> tuple[Path, Path, Path]:
    """A checkpoint, the one before it and the sums of both."""
    newest = Path(path)
    return newest, newest.with_name(f"{newest.name}.previous"), newest.with_name(f"{newest.name}.sha256")


def broken(path: str | Path) -> list[Path]:
    """Those of a checkpoint and the one before it that were cut or changed."""
    *files, sums = parts(path)
    return [file for file in files if file.exists() and not _sound(file, sums)]


def _sound(file: Path, sums: Path) -> bool:
    """Whether it is a file with one of the sums."""
    return file.is_file() and _digest(file) in _known(sums)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


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

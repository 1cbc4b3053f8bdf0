"""Checkpoints: killed while they are written, cut, flipped."""

import mmap
import random
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from lab.checkpoint import DurableIO, parts
from lab.errors import UsageError
from soak.children import Ended, child, moments
from soak.tally import Tally

KILLS, DAMAGES, NUMBERS = 200, 200, 1_000_000


def write_on(path: Path, step: int, said: mmap.mmap) -> None:
    """Write checkpoint after checkpoint; `said` is the last that was written for sure."""
    while True:
        step += 1
        DurableIO().save_checkpoint({"step": step, "weights": torch.full((NUMBERS,), float(step))}, path)
        said[:8] = step.to_bytes(8, "little")


def read(path: Path) -> tuple[int, str]:
    """The step found, and what the log said of it; None where it holds another step's numbers."""
    with warnings.catch_warnings(record=True) as log:
        warnings.simplefilter("always")
        found = DurableIO().load_checkpoint(path)
    right = bool((found["weights"] == found["step"]).all())
    return found["step"] if right else -1, "; ".join(str(each.message) for each in log)


def kills(scale: float, seed: int, root: Path) -> Tally:
    tally, rng, last, cut = Tally("SIGKILL while a checkpoint is written"), random.Random(seed), 0, 0
    path, said = root / "checkpoint", mmap.mmap(-1, 8)
    torch.set_num_threads(1)
    write_one(path, 0)
    for moment in moments(Ended(0, 24, 0.1), max(6, round(KILLS * scale)), rng):
        child(partial(write_on, path, last, said), root, moment)
        cut += any(root.glob(".checkpoint*"))
        promised = max(last, int.from_bytes(said[:8], "little"))
        try:
            last, log = read(path)
        except UsageError as error:
            last, log = -1, str(error)
        tally.corrupt += last < 0
        tally.lost += 0 <= last < promised
        wrong = last < promised or log
        tally.count(f"killed at {moment}: step {last} of {promised} was found {log}" if wrong else "")
        last = max(last, promised)
        for left in root.glob(".checkpoint*"):
            left.unlink()
    tally.notes.append(f"{cut} left a part of a file")
    return tally


def write_one(path: Path, step: int) -> None:
    DurableIO().save_checkpoint({"step": step, "weights": torch.full((NUMBERS,), float(step))}, path)


def damages(scale: float, seed: int, root: Path) -> Tally:
    """The newest is cut or flipped anywhere: the one before is used and the log says so; sums that are damaged never mislead."""
    tally, rng, path = Tally("a checkpoint cut, flipped or emptied"), random.Random(seed), root / "checkpoint"
    for number in range(max(6, round(DAMAGES * scale))):
        for step in (1, 2):
            write_one(path, step)
        newest, _, sums = parts(path)
        file = sums if number % 5 == 4 else newest
        content = bytearray(file.read_bytes())
        place = rng.randrange(len(content))
        how = ("cut", "flipped", "emptied", "overwritten")[number % 4]
        if how == "cut":
            del content[place:]
        elif how == "flipped":
            content[place] ^= 1 << rng.randrange(8)
        elif how == "emptied":
            content.clear()
        else:
            content[place : place + 64] = rng.randbytes(len(content[place : place + 64]))
        file.write_bytes(content)
        try:
            step, log = read(path)
        except UsageError as error:
            step, log = 0, str(error)
        if file == newest:
            right = step == 1 and "checkpoint was cut or changed" in log and "going on from the checkpoint before" in log
        else:  # what still has its sum is used, else the way out is named
            right = (step == 2 and not log) or (step == 1 and "going on from" in log) or (step == 0 and "--restart" in log)
        tally.corrupt += step < 0 or (step == 2 and file == newest)
        tally.count("" if right else f"{file.name} {how} at byte {place}: step {step} was used, the log says {log!r}")
        for left in parts(path):
            left.unlink(missing_ok=True)
    return tally


def wait_for(condition, seconds: float = 120.0) -> bool:
    """Wait until something is so; whether it came to be."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True

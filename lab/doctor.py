"""What is broken in a store, in the cache or in the installation, and how to mend it: a line each. Changes nothing."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from lab.checkpoint import broken
from lab.claim import holder
from lab.engines import ENGINES, starter
from lab.errors import UsageError
from lab.run import SCHEMA, Spec, Store
from tasks.sources import shards

PACKAGE = "sequence-lab"
LEAST_FREE = 1 << 30


def examine(results: str) -> list[str]:
    """Everything that is broken. Runs that another process has in hand are left out."""
    store = Store(results)
    found = [*_installation(), *_disk(store.root, "--results"), *_disk(shards.cache(), "LAB_CACHE")]
    for folder in sorted(store.root.glob("runs/*")):
        if not folder.is_dir():
            found.append(f"{folder}: a file where only folders of runs are kept; move it away")
        elif not store.held(folder.name):
            found += [f"{folder / name}: {what}" for name, what in _run(folder)]
            if left := holder(folder):
                found.append(f"{folder / 'holder'}: left by {left}, which is gone; the same command takes the run over")
    return found + list(_cache(shards.cache()))


def engines() -> list[str]:
    """A line for each engine: that it can be used here, or why not."""
    found = []
    for name in ENGINES:
        try:
            starter(name, 0)
            found.append(f"--engine {name}: can be used here")
        except UsageError as error:
            found.append(str(error))
    return found


def _installation() -> Iterator[str]:
    try:
        needed = [Requirement(text) for text in requires(PACKAGE) or []]
    except PackageNotFoundError:
        yield f"{PACKAGE} is not installed, so versions are not known to fit; make compare installs it, or pip install -e ."
        return
    for each in needed:
        if each.marker and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(each.name)
        except PackageNotFoundError:
            slower = "; recurrences run many times slower without it" if each.name == "numba" else ""
            yield f"{each.name} is not installed{slower}; pip install '{each}'"
            continue
        if not each.specifier.contains(installed, prereleases=True):
            yield f"{each.name} {installed} is outside of {each.specifier}; pip install '{each}'"


def _disk(folder: Path, flag: str) -> Iterator[str]:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield f"{flag} {folder}: cannot be written ({error.strerror}); name another folder with {flag}"
        return
    if (free := shutil.disk_usage(existing).free) < LEAST_FREE:
        yield f"{flag} {folder}: {free / 2**20:.0f} MiB free on its disk, too little to rely on; make room"


def _run(folder: Path) -> Iterator[tuple[str, str]]:
    """Files of a run's folder and what is wrong with each."""
    for name in sorted(os.listdir(folder)):
        if name.startswith("."):
            yield name, "left by a write that was cut off; remove it"
    spec, wrong = _parsed(folder / "spec.json")
    if wrong:
        yield "spec.json", f"{wrong}; the same lab run writes it again"
    elif spec and spec.get("schema", 0) <= SCHEMA:
        try:
            if Spec.read(spec).id != folder.name:
                yield "spec.json", "its hash is not the folder's name; lab verify says more"
        except UsageError as error:
            yield "spec.json", str(error)
        except TypeError as error:
            yield "spec.json", f"is no spec ({error}); the same lab run writes it again"
    record, wrong = _parsed(folder / "run.json")
    if wrong:
        yield "run.json", f"{wrong}; remove it, and the same command does the run again"
    elif record and not isinstance(record.get("schema"), int):
        yield "run.json", "has no schema; remove it, and the same command does the run again"
    elif record and record["schema"] > SCHEMA:
        yield "run.json", f"made by a newer lab: schema {record['schema']}, this one reads {SCHEMA}; update the lab"
    for file in broken(folder / "checkpoint"):
        yield file.name, "cut or changed: its SHA-256 is not in checkpoint.sha256; the one before is used, else lab run --restart"


def _parsed(file: Path) -> tuple[dict[str, Any], str]:
    """A file's object, empty where there is none, and why it cannot be read."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (ValueError, RecursionError, OSError) as error:
        return {}, f"cannot be read ({' '.join(str(error).split())})"
    return (found, "") if isinstance(found, dict) else ({}, "holds no object")


def _cache(folder: Path) -> Iterator[str]:
    for file in shards.damaged(folder):
        yield f"{file}: its bytes are not those that were written; remove it, it is made again when it is needed"
    for file in shards.abandoned(folder):
        yield f"{file}: left by a writer that was cut off; remove it"

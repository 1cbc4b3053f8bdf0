"""What a task of the Ray engine does on its node: it supervises a worker process and passes its events on.

No torch is imported here. Where the node sees the folder of the driver's store (a token that lies there says so), the run is kept
there as by any worker, in the hand of one at a time. Where it does not, the run is kept in a store of the node's own, and its
files are brought to the driver once it ended.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.engines.child import Event, Orders, ended, supervised
from lab.run import Spec, Store
from tasks.sources.shards import cache

PACKAGES = ("lab", "architectures", "tasks")


def source(plugin_files: Iterable[str]) -> str:
    """A hash of the lab's code and of files with plug-ins; a node that has others would give other numbers.

    Raises:
        OSError: such a file cannot be read.
    """
    root = Path(__file__).parents[2]
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    hashes = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (*files, *plugin_files)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


@dataclass(frozen=True)
class Session:
    """What all tasks of a driver are told: the orders, the hash of the driver's code, a name of its store for nodes that do not
    see it."""

    orders: Orders
    source: str
    name: str


def carry_out(record: dict[str, Any], token: str, session: Session) -> Iterator[Event]:
    """A task: the events of one run, after {"event": "start", "shared"}. Where the store is not shared, {"event": "files",
    "files"} comes before the end, the content of each file by its name, and {"event": "kept"}. Ray goes on from an event when
    the driver asked for it, so the node forgets a run only when the driver has kept it.
    """
    spec, orders = Spec.read(record), session.orders
    node = os.uname().nodename
    try:
        other = source(orders.plugin_files) != session.source
    except OSError as error:
        yield {"event": "died", "reason": f"{error.filename} cannot be read on {node} ({error.strerror})"}
        return
    if other:
        yield {"event": "died", "reason": f"the lab or a file of --plugin on {node} is another version than the driver's"}
        return
    shared = Path(token).exists()
    if not shared:
        orders = replace(orders, results=str(cache() / "ray" / session.name))
    store = Store(orders.results)
    yield {"event": "start", "shared": shared}
    if holder := store.held(spec.id):
        yield {"event": "held", "by": str(holder)}
        return
    done = store.find(spec.id) if store.final(spec.id) else None
    for event in [ended(done)] if done else supervised(spec, orders):
        if event["event"] == "end" and not shared:
            yield {"event": "files", "files": _files(store.folder(spec.id))}
            yield {"event": "kept"}
            _forget(store.folder(spec.id))
        yield event


def _forget(folder: Path) -> None:
    """Remove it, while a worker may be letting go of it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _files(folder: Path) -> dict[str, bytes]:
    """Everything about a run that ended; run.json last, as it says that all is there."""
    passing = ("lock", "holder", "checkpoint.previous", "run.json")
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".") and file.name not in passing]
    return {file.name: file.read_bytes() for file in [*files, folder / "run.json"]}

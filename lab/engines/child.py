"""A worker process (`lab.worker`) as every engine starts it: a spec goes in, a JSON line each, its events come out."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from lab.run import Spec
from lab.stopping import PATIENCE

NO_LEAK_GATE = "--no-leak-gate"
Event = dict[str, Any]
"""{"event": "step", "step", "steps", "loss"}, and last one of {"event": "end", "status", ...}, {"event": "held", "by"} and
{"event": "died", "reason"}."""


@dataclass(frozen=True)
class Orders:
    """What all workers of a pool are told: the folder of the store, files with plug-ins, whether backbones that see the future
    are refused."""

    results: str
    plugin_files: tuple[str, ...] = ()
    leak_gate: bool = True

    @property
    def command(self) -> list[str]:
        """That starts a worker."""
        return [sys.executable, "-m", "lab.worker", *([] if self.leak_gate else [NO_LEAK_GATE]), self.results, *self.plugin_files]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Child:
    """A worker process. It is started at once (importing torch and Lightning takes seconds) and waits for specs.

    A parent that dies closes the pipe, upon which the worker writes a checkpoint and leaves. gpu: the only one that it sees.
    """

    def __init__(self, orders: Orders, tell: Callable[[tuple["Child", Event]], None], gpu: int | None = None) -> None:
        seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        self.process = subprocess.Popen(
            orders.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | seen,
            start_new_session=True,  # Ctrl-C is for the driver; it tells the workers
        )
        self._listener = threading.Thread(target=self._listen, args=(tell,), daemon=True)
        self._listener.start()

    def hand(self, spec: Spec) -> None:
        """Give it a run; whether it lives is told by its events."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asdict(spec)) + "\n")
            self.process.stdin.flush()

    def ask(self) -> None:
        """Let it write a checkpoint of what it is doing and leave."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self, patience: float = PATIENCE + 1) -> None:
        """Wait for it to have left; kill it where it does not within `patience` seconds."""
        self.ask()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._listener.join()

    def _listen(self, tell: Callable[[tuple["Child", Event]], None]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            try:
                for line in lines:
                    tell((self, json.loads(line)))
            except ValueError:  # a line that was cut off
                self.process.kill()
        code = self.process.wait()
        self.ask()
        tell((self, {"event": "died", "reason": f"signal {-code}" if code < 0 else f"exit code {code}"}))


def ended(record: dict[str, Any]) -> Event:
    """The last event of a run that has a record."""
    score = record["scores"].get("test", {}).get(record["metric"])
    return {"event": "end", "status": record["status"], "reason": record["reason"], "score": score, "seconds": record["seconds"]}


def supervised(spec: Spec, orders: Orders) -> Iterator[Event]:
    """The events of one run in a child of its own; it is asked to stop where the caller asks for no more."""
    heard: queue.SimpleQueue[tuple[Child, Event]] = queue.SimpleQueue()
    child = Child(orders, heard.put)
    try:
        child.hand(spec)
        last = False
        while not last:
            with suppress(queue.Empty):
                _, event = heard.get(timeout=0.2)  # a wait without a time limit would not let signals through
                last = event["event"] != "step"
                yield event
    finally:
        child.end()

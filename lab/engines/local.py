"""The local engine: worker processes side by side on this machine, each doing many runs on one thread."""

import os
import queue
from collections.abc import Iterable, Sequence

from lab.engines.child import Child, Event, Orders
from lab.run import Spec


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Local:
    """Processes, started at once; one that died is replaced when there is a run for it."""

    def __init__(self, workers: int, orders: Orders) -> None:
        self._workers, self._orders = workers, orders
        self._heard: queue.SimpleQueue[tuple[Child, Event]] = queue.SimpleQueue()
        self._idle = [self._start() for _ in range(workers)]
        self._busy: dict[Child, Spec] = {}

    def places(self) -> int:
        """A run for each process."""
        return self._workers

    def submit(self, specs: Sequence[Spec]) -> None:
        """Hand each to a process that is idle."""
        for spec in specs:
            child = self._idle.pop() if self._idle else self._start()
            self._busy[child] = spec
            child.hand(spec)

    def events(self) -> Iterable[tuple[Spec, Event]]:
        """What the processes told."""
        try:
            child, event = self._heard.get(timeout=0.2)
        except queue.Empty:
            return
        if child not in self._busy:  # it died without a run
            self._idle = [other for other in self._idle if other is not child]
            return
        spec = self._busy[child]
        if event["event"] != "step":
            del self._busy[child]
            if event["event"] != "died":
                self._idle.append(child)
        yield spec, event

    def close(self, patience: float) -> None:
        """Ask all at once, so that their patience runs together."""
        children = [*self._idle, *self._busy]
        for child in children:
            child.ask()
        for child in children:
            child.end(patience)

    def _start(self) -> Child:
        return Child(self._orders, self._heard.put)

"""The local engine: worker processes side by side on this machine, each doing many runs on one thread."""

import itertools
import queue
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from lab import machine, memory
from lab.engines.child import Child, Event, Orders, cores
from lab.errors import within
from lab.run import Spec


def side_by_side(workers: int | None) -> int:
    """How many runs at once: as many as asked for; else one for each GPU, or for each core that there is memory for.

    Raises:
        UsageError: fewer than one, or absurdly many.
    """
    within("--workers", workers, 1, 1024)
    return workers or torch.cuda.device_count() or max(1, min(cores(), machine.free_memory() // memory.PROCESS))


class Local:
    """Processes, started at once; one that died is replaced when there is a run for it.

    A run waits while those that go on would leave it too little memory; alone, each is begun. With GPUs, each process sees one.
    """

    def __init__(self, workers: int, orders: Orders) -> None:
        self._workers, self._orders = workers, orders
        self._room = machine.free_memory()
        self._heard: queue.SimpleQueue[tuple[Child, Event]] = queue.SimpleQueue()
        self._gpus = itertools.cycle(range(torch.cuda.device_count()))
        self._idle = [self._start() for _ in range(workers)]
        self._busy: dict[Child, tuple[Spec, int]] = {}
        self._waiting: deque[Spec] = deque()
        self._foretold: dict[str, int] = {}

    def places(self) -> int:
        """A run for each process."""
        return self._workers

    def submit(self, specs: Sequence[Spec]) -> None:
        """Hand each to a process that is idle, in this order, as soon as there is memory for it."""
        self._waiting.extend(specs)
        while self._waiting and self._fits(needed := self._needed(self._waiting[0])):
            child, spec = self._idle.pop() if self._idle else self._start(), self._waiting.popleft()
            self._busy[child] = spec, needed
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
        spec, _ = self._busy[child]
        if event["event"] != "step":
            del self._busy[child]
            if event["event"] != "died":
                self._idle.append(child)
            self.submit([])
        yield spec, event

    def close(self, patience: float) -> None:
        """Ask all at once, so that their patience runs together."""
        self._waiting.clear()
        children = [*self._idle, *self._busy]
        for child in children:
            child.ask()
        for child in children:
            child.end(patience)

    def _needed(self, spec: Spec) -> int:
        """Bytes, the same for all seeds."""
        alike = replace(spec, seed=0).id
        if alike not in self._foretold:
            self._foretold[alike] = memory.peak(spec, self._room / self._workers)
        return self._foretold[alike]

    def _fits(self, needed: int) -> bool:
        return not self._busy or sum(each for _, each in self._busy.values()) + needed <= self._room

    def _start(self) -> Child:
        return Child(self._orders, self._heard.put, next(self._gpus, None))

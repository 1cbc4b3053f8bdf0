"""Runs carried out by an engine until none is left: what is handed out when, what is tried again, what is given up.

A worker that dies takes only its current run with it, which is tried again from its checkpoint. A run that another process has in
hand comes last: by then that one has done it, or is dead and it is taken over.
"""

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from lab.engines.child import Event
from lab.run import Run, Spec, Store
from lab.stopping import PATIENCE

ATTEMPTS = 3
Listener = Callable[[Spec, Event], None]
"""Told of every event, see `Event`; those of a death have "attempt" besides."""
LOOK_AGAIN = 0.5
AGAIN, FRESH = -1.0, 0.0


@runtime_checkable
class Engine(Protocol):
    """Somewhere that runs are carried out, each in a process of its own."""

    def places(self) -> int:
        """How many runs it takes at once."""
        ...

    def submit(self, specs: Sequence[Spec]) -> None:
        """Take these in hand; never more than there are places."""
        ...

    def events(self) -> Iterable[tuple[Spec, Event]]:
        """What was heard of them; waits a moment where nothing was. After "end", "held" or "died" a run is in hand no more."""
        ...

    def close(self, patience: float) -> None:
        """Let runs in hand write a checkpoint and stop; end those that do not within `patience` seconds."""
        ...


class Pool:
    """An engine at work for a store."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self.engine, self._store = engine, store

    def carry_out(self, specs: Sequence[Spec], listener: Listener, more: Callable[[], Sequence[Spec]] = tuple) -> None:
        """Do all of them; returns when the last one ended. A run whose worker died three times is published as failed.

        more: asked after each run for what is to be done besides, now that its outcome is known.

        Raises:
            OSError: a result cannot be written, as on a full disk.
        """
        order, deaths, in_hand = itertools.count(), Counter[str](), 0
        waiting: list[tuple[float, int, Spec]] = []  # a heap, by the time at which they are due

        def wait(due: float, *those: Spec) -> None:
            for spec in those:
                heapq.heappush(waiting, (due, next(order), spec))

        wait(FRESH, *specs)
        while waiting or in_hand:
            fit: list[Spec] = []
            while waiting and waiting[0][0] <= time.monotonic() and in_hand + len(fit) < self.engine.places():
                *_, spec = heapq.heappop(waiting)
                if holder := self._store.held(spec.id):
                    listener(spec, {"event": "held", "by": str(holder)})
                    wait(time.monotonic() + LOOK_AGAIN, spec)
                else:
                    fit.append(spec)
            if fit:
                self.engine.submit(fit)
                in_hand += len(fit)
            for spec, event in self.engine.events():
                if event["event"] == "died":
                    deaths[spec.id] += 1
                    event |= {"attempt": deaths[spec.id]}
                listener(spec, event)
                if event["event"] == "step":
                    continue
                in_hand -= 1
                if event["event"] == "died":
                    if deaths[spec.id] < ATTEMPTS:
                        wait(AGAIN, spec)
                        continue
                    event = self._given_up(spec, event["reason"])
                    listener(spec, event)
                if event["event"] == "held":
                    wait(time.monotonic() + LOOK_AGAIN, spec)
                else:
                    wait(FRESH, *more())

    def close(self, patience: float = PATIENCE + 1) -> None:
        """Let the workers write a checkpoint of what they are doing and leave; end those that do not."""
        self.engine.close(patience)

    def _given_up(self, spec: Spec, last: str) -> Event:
        reason = f"its process ended {ATTEMPTS} times: {last}"
        if last == "signal 9":
            reason += ", as it does where memory runs out; a smaller --batch or fewer --workers need less"
        with self._store.claim(spec.id) as mine:
            if mine is None:
                return {"event": "held", "by": str(self._store.held(spec.id) or "another process")}
            self._store.publish(Run(id=spec.id, spec=spec, status="failed", reason=reason))
        return {"event": "end", "status": "failed", "reason": reason}

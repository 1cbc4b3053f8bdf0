"""What a person sees on standard error while runs go on: how many are done, what goes on, the time left."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lab.run import Spec
from lab.terminal import Plain, printable

QUIET_SECONDS = 15.0


class Display:
    """Listens to a pool. On a terminal a bar for all runs and one for each that goes on; else a line for each that ended.

    Time left assumes that the runs ahead go as fast as those so far, by share of steps done.
    """

    def __init__(self, specs: Sequence[Spec], command: float) -> None:
        self.command, self.started = command, time.monotonic()
        self.total, self.done = len(specs), 0
        self.shares: dict[str, float] = {}
        self.tasks: dict[str, TaskID] = {}
        self.elsewhere: set[str] = set()
        self.first_step: float | None = None
        bare = sys.stderr.stream if isinstance(sys.stderr, Plain) else sys.stderr  # the bars do move the cursor
        console = Console(file=bare)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[note]}", markup=False),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.live = console.is_terminal
        self.overall = self.bars.add_task("", total=max(self.total, 1), note="starting workers")
        self.spoken = self.started

    def expect(self, total: int) -> None:
        """There are so many runs in all, as far as is known by now."""
        self.total = max(total, 1)
        self.bars.update(self.overall, total=self.total)

    def __enter__(self) -> "Display":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, spec: Spec, event: dict[str, Any]) -> None:
        {"step": self._step, "end": self._end, "died": self._died, "held": self._held}[event["event"]](spec, event)

    def summarise(self) -> None:
        """A last line: how long it took."""
        first = "" if self.first_step is None else f"; the first steps were done {self.first_step:.1f} s after the command"
        self._say(f"{self.done} runs in {(time.monotonic() - self.started) / 60:.1f} min{first}")

    def _step(self, spec: Spec, event: dict[str, Any]) -> None:
        if self.first_step is None:
            self.first_step = time.monotonic() - self.command
        self.shares[spec.id] = event["step"] / event["steps"]
        if spec.id not in self.tasks:
            self.tasks[spec.id] = self.bars.add_task(_title(spec), total=1.0, note="")
        self.bars.update(self.tasks[spec.id], completed=self.shares[spec.id], note=f"loss {event['loss']:.3f}")
        self._refresh()
        if not self.live and time.monotonic() - self.spoken > QUIET_SECONDS:
            self._say(f"{self.done} of {self.total} runs done, {self._left()}")

    def _end(self, spec: Spec, event: dict[str, Any]) -> None:
        self.done += 1
        self.shares[spec.id] = 1.0
        if spec.id in self.tasks:
            self.bars.remove_task(self.tasks.pop(spec.id))
        self._refresh()
        if event["status"] == "done":
            outcome = f"{event['score']:.4g} in {event['seconds']:.0f} s"
        else:
            outcome = f"{event['status'].upper()}: {event['reason']}"
        if not self.live or event["status"] != "done":
            self._say(f"[{self.done}/{self.total}] {_title(spec)}: {outcome}; {self._left()}")

    def _died(self, spec: Spec, event: dict[str, Any]) -> None:
        self._say(f"{_title(spec)}: its process ended ({event['reason']}); trying again from its checkpoint")

    def _held(self, spec: Spec, event: dict[str, Any]) -> None:
        if spec.id not in self.elsewhere:
            self.elsewhere.add(spec.id)
            self._say(f"{_title(spec)}: in hand of {event['by']}; the other runs come first")

    def _refresh(self) -> None:
        note = f"{self.done} of {self.total} runs, {self._left()}"
        self.bars.update(self.overall, description="all runs", completed=sum(self.shares.values()), note=note)

    def _left(self) -> str:
        share = sum(self.shares.values())
        if share < 0.02 * self.total:
            return "estimating time"
        seconds = (time.monotonic() - self.started) * (self.total - share) / share
        return f"{seconds / 60:.1f} min left" if seconds >= 90 else f"{seconds:.0f} s left"

    def _say(self, line: str) -> None:
        self.spoken = time.monotonic()
        self.bars.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _title(spec: Spec) -> str:
    return printable(f"{spec.architecture} on {spec.task}, seed {spec.seed}")

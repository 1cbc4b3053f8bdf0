"""The local engine: worker processes side by side, each doing many runs on one thread.

The driver keeps one thread a worker, which hands it a spec at a time over a pipe and reads its events. A worker that dies takes
only its current run with it; the run is tried again from its checkpoint by a fresh worker. A run that another process has in hand
comes last: by then that one has done it, or is dead and it is taken over. A driver that dies closes the pipes, upon which the
workers write a checkpoint and leave.
"""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from lab.run import Run, Spec, Store
from lab.stopping import PATIENCE

ATTEMPTS = 3
NO_LEAK_GATE = "--no-leak-gate"
Listener = Callable[[Spec, dict[str, Any]], None]
"""Told of every event: {"event": "step", "step", "steps", "loss"}, {"event": "end", "status", ...}, {"event": "died", ...} or
{"event": "held", "by"}."""
LOOK_AGAIN = 0.5


class Pool:
    """`workers` processes, started at once (importing torch and Lightning takes seconds) and waiting for work."""

    def __init__(self, workers: int, results: str, plugin_files: Sequence[str], *, leak_gate: bool = True) -> None:
        self._command = [sys.executable, "-m", "lab.worker", *([] if leak_gate else [NO_LEAK_GATE]), results, *plugin_files]
        self._store = Store(results)
        self._processes: list[subprocess.Popen[str] | None] = [self._start() for _ in range(workers)]
        self._stopping = threading.Event()

    def carry_out(self, specs: Sequence[Spec], listener: Listener, more: Callable[[], Sequence[Spec]] = tuple) -> None:
        """Do all of them; returns when the last one ended. A run whose worker died three times is published as failed.

        more: asked after each run for what is to be done besides, now that its outcome is known.

        Raises:
            OSError: a result cannot be written, as on a full disk.
        """
        waiting, changed = deque(specs), threading.Condition()
        active, faults = 0, []

        def tell(spec: Spec, event: dict[str, Any]) -> None:
            with changed:
                listener(spec, event)

        def take() -> Spec | None:
            nonlocal active
            with changed:
                while not waiting and active and not self._stopping.is_set():
                    changed.wait(0.2)  # a run under way may bring more
                if not waiting or self._stopping.is_set():
                    return None
                active += 1
                return waiting.popleft()

        def serve(slot: int) -> None:
            nonlocal active
            while (spec := take()) is not None:
                held = False
                try:
                    held = self._attempts(slot, spec, tell) == "held"
                    with changed:
                        waiting.extend([spec] if held else more())
                except Exception as fault:
                    faults.append(fault)
                    waiting.clear()
                with changed:
                    active -= 1
                    changed.notify_all()
                if held:
                    self._stopping.wait(LOOK_AGAIN)

        threads = [threading.Thread(target=serve, args=(slot,), daemon=True) for slot in range(len(self._processes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a join without a time limit would not let signals through
                thread.join(0.2)
        if faults:
            raise faults[0]

    def close(self, patience: float = PATIENCE + 1) -> None:
        """Let the workers write a checkpoint of what they are doing and leave; end those that do not."""
        self._stopping.set()
        processes = [process for process in self._processes if process is not None]
        for process in processes:
            _close(process.stdin)
        for process in processes:
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close(process.stdout)

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the driver; it tells the workers
        )

    def _attempts(self, slot: int, spec: Spec, tell: Listener) -> str:
        """A run, until it ended, is found in another's hand ("held"), or has killed its worker too often."""
        outcome = ""
        for attempt in range(1, ATTEMPTS + 1):
            outcome = self._one(slot, spec, tell)
            if outcome in ("end", "held") or self._stopping.is_set():
                return outcome
            tell(spec, {"event": "died", "reason": outcome, "attempt": attempt})
        reason = f"its process ended {ATTEMPTS} times: {outcome}"
        if outcome == "signal 9":
            reason += ", as it does where memory runs out; a smaller --batch or fewer --workers need less"
        with self._store.claim(spec.id) as mine:
            if mine is None:
                return "held"
            self._store.publish(Run(id=spec.id, spec=spec, status="failed", reason=reason))
        tell(spec, {"event": "end", "status": "failed", "reason": reason})
        return "end"

    def _one(self, slot: int, spec: Spec, tell: Listener) -> str:
        """One run on one worker: "end", "held", or how the worker died."""
        process = self._processes[slot]
        if process is None:
            process = self._processes[slot] = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asdict(spec)) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                event = json.loads(line)
                tell(spec, event)
                if event["event"] in ("end", "held"):
                    return event["event"]
        except (BrokenPipeError, ValueError):
            pass
        code = process.wait()
        _close(process.stdin)
        _close(process.stdout)
        self._processes[slot] = None
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _close(pipe: Any) -> None:
    """Close a pipe whose other end may be gone."""
    with suppress(BrokenPipeError):
        pipe.close()

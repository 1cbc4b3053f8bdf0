"""A worker of any engine: specs come in on standard input, a JSON line each; events go out on standard output.

What plug-ins print goes to the run's own log.txt. A run that another process has in hand is given back. When standard input
ends, the driver is gone: the run in hand writes its checkpoint and the worker leaves, as on SIGTERM.
"""

import json
import os
import queue
import sys
import threading
import traceback
from typing import Any

from lab import plugins
from lab.claim import LostClaim
from lab.engines.child import NO_LEAK_GATE, Event, ended
from lab.run import Spec, Store
from lab.stopping import INTERRUPTED, Stopping


def main(results: str, plugin_files: list[str], leak_gate: bool) -> None:
    """Serve until standard input ends."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    stopping, inbox = Stopping(), queue.Queue[str | None]()
    stopping.on_signals()

    def tell(event: str, **more: Any) -> None:
        try:
            events.write(json.dumps({"event": event, **more}) + "\n")
            events.flush()
        except BrokenPipeError:
            stopping.set()

    def listen() -> None:
        for line in sys.stdin:
            inbox.put(line)
        stopping.ask()

    def end() -> None:
        stopping.wait()
        inbox.put(None)

    for each in (listen, end):
        threading.Thread(target=each, daemon=True).start()
    for file in plugin_files:
        plugins.add_file(file)
    from lab import training  # seconds of imports, begun while the driver still plans

    store = Store(results)
    while (line := inbox.get()) is not None:
        spec = Spec.read(json.loads(line))
        with open(_log(store, spec), "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        last = carry_out(spec, store, training, tell, stopping, leak_gate)
        if last is None:
            os._exit(INTERRUPTED)  # a thread waits on standard input, which an orderly exit would wait for
        tell(**last)


def carry_out(spec: Spec, store: Store, training: Any, tell: Any, stopping: threading.Event, leak_gate: bool) -> Event | None:
    """Do one run unless it is done; what became of it, as the last event of a run, or None if it was interrupted."""
    with store.claim(spec.id) as mine:
        if mine is None:
            return {"event": "held", "by": str(store.held(spec.id) or "another process")}

        if not store.final(spec.id):
            try:
                training.train(
                    spec,
                    store,
                    progress=lambda step, steps, loss: tell("step", step=step, steps=steps, loss=loss),
                    stop=lambda: mine.kept() and stopping.is_set(),
                    leak_gate=leak_gate,
                )
            except LostClaim:
                return {"event": "held", "by": str(store.held(spec.id) or "another process")}
            except Exception as error:
                traceback.print_exc()
                training.fail(spec, store, error)
        record = store.find(spec.id)
    return None if record is None else ended(record)


def _log(store: Store, spec: Spec) -> str:
    folder = store.folder(spec.id)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / "log.txt")


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != NO_LEAK_GATE]
    main(given[0], given[1:], NO_LEAK_GATE not in sys.argv)

"""A worker of the local engine: specs come in on standard input, a JSON line each; events go out on standard output.

What plug-ins print goes to the run's own log.txt. When standard input ends, the driver is gone: the run in hand writes its
checkpoint and the worker leaves.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from typing import Any

from lab import plugins
from lab.engine import NO_LEAK_GATE
from lab.run import Spec, Store


def main(results: str, plugin_files: list[str], leak_gate: bool) -> None:
    """Serve until standard input ends."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    orphaned = threading.Event()

    def tell(event: str, **more: Any) -> None:
        try:
            events.write(json.dumps({"event": event, **more}) + "\n")
            events.flush()
        except BrokenPipeError:
            orphaned.set()

    inbox: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            inbox.put(line)
        orphaned.set()
        inbox.put(None)

    threading.Thread(target=listen, daemon=True).start()
    for file in plugin_files:
        plugins.add_file(file)
    from lab import training  # seconds of imports, begun while the driver still plans

    store = Store(results)
    while (line := inbox.get()) is not None:
        spec = Spec.read(json.loads(line))
        with open(_log(store, spec), "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        run = carry_out(spec, store, training, tell, orphaned, leak_gate)
        if run["status"] == "interrupted":
            return
        tell("end", **run)


def carry_out(spec: Spec, store: Store, training: Any, tell: Any, orphaned: threading.Event, leak_gate: bool) -> dict[str, Any]:
    """Do one run unless it is done; another process that has it in hand is waited for. What became of it, in brief."""
    while not orphaned.is_set():
        with store.claim(spec.id) as mine:
            if store.final(spec.id):
                break
            if mine:
                try:
                    training.train(
                        spec,
                        store,
                        progress=lambda step, steps, loss: tell("step", step=step, steps=steps, loss=loss),
                        stop=orphaned.is_set,
                        leak_gate=leak_gate,
                    )
                except Exception as error:
                    traceback.print_exc()
                    training.fail(spec, store, error)
                break
        time.sleep(0.5)
    record = store.find(spec.id)
    if record is None:
        return {"status": "interrupted"}
    score = record["scores"].get("test", {}).get(record["metric"])
    return {"status": record["status"], "reason": record["reason"], "score": score, "seconds": record["seconds"]}


def _log(store: Store, spec: Spec) -> str:
    folder = store.folder(spec.id)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / "log.txt")


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != NO_LEAK_GATE]
    main(given[0], given[1:], NO_LEAK_GATE not in sys.argv)

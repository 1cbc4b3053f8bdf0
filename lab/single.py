"""One run in this process: what `lab run` does."""

import functools
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lab.budget import parse_amount, shown
from lab.checkpoint import parts, remove
from lab.distributed import Ranks
from lab.errors import UsageError, within
from lab.execution import PLAIN, Execution
from lab.planning import Planner, tell_plan
from lab.run import Spec, Store
from lab.stopping import Stopping
from lab.training import fail, train

EXIT = {"done": 0, "diverged": 1, "failed": 1}


def run(
    planner: Planner,
    architecture: str,
    task: str,
    budget: str,
    seed: int,
    results: str,
    *,
    threads: int,
    resume: bool,
    leak_gate: bool,
    as_json: bool,
    started: float,
    interrupted: str,
    execution: Execution = PLAIN,
) -> int:
    """Plan a run, do it or find it done, and print its scores; the exit code. interrupted: what is said by one that cannot finish
    its step in time.

    Raises:
        UsageError: the request is wrong, another process is doing this very run, or one of several that did it is gone.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the step is finished and the checkpoint written.
    """
    within("--threads", threads, 1, 1024)
    planned = planner.plan(architecture, task, parse_amount(budget, "--budget"), seed)
    execution.check(planned.spec)
    ranks, store = Ranks(execution), Store(results)
    torch.set_num_threads(threads)
    if not ranks.first:
        return _follow(planned.spec, store, ranks, resume=resume, leak_gate=leak_gate)
    store.check_writable()
    say = functools.partial(print, file=sys.stderr, flush=True)
    tell_plan([planned], int(store.final(planned.spec.id)))
    run_id, folder = planned.spec.id, store.folder(planned.spec.id)
    stopping = Stopping(interrupted)
    stopping.on_signals()
    with store.claim(run_id) as mine:
        if mine is None:
            raise UsageError(
                f"run {run_id} is in hand of {store.held(run_id) or 'another process'}; wait for it, or use another --results"
            )
        if not resume:
            for each in (folder / "run.json", folder / "curve.jsonl", folder / "probes", *parts(folder / "checkpoint")):
                remove(each)
        if not store.final(run_id):
            ticker = Ticker(say, started)
            try:
                with ranks.together():
                    status = train(
                        planned.spec, store, progress=ticker, stop=lambda: mine.kept() and stopping.is_set(),
                        leak_gate=leak_gate, ranks=ranks,
                    ).status  # fmt: skip
            except (UsageError, OSError):  # a full disk says nothing of the run
                raise
            except Exception as error:
                status = fail(planned.spec, store, error).status
                with open(folder / "log.txt", "a", encoding="utf-8") as log:
                    traceback.print_exc(file=log)
            if status == "interrupted":
                raise KeyboardInterrupt
        else:
            say("it was finished before; --restart does it again")
    record = store.find(run_id) or {}
    print(json.dumps(record, indent=1) if as_json else summary(record, folder))
    return EXIT[record["status"]]


def _follow(spec: Spec, store: Store, ranks: Ranks, *, resume: bool, leak_gate: bool) -> int:
    """What another rank than the first does: its share of the run, without a word."""
    stopping = Stopping()
    stopping.on_signals()
    if not (resume and store.final(spec.id)):
        with ranks.together():
            train(spec, store, stop=stopping.is_set, leak_gate=leak_gate, ranks=ranks)
    return 0


def summary(record: dict[str, Any], folder: Path) -> str:
    """Scores, baselines and what was spent, in a few lines."""
    spec = record["spec"]
    lines = [f"{spec['architecture']} on {spec['task']}, seed {spec['seed']}: {record['status']} {record['reason']}".rstrip()]
    for split, scores in record["scores"].items():
        whole = [f"{name} {_number(value)}" for name, value in scores.items() if "[" not in name]
        lines.append(f"{split:<11} {', '.join(whole)}")
    if record["baselines"]:
        lines.append("baselines   " + ", ".join(f"{name} {_number(value)}" for name, value in record["baselines"].items()))
    lines += [f"refused     {name}: {reason}" for name, reason in record["refused"].items()]
    if record.get("leak_gate") == "off":
        lines.append("leak gate   off: whether it sees the future was not tried")
    lines.append(
        f"spent       {shown(record['flops'])} of {shown(spec['budget'])} FLOPs in {record['steps']:,} steps, "
        f"{record['tokens']:,} tokens, {record['seconds']:.1f} s; {record['parameters']:,} parameters"
    )
    return "\n".join([*lines, f"record      {folder / 'run.json'}"])


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


class Ticker:
    """A line of progress now and then."""

    def __init__(self, say: Callable[[str], None], started: float) -> None:
        self.say, self.started, self.first, self.spoken = say, started, True, 0.0

    def __call__(self, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        if self.first:
            self.first, self.begun, self.origin = False, now, step
            self.say(f"first steps done {now - self.started:.1f} s after the command")
        elif now - self.spoken < 5 and step < steps:
            return
        self.spoken = now
        left = (now - self.begun) * (steps - step) / max(step - self.origin, 1)
        self.say(f"step {step} of {steps}, loss {loss:.4f}" + (f", {left:.0f} s left" if step > self.origin else ""))

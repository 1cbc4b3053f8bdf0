"""What the lab's own machinery costs, as ratios measured in one run.

`loop`: the lab's training loop against the plainest PyTorch loop on the same model, batches and optimizer. `workers`: runs an
hour with as many workers as asked for, against one. `tasks`: how fast batches are made, against
how fast they are trained on. Both sides of a comparison take turns, so that a noisy machine disturbs both.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from lab import machine, optimizers
from lab.engines import starter
from lab.model import build_task, model_of
from lab.planning import Planner, Shape
from lab.recipe import Recipe
from lab.run import Spec, Store
from lab.training import Batches, plan_steps, sequence_maps, train, with_auxiliary
from tasks.task import Task

ROUNDS = 5
SMALLEST = "linear_rnn"


def loop(planner: Planner, architecture: str, task: str, steps: int) -> dict[str, Any]:
    """Milliseconds a step of the lab's loop and of a bare one, one thread each, and their ratio: median of paired rounds."""
    machine.tune()
    torch.set_num_threads(1)
    spec = _spec_of(planner, architecture, task, steps)
    pairs = []
    for round_ in range(ROUNDS + 1):
        sides: list[Callable[[], float]] = [lambda: bare(spec, steps), lambda: ours(spec)]
        times = {side: side() for side in (sides if round_ % 2 else reversed(sides))}
        if round_:  # the first round warms up
            pairs.append([times[side] / steps * 1000 for side in sides])
    ratio = statistics.median(mine / plain for plain, mine in pairs)
    plain, mine = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "architecture": spec.architecture, "task": spec.task, "dim": spec.dim, "steps": steps,
        "bare_ms": plain, "lab_ms": mine, "lab_over_bare": ratio,
    }  # fmt: skip


def workers(planner: Planner, architecture: str, task: str, steps: int, count: int) -> dict[str, Any]:
    """Runs an hour with one worker and with `count`, imports not counted, and their ratio."""
    spec = _spec_of(planner, architecture, task, steps)
    rates = {}
    for side in (1, count):
        with tempfile.TemporaryDirectory() as folder:
            pool = starter("local", side)(Store(folder))
            try:
                warm = [replace(spec, seed=1000 + i) for i in range(side)]
                pool.carry_out(warm, lambda *_: None)
                started = time.monotonic()
                pool.carry_out([replace(spec, seed=i) for i in range(4 * count)], lambda *_: None)
                rates[side] = 4 * count / (time.monotonic() - started) * 3600
            finally:
                pool.close()
    return {"workers": count, "runs_an_hour_one": rates[1], "runs_an_hour": rates[count],
            "speed_up": rates[count] / rates[1]}  # fmt: skip


def tasks(forms: Sequence[str]) -> list[dict[str, Any]]:
    """A row a task: tokens a second at which its training batches are made on one core, in the batches that it is trained on
    and in such of 64 sequences, and at which the smallest model (one layer, width 16) trains on it.
    """
    machine.tune()
    torch.set_num_threads(1)
    planner, rows = Planner(Shape(depth=1, dim=16)), []
    for form in forms:
        spec = planner.plan(SMALLEST, form, 1e18, 0).spec
        task = build_task(spec.names[1], spec.task_settings)
        trained = bare(spec, 4) and 16 / bare(spec, 16)
        small, large = (_rate(task, size) for size in (spec.batch, 64))
        rows.append({
            "task": form, "length": task.length, "batch": spec.batch,
            "tokens_per_second": small * spec.batch * task.length, "tokens_per_second_of_64": large * 64 * task.length,
            "model_tokens_per_second": trained * spec.batch * task.length, "times": small / trained,
        })  # fmt: skip
    return rows


def told(rows: list[dict[str, Any]]) -> str:
    """The rows of `tasks` as text."""
    lines = [f"{'task':<40} {'length':>7} {'batch':>6} {'tokens/s':>12} {'of 64':>12} {'model':>10} {'times':>6}"]
    for row in rows:
        made = [row[name] for name in ("tokens_per_second", "tokens_per_second_of_64", "model_tokens_per_second")]
        numbers = f"{made[0]:>12,.0f} {made[1]:>12,.0f} {made[2]:>10,.0f} {row['times']:>6.1f}"
        lines.append(f"{row['task']:<40} {row['length']:>7} {row['batch']:>6} {numbers}")
    lines.append("tokens/s: made in batches as trained on; of 64: in batches of 64 sequences; model: trained on by one layer of")
    return "\n".join([*lines, f"{SMALLEST} of width 16; times: how much faster they are made than that"])


def _rate(task: Task, size: int) -> float:
    """Batches a second of processor time: the best of three stretches of a tenth of a second, after one to warm up."""
    task.batch("train", 0, size, 0)
    best, index = 0.0, 1
    for _ in range(3):
        started, calls = time.process_time(), 0
        while (passed := time.process_time() - started) < 0.1 or not calls:
            task.batch("train", index, size, 0)
            index, calls = index + 1, calls + 1
        best = max(best, calls / passed)
    return best


def bare(spec: Spec, steps: int) -> float:
    """Seconds of `steps` steps in a plain loop: batch, forward, backward, clip, update, the loss as a number.

    What a task makes once, with its first batch, is not part of them.
    """
    recipe = Recipe.read(spec.recipe)
    task = build_task(spec.names[1], spec.task_settings)
    torch.manual_seed(spec.seed)
    model = model_of(spec, task)
    optimizer = optimizers.optimizer(recipe, model)
    maps = sequence_maps(model)
    task.batch("train", 0, spec.batch, spec.seed)
    started = time.monotonic()
    for batch in islice(Batches(task, spec.batch, spec.seed), steps):
        loss = task.loss(model(batch.inputs, batch.positions, batch.lengths), batch.targets)
        optimizer.zero_grad()
        with_auxiliary(loss, maps).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or math.inf)
        optimizer.step()
        loss.item()
    return time.monotonic() - started


def ours(spec: Spec) -> float:
    """Seconds of training in the lab's loop, as its record has them."""
    with tempfile.TemporaryDirectory() as folder:
        return train(spec, Store(folder)).seconds


def _spec_of(planner: Planner, architecture: str, task: str, steps: int) -> Spec:
    """A spec whose budget buys exactly `steps` steps."""
    planned = planner.plan(architecture, task, 1e18, 0)
    made = build_task(planned.spec.names[1], planned.spec.task_settings)
    with torch.device("meta"):
        model = model_of(planned.spec, made)
    per_step = plan_steps(model, made, planned.spec)[1]
    return replace(planned.spec, budget=float(per_step * steps))

"""What the lab's own machinery costs, as ratios measured in one run.

`loop`: the lab's training loop against the plainest PyTorch loop on the same model, batches and optimizer. `workers`: runs an
hour with as many workers as asked for, against one. Both sides take turns, so that a noisy machine disturbs both.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from lab import machine
from lab.budget import step_flops
from lab.engine import Pool
from lab.model import build, build_task
from lab.planning import Planner
from lab.recipe import Recipe
from lab.run import Spec, Store
from lab.training import Batches, sequence_maps, train, with_auxiliary

ROUNDS = 5


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
            pool = Pool(side, folder, [])
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


def bare(spec: Spec, steps: int) -> float:
    """Seconds of `steps` steps in a plain loop: batch, forward, backward, clip, AdamW, the loss as a number."""
    recipe = Recipe(**spec.recipe)
    task = build_task(spec.names[1], spec.task_settings)
    torch.manual_seed(spec.seed)
    model = build(spec.names[0], task, dim=spec.dim, depth=spec.depth, settings=spec.settings)
    optimizer = torch.optim.AdamW(recipe.groups(model), betas=recipe.betas, eps=recipe.eps, fused=True)
    maps = sequence_maps(model)
    started = time.monotonic()
    for batch in islice(Batches(task, spec.batch, spec.seed), steps):
        loss = task.loss(model(batch.inputs, batch.positions), batch.targets)
        optimizer.zero_grad()
        with_auxiliary(loss, maps).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
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
        model = build(planned.spec.names[0], made, dim=planned.spec.dim, depth=planned.spec.depth,
                      settings=planned.spec.settings)  # fmt: skip
    per_step = step_flops(model.flops(made.length, made.answers), planned.spec.batch)
    return replace(planned.spec, budget=float(per_step * steps))

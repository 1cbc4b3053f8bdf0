"""A frontier: learning rates tuned if asked, the iso-FLOP sweep of each architecture, and how long it all takes."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pandas import DataFrame

from lab import machine
from lab.analysis.frame import results as load_results
from lab.budget import shown
from lab.engines import starter
from lab.engines.local import side_by_side
from lab.overhead import bare
from lab.planning import Planned, Planner, Shape
from lab.run import Store
from lab.settling import settle
from lab.sweep import Grid, Sweep, depth_of
from lab.tuning import Choice, Search, choose

TIMED_STEPS = 3


@dataclass(frozen=True)
class Found:
    """What came of a frontier: the runs of each set-up's sweep, and what was tuned at which size."""

    runs: dict[str, DataFrame]
    choices: dict[str, dict[float, Choice]]


def tell_plan(sweeps: Mapping[str, Sweep], searches: Mapping[tuple[str, float], Search], workers: int) -> None:
    """Print FLOPs, runs and hours of what is foreseen, with speeds measured here and now.

    Foreseen are the trials of the learning rates, and sweeps whose optima lie where the first guess says.
    """
    machine.tune()
    torch.set_num_threads(1)
    width = max(15, *map(len, sweeps))
    foreseen = {
        name: [*(trial for (of, _), search in searches.items() if of == name for trial in search.wanted({})), *sweep.expected()]
        for name, sweep in sweeps.items()
    }
    print(f"  {'':<{width}}   runs   FLOPs   {'parameters':>20}   GFLOP/s a core   hours", file=sys.stderr)
    total, hours, flops = 0, 0.0, 0.0
    for name, runs in foreseen.items():
        speed = _speed(runs)
        mine = sum(each.spec.budget / speed(each.parameters) for each in runs) / 3600 / workers
        sizes = sorted(each.parameters for each in runs)
        slow, fast = sorted(speed(size) / 1e9 for size in (sizes[0], sizes[-1]))
        spent = sum(each.spec.budget for each in runs)
        print(
            f"  {name:<{width}} {len(runs):>6} {shown(spent):>7}   {f'{sizes[0]:,} to {sizes[-1]:,}':>20}   "
            f"{f'{slow:.1f} to {fast:.1f}':>14} {mine:>7.2f}",
            file=sys.stderr,
        )
        total, hours, flops = total + len(runs), hours + mine, flops + spent
    told = f"{total} runs, {shown(flops)} FLOPs, about {hours:.2f} hours of training with {workers} workers"
    print(f"{told}, if optima lie where the first guess is; less what is done, and evaluation besides", file=sys.stderr)


@dataclass(frozen=True)
class Setup:
    """What a frontier is of: an architecture, and the planner with its recipe and batch."""

    architecture: str
    planner: Planner


def carry_out(
    setups: Mapping[str, Setup],
    task: str,
    grid: Grid,
    *,
    depth: int | None = None,
    trials: int | None = None,
    results: str = "results",
    workers: int | None = None,
    engine: str = "local",
    plugin_files: Sequence[str] = (),
    leak_gate: bool = True,
    plan_only: bool = False,
    started: float | None = None,
) -> Found:
    """The sweeps of all set-ups, by their names; only what is missing in the store is done.

    depth: layers of every size, or a depth that grows with the size. trials: learning rates to try at the smallest, the middle
    and the largest optimum that is foreseen; None: the recipe's for all.

    Raises:
        UsageError: something in the request is unknown, ill-typed or refused; nothing was started.
        BudgetError: a budget does not pay for a step.
    """
    called = time.monotonic() if started is None else started
    side = side_by_side(workers)
    start = starter(engine, workers or 0, plugin_files, leak_gate=leak_gate)
    sweeps = {name: Sweep(setup.planner, setup.architecture, task, grid, depth) for name, setup in setups.items()}
    tuned_at = {grid.budgets[i] for i in (0, len(grid.budgets) // 2, -1)} if trials else ()
    searches = {
        (name, size): Search(_sized(sweep.planner, size, depth), sweep.architecture, task, budget, trials or 0)
        for name, sweep in sweeps.items()
        for budget in sorted(tuned_at)
        for size in [sweep.likely(budget)]
    }
    store = Store(results)
    store.check_writable()
    tell_plan(sweeps, searches, side)
    if plan_only:
        return Found({}, {})

    choices: dict[str, dict[float, Choice]] = {}
    if searches:
        for (name, size), choice in choose(searches, results, start, called).items():
            choices.setdefault(name, {})[size] = choice
        sweeps = {name: _tuned(sweep, choices[name]) for name, sweep in sweeps.items()}
    foreseen = sum(len(sweep.expected()) for sweep in sweeps.values())
    outcomes = settle(list(sweeps.values()), store, start, foreseen, called)
    records = load_results(results)
    return Found({name: sweep.frame(records, outcomes) for name, sweep in sweeps.items()}, choices)


def _sized(planner: Planner, size: float, depth: int | None) -> Planner:
    return replace(planner, shape=Shape(depth=depth or depth_of(size), size=size))


def _tuned(sweep: Sweep, choices: dict[float, Choice]) -> Sweep:
    """A sweep with the rates that were chosen, of the form that was best at the largest size."""
    rates = {size: choice.lr for size, choice in choices.items()}
    return Sweep(sweep.planner, choices[max(choices)].architecture, sweep.task, sweep.grid, sweep.depth, rates)


def _speed(runs: Sequence[Planned]) -> Callable[[float], float]:
    """FLOP/s of one core by parameters, from a few steps of the smallest, a middle and the largest model."""
    ordered = sorted({each.parameters: each for each in runs}.items())
    probes = [ordered[i] for i in sorted({0, len(ordered) // 2, len(ordered) - 1})]
    measured = []
    for parameters, planned in probes:
        bare(planned.spec, 1)
        seconds = bare(planned.spec, TIMED_STEPS) / TIMED_STEPS
        measured.append((parameters, planned.spec.budget / planned.steps / seconds))
    sizes, rates = np.log(np.array(measured, float)).T
    return lambda parameters: float(np.exp(np.interp(np.log(parameters), sizes, rates)))

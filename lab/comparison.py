"""A comparison: plan it, do what is missing, read back a frame."""

import time
from collections.abc import Sequence

from pandas import DataFrame

from lab import plugins
from lab.analysis.frame import results as load_results
from lab.engines import starter
from lab.engines.local import side_by_side
from lab.errors import UsageError
from lab.planning import Planner, missing, plan_all, tell_plan
from lab.progress import Display
from lab.run import Store
from lab.tuning import Search, choose


def compare(
    architectures: Sequence[str],
    tasks: Sequence[str],
    budgets: Sequence[float],
    seeds: int = 3,
    *,
    results: str = "results",
    workers: int | None = None,
    engine: str = "local",
    planner: Planner | None = None,
    plugin_files: Sequence[str] = (),
    started: float | None = None,
    leak_gate: bool = True,
    trials: int | None = None,
) -> DataFrame:
    """Every architecture on every task at every budget with seeds 0 ... seeds-1; a row a run, as `lab.results` gives.

    Runs that are in the store are not done again. Files with plug-ins are made known first; their code is run. The time to the
    first step is told from `started` (of time.monotonic) on, or from the call. Without `leak_gate`, backbones that see the future
    are trained too. With `trials`, so many learning rates are tried for each architecture, task and budget before.

    Raises:
        UsageError: something in the request is unknown, ill-typed or refused; nothing was started.
        KeyboardInterrupt: after the workers wrote their checkpoints.
    """
    side_by_side(workers)
    start = starter(engine, workers or 0, plugin_files, leak_gate=leak_gate)
    called = time.monotonic()
    store, planner = Store(results), planner or Planner()

    ready = None if trials else start(store)  # first of all: it imports while this one plans
    try:
        for file in plugin_files:
            plugins.add_file(file)
        planned = plan_all(planner, architectures, tasks, budgets, seeds)
        store.check_writable()
        if trials:
            first = [each for each in planned if each.spec.seed == 0]
            searches = {
                each.spec.id: Search(planner, each.spec.architecture, each.spec.task, each.spec.budget, trials) for each in first
            }
            chosen = choose(searches, results, start, started or called)
            tuned = {run_id: searches[run_id].planned(choice) for run_id, choice in chosen.items()}
            planned = plan_all(planner, architectures, tasks, budgets, seeds, tuned)
            ready = start(store)
        open_runs = missing(planned, store)
        tell_plan(planned, len(planned) - len(open_runs))
        if open_runs and ready:
            with Display([each.spec for each in open_runs], started or called) as display:
                largest_first = sorted(open_runs, key=lambda each: -each.spec.budget)
                ready.carry_out([each.spec for each in largest_first], display)
            display.summarise()
    except UsageError:
        if ready:
            ready.close(patience=0)
        raise
    finally:
        if ready:
            ready.close()
    frame = load_results(results)
    return frame.loc[frame["id"].isin([each.spec.id for each in planned])].reset_index(drop=True)

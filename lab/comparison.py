"""A comparison: plan it, do what is missing, read back a frame."""

import os
import time
from collections.abc import Sequence

from pandas import DataFrame

from lab import plugins
from lab.analysis.frame import results as load_results
from lab.engine import Pool
from lab.errors import UsageError, within
from lab.planning import Planner, missing, plan_all, tell_plan
from lab.progress import Display
from lab.run import Store


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compare(
    architectures: Sequence[str],
    tasks: Sequence[str],
    budgets: Sequence[float],
    seeds: int = 3,
    *,
    results: str = "results",
    workers: int | None = None,
    planner: Planner | None = None,
    plugin_files: Sequence[str] = (),
    started: float | None = None,
    leak_gate: bool = True,
) -> DataFrame:
    """Every architecture on every task at every budget with seeds 0 ... seeds-1; a row a run, as `lab.results` gives.

    Runs that are in the store are not done again. Files with plug-ins are made known first; their code is run. The time to the
    first step is told from `started` (of time.monotonic) on, or from the call. Without `leak_gate`, backbones that see the future
    are trained too.

    Raises:
        UsageError: something in the request is unknown, ill-typed or refused; nothing was started.
        KeyboardInterrupt: after the workers wrote their checkpoints.
    """
    within("--workers", workers, 1, 1024)
    called = time.monotonic()
    pool = Pool(workers or cores(), results, plugin_files, leak_gate=leak_gate)  # first of all: it imports while this one plans
    try:
        for file in plugin_files:
            plugins.add_file(file)
        planned = plan_all(planner or Planner(), architectures, tasks, budgets, seeds)
        store = Store(results)
        store.check_writable()
        open_runs = missing(planned, store)
        tell_plan(planned, len(planned) - len(open_runs))
        if open_runs:
            with Display([each.spec for each in open_runs], started or called) as display:
                pool.carry_out([each.spec for each in open_runs], display)
            display.summarise()
    except UsageError:
        pool.close(patience=0)
        raise
    finally:
        pool.close()
    frame = load_results(results)
    return frame.loc[frame["id"].isin([each.spec.id for each in planned])].reset_index(drop=True)

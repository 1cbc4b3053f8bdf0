"""The Slurm engine: an array of jobs, one a run, handed in by submitit; `cluster=local` has them as processes here instead.

Jobs write into the store, which must lie in a folder that all nodes see; so do the driver's notes and the jobs' logs, in
<results>/slurm. A job that is preempted or out of time writes its checkpoint and is queued again. Jobs outlive a driver that is
killed; a second one finds what they did.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lab.engines.child import Event, Orders, cores, ended, supervised
from lab.errors import UsageError, nearest
from lab.run import Spec, Store

LARGEST_ARRAY = 1000
"""Slurm's own default of MaxArraySize, less one."""
MINUTES = 60
REQUEUED = 1000
"""How often a job that is out of time is queued again."""
SETTINGS = ("cluster", "partition", "account", "qos", "constraint", "minutes")


def read(given: str) -> dict[str, str]:
    """Settings, as in partition=gpu,minutes=240.

    Raises:
        UsageError: submitit or Slurm is not there, or a setting is unknown or ill-typed.
    """
    if find_spec("submitit") is None:
        raise UsageError("--engine slurm: submitit is not installed; pip install 'sequence-lab[slurm]'")
    settings = {name: value for name, _, value in (each.partition("=") for each in given.split(",") if given)}
    for name, value in settings.items():
        if name not in SETTINGS:
            raise UsageError(f"--engine slurm: no setting {name[:200]!r}; {nearest(name, list(SETTINGS))}")
        if not value:
            raise UsageError(f"--engine slurm:{name}=: needs a value")
    minutes = settings.get("minutes", "")
    if minutes and not (minutes.isdecimal() and int(minutes) > 0):
        raise UsageError(f"--engine slurm:minutes={minutes[:200]}: must be a whole number of minutes")
    if settings.get("cluster", "slurm") not in ("slurm", "local"):
        raise UsageError(f"--engine slurm:cluster={settings['cluster'][:200]}: must be slurm or local")
    if settings.get("cluster") != "local" and shutil.which("sbatch") is None:
        raise UsageError("--engine slurm: no sbatch here; start it where jobs are submitted, or try slurm:cluster=local")
    return settings


@dataclass(frozen=True)
class Job:
    """What a job does; it is pickled."""

    spec: Spec
    orders: Orders

    def __call__(self) -> Event:
        """The last event of the run."""
        store = Store(self.orders.results)
        if store.final(self.spec.id) and (record := store.find(self.spec.id)):
            return ended(record)
        return list(supervised(self.spec, self.orders))[-1]

    def checkpoint(self) -> Any:
        """What is to be queued again. The process is left upon this, so the worker writes its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Slurm:
    """Jobs of a Slurm cluster, `workers` at once, or as many as it gives; with cluster=local, processes here."""

    def __init__(self, settings: dict[str, str], workers: int, orders: Orders) -> None:
        files = tuple(str(Path(file).resolve()) for file in orders.plugin_files)
        self._orders = Orders(str(Path(orders.results).resolve()), files, orders.leak_gate)
        self._settings, self._workers, self._store = settings, workers, Store(self._orders.results)
        self._local = settings.get("cluster") == "local"
        self._jobs: dict[Any, Spec] = {}

    def places(self) -> int:
        """As many as an array may have; here, where nothing queues them, as many as go at once."""
        return (self._workers or cores()) if self._local else LARGEST_ARRAY

    def submit(self, specs: Sequence[Spec]) -> None:
        """An array of jobs, with one core and the memory that the largest run needs."""
        from submitit import AutoExecutor

        from lab.memory import request

        executor = AutoExecutor(
            self._store.root / "slurm",
            cluster="local" if self._local else "slurm",
            slurm_max_num_timeout=REQUEUED,
            local_max_num_timeout=REQUEUED,
        )
        cluster = {name: value for name, value in self._settings.items() if name not in ("cluster", "minutes")}
        slurm: dict[str, Any] = {f"slurm_{name}": value for name, value in cluster.items()}
        if self._workers:
            slurm["slurm_array_parallelism"] = self._workers
        executor.update_parameters(
            name="lab",
            timeout_min=int(self._settings.get("minutes", MINUTES)),
            cpus_per_task=1,
            mem_gb=max(request(spec) for spec in specs) / 2**30,
            **slurm,
        )
        with executor.batch():
            jobs = [executor.submit(Job(spec, self._orders)) for spec in specs]
        self._jobs |= dict(zip(jobs, specs, strict=True))

    def events(self) -> Iterable[tuple[Spec, Event]]:
        """Of jobs that ended: Slurm tells nothing before."""
        time.sleep(0.2)
        for job in [job for job in self._jobs if job.done()]:
            yield self._jobs.pop(job), _last(job)

    def close(self, patience: float) -> None:
        """Cancel the jobs, and wait for those that run to have written their checkpoints."""
        for job in self._jobs:
            job.cancel(check=False)
        until = time.monotonic() + patience
        while time.monotonic() < until and any(self._store.held(spec.id) for spec in self._jobs.values()):
            time.sleep(0.1)


def _last(job: Any) -> Event:
    from submitit.core.utils import UncompletedJobError

    try:
        return job.result()
    except UncompletedJobError as error:  # its other kind, FailedJobError, is one too
        return {"event": "died", "reason": " ".join(str(error).split())[:300]}

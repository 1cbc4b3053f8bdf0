"""The Ray engine: a task of Ray Core for each run, see `lab.engines.node`.

A task that is lost with its worker or its node is tried again by the pool; Ray itself repeats nothing. A cluster that is started
here listens on the loopback device alone, without dashboard and telemetry.
"""

import hashlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from lab.engines.child import Event, Orders, cores, ended
from lab.engines.node import Session, carry_out, source
from lab.errors import UsageError
from lab.process import UNTUNED
from lab.run import Spec, Store, write_durably

OBJECT_STORE = 128 << 20
"""Bytes of shared memory for what tasks return; the files of a run are small."""
IN_FLIGHT = 2
"""Tasks handed to Ray for each core that it has, so that no core waits and thousands of runs do not queue there."""
INHERITED = (UNTUNED,)


def check(address: str) -> None:
    """See that a cluster could be joined at an address, or started where there is none.

    Raises:
        UsageError: Ray is not installed, or the address is not one.
    """
    if find_spec("ray") is None:
        raise UsageError("--engine ray: Ray is not installed; pip install 'sequence-lab[ray]'")
    host, _, port = address.rpartition(":")
    if address not in ("", "auto") and not (host and port.isdecimal() and "/" not in host):
        raise UsageError(f"--engine ray:{address[:200]}: must be ray:HOST:PORT, as of ray start --head, ray:auto, or ray alone")


@dataclass
class Task:
    """A run in hand of Ray; `hand` is the driver's own claim on it, where its node has none."""

    spec: Spec
    hand: ExitStack = field(default_factory=ExitStack)


class Ray:
    """A cluster that is joined at an address, or is started with `workers` cores where there is none; not before it is needed."""

    def __init__(self, address: str, workers: int, orders: Orders) -> None:
        files = tuple(str(Path(file).resolve()) for file in orders.plugin_files)
        self._orders = replace(orders, results=str(Path(orders.results).resolve()), plugin_files=files)
        self._address, self._workers, self._store = address, workers, Store(self._orders.results)
        self._tasks: dict[Any, Task] = {}

    def places(self) -> int:
        """As many as asked for of a cluster that others may use too, else a few more than it has cores."""
        if self._address and self._workers:
            return self._workers
        return max(1, IN_FLIGHT * int(self._ray.cluster_resources().get("CPU", 0)))

    def submit(self, specs: Sequence[Spec]) -> None:
        """A task each, with one core, the memory that it needs, and a GPU where the cluster has any."""
        from lab.memory import request

        gpus = min(1, self._ray.cluster_resources().get("GPU", 0))
        largest = max((node["Resources"].get("memory", 0) for node in self._ray.nodes() if node["Alive"]), default=0)
        for spec in specs:
            folder = self._store.folder(spec.id)
            folder.mkdir(parents=True, exist_ok=True)
            token = folder / f".token.{uuid.uuid4().hex}"  # swept with all that starts with a dot when the run is claimed
            token.touch()
            options = {"num_cpus": 1, "num_gpus": gpus, "memory": min(request(spec), int(largest)), "name": f"lab {spec.id}"}
            task = self._remote.options(**options).remote(asdict(spec), str(token), self._session)
            self._tasks[task] = Task(spec)

    def events(self) -> Iterable[tuple[Spec, Event]]:
        """What the tasks told, at most one event of each."""
        if not self._tasks:
            time.sleep(0.2)
            return
        ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0.2, fetch_local=False)
        for each in ready:
            task, event = self._tasks[each], self._heard(each)
            if event["event"] == "start" and not event["shared"]:
                event = self._taken(each, task)
            if event["event"] == "files":
                for name, content in event["files"].items():
                    write_durably(self._store.folder(task.spec.id) / Path(name).name, content)
            if event["event"] in ("start", "files", "kept"):
                continue
            if event["event"] != "step":
                del self._tasks[each]
                task.hand.close()
            yield task.spec, event

    def close(self, patience: float) -> None:
        """Cancel the tasks, wait for them to have written their checkpoints, leave the cluster or end that of our own."""
        if "_ray" not in self.__dict__:
            return
        try:
            for each in self._tasks:
                self._ray.cancel(each)
            until = time.monotonic() + patience
            while self._tasks and time.monotonic() < until:
                for _ in self.events():
                    pass
        finally:
            for task in self._tasks.values():
                task.hand.close()
            self._ray.shutdown()

    def _heard(self, each: Any) -> Event:
        try:
            return self._ray.get(next(each))
        except StopIteration:
            return {"event": "died", "reason": "its task ended without a word"}
        except self._ray.exceptions.RayError as error:
            return {"event": "died", "reason": _told(error)}

    def _taken(self, each: Any, task: Task) -> Event:
        """Have a run in hand here for a node that does not see this store; "start", or why it need not go on."""
        mine = task.hand.enter_context(self._store.claim(task.spec.id))
        record = self._store.find(task.spec.id) if self._store.final(task.spec.id) else None
        if mine is not None and record is None:
            return {"event": "start"}
        self._ray.cancel(each)
        return ended(record) if record else {"event": "held", "by": str(self._store.held(task.spec.id) or "another process")}

    @cached_property
    def _session(self) -> Session:
        name = hashlib.sha256(f"{os.uname().nodename}:{self._orders.results}".encode()).hexdigest()[:16]
        return Session(self._orders, source(self._orders.plugin_files), name)

    @cached_property
    def _remote(self) -> Any:
        options = {"max_retries": 0, "num_returns": "streaming", "_generator_backpressure_num_objects": 1}
        return self._ray.remote(**options)(lambda *given: (yield from carry_out(*given)))  # Ray wants to see a plain generator

    @cached_property
    def _ray(self) -> ModuleType:
        """Ray, connected.

        Raises:
            UsageError: there is no cluster at the address, or none can be started.
        """
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if not self._address:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # without it Ray takes 127.0.0.1 for the address of the network
        import ray
        from ray._private import worker

        worker._worker_logs_enabled = False  # it would print about lost workers; the pool does
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        local: dict[str, Any] = {
            "num_cpus": self._workers or cores(), "object_store_memory": OBJECT_STORE,
            "include_dashboard": False, "_node_ip_address": "127.0.0.1",
        }  # fmt: skip
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(
                self._address or "local",
                **({} if self._address else local),
                runtime_env={"env_vars": inherited} if inherited else None,
                log_to_driver=False,
                configure_logging=False,
            )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            told = " ".join(str(error).split())[:200]
            raise UsageError(f"--engine ray{':' * bool(self._address)}{self._address}: no cluster to be had ({told})") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        return ray


def _told(error: Exception) -> str:
    """What Ray's exceptions say, in a line."""
    known = {
        "WorkerCrashedError": "its Ray worker was lost",
        "NodeDiedError": "its node was lost",
        "ObjectLostError": "its node was lost",
        "OutOfMemoryError": "Ray ended it as the memory of its node ran out",
        "TaskCancelledError": "it was cancelled",
    }
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return next((told for kind, told in known.items() if kind in kinds), " ".join(str(error).split())[-300:])

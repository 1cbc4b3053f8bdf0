"""Where runs are carried out: side by side here, on a Ray cluster, or as jobs of Slurm. One engine a file.

All have the interface of `Engine`; a `Pool` drives one. What an engine needs to be installed is imported when it is asked for.
"""

from collections.abc import Callable, Sequence

from lab.engines.child import Orders
from lab.engines.pool import Engine as Engine
from lab.engines.pool import Pool as Pool
from lab.errors import UsageError, nearest
from lab.run import Store

ENGINES = ("local", "ray", "slurm")
Start = Callable[[Store], Pool]


def starter(engine: str, workers: int, plugin_files: Sequence[str] = (), *, leak_gate: bool = True) -> Start:
    """What starts a pool for a store. engine: as `--engine` takes it. workers: runs at once, or 0 for as many as there is room.

    Raises:
        UsageError: there is no such engine, it is not installed, or its settings are wrong.
    """
    name, _, given = engine.partition(":")

    def orders(store: Store) -> Orders:
        return Orders(str(store.root), tuple(plugin_files), leak_gate)

    if name == "local" and not given:
        from lab.engines.local import Local, side_by_side

        return lambda store: Pool(Local(side_by_side(workers or None), orders(store)), store)
    if name == "ray":
        from lab.engines import ray

        ray.check(given)
        return lambda store: Pool(ray.Ray(given, workers, orders(store)), store)
    if name == "slurm":
        from lab.engines import slurm

        settings = slurm.read(given)
        return lambda store: Pool(slurm.Slurm(settings, workers, orders(store)), store)
    raise UsageError(f"--engine {engine[:200]}: no such engine; {nearest(engine, list(ENGINES))}")

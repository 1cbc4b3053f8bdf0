"""How long the frame, the curves and the report of a large store take, on made-up records.

PYTHONPATH=tests python -m big_store --runs 100000 --store results/big

Ten architectures on four tasks at 25 budgets, as many seeds as it takes; a store that is there is used again. Each part is
timed in a process of its own, in seconds of its processor and of the wall, with the peak of its memory. Then come the rates at
which the store and the pool do what each run needs of them.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import records

from lab import analysis, machine
from lab.run import Spec

ARCHITECTURES = ("transformer", "linear_rnn", "lstm", "s4", "rwkv", "mamba", "retnet", "dilated", "hyena", "gla")
TASKS = tuple(records.QUALITY)
BUDGETS = tuple(float(f"{1e10 * 1.3**i:.3g}") for i in range(25))
CELLS = len(ARCHITECTURES) * len(TASKS) * len(BUDGETS)
CURVE_ROWS = 200
EACH = 500


def make(root: Path, runs: int) -> None:
    """Fill a store with `runs` runs, rounded up to whole seeds."""
    for seed in range(-(-runs // CELLS)):
        for task in TASKS:
            for budget in BUDGETS:
                for place, architecture in enumerate(ARCHITECTURES):
                    _run(root, records.spec(architecture, task, seed, budget=budget), place)


def _run(root: Path, spec: Spec, place: int) -> None:
    rng = np.random.default_rng([spec.seed, place, TASKS.index(spec.task), int(spec.budget)])
    best = records.QUALITY[spec.task][place % 3]
    grown = BUDGETS.index(spec.budget) / len(BUDGETS)
    score = best + rng.normal(0, 0.04) + (1 - grown if best > 1 else 0) if best > 1 else best * (0.3 + 0.7 * grown)
    score = float(score if best > 1 else np.clip(score + rng.normal(0, 0.04), 0, 1))
    made = records.run(spec, score)
    folder = root / "runs" / made.id
    folder.mkdir(parents=True, exist_ok=True)
    steps = np.unique(np.linspace(max(1, made.steps // CURVE_ROWS), made.steps, CURVE_ROWS).astype(int))
    share = steps / made.steps
    loss = np.exp(rng.normal(0, 0.08, len(steps))) * (1 + 3 * np.exp(-9 * share**0.7))
    scored = np.floor(np.log(steps) / np.log(1.15))
    rows = [
        {"step": int(step), "tokens": int(made.tokens * at), "flops": int(made.flops * at), "seconds": made.seconds * at,
         "loss": value} | ({"score": score * at} if here else {})
        for step, at, value, here in zip(steps, share.tolist(), loss.tolist(), np.diff(scored, append=np.inf) > 0, strict=True)
    ]  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(asdict(spec), indent=1))
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text(json.dumps(asdict(made), indent=1))


def frame(root: Path) -> None:
    analysis.results(root)


def report(root: Path) -> None:
    """As `lab report` makes it."""
    import contextlib
    import io

    from lab.commands.draw import report

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        report(results=str(root), out=str(root / "report"))
    (root / "report.txt").write_text(shown.getvalue())


def rates() -> dict[str, float]:
    """How often a second one process does what the store and the pool do for each run, on this disk."""
    from lab.engines import Pool
    from lab.run import Store

    with tempfile.TemporaryDirectory() as folder:
        store, one = Store(folder), records.run(records.spec(), 0.9)
        specs = [records.spec(seed=seed) for seed in range(EACH)]

        def claimed(spec: Spec) -> None:
            with store.claim(spec.id):
                pass

        found = {}
        for name, do in (
            ("runs claimed", claimed),
            ("records published", lambda spec: store.publish(replace(one, id=spec.id, spec=spec))),
            ("finished runs found", lambda spec: store.final(spec.id)),
        ):
            started = time.perf_counter()
            for spec in specs:
                do(spec)
            found[name] = EACH / (time.perf_counter() - started)
        started = time.perf_counter()
        Pool(Nothing(), store).carry_out(specs, lambda *_: None)
        return found | {"runs handed out": EACH / (time.perf_counter() - started)}


class Nothing:
    """An engine whose runs end as they are handed over."""

    def __init__(self) -> None:
        self._ended: list[Spec] = []

    def places(self) -> int:
        return 64

    def submit(self, specs: Sequence[Spec]) -> None:
        self._ended += specs

    def events(self) -> Iterable[tuple[Spec, dict[str, str]]]:
        ended, self._ended = self._ended, []
        return ((spec, {"event": "end", "status": "done"}) for spec in ended)

    def close(self, patience: float) -> None:
        pass


def timed(part: Callable[[Path], None], root: Path) -> tuple[float, float, float]:
    """Seconds of the processor, of the wall, and the peak in GB."""
    import lab.analysis.report  # noqa: F401  imports are not timed

    started, spent = time.perf_counter(), time.process_time()
    part(root)
    return time.process_time() - spent, time.perf_counter() - started, machine.peak_memory() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--store", type=Path, required=True)
    given = parser.parse_args()
    root = given.store / str(given.runs)
    if not root.exists():
        make(root, given.runs)
    print(f"{given.runs:,} runs, {CELLS // len(ARCHITECTURES)} tasks and budgets   processor s   wall s   peak GB")
    for part in (frame, report):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            processor, wall, peak = pool.apply(timed, (part, root))
        print(f"{part.__name__:<40}{processor:>12.1f}{wall:>9.1f}{peak:>10.2f}", flush=True)
    for name, rate in rates().items():
        print(f"{name:<40}{rate:>12,.0f} a second")


if __name__ == "__main__":
    main()

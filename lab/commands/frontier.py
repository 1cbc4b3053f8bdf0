"""`lab frontier`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lab.commands.common import STARTED, Flag, Names, Training, command, material_of, print_json

USUAL = Training()


def frontier(
    *,
    architectures: Names,
    task: str = "text",
    budgets: Names,
    sizes: int = 7,
    seeds: int = 1,
    depth: int | None = None,
    tune: int | None = None,
    workers: int | None = None,
    engine: str = "local",
    training: Training = USUAL,
    leak_gate: Annotated[bool, Parameter(negative="--no-leak-gate")] = True,
    plan: Flag = False,
    out: str | None = None,
    json: Flag = False,
) -> int:
    """Find the lowest loss at each of several budgets, and how many times the FLOPs one architecture needs of another.

    At each budget several sizes are trained; a parabola through their losses gives the loss at the best size (an iso-FLOP sweep).
    Only runs that are missing are done.

    Parameters
    ----------
    architectures
        Names, with settings if wanted. The others are set against the first.
    task
        Name, with settings if wanted.
    budgets
        Training FLOPs: several amounts, or FIRST:LAST:COUNT for a geometric row, like 1e11:1e13:5.
    sizes
        Models at each budget, within a factor of 4 either way of where the optimum is expected.
    seeds
        Runs of the three sizes next to the optimum at budgets up to the middle one; elsewhere one.
    depth
        Layers of every size; a depth that grows with the size where none is given.
    tune
        Try so many learning rates for each architecture, at the smallest, the middle and the largest optimum foreseen.
    workers
        Runs side by side, one thread each; where none is given as many as there are GPUs, or else cores.
    engine
        Where runs are carried out: local; ray, or ray:HOST:PORT to join a cluster; slurm, as in slurm:partition=cpu,minutes=240.
    leak_gate
        Refuse a backbone that sees the future of a causal task; --no-leak-gate trains it, and records and reports say so.
    plan
        Only tell how many runs, FLOPs and hours it will take.
    out
        Folder for figures and report; <results>/frontier where none is given.
    json
        Print frontiers and multipliers as JSON.
    """
    from lab import frontier as frontiers
    from lab import plugins
    from lab.budget import parse_budgets
    from lab.sweep import Grid

    planner = training.planner()
    names = [plugins.recorded("architectures", text) for text in architectures]
    setups = {name: frontiers.Setup(name, planner) for name in names}
    found = frontiers.carry_out(
        setups, task, Grid(parse_budgets(budgets), sizes, seeds), depth=depth, trials=tune, results=training.results,
        workers=workers, engine=engine, plugin_files=training.plugin or [], leak_gate=leak_gate, plan_only=plan, started=STARTED,
    )  # fmt: skip
    if plan:
        return 0
    from pandas import concat

    from lab import analysis
    from lab.analysis import sweeps

    summary = sweeps.summarise(found.runs)
    if json:
        tuned = {name: {f"{size:.0f}": asdict(choice) for size, choice in sized.items()} for name, sized in found.choices.items()}
        print_json(summary.as_json() | {"tuned": tuned})
    else:
        print(summary)
        frame = concat(found.runs.values(), ignore_index=True)
        folder = Path(out or f"{training.results}/frontier")
        reference = frame["architecture"].iloc[0]
        path = analysis.write_report(material_of(frame, training.results, reference), folder, command())
        print(f"\nreport:  {path}\nfigures: {folder / 'figures'}")
    return 1 if any("failed" in set(runs["status"]) for runs in found.runs.values()) else 0

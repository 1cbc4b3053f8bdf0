"""`lab study`."""

from pathlib import Path
from typing import TYPE_CHECKING

from lab.commands.common import STARTED, Flag, Training, present, print_json

if TYPE_CHECKING:
    from lab.study import Ladder

USUAL = Training()


def study(
    name: str, /, *, workers: int | None = None, engine: str = "local", training: Training = USUAL, plan: Flag = False,
    out: str | None = None, json: Flag = False,
) -> int:  # fmt: skip
    """Carry out a declared study: a comparison, or a ladder from one set-up to another. Only runs that are missing are done.

    Parameters
    ----------
    name
        A study of the lab by name, or a TOML file of your own.
    workers
        Runs side by side, one thread each; where none is given as many as there are GPUs, or else cores.
    engine
        Where runs are carried out: local; ray, or ray:HOST:PORT to join a cluster; slurm, as in slurm:partition=cpu,minutes=240.
    plan
        Only tell how many runs, FLOPs and hours a ladder will take.
    out
        Folder for figures and tables; <results>/<study> where none is given.
    json
        Print results as JSON.
    """
    from lab.study import Ladder, read_any

    declared = read_any(name)
    folder = Path(out or f"{training.results}/{Path(name).stem}")
    if isinstance(declared, Ladder):
        return _ladder(declared, training, workers, engine, plan, folder, json)
    from lab.budget import parse_amount
    from lab.comparison import compare

    budgets = [parse_amount(amount, "--budget") for amount in declared.budgets]
    frame = compare(
        declared.architectures, declared.tasks, budgets, results=training.results, workers=workers, engine=engine,
        planner=training.planner(), plugin_files=training.plugin or [], started=STARTED,
    )  # fmt: skip
    if json:
        print_json(frame)
    else:
        print(declared.question)
        present(frame, training.results, str(folder))
    return 1 if "failed" in set(frame["status"]) else 0


def _ladder(
    declared: "Ladder", training: Training, workers: int | None, engine: str, plan: bool, folder: Path, json: bool
) -> int:
    from dataclasses import replace

    from pandas import concat

    from lab import analysis, plugins, presets
    from lab.analysis.ladder import ladder, told
    from lab.budget import parse_budgets
    from lab.errors import UsageError
    from lab.frontier import Setup, carry_out
    from lab.sweep import Grid

    planner = training.planner()
    if training.recipe is not None:
        raise UsageError(f"--recipe {training.recipe}: a ladder's steps name their own recipes")
    setups = {
        step.name: Setup(
            plugins.canonical("architectures", *plugins.parse("architectures", step.architecture)),
            replace(planner, recipe=presets.read(step.recipe) if step.recipe else None),
        )
        for step in declared.steps
    }
    grid = Grid(parse_budgets(declared.budgets), declared.sizes, declared.seeds)
    found = carry_out(
        setups, declared.task, grid, trials=declared.tune or None, results=training.results, workers=workers, engine=engine,
        plugin_files=training.plugin or [], plan_only=plan, started=STARTED,
    )  # fmt: skip
    if plan:
        return 0
    table = ladder(found.runs)
    frame = concat(found.runs.values(), ignore_index=True)
    material = analysis.Material(frame, analysis.curves(training.results), ladder=table)
    paths = analysis.draw_all(material, folder, "ladder")
    table.to_csv(folder / "steps.csv", index=False)
    if json:
        print_json(table)
    else:
        print(f"{declared.question}\n\n{told(table, declared.steps[0].name)}")
        print("\n".join(map(str, [folder / "steps.csv", *paths])))
    return 1 if any("failed" in set(runs["status"]) for runs in found.runs.values()) else 0

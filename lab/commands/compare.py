"""`lab compare` and `lab run`."""

from typing import Annotated

from cyclopts import Parameter

from lab.commands.common import STARTED, USUAL, Flag, Names, Setup, interrupted, present, print_json
from lab.execution import PLAIN, Execution


def compare(
    *,
    architectures: Names | None = None,
    tasks: Names | None = None,
    budget: Names | None = None,
    seeds: int = 3,
    workers: int | None = None,
    engine: str = "local",
    study: str = "default",
    tune: int | None = None,
    setup: Setup = USUAL,
    leak_gate: Annotated[bool, Parameter(negative="--no-leak-gate")] = True,
    out: str | None = None,
    json: Flag = False,
) -> int:
    """Compare architectures on tasks at equal training FLOPs; only runs that are missing are done.

    Parameters
    ----------
    architectures
        Names, with settings if wanted: transformer:preset=gpt2,heads=2. None given: those of the study.
    tasks
        Names, with settings if wanted: recall:pairs=16. None given: those of the study.
    budget
        Training FLOPs of each run, like 3e11 or 10TF; several give a comparison at each.
    seeds
        Runs of each combination, with seeds 0, 1, 2, ...
    workers
        Runs side by side, one thread each; where none is given as many as there are GPUs, or else cores.
    engine
        Where runs are carried out: local; ray, or ray:HOST:PORT to join a cluster; slurm, as in slurm:partition=cpu,minutes=240.
    study
        Where what is not given comes from: a study of the lab by name (default, mad), or a TOML file of your own.
    tune
        Try so many learning rates first for each architecture, task and budget; together they cost one run more.
    leak_gate
        Refuse a backbone that sees the future of a causal task; --no-leak-gate trains it, and records and reports say so.
    out
        Folder for figures and report; <results>/compare where none is given.
    json
        Print the results as JSON.
    """
    from lab.budget import parse_amount
    from lab.comparison import compare as carry_out
    from lab.run import check_writable
    from lab.study import comparison

    declared = comparison(study)
    if out:
        check_writable(out, "--out")
    frame = carry_out(
        architectures or declared.architectures,
        tasks or declared.tasks,
        [parse_amount(amount, "--budget") for amount in budget or declared.budgets],
        seeds,
        results=setup.results,
        workers=workers,
        engine=engine,
        planner=setup.planner(),
        plugin_files=setup.plugin or [],
        started=STARTED,
        leak_gate=leak_gate,
        trials=tune,
    )
    if json:
        print_json(frame)
    else:
        present(frame, setup.results, out or f"{setup.results}/compare")
    return 1 if "failed" in set(frame["status"]) else 0


def run(
    *,
    architecture: str,
    task: str,
    budget: str,
    seed: int = 0,
    threads: int = 1,
    setup: Setup = USUAL,
    execution: Annotated[Execution, Parameter(name="*", negative="")] = PLAIN,
    resume: Annotated[bool, Parameter(negative="--restart")] = True,
    leak_gate: Annotated[bool, Parameter(negative="--no-leak-gate")] = True,
    json: Flag = False,
) -> int:
    """Train one architecture on one task; the same command again continues or finds the run.

    Parameters
    ----------
    architecture
        Name, with settings if wanted: transformer:preset=gpt2.
    task
        Name, with settings if wanted: text:path=MY.txt.
    budget
        Training FLOPs, like 1e12 or 1TF.
    seed
        Seed of the initial weights and of the order of the data.
    threads
        Threads of this process. One, as in compare, gives the very numbers of compare.
    resume
        Continue from the checkpoint, or find the finished run; --restart forgets both.
    leak_gate
        Refuse a backbone that sees the future of a causal task; --no-leak-gate trains it, and records and reports say so.
    json
        Print the record as JSON.
    """
    from lab import single

    return single.run(
        setup.planner(), architecture, task, budget, seed, setup.results,
        threads=threads, resume=resume, leak_gate=leak_gate, as_json=json, started=STARTED, interrupted=f"lab: {interrupted()}",
        execution=execution,
    )  # fmt: skip

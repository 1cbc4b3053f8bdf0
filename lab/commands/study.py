"""`lab study`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lab.commands.common import STARTED, Flag, Names, add_plugins, command, print_json
from lab.errors import UsageError


def study(
    name: Annotated[str | None, Parameter(negative="")] = None,
    /,
    *,
    scale: float = 1.0,
    workers: int | None = None,
    engine: str = "local",
    plan: Flag = False,
    plugin: Names | None = None,
    results: str = "results",
    out: str | None = None,
    yes: Flag = False,
    json: Flag = False,
) -> int:
    """Put a claim to the test: measure what a declared study asks for, and say whether the data support it.

    Runs, and what probes found in them, are kept; the same command again does only what is missing.

    Parameters
    ----------
    name
        A study of the lab by name, or a TOML file of your own; none: list those of the lab.
    scale
        Multiply every budget by this, for a larger machine.
    workers
        Runs side by side, one thread each; where none is given as many as there are GPUs, or else cores.
    engine
        Where runs are carried out: local; ray, or ray:HOST:PORT to join a cluster; slurm, as in slurm:partition=cpu,minutes=240.
    plan
        Only tell how many runs, FLOPs and hours it will take.
    plugin
        Python files with an architecture or a task, known by the file's name. Their code is run.
    results
        Folder of the runs.
    out
        Folder for the page, figures and tables; <results>/studies/<name> where none is given.
    yes
        Begin also what needs more than half of the memory there is.
    json
        Print the verdict, the sentence and the clauses as JSON.
    """
    from lab.study import Runs, names, read

    if name is None:
        for each in names():
            print(f"{each:<28} {read(each).question}")
        return 0
    if not 0 < scale <= 1e12:
        raise UsageError(f"--scale {scale}: must be above 0 and at most 1e12")
    declared = read(name)
    add_plugins(plugin)
    from lab import evidence
    from lab.run import check_writable

    site = evidence.Site(results, workers, engine, plugin or [], scale, yes, STARTED)
    folder = Path(out or Path(results, "studies", Path(name).stem))
    if plan:
        for part, each in declared.parts.items():
            print(f"{part}: {evidence.plan(each, site)}")
        return 0
    check_writable(str(folder), "--out" if out else "--results")
    gathered = {part: evidence.gather(part, each, site) for part, each in declared.parts.items()}
    from lab import analysis
    from lab.publication import publish

    curves = analysis.curves(results)
    found = publish(Path(name).stem, declared, gathered, curves, folder, command())
    if json:
        print_json(found | {"folder": str(folder)})
    else:
        told = [each.said for each in gathered.values() if each.said]
        compared = [gathered[part].runs for part, each in declared.parts.items() if isinstance(each, Runs)]
        tables = [analysis.render(runs, curves) for runs in compared]
        print("\n\n".join([declared.question, *tables, *told, found["sentence"]]).rstrip())
        print(f"page:    {folder / 'README.md'}\nfigures: {folder / 'figures'}")
    failed = any("failed" in set(each.runs["status"]) for each in gathered.values() if len(each.runs))
    return 1 if failed else 0

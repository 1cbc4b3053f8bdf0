"""What can be believed: `lab check`, `lab verify`, `lab doctor`."""

import builtins
import os
from dataclasses import asdict, replace
from typing import Annotated

from cyclopts import Parameter

from lab.commands.common import Flag, Names, add_plugins, print_json
from lab.errors import UsageError


def check(
    names: Annotated[list[str] | None, Parameter(negative="")] = None,
    /,
    *,
    all: Flag = False,
    verbose: Flag = False,
    device: str = "cpu",
    plugin: Names | None = None,
    json: Flag = False,
) -> int:
    """Hold architectures to the laws of the contract: causality, streaming, FLOPs, gradients, and more.

    Parameters
    ----------
    names
        Architectures, with settings if wanted.
    all
        Check every architecture there is, and end with a table of them.
    verbose
        Print numerical errors by length too: float32 against float64, streaming against forward, bfloat16 against float32.
    device
        Where to compute: cpu, or cuda, or one of several as cuda:1.
    plugin
        Python files with an architecture of your own.
    json
        Print JSON.
    """
    from lab import plugins

    added = [plugins.add_file(file) for file in plugin or []]
    chosen = plugins.names("architectures") if all else names or added
    if not chosen:
        raise UsageError("check: name an architecture, or give --all")
    from lab import numerics, overview
    from lab.conformance import check as check_one

    for text in chosen:
        plugins.parse("architectures", text)
    reports = {}
    for text in chosen:
        reports[text] = check_one(text, lengths=numerics.LENGTHS if verbose else overview.LENGTHS if all else (), device=device)
        if not json:
            print(f"{reports[text] if verbose else replace(reports[text], errors=())}\n", flush=True)
    if json:
        print_json(
            {
                text: {"laws": [asdict(law) for law in report.results], "errors": [asdict(at) for at in report.errors]}
                for text, report in reports.items()
            }
        )
    elif all:
        print(overview.summary(list(reports.values())))
    return 0 if builtins.all(report.passed for report in reports.values()) else 1


def verify(
    runs: Annotated[list[str] | None, Parameter(negative="")] = None,
    /,
    *,
    all: Flag = False,
    results: str = "results",
    plugin: Names | None = None,
) -> int:
    """Recompute what a record says: id, FLOPs, data, curve, ranges; a line for each thing that is off, and exit code 1.

    Parameters
    ----------
    runs
        Ids, or folders of results/runs.
    all
        Verify every run of a store.
    results
        Folder of the runs.
    plugin
        Python files with an architecture or a task that the runs used. Their code is run.
    """
    if bool(runs) == all:
        raise UsageError("verify: name runs by id or folder, or give --all")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a record may name data of the hub; none are fetched for that
    from lab.run import Store
    from lab.verification import folders
    from lab.verification import verify as verify_one

    add_plugins(plugin)
    sound = True
    for folder in folders(runs or [], Store(results)):
        verdict = verify_one(folder)
        sound &= not verdict.faults
        print(verdict, flush=True)
    return 0 if sound else 1


def doctor(*, results: str = "results") -> int:
    """Say which engines can be used here, and what is broken in the store, the cache and the installation, and how to mend it;
    exit code 1 if anything is broken.

    Parameters
    ----------
    results
        Folder of the runs.
    """
    from lab.doctor import engines, examine

    found = examine(results)
    for line in [*engines(), *found]:
        print(" ".join(line.split()))
    if not found:
        print("nothing is broken")
    return 1 if found else 0

"""`lab probe`: what is inside trained models."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, Parameter

from lab.commands.common import Flag, Names, add_plugins, print_json
from lab.errors import UsageError, within

if TYPE_CHECKING:
    from pandas import DataFrame

probe = App(
    name="probe",
    help="Look inside the trained models of stored runs: a table, a figure of all runs named, and columns of the results.",
    help_format="plaintext",
)
QUESTIONS = {
    "influence": "How much does an output depend on inputs before it, before and after training; where does attention look?",
    "memory": "How large is the state by context, and how well can a signal be read back from it?",
    "position": "What is the loss by position in the context, and does it still fall at the end?",
    "copied": "What is the loss on bytes that complete something already in the context, by distance, and on the others?",
    "recall-map": "What is the accuracy by distance and number of pairs; which positions can be reached in 1, 2, ... layers?",
    "spectrum": "What are the eigenvalues and time scales of the recurrences, before and after training?",
    "flops": "Where do FLOPs go, by part of the model and by kind?",
    "throughput": "How many tokens a second are trained, by length and batch?",
}
ROWS = 16
"""Lines of a table that are printed of each run."""


@Parameter(name="*")
@dataclass(frozen=True)
class Looking:
    """Where the runs are, and where what was found goes.

    Attributes
    ----------
    results
        Folder of the runs.
    out
        Folder for the tables and figures; <results>/figures/probes where none is given.
    plugin
        Python files with an architecture or a task that a run used. Their code is run.
    json
        Print JSON.
    """

    results: str = "results"
    out: str | None = None
    plugin: Names | None = None
    json: Flag = False


USUAL = Looking()


@probe.command
def noise_scale(*runs: str, measurements: int = 16, looking: Looking = USUAL) -> None:
    """How large is the gradient noise at a run's last weights, and which batch does it suggest?

    Parameters
    ----------
    runs
        Ids, or folders, of runs.
    measurements
        Pairs of gradients, of the run's batch and of sixteen of them.
    """
    within("--measurements", measurements, 2, 1 << 16)
    look("noise-scale", runs, looking, measurements=measurements)


@probe.command
def extrapolation(*runs: str, times: int = 64, looking: Looking = USUAL) -> None:
    """What happens past the training length: score, size and spread of the state; stable, degrades or diverges?

    Parameters
    ----------
    runs
        Ids, or folders, of runs.
    times
        The longest sequences, in training lengths.
    """
    within("--times", times, 2, 1 << 16)
    look("extrapolation", runs, looking, times=times)


@probe.command
def stream(*runs: str, positions: int = 1 << 20, looking: Looking = USUAL) -> None:
    """What is recalled of one sequence without end by distance, at constant memory; what would a transformer need?

    Parameters
    ----------
    runs
        Ids, or folders, of runs.
    positions
        How many are read, one after the other: a few hundred thousand a second.
    """
    within("--positions", positions, 1, 1 << 50)
    look("stream", runs, looking, positions=positions)


def _command(name: str, question: str) -> Callable[..., None]:
    def command(*runs: str, looking: Looking = USUAL) -> None:
        look(name, runs, looking)

    command.__doc__ = f"{question}\n\nParameters\n----------\nruns\n    Ids, or folders, of runs."
    return command


for _name, _question in QUESTIONS.items():
    probe.command(_command(_name, _question), name=_name)


def look(name: str, runs: Sequence[str], looking: Looking, **asked: Any) -> None:
    """Probe runs, keep what was found beside their records, and show it: tables on standard output, figures in a folder.

    Raises:
        UsageError: no run is named, one has no weights, or the probe applies to none.
    """
    if not runs:
        raise UsageError(f"lab probe {name}: name a run; ls {looking.results}/runs has their ids")
    from lab.analysis.canvas import write
    from lab.analysis.figures.probes import probe_charts
    from lab.probes import probing
    from lab.run import Store, plain

    add_plugins(looking.plugin)
    findings, refused = probing.look(name, runs, Store(looking.results), **asked)
    for reason in refused:
        print(f"left out: {reason}", file=sys.stderr)
    names = probing.names(runs, Store(looking.results))
    folder = Path(looking.out or Path(looking.results, "figures", "probes"))
    files = [
        path
        for chart in probe_charts(findings, names).values()
        for path in write(chart, chart.data, folder, chart.name, chart.caption)
    ]
    if looking.json:
        about = [dict(zip(("row", "task"), names[each.run], strict=True)) for each in findings]
        told = [{"run": each.run, "said": each.said, "numbers": plain(each.numbers)} for each in findings]
        print_json([each | more | {"files": [str(path) for path in files]} for each, more in zip(told, about, strict=True)])
        return
    for each in findings:
        row, column = names[each.run]
        print(f"{row} on {column}, run {each.run}\n{each.said}\n")
        sheet = next(iter(each.sheets.values()))
        print(_table(sheet.table, sheet.view.shade) + "\n")
    print("\n".join(f"written: {path}" for path in files if path.suffix in (".png", ".csv")))


def _table(table: "DataFrame", shade: str) -> str:
    """At most `ROWS` rows of each shade, evenly by the logarithm of their place."""
    from numpy import geomspace, unique
    from pandas import concat

    parts = [part for _, part in table.groupby(shade, sort=False)] if shade else [table]
    some = [
        part.iloc[unique(geomspace(1, len(part), ROWS).round().astype(int)) - 1] if len(part) > ROWS else part for part in parts
    ]
    return concat(some).to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-")

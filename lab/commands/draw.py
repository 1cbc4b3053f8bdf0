"""What a store holds, drawn and told: `lab plot`, `lab report`."""

from pathlib import Path

from lab.commands.common import Names, present, stored
from lab.run import check_writable


def plot(*, results: str = "results", out: str | None = None, task: Names | None = None) -> None:
    """Draw every figure that the runs in a store allow, as PNG, SVG and CSV.

    Parameters
    ----------
    results
        Folder of the runs.
    out
        Folder for the figures; <results>/figures where none is given.
    task
        Only these tasks.
    """
    from lab import analysis

    check_writable(out or results, "--out" if out else "--results")
    frame = stored(results, task)
    for path in analysis.draw_all(frame, analysis.curves(results), Path(out or f"{results}/figures")):
        print(path)


def report(*, results: str = "results", out: str | None = None, task: Names | None = None) -> None:
    """Write one HTML page about all runs in a store.

    Parameters
    ----------
    results
        Folder of the runs.
    out
        Folder for the page; <results>/report where none is given.
    task
        Only these tasks.
    """
    check_writable(out or results, "--out" if out else "--results")
    present(stored(results, task), results, out or f"{results}/report")

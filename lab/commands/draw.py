"""What a store holds, drawn and told: `lab plot`, `lab report`."""

from difflib import get_close_matches
from pathlib import Path

from lab.commands.common import Names, present, stored
from lab.errors import UsageError
from lab.run import check_writable


def plot(
    kind: str | None = None, /, *, results: str = "results", out: str | None = None, task: Names | None = None,
    reference: str | None = None,
) -> None:  # fmt: skip
    """Draw figures from the runs in a store, as PNG, SVG, PDF and CSV.

    Parameters
    ----------
    kind
        frontier, multiplier, isoflop, ... (docs/plots.md has all); every figure that the runs allow where none is given.
    results
        Folder of the runs.
    out
        Folder for the figures; <results>/figures where none is given.
    task
        Only these tasks.
    reference
        Architecture of a sweep that the others are set against; the first by name where none is given.
    """
    from lab import analysis
    from lab.analysis.figures import KINDS

    if kind is not None and kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1)
        raise UsageError(f"lab plot {kind}: no such figure; {f'{near[0]} is one, ' if near else ''}all: {', '.join(KINDS)}")
    check_writable(out or results, "--out" if out else "--results")
    material = analysis.Material(stored(results, task), analysis.curves(results), reference)
    paths = analysis.draw_all(material, Path(out or f"{results}/figures"), *([kind] if kind else []))
    if kind and not paths:
        raise UsageError(f"lab plot {kind}: --results {results} lacks {KINDS[kind].needs}")
    for path in paths:
        print(path)


def report(*, results: str = "results", out: str | None = None, task: Names | None = None, reference: str | None = None) -> None:
    """Write one HTML page about all runs in a store.

    Parameters
    ----------
    results
        Folder of the runs.
    out
        Folder for the page; <results>/report where none is given.
    task
        Only these tasks.
    reference
        Architecture of a sweep that the others are set against; the first by name where none is given.
    """
    check_writable(out or results, "--out" if out else "--results")
    present(stored(results, task), results, out or f"{results}/report", reference)

"""What a store holds, drawn and told: `lab plot`, `lab report`."""

from difflib import get_close_matches
from pathlib import Path

from lab.commands.common import Names, material_of, present, stored
from lab.errors import UsageError, within
from lab.run import check_writable


def plot(
    kind: str | None = None, /, *, results: str = "results", out: str | None = None, task: Names | None = None,
    reference: str | None = None, panels: int | None = None,
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
    panels
        Tasks and budgets that a figure of a comparison shows at most, the largest budget of each task first; 12 where none is
        given. Tables have all.
    """
    from lab import analysis
    from lab.analysis.figures import KINDS

    if kind is not None and kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1)
        raise UsageError(f"lab plot {kind}: no such figure; {f'{near[0]} is one, ' if near else ''}all: {', '.join(KINDS)}")
    _check(panels, results, out)
    material = material_of(stored(results, task), results, reference, panels)
    paths = analysis.draw_all(material, Path(out or f"{results}/figures"), *([kind] if kind else []))
    if kind and not paths:
        raise UsageError(f"lab plot {kind}: --results {results} lacks {KINDS[kind].needs}")
    for path in paths:
        print(path)


def report(
    *, results: str = "results", out: str | None = None, task: Names | None = None, reference: str | None = None,
    panels: int | None = None,
) -> None:  # fmt: skip
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
    panels
        Tasks and budgets that a figure of a comparison shows at most, the largest budget of each task first; 12 where none is
        given. Tables have all.
    """
    _check(panels, results, out)
    present(stored(results, task), results, out or f"{results}/report", reference, panels)


def _check(panels: int | None, results: str, out: str | None) -> None:
    if panels is not None:
        within("--panels", panels, 1, 1000)
    check_writable(out or results, "--out" if out else "--results")

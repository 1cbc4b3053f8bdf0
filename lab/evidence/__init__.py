"""What a study measures: a file for each kind of part, with `gather(part, site) -> Evidence` and `plan(part, site) -> str`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pandas as pd

from lab.study import KINDS, Part

if TYPE_CHECKING:
    from lab.analysis.canvas import Chart
    from lab.analysis.findings import Finding
    from lab.planning import Planner


@dataclass(frozen=True)
class Site:
    """Where and how parts are carried out. scale: what budgets are multiplied by."""

    results: str = "results"
    workers: int | None = None
    engine: str = "local"
    plugin_files: Sequence[str] = ()
    scale: float = 1.0
    yes: bool = False
    started: float | None = None

    def planner(self, **settings: Any) -> "Planner":
        """For models of the usual shape, or of the one given."""
        from lab.planning import Planner

        return Planner(yes=self.yes, **settings)


@dataclass(frozen=True)
class Evidence:
    """rows: what rules read: what tells rows apart, the seed, and quantities, with `<quantity>_low` and `<quantity>_high` where a
    row has an interval of its own. runs: as of `lab.results`. findings: of probes. charts: of what else was measured.
    reference: the architecture that the others of a sweep are compared with.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    findings: Sequence["Finding"] = ()
    charts: Sequence["Chart"] = ()
    said: str = ""
    reference: str | None = None


def gather(name: str, part: Part, site: Site) -> Evidence:
    """All that a part measures, its rows and charts with the part's name; runs in the store are not done again.

    Raises:
        UsageError: something in it is unknown or refused.
    """
    found = _module(part).gather(part, site)
    for chart in found.charts:
        chart.name += f"-{name}"
    return replace(found, rows=found.rows.assign(part=name))


def plan(part: Part, site: Site) -> str:
    """What a part will take, in words; nothing is carried out."""
    return _module(part).plan(part, site)


def _module(part: Part) -> Any:
    (name,) = (name for name, kind in KINDS.items() if type(part) is kind)
    return import_module(f"lab.evidence.{name}")

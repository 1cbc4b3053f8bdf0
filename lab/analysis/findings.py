"""What probes found in runs: tables with how to draw them, kept beside the records as `<run>/probes/<probe>.json`.

A record never changes; what is found later in a run's weights lies beside it, and `results` shows its numbers as columns
`<probe>.<number>`. A finding names the weights that it was made from, so that one of other weights is left out.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lab.run import plain, write_durably
from lab.terminal import printable

SCHEMA = 1
Value = float | int | str | None


@dataclass(frozen=True)
class View:
    """How a table is drawn; x, y, low, high, panel, shade and value name its columns.

    kind: lines, with bars from low to high; points; bars, stacked by shade; or a map of `value`, a panel for each run.
    panel: a panel for each of its values. shade: its first value is drawn full, the others fainter.
    ylim: ends of the axis. ticks: values of x that are named. reverse: y grows downwards.
    """

    x: str
    y: str
    xlabel: str
    ylabel: str
    caption: str
    kind: Literal["lines", "points", "bars", "map"] = "lines"
    panel: str = ""
    shade: str = ""
    low: str = ""
    high: str = ""
    value: str = ""
    valuelabel: str = ""
    logx: bool = False
    logy: bool = False
    ylim: tuple[float, float] | None = None
    reverse: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table and how it is drawn."""

    table: pd.DataFrame
    view: View


@dataclass(frozen=True)
class Finding:
    """What a probe found in one run.

    sheets: by name; the first, named as the probe, is the main one. numbers: what is worth a column of `results`. said: the
    finding in one line.
    """

    sheets: dict[str, Sheet]
    numbers: Mapping[str, Value]
    said: str
    probe: str = ""
    run: str = ""
    weights: str = ""
    asked: dict[str, Any] = field(default_factory=dict)


def weights_of(folder: Path) -> str:
    """The SHA-256 of the run's newest checkpoint, as the file beside it says."""
    try:
        return (folder / "checkpoint.sha256").read_text("ascii").split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""


def keep(finding: Finding, folder: Path) -> Path:
    """Write a finding into a run's folder, in the place of an older one of the same probe; the file."""
    (folder / "probes").mkdir(exist_ok=True)
    sheets = {
        name: {
            "view": dataclasses.asdict(sheet.view),
            "table": _record(sheet.table),
        }
        for name, sheet in finding.sheets.items()
    }
    whole = {each.name: getattr(finding, each.name) for each in dataclasses.fields(finding)}
    file = folder / "probes" / f"{finding.probe}.json"
    write_durably(file, json.dumps(plain({"schema": SCHEMA} | whole | {"sheets": sheets})).encode())
    return file


def kept(folder: str | Path) -> list[Finding]:
    """The findings of a run's present weights. What cannot be read, or a newer lab made, is left out."""
    found = []
    for record in _records(folder):
        try:
            sheets = {
                name: Sheet(pd.DataFrame(each["table"]["data"], columns=each["table"]["columns"]), _view(each["view"]))
                for name, each in record["sheets"].items()
            }
            known = {each.name for each in dataclasses.fields(Finding)} - {"sheets"}
            found.append(Finding(sheets=sheets, **{name: value for name, value in record.items() if name in known}))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


def numbers(folder: str | Path) -> dict[str, Value]:
    """All numbers of a run's findings by column: `<probe>.<number>`, the probe with _ for -."""
    return {
        printable(f"{record['probe'].replace('-', '_')}.{name}"): printable(value) if isinstance(value, str) else value
        for record in _records(folder)
        if isinstance(record.get("numbers"), dict)
        for name, value in record["numbers"].items()
        if value is None or isinstance(value, (float, int, str))
    }


def _records(folder: str | Path) -> list[dict[str, Any]]:
    try:
        files = sorted(name for name in os.listdir(os.path.join(folder, "probes")) if name.endswith(".json"))
    except OSError:
        return []
    folder = Path(folder)
    weights, records = weights_of(folder), []
    for name in files:
        try:
            record = json.loads((folder / "probes" / name).read_bytes())
            if record["schema"] <= SCHEMA and record["weights"] == weights and isinstance(record["probe"], str):
                records.append(record)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return records


def _record(table: pd.DataFrame) -> dict[str, Any]:
    return json.loads(str(table.to_json(orient="split", index=False, double_precision=12)))


def _view(record: dict[str, Any]) -> View:
    known = {each.name for each in dataclasses.fields(View)}
    made: dict[str, Any] = {name: value for name, value in record.items() if name in known}
    made["ylim"] = tuple(made["ylim"]) if made.get("ylim") else None
    return View(**made)

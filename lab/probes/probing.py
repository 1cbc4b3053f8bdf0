"""A probe on several runs: all are found first, then each is measured, and what was found is kept beside its record."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from lab.analysis.findings import Finding, keep, weights_of
from lab.analysis.frame import results
from lab.analysis.labels import labelled
from lab.probes.subject import Subject
from lab.run import Store


def look(probe: str, runs: Sequence[str], store: Store, **asked: Any) -> list[Finding]:
    """A finding for each run (an id, or a folder). asked: settings of the probe.

    Raises:
        UsageError: a run has no weights that can be read, or the probe does not apply to one.
    """
    measure = import_module(f"lab.probes.{probe.replace('-', '_')}").measure
    subjects = [Subject.of(run, store) for run in dict.fromkeys(runs)]
    found = []
    for subject in subjects:
        finding = replace(
            measure(subject, **asked), probe=probe, run=subject.folder.name, weights=weights_of(subject.folder), asked=asked
        )
        keep(finding, subject.folder)
        found.append(finding)
    return found


def names(runs: Sequence[str], store: Store) -> dict[str, tuple[str, str]]:
    """What the runs' rows and columns are called, by their ids: as in a comparison of them where all have records."""
    folders = [Path(run) if "/" in run else store.folder(run) for run in dict.fromkeys(runs)]
    found = {}
    for folder in folders:
        spec = json.loads((folder / "spec.json").read_text("utf-8"))
        found[folder.name] = spec["architecture"], spec["task"]
    frame = results(store.root)
    labels = labelled(frame[frame["id"].isin(found)])
    return found | {run: (row, column) for run, row, column in zip(labels["id"], labels["row"], labels["column"], strict=True)}

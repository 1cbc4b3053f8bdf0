"""A probe on several runs: all are found first, then each is measured, and what was found is kept beside its record."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from lab.analysis.findings import Finding, keep, weights_of
from lab.analysis.frame import results
from lab.analysis.labels import labelled
from lab.errors import UsageError
from lab.probes.subject import Subject
from lab.run import Store


def look(probe: str, runs: Sequence[str], store: Store, **asked: Any) -> tuple[list[Finding], list[str]]:
    """A finding for each run (an id, or a folder) that the probe applies to, and why not for the others. asked: its settings.

    Raises:
        UsageError: a run has no weights that can be read, or the probe applies to none.
    """
    measure = import_module(f"lab.probes.{probe.replace('-', '_')}").measure
    subjects = [Subject.of(run, store) for run in dict.fromkeys(runs)]
    found, refused = [], []
    for subject in subjects:
        try:
            measured = measure(subject, **asked)
        except UsageError as error:
            refused.append(str(error))
            continue
        weights = weights_of(subject.folder)
        found.append(replace(measured, probe=probe, run=subject.folder.name, weights=weights, asked=asked))
        keep(found[-1], subject.folder)
    if not found:
        raise UsageError(refused[0])
    return found, refused


def names(runs: Sequence[str], store: Store) -> dict[str, tuple[str, str]]:
    """What the runs' rows and columns are called, by their ids: as in a comparison of them where all have records."""
    folders = [store.named(run) for run in dict.fromkeys(runs)]
    found = {}
    for folder in folders:
        spec = json.loads((folder / "spec.json").read_text("utf-8"))
        found[folder.name] = spec["architecture"], spec["task"]
    frame = results(store.root)
    labels = labelled(frame[frame["id"].isin(found)])
    return found | {run: (row, column) for run, row, column in zip(labels["id"], labels["row"], labels["column"], strict=True)}

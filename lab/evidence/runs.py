"""Trained runs, what probes find in them, and how they stand after equal time."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import os

import numpy as np
import pandas as pd
import torch

from lab.analysis import findings
from lab.analysis.frame import curves, results
from lab.budget import parse_amount, shown
from lab.comparison import compare
from lab.errors import UsageError
from lab.evidence import Evidence, Site
from lab.frontier import TIMED_STEPS
from lab.overhead import bare
from lab.planning import Planner, Shape, plan_all
from lab.probes import probing
from lab.run import Store
from lab.study import Runs


def gather(part: Runs, site: Site) -> Evidence:
    """Rows: every column of `lab.results`; tokens_per_second; loss_at_equal_time: training loss when the first of the runs of
    its task, budget and seed ended; loss_at_equal_tokens: when the one that read fewest tokens did.
    """
    asked = [_probe(text) for text in part.probes]
    frame = compare(
        part.architectures, part.tasks, _budgets(part, site), part.seeds, results=site.results, workers=site.workers,
        engine=site.engine, planner=_planner(part, site), plugin_files=site.plugin_files, started=site.started,
        trials=part.tune or None,
    )  # fmt: skip
    ids, store = list(frame["id"]), Store(site.results)
    done = list(frame.loc[frame["status"] == "done", "id"])
    found = []
    for name, settings in asked:
        known = {run: _kept(store, run, name, settings) for run in done}
        if missing := [run for run in done if known[run] is None]:
            print(f"probe {name}: {len(missing)} runs", flush=True)
            made, _ = probing.look(name, missing, store, **settings)
            known |= {each.run: each for each in made}
        found += [each for each in known.values() if each is not None]
    frame = results(site.results)
    frame = frame[frame["id"].isin(ids)].reset_index(drop=True)
    points = curves(site.results)
    rows = frame.assign(
        tokens_per_second=frame["tokens"] / frame["seconds"].replace(0, np.nan),
        loss_at_equal_time=_at_equal("seconds", frame, points[points["id"].isin(ids)]),
        loss_at_equal_tokens=_at_equal("tokens", frame, points[points["id"].isin(ids)]),
    )
    return Evidence(rows, frame, found, said=_said(frame, found))


def plan(part: Runs, site: Site) -> str:
    planned = plan_all(_planner(part, site), part.architectures, part.tasks, _budgets(part, site), part.seeds)
    torch.set_num_threads(1)
    hours = 0.0
    for each in (first for first in planned if first.spec.seed == 0):
        bare(each.spec, 1)
        hours += part.seeds * each.steps * bare(each.spec, TIMED_STEPS) / TIMED_STEPS / 3600
    flops = sum(each.spec.budget for each in planned)
    more = f", and {part.tune} learning rates for each" if part.tune else ""
    return f"{len(planned)} runs{more}, {shown(flops)} FLOPs, about {hours / (site.workers or os.cpu_count() or 1):.2f} hours"


def _planner(part: Runs, site: Site) -> Planner:
    from lab import presets

    return site.planner(
        shape=Shape(part.depth, part.dim, part.match, parse_amount(part.size, "size")), batch=part.batch,
        accumulate=part.accumulate, precision=part.precision, carry_state=part.carry_state,
        recipe=presets.read(part.recipe) if part.recipe else None, lr=parse_amount(part.lr, "lr") if part.lr else None,
    )  # fmt: skip


def _budgets(part: Runs, site: Site) -> list[float]:
    return [site.scale * parse_amount(budget, "budgets") for budget in part.budgets]


def _said(frame: pd.DataFrame, found: list[findings.Finding]) -> str:
    """What probes found in the runs of the first seed, a line each."""
    first = frame[frame["seed"] == frame["seed"].min()]
    names = {run: f"{row} on {task}" for run, row, task in zip(first["id"], first["architecture"], first["task"], strict=True)}
    return "\n".join(f"{names[each.run]}, {each.probe}: {each.said}" for each in found if each.run in names)


def _probe(text: str) -> tuple[str, dict[str, int]]:
    """`name:setting=number,...`."""
    name, _, rest = text.partition(":")
    try:
        return name, {key: int(value) for key, value in (each.split("=") for each in rest.split(",") if each)}
    except ValueError:
        raise UsageError(f"probes: {text}: write name:setting=number") from None


def _kept(store: Store, run: str, probe: str, settings: dict[str, int]) -> findings.Finding | None:
    """What was found before in the run's present weights, if it was asked the same."""
    same = [each for each in findings.kept(store.named(run)) if each.probe == probe and each.asked == settings]
    return same[0] if same else None


def _at_equal(axis: str, frame: pd.DataFrame, points: pd.DataFrame) -> pd.Series:
    """Each run's training loss at the end of the first of those that it is compared with."""
    found = {}
    lines = {run: line.sort_values(axis) for run, line in points.dropna(subset="loss").groupby("id")}
    for _, group in frame.groupby(["task", "budget", "seed"]):
        known = {run: lines[run] for run in group["id"] if run in lines}
        if known:
            end = min(line[axis].iloc[-1] for line in known.values())
            found |= {run: float(np.interp(end, line[axis], line["loss"])) for run, line in known.items()}
    return pd.Series([found.get(run, np.nan) for run in frame["id"]], frame.index, float)

"""Is a record what a run of this lab would have written? Recomputed from the spec as far as the code is still the same.

What no law ties to the rest cannot be told: a score that was moved within its range, the memory, the machine.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch

from lab import optimizers, plugins
from lab.budget import TRAIN_OVER_FORWARD
from lab.errors import UsageError
from lab.model import Model, build_task, code_of, count_parameters, model_of, state_size
from lab.planning import Shape
from lab.recipe import Recipe
from lab.run import SCHEMA, LeakGate, Spec, Status, Store
from lab.training import flops_by_kind, plan_steps, sequence_cost
from tasks.task import Task

BELOW_ONE = ("accuracy", "exact")
LATER = ("minimum_flops", "optimizer_flops", "parameters_by_part")
"""Older records lack them."""
FIRST = {"throughput": {}, "references": [], "leak_gate": ""}
"""What the first records lack, empty."""
_OF_A_RUN = ("flops", "tokens", "steps", "planned_steps", "seconds", "parameters", "evaluation_flops", "peak_memory")


@dataclass(frozen=True)
class Verdict:
    """faults: each thing that is off, in a line. note: what could not be recomputed, and why."""

    run: str
    faults: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        if self.faults:
            return "\n".join(f"{self.run}  {' '.join(fault.split())}" for fault in self.faults)
        return f"{self.run}  sound" + (f"; {' '.join(self.note.split())}" if self.note else "")


def folders(runs: list[str], store: Store) -> list[Path]:
    """The folders of runs, each named by its id or by its path; all of a store where none is named.

    Raises:
        UsageError: there is no such run.
    """
    if not runs:
        found = sorted(path for path in store.root.glob("runs/*") if path.is_dir())
        if not found:
            raise UsageError(f"--results {store.root}: no runs there")
        return found
    named = [store.named(run) for run in runs]
    for run, folder in zip(runs, named, strict=True):
        if run in (".", "..") or not folder.is_dir():
            raise UsageError(f"verify {run[:80]!r}: no such run in {store.root}; name the id or the folder of one, or give --all")
    return named


def verify(folder: Path) -> Verdict:
    """What is off in a run's folder."""
    run = folder.resolve().name
    try:
        record = FIRST | _json(folder / "run.json")
        if record["schema"] > SCHEMA:
            return Verdict(run, (f"run.json was made by a newer lab: schema {record['schema']}, this one reads {SCHEMA}",))
        spec = Spec.read(record["spec"])
        written = _json(folder / "spec.json")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return Verdict(run, (f"cannot be read: {type(error).__name__}: {error}",))
    faults, note = [], ""
    try:
        faults += _identity(run, record, spec, written)
        faults += _amounts(record, spec)
        faults += _scores(record)
        faults += _curve(folder / "curve.jsonl", record, spec)
        rebuilt, note = _rebuilt(record, spec)
        faults += rebuilt
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        faults.append(f"a value is missing or of the wrong kind: {type(error).__name__}: {error}")
    return Verdict(run, tuple(faults), note)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file.name} is no JSON: {error}") from error


def _identity(run: str, record: dict[str, Any], spec: Spec, written: Any) -> Iterator[str]:
    if record["id"] != spec.id:
        yield f"the id is {record['id']}, the spec's hash is {spec.id}"
    if run != spec.id:
        yield f"the folder is named {run}, the spec's hash is {spec.id}"
    usual = {field.name: field.default for field in fields(Spec) if field.default is not MISSING}
    beside, within = usual | written, usual | record["spec"]  # records from before a field lack it
    if beside != within:
        names = [field.name for field in fields(Spec) if beside.get(field.name) != within.get(field.name)]
        yield f"spec.json and the spec in run.json differ in {', '.join(names) or 'keys'}"
    if record["status"] not in get_args(Status) or record["status"] == "interrupted":
        yield f"status {record['status']!r} is none that is published"
    if record.get("leak_gate", "") not in get_args(LeakGate):
        yield f"leak_gate {record['leak_gate']!r} is nothing that the gate says"
    if (record["status"] == "done") != (not record["reason"]):
        yield f"status {record['status']} with reason {record['reason']!r}"


def _amounts(record: dict[str, Any], spec: Spec) -> Iterator[str]:
    for name in _OF_A_RUN:
        if not (record[name] >= 0 and math.isfinite(record[name])):
            yield f"{name} is {record[name]}"
    steps, flops, kinds = record["steps"], record["flops"], record["flops_by_kind"]
    if flops > spec.budget:
        yield f"flops {flops:,} are more than the budget of {spec.budget:,.0f}"
    if record["status"] == "done" and (not steps or flops + flops / steps <= spec.budget):
        yield f"flops {flops:,} leave more than a step of the budget of {spec.budget:,.0f}"
    update = kinds.get("optimizer", 0)
    if steps and kinds.get("contraction", 0) + kinds.get("mixing", 0) + update != flops:
        yield f"flops {flops:,} are not the sum of contraction, mixing and optimizer in flops_by_kind"
    if (steps != record["planned_steps"]) if record["status"] == "done" else steps > record["planned_steps"]:
        yield f"steps {steps} of {record['planned_steps']} planned, and {record['status']}"
    if steps and not math.isclose(
        record["flops_per_token"] * TRAIN_OVER_FORWARD * record["tokens"], flops - update, rel_tol=1e-9
    ):
        yield f"flops {flops - update:,} are not 3 x flops_per_token x tokens"
    if any(not value > 0 for value in record["throughput"].values()):
        yield "throughput holds a number that is not above zero"


def _scores(record: dict[str, Any]) -> Iterator[str]:
    if record["status"] == "done" and any(
        record["metric"] not in record["scores"].get(each, {}) for each in ("validation", "test")
    ):
        yield f"there is no score {record['metric']!r} on validation and test"
    if record["status"] != "done" and record["scores"]:
        yield f"a run that {record['status']} has scores"
    for split, named in record["scores"].items():
        for name, value in named.items():
            most = 1.0 if name.startswith(BELOW_ONE) else math.inf
            if value is not None and not 0 <= value <= most:
                yield f"score {name} on {split} is {value:g}, outside of 0 to {most:g}"


def _curve(file: Path, record: dict[str, Any], spec: Spec) -> list[str]:
    if record["status"] == "failed" and not file.exists():
        return []
    rows = []
    for number, line in enumerate(file.read_text("utf-8").splitlines() if file.exists() else (), 1):
        try:
            row = json.loads(line)
            rows.append([*(row[name] for name in ("step", "tokens", "flops", "seconds", "loss")), row.get("score", 0.0)])
        except (ValueError, KeyError, TypeError):
            return [f"curve.jsonl, line {number} cannot be read"]
    faults, before = [], [0, 0, 0, 0.0, 0.0, 0.0]
    per_step = record["flops"] // record["steps"] if record["steps"] else 0
    for number, row in enumerate(rows, 1):
        step, tokens, flops, seconds, loss, score = row
        if not (step > before[0] and tokens > before[1] and flops > before[2] and seconds >= before[3]):
            faults.append(f"curve.jsonl, line {number}: step, tokens, flops or seconds do not rise")
        elif record["steps"] and (flops != step * per_step or tokens * record["steps"] != step * record["tokens"]):
            faults.append(f"curve.jsonl, line {number}: tokens or flops are not those of step {step}")
        if not (isinstance(loss, float) and math.isfinite(loss)):
            faults.append(f"curve.jsonl, line {number}: loss is {loss}")
        if not 0 <= score <= 1:
            faults.append(f"curve.jsonl, line {number}: score is {score}")
        before = row
    if record["status"] == "done" and (not rows or rows[-1][0] != record["steps"]):
        faults.append(f"curve.jsonl ends at step {before[0]}, the run at step {record['steps']}")
    elif record["status"] == "done" and abs(rows[-1][3] - record["seconds"]) > 1e-3:
        faults.append(f"seconds are {record['seconds']:.4f}, curve.jsonl ends at {rows[-1][3]:.4f}")
    return faults[:5]


def _rebuilt(record: dict[str, Any], spec: Spec) -> tuple[list[str], str]:
    """What the architecture and the task say today, if their code is the recorded one; else why nothing was rebuilt."""
    try:
        Shape(spec.depth, spec.dim)
        task = build_task(spec.names[1], spec.task_settings)
        with torch.device("meta"):
            model = model_of(spec, task)
    except UsageError as error:
        return [], f"FLOPs and data were not recomputed: {error}"
    changed = [kind for kind, code in code_of(*spec.names, model.backbone).items() if spec.code.get(kind) != code]
    if changed:
        return [], f"FLOPs and data were not recomputed: the code in {' and '.join(sorted(changed))} has changed since"
    faults = [] if task.data == spec.data else [f"the data's hash is {task.data[:12]}, the record has {spec.data[:12]}"]
    if record["status"] != "failed":
        faults += _compared(record, spec, task, model)
    return faults, ""


def _compared(record: dict[str, Any], spec: Spec, task: Task, model: Model) -> list[str]:
    planned, per_step = plan_steps(model, task, spec)
    cost, steps = sequence_cost(model, task, spec).batch(spec.batch), record["steps"]
    expected = {
        "planned_steps": planned,
        "flops": per_step * steps,
        "flops_by_kind": flops_by_kind(model, task, spec, steps),
        "flops_per_token": cost.headline / (spec.batch * task.length),
        "tokens": steps * spec.batch * task.length,
        "minimum_flops": TRAIN_OVER_FORWARD * cost.least.headline * steps,
        "optimizer_flops": steps * optimizers.flops_apart(Recipe.read(spec.recipe), model),
        "parameters": count_parameters(model),
        "parameters_by_part": model.parameters_by_part,
        "state_size": state_size(model.backbone, task.length),
        "metric": task.metric,
        "higher_is_better": bool(task.new_metric().higher_is_better),
        "baselines": task.baselines(),
        "references": plugins.references(spec.names[1], task.references, spec.task_settings),
    }
    return [
        f"{key} is {record[key]}, recomputed it is {value}"
        for key, value in expected.items()
        if (key in record or key not in LATER) and json.dumps(record[key], sort_keys=True) != json.dumps(value, sort_keys=True)
    ]

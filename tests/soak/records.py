"""What a record says is so: divergence, the budget, and edits that `lab verify` must see."""

import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lab import overhead, plugins, training
from lab.analysis import results
from lab.budget import step_flops
from lab.model import build, build_task
from lab.planning import Planner, Shape
from lab.run import Spec, Store
from lab.verification import verify
from soak.children import Moment, child
from soak.commands import FAULTY, SMALL, command, only
from soak.tally import Tally
from soak.ways import FAMILIES

UNNOTICED = {
    "scores", "evaluation_flops", "seconds", "peak_memory", "throughput", "environment", "refused", "curve.loss", "curve.seconds",
}  # fmt: skip
"""Values that no law ties to the rest: changed within their range, nothing contradicts them."""


def divergence(scale: float, seed: int, root: Path) -> Tally:
    """A number that is not finite at any step, in the loss, the gradient or a weight, also after a kill and a resume."""
    tally, rng = Tally("NaN in the loss, the gradient or a weight"), random.Random(seed)
    torch.set_num_threads(1)
    steps = 24
    for number in range(max(6, round(30 * scale))):
        where, at = ("loss", "gradient", "weight")[number % 3], rng.choice([1, 2, steps, rng.randint(2, steps)])
        plugins.add_file(FAULTY)
        spec = overhead._spec_of(Planner(Shape(dim=8, depth=1), batch=4), f"faulty:step={at},where={where}",
                                 "selective_copying", steps)  # fmt: skip
        store = root / str(number)
        arguments = ["run", "--architecture", f"faulty:step={at},where={where}", *SMALL, "--budget", repr(spec.budget),
                     "--plugin", FAULTY, "--no-leak-gate", "--results", str(store)]  # fmt: skip
        if number % 2:
            child(command(arguments, root / "log", _often), root, Moment(seconds=rng.uniform(0.1, 2)))
        ended = child(command(arguments, root / "log", _often), root)
        record = json.loads(next(store.glob("runs/*/run.json")).read_text())
        taken = at - 1 if where != "weight" else min(at, steps)
        wrong = [f"exit code {ended.code}"] * (ended.code != 1)
        wrong += [f"status {record['status']}"] * (record["status"] != "diverged")
        wrong += [f"{record['steps']} steps"] * (record["steps"] != taken)
        named = taken + (where != "weight" or at < steps)
        wrong += [f"reason {record['reason']!r}"] * (f"at step {named}" not in record["reason"])
        finite = re.search(r"the last finite loss was [\d.]+$", record["reason"])
        wrong += ["no last finite loss"] * (taken > 0 and not finite and ended.calls > 0 and not number % 2)
        frame = results(store)
        wrong += ["the frame lost it"] * (list(frame["status"]) != ["diverged"])
        wrong += [f"verify: {fault}" for fault in verify(next(store.glob("runs/*"))).faults]
        tally.lost += len(frame) != 1
        tally.count(f"{where} at step {at}: {'; '.join(wrong)}" if wrong else "")
    return tally


def _often() -> None:
    training.CHECKPOINT_SECONDS = 0.0


def budgets(scale: float, seed: int, root: Path) -> Tally:
    """What a run used is at most its budget and more than the budget less a step."""
    tally, rng = Tally("a random budget, architecture, width and batch"), random.Random(seed)
    torch.set_num_threads(1)
    names = [name for family, name in FAMILIES.items() if "hybrid" not in name and "noise" not in family]
    for number in range(max(4, round(60 * scale))):
        planner = Planner(Shape(dim=8 * rng.randint(1, 3), depth=rng.randint(1, 2)), batch=rng.randint(1, 5))
        spec = overhead._spec_of(planner, rng.choice(names), "selective_copying", 1)
        spec = replace(spec, budget=spec.budget * rng.uniform(1, 6))
        run = training.train(spec, Store(root / str(number)), leak_gate=False)
        per_step = _per_step(spec)
        right = spec.budget - per_step < run.flops <= spec.budget and run.flops == run.steps * per_step
        tally.count("" if right else f"{spec.architecture}: {run.flops} of {spec.budget}, a step costs {per_step}")
    return tally


def _per_step(spec: Spec) -> int:
    task = build_task(spec.names[1], spec.task_settings)
    with torch.device("meta"):
        model = build(spec.names[0], task, dim=spec.dim, depth=spec.depth, settings=spec.settings)
    return step_flops(model.flops(task.length, task.answers), spec.batch)


def edits(scale: float, seed: int, root: Path) -> Tally:
    """Every value of a real record changed by little, within what it could be."""
    tally, rng, unnoticed = Tally("an edit of one value of a record"), random.Random(seed), set()
    torch.set_num_threads(1)
    small = ["run", "--architecture", "linear_rnn", "--task", "recall", "--dim", "8", "--depth", "1", "--batch", "2"]
    ended = child(command([*small, "--budget", "5e7", "--results", str(root / "made")], root / "log"), root)
    assert ended.code == 0, (root / "log").read_text()
    store, spec = only(root / "made")
    folder = store.folder(spec.id)
    assert not verify(folder).faults, verify(folder)
    places = list(_places(json.loads((folder / "run.json").read_text()), ("run.json",)))
    rows = (folder / "curve.jsonl").read_text().splitlines()
    places += [("curve.jsonl", rng.randrange(len(rows) - 1), name) for name in json.loads(rows[0])]
    places += list(_places(json.loads((folder / "spec.json").read_text()), ("spec.json",)))
    for place in places if scale >= 1 else rng.sample(places, max(8, round(scale * len(places)))):
        copy = Path(shutil.copytree(folder, root / "edited" / folder.name))
        _edit(copy, place)
        found = bool(verify(copy).faults)
        shutil.rmtree(copy)
        name = "curve." + str(place[2]) if place[0] == "curve.jsonl" else str(place[1])
        if not found:
            unnoticed.add(name)
        tally.count("" if found or name in UNNOTICED else f"{'.'.join(map(str, place))} was changed and it was not noticed")
    tally.notes.append(f"cannot be noticed: changes within its range of {', '.join(sorted(unnoticed))}")
    return tally


def _places(value: Any, path: tuple) -> Any:
    """The path of every value in a record."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _places(each, (*path, name))
    else:
        yield path


def _edit(folder: Path, place: tuple) -> None:
    file = folder / place[0]
    if place[0] == "curve.jsonl":
        rows = file.read_text().splitlines()
        row = json.loads(rows[place[1]])
        row[place[2]] = _changed(row[place[2]])
        rows[place[1]] = json.dumps(row)
        file.write_text("\n".join(rows) + "\n")
        return
    record = json.loads(file.read_text())
    inner = record
    for name in place[1:-1]:
        inner = inner[name]
    inner[place[-1]] = _changed(inner[place[-1]])
    file.write_text(json.dumps(record))


def _changed(value: Any) -> Any:
    """Another value that could be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.999 or 0.5
    return f"{value}x" if isinstance(value, str) else {"x": 1} if value is None or isinstance(value, dict) else ["x"]

"""A run that is killed at any moment and started again gives the very weights, curve and scores of one that was left alone."""

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lab import overhead, plugins, training
from lab.planning import Planner, Shape
from lab.recipe import Recipe
from lab.run import Spec, Store
from soak.children import Moment, child, moments
from soak.tally import Tally
from soak.ways import FAMILIES, VARIANTS

MOMENTS, STEPS = 30, 24
NOISY = Path(__file__).with_name("noisy.py")


def spec_of(case: str) -> Spec:
    way = VARIANTS.get(case) or {"architecture": FAMILIES[case]}
    planner = Planner(Shape(dim=8, depth=1 if "hybrid" not in case else 2), batch=4, recipe=Recipe(**way.get("recipe", {})))
    for name in ("accumulate", "carry_state"):
        if name in way:
            planner = replace(planner, **{name: way[name]})
    plugins.add_file(str(NOISY))
    return overhead._spec_of(planner, way["architecture"], way.get("task", "selective_copying"), STEPS)


def outcome(store: Store, spec: Spec) -> dict[str, Any]:
    """Everything of a run that must not depend on how often it was killed."""
    folder = store.folder(spec.id)
    record = json.loads((folder / "run.json").read_text())
    kept = ("status", "scores", "flops", "flops_by_kind", "tokens", "steps", "evaluation_flops", "reason", "refused")
    rows = [json.loads(row) for row in (folder / "curve.jsonl").read_text().splitlines()]
    file = folder / "checkpoint"
    checkpoint = torch.load(file, weights_only=True) if file.exists() else {}
    return {
        "record": {name: record[name] for name in kept},
        "curve": [{name: value for name, value in row.items() if name != "seconds"} for row in rows],
        "weights": _numbers(checkpoint.get("state_dict")),
        "optimizer": _numbers(checkpoint.get("optimizer_states")),
    }


def _numbers(value: Any) -> Any:
    """Tensors as lists of their bytes, so that equal is equal bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.contiguous().view(torch.uint8).tolist() if value.ndim else value.item()
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    return [_numbers(each) for each in value] if isinstance(value, (list, tuple)) else value


def phase(folder: Path, steps: int) -> str:
    """What a killed run was at, by what it left."""
    if list(folder.glob(".checkpoint*")) or list(folder.glob(".run.json*")):
        return "in a write"
    if (folder / "run.json").exists():
        return "after publishing"
    if not (folder / "checkpoint").exists():
        return "before the first checkpoint"
    try:
        last = torch.load(folder / "checkpoint", weights_only=True)["global_step"]
    except Exception:
        return "in a write"
    return "in evaluation or publishing" if last == steps else "in training"


def begin(spec: Spec, store: Store, pause: float) -> None:
    """What a worker does with a spec, with a checkpoint every `pause` seconds."""
    training.CHECKPOINT_SECONDS = pause
    with store.claim(spec.id) as mine:
        assert mine is not None, "a dead process holds the run"
        if not store.final(spec.id):
            training.train(spec, store, leak_gate=spec.architecture != "noisy")  # it tames torch's generator alone


def soak(case: str, scale: float, seed: int, root: Path) -> Tally:
    tally, rng, phases = Tally(f"SIGKILL in a run: {case}"), random.Random(f"{case} {seed}"), Counter()
    torch.set_num_threads(1)
    spec = spec_of(case)
    straight = Store(root / "straight")
    begin(spec, Store(root / "warm"), 1.0)  # what is compiled once is compiled now
    calm = child(lambda: begin(spec, straight, 0.05), root)
    if calm.code:
        tally.count(f"it did not even run undisturbed: exit code {calm.code}")
        return tally
    expected = outcome(straight, spec)
    for number, moment in enumerate(moments(calm, max(2, round(MOMENTS * scale)), rng)):
        store = Store(root / str(number))
        tally.count(_one(spec, store, moment, rng, phases, expected))
        shutil.rmtree(store.root)
    tally.notes += [f"{count} {name}" for name, count in phases.most_common()]
    return tally


def _one(spec: Spec, store: Store, moment: Moment, rng: random.Random, phases: Counter, expected: dict[str, Any]) -> str:
    """Kill one run at a moment, go on with it, and say what differs."""
    pause = rng.choice([0.0, 0.02, 0.1])
    killed = child(lambda: begin(spec, store, pause), store.root, moment)
    phases[phase(store.folder(spec.id), STEPS) if killed.code else "over before the kill"] += 1
    again = child(lambda: begin(spec, store, pause), store.root)
    if again.code:
        return f"killed at {moment}, it did not go on: exit code {again.code}"
    if rest := [file.name for file in store.folder(spec.id).glob(".*")]:
        return f"killed at {moment}, it left {', '.join(rest)}"
    found = outcome(store, spec)
    differ = [name for name in expected if found[name] != expected[name]]
    return f"killed at {moment}, it differs in {', '.join(differ)}" if differ else ""

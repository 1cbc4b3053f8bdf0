"""What there is to know about an architecture or a task: settings, cost at a size, source."""

import inspect
import math
import sys
from dataclasses import asdict
from typing import Any

import torch

from lab import plugins, presets
from lab.errors import UsageError, nearest, reason
from lab.model import build_task, count_parameters, state_size
from tasks.task import Task, Vectors


def describe(text: str, dim: int, depth: int, length: int) -> dict[str, Any]:
    """An architecture at a size, or a task, as plain data.

    Raises:
        UsageError: nothing has that name, or its settings are wrong.
    """
    name = text.partition(":")[0]
    kinds = [kind for kind in plugins.CONTRACTS if name in plugins.names(kind)]
    if not kinds:
        known = [*(known for kind in plugins.CONTRACTS for known in plugins.names(kind)), *presets.names()]
        raise UsageError(f"show {name[:60]!r}: unknown; {nearest(name, known)}")
    kind = kinds[0]
    name, given = plugins.parse(kind, text)
    cls = plugins.load(kind, name)
    found = {
        "name": name,
        "kind": kind.removesuffix("s"),
        "summary": inspect.getdoc(cls),
        "source": inspect.getdoc(sys.modules[cls.__module__]),
        "settings": [asdict(setting) | {"value": given.get(setting.name, setting.default)} for setting in
                     plugins.settings(kind, name)],
    }  # fmt: skip
    return found | (_cost(cls, given, dim, depth, length) if kind == "architectures" else _question(name, given))


def _cost(cls: Any, given: dict[str, Any], dim: int, depth: int, length: int) -> dict[str, Any]:
    try:
        with torch.device("meta"):
            try:
                backbone = cls(dim, depth, **given)
            except ValueError:
                backbone = cls(dim, depth, causal=False, **given)
    except Exception as error:
        raise UsageError(f"show {cls.__name__} at --dim {dim} --depth {depth}: {reason(error)}") from error
    flops = backbone.flops(length)
    return {
        "size": {"dim": dim, "depth": depth, "length": length},
        "parameters": count_parameters(backbone),
        "flops_per_token": {kind: value / length for kind, value in flops.batch(1).kinds.items()},
        "state_size": state_size(backbone, length),
        "trained apart": sorted(
            {f"{name}: lr x {tuning.lr_scale:g}, {'' if tuning.decay else 'no '}weight decay"
             for module in backbone.modules() for name, tuning in getattr(module, "tuned", {}).items()}
        ),
    }  # fmt: skip


def _question(name: str, given: dict[str, Any]) -> dict[str, Any]:
    task = build_task(name, given)
    return {
        "inputs": str(task.inputs),
        "outputs": f"{task.outputs} real numbers" if task.real else f"{task.outputs} classes",
        "length": task.length,
        "answers": task.answers,
        "causal": task.causal,
        "metric": task.metric,
        "also": list(task.also),
        "baselines": task.baselines(),
        "oracle": type(task).oracle is not Task.oracle,
        "references": [asdict(reference) for reference in task.references],
        "harder": list(task.harder()),
        "slices": list(task.buckets()),
        "held_out": task.held_out,
        "data": task.data,
    }


def render(found: dict[str, Any]) -> str:
    """The description as text for a terminal."""
    lines = [f"{found['name']} ({found['kind']}): {found['summary']}", "", "settings"]
    for setting in found["settings"]:
        value = setting["value"]
        given = "" if value is None else f"={str(value).lower() if isinstance(value, bool) else value}"
        lines.append(f"  {setting['name'] + given:<16} {setting['type']}: {setting['meaning']}")
    if not found["settings"]:
        lines.append("  none")
    lines.append("")
    if found["kind"] == "architecture":
        size, flops = found["size"], found["flops_per_token"]
        state = found["state_size"]
        lines += [
            f"at dim {size['dim']}, depth {size['depth']}, length {size['length']} (backbone alone)",
            f"  {found['parameters']:,} parameters",
            f"  {flops['contraction'] + flops['mixing']:,.0f} forward FLOPs a token: {flops['contraction']:,.0f} contraction + "
            f"{flops['mixing']:,.0f} mixing ({flops['pointwise']:,.0f} pointwise not counted)",
            f"  {state:,} numbers of state after {size['length']} positions" if state is not None else "  no state",
            *(f"  {line}" for line in found["trained apart"]),
        ]
    else:
        lines += told(found)
    return "\n".join([*lines, "", found["source"] or ""])


def told(found: dict[str, Any]) -> list[str]:
    """A task's question, scores and references, a line each."""
    baselines = ", ".join(f"{name} {value:.4g}" for name, value in found["baselines"].items())
    metrics = " and ".join([found["metric"], *found["also"]]).replace("_", " ")
    lines = [
        f"  inputs {found['inputs']}, length {found['length']}, {found['answers']} of {found['outputs']} to answer",
        f"  {'causal' if found['causal'] else 'reads the whole sequence'}; scored by {metrics}; {baselines}",
        *(["  an oracle solves it"] if found["oracle"] else []),
        f"  held out {found['held_out']} sequences each for validation and test",
        *([f"  scored by {', '.join(found['slices'])}"] if found["slices"] else []),
        *([f"  scored beyond training at {'; '.join(found['harder'])}"] if found["harder"] else []),
        *([f"  data sha256 {found['data']}"] if found["data"] else []),
    ]
    if found["references"]:
        lines += ["", "published"]
        widest = max(len(each["name"]) for each in found["references"])
        for each in found["references"]:
            form = f"{found['name']}:{each['form']}" if each["form"] else found["name"]
            lines.append(f"  {each['name']:<{widest}} {each['score']:.4g}  {form}; {each['source']}")
    return lines


def example(text: str, number: int, out: str) -> str:
    """Example `number` of a task's training split with its answers; an image is written to `out` as a PNG.

    Raises:
        UsageError: that is no task, or its settings are wrong.
    """
    name, given = plugins.parse("tasks", text)
    task = build_task(name, given)
    batch = task.batch("train", number, 1, 0)
    if not task.image:
        return task.example(batch, 0)
    from matplotlib.image import imsave

    assert isinstance(task.inputs, Vectors)
    side = math.isqrt(task.length)
    pixels = batch.inputs[0].reshape(side, side, task.inputs.dim).numpy()
    times = max(1, 256 // side)
    low, high = pixels.min(), pixels.max()
    enlarged = ((pixels - low) / max(high - low, 1e-9)).repeat(times, 0).repeat(times, 1)
    try:
        imsave(out, enlarged.squeeze(2) if task.inputs.dim == 1 else enlarged, cmap="gray", vmin=0, vmax=1)
    except ValueError as error:
        raise UsageError(f"--out {out}: {error}") from error
    return f"{out}: {task.classes()[int(batch.targets[0])]}"

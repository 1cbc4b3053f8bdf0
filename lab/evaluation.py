"""Scores of a model on a held-out split, whole and by slice."""

from collections import defaultdict

import torch
from torchmetrics import MeanMetric, Metric

from architectures.backbone import LengthError
from lab.model import Model
from tasks.task import UNASKED, Split, Task

TOKENS = 1 << 15  # read at once, so that memory stays bounded at any length
LARGEST_BATCH = 64


def evaluate(model: Model, task: Task, split: Split, *, precision: str, slices: bool = False) -> dict[str, float]:
    """`loss` in nats, the task's metric, and with `slices` the metric of every bucket as `metric[slice=lower-upper]`.

    The examples are the same for every model and seed: those of data seed 0.

    Raises:
        LengthError: the architecture cannot read sequences this long.
    """
    device = next(model.parameters()).device
    size = max(1, min(LARGEST_BATCH, TOKENS // task.length))
    metrics: dict[str, Metric] = defaultdict(lambda: task.new_metric().to(device))
    loss = MeanMetric().to(device)
    training = model.training
    model.eval()
    bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.inference_mode(), bfloat16:
        for index in range(-(-task.held_out // size)):
            batch = task.batch(split, index, min(size, task.held_out - index * size), 0)
            positions = None if batch.positions is None else batch.positions.to(device)
            targets = batch.targets.to(device)
            predictions = model(batch.inputs.to(device), positions).float()
            asked = targets != UNASKED
            loss.update(task.loss(predictions, targets), int(asked.sum()))
            metrics[task.metric].update(predictions[asked], targets[asked])
            for name, bounds in task.buckets().items() if slices else ():
                values = batch.slices[name].to(device)
                for lower, upper in zip(bounds, [*bounds[1:], None], strict=True):
                    inside = asked & (values >= lower) & (values < upper if upper is not None else True)
                    if inside.any():
                        metrics[_bucket(task.metric, name, lower, upper)].update(predictions[inside], targets[inside])
    model.train(training)
    return {"loss": float(loss.compute())} | {name: float(metric.compute()) for name, metric in metrics.items()}


def evaluate_all(model: Model, task: Task, *, precision: str) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Scores by split then by name, and for each harder variant that the architecture refuses, why.

    Harder variants are scored on the test split, as `metric@variant`.
    """
    scores = {
        "validation": evaluate(model, task, "validation", precision=precision),
        "test": evaluate(model, task, "test", precision=precision, slices=True),
    }
    refused = {}
    for name, harder in task.harder().items():
        harder.held_out = max(1, task.held_out // 4)
        try:
            scores["test"][f"{task.metric}@{name}"] = evaluate(model, harder, "test", precision=precision)[task.metric]
        except LengthError as error:
            refused[name] = str(error)
    return scores, refused


def _bucket(metric: str, name: str, lower: int, upper: int | None) -> str:
    if upper is None:
        return f"{metric}[{name}={lower}-]"
    return f"{metric}[{name}={lower}]" if upper == lower + 1 else f"{metric}[{name}={lower}-{upper - 1}]"

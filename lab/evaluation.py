"""Scores of a model on a held-out split, whole and by slice."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torchmetrics import MeanMetric, Metric

from architectures.backbone import LengthError
from lab.model import Model
from tasks.task import UNASKED, Batch, Split, Task

TOKENS = 1 << 15  # read at once, so that memory stays bounded at any length
LARGEST_BATCH = 64
HARDER_TOKENS = 1 << 22  # of a harder variant at most; longer ones are scored on fewer sequences
FEWEST_HARDER = 16


def evaluate(model: Model, task: Task, split: Split, *, precision: str, slices: bool = False) -> dict[str, float]:
    """`scores_on` a whole split: the same examples for every model and seed, those of data seed 0."""
    return scores_on(model, task, held_out(task, split, task.held_out), precision=precision, slices=slices)


def held_out(task: Task, split: Split, examples: int) -> Iterator[Batch]:
    """The first examples of a held-out split."""
    size = _batch(task)
    for index in range(-(-examples // size)):
        yield task.batch(split, index, min(size, examples - index * size), 0)


def scores_on(model: Model, task: Task, batches: Iterable[Batch], *, precision: str, slices: bool = False) -> dict[str, float]:
    """`loss` in nats, the task's metrics, and with `slices` its metric in every bucket as `metric[slice=lower-upper]`.

    Raises:
        LengthError: the architecture cannot read sequences this long.
    """
    device = next(model.parameters()).device
    metrics: dict[str, Metric] = {name: task.new_metric(name).to(device) for name in (task.metric, *task.also)}
    sliced: dict[str, Metric] = defaultdict(lambda: task.new_metric().to(device))
    loss = MeanMetric().to(device)
    training = model.training
    model.eval()
    bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.no_grad(), bfloat16:  # not inference_mode: a table that a backbone makes here must serve in training
        for batch in (each.to(device) for each in batches):
            predictions, targets = _predictions(model, task, batch).float(), batch.targets
            asked = torch.ones_like(targets[..., 0], dtype=torch.bool) if task.real else targets != UNASKED
            loss.update(task.loss(predictions, targets), int(asked.sum()))
            layout = predictions if task.pooled else predictions.movedim(-1, 1).contiguous()
            answers = targets.movedim(-1, 1).contiguous() if task.real and not task.pooled else targets
            for metric in metrics.values():
                metric.update(layout, answers)
            for name, bounds in task.buckets().items() if slices else ():
                for lower, upper in zip(bounds, [*bounds[1:], None], strict=True):
                    values = batch.slices[name]
                    inside = asked & (values >= lower) & (values < upper if upper is not None else True)
                    if task.metric == "exact":  # whole sequences, those that lie in the bucket with every answer
                        inside = (inside == asked).all(1, keepdim=True) & asked
                    if inside.any():
                        bucket = _bucket(task.metric, name, lower, upper)
                        sliced[bucket].update(*_within(layout, answers, inside))
    model.train(training)
    return {"loss": float(loss.compute())} | {name: float(metric.compute()) for name, metric in (metrics | sliced).items()}


def evaluate_all(model: Model, task: Task, *, precision: str) -> tuple[dict[str, dict[str, float]], dict[str, str], int]:
    """Scores by split then by name, for each harder variant that the architecture refuses why, and the FLOPs of it all.

    Harder variants are scored on the test split, whole and by slice, as `metric@variant` and `metric[slice=...]@variant`.
    """
    scores = {
        "validation": evaluate(model, task, "validation", precision=precision),
        "test": evaluate(model, task, "test", precision=precision, slices=True),
    }
    refused, flops = {}, 2 * cost(model, task, task.held_out)
    for name, harder in task.harder().items():
        if harder.held_out == type(harder).held_out:
            harder.held_out = max(1, min(task.held_out // 4, max(FEWEST_HARDER, HARDER_TOKENS // harder.length)))
        try:
            found = evaluate(model, harder, "test", precision=precision, slices=True)
        except LengthError as error:
            refused[name] = str(error)
            continue
        scores["test"] |= {f"{score}@{name}": value for score, value in found.items() if score != "loss"}
        flops += cost(model, harder, harder.held_out)
    return scores, refused, flops


def _predictions(model: Model, task: Task, batch: Batch) -> torch.Tensor:
    if task.length > TOKENS and task.causal and batch.positions is not None:
        return model.in_pieces(batch.inputs, batch.positions, TOKENS)
    return model(batch.inputs, batch.positions, batch.lengths)


def _within(predictions: torch.Tensor, answers: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The predictions and answers of one slice, without the sequences that have none in it."""
    if answers.is_floating_point():
        return predictions.movedim(1, -1)[inside], answers.movedim(1, -1)[inside]
    rows = inside if inside.ndim == 1 else inside.any(1)
    return predictions[rows], answers.where(inside, UNASKED)[rows]


def _batch(task: Task) -> int:
    return max(1, min(LARGEST_BATCH, TOKENS // task.length, task.held_out))


def cost(model: Model, task: Task, examples: int) -> int:
    """Forward FLOPs of scores on so many examples of a held-out split."""
    size = min(_batch(task), examples)
    return model.flops(task.length, task.answers).batch(size).headline * examples // size


def _bucket(metric: str, name: str, lower: int, upper: int | None) -> str:
    if upper is None:
        return f"{metric}[{name}={lower}-]"
    return f"{metric}[{name}={lower}]" if upper == lower + 1 else f"{metric}[{name}={lower}-{upper - 1}]"

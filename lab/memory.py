"""A run's memory: the least there can be, by shapes alone, and its peak, from forward passes of one sequence and two."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lab.model import Model, build_task, count_parameters, model_of
from lab.run import Spec
from tasks.task import Task

PROCESS = 600 << 20
"""Bytes of a worker with torch and Lightning in it and nothing to do."""
TRAINED = 4 * 4
"""Bytes a parameter: weight, gradient and two moments of AdamW, in float32."""
TEMPORARY = 1.75
"""What the backward pass has at its peak, as a multiple of what the forward pass kept for it."""
ROOM = 2 << 30
"""Bytes that a cluster is asked for without looking closer."""
CROWDED = 256
"""More activations of its width than any layer keeps."""


def least(model: Model, task: Task, spec: Spec) -> int:
    """Bytes without which no run gets by: weights, gradients, moments, and one activation of each layer."""
    return TRAINED * count_parameters(model) + 4 * _positions(task, spec) * spec.dim * spec.depth


def peak(spec: Spec, room: float = 0) -> int:
    """Bytes that a worker will have at most while it does a run.

    room: where shapes alone say that it needs no more than this, that is the answer; else sequences are read for it.
    """
    task = build_task(spec.names[1], spec.task_settings)
    with torch.device("meta"):
        model = model_of(spec, task)
    weights = TRAINED * count_parameters(model)
    surely = PROCESS + weights + 4 * CROWDED * _positions(task, spec) * spec.dim * spec.depth
    if surely <= room:
        return surely
    one, two = (kept(spec, task, sequences) for sequences in (1, 2))
    return PROCESS + weights + int(TEMPORARY * (one + (two - one) * (spec.batch // spec.accumulate - 1)))


def request(spec: Spec) -> int:
    """Bytes to ask a cluster for: enough, without looking closer where `ROOM` surely is."""
    return peak(spec, ROOM)


def kept(spec: Spec, task: Task, sequences: int) -> int:
    """Bytes that the forward pass of so many sequences keeps for the backward pass, besides the parameters."""
    model = model_of(spec, task)
    batch = task.batch("train", 0, sequences, spec.seed)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.loss(model(batch.inputs, batch.positions, batch.lengths), batch.targets)
        del loss
    return sum(found.values())


def _positions(task: Task, spec: Spec) -> int:
    return spec.batch // spec.accumulate * task.length

"""Law 7, training: every parameter learns, and starts from what the backbone gave it.

`tuned` names parameters that there are; each parameter gets a gradient that is not zero everywhere within a few steps;
and no initial value is changed by the model that the lab puts around the backbone.
"""

import torch
from torch import Tensor

from architectures.backbone import Backbone, SequenceMap, Tuning
from lab import model as models
from lab.laws.subject import SEED, Broken, Subject, noise
from tasks.task import Batch, Split, Task, Tokens


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    for causal in subject.forms:
        model = subject.build(causal=causal)
        _tuned_names_exist(model)
        _every_parameter_learns(subject, model)
        _weights_left_alone(subject, causal)
    return ""


def _tuned_names_exist(model: Backbone) -> None:
    for path, module in model.named_modules():
        if isinstance(module, SequenceMap):
            for name, tuning in module.tuned.items():
                if name not in dict(module.named_parameters()) or not isinstance(tuning, Tuning):
                    where = f"{type(module).__name__} ({path or 'the backbone'})"
                    raise Broken(f"tuned names {name!r}, which is no parameter of {where} with a Tuning")


def _every_parameter_learns(subject: Subject, model: Backbone) -> None:
    """What starts at zero may shield others at the first step, so a few steps are taken."""
    length = subject.lengths(61)[0]
    x = noise(4, length, subject.dim)
    still = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(4):
        model.zero_grad()
        (subject.read(model, x) * noise(4, length, subject.dim, seed=1)).sum().backward()
        for name, parameter in list(still.items()):
            if parameter.grad is None:
                raise Broken(f"parameter {name} gets no gradient: it is not used")
            if parameter.grad.count_nonzero():
                del still[name]
        if not still:
            return
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad / parameter.grad.abs().max().clamp_min(1e-30)
    raise Broken(f"the gradient of parameter {next(iter(still))} is zero everywhere")


class _AnyTask(Task):
    inputs, outputs, length, answers = Tokens(5), 3, 16, 16

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        raise NotImplementedError

    def baselines(self) -> dict[str, float]:
        return {}


class _BothWays(_AnyTask):
    causal = False


def _weights_left_alone(subject: Subject, causal: bool) -> None:
    alone = subject.build(causal=causal).state_dict()
    task = _AnyTask() if causal else _BothWays()
    inside = {"lab.model.Model": models.Model(subject.build(causal=causal), task)}
    if subject.known:
        torch.manual_seed(SEED)
        built = models.build(subject.name, task, dim=subject.dim, depth=subject.depth, settings=subject.settings)
        inside["lab.model.build"] = built
    for way, model in inside.items():
        for name, value in model.backbone.state_dict().items():
            if isinstance(value, Tensor) and not torch.equal(value, alone[name]):
                raise Broken(f"{way} changed the initial value of {name}")

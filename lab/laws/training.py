"""Law 7, training: every parameter learns, and starts from what the backbone gave it.

`tuned` names parameters that there are; each parameter gets a gradient that is not zero everywhere within a few steps;
gradients, through all of a long sequence too, are what differences of outputs say; and no initial value is changed by the
model that the lab puts around the backbone.
"""

import torch
from torch import Tensor

from architectures.backbone import Backbone, SequenceMap, Tuning
from lab import model as models
from lab.laws.subject import SEED, Broken, Subject, noise
from tasks.task import Batch, Split, Task, Tokens

BEYOND = 2051  # positions
STEP = 1e-7  # of a central difference in float64
SLOPE = 1e-4  # relative to the root of the sum of its squared terms


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    for causal in subject.forms:
        model = subject.build(causal=causal)
        _tuned_names_exist(model)
        _every_parameter_learns(subject, model)
        _weights_left_alone(subject, causal)
        for length in subject.lengths(61, BEYOND) if causal else subject.lengths(61):
            _gradients_are_slopes(subject, length, causal)
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


def _gradients_are_slopes(subject: Subject, length: int, causal: bool) -> None:
    """Along one direction of inputs, and one of weights, in float64, against the central difference."""
    model = subject.awake(torch.float64, causal=causal)
    x = noise(1, length, subject.dim, dtype=torch.float64).requires_grad_()
    weights = noise(*x.shape, dtype=x.dtype, seed=1)
    (subject.read(model, x) * weights).sum().backward()
    for what, leaves in (("the input", [x]), ("the weights", [p for p in model.parameters() if p.requires_grad])):
        towards = [noise(*leaf.shape, dtype=x.dtype, seed=2 + i).to(leaf.dtype) for i, leaf in enumerate(leaves)]
        grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        terms = torch.cat([(grad.conj() * way).real.flatten() for grad, way in zip(grads, towards, strict=True)])
        start, ends = [leaf.detach().clone() for leaf in leaves], []
        with torch.no_grad():
            for step in (STEP, -STEP):
                for leaf, before, way in zip(leaves, start, towards, strict=True):
                    leaf.copy_(before + step * way)
                ends.append((subject.read(model, x) * weights).sum())
            for leaf, before in zip(leaves, start, strict=True):
                leaf.copy_(before)
        slope = (ends[0] - ends[1]) / (2 * STEP)
        if not abs(slope - terms.sum()) < SLOPE * terms.norm():
            raise Broken(
                f"the gradient with respect to {what} says {terms.sum():.6g} along one direction, where outputs change by "
                f"{slope:.6g} ({subject.doing})"
            )


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

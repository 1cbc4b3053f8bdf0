"""How every architecture trains: AdamW, linear warm-up, cosine decay, clipping; and what single parameters ask for themselves.

One recipe serves all architectures of a comparison. A backbone departs from it only through `tuned`, for parameters whose
authors say so; weight decay applies to matrices and not to vectors (Radford et al. 2018, section 4.1).
"""

import math
from dataclasses import dataclass

from torch import nn

from architectures.backbone import SequenceMap, Tuning


@dataclass(frozen=True)
class Recipe:
    """The set-up of a run.

    lr: peak learning rate. warmup: share of the steps with a rising rate. final: last rate over the peak.
    """

    lr: float = 3e-3
    warmup: float = 0.05
    final: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`, over the peak: linear warm-up, then half a cosine."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising + 1) / (steps - rising)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))

    def groups(self, model: nn.Module) -> list[dict]:
        """Parameter groups for AdamW, with `lr` and `weight_decay` as the recipe and each module's `tuned` say."""
        tuned: dict[nn.Parameter, Tuning] = {}
        for module in model.modules():
            if isinstance(module, SequenceMap):
                tuned |= {module.get_parameter(name): tuning for name, tuning in module.tuned.items()}
        groups: dict[Tuning, list[nn.Parameter]] = {}
        for parameter in model.parameters():
            tuning = tuned.get(parameter, Tuning(decay=parameter.ndim >= 2))
            groups.setdefault(tuning, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.lr * tuning.lr_scale,
                "weight_decay": self.weight_decay if tuning.decay else 0.0,
            }
            for tuning, parameters in groups.items()
        ]

"""The set-up of a run as data: how its weights are updated, how the learning rate goes, what is dropped and tied.

The defaults are the lab's own set-up, which serves all architectures of a comparison unless `--recipe` says otherwise. Nothing
here needs torch: lab/optimizers.py carries a recipe out, lab/recipes/ holds published ones and lab/presets.py reads them.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Optimizer = Literal["adamw", "adam", "adafactor", "muon"]
Schedule = Literal["cosine", "linear", "constant", "wsd", "rsqrt"]
COOLDOWN = 0.2
"""Share of the steps over which `wsd` falls (Hägele et al., arXiv:2405.18392)."""


@dataclass(frozen=True)
class Recipe:
    """The set-up of a run. `lab/presets.py` holds fields of files and flags to the types and ranges below.

    lr: peak learning rate, in (0, 1]. warmup: share of the steps with a rising rate. final: last rate over the peak, where the
    schedule falls to one. betas, eps, weight_decay: of the optimizer. clip: largest norm of the gradient; None clips nothing.
    dropout: share of the embeddings and of the outputs of residual branches that training drops. tied: whether the head is the
    embedding where a task's answers are its tokens. tokens: of a step, where neither this nor a flag says, the lab's.
    peaks: (parameters, lr) of published models, which `at` takes the lr from. name: what the set-up is called.
    """

    lr: float = 3e-3
    warmup: float = 0.05
    final: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"
    dropout: float = 0.0
    tied: bool = False
    tokens: int | None = None
    peaks: tuple[tuple[float, float], ...] = ()
    name: str = "lab"

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Recipe":
        """From the fields of a record."""
        return cls(**{**record, "betas": tuple(record["betas"])})

    def written(self) -> dict[str, Any]:
        """The fields for a record. Those after `clip` are there only where they depart, so that ids of earlier runs hold."""
        return {key: value for key, value in asdict(self).items() if key in _ALWAYS or value != _USUAL[key]}

    def at(self, parameters: int) -> "Recipe":
        """With the learning rate of the published model whose size is nearest, by ratio; as it is where none is published."""
        if not self.peaks:
            return self
        nearest = min(self.peaks, key=lambda peak: abs(math.log(peak[0] / max(parameters, 1))))
        return replace(self, lr=nearest[1], peaks=())

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`, over the peak.

        A linear warm-up, then half a cosine, a line, a constant, or (`wsd`) a constant and 1 - sqrt over the last fifth.
        `rsqrt` is constant for the warm-up's steps and then falls with the root of the step (Chowdhery et al., PaLM).
        """
        rising = max(1, round(self.warmup * steps))
        if self.schedule == "rsqrt":
            return min(1.0, math.sqrt(rising / (step + 1)))
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising + 1) / (steps - rising)
        cooling = max(0.0, (step + 1 - (1 - COOLDOWN) * steps) / (COOLDOWN * steps))
        left = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "constant": 1.0,
            "wsd": 1 - math.sqrt(cooling),
        }[self.schedule]
        return self.final + (1 - self.final) * left


_USUAL = asdict(Recipe())
_ALWAYS = ("lr", "warmup", "final", "betas", "eps", "weight_decay", "clip")


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


_WHAT = {
    "lr": ("a number above 0 and at most 1", lambda value: _number(value) and 0 < value <= 1),
    "warmup": ("a share of the steps, below 1", _share),
    "final": ("a share of the peak, from 0 to 1", lambda value: _number(value) and 0 <= value <= 1),
    "betas": ("two numbers from 0 to below 1, [0.9, 0.95]", lambda value: len(value) == 2 and all(map(_share, value))),
    "eps": ("a number above 0 and at most 1", lambda value: _number(value) and 0 < value <= 1),
    "weight_decay": ("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1),
    "clip": ("a number above 0, or none", lambda value: value is None or (_number(value) and 0 < value < math.inf)),
    "optimizer": (f"one of {', '.join(get_args(Optimizer))}", lambda value: value in get_args(Optimizer)),
    "schedule": (f"one of {', '.join(get_args(Schedule))}", lambda value: value in get_args(Schedule)),
    "dropout": ("a share, below 1", _share),
    "tied": ("true or false", lambda value: isinstance(value, bool)),
    "tokens": ("a whole number from 1 on", lambda value: type(value) is int and 1 <= value <= 1 << 40),
}
FIELDS = tuple(_WHAT)
"""What a file, a flag or a backbone may say."""


def value_of(field: str, value: Any) -> Any:
    """A field's value as a recipe holds it.

    Raises:
        ValueError: it is of the wrong type or out of its range; says what it must be.
    """
    value = None if value == "none" else value
    what, allowed = _WHAT[field]
    try:
        fits = allowed(value)
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{field} must be {what}")
    if field == "betas":
        return tuple(map(float, value))
    return float(value) if type(value) is int and field != "tokens" else value


def departures(recipe: Recipe, usual: Recipe) -> dict[str, Any]:
    """The fields in which one recipe is not the other, the name aside."""
    mine, other = asdict(recipe), asdict(usual)
    return {field: mine[field] for field in FIELDS if mine[field] != other[field]}

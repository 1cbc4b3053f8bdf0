"""The architectures and ways of training that must resume exactly."""

from dataclasses import fields
from typing import Any

from lab.recipe import Recipe
from lab.run import Spec

FAMILIES = {
    "attention": "transformer", "dilated attention": "dilated", "linear recurrence": "linear_rnn", "state space": "s4",
    "mamba": "mamba", "rwkv": "rwkv", "gated linear attention": "gla", "delta rule": "deltanet", "long convolution": "hyena",
    "lstm": "lstm", "matrix lstm": "mlstm", "hybrid": "hybrid:pattern=mamba+transformer", "experts": "transformer:mlp=moe",
    "noise of every generator": "noisy",
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "dropout": {"architecture": "transformer", "recipe": {"dropout": 0.2}},
    "accumulation": {"architecture": "linear_rnn", "accumulate": 2},
    "carried state": {"architecture": "linear_rnn", "carry_state": True, "task": "text"},
    "carried state, accumulation, dropout": {
        "architecture": "lstm", "carry_state": True, "accumulate": 2, "task": "text", "recipe": {"dropout": 0.2},
    },
}  # fmt: skip


def cases() -> list[str]:
    """The families, and the ways of training that this lab has."""
    known = {field.name for field in (*fields(Spec), *fields(Recipe))} | {"architecture", "task", "recipe"}
    return [*FAMILIES, *(name for name, way in VARIANTS.items() if {*way, *way.get("recipe", {})} <= known)]

"""What a token of training costs an architecture under every convention in use: a language model on one sequence.

By shapes alone, but for torch's own counter, which sees a training step as it runs here: what a fused kernel does it may not see.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from architectures.backbone import Backbone, Flops
from lab import plugins
from lab.analysis.conventions import palm, six_nd
from lab.budget import TRAIN_OVER_FORWARD
from lab.errors import UsageError, within
from lab.model import count_parameters

HEADS = ("contraction", "all", "minimum", "torch", "6nd_nonembedding", "6nd", "palm")
"""What is shown over the headline."""
Row = dict[str, Any]


def ledger(architectures: Sequence[str], dim: int, depth: int, lengths: Sequence[int], vocabulary: int) -> list[Row]:
    """A row for each architecture (`name:setting=value`) and length: parameters and, for each convention, training FLOPs a token.

    Raises:
        UsageError: there is no such architecture, it refuses the width or has no causal form, or a number is not above zero.
    """
    for flag, value, most in (
        ("--dim", dim, 1 << 14), ("--depth", depth, 1024), ("--vocabulary", vocabulary, 1 << 24),
        *(("--lengths", length, 1 << 24) for length in lengths),
    ):  # fmt: skip
        within(flag, value, 1, most)
    rows = []
    for text in architectures:
        name, given = plugins.parse("architectures", text)
        try:
            backbone = plugins.load("architectures", name)(dim, depth, **given)
        except (ValueError, TypeError) as error:
            raise UsageError(f"flops {text} at --dim {dim} --depth {depth}: {error}") from error
        rows += [{"architecture": text} | _costs(backbone, length, vocabulary) for length in lengths]
    return rows


def _costs(backbone: Backbone, length: int, vocabulary: int) -> Row:
    cost = (backbone.flops(length) + Flops(contraction=2 * length * vocabulary * backbone.dim)).batch(1)
    body, table = count_parameters(backbone), vocabulary * backbone.dim
    forward = {
        "headline": cost.headline,
        "contraction": cost.contraction,
        "all": cost.headline + cost.pointwise,
        "minimum": cost.least.headline,
    }
    rules = {
        "6nd_nonembedding": six_nd(body, 1),
        "6nd": six_nd(body + 2 * table, 1),
        "palm": palm(body + table, 1, backbone.depth, backbone.dim, length),
    }
    found = {name: TRAIN_OVER_FORWARD * value / length for name, value in forward.items()} | rules
    found["torch"] = torch_counts(backbone, length, vocabulary) / length
    return {"length": length, "parameters": body + 2 * table, **found}


def torch_counts(backbone: Backbone, length: int, vocabulary: int) -> int:
    """What torch's FlopCounterMode sees of a training step on one sequence, where the backbone is."""
    with torch.device(next(backbone.parameters()).device):
        embedding, head = nn.Embedding(vocabulary, backbone.dim), nn.Linear(backbone.dim, vocabulary, bias=False)
        tokens = torch.zeros(1, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        head(backbone(embedding(tokens))).sum().backward()
    return counter.get_total_flops()


def render(rows: Sequence[Row]) -> str:
    """A table: FLOPs a token, and every other convention over that."""
    lines: list[tuple[str, ...]] = [("architecture", "length", "FLOPs/token", *HEADS)]
    for row in rows:
        ratios = (f"{row[name] / row['headline']:.3f}" for name in HEADS)
        lines.append((row["architecture"], f"{row['length']:,}", f"{row['headline']:,.0f}", *ratios))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])

"""Training speed of a backbone by length, measured on the machine at hand."""

import statistics
import time

import torch

from architectures.backbone import Backbone, LengthError

TOKENS = 4096
LENGTHS = (64, 256, 1024, 4096)
REPEATS = 3


def throughput(backbone: Backbone, precision: str) -> dict[str, float]:
    """Tokens a second through forward and backward, for sequences of each length that together hold 4,096 tokens.

    Median of three passes after one that warms up. Lengths that the backbone refuses are left out. Gradients are left as they
    were found: none.
    """
    device = next(backbone.parameters()).device
    bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    found = {}
    for length in LENGTHS:
        x = torch.randn(TOKENS // length, length, backbone.dim, device=device, generator=torch.Generator(device).manual_seed(0))
        seconds = []
        try:
            for _ in range(REPEATS + 1):
                started = time.monotonic()
                with bfloat16:
                    loss = backbone(x).float().square().mean()
                loss.backward()
                loss.item()
                seconds.append(time.monotonic() - started)
        except LengthError:
            continue
        found[str(length)] = round(TOKENS / statistics.median(seconds[1:]), 1)
    backbone.zero_grad(set_to_none=True)
    return found

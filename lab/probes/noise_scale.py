"""The gradient noise scale, and the batch that it suggests (McCandlish et al., arXiv:1812.06162, appendix A.1).

With g the gradient of a batch of b sequences, E |g|^2 = |G|^2 + S / b. Two batch sizes give both unknowns; the noise scale
S / |G|^2 is the batch at which noise and signal weigh the same. It is a ratio of means over measurements, as a mean of ratios is
biased.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pandas import DataFrame

from lab.analysis.findings import Finding, Sheet, View
from lab.probes.subject import Subject
from lab.training import sequence_maps, with_auxiliary

SHARE = 0.5
"""Of the noise scale that a batch should at most be, for all architectures."""
PARTS = 16
REPLICATES = 1000
VIEW = View(
    "measurement", "square", "measurement", "|gradient|^2", logy=True, shade="of",
    caption="Squared norm of the gradient: of one of the run's batches, and faint of sixteen of them together.",
)  # fmt: skip


@dataclass(frozen=True)
class NoiseScale:
    """In sequences. scale: NaN where the gradient is lost in the noise. low, high: 95 % by bootstrap over measurements."""

    scale: float
    low: float
    high: float
    measurements: int
    length: int

    @property
    def batch(self) -> float:
        """Sequences a step that are suggested at most."""
        return SHARE * self.scale

    def __str__(self) -> str:
        if np.isnan(self.scale):
            return f"the gradient is lost in the noise of {self.measurements} measurements; ask for more with --measurements"
        scale = f"{self.scale:.3g} sequences [{self.low:.3g}, {self.high:.3g}] = {self.scale * self.length:,.0f} tokens"
        batch = f"{max(1, round(self.batch))} sequences, {self.batch * self.length:,.0f} tokens"
        return f"noise scale {scale}, from {self.measurements} measurements\na batch of at most {batch}, is suggested"


def noise_scale(small: Sequence[float], large: Sequence[float], b: int, B: int, length: int = 1) -> NoiseScale:
    """From squared norms of gradients of batches of `b` and of `B` sequences, one of each a measurement."""
    at_small, at_large = np.asarray(small, float), np.asarray(large, float)
    signal = (B * at_large - b * at_small) / (B - b)
    noise = (at_small - at_large) / (1 / b - 1 / B)
    drawn = np.random.default_rng(0).integers(len(signal), size=(REPLICATES, len(signal)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = noise[drawn].mean(1) / signal[drawn].mean(1)
    found = noise.mean() / signal.mean() if signal.mean() > 0 else np.nan
    ratios = np.where(signal[drawn].mean(1) > 0, ratios, np.inf)
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return NoiseScale(float(found), float(low), float(high), len(signal), length)


def measure(subject: Subject, measurements: int = 16) -> Finding:
    """Of a run's last weights, on training batches that it has not seen: each of `PARTS` of the run's batches."""
    small, large = gradients(subject, measurements)
    found = noise_scale(small, large, subject.spec.batch, PARTS * subject.spec.batch, subject.task.length)
    table = DataFrame({"measurement": np.arange(1, measurements + 1), "small": small, "large": large})
    numbers = {"scale": found.scale, "low": found.low, "high": found.high, "batch": found.batch}
    return Finding(
        {"noise-scale": Sheet(table.melt("measurement", var_name="of", value_name="square"), VIEW)}, numbers, str(found)
    )


def gradients(subject: Subject, measurements: int) -> tuple[list[float], list[float]]:
    """Squared norms: the mean of those of `PARTS` batches, and that of all of them together, a pair for each measurement."""
    spec, task, model = subject.spec, subject.task, subject.model.train()
    maps = sequence_maps(model)
    torch.manual_seed(spec.seed)
    small, large = [], []
    for index in range(measurements):
        total, norms = torch.zeros(()), []
        for part in range(PARTS):
            batch = task.batch("train", 1_000_000_000 + index * PARTS + part, spec.batch, spec.seed)
            model.zero_grad(set_to_none=True)
            loss = task.loss(model(batch.inputs, batch.positions, batch.lengths), batch.targets)
            with_auxiliary(loss, maps).backward()
            flat = torch.cat([torch.view_as_real(g).flatten() if g.is_complex() else g.flatten()
                              for p in model.parameters() if (g := p.grad) is not None])  # fmt: skip
            total = total + flat
            norms.append(float(flat.square().sum()))
        small.append(sum(norms) / PARTS)
        large.append(float((total / PARTS).square().sum()))
    model.eval()
    return small, large

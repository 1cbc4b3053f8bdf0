"""Band-limited white signals: every wave that fits the length, up to a highest frequency, with random heights.

    x[t] = z[t] - z[0],    z[t] = rms / sqrt(K) * sum over k = 1 ... K of  a[k] cos(2 pi k t / L) + b[k] sin(2 pi k t / L)

with a, b ~ N(0, 1) and K = frequency * L, frequency in cycles a step. Its mean square before z[0] is taken off is rms^2, in
expectation. This is the signal of the data published with S4 (state-spaces/s4, after nengo), which counts in seconds: 1000 Hz
in steps of 0.25 ms is a frequency of 0.25, 100 Hz in steps of 1 ms is one of 0.1.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tasks.task import Split, of_split

RMS = 0.5


def white_signals(
    split: Split, index: int, size: int, seed: int, *, length: int, frequency: float
) -> Float[Tensor, "size length 1"]:
    """`size` signals of one split, a pure function of the arguments; the heights of the waves decide the split."""
    waves = count_waves(length, frequency)

    def draw(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        heights = rng.standard_normal((count, 2 * waves), np.float32)
        return {"inputs": heights.view(np.int32), "heights": heights}

    heights = of_split(draw, split, index, size, seed)["heights"].numpy()
    return torch.from_numpy(white_signal(heights, length))[:, :, None]


def white_signal(heights: Float[np.ndarray, "count heights"], length: int) -> Float[np.ndarray, "count length"]:
    """Signals of `length` steps, each from a[1] b[1] a[2] b[2] ... of its waves, in single precision."""
    waves = heights.shape[1] // 2
    coefficients = np.zeros((len(heights), length // 2 + 1), np.complex128)
    coefficients[:, 1 : 1 + waves] = heights[:, 0::2] - 1j * heights[:, 1::2]
    z = np.fft.irfft(coefficients * (RMS / np.sqrt(waves) * length / 2), length)
    return (z - z[:, :1]).astype(np.float32)


def count_waves(length: int, frequency: float) -> int:
    """K.

    Raises:
        ValueError: no wave fits, or the frequency is not below that of Nyquist.
    """
    waves = int(frequency * length + 1e-9)
    if waves < 1 or frequency >= 0.5:
        raise ValueError(
            f"frequency={frequency} for length={length}: between {1 / length:.3g}, one wave, and less than 0.5 cycles a step"
        )
    return waves


def mean_square_change(length: int, frequency: float) -> Float[np.ndarray, "length"]:
    """Expectation of (x[s + t] - x[s])^2 for each t, whatever s; with s = 0 that of x[t]^2."""
    k = np.arange(1, 1 + count_waves(length, frequency))
    return 2 * RMS**2 * (1 - np.array([np.cos(2 * np.pi * k * t / length).mean() for t in range(length)]))

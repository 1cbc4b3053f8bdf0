"""How large the state is by context, and how well a signal can be read back from it, beside the best that its size allows.

Size: the numbers that are remembered after so many positions of one sequence, measured.

Reconstruction, of every mixer whose state does not grow: one channel of its input is a stationary signal u, all others are 0;
from the state after the last step, rounded to single precision, the last `window` values of u are read by the best linear map.
It is fitted with a ridge, chosen on other signals, and its error is of signals that had no part in either: root mean square over
that of u, by how long ago. For a linear time-invariant map such as S4 the state is linear in u, and the best readout of it is at
least as good as the polynomials that HiPPO reads with (Gu et al., arXiv:2008.07669, section 2.3; arXiv:2206.12037 for what the
states of S4 hold).

u has all waves below `FREQUENCY` cycles a step with normal heights, so its covariance C over the window is known. No N numbers
that are linear in u hold more of it than its N largest principal components: the mean square error is at least the sum of the
eigenvalues of C after the N-th (Karhunen-Loeve; Eckart & Young 1936). That is the optimum, with N the numbers of the state that
move at all; in a state space for each channel, those of one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from pandas import DataFrame, concat

from architectures.backbone import LengthError, SequenceMap
from lab.analysis.findings import Finding, Sheet, View
from lab.model import model_of, state_size
from lab.probes.subject import TRAINED, Subject, mixers, numbers, wide

FREQUENCY = 0.1
"""Cycles a step, the highest of the signal."""
WINDOW = 128
"""Steps to read back, at most; as many as the training sequences have."""
CHANNELS = 2
SIGNALS = (448, 128, 128)
"""To fit, to choose the ridge, to score."""
LONGEST = 16
"""Times the training length up to which the state is measured."""
RIDGES = 10.0 ** np.arange(-13, 0)
SIZE = View(
    "context", "numbers", "context, positions", "numbers remembered", logx=True, logy=True,
    caption="Numbers that are remembered of one sequence after so many positions.",
)  # fmt: skip
BACK = View(
    "ago", "error", "steps ago", "error / rms of the signal", shade="weights", ylim=(-0.03, 1.1),
    caption=f"Error of a signal of up to {FREQUENCY:g} cycles a step, read from the state by the best linear map, by how long "
    "ago; faint: before training, then the mean error of the best state of that size.",
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """error: at 0, 1, ... steps ago, over the rms of the signal. optimum: the least mean error of `size` numbers."""

    error: np.ndarray
    optimum: float
    size: int

    @property
    def mean(self) -> float:
        """Over the window, root mean square."""
        return float(np.sqrt(np.mean(self.error**2)))


def measure(subject: Subject) -> Finding:
    """
    Raises:
        UsageError: the backbone is not causal.
    """
    subject.need_causal()
    sizes = DataFrame(_sizes(subject), columns=["context", "numbers"])
    found = {"numbers": float(sizes["numbers"].iloc[0]), "growth": float(sizes["numbers"].iloc[-1] / sizes["numbers"].iloc[0])}
    sheets = {"memory": Sheet(sizes, SIZE)}
    said = f"{sizes['numbers'].iloc[0]:,.0f} numbers after {sizes['context'].iloc[0]:,} positions, " \
           f"{sizes['numbers'].iloc[-1]:,.0f} after {sizes['context'].iloc[-1]:,}"  # fmt: skip
    parts = []
    window = min(subject.task.length, WINDOW)
    for weights, model in subject.both().items():
        readings = [
            read_back(wide(mixer), model.backbone.dim, window, channel)
            for mixer in largest(mixers(model.backbone, window))
            for channel in np.linspace(0, model.backbone.dim - 1, CHANNELS).astype(int).tolist()
        ]
        if not readings:
            continue
        error = np.sqrt(np.mean([each.error**2 for each in readings], 0))
        parts.append(DataFrame({"weights": weights, "ago": np.arange(window), "error": error}))
        after = "" if weights == TRAINED else "_untrained"
        found[f"error{after}"] = float(np.sqrt(np.mean([each.mean**2 for each in readings])))
        if weights == TRAINED:
            found |= {"optimum": float(np.mean([each.optimum for each in readings]))}
            found["above_optimum"] = found["error"] - found["optimum"]
            found["moving"] = float(np.mean([each.size for each in readings]))
            said += f"; a signal is read back to {found['error']:.3g} of its rms over {window} steps, " \
                    f"the best {found['moving']:,.0f} numbers allow {found['optimum']:.2g}"  # fmt: skip
    if parts:
        best = DataFrame({"weights": "optimum", "ago": np.arange(window), "error": found["optimum"]})
        sheets["reconstruction"] = Sheet(concat([*parts, best], ignore_index=True), BACK)
    return Finding(sheets, found, said)


def largest(found: dict[str, SequenceMap]) -> list[SequenceMap]:
    """Those with the largest state: not what only shifts the last input on."""
    sizes = {name: sum(each.shape[1] for each in numbers(mixer, mixer.init_state(1))) for name, mixer in found.items()}
    return [mixer for name, mixer in found.items() if sizes[name] == max(sizes.values())]


def read_back(mixer: SequenceMap, dim: int, window: int, channel: int) -> Reading:
    """From the state of a mixer in double precision, after twice the window of a signal on one channel of its input."""
    length = 2 * window
    signals = waves(sum(SIGNALS), length)
    states = []
    with torch.no_grad():
        for part in torch.from_numpy(signals).split(64):
            x = torch.zeros(*part.shape, dim, dtype=torch.float64)
            x[:, :, channel] = part
            state = mixer.stream(x, mixer.init_state(len(x)))[1]
            states.append(torch.cat(numbers(mixer, state), 1).float().double())
    found = torch.cat(states).numpy()
    moving = found.std(0) > 1e-9 * max(found.std(0).max(), 1e-300)
    past = signals[:, ::-1][:, :window]
    error = _linear_error(found[:, moving], past)
    eigenvalues = np.linalg.eigvalsh(covariance(window, length))[::-1].clip(0)
    left = eigenvalues[int(moving.sum()) :].sum() / eigenvalues.sum()
    return Reading(error, float(np.sqrt(left)), int(moving.sum()))


def waves(count: int, length: int) -> np.ndarray:
    """Signals of variance 1, (count, length): normal heights of all waves up to `FREQUENCY` that fit twice into the length."""
    k = np.arange(1, max(1, round(2 * length * FREQUENCY)) + 1)
    angle = np.pi * np.outer(k, np.arange(length)) / length
    heights = np.random.default_rng(0).standard_normal((2, count, len(k)))
    return (heights[0] @ np.cos(angle) + heights[1] @ np.sin(angle)) / np.sqrt(len(k))


def covariance(window: int, length: int) -> np.ndarray:
    """Of such a signal over a window."""
    k = np.arange(1, max(1, round(2 * length * FREQUENCY)) + 1)
    lags = np.abs(np.subtract.outer(np.arange(window), np.arange(window)))
    return np.cos(np.pi * np.arange(window)[:, None] * k / length).mean(1)[lags]


def _linear_error(states: np.ndarray, past: np.ndarray) -> np.ndarray:
    """Of the best linear readout on signals that it was not fitted to, over their rms, for each column of `past`."""
    fit, choose, score = np.split(np.arange(len(states)), np.cumsum(SIGNALS)[:-1])
    if not states.shape[1]:
        return past[score].std(0)
    mean, spread = states[fit].mean(0), states[fit].std(0)
    states = (states - mean) / np.where(spread > 0, spread, 1)
    base = past[fit].mean(0)
    left, values, right = np.linalg.svd(states[fit], full_matrices=False)
    target = left.T @ (past[fit] - base)

    def error(ridge: float, turned: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        readout = target * (values / (values**2 + ridge * values[0] ** 2))[:, None]
        return np.sqrt(np.mean((turned @ readout + base - wanted) ** 2, 0))

    turned = states[choose] @ right.T
    best = min(RIDGES, key=lambda ridge: np.mean(error(ridge, turned, past[choose]) ** 2))
    return error(best, states[score] @ right.T, past[score])


def _sizes(subject: Subject) -> list[tuple[int, int]]:
    with torch.device("meta"):
        backbone = model_of(subject.spec, subject.task).backbone
    found: list[tuple[int, int]] = []
    for times in (1, 2, 4, 8, LONGEST):
        length = times * subject.task.length
        if times > 2 and found[-1][1] == found[0][1] == found[-2][1]:
            found.append((length, found[0][1]))  # it does not grow
            continue
        try:
            found.append((length, state_size(backbone, length) or 0))
        except LengthError:
            break
    return found

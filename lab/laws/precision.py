"""Law 8, precision and length: bfloat16 autocast stays near float32, and a long sequence is read or refused.

Under autocast, forward and backward run and the output is finite and coarsely the same; float32 afterwards is as before.
Lengths far beyond those of training are read, with finite outputs, or refused with a LengthError; what `forward` refuses,
`stream` refuses as well.
"""

import torch

from architectures.backbone import Backbone, LengthError
from lab.laws.subject import LONG, Broken, Subject, described, noise

COARSE = 0.1  # root mean square, bfloat16 against float32


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    model = subject.awake()
    off = _bfloat16_is_off_by(subject, model)
    _leaves_no_trace(subject, model)
    for length in (1025, LONG + 1):
        try:
            subject.read_finite(model, noise(1, length, subject.dim))
        except LengthError:
            continue
    if subject.longest < LONG:
        _refuses_to_stream_on(subject, model)
    return f"bfloat16 is {off:.1e} away" + ("" if subject.longest == LONG else f"; refuses more than {subject.longest}")


def _bfloat16_is_off_by(subject: Subject, model: Backbone) -> float:
    x = noise(2, subject.lengths(61)[0], subject.dim)
    exact = subject.read(model, x).detach()
    with torch.autocast(x.device.type, torch.bfloat16):
        subject.doing = "forward under bfloat16 autocast"
        y = model(x)
    if y.shape != x.shape or not y.isfinite().all():
        raise Broken(f"{subject.doing} gave {described(y)} with values that are not finite, or the wrong shape")
    subject.doing = "backward of bfloat16 autocast"
    y.float().square().mean().backward()
    off = ((y.float() - exact).square().mean() / exact.square().mean()).sqrt().item()
    if not off < COARSE:
        raise Broken(f"under bfloat16 autocast the output is {off:.1e} away from float32 (relative, root mean square)")
    return off


def _leaves_no_trace(subject: Subject, used: Backbone) -> None:
    """What was computed in bfloat16 is not kept for float32."""
    x = noise(2, subject.lengths(61)[0], subject.dim)
    with torch.no_grad():
        change = (subject.read(used, x) - (whole := subject.read(subject.awake(), x))).abs().max()
    if not change <= 1e-6 * whole.abs().max():
        raise Broken(f"after bfloat16 autocast, float32 outputs are {change:.1e} away from those of a new one ({subject.doing})")


def _refuses_to_stream_on(subject: Subject, model: Backbone) -> None:
    x = noise(1, subject.longest + 1, subject.dim)
    subject.doing = f"streaming {subject.longest} positions"
    with torch.no_grad():
        _, state = model.stream(x[:, :-1], model.init_state(1))
        try:
            model.stream(x[:, -1:], state)
        except LengthError:
            return
    raise Broken(f"forward refuses {x.shape[1]} positions, but stream goes on to read them")

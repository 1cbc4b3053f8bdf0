"""Law 4, isolation: what a backbone computes follows from its settings, its seed, its weights and the row it reads.

Rows of a batch do not meet; the same seed gives the same weights and the same output, without touching torch's global
generator or default dtype; and a fresh instance that loads the state_dict from a file computes the same.
"""

import io
import itertools

import torch
from torch import Tensor

from architectures.backbone import Backbone
from lab.laws.subject import EXACT, SEED, Broken, Subject, difference, largest, noise


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    for causal, train in itertools.product(subject.forms, (False, True)):
        model = subject.awake(torch.float64, causal=causal).train(train)
        for length in subject.lengths(1, 33):
            _rows(subject, model, noise(3, length, subject.dim, dtype=torch.float64))
    _seeds(subject)
    _default_dtype(subject)
    _round_trip(subject)
    return ""


def _rows(subject: Subject, model: Backbone, x: Tensor) -> None:
    with torch.no_grad():
        before = subject.read(model, x)
        if difference(subject.read(model, x), before).max() > 0:
            raise Broken(f"the same inputs and seed gave another output the second time ({subject.doing})")
        other = x.clone()
        other[1] = 1e3 * noise(*x[1].shape, dtype=x.dtype, seed=1)
        change = difference(subject.read(model, other), before).amax(2)
        change[1] = 0
        if change.max() > EXACT * largest(before):
            row, position = divmod(int(change.argmax()), x.shape[1])
            raise Broken(
                f"row {row} of a batch changed by {change.max():.1e} at position {position} when row 1 was replaced "
                f"({subject.doing})"
            )
        if not model.training:
            change = difference(subject.read(model, x[:1]), before[:1])
            if change.max() > EXACT * largest(before):
                raise Broken(f"a row alone differs by {change.max():.1e} from the same row in a batch of 3")


def _seeds(subject: Subject) -> None:
    """The weights follow from the seed, whatever was built and trained in between."""
    used = subject.build()
    drawn = torch.random.get_rng_state()
    first = {name: value.clone() for name, value in used.state_dict().items() if isinstance(value, Tensor)}
    subject.read(used.train(), noise(2, subject.lengths(7)[0], subject.dim))
    subject.build(seed=SEED + 1)
    if torch.equal(drawn, torch.random.get_rng_state()):
        raise Broken("building it seeds torch's global generator")
    second = subject.build().state_dict()
    for name, value in first.items():
        if not torch.equal(value, second[name]):
            raise Broken(f"building it twice from the same seed gave different values of {name}")


def _default_dtype(subject: Subject) -> None:
    subject.doing = "building it"
    default = torch.get_default_dtype()
    try:
        subject.make(subject.dim, subject.depth, **subject.settings)
        if torch.get_default_dtype() != default:
            raise Broken(f"building it changed torch's default dtype to {torch.get_default_dtype()}")
    finally:
        torch.set_default_dtype(default)


def _round_trip(subject: Subject) -> None:
    model, fresh, file = subject.build(), subject.build(seed=SEED + 1), io.BytesIO()
    subject.doing = "saving its state_dict and loading it with weights_only=True into a fresh one"
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = noise(2, subject.lengths(33)[0], subject.dim)
    with torch.no_grad():
        change = difference(subject.read(fresh, x), whole := subject.read(model, x))
    if change.max() > 1e-6 * largest(whole):
        raise Broken(f"a fresh one loaded from its state_dict gives other outputs, by {change.max():.1e}")

"""Law 4, isolation: what a backbone computes follows from its settings, its seed, its weights and the row it reads.

Rows of a batch do not meet; the same seed gives the same weights and the same output, without touching torch's global
generator or default dtype; a fresh instance that loads the state_dict from a file computes the same; and nothing that was
done before leaves a trace: reading other sequences, training, other threads or another default dtype.
"""

import io
import itertools
from collections.abc import Callable

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
    for name, act in _HISTORIES.items():
        _leaves_no_trace(subject, name, act)
    _follows_its_weights(subject)
    return ""


def _rows(subject: Subject, model: Backbone, x: Tensor) -> None:
    with torch.no_grad():
        given = x.clone()
        before = subject.read(model, x)
        if not torch.equal(x, given):
            raise Broken(f"forward changed the input that it was given ({subject.doing})")
        if difference(subject.read(model, x), before).max() > 0:
            raise Broken(f"the same inputs and seed gave another output the second time ({subject.doing})")
        if not model.training and difference(subject.read(model, x, seed=SEED + 1), before).max() > 0:
            raise Broken(f"in eval() its output depends on torch's global generator ({subject.doing})")
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
        subject.make(subject.dim, subject.depth, causal=subject.forms[0], **subject.settings)
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


def _read_in_same_memory(subject: Subject, model: Backbone, x: Tensor, other: Tensor) -> Tensor:
    place = other.clone()
    subject.read(model, place)
    return subject.read(model, place.copy_(x))


def _read_after_training(subject: Subject, model: Backbone, x: Tensor, other: Tensor) -> Tensor:
    subject.read(model.train(), other)
    return subject.read(model.eval(), x)


def _read_after_another_instance(subject: Subject, model: Backbone, x: Tensor, other: Tensor) -> Tensor:
    subject.read(subject.awake(torch.float64, seed=SEED + 1), x)
    return subject.read(model, x)


def _read_after_longer(subject: Subject, model: Backbone, x: Tensor, other: Tensor) -> Tensor:
    subject.read(model, noise(1, subject.lengths(131)[0], subject.dim, dtype=torch.float64))
    return subject.read(model, x)


def _read_in_other_default_dtype(subject: Subject, model: Backbone, x: Tensor, other: Tensor) -> Tensor:
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        return subject.read(model, x)
    finally:
        torch.set_default_dtype(default)


def _read_with_more_threads(subject: Subject, model: Backbone, x: Tensor, other: Tensor) -> Tensor:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        return subject.read(model, x)
    finally:
        torch.set_num_threads(threads)


def _read_with_gradients(subject: Subject, model: Backbone, x: Tensor, other: Tensor) -> Tensor:
    with torch.enable_grad():
        return subject.read(model, x.clone().requires_grad_()).detach()


_History = Callable[[Subject, Backbone, Tensor, Tensor], Tensor]
_HISTORIES: dict[str, _History] = {
    "after another sequence of the same shape in the same memory": _read_in_same_memory,
    "after another sequence in train()": _read_after_training,
    "after another instance read the same": _read_after_another_instance,
    "after a longer sequence": _read_after_longer,
    "while torch's default dtype is float64": _read_in_other_default_dtype,
    "with one more thread": _read_with_more_threads,
    "while gradients are recorded": _read_with_gradients,
}


def _leaves_no_trace(subject: Subject, name: str, act: _History) -> None:
    """In evaluation a sequence gives what a new instance gives that has seen nothing else."""
    x, other = (noise(2, subject.lengths(33)[0], subject.dim, dtype=torch.float64, seed=seed) for seed in (0, 1))
    with torch.no_grad():
        expected = subject.read(subject.awake(torch.float64), x)
        change = difference(act(subject, subject.awake(torch.float64), x, other), expected).max()
    if change > EXACT * largest(expected):
        raise Broken(f"read {name}, the same sequence gives other outputs, by {change:.1e}, in eval()")


def _follows_its_weights(subject: Subject) -> None:
    """What was read before the weights changed is forgotten, as evaluation and training take turns."""
    model, fresh = subject.awake(), subject.awake()
    x = noise(2, subject.lengths(33)[0], subject.dim)
    with torch.inference_mode():
        subject.read(model, x)
    for _ in range(2):
        subject.read(model.train(), x).sum().backward()
        with torch.no_grad():
            for seed, parameter in enumerate(model.parameters()):
                parameter += 0.01 * noise(*parameter.shape, seed=seed).to(parameter.dtype)
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        change = difference(subject.read(model.eval(), x), whole := subject.read(fresh, x)).max()
    if change > 1e-6 * largest(whole):
        raise Broken(f"after its weights were trained, its outputs in eval() are not those of its state_dict, by {change:.1e}")

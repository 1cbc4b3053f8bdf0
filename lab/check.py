"""The laws that every backbone keeps, each as a function that looks for a way to break it.

print(check("s4:modes=64"))      a name, with settings
print(check(MyBackbone))         a class

1 shapes, 2 causality, 3 streaming, 4 isolation of rows, seeds and files, 6 operations, 7 training, 8 precision and
length. Law 5, that a fast op equals its slow definition, is kept by the tests of each op. A law that is broken says
what was found and where; an exception inside the backbone breaks the law under test.
"""

import io
import itertools
import math
import sys
import time
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from architectures.backbone import Backbone, Flops, LengthError, SequenceMap, Tuning
from lab import model as models
from lab import plugins
from lab.counter import Counter
from tasks.task import Batch, Split, Task, Tokens

LENGTHS = (1, 2, 3, 7, 16, 17, 61, 127)
LONG = 4096
EXACT = 1e-9  # relative to the largest output, float64
CLOSE = 2e-4  # the same in float32
COARSE = 0.1  # root mean square, bfloat16 against float32
SEED = 20_240_229
_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class Broken(Exception):
    """A law does not hold; says what was found and where."""


@dataclass(frozen=True)
class Result:
    """One law: `message` says why it is broken, or what is worth knowing where it holds."""

    law: int
    title: str
    status: Literal["passed", "failed"]
    message: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What `check` found; prints as a table."""

    name: str
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        return all(result.status == "passed" for result in self.results)

    @property
    def failed(self) -> list[int]:
        """Numbers of the broken laws."""
        return [result.law for result in self.results if result.status == "failed"]

    def __str__(self) -> str:
        width = max(len(result.title) for result in self.results)
        rows = [
            f"{r.law:>3}  {r.title:<{width}}  {r.status}  {r.seconds:5.1f} s  {r.message}".rstrip()
            for r in self.results
        ]
        verdict = "keeps every law" if self.passed else f"breaks law {', '.join(map(str, self.failed))}"
        return "\n".join([f"{self.name}: {verdict}", *rows])


@dataclass
class Subject:
    """The backbone under test, and `doing`: what is being tried, for the message if it raises."""

    name: str
    make: Callable[..., Backbone]
    dim: int
    depth: int
    settings: Mapping[str, Any]
    known: bool = False
    """Whether the lab finds it by name."""
    doing: str = field(default="", init=False)

    def build(
        self, dtype: torch.dtype = torch.float32, *, seed: int = SEED, depth: int = 0, causal: bool = True
    ) -> Backbone:
        """A new one in evaluation mode; `depth` 0 is the one under test."""
        self.doing = f"building it with dim={self.dim}, depth={depth or self.depth}, causal={causal}"
        default = torch.get_default_dtype()
        try:
            torch.manual_seed(seed)
            made = self.make(self.dim, depth or self.depth, causal=causal, **self.settings)
        finally:
            torch.set_default_dtype(default)
        if dtype == torch.float64:
            made._apply(lambda t: t.to(_WIDE.get(t.dtype, t.dtype)))
        return made.eval()

    def read(self, model: Backbone, x: Tensor, label: str = "") -> Tensor:
        """`forward`, after the same seed each time."""
        mode = "train()" if model.training else "eval()"
        self.doing = label or f"forward of length {x.shape[1]}, batch {x.shape[0]}, {_short(x.dtype)}, {mode}"
        torch.manual_seed(SEED)
        y = model(x)
        if not isinstance(y, Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            raise Broken(f"{self.doing} gave {_described(y)}, expected {_described(x)}")
        return y

    @cached_property
    def forms(self) -> tuple[bool, ...]:
        """The values of `causal` that it can be built with."""
        try:
            self.build(causal=False)
        except Exception:
            return (True,)
        return (True, False)

    @cached_property
    def longest(self) -> int:
        """The longest sequence it reads, at most `LONG`."""
        model = self.build()

        def refuses(length: int) -> bool:
            try:
                with torch.no_grad():
                    model(noise(1, length, self.dim))
            except LengthError:
                return True
            except Exception:
                return False
            return False

        if not refuses(LONG):
            return LONG
        low, high = 0, LONG
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if refuses(middle) else (middle, high)
        return low

    def lengths(self, *wanted: int) -> list[int]:
        """The wanted lengths, none beyond the longest that it reads."""
        return sorted({min(length, self.longest) for length in wanted})


def check(
    backbone: Callable[..., Backbone] | str,
    dim: int = 16,
    depth: int = 2,
    settings: Mapping[str, Any] | None = None,
    laws: Collection[int] = (1, 2, 3, 4, 6, 7, 8),
) -> Report:
    """Try to break the laws; seconds, not minutes, at the default size.

    Raises:
        UsageError: a name or a setting that is not known.
    """
    if isinstance(backbone, str):
        name, given = plugins.parse("architectures", backbone)
        make, known = plugins.load("architectures", name), True
    else:
        name, given, make, known = getattr(backbone, "__name__", str(backbone)), {}, backbone, False
    subject = Subject(name, make, dim, depth, given | dict(settings or {}), known)
    label = backbone if isinstance(backbone, str) else name
    with torch.random.fork_rng(devices=[]):
        if (failure := _outcome(subject, lambda of: of.build())) is not None:
            return Report(label, (Result(1, "construction", "failed", f"law 1, construction: {failure}", 0.0),))
        results = []
        for law, title, holds in LAWS:
            if law in laws:
                start, notes = time.perf_counter(), []
                failure = _outcome(subject, lambda of, holds=holds, notes=notes: notes.append(holds(of)))
                message = f"law {law}, {title}: {failure}" if failure else notes[0]
                seconds = time.perf_counter() - start
                results.append(Result(law, title, "failed" if failure else "passed", message, seconds))
    return Report(label, tuple(results))


def _outcome(subject: Subject, law: Callable[[Subject], Any]) -> str | None:
    """None, or the failure in one line."""
    try:
        law(subject)
    except Broken as broken:
        return str(broken)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        return f"{type(error).__name__}: {reason} (while {subject.doing})"
    return None


def shapes(subject: Subject) -> str:
    """Law 1."""
    for causal, dtype in itertools.product(subject.forms, (torch.float32, torch.float64)):
        model = subject.build(dtype, causal=causal)
        for length in subject.lengths(*LENGTHS) if causal else subject.lengths(1, 2, 17, 61):
            with torch.no_grad():
                _finite(subject, subject.read(model, noise(2, length, subject.dim, dtype=dtype)))
        for scale in (0, 1e3):
            x = scale * noise(2, subject.lengths(17)[0], subject.dim, dtype=dtype)
            with torch.no_grad():
                _finite(subject, subject.read(model, x, f"forward of inputs scaled by {scale:g}, {_short(dtype)}"))
    x = noise(1, subject.longest, subject.dim).requires_grad_()
    model = subject.build()
    y = subject.read(model, x)
    subject.doing = f"backward of length {subject.longest}"
    (y * noise(*y.shape, seed=1)).sum().backward()
    for name, tensor in [("the input", x), *model.named_parameters()]:
        if tensor.grad is not None and not tensor.grad.isfinite().all():
            raise Broken(f"the gradient of {name} is not finite after {subject.doing}")
    return "" if subject.longest == LONG else f"it reads no more than {subject.longest} positions; checked up to there"


def causality(subject: Subject) -> str:
    """Law 2. Each row of a batch cuts time at another place."""
    for train in (False, True):
        model = subject.build(torch.float64).train(train)
        for length in subject.lengths(2, 7, 67, 131) if train else subject.lengths(2, 7, 67, 131, 515):
            cuts = torch.tensor([c for c in range(1, length) if length < 100 or min(c % 16, -c % 16) < 2])
            if length > 500:
                cuts = torch.tensor([1, 63, 64, 65, 128, 255, 256, 257, 511, 512])
            if len(cuts):
                _future_by_perturbation(subject, model, length, cuts)
                _future_by_gradient(subject, model, length, cuts)
    return ""


def _future_by_perturbation(subject: Subject, model: Backbone, length: int, cuts: Tensor) -> None:
    x = noise(1, length, subject.dim, dtype=torch.float64).expand(len(cuts), -1, -1).contiguous()
    future = torch.arange(length) >= cuts[:, None]
    with torch.no_grad():
        before = subject.read(model, x)
        for scale in (1.0, 1e3):
            other = torch.where(future[:, :, None], scale * noise(*x.shape, dtype=x.dtype, seed=1), x)
            change = _difference(subject.read(model, other), before).amax(2).masked_fill(future, 0)
            if change.max() > EXACT * _scale(before):
                row, position = divmod(int(change.argmax()), length)
                raise Broken(
                    f"output at position {position} changed by {change.max():.1e} when inputs from position "
                    f"{int(cuts[row])} on were replaced ({subject.doing})"
                )


def _future_by_gradient(subject: Subject, model: Backbone, length: int, cuts: Tensor) -> None:
    x = noise(len(cuts), length, subject.dim, dtype=torch.float64).requires_grad_()
    y = subject.read(model, x)
    asked = y[torch.arange(len(cuts)), cuts - 1]
    (slope,) = torch.autograd.grad((asked * noise(*asked.shape, dtype=x.dtype, seed=1)).sum(), x)
    ahead = slope.abs().amax(2).masked_fill(torch.arange(length) < cuts[:, None], 0).nan_to_num(nan=math.inf)
    if ahead.max() > EXACT * _scale(slope):
        row, position = divmod(int(ahead.argmax()), length)
        raise Broken(
            f"the output at position {int(cuts[row]) - 1} has a gradient of {ahead.max():.1e} with respect to the "
            f"input at position {position} ({subject.doing})"
        )


def streaming(subject: Subject) -> str:
    """Law 3."""
    for dtype, tolerance in ((torch.float64, EXACT), (torch.float32, CLOSE)):
        model = subject.build(dtype)
        for length in subject.lengths(1, 2, 17, 61, 131, LONG):
            x = noise(2, length, subject.dim, dtype=dtype)
            with torch.no_grad():
                whole = subject.read(model, x)
                for pieces in _cuts(length):
                    _same_in_pieces(subject, model, x, whole, pieces, tolerance)
    model = subject.build(torch.float64)
    with torch.no_grad():
        _state_is_a_value(subject, model)
    return f"float32 to {CLOSE:g} of the largest output" + (
        "" if subject.longest == LONG else f", up to {subject.longest} positions"
    )


def _cuts(length: int) -> Iterator[list[int]]:
    """Ways to cut a sequence, as lengths of the pieces."""
    rng = torch.Generator().manual_seed(length)
    yield [length]
    if length <= 61:
        yield [1] * length
    if length == 131:
        for first in (1, 15, 16, 17, 63, 64, 65, 128):
            yield [first, length - first]
    for count in (4,) if length > 1000 else (2, 5):
        places = sorted(torch.randint(0, length + 1, (count,), generator=rng).tolist())
        yield [0, *(b - a for a, b in itertools.pairwise([0, *places, length])), 0]
    if length > 3:
        yield [length - 3, 1, 0, 1, 1]


def _same_in_pieces(
    subject: Subject, model: Backbone, x: Tensor, whole: Tensor, pieces: Sequence[int], tolerance: float
) -> None:
    shown = "+".join(map(str, pieces)) if len(pieces) < 10 else f"{len(pieces)} single positions"
    subject.doing = f"streaming {shown} of length {x.shape[1]}, {_short(x.dtype)}"
    state, outputs = model.init_state(x.shape[0]), []
    for piece in x.split(list(pieces), 1):
        y, state = model.stream(piece, state)
        if y.shape != piece.shape or y.dtype != x.dtype:
            raise Broken(f"{subject.doing}: a piece gave {_described(y)}, expected {_described(piece)}")
        outputs.append(y)
    change = _difference(torch.cat(outputs, 1), whole).amax((0, 2))
    if change.max() > tolerance * _scale(whole):
        position = int((change > tolerance * _scale(whole)).nonzero()[0])
        raise Broken(
            f"{subject.doing}: output at position {position} differs from forward's by {change[position]:.1e}"
            f" (at most {change.max():.1e})"
        )


def _state_is_a_value(subject: Subject, model: Backbone) -> None:
    """A state can be streamed from twice, and two streams do not meet."""
    for first, then in ((5, 7), (5, 1), (0, 3)):
        if first + then > subject.longest:
            continue
        x, other = (noise(2, first + then, subject.dim, dtype=torch.float64, seed=seed) for seed in (0, 1))
        subject.doing = f"streaming {then} positions twice from the state after {first}"
        _, state = model.stream(x[:, :first], model.init_state(2))
        before = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, state)
        once, _ = model.stream(x[:, first:], state)
        for old, new in zip(tree_leaves(before), tree_leaves(state), strict=True):
            if isinstance(old, Tensor) and not torch.equal(old, new):
                raise Broken(f"stream changed the state that it was given ({subject.doing})")
        _, meanwhile = model.stream(other[:, :first], model.init_state(2))
        again, _ = model.stream(x[:, first:], state)
        model.stream(other[:, first:], meanwhile)
        if _difference(once, again).max() > EXACT * _scale(once):
            raise Broken(f"the same state gave another answer the second time ({subject.doing})")


def isolation(subject: Subject) -> str:
    """Law 4."""
    for causal, train in itertools.product(subject.forms, (False, True)):
        model = subject.build(torch.float64, causal=causal).train(train)
        for length in subject.lengths(1, 33):
            _rows(subject, model, noise(3, length, subject.dim, dtype=torch.float64))
    _seeds(subject)
    _round_trip(subject)
    return ""


def _rows(subject: Subject, model: Backbone, x: Tensor) -> None:
    with torch.no_grad():
        before = subject.read(model, x)
        if _difference(subject.read(model, x), before).max() > 0:
            raise Broken(f"the same inputs and seed gave another output the second time ({subject.doing})")
        other = x.clone()
        other[1] = 1e3 * noise(*x[1].shape, dtype=x.dtype, seed=1)
        change = _difference(subject.read(model, other), before).amax(2)
        change[1] = 0
        if change.max() > EXACT * _scale(before):
            row, position = divmod(int(change.argmax()), x.shape[1])
            raise Broken(
                f"row {row} of a batch changed by {change.max():.1e} at position {position} when row 1 was replaced "
                f"({subject.doing})"
            )
        if not model.training:
            change = _difference(subject.read(model, x[:1]), before[:1])
            if change.max() > EXACT * _scale(before):
                raise Broken(f"a row alone differs by {change.max():.1e} from the same row in a batch of 3")


def _seeds(subject: Subject) -> None:
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
        change = _difference(subject.read(fresh, x), whole := subject.read(model, x))
    if change.max() > 1e-6 * _scale(whole):
        raise Broken(f"a fresh one loaded from its state_dict gives other outputs, by {change.max():.1e}")


def operations(subject: Subject) -> str:
    """Law 6."""
    depths = [subject.depth, 2 * subject.depth, 3 * subject.depth]
    for causal in subject.forms:
        deep = [subject.build(depth=depth, causal=causal) for depth in depths]
        for batch, length in zip((1, 2, 3), (7, 33, 61), strict=True):
            length = min(length, subject.longest)
            declared = _declared(subject, deep[0], length)
            single = _counted(subject, deep[0], 1, length)
            counted = _counted(subject, deep[0], batch, length)
            where = f"at length {length}, batch {batch}" + ("" if causal else ", causal=False")
            if counted.contraction != batch * single.contraction:
                raise Broken(
                    f"counted contraction is not linear in batch: {single.contraction} for one sequence, "
                    f"{counted.contraction} {where}; work that a batch shares must not be a contraction"
                )
            if counted.contraction != batch * declared.contraction:
                ratio = batch * declared.contraction / counted.contraction if counted.contraction else math.inf
                raise Broken(
                    f"declared contraction {batch * declared.contraction} is {ratio:.4g} times the counted "
                    f"{counted.contraction} {where}; counted {dict(counted.by_operator)}"
                )
        length = subject.lengths(33)[0]
        costs = [_declared(subject, model, length) for model in deep]
        counts = [_counted(subject, model, 1, length).contraction for model in deep]
        for kind in ("contraction", "mixing", "pointwise"):
            _linear_in_depth(f"declared {kind}", depths, [getattr(cost, kind) for cost in costs])
        _linear_in_depth("counted contraction", depths, counts)
    return ""


def _declared(subject: Subject, model: Backbone, length: int) -> Flops:
    subject.doing = f"flops({length})"
    cost = model.flops(length)
    for kind in ("contraction", "mixing", "pointwise"):
        value = getattr(cost, kind)
        if type(value) is not int or value < 0:
            raise Broken(f"flops({length}).{kind} is {value!r}, not a non-negative int")
    return cost


def _counted(subject: Subject, model: Backbone, batch: int, length: int) -> Counter:
    x = noise(batch, length, subject.dim)
    with torch.no_grad(), Counter() as counter:
        subject.read(model, x)
    if counter.unknown:
        raise Broken(f"operators that lab/counter.py cannot count: {', '.join(sorted(counter.unknown))}")
    return counter


def _linear_in_depth(what: str, depths: Sequence[int], costs: Sequence[int]) -> None:
    if costs[2] - costs[1] != costs[1] - costs[0]:
        shown = ", ".join(f"{cost} at depth {depth}" for depth, cost in zip(depths, costs, strict=True))
        raise Broken(f"{what} is not linear in depth: {shown}")


def training(subject: Subject) -> str:
    """Law 7."""
    for causal in subject.forms:
        model = subject.build(causal=causal)
        for path, module in model.named_modules():
            if isinstance(module, SequenceMap):
                for name, tuning in module.tuned.items():
                    if name not in dict(module.named_parameters()) or not isinstance(tuning, Tuning):
                        where = f"{type(module).__name__} ({path or 'the backbone'})"
                        raise Broken(f"tuned names {name!r}, which is no parameter of {where} with a Tuning")
        _every_parameter_learns(subject, model)
        _weights_left_alone(subject, causal)
    return ""


def _every_parameter_learns(subject: Subject, model: Backbone) -> None:
    """What starts at zero may shield others at the first step, so a few steps are taken."""
    length = subject.lengths(61)[0]
    x = noise(4, length, subject.dim)
    still = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(4):
        model.zero_grad()
        (subject.read(model, x) * noise(4, length, subject.dim, seed=1)).sum().backward()
        for name, parameter in list(still.items()):
            if parameter.grad is None:
                raise Broken(f"parameter {name} gets no gradient: it is not used")
            if parameter.grad.count_nonzero():
                del still[name]
        if not still:
            return
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad / parameter.grad.abs().max().clamp_min(1e-30)
    raise Broken(f"the gradient of parameter {next(iter(still))} is zero everywhere")


class _AnyTask(Task):
    inputs, outputs, length, answers = Tokens(5), 3, 16, 16

    def __init__(self, causal: bool) -> None:
        self.causal = causal  # pyright: ignore[reportAttributeAccessIssue]

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        raise NotImplementedError

    def baselines(self) -> dict[str, float]:
        return {}


def _weights_left_alone(subject: Subject, causal: bool) -> None:
    alone = subject.build(causal=causal).state_dict()
    task = _AnyTask(causal)
    inside = {"lab.model.Model": models.Model(subject.build(causal=causal), task)}
    if subject.known:
        torch.manual_seed(SEED)
        size = {"dim": subject.dim, "depth": subject.depth, "settings": subject.settings}
        inside["lab.model.build"] = models.build(subject.name, task, **size)
    for way, model in inside.items():
        for name, value in model.backbone.state_dict().items():
            if isinstance(value, Tensor) and not torch.equal(value, alone[name]):
                raise Broken(f"{way} changed the initial value of {name}")


def precision(subject: Subject) -> str:
    """Law 8."""
    model = subject.build()
    x = noise(2, subject.lengths(61)[0], subject.dim)
    exact = subject.read(model, x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        subject.doing = "forward under bfloat16 autocast"
        y = model(x)
    if y.shape != x.shape or not y.isfinite().all():
        raise Broken(f"{subject.doing} gave {_described(y)} with values that are not finite, or the wrong shape")
    subject.doing = "backward of bfloat16 autocast"
    y.float().square().mean().backward()
    off = ((y.float() - exact).square().mean() / exact.square().mean()).sqrt().item()
    if not off < COARSE:
        raise Broken(f"under bfloat16 autocast the output is {off:.1e} away from float32 (relative, root mean square)")
    with torch.no_grad():
        for length in (1025, LONG + 1):
            try:
                _finite(subject, subject.read(model, noise(1, length, subject.dim)))
            except LengthError:
                continue
        if subject.longest < LONG:
            _refuses_to_stream_on(subject, model)
    return f"bfloat16 is {off:.1e} away" + ("" if subject.longest == LONG else f"; refuses more than {subject.longest}")


def _refuses_to_stream_on(subject: Subject, model: Backbone) -> None:
    x = noise(1, subject.longest + 1, subject.dim)
    subject.doing = f"streaming {subject.longest} positions"
    _, state = model.stream(x[:, :-1], model.init_state(1))
    try:
        model.stream(x[:, -1:], state)
    except LengthError:
        return
    raise Broken(f"forward refuses {x.shape[1]} positions, but stream goes on to read them")


LAWS: tuple[tuple[int, str, Callable[[Subject], str]], ...] = (
    (1, "shapes", shapes),
    (2, "causality", causality),
    (3, "streaming", streaming),
    (4, "isolation", isolation),
    (6, "operations", operations),
    (7, "training", training),
    (8, "precision", precision),
)


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same for the same arguments, whatever the global generator."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().nan_to_num(nan=math.inf)


def _scale(y: Tensor) -> float:
    return max(y.abs().max().item(), 1e-300) if y.isfinite().all() else 0.0


def _finite(subject: Subject, y: Tensor) -> None:
    if not y.isfinite().all():
        position = int((~y.isfinite()).any(2).any(0).nonzero()[0])
        raise Broken(f"{subject.doing} gave a value that is not finite at position {position}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _described(value: Any) -> str:
    return f"{_short(value.dtype)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


class _Callable(types.ModuleType):
    """`lab.check` is this module once it is imported, and the function in the Python interface: so it is both."""

    def __call__(self, *args: Any, **kwargs: Any) -> Report:
        return check(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

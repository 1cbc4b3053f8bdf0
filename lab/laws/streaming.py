"""Law 3, streaming: cut a sequence into pieces in any way, `stream` them, and the outputs laid end to end are `forward`'s.

Pieces may be empty, single positions, or end at the edges of chunks. The state between them is a value: `stream` leaves
the one it was given as it was, so that a stream can be taken up twice and two streams do not meet. Its size follows from
the number of positions, not from how they came in pieces; and gradients through the pieces are `forward`'s.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from architectures.backbone import Backbone
from lab.laws.subject import EXACT, LONG, WHOLE, Broken, Subject, described, difference, largest, noise, short

CLOSE = 2e-4  # relative to the largest output, float32


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    if not subject.forms[0]:
        return WHOLE
    for dtype, tolerance in ((torch.float64, EXACT), (torch.float32, CLOSE)):
        model = subject.awake(dtype)
        for length in subject.lengths(1, 2, 17, 61, 131, LONG):
            x = noise(2, length, subject.dim, dtype=dtype)
            with torch.no_grad():
                whole = subject.read(model, x)
                sizes = {
                    shown: _same_in_pieces(subject, model, x, whole, pieces, tolerance, shown)
                    for shown, pieces in _cuts(length).items()
                }
            _same_size(sizes, length)
    model = subject.awake(torch.float64)
    with torch.no_grad():
        _state_is_a_value(subject, model)
    _gradients_pass(subject, model)
    return f"float32 to {CLOSE:g} of the largest output" + (
        "" if subject.longest == LONG else f", up to {subject.longest} positions"
    )


def _cuts(length: int) -> dict[str, list[int]]:
    """Ways to cut a sequence, as lengths of the pieces, by what a message calls them."""
    rng = torch.Generator().manual_seed(length)
    ways = [[length]]
    if length <= 61:
        ways.append([1] * length)
    if length == 131:
        ways += [[first, length - first] for first in (1, 15, 16, 17, 63, 64, 65, 128)]
    for count in (4,) if length > 1000 else (2, 5):
        places = sorted(torch.randint(0, length + 1, (count,), generator=rng, device="cpu").tolist())
        ways.append([0, *(b - a for a, b in itertools.pairwise([0, *places, length])), 0])
    if length > 3:
        ways.append([length - 3, 1, 0, 1, 1])
    return {"+".join(map(str, way)) if len(way) < 10 else f"{len(way)} single positions": way for way in ways}


def _same_in_pieces(
    subject: Subject, model: Backbone, x: Tensor, whole: Tensor, pieces: Sequence[int], tolerance: float, shown: str
) -> tuple[int, int]:
    """The tensors of the state after it, and the numbers in them."""
    subject.doing = f"streaming {shown} of length {x.shape[1]}, {short(x.dtype)}"
    given, state, outputs = x.clone(), model.init_state(x.shape[0]), []
    for piece in x.split(list(pieces), 1):
        y, state = model.stream(piece, state)
        if y.shape != piece.shape or y.dtype != x.dtype:
            raise Broken(f"{subject.doing}: a piece gave {described(y)}, expected {described(piece)}")
        outputs.append(y)
    if not torch.equal(x, given):
        raise Broken(f"stream changed the input that it was given ({subject.doing})")
    change = difference(torch.cat(outputs, 1), whole).amax((0, 2))
    if change.max() > tolerance * largest(whole):
        position = int((change > tolerance * largest(whole)).nonzero()[0])
        raise Broken(
            f"{subject.doing}: output at position {position} differs from forward's by {change[position]:.1e}"
            f" (at most {change.max():.1e})"
        )
    kept = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
    return len(kept), sum(leaf.numel() for leaf in kept)


def _same_size(sizes: dict[str, tuple[int, int]], length: int) -> None:
    (first, expected), *others = sizes.items()
    for shown, found in others:
        if found != expected:
            raise Broken(
                f"after {length} positions in pieces {shown} the state has {found[1]} numbers in {found[0]} tensors, "
                f"in pieces {first} it has {expected[1]} in {expected[0]}"
            )


def _gradients_pass(subject: Subject, model: Backbone) -> None:
    length = subject.lengths(61)[0]
    x = noise(2, length, subject.dim, dtype=torch.float64).requires_grad_()
    weights = noise(*x.shape, dtype=torch.float64, seed=1)
    (expected,) = torch.autograd.grad((subject.read(model, x) * weights).sum(), x)
    subject.doing = f"backward through pieces of length {length}"
    state, outputs = model.init_state(2), []
    for piece in x.split(17, 1):
        y, state = model.stream(piece, state)
        outputs.append(y)
    (slope,) = torch.autograd.grad((torch.cat(outputs, 1) * weights).sum(), x)
    change = difference(slope, expected).amax((0, 2))
    if change.max() > EXACT * largest(expected):
        raise Broken(
            f"the gradient with respect to the input at position {int(change.argmax())} differs from forward's by "
            f"{change.max():.1e} ({subject.doing}, cut at every 17th)"
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
        if difference(once, again).max() > EXACT * largest(once):
            raise Broken(f"the same state gave another answer the second time ({subject.doing})")

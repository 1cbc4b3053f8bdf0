"""One unbroken sequence read in pieces, with questions on forks of the state, and their answers by distance."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxtyping import Bool, Shaped
from pandas import DataFrame
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from architectures.backbone import Backbone, State
from lab.analysis.aggregate import wilson
from lab.model import Model
from lab.probes.subject import row_axes
from tasks.task import UNASKED, Batch

Pieces = Iterable[tuple[Shaped[Tensor, "1 piece *dim"], Batch | None]]


class Answer(NamedTuple):
    """To one question: how many of its parts are right."""

    distance: int
    right: int
    parts: int


def read(model: Model, pieces: Pieces) -> Iterator[tuple[int, State, list[Answer]]]:
    """Positions read, the state after them, and what was answered there, after each piece."""
    state, done = model.backbone.init_state(1), 0
    for inputs, questions in pieces:
        state = model.backbone.stream(model.read(inputs), state)[1]
        done += inputs.shape[1]
        yield done, state, [] if questions is None else _answers(model, state, questions)


def _answers(model: Model, state: State, questions: Batch) -> list[Answer]:
    asked = (questions.targets != UNASKED).sum(1).tolist()
    right = _right(model, state, questions).sum(1).tolist()
    distances = questions.slices["distance"][:, 0].tolist()
    return [Answer(*each) for each in zip(distances, right, asked, strict=True)]


def fresh(model: Model, state: State, tests: list[Batch]) -> tuple[int, int]:
    """Right answers, and all, in sequences that go on after `state`."""
    right = sum(int(_right(model, state, batch).sum()) for batch in tests)
    return right, sum(batch.asked for batch in tests)


def _right(model: Model, state: State, batch: Batch) -> Bool[Tensor, "size answers"]:
    """Whether each answer is, where every row of the batch goes on after the same `state` of one row."""
    y = model.backbone.stream(model.read(batch.inputs), fork(model.backbone, state, len(batch.inputs)))[0]
    if batch.positions is not None:
        y = y.gather(1, batch.positions[:, :, None].expand(-1, -1, y.shape[-1]))
    return model.head(y).argmax(-1) == batch.targets


def fork(backbone: Backbone, state: State, rows: int) -> State:
    """A copy of a state of one row, for so many rows."""
    leaves, form = tree_flatten(state)
    axes = row_axes(backbone, len(leaves))
    return tree_unflatten([leaf.repeat_interleave(rows, axis) for leaf, axis in zip(leaves, axes, strict=True)], form)


def share(right: int, answers: int) -> tuple[float, float, float, int]:
    """Of right answers, with both ends of Wilson's interval, and the number of answers."""
    found = wilson(right, answers)
    return float(found), found.low, found.high, answers


def by_distance(answers: Iterable[Answer]) -> DataFrame:
    """Shares of right parts and of questions all of whose parts are right, a row for each octave of distances."""
    bins: dict[int, list[Answer]] = {}
    for each in sorted(answers):
        bins.setdefault(1 << (each.distance.bit_length() - 1), []).append(each)
    rows = [
        (
            distance,
            *share(sum(each.right for each in some), sum(each.parts for each in some)),
            sum(each.right == each.parts for each in some) / len(some),
            len(some),
        )
        for distance, some in bins.items()
    ]
    return DataFrame(rows, columns=["distance", "accuracy", "low", "high", "answers", "exact", "questions"])


def longest(recalled: DataFrame, guessing: float) -> int:
    """The last distance before the first whose interval does not lie above `guessing`; 0 where that is the first."""
    found = 0
    for row in recalled.itertuples(index=False):
        if row.low <= guessing:
            break
        found = int(row.distance)
    return found

"""Pathfinder: two long dashed contours among short ones, and two discs. Do the discs lie on the ends of the same contour?

Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent units", arXiv:1805.08315, section 3;
Kim et al., "Disentangling neural mechanisms for perceptual grouping", arXiv:1906.01558; the settings of each size are the ones
that "Long Range Arena", arXiv:2011.04006, publishes with its data. Pixels follow the public generator, drewlinsley/pathfinder,
to its rounding and its quirks, so both draw from one distribution:

    a stroke        is a line drawn at twice the size and brought down by a Lanczos filter; its mask is the same, dilated by a
                    disc of the margin between strokes
    a contour       grows stroke by stroke: the end of the next one is chosen on a circle around its pivot, with a weight of
                    (1 - occupied) cos^2(min(continuity * turn, pi / 2)); it must not meet what is already occupied
    two targets     start seed_distance apart and grow in turn; when a stroke does not fit in three tries, both start again.
                    The first stroke of the second target may meet the first target's
    distractors     contours of a third of the length wherever they fit, five tries each; some are missing
    markers         a disc on the start of one target, chosen by a coin, and one on the end of the same (label 1) or of the
                    other (label 0)

Every stroke has one of finitely many directions, so all that can be drawn lies in tables of 8-bit stamps. A configuration is
tried by adding stamps; only an accepted one is composed. The kernels add, compare and round, and draw from a generator of their
own: the same bytes on every machine, compiled or interpreted.

One pair of targets in 320 to 350 is accepted at 32 and at 128 pixels, one in 3,700 at 64. At 32 pixels few directions of a first
stroke are usable (see `Stamps.usable`), so most distractors are missing, and the strokes of targets have three quarters of the
contrast of those of distractors; from 64 pixels on all are alike.
"""

import math
import zlib
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

VERSION = 1
"""Of the images: other bytes, other version."""

TRIES = 3  # of a stroke
DISTRACTOR_TRIES = 5
SMALL = 16  # up to this size images come twice, and a hash of the image says which split it is of
FULL = 255
COLLISION = 459  # 1.8 of FULL: two masks that sum to this meet
FREE = 76  # 0.3 of FULL: up to here a contour may start
SCARCE = 0.01  # of the pixels free: no more distractors
DEGREES = 360


class Style(NamedTuple):
    """What distinguishes the published sizes. Lengths are in pixels, contrasts in tenths."""

    padding: int
    """Width of the border that contours keep free."""
    paddle: int
    """Length of a stroke."""
    margins: tuple[int, ...]
    """Between strokes; one is drawn for each image."""
    seed_distance: int
    """From the start of one target to that of the other."""
    marker: int
    """Diameter of the disc."""
    width: int
    """Of a stroke, in half pixels."""
    continuity: float
    """How straight contours are."""
    contour: int
    """Strokes of a target, unless another number is asked for."""
    clutter: int
    """Strokes of all distractors together."""
    target: int
    """Contrast."""
    distractor: int
    """Contrast."""


STYLES = {
    16: Style(1, 2, (1,), 3, 2, 1, 1.0, 5, 2, 6, 6),
    32: Style(1, 2, (1,), 7, 3, 1, 1.0, 14, 20, 15, 20),
    64: Style(1, 5, (1,), 12, 5, 2, 1.8, 14, 22, 8, 8),
    128: Style(1, 5, (2, 3), 20, 6, 3, 1.8, 14, 35, 9, 9),
    256: Style(22, 5, (3,), 27, 10, 4, 1.8, 14, 30, 10, 10),
}
"""By size: the published ones and, at 16, one for a laptop."""


def images(
    size: int, seed: int, split: int, first: int, count: int, contour: int | None = None
) -> tuple[UInt8[np.ndarray, "count pixels"], UInt8[np.ndarray, "count"], Shaped[np.ndarray, "count"]]:
    """Images `first` to `first + count` of a split, their labels, and what they were drawn from.

    An image is a pure function of its number and the other arguments. No two numbers, of one split or of two, meet in the
    sequence of random numbers; at 16 pixels, where equal images occur all the same, no image is in two splits.

    Args:
        size: pixels of a side, one of `STYLES`.
        split: 0 train, 1 validation, 2 test.
        contour: strokes of a target; None is the style's. Long Range Arena has 6, 9 and 14: easy, intermediate, hard.

    Returns:
        8-bit pixels in raster order; 1 where both markers are on one contour; and for each image an array with the fields
        `margin`, `restarts` (configurations given up), `distractors` (placed), `markers` (start and end, as row and column) and
        `contours` (of both targets, the start of the first stroke and the ends of the others).
    """
    style = STYLES[size]
    strokes = contour or style.contour
    length = max(1, strokes // 3)
    drawn = np.zeros((count, size, size), np.uint8)
    labels = np.zeros(count, np.uint8)
    made = np.zeros(count, geometry(strokes))
    random, numbers = np.zeros(4, np.int64), np.zeros(3, np.int64)
    markers, contours = np.zeros((2, 2), np.int64), np.zeros((2, strokes, 2), np.int64)
    for i in range(count):
        _start(random, seed, split, first + i)
        margin = style.margins[_below(random, len(style.margins))]
        while True:
            _draw(random, _stamps(size, margin), strokes, length, style.clutter // length, numbers, markers, contours, drawn[i])
            if size > SMALL or zlib.crc32(drawn[i].tobytes()) % 3 == split:
                break
        labels[i], restarts, distractors = numbers
        made[i] = margin, restarts, distractors, markers, contours
    return drawn.reshape(count, -1), labels, made


def _start(random: Int[np.ndarray, "4"], seed: int, split: int, number: int) -> None:
    """Set the generator to where the random numbers of an image begin.

    The state is the seed, the number of the image with its split, and a counter that all images begin alike. Each step is a
    bijection, so no two images of a seed come to the same state: not at the same step, as they differed before it, and not at
    different steps, as then their counters differ.
    """
    random[:] = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, 4 * number + split, 1
    for _ in range(12):
        _next(random)


def geometry(contour: int) -> np.dtype[Any]:
    """The record of an image whose targets have `contour` strokes."""
    fields = [("margin", np.uint8), ("restarts", np.uint32), ("distractors", np.uint8)]
    return np.dtype([*fields, ("markers", np.int16, (2, 2)), ("contours", np.int16, (2, contour, 2))])


class Stamps(NamedTuple):
    """All that can be drawn at one size and margin.

    Directions 0 to 359 are degrees from -180, for first strokes, which are stamped at their start; direction 360 + c is that of
    candidate c, for other strokes, which are stamped at their end. Points are rows and columns.
    """

    line: UInt8[np.ndarray, "directions side side"]
    mask: UInt8[np.ndarray, "directions side side"]
    footprint: Int[np.ndarray, "degrees points 2"]
    """What must be free around the start of a first stroke."""
    usable: Bool[np.ndarray, "degrees"]
    """Whether a first stroke may have this direction. Not if at some corner its whole footprint lies beyond the image: OpenCV's
    dilation then has no value there, which the public generator takes for no room anywhere."""
    head: Float[np.ndarray, "degrees 2"]
    """The end of a first stroke, from its start."""
    pivot: Float[np.ndarray, "degrees 2"]
    """Its pivot, from its end."""
    advance: Float[np.ndarray, "directions 2"]
    """The next pivot, from the pivot."""
    candidate: Int[np.ndarray, "candidates 2"]
    """Where a stroke may end, from its pivot."""
    turn: Int[np.ndarray, "directions candidates"]
    """Weight of a candidate after a stroke, in parts of `_TURN_PARTS`."""
    disc: Int[np.ndarray, "near 2"]
    """What must be free around the end of a stroke."""
    border: UInt8[np.ndarray, "size size"]
    """The mask before anything is drawn."""
    shrink: Int[np.ndarray, "size doubled"]
    """Lanczos weights from twice the size to the size."""
    marker: int
    """Diameter."""
    start: int
    """How far from the border the first target starts."""
    apart: Float[np.ndarray, "degrees 2"]
    """From the start of the first target to that of the second."""
    target: int
    distractor: int
    """Contrasts in tenths."""


# Tables


_TURN_PARTS = 1 << 18
_LANCZOS_PARTS = 1 << 22
LEAST = int(1e-4 * FULL * _TURN_PARTS)  # weight of all candidates together; with less a contour has nowhere to go


@cache
def _stamps(size: int, margin: int) -> Stamps:
    style = STYLES[size]
    paddle, reach = style.paddle, style.paddle + margin
    degrees = np.arange(-180, 180) * np.pi / 180
    around = np.arange(0, 2 * np.pi, 1 / reach)
    candidate = np.unique(np.floor(_vectors(around, reach)).astype(np.int64), axis=0)
    ends = np.arctan2(candidate[:, 0], candidate[:, 1])
    directions = np.concatenate([degrees, ends])

    half = reach + math.ceil(style.width / 2)
    fine, whole = 4 * half + 1, 2 * half + 1
    tips = np.ceil(fine // 2 + _vectors(np.concatenate([degrees, _opposite(ends)]), 2 * paddle)).astype(int) - fine // 2
    strokes = [_stroke(fine, row, column, style.width) for row, column in tips.tolist()]
    shrink = _lanczos(fine, whole)
    mask = np.stack([_shrunk(_dilated(stroke, _disc(2 * margin)), shrink) for stroke in strokes])
    near = slice(half - reach - 1, half + reach)
    footprint = [np.argwhere(stamp[near, near] == FULL) - reach for stamp in mask[:DEGREES]]

    corners = [(1, 1), (1, -1), (-1, 1), (-1, -1)]

    turns = np.abs((directions[:, None] - ends + np.pi) % (2 * np.pi) - np.pi)
    weight = np.cos(np.minimum(style.continuity * turns, np.pi / 2)) ** 2

    border = np.full((size, size), FULL, np.uint8)
    border[style.padding : -style.padding, style.padding : -style.padding] = 0
    shrink_marker = _lanczos(2 * size, size)
    return Stamps(
        line=np.stack([_shrunk(stroke, shrink) for stroke in strokes]),
        mask=mask,
        footprint=np.stack([np.resize(points, (max(map(len, footprint)), 2)) for points in footprint]),
        usable=np.array([all((points * side >= 0).all(1).any() for side in corners) for points in footprint]),
        head=_vectors(degrees, paddle),
        pivot=_vectors(_opposite(degrees), reach),
        advance=_vectors(directions, reach + margin),
        candidate=candidate,
        turn=np.rint(weight * _TURN_PARTS).astype(np.int64),
        disc=_disc(margin),
        border=border,
        shrink=shrink_marker,
        marker=style.marker,
        start=2 * style.seed_distance,
        apart=_vectors(degrees, style.seed_distance),
        target=style.target,
        distractor=style.distractor,
    )


def _opposite(angles: Float[np.ndarray, "count"]) -> Float[np.ndarray, "count"]:
    return np.where(angles < 0, angles + np.pi, angles - np.pi)


def _vectors(angles: Float[np.ndarray, "count"], length: int) -> Float[np.ndarray, "count 2"]:
    """Rows and columns; by the mathematical library, as the last digit of numpy's own sine differs between processors."""
    return length * np.array([(math.sin(angle), math.cos(angle)) for angle in angles])


def _disc(radius: int) -> Int[np.ndarray, "points 2"]:
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.argwhere(rows**2 + columns**2 <= radius**2) - radius


def _stroke(side: int, row: int, column: int, width: int) -> UInt8[np.ndarray, "side side"]:
    """A line from the centre to a tip (row, column) from there, whose ends are square: a four-sided polygon of whole corners."""
    drawn = np.zeros((side, side), np.uint8)
    centre = side // 2
    if width == 1:
        steps = max(abs(row), abs(column))
        along = np.arange(steps + 1)
        rows, columns = ((2 * along * abs(move) + steps) // (2 * steps) * np.sign(move) for move in (row, column))
        drawn[centre + rows, centre + columns] = FULL
        return drawn
    wide, narrow = ((width - 1 + odd) // 2 / math.hypot(row, column) for odd in (1, 0))
    (right, down), (left, up) = ((_nearest(side * row), _nearest(side * column)) for side in (wide, narrow))
    corners = [(down, -left), (row + down, column - left), (row - up, column + right), (-up, right)]
    edges = [*pairwise(corners), (corners[3], corners[0])]
    for y in range(min(corners)[0], max(corners)[0] + 1):
        cut = [Fraction((y - a) * (d - b), c - a) + b for (a, b), (c, d) in edges if a != c and min(a, c) <= y <= max(a, c)]
        cut += [Fraction(x) for (a, b), (c, d) in edges if a == c == y for x in (b, d)]
        low, high = math.floor(min(cut) + Fraction(1, 2)), math.ceil(max(cut) - Fraction(1, 2))
        drawn[centre + y, centre + low : centre + high + 1] = FULL
    return drawn


def _nearest(x: float) -> int:
    """The nearest whole number; of two, that nearer to zero."""
    return int(math.copysign(math.ceil(round(abs(x), 9) - 0.5), x))


def _dilated(stroke: UInt8[np.ndarray, "side side"], disc: Int[np.ndarray, "points 2"]) -> UInt8[np.ndarray, "side side"]:
    """Nothing lies so near the edge that it would come in at the other."""
    return np.maximum.reduce([np.roll(stroke, tuple(point), (0, 1)) for point in disc])


def _lanczos(size: int, smaller: int) -> Int[np.ndarray, "smaller size"]:
    """Weights in parts of `_LANCZOS_PARTS` of the Lanczos filter of three lobes, stretched by the scale, cut at the edges."""
    scale = size / smaller
    centre = (np.arange(smaller)[:, None] + 0.5) * scale
    x = np.arange(size)
    inside = (x >= np.floor(centre - 3 * scale + 0.5)) & (x < np.floor(centre + 3 * scale + 0.5))
    place = (x - centre + 0.5) / scale
    weights = np.where(inside & (np.abs(place) < 3), np.sinc(place) * np.sinc(place / 3), 0)
    return np.rint(weights / weights.sum(1, keepdims=True) * _LANCZOS_PARTS).astype(np.int64)


def _shrunk(
    drawn: UInt8[np.ndarray, "size size"], shrink: Int[np.ndarray, "smaller size"]
) -> UInt8[np.ndarray, "smaller smaller"]:
    """Filtered along the rows, then along the columns, in 8 bits each time."""
    for _ in range(2):
        drawn = np.clip((shrink @ drawn.T.astype(np.int64) + _LANCZOS_PARTS // 2) // _LANCZOS_PARTS, 0, FULL).astype(np.uint8)
    return drawn


# Kernels. `random` is the state of the generator. A contour is its pivot, the direction of its last stroke, and where that is
# stamped; the mask holds what is occupied, but for the last stroke of a contour that still grows.


def _compiled(function: Any) -> Any:
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep it
        return numba.njit(nogil=True)(function)


@_compiled
@no_type_check
def _next(random):
    """32 random bits: sfc32 of Doty-Humphrey's PractRand, which goes through 2^32 numbers at least before any comes again."""
    a, b, c, counter = random
    drawn = (a + b + counter) & 0xFFFFFFFF
    random[0] = b ^ (b >> 9)
    random[1] = (c + (c << 3)) & 0xFFFFFFFF
    random[2] = (((c << 21) | (c >> 11)) + drawn) & 0xFFFFFFFF
    random[3] = (counter + 1) & 0xFFFFFFFF
    return drawn


@_compiled
@no_type_check
def _below(random, count):
    """A whole number from 0 to count - 1; count is less than 2^31."""
    return (_next(random) * count) >> 32


@_compiled
@no_type_check
def _inside(y, x, size):
    return 0 <= y < size and 0 <= x < size


@_compiled
@no_type_check
def _moved(y, x, vector):
    """The next whole row and column, as in floating point: near the border 6e-17, the cosine of a right angle, is more than 0."""
    return math.ceil(y + vector[0]), math.ceil(x + vector[1])


@_compiled
@no_type_check
def _draw(random, stamps, strokes, short, distractors, numbers, markers, contours, image):
    """One image. `numbers` becomes label, restarts and distractors placed; `markers` and `contours` are as in the geometry."""
    size = image.shape[0]
    mask, before = stamps.border.copy(), stamps.border.copy()
    level = np.zeros((size, size), np.int64)
    weights = np.zeros(len(stamps.candidate), np.int64)
    targets, distractor = np.zeros((2, 5), np.int64), np.zeros(5, np.int64)
    placed = np.zeros((2 * strokes, 3), np.int64)

    restarts = 0
    while not _two_targets(random, stamps, strokes, mask, targets, weights, placed):
        restarts += 1
        mask[:] = stamps.border
    for k in range(2 * strokes):
        _lighten(level, stamps.line, placed[k], stamps.target)
        contours[k % 2, k // 2] = placed[k, 1:]

    found = 0
    for _ in range(distractors):
        for _ in range(DISTRACTOR_TRIES):
            before[:] = mask
            if _one_distractor(random, stamps, short, mask, distractor, weights, placed):
                found += 1
                for k in range(short):
                    _lighten(level, stamps.line, placed[k], stamps.distractor)
                break
            mask[:] = before

    label, origin = _below(random, 2), _below(random, 2)
    markers[0] = contours[origin, 0]
    markers[1] = contours[origin if label else 1 - origin, strokes - 1]
    for k in range(2):
        _mark(level, stamps, markers[k, 0], markers[k, 1])
    brightest = level.max()
    for y in range(size):
        for x in range(size):
            image[y, x] = (2 * FULL * level[y, x] + brightest) // (2 * brightest)
    numbers[0], numbers[1], numbers[2] = label, restarts, found


@_compiled
@no_type_check
def _two_targets(random, stamps, strokes, mask, targets, weights, placed):
    """Whether two targets fit; `placed` has a stroke of the first and one of the second in turn."""
    if not _seed_targets(random, stamps, mask.shape[0], targets):
        return False
    placed[0], placed[1] = targets[0, 2:], targets[1, 2:]
    for k in range(2, 2 * strokes):
        if not _extend(random, stamps, mask, targets[k % 2], weights):
            return False
        placed[k] = targets[k % 2, 2:]
    _occupy(mask, stamps.mask, targets[1])
    return True


@_compiled
@no_type_check
def _seed_targets(random, stamps, size, targets):
    """First strokes: one away from the border by twice the seed distance, one at the seed distance from it."""
    y, x = 0, 0
    for trial in range(TRIES):
        direction = _below(random, DEGREES)
        if not stamps.usable[direction]:
            return False
        footprint = stamps.footprint[direction]
        low_y, low_x = stamps.start - footprint[:, 0].min(), stamps.start - footprint[:, 1].min()
        high_y, high_x = size - stamps.start - footprint[:, 0].max(), size - stamps.start - footprint[:, 1].max()
        if low_y >= high_y or low_x >= high_x:
            return False
        y, x = low_y + _below(random, high_y - low_y), low_x + _below(random, high_x - low_x)
        if _seed(stamps, direction, y, x, size, targets[0]):
            break
        if trial == TRIES - 1:
            return False
    for _ in range(TRIES):
        direction, towards = _below(random, DEGREES), _below(random, DEGREES)
        other_y, other_x = int(np.rint(y + stamps.apart[towards, 0])), int(np.rint(x + stamps.apart[towards, 1]))
        if _seed(stamps, direction, other_y, other_x, size, targets[1]):
            return True
    return False


@_compiled
@no_type_check
def _seed(stamps, direction, y, x, size, contour):
    """Begin a contour with a stroke that starts at (y, x); whether its end and its pivot are in the image."""
    head_y, head_x = _moved(y, x, stamps.head[direction])
    contour[0], contour[1] = _moved(head_y, head_x, stamps.pivot[direction])
    contour[2], contour[3], contour[4] = direction, y, x
    return _inside(head_y, head_x, size) and _inside(contour[0], contour[1], size)


@_compiled
@no_type_check
def _extend(random, stamps, mask, contour, weights):
    """Whether the contour found room for one more stroke."""
    size, last = mask.shape[0], contour[2]
    pivot_y, pivot_x = _moved(contour[0], contour[1], stamps.advance[last])
    total = 0
    for c in range(len(weights)):
        y, x = pivot_y + stamps.candidate[c, 0], pivot_x + stamps.candidate[c, 1]
        weights[c] = 0
        if stamps.turn[last, c] and _inside(y, x, size):
            occupied = 0
            for k in range(len(stamps.disc)):
                near_y, near_x = y + stamps.disc[k, 0], x + stamps.disc[k, 1]
                if _inside(near_y, near_x, size):
                    occupied = max(occupied, int(mask[near_y, near_x]))
            weights[c] = stamps.turn[last, c] * (FULL - occupied)
            total += weights[c]
    if total < LEAST:
        return False
    for _ in range(TRIES):
        left, c = _below(random, total), 0
        while left >= weights[c]:
            left -= weights[c]
            c += 1
        y, x = pivot_y + stamps.candidate[c, 0], pivot_x + stamps.candidate[c, 1]
        if _fits(mask, stamps.mask[DEGREES + c], y, x):
            _occupy(mask, stamps.mask, contour)
            contour[0], contour[1], contour[2], contour[3], contour[4] = pivot_y, pivot_x, DEGREES + c, y, x
            return True
    return False


@_compiled
@no_type_check
def _one_distractor(random, stamps, short, mask, contour, weights, placed):
    """Whether a distractor of `short` strokes fits."""
    if not _seed_distractor(random, stamps, mask, contour):
        return False
    placed[0] = contour[2:]
    for k in range(1, short):
        if not _extend(random, stamps, mask, contour, weights):
            return False
        placed[k] = contour[2:]
    _occupy(mask, stamps.mask, contour)
    return True


@_compiled
@no_type_check
def _seed_distractor(random, stamps, mask, contour):
    size, free = mask.shape[0], 0
    for y in range(size):
        for x in range(size):
            free += mask[y, x] <= FREE
    if free < SCARCE * size * size:
        return False
    for _ in range(TRIES):
        direction = _below(random, DEGREES)
        if not stamps.usable[direction]:
            return False
        y, x = _room(random, stamps.footprint[direction], mask)
        if y < 0:
            return False
        if _seed(stamps, direction, y, x, size, contour):
            return True
    return False


@_compiled
@no_type_check
def _room(random, footprint, mask):
    """One of all pixels where the footprint is free, (-1, -1) if none is: tried at random, and counted where that finds none."""
    size = mask.shape[0]
    for _ in range(64):
        y, x = _below(random, size), _below(random, size)
        if _is_free(mask, footprint, y, x):
            return y, x
    free = 0
    for place in range(size * size):
        free += _is_free(mask, footprint, place // size, place % size)
    if free == 0:
        return -1, -1
    left, place = _below(random, free), 0
    while not _is_free(mask, footprint, place // size, place % size) or left > 0:
        left -= _is_free(mask, footprint, place // size, place % size)
        place += 1
    return place // size, place % size


@_compiled
@no_type_check
def _is_free(mask, footprint, y, x):
    """Whether neither the mask nor the outermost pixel of the image touches the footprint; beyond the image all is free."""
    size = mask.shape[0]
    for k in range(len(footprint)):
        near_y, near_x = y + footprint[k, 0], x + footprint[k, 1]
        if _inside(near_y, near_x, size) and (mask[near_y, near_x] > FREE or near_y in (0, size - 1) or near_x in (0, size - 1)):
            return False
    return True


@_compiled
@no_type_check
def _fits(mask, stamp, y, x):
    size, half = mask.shape[0], stamp.shape[0] // 2
    for i in range(max(0, y - half), min(size, y + half + 1)):
        for j in range(max(0, x - half), min(size, x + half + 1)):
            if int(mask[i, j]) + int(stamp[i - y + half, j - x + half]) >= COLLISION:
                return False
    return True


@_compiled
@no_type_check
def _occupy(mask, stamps, contour):
    """Add the last stroke of a contour to the mask."""
    stamp, y, x = stamps[contour[2]], contour[3], contour[4]
    size, half = mask.shape[0], stamp.shape[0] // 2
    for i in range(max(0, y - half), min(size, y + half + 1)):
        for j in range(max(0, x - half), min(size, x + half + 1)):
            mask[i, j] = max(mask[i, j], stamp[i - y + half, j - x + half])


@_compiled
@no_type_check
def _lighten(level, stamps, stroke, contrast):
    """Draw a stroke, in tenths of `FULL`."""
    stamp, y, x = stamps[stroke[0]], stroke[1], stroke[2]
    size, half = level.shape[0], stamp.shape[0] // 2
    for i in range(max(0, y - half), min(size, y + half + 1)):
        for j in range(max(0, x - half), min(size, x + half + 1)):
            level[i, j] = max(level[i, j], contrast * int(stamp[i - y + half, j - x + half]))


@_compiled
@no_type_check
def _mark(level, stamps, y, x):
    """Draw a disc at twice the size and bring it down, along the rows and then along the columns."""
    size, radius = level.shape[0], stamps.marker
    rows = np.zeros(2 * radius + 1, np.int64)
    reach = radius // 2 + 4
    for j in range(max(0, x - reach), min(size, x + reach + 1)):
        for i in range(-radius, radius + 1):
            total = _LANCZOS_PARTS // 2
            for k in range(max(-radius, -2 * x), min(radius, 2 * size - 1 - 2 * x) + 1):
                if i * i + k * k <= radius * radius:
                    total += FULL * stamps.shrink[j, 2 * x + k]
            rows[i + radius] = min(max(total // _LANCZOS_PARTS, 0), FULL)
        for i in range(max(0, y - reach), min(size, y + reach + 1)):
            total = _LANCZOS_PARTS // 2
            for k in range(max(-radius, -2 * y), min(radius, 2 * size - 1 - 2 * y) + 1):
                total += rows[k + radius] * stamps.shrink[i, 2 * y + k]
            level[i, j] = max(level[i, j], 10 * min(max(total // _LANCZOS_PARTS, 0), FULL))

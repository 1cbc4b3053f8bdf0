"""Colour, marker and dash of every architecture: the same in every figure, whatever else is drawn.

Colours are Okabe and Ito's without the yellow, too pale on white, then Petroff's without the pale cyan; both were made for
colour-blind readers, and marker and dash say the same once more. An architecture that is not in the table takes what its name
hashes to, colours of the others in the figure left out; a variant keeps its family's colour.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lab.analysis.labels import family

_OKABE_ITO = {"black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "blue": "#0072B2",
              "vermilion": "#D55E00", "purple": "#CC79A7"}  # fmt: skip
_PETROFF = {"azure": "#3F90DA", "red": "#BD1F01", "grey": "#94A4A2", "violet": "#832DB6", "brown": "#A96B59",
            "amber": "#E76300", "tan": "#B9AC70", "slate": "#717581", "gold": "#FFA90E"}  # fmt: skip
COLOURS = _OKABE_ITO | _PETROFF
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
SOLID = (0, ())
DASHES = (SOLID, (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1, 1.2, 1, 1.2, 1)))
_TABLE = {  # colour, marker, dash
    "transformer": ("blue", "o", 0),
    "linear_rnn": ("vermilion", "s", 1),
    "lstm": ("green", "^", 2),
    "s4": ("purple", "D", 3),
    "s5": ("orange", "v", 4),
    "rwkv": ("sky", "P", 5),
    "dilated": ("black", "X", 1),
    "lstm_attention": ("violet", "<", 3),
    "gru": ("brown", ">", 2),
    "mamba": ("red", "p", 0),
    "retnet": ("azure", "h", 4),
    "gla": ("grey", "D", 1),
    "deltanet": ("tan", "s", 3),
    "hyena": ("slate", "^", 0),
    "mlstm": ("gold", "v", 2),
    "hybrid": ("amber", "p", 5),
}


@dataclass(frozen=True)
class Style:
    """How one line or dot is drawn; `dash` is a matplotlib line style."""

    colour: str
    marker: str
    dash: Any

    @property
    def line(self) -> dict[str, Any]:
        """Keywords for `plot`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name, all different as long as there are enough."""
    names = sorted(set(names))
    families = sorted({family(name) for name in names})
    colours = {name: COLOURS[_TABLE[name][0]] for name in families if name in _TABLE}
    for name in families:
        if name not in colours:
            start, every = _hash(name), list(COLOURS.values())
            around = [every[(start + i) % len(every)] for i in range(len(every))]
            colours[name] = next((colour for colour in around if colour not in colours.values()), around[0])
    looks: dict[str, tuple[str, int]] = {}
    for name in sorted(names, key=lambda name: (name not in _TABLE, name)):
        if name in _TABLE:
            looks[name] = _TABLE[name][1:]
            continue
        root = family(name)
        taken = {looks[other] for other in looks if family(other) == root} | {_TABLE.get(root, ("", "", -1))[1:]}
        markers = {marker for marker, _ in taken}
        start = _hash(name)
        around = [(MARKERS[(start + i) % len(MARKERS)], (start + i) % len(DASHES)) for i in range(len(MARKERS))]
        looks[name] = next((look for look in around if look[0] not in markers), around[0])
    return {name: Style(colours[family(name)], looks[name][0], DASHES[looks[name][1]]) for name in names}


def only(looks: dict[str, Style], names: Iterable[str]) -> dict[str, Style]:
    """The styles of these names, in the order of all."""
    wanted = set(names)
    return {name: style for name, style in looks.items() if name in wanted}


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")

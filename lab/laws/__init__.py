"""The laws that every backbone keeps, one a file, each as a function that looks for a way to break it.

`holds(subject)` returns what is worth knowing where the law holds, and raises `Broken` with what was found and where; an
exception inside the backbone breaks the law under test. Law 5, that a fast op equals its slow definition, is kept by the
tests of each op.
"""

from collections.abc import Callable

from lab.laws import causality, devices, isolation, operations, precision, shapes, streaming, training
from lab.laws.subject import Subject

LAWS: tuple[tuple[int, str, Callable[[Subject], str]], ...] = (
    (1, "shapes", shapes.holds),
    (2, "causality", causality.holds),
    (3, "streaming", streaming.holds),
    (4, "isolation", isolation.holds),
    (6, "operations", operations.holds),
    (7, "training", training.holds),
    (8, "precision", precision.holds),
    (9, "devices", devices.holds),
)

"""Sequence-architecture comparison lab: what the commands do, from Python.

import lab
frame = lab.compare(["transformer", "lstm"], ["recall"], [1e11], seeds=3)
frame, curves = lab.results("results"), lab.curves("results")
print(lab.check("transformer"))
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lab.process import prepare

if TYPE_CHECKING:
    from lab import analysis as analysis
    from lab.analysis import curves as curves
    from lab.analysis import restate as restate
    from lab.analysis import results as results
    from lab.comparison import compare as compare
    from lab.conformance import check as check

if "torch" not in sys.modules:
    prepare()
__version__ = "0.1.0"
_HOMES = {
    "compare": "lab.comparison",
    "check": "lab.conformance",
    "results": "lab.analysis",
    "curves": "lab.analysis",
    "restate": "lab.analysis",
}
__all__ = ["analysis", "check", "compare", "curves", "restate", "results"]


def __getattr__(name: str) -> Any:
    # torch, Lightning and pandas take seconds to import; nothing that does not need them should pay
    if name == "analysis":
        return import_module("lab.analysis")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lab' has no attribute {name!r}")

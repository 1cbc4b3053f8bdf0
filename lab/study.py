"""Studies: what is compared, declared in a TOML file with the question it answers and why so; it is read and never executed.

A comparison, as `lab compare` carries it out:

    question = "..."    architectures = ["...", ...]    tasks = ["...", ...]    budgets = ["1e12", ...]

A ladder, from one set-up to another with one change at a step, each step a frontier:

    question = "..."    task = "text"    budgets = ["1e10:1e12:5"]    sizes = 7    seeds = 3    tune = 5
    steps = [{name = "GPT-2", architecture = "transformer:preset=gpt2", recipe = "gpt2"}, {...}, ...]
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import UsageError, is_file, nearest

FOLDER = Path(__file__).parent / "studies"


@dataclass(frozen=True)
class Study:
    """What a comparison is about and made of; every string as on the command line."""

    question: str
    architectures: list[str]
    tasks: list[str]
    budgets: list[str]


@dataclass(frozen=True)
class Step:
    """A set-up: recipe as `--recipe` takes it, or empty for what `lab frontier` uses without it."""

    name: str
    architecture: str
    recipe: str = ""


@dataclass(frozen=True)
class Ladder:
    """Set-ups in order; budgets, sizes, seeds and tune as of `lab frontier`, tune 0 for none."""

    question: str
    task: str
    budgets: list[str]
    steps: list[Step]
    sizes: int = 7
    seeds: int = 1
    tune: int = 0


def read(name: str) -> Study:
    """A comparison of the lab by name, or one of your own by the path of its file.

    Raises:
        UsageError: there is none, it is not TOML, or a key is missing, unknown or of the wrong type; says which.
    """
    found = read_any(name)
    if isinstance(found, Ladder):
        raise UsageError(f"--study {name}: it is a ladder, which lab study {name} carries out")
    return found


def read_any(name: str) -> Study | Ladder:
    """A study of either kind, as `read`."""
    known = sorted(file.stem for file in FOLDER.glob("*.toml"))
    file = FOLDER / f"{name}.toml" if name in known else Path(name)
    if not is_file(file):
        raise UsageError(f"--study {name[:200]}: no such study or file; {nearest(name, known)}")
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number without end, brackets without end
        raise UsageError(f"--study {name}: not a TOML file: {error}") from error
    if "steps" in found:
        return _ladder(name, found)
    _hold(name, found, {"question": _TEXT, "architectures": _NAMES, "tasks": _NAMES, "budgets": _NAMES}, {})
    return Study(**found)


def _ladder(name: str, found: dict[str, Any]) -> Ladder:
    needed = {"question": _TEXT, "task": _TEXT, "budgets": _NAMES, "steps": _TABLES}
    _hold(name, found, needed, {"sizes": _NUMBER, "seeds": _NUMBER, "tune": _NUMBER})
    for step in found["steps"]:
        _hold(f"{name}, a step", step, {"name": _TEXT, "architecture": _TEXT}, {"recipe": _TEXT})
    names = [step["name"] for step in found["steps"]]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(f"--study {name}: steps must be two or more, each with a name of its own")
    steps = [Step(**step) for step in found.pop("steps")]
    return Ladder(steps=steps, **found)


def _several(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


_TEXT = ("a text", lambda value: isinstance(value, str))
_NUMBER = ("a whole number", lambda value: type(value) is int)
_NAMES = ("a list of names in quotes", lambda value: _several(value, str))
_TABLES = ("a list of tables", lambda value: _several(value, dict))


def _hold(name: str, found: dict[str, Any], needed: dict[str, Any], optional: dict[str, Any]) -> None:
    """See that a table has the keys it needs, no others, each of its type."""
    known = needed | optional
    for key in (*needed, *found):
        if key not in known:
            raise UsageError(f"--study {name}: no key {key!r}; {nearest(key, list(known))}")
        what, fits = known[key]
        if not fits(found.get(key)):
            raise UsageError(f"--study {name}: {key} must be {what}")

"""Studies: declared comparisons. A TOML file holds the question, what is compared, and why so; it is read and never executed.

question = "..."    architectures = ["...", ...]    tasks = ["...", ...]    budgets = ["1e12", ...]
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from lab.errors import UsageError, is_file, nearest

FOLDER = Path(__file__).parent / "studies"


@dataclass(frozen=True)
class Study:
    """What a comparison is about and made of; every string as on the command line."""

    question: str
    architectures: list[str]
    tasks: list[str]
    budgets: list[str]


def read(name: str) -> Study:
    """A study of the lab by name, or one of your own by the path of its file.

    Raises:
        UsageError: there is none, it is not TOML, or a key is missing, unknown or of the wrong type; says which.
    """
    known = sorted(file.stem for file in FOLDER.glob("*.toml"))
    file = FOLDER / f"{name}.toml" if name in known else Path(name)
    if not is_file(file):
        raise UsageError(f"--study {name[:200]}: no such study or file; {nearest(name, known)}")
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number without end, brackets without end
        raise UsageError(f"--study {name}: not a TOML file: {error}") from error
    keys = ("question", "architectures", "tasks", "budgets")
    for key in (*keys, *found):
        if key not in keys:
            raise UsageError(f"--study {name}: no key {key!r}; {nearest(key, list(keys))}")
        value = found.get(key)
        several = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
        if not (isinstance(value, str) if key == "question" else several):
            raise UsageError(f"--study {name}: {key} must be {'a text' if key == 'question' else 'a list of names in quotes'}")
    return Study(**found)

"""Studies: a question, the claim that is put to the test, what is measured for it, and the rules that decide; a TOML file that
is read and never executed.

    question = "..."    claim = "..."    source = "who said so, and where"    objections = ["what a referee would say", ...]

    [parts.full]                    # measured apart, and told apart by rules
    kind = "runs"                   # or frontier, speed, precision: the classes below have their settings
    architectures = ["transformer", "dilated"]    tasks = ["recall"]    budgets = ["1e12"]

    [published]                     # optional: a table of what others reported, beside what is measured
    source = "..."    differs = "..."    tasks = ["recall"]    scores = {transformer = [0.99]}

    [[rules]]                       # the claim holds where all of them do
    said = "dilated attention answers fewer look-ups than full attention"
    of = {architecture = "dilated"}    against = {architecture = "transformer"}    quantity = "score"    below = -0.05

A study without a claim has no rules and only shows what was measured.
"""

import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lab.errors import UsageError, is_file, nearest

FOLDER = Path(__file__).parent / "studies"


@dataclass(frozen=True)
class Runs:
    """Trained runs, as of `lab compare` with flags of these names, and probes on each, as `extrapolation:times=16`."""

    architectures: list[str]
    tasks: list[str]
    budgets: list[str]
    seeds: int = 3
    size: str = "100k"
    match: Literal["params", "flops"] = "params"
    dim: int | None = None
    depth: int = 2
    batch: int | None = None
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    recipe: str | None = None
    lr: str | None = None
    carry_state: bool = False
    tune: int = 0
    probes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """A set-up of a frontier: recipe as `--recipe` takes it; none: what the architecture asks for."""

    name: str
    architecture: str
    recipe: str | None = None


@dataclass(frozen=True)
class Frontier:
    """Iso-FLOP sweeps of set-ups, as of `lab frontier`; each is read against all before it."""

    task: str
    budgets: list[str]
    steps: list[Step]
    sizes: int = 7
    seeds: int = 1
    tune: int = 0
    depth: int | None = None


@dataclass(frozen=True)
class Speed:
    """Training steps and decoding, as of `lab bench`, measured `seeds` times over in processes of their own."""

    architectures: list[str]
    lengths: list[int]
    decode: list[int] = field(default_factory=list)
    tokens: int = 4096
    dim: int = 128
    depth: int = 2
    threads: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    rounds: int = 3
    seeds: int = 5
    form: Literal["parallel", "recurrent"] = "parallel"


@dataclass(frozen=True)
class Precision:
    """Errors of an untrained backbone by length, as of `lab check --verbose`, for `seeds` draws of its weights."""

    architectures: list[str]
    lengths: list[int]
    dim: int = 32
    depth: int = 2
    seeds: int = 3


Part = Runs | Frontier | Speed | Precision
KINDS: dict[str, type[Part]] = {kind.__name__.lower(): kind for kind in (Runs, Frontier, Speed, Precision)}


@dataclass(frozen=True)
class Rule:
    """One thing that must hold: `quantity` of the rows `of`, less that of the rows `against` (by ratio: over it), lies `above` or
    `below` a bound, by its whole 95 % interval.

    of, against: values, or lists of values, of columns of what was measured; without `against` the quantity itself is held to
    the bound. take: what stands for the several rows of a seed.
    """

    said: str
    of: dict
    against: dict = field(default_factory=dict)
    quantity: str = "score"
    by: Literal["difference", "ratio"] = "difference"
    take: Literal["mean", "greatest", "least"] = "mean"
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Published:
    """Scores of others, for a table beside those measured: of an architecture one for each task, nan where there is none.

    differs: what they were reached with otherwise.
    """

    source: str
    differs: str
    tasks: list[str]
    scores: dict


@dataclass(frozen=True)
class Study:
    """Every string as on the command line."""

    question: str
    parts: dict[str, Part]
    rules: list[Rule]
    published: Published | None = None
    claim: str = ""
    source: str = ""
    objections: list[str] = field(default_factory=list)


def names() -> list[str]:
    """The lab's studies."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def read(name: str) -> Study:
    """A study of the lab by name, or one of your own by the path of its file.

    Raises:
        UsageError: there is none, it is not TOML, or a key is missing, unknown or of the wrong type; says which.
    """
    file = FOLDER / f"{name}.toml" if name in names() else Path(name)
    if not is_file(file):
        raise UsageError(f"--study {name[:200]}: no such study or file; {nearest(name, names())}")
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number without end, brackets without end
        raise UsageError(f"--study {name}: not a TOML file: {error}") from error
    known = {"parts": dict, "rules": list[dict] | None, "published": dict | None}
    _hold(name, found, known | _types(Study, *known))
    parts = {part: _part(f"{name}, part {part}", table) for part, table in found.pop("parts").items()}
    rules = [_rule(f"{name}, rule {at + 1}", table) for at, table in enumerate(found.pop("rules", []))]
    published = _published(f"{name}, published", found.pop("published")) if "published" in found else None
    if not parts:
        raise UsageError(f"--study {name}: parts must name one at least")
    if bool(rules) != bool(found.get("claim")):
        raise UsageError(f"--study {name}: a claim needs rules, and rules a claim")
    return Study(parts=parts, rules=rules, published=published, **found)


def comparison(name: str) -> Runs:
    """The study's one part, of runs.

    Raises:
        UsageError: as `read`, or it has other parts.
    """
    parts = list(read(name).parts.values())
    if len(parts) == 1 and isinstance(parts[0], Runs):
        return parts[0]
    raise UsageError(f"--study {name}: it is more than one comparison; lab study {name} carries it out")


def _part(where: str, table: Any) -> Part:
    if not isinstance(table, dict) or table.get("kind") not in KINDS:
        raise UsageError(f"--study {where}: kind must be one of {', '.join(KINDS)}")
    kind = KINDS[table.pop("kind")]
    _hold(where, table, _types(kind))
    if kind is not Frontier:
        return kind(**table)
    steps = table.pop("steps")
    for step in steps:
        _hold(f"{where}, a step", step, _types(Step))
    called = [step["name"] for step in steps]
    if len(called) < 2 or len(set(called)) < len(called):
        raise UsageError(f"--study {where}: steps must be two or more, each with a name of its own")
    return Frontier(steps=[Step(**step) for step in steps], **table)


def _rule(where: str, table: dict[str, Any]) -> Rule:
    _hold(where, table, _types(Rule))
    made = Rule(**table)
    if (made.above is None) == (made.below is None):
        raise UsageError(f"--study {where}: needs above or below, and not both")
    return made


def _published(where: str, table: dict[str, Any]) -> Published:
    _hold(where, table, _types(Published))
    made = Published(**table)
    if not all(_fits(row, list[float]) and len(row) == len(made.tasks) for row in made.scores.values()):
        raise UsageError(f"--study {where}: scores must have as many numbers for each architecture as there are tasks")
    return made


def _types(kind: type, *but: str) -> dict[str, Any]:
    """The types of a class's fields by name; None where it has a default, as a union."""
    hints = get_type_hints(kind)
    needed = {each.name: each.default is MISSING and each.default_factory is MISSING for each in fields(kind)}
    return {name: hint if needed[name] else hint | None for name, hint in hints.items() if name not in but}


_WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table",
    list[str]: "a list of names in quotes", list[int]: "a list of whole numbers", list[dict]: "a list of tables",
    list[Step]: "a list of tables",
}  # fmt: skip


def _hold(name: str, found: dict[str, Any], known: dict[str, Any]) -> None:
    """See that a table has the keys it needs, no others, each of its type."""
    for key in (*known, *found):
        if key not in known:
            raise UsageError(f"--study {name}: no key {key!r}; {nearest(key, list(known))}")
        kinds = get_args(known[key]) if isinstance(known[key], UnionType) or NoneType in get_args(known[key]) else (known[key],)
        if key not in found and NoneType in kinds:
            continue
        kind = next(each for each in kinds if each is not NoneType)
        if not _fits(found.get(key), kind):
            words = f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else _WORDS[kind]
            raise UsageError(f"--study {name}: {key} must be {words}")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return isinstance(value, list) and bool(value) and all(_fits(each, dict if item is Step else item) for each in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind

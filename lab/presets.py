"""Recipes by name: the TOML files of lab/recipes, or one of your own, with changes as in `gpt3:lr=1e-3,schedule=wsd`.

A file says `title`, `source`, and each field of a recipe as `field = [value, "where it is published"]`. `lr` may be pairs of
parameters and rate. `warmup` may be in the units of its paper, `{ steps = 2000, of = 250000 }` or tokens:
it becomes the share of the published run, and at least `SHORTEST_WARMUP`. `batch` is what the authors used, in tokens; it is
shown and not used, as steps of half a million tokens would leave a short run with few. `missing` lists what is not done here.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lab.errors import UsageError, nearest
from lab.recipe import FIELDS, Recipe, departures, value_of

FOLDER = Path(__file__).parent / "recipes"
SHARED = "shared"
"""The lab's own recipe, for all architectures."""
SHORTEST_WARMUP = 0.01
"""Share of the steps. Published warm-ups are a thousandth of 1e5 to 1e6 steps, and would be a step or two of some thousands."""


@dataclass(frozen=True)
class Preset:
    """A published set-up: its recipe, and for each field its source."""

    name: str
    title: str
    source: str
    recipe: Recipe
    sources: Mapping[str, str]
    batch: str = ""
    missing: tuple[str, ...] = ()


def names() -> list[str]:
    """Those of the lab."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def read(text: str, flag: str = "--recipe") -> Recipe:
    """`NAME` or `FILE.toml`, with `:field=value,...` where some fields are to be others. `shared` is the lab's own.

    Raises:
        UsageError: there is no such recipe or field, a value is out of range, or a file is not as it must be; says which.
    """
    name, _, changes = text.partition(":")
    recipe = preset(Recipe.name if name == SHARED else name, flag).recipe
    given: dict[str, Any] = {}
    for item in re.split(r",(?![^\[]*\])", changes) if changes else []:  # commas outside of brackets
        field, _, value = item.partition("=")
        given[field] = _checked(field, _plain(value), f"{flag} {text}")
    return replace(recipe, **given | ({"peaks": ()} if "lr" in given else {}))


@cache
def preset(name: str, flag: str = "--recipe") -> Preset:
    """A file of the lab by name, or one of your own by its path.

    Raises:
        UsageError: as `read`.
    """
    file = FOLDER / f"{name}.toml" if name in names() else Path(name)
    if not file.is_file():
        raise UsageError(f"{flag} {name[:200]}: no such recipe or file; {nearest(name, [SHARED, *names()])}")
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag} {name}: not a TOML file: {error}") from error
    where = f"{flag} {name}"
    for key in ("title", "source"):
        if not isinstance(found.get(key), str):
            raise UsageError(f"{where}: {key} must be a text in quotes")
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, pair in found.items():
        if key in ("title", "source", "missing"):
            continue
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], str)):
            raise UsageError(f'{where}: {key} must be a value and its source, [..., "..."]')
        value, sources[key] = pair
        if key == "batch":
            continue
        if key == "lr" and isinstance(value, list):
            values |= _by_size(value, where)
        elif key == "warmup" and isinstance(value, dict):
            values[key] = _checked(key, _share_of(value, where), where)
        else:
            values[key] = _checked(key, value, where)
    batch = str(found["batch"][0]) if "batch" in found else ""
    recipe = Recipe(name=file.stem, **values)
    return Preset(file.stem, found["title"], found["source"], recipe, sources, batch, tuple(map(str, found.get("missing", []))))


def called(record: Mapping[str, Any]) -> str:
    """What a record's recipe is called: its name and what departs from the recipe of that name, as in `lab, lr=0.001`."""
    recipe = Recipe.read(record)
    usual = preset(recipe.name).recipe if recipe.name in names() else Recipe()
    changed = departures(recipe, replace(usual, peaks=()))
    return ", ".join([recipe.name, *(f"{field}={shown(value)}" for field, value in changed.items())])


def described(name: str) -> dict[str, Any]:
    """A preset as plain data: every field with its value and its source."""
    found = preset(name)
    values = asdict(found.recipe)
    rows = {field: (values[field], found.sources.get(field, "not published; the lab's")) for field in FIELDS}
    return {
        "name": name,
        "kind": "recipe",
        "summary": found.title,
        "source": found.source,
        "fields": {field: {"value": value, "source": source} for field, (value, source) in rows.items()},
        "peaks": list(found.recipe.peaks),
        "batch": {"value": found.batch, "source": found.sources.get("batch", "")},
        "missing": list(found.missing),
    }


def render(found: Mapping[str, Any]) -> str:
    """The description as text for a terminal."""
    lines = [f"{found['name']} (recipe): {found['summary']}", found["source"], ""]
    for field, row in found["fields"].items():
        lines.append(f"  {field:<13} {shown(row['value']):<12} {row['source']}")
        if field == "lr" and found["peaks"]:
            sizes = ", ".join(f"{size:.3g}: {rate:g}" for size, rate in found["peaks"])
            lines.append(f"{'':<29}that of the nearest size, by parameters: {sizes}")
    if found["batch"]["value"]:
        lines.append(f"  tokens a step as published, not used here: {found['batch']['value']}; {found['batch']['source']}")
    lines += [f"  not done here: {what}" for what in found["missing"]]
    return "\n".join([*lines, "", f"lab run --recipe {found['name']} uses it; {found['name']}:lr=1e-3,dropout=0 changes fields"])


def shown(value: Any) -> str:
    """A field's value as `read` takes it."""
    if isinstance(value, (tuple, list)):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _checked(field: str, value: Any, where: str) -> Any:
    if field not in FIELDS:
        raise UsageError(f"{where}: a recipe has no field {field!r}; {nearest(field, list(FIELDS))}")
    try:
        return value_of(field, value)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def _plain(text: str) -> Any:
    """A value of the command line, read as TOML; a bare word is itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _by_size(published: list[Any], where: str) -> dict[str, Any]:
    """Learning rates by model size; that of the smallest stands where no size is known."""
    try:
        peaks = tuple((float(size), _checked("lr", rate, where)) for size, rate in published)
        return {"peaks": peaks, "lr": min(peaks)[1]}
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: lr must be a rate, or pairs of parameters and rate, [[125e6, 6e-4], ...]") from error


def _share_of(published: Mapping[str, Any], where: str) -> float:
    """A published warm-up as a share of the steps."""
    try:
        whole = published["of"]
        (part,) = (value for key, value in published.items() if key in ("steps", "tokens"))
        return max(SHORTEST_WARMUP, part / whole)
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise UsageError(
            f"{where}: warmup must be a share, or steps or tokens with how many there were of them in all"
        ) from error

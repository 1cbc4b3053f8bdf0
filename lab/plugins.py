"""Finding architectures and tasks, and turning `name:key=value,...` into one of them.

A name is a file in `architectures/` or `tasks/`, an entry point of the groups `lab.architectures` or `lab.tasks`, or a file
given with `--plugin`. Listing imports nothing; plug-ins are code and run with the user's rights when they are used.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from lab.errors import UsageError, is_file, nearest, place

CONTRACTS = {"architectures": "Backbone", "tasks": "Task"}
_NOT_PLUGINS = {"architectures": {"backbone", "stack"}, "tasks": {"task"}}
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_files: dict[str, dict[str, Path]] = {"architectures": {}, "tasks": {}}
_sources: dict[str, bytes] = {}
"""What files of code held when they were loaded, or first looked at: what runs here, whatever is written there later."""


@dataclass(frozen=True)
class Setting:
    """One keyword of a plug-in: its type for people, its default and what it means."""

    name: str
    type: str
    default: Any
    meaning: str


def add_file(path: str) -> str:
    """Make the architecture or task in a file known under the file's name, and return that name.

    Raises:
        UsageError: there is no such file, its name cannot be one, or it holds no Backbone and no Task.
    """
    if not is_file(path):
        raise UsageError(f"--plugin {path}: no such file")
    file = Path(path).resolve()
    if file.suffix != ".py" or not NAME.fullmatch(file.stem):
        raise UsageError(f"--plugin {path}: needs a name of lower-case letters, digits and _ that ends in .py")
    for kind in CONTRACTS:
        if _class_in(_import_file(file), kind) is not None:
            if file.stem in names(kind) and _files[kind].get(file.stem) != file:
                raise UsageError(f"--plugin {path}: there is already a {file.stem} in {kind}; rename the file")
            if file.stem not in _files[kind]:
                _files[kind][file.stem] = file
                _announce(kind, file.stem, file)
            return file.stem
    raise UsageError(f"--plugin {path}: defines no subclass of architectures.backbone.Backbone or tasks.task.Task")


def files() -> tuple[str, ...]:
    """The files that were made known."""
    return tuple(dict.fromkeys(str(file) for known in _files.values() for file in known.values()))


def names(kind: str) -> list[str]:
    """All known names of a kind, "architectures" or "tasks", sorted."""
    own = {file.stem for file in _folder(kind).glob("*.py")} - _NOT_PLUGINS[kind] - {"__init__"}
    return sorted(own | set(_files[kind]) | {point.name for point in entry_points(group=f"lab.{kind}")})


def summary(kind: str, name: str) -> str:
    """The first line of a plug-in's docstring, read without importing it; empty for entry points."""
    file = _files[kind].get(name, _folder(kind) / f"{name}.py")
    if not file.is_file():
        return ""
    tree = ast.parse(file.read_text("utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    documented = [text for node in [*reversed(classes), tree] if (text := ast.get_docstring(node))]
    return documented[0].splitlines()[0] if documented else ""


@cache
def load(kind: str, name: str) -> type:
    """The class behind a name.

    Raises:
        UsageError: the name is unknown (says the nearest), or its module does not import (says why and where).
    """
    flag = f"--{kind}"
    if name not in names(kind):
        raise UsageError(f"{flag} {name[:60]!r}: unknown; {nearest(name, names(kind))}")
    points = _points(kind, name)
    homes = [point.value for point in points]
    homes += [str(file) for file in (_files[kind].get(name), _folder(kind) / f"{name}.py") if file and file.is_file()]
    if len(homes) > 1:
        raise UsageError(f"{flag} {name}: found more than once, in {' and in '.join(homes)}; remove or rename one")
    try:
        if name in _files[kind]:
            module = _import_file(_files[kind][name])
        elif (_folder(kind) / f"{name}.py").is_file():
            module = importlib.import_module(f"{kind}.{name}")
        else:
            loaded = points[0].load()
            module = loaded if isinstance(loaded, types.ModuleType) else types.SimpleNamespace(only=loaded)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        origin = f" (from {_distribution(points[0])}, {points[0].value})" if points else ""
        raise UsageError(f"{flag} {name}: failed to load{origin}: {type(error).__name__}: {error} ({place(error)})") from error
    found = _class_in(module, kind)
    if found is None:
        raise UsageError(f"{flag} {name}: its module defines no {CONTRACTS[kind]}")
    if points:
        _announce(kind, name, Path(inspect.getsourcefile(found) or ""))
    return found


def told(kind: str, name: str) -> str:
    """A name, and where it comes from if that is not the lab."""
    home = _files[kind].get(name) or next(map(_distribution, _points(kind, name)), "")
    return f"{name} ({home})" if home else name


def outside(*loaded: tuple[str, str]) -> dict[str, dict[str, str]]:
    """Those of some plug-ins, each a kind and a name, that are not the lab's own: where the code came from and its SHA-256."""
    return {
        name: {"from": str(_files[kind].get(name) or _distribution(_points(kind, name)[0])), "sha256": _sha256(file)}
        for kind, name in loaded
        if told(kind, name) != name
        for file in (Path(inspect.getsourcefile(load(kind, name)) or ""),)
    }


def _announce(kind: str, name: str, file: Path) -> None:
    print(f"plug-in {told(kind, name)}: the code of {file} (sha256 {_sha256(file)[:12]}) runs with your rights", file=sys.stderr)


def _sha256(file: Path) -> str:
    return hashlib.sha256(_source(file)).hexdigest() if file.is_file() else ""


def _source(file: str | Path) -> bytes:
    if str(file) not in _sources:
        _sources[str(file)] = Path(file).read_bytes()
    return _sources[str(file)]


def _points(kind: str, name: str) -> list[EntryPoint]:
    return [point for point in entry_points(group=f"lab.{kind}") if point.name == name]


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def fingerprint(kind: str, name: str, parts: Iterable[type] = ()) -> str:
    """A hash of a plug-in's code, comments and docstrings left out: results of changed code are other results.

    parts: classes that it is made of; those that are neither shared by all nor its own belong to its code.
    """
    shared = {str(_folder(kind) / f"{module}.py") for module in _NOT_PLUGINS[kind]}
    own = inspect.getsourcefile(load(kind, name)) or ""
    others = ({inspect.getsourcefile(part) or "" for part in parts} | _generators(own)) - shared - {own}
    files = [own, *sorted(file for file in others if str(_folder(kind) / "ops") not in file)]
    return hashlib.sha256("".join(_code(_source(file)) for file in files).encode()).hexdigest()[:12]


def _generators(file: str) -> set[str]:
    """Files of `tasks/sources` that a file imports, those that they import included: what generates the data."""
    folder, modules = _folder("tasks") / "sources", _imports(_source(file))
    found = {str(folder / f"{module.rpartition('.')[2]}.py") for module in modules if module.startswith("tasks.sources.")}
    found = {path for path in found if Path(path).is_file()} - {file}
    return found.union(*(_generators(path) for path in found))


@cache
def _imports(source: bytes) -> set[str]:
    """The modules that some code imports from, and what it imports as if they were modules."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module]
    return {f"{node.module}" for node in nodes} | {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}


@cache
def _code(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
    return ast.dump(tree)


def settings(kind: str, name: str) -> list[Setting]:
    """What can be set, read from the signature."""
    cls = load(kind, name)
    hints = get_type_hints(cls.__init__, include_extras=True)
    found = []
    for parameter in inspect.signature(cls.__init__).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "causal":
            hint = hints.get(parameter.name, str)
            meaning = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, str)), "")
            default = None if parameter.default is parameter.empty else parameter.default
            found.append(Setting(parameter.name, _type_name(_bare(hint)), default, meaning))
    return found


def parse(kind: str, text: str) -> tuple[str, dict[str, Any]]:
    """`"s4:modes=64,init=lin"` as the name and the settings given, each of its declared type.

    A function among a setting's annotations is called with its value, and refuses it with a ValueError.

    Raises:
        UsageError: unknown name, unknown setting or a value of the wrong type; names the flag and the nearest.
    """
    name, _, rest = text.partition(":")
    flag = f"--{kind}"
    hints = get_type_hints(load(kind, name).__init__, include_extras=True)
    known = [setting.name for setting in settings(kind, name)]
    given: dict[str, Any] = {}
    for item in _items(rest, known):
        key, equals, value = item.partition("=")
        if key not in known:
            raise UsageError(f"{flag} {text}: {name} has no setting {key!r}; {nearest(key, known)}")
        if not equals:
            raise UsageError(f"{flag} {text}: give {key} a value, {key}=...")
        if key in given:
            raise UsageError(f"{flag} {text}: {key} is given twice")
        given[key] = _convert(value, _bare(hints[key]), f"{flag} {text}: {key}")
        for check in filter(callable, getattr(hints[key], "__metadata__", ())):
            try:
                check(given[key])
            except ValueError as error:
                raise UsageError(f"{flag} {text}: {error}") from error
    return name, given


def canonical(kind: str, name: str, given: Mapping[str, Any]) -> str:
    """The one way to write a name with settings: sorted, defaults left out."""
    defaults = {setting.name: setting.default for setting in settings(kind, name)}
    changed = {key: value for key, value in sorted(given.items()) if value != defaults[key]}
    return name + (":" + ",".join(f"{key}={_written(value)}" for key, value in changed.items()) if changed else "")


def recorded(kind: str, text: str) -> str:
    """A name with settings as it was typed, in the one way that results call it.

    Raises:
        UsageError: as `parse`.
    """
    return canonical(kind, *parse(kind, text))


def resolved(kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting with its value, given or default."""
    return {setting.name: given.get(setting.name, setting.default) for setting in settings(kind, name)}


def references(name: str, published: Iterable[Any], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The published scores (`tasks.task.Reference`) of a task that were reached on these very settings: name, score, source."""
    asked = resolved("tasks", name, given)
    return [
        {"name": each.name, "score": each.score, "source": each.source}
        for each in published
        if resolved("tasks", name, parse("tasks", f"{name}:{each.form}")[1]) == asked
    ]


def _named(text: str) -> tuple[type, dict[str, Any]]:
    """The class and the settings of an architecture, for one that is made of others."""
    try:
        name, given = parse("architectures", text)
    except UsageError as error:
        raise ValueError(str(error).removeprefix("--architectures ")) from error
    return load("architectures", name), given


def _folder(kind: str) -> Path:
    return Path(__file__).parent.parent / kind


class _Loader(SourceFileLoader):
    """Runs what is hashed: never what Python kept compiled, which may be older than an edit within the same second."""

    def get_code(self, fullname: str) -> types.CodeType:
        _sources[self.path] = self.get_data(self.path)
        return self.source_to_code(_sources[self.path], self.path)


@cache
def _import_file(file: Path) -> types.ModuleType:
    name = f"lab_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--plugin {file}: failed to load: {type(error).__name__}: {error} ({place(error)})") from error
    return module


@cache
def _contract(kind: str) -> Any:
    """What plug-ins of a kind derive from; that of architectures learns to find others by name."""
    contract_module = {"architectures": "architectures.backbone", "tasks": "tasks.task"}[kind]
    contract = getattr(importlib.import_module(contract_module), CONTRACTS[kind])
    if kind == "architectures":
        contract.named = staticmethod(_named)
    return contract


def _class_in(module: Any, kind: str) -> type | None:
    """The last public class of the module that is defined in it and keeps the contract."""
    contract = _contract(kind)
    name = getattr(module, "__name__", None)
    mine = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, contract) and (name is None or value.__module__ == name)
    ]
    return next((cls for cls in reversed(mine) if not cls.__name__.startswith("_")), None)


def _items(rest: str, known: list[str]) -> list[str]:
    """Settings are parted by commas, outside brackets, that a known setting follows, so that a path may hold a comma."""
    items: list[str] = []
    for part in re.split(r",(?![^\[]*\])", rest) if rest else []:
        if items and part.partition("=")[0] not in known and "=" not in part:
            items[-1] += "," + part
        else:
            items.append(part)
    return items


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _type_name(hint: Any) -> str:
    parts = []
    for option in _options(hint):
        if get_origin(option) is Literal:
            parts.extend(str(choice) for choice in get_args(option))
        elif option is not type(None):
            parts.append(option.__name__)
    return "|".join(parts)


def _convert(value: str, hint: Any, where: str) -> Any:
    for option in _options(hint):
        if get_origin(option) is Literal and value in map(str, get_args(option)):
            return next(choice for choice in get_args(option) if str(choice) == value)
    for option in _options(hint):
        if option is bool and value in ("true", "false"):
            return value == "true"
        if option is str:
            return value
        if option in (int, float):
            try:
                number = option(value)
            except ValueError:
                continue
            if abs(number) < 1e18:  # false for NaN too
                return number
    raise UsageError(f"{where}={value} is not {_type_name(hint)}")


def _written(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)

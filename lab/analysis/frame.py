"""Records on disk as data frames: a row a run, or a row a point of a curve. The only part of the analysis that reads files."""

import gc
import json
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import numpy as np
import pandas as pd

from lab.analysis import findings
from lab.presets import called
from lab.run import SCHEMA
from lab.terminal import printable

COLUMNS = (
    "id", "status", "architecture", "task", "dim", "depth", "seed", "budget", "batch", "accumulate", "carry_state",
    "precision", "lr", "length", "params",
    "params_embedding", "params_head", "flops", "flops_contraction", "flops_mixing", "flops_pointwise", "flops_minimum",
    "flops_optimizer", "tokens", "steps", "planned_steps", "flops_per_token", "evaluation_flops", "state_size", "seconds",
    "peak_memory", "metric", "higher_is_better", "score", "loss", "chance", "baselines", "references", "refused",
    "throughput", "reason", "leak_gate", "settings", "recipe", "code", "data", "commit", "device", "processor", "threads",
    "started", "environment",
)  # fmt: skip
"""Columns of every frame of results; `test.<name>` and `validation.<name>` follow for each score."""
LEDGER = (
    "params_embedding", "params_head", "flops_contraction", "flops_mixing", "flops_pointwise", "flops_minimum", "flops_optimizer",
)  # fmt: skip
"""What `restate` reads; missing where a record is older."""
CURVE_COLUMNS = ("id", "architecture", "task", "budget", "seed", "step", "tokens", "flops", "seconds", "loss", "score")
_FROM_SPEC = ("architecture", "task", "dim", "depth", "seed", "precision", "batch")
_FROM_RECORD = (
    "flops",
    "tokens",
    "steps",
    "planned_steps",
    "seconds",
    "peak_memory",
    "flops_per_token",
    "evaluation_flops",
)
_NUMBER = int | float
_FAULTS = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError)
_Made = tuple[str, tuple[Any, ...], dict[str, float | None], dict[str, Any]]
"""Of a record: its folder, its row, its scores, and what probes found."""
_KINDS: dict[type | UnionType, tuple[str, ...]] = {
    str: ("id", "status", "architecture", "task", "precision", "metric", "reason", "leak_gate", "data"),
    str | None: ("commit", "device", "processor", "started"),
    int: ("dim", "depth", "seed", "batch", "accumulate"),
    bool: ("carry_state",),
    _NUMBER: ("budget", "params", *_FROM_RECORD),
    _NUMBER | None: ("lr", "length", "state_size", "chance", "threads", *LEDGER),
    dict: ("baselines", "refused", "throughput", "environment"),
    list: ("references",),
}
LARGEST = 1e30
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))  # json.dumps would make one each time
_ORDERED = itemgetter(*COLUMNS)
_FROM_ENVIRONMENT = ("commit", "device", "processor", "threads", "started")


def results(path: str | Path = "results") -> pd.DataFrame:
    """A row for every run that ended, below `<path>/runs`; without runs, a frame without rows.

    budget, flops: training FLOPs; flops_*: by kind, of the cheapest exact form, and apart from them of the optimizer. score:
    the test score by `metric`. loss: nats, test split. length: positions of a training sequence. peak_memory: bytes. settings,
    code: canonical JSON, so that equal is equal. recipe: its name and what departs from the recipe of that name, as in
    `lab, lr=0.001`. baselines, refused, throughput, environment: dictionaries. references:
    published scores, each with name, score and source. Last come columns `<probe>.<number>` of what `lab probe` found in the
    weights of runs. What a record lacks is missing; keys that are not known are kept out.
    Records that cannot be read, or that a newer lab made, are left out with one warning that names them.
    """
    with _no_collection():
        made, broken = _read_all(path)
        if broken:
            told = [f"{os.path.basename(folder)} ({type(error).__name__}: {error})" for folder, error in sorted(broken.items())]
            shown = "; ".join(told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")
            warnings.warn(f"{len(broken)} records left out: {' '.join(shown.split())}", stacklevel=2)
        return _framed(made)


def _read_all(path: str | Path) -> tuple[list[_Made], dict[str, Exception]]:
    """The records of a store that hold what they must, and of the others why not, by folder."""
    made: list[_Made] = []
    broken: dict[str, Exception] = {}
    for folder in _folders(path):
        try:
            record = _read(folder, "run.json")
            if record["schema"] > SCHEMA:
                raise ValueError(f"made by a newer lab: schema {record['schema']}, this one reads {SCHEMA}")
            row, scored = _row(record)
            made.append((folder, _ORDERED(row), scored, findings.numbers(folder)))
        except FileNotFoundError:
            continue
        except _FAULTS as error:
            broken[folder] = error
    if not _typed(_columns([row for _, row, _, _ in made])):
        made = [each for each in made if not _note(broken, *each[:2])]
    return made, broken


def _columns(rows: list[tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(COLUMNS, ())


def _framed(made: list[_Made]) -> pd.DataFrame:
    rows, scores, found = [each[1] for each in made], [each[2] for each in made], [each[3] for each in made]
    named = {name: place for place, name in enumerate(dict.fromkeys(chain.from_iterable(scores)))}
    table = np.full((len(named), len(made)), np.nan)
    at = [named[name] for name in chain.from_iterable(scores)], np.repeat(np.arange(len(made)), [len(each) for each in scores])
    table[at] = [value for scored in scores for value in scored.values()]
    frame = pd.DataFrame(_columns(rows) | dict(zip(named, table, strict=True)))
    frame = frame.astype(dict.fromkeys(["score", "chance", "loss", "lr", "length", "state_size", *LEDGER], "float64"))
    probed = dict.fromkeys(chain.from_iterable(found))
    frame = pd.concat([frame, pd.DataFrame({name: [row.get(name) for row in found] for name in probed}, frame.index)], axis=1)
    frame = frame.sort_values(["task", "architecture", "budget", "seed", "id"], ignore_index=True)
    return frame.copy()  # in one piece: each column that was given a type is one of its own


def curves(
    path: str | Path = "results", whole: Collection[str] | None = None, runs: Collection[str] | None = None
) -> pd.DataFrame:
    """A row for every point of every training curve, of runs that ended and runs under way.

    whole: ids of runs of which every point is read; of others only the points that have a score, in a fraction of the time.
    runs: ids of the runs that are read at all. All where they are not given.

    loss: mean in nats since the point before; tokens, flops (training) and seconds: so far. score: by the task's metric, on a
    small part of the validation split, at the points that have one. A line that was cut off is left out.
    """
    heads, counts, points = [], [], []
    with _no_collection():
        for folder in _folders(path):
            if runs is not None and os.path.basename(folder) not in runs:
                continue
            try:
                spec = _read(folder, "spec.json")
                head = [os.path.basename(folder), *(spec[name] for name in CURVE_COLUMNS[1:5])]
                lines = Path(folder, "curve.jsonl").read_bytes().splitlines()
                mine = _points(lines if whole is None or head[0] in whole else [line for line in lines if b'"score"' in line])
            except (ValueError, KeyError, TypeError, RecursionError, OSError):
                continue
            heads.append(head)
            counts.append(len(mine))
            points.extend(mine)
    head = pd.DataFrame(heads, columns=list(CURVE_COLUMNS[:5]))
    head = head.loc[head.index.repeat(counts)].reset_index(drop=True)
    body = pd.DataFrame(points, columns=list(CURVE_COLUMNS[5:])).astype({"loss": "float64", "score": "float64"})
    return pd.concat([head, body], axis=1)


def _folders(path: str | Path) -> list[str]:
    try:
        return sorted(entry.path for entry in os.scandir(Path(path, "runs")) if entry.is_dir())
    except OSError:
        return []


def _points(content: Sequence[bytes]) -> list[list[Any]]:
    """The whole lines of a curve, each as step, tokens, flops, seconds, loss, score."""
    lines = [line.decode("utf-8", "replace") for line in content]
    try:
        rows = json.loads(f"[{','.join(lines)}]")  # many times faster than line by line
    except (ValueError, RecursionError):
        rows = [row for line in lines if (row := _parsed(line)) is not None]
    names = CURVE_COLUMNS[5:-1]
    whole = (row for row in rows if isinstance(row, dict) and row.keys() >= set(names))
    return [values for row in whole if all(map(_counts, values := [*(row[name] for name in names), row.get("score")]))]


def _read(folder: str, name: str) -> Any:
    with open(os.path.join(folder, name), "rb", buffering=0) as file:
        content = file.read()
    found = json.loads(content.decode("utf-8"))
    # JSON lets control characters into texts as escapes only, but for DEL
    return found if content.isascii() and b"\\" not in content and b"\x7f" not in content else _visible(found)


def _visible(value: Any) -> Any:
    """A record with nothing but visible characters in its texts, as they go to terminals, figures and pages."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _visible(item) for key, item in value.items()}
    return [_visible(item) for item in value] if isinstance(value, list) else value


def _counts(value: Any) -> bool:
    """Whether it is a number that a column holds, or none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and not abs(value) >= LARGEST)  # NaN is one: a loss that was lost


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _row(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float | None]]:
    """What the columns hold, and every score as `<split>.<name>`."""
    spec, environment = record["spec"], record.get("environment") or {}
    recipe, baselines, metric = spec.get("recipe") or {}, record.get("baselines") or {}, record.get("metric") or ""
    scores = {
        f"{split}.{name}": None if value is None else float(value)
        for split, named in (record.get("scores") or {}).items()
        for name, value in named.items()
    }
    positions = record.get("steps", 0) * spec["batch"]
    parts, kinds = record.get("parameters_by_part") or {}, record.get("flops_by_kind") or {}
    row = {
        **{name: spec[name] for name in _FROM_SPEC},
        **{name: record.get(name) or 0 for name in _FROM_RECORD},
        **{name: environment.get(name) for name in _FROM_ENVIRONMENT},
        "id": record["id"],
        "status": record["status"],
        "budget": float(spec["budget"]),
        "lr": recipe.get("lr"),
        "accumulate": spec.get("accumulate", 1),
        "carry_state": spec.get("carry_state", False),
        "length": record.get("tokens", 0) / positions if positions else None,
        "params": record.get("parameters") or 0,
        **{f"params_{part}": parts.get(part) for part in ("embedding", "head")},
        **{f"flops_{kind}": kinds.get(kind) for kind in ("contraction", "mixing", "pointwise")},
        "flops_minimum": record.get("minimum_flops"),
        "flops_optimizer": record.get("optimizer_flops"),
        "state_size": record.get("state_size"),
        "metric": metric,
        "higher_is_better": bool(record.get("higher_is_better", True)),
        "score": scores.get(f"test.{metric}"),
        "loss": scores.get("test.loss"),
        "chance": baselines.get("chance"),
        "baselines": baselines,
        "references": record.get("references") or [],
        "refused": record.get("refused") or {},
        "throughput": record.get("throughput") or {},
        "reason": record.get("reason") or "",
        "leak_gate": record.get("leak_gate") or "",
        "settings": _canonical({"architecture": spec.get("settings"), "task": spec.get("task_settings")}),
        "recipe": _called(_canonical(recipe)) if recipe else "",
        "code": _canonical(spec.get("code") or {}),
        "data": spec.get("data") or "",
        "environment": environment,
    }
    if not all(map(_counts, [*row["baselines"].values(), *row["throughput"].values()])):
        raise TypeError("baselines or throughput hold what is no number")
    if not all(str(each["name"]) and str(each["source"]) and _counts(each["score"]) for each in row["references"]):
        raise TypeError("references hold what is no score")
    row["throughput"] = {str(int(length)): value for length, value in row["throughput"].items()}
    return row, scores


def _typed(columns: dict[str, tuple[Any, ...]]) -> bool:
    """Whether all surely hold what their names say: of thousands of rows this is known much sooner than of each."""
    return all(
        set(map(type, columns[name])) <= set(get_args(kind) or [kind]) and _in_range(columns[name])
        for kind, names in _KINDS.items()
        for name in names
    )


def _in_range(column: tuple[Any, ...]) -> bool:
    """Of a column without numbers, or of one whose numbers all are below the largest."""
    if not isinstance(next((value for value in column if value is not None), None), _NUMBER):
        return True
    try:
        return bool((np.abs(np.array([value for value in column if value is not None], float)) < LARGEST).all())
    except OverflowError:
        return False


def _note(broken: dict[str, Exception], folder: str, row: tuple[Any, ...]) -> bool:
    """Whether a row holds what its columns do not; noted as a fault of its folder."""
    held: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for kind, columns in _KINDS.items():
        for name in columns:
            if not isinstance(held[name], kind) or (isinstance(held[name], _NUMBER) and not abs(held[name]) < LARGEST):
                broken[folder] = TypeError(f"{name} is {str(held[name])[:40]!r}")
                return True
    return False


@contextmanager
def _no_collection() -> Iterator[None]:
    """What is read holds no cycles; to look for some among millions of objects takes longer than to read them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@lru_cache
def _called(recipe: str) -> str:
    return called(json.loads(recipe))


def _canonical(value: Any) -> str:
    return _ENCODER.encode(value)

"""What decides a run (Spec), what came of it (Run), and where runs are kept (Store).

The store is one folder a run, `<root>/runs/<id>/{spec.json, curve.jsonl, run.json, checkpoint}`. The id is the hash of the
spec, so equal specs are the same run. `run.json` appears once, whole and last; merging two stores is copying folders.
"""

import dataclasses
import errno
import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lab.claim import Claim, Holder, claim, held
from lab.errors import UsageError

SCHEMA = 1
LONGEST_NAME = 255
Status = Literal["done", "diverged", "failed", "interrupted"]
LeakGate = Literal["", "passed", "refused", "not causal", "off"]
FINAL = ("done", "diverged")


@dataclass(frozen=True)
class Spec:
    """Everything that decides a run; two equal specs give the same numbers on the same machine.

    architecture, task: as canonical strings (`transformer:preset=gpt2`); settings, task_settings: every setting, resolved.
    code: hashes of the two plug-ins' code. data: hash of the task's real data. budget: training FLOPs.
    batch: sequences a step. recipe: the fields of `lab.recipe.Recipe`. accumulate: equal parts of the batch that are read one
    after the other. carry_state: each row goes on where it ended a step before. Fields with a default came after runs were
    kept; at that default they are no part of the id, so that those runs keep theirs.
    """

    architecture: str
    settings: dict[str, Any]
    dim: int
    depth: int
    task: str
    task_settings: dict[str, Any]
    code: dict[str, str]
    data: str
    budget: float
    batch: int
    seed: int
    precision: Literal["float32", "bfloat16"]
    recipe: dict[str, Any]
    accumulate: int = 1
    carry_state: bool = False
    schema: int = SCHEMA

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical JSON."""
        usual = {field.name: field.default for field in dataclasses.fields(self) if field.name != "schema"}
        told = {name: value for name, value in dataclasses.asdict(self).items() if value != usual.get(name, dataclasses.MISSING)}
        return hashlib.sha256(canonical_json(told).encode()).hexdigest()[:16]

    @property
    def names(self) -> tuple[str, str]:
        """Architecture and task without their settings."""
        return self.architecture.partition(":")[0], self.task.partition(":")[0]

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Spec":
        """A spec from its JSON form.

        Raises:
            UsageError: it has keys that are not known, so it decides things that this lab cannot do.
        """
        if unknown := record.keys() - {each.name for each in dataclasses.fields(cls)}:
            raise UsageError(f"the spec has {', '.join(sorted(unknown))}: made by a newer lab; update the lab")
        return cls(**record)


@dataclass(frozen=True)
class Run:
    """What came of a spec; the fields are the keys of run.json.

    scores: by split, then by name; `accuracy@length=128` is a harder variant, `accuracy[gap=4-7]` a slice.
    flops: training FLOPs used (headline); flops_by_kind: the same by kind; minimum_flops: of the cheapest exact form of the
    architecture. Apart from the budget: optimizer_flops, of all updates, and evaluation_flops. parameters_by_part: of the token
    embeddings, the body and the head. Older records lack these two by-products: 0 and empty.
    seconds: of training alone. state_size: numbers remembered after one training length. peak_memory: bytes of the process.
    throughput: tokens a second through the backbone, forward and backward, by length.
    references: published scores on the task's very settings, each with name, score and source.
    reason: why the status is not `done`. refused: harder variants that the architecture cannot read, with its reason.
    leak_gate: what it said: "passed", "refused", "not causal" where there is no future to see, "off" where it was not asked,
    empty in older records. It changes no number of a run, so it is no part of the spec.
    """

    id: str
    spec: Spec
    status: Status
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    metric: str = ""
    higher_is_better: bool = True
    baselines: dict[str, float] = field(default_factory=dict)
    references: list[dict[str, Any]] = field(default_factory=list)
    flops: int = 0
    flops_by_kind: dict[str, int] = field(default_factory=dict)
    minimum_flops: int = 0
    optimizer_flops: int = 0
    evaluation_flops: int = 0
    flops_per_token: float = 0.0
    parameters: int = 0
    parameters_by_part: dict[str, int] = field(default_factory=dict)
    state_size: int | None = None
    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    planned_steps: int = 0
    peak_memory: int = 0
    throughput: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    leak_gate: LeakGate = ""
    environment: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


class Unreadable(Exception):
    """A record that is cut or no record; says which and why."""


class Store:
    """The runs below `<root>/runs`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, run_id: str) -> Path:
        """Where a run lives, whether it exists or not.

        Raises:
            UsageError: that is a link out of the store; nothing is read or written through it.
        """
        folder = self.root / "runs" / run_id
        if folder.is_symlink() and not folder.resolve().is_relative_to(self.root.resolve()):
            raise UsageError(f"{folder} is a link that leads out of the store, to {folder.resolve()}; copy the run, or remove it")
        return folder

    def named(self, run: str) -> Path:
        """The folder of a run that is named by its id, or by its path."""
        return Path(run) if "/" in run else self.folder(run)

    def check_writable(self) -> None:
        """See that runs can be kept here, without leaving anything behind.

        Raises:
            UsageError: they cannot; names the folder and the reason.
        """
        check_writable(self.root, "--results")

    def final(self, run_id: str) -> bool:
        """Whether a run is over for good: done or diverged. A failed one may be tried again."""
        record = self.find(run_id)
        return record is not None and record["status"] in FINAL

    def find(self, run_id: str) -> dict[str, Any] | None:
        """The record of a run that ended, or None; one that cannot be read counts as none, with a warning. Keys that are not
        known are kept.

        Raises:
            UsageError: a newer lab made it.
        """
        try:
            return self._read(run_id)
        except Unreadable as error:
            warnings.warn(f"{error}, and counts as missing", stacklevel=2)
            return None

    def _read(self, run_id: str) -> dict[str, Any] | None:
        file = self.folder(run_id) / "run.json"
        try:
            record = json.loads(file.read_text("utf-8"))
            if not isinstance(record["status"], str):
                raise TypeError("its status is no text")
            newer = record["schema"] > SCHEMA
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Unreadable(f"{file} cannot be read ({type(error).__name__}: {error})") from error
        if newer:
            raise UsageError(f"{file}: made by a newer lab: schema {record['schema']}, this one reads {SCHEMA}; update it")
        return record

    def publish(self, run: Run) -> None:
        """Write run.json, whole or not at all. A final record stays as it is; one of a failed run, or one that cannot be read,
        gives way to a new try.

        Two processes must not do this at once: have the run in hand by `claim`.
        """
        folder = self.folder(run.id)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            before = self._read(run.id)
            again = before is not None and before["status"] not in FINAL
        except Unreadable:
            again = True
        write_durably(folder / "spec.json", json.dumps(dataclasses.asdict(run.spec), indent=1).encode())
        write_durably(folder / "run.json", json.dumps(plain(dataclasses.asdict(run)), indent=1).encode(), once=not again)

    @contextmanager
    def claim(self, run_id: str) -> Iterator[Claim | None]:
        """Have a run in hand for the block; None where another process has."""
        folder = self.folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        with claim(folder) as mine:
            yield mine

    def held(self, run_id: str) -> Holder | None:
        """The process that has a run in hand; looks only."""
        return held(self.folder(run_id))


def check_writable(folder: str | Path, flag: str) -> None:
    """See that a folder can be made and written, without leaving anything behind.

    Raises:
        UsageError: it cannot; names the flag, the folder and the reason.
    """
    existing = Path(folder)
    try:
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        os.stat(folder) if os.path.lexists(folder) else os.stat(existing)
        if len(max(Path(folder).parts, key=len, default="").encode(errors="surrogateescape")) > LONGEST_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{flag} {folder}: cannot write there ({why}); name another folder") from error


def canonical_json(value: Any) -> str:
    """The one JSON form of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_durably(path: Path, content: bytes, *, once: bool = False) -> None:
    """Write a whole file or nothing, on the disk when this returns: temporary file beside it, fsync, rename.

    once: leave a file that is already there as it is.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if once:
            with suppress(FileExistsError):
                os.link(temporary, path)
            os.unlink(temporary)
        else:
            os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Have on the disk what was put into a folder or renamed in it."""
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: both become null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

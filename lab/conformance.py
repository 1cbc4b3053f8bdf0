"""Does a backbone keep the laws? Each is tried, and one that is broken says what was found and where.

print(check("s4:modes=64"))      a name, with settings
print(check(MyBackbone))         a class
"""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from architectures.backbone import Backbone
from lab import machine, numerics, plugins
from lab.laws import LAWS
from lab.laws.subject import Broken, Subject


@dataclass(frozen=True)
class Result:
    """One law: `message` says why it is broken, or what is worth knowing where it holds."""

    law: int
    title: str
    status: Literal["passed", "failed"]
    message: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What `check` found; prints as a table."""

    name: str
    results: tuple[Result, ...]
    errors: tuple[numerics.Errors, ...] = ()

    @property
    def passed(self) -> bool:
        return all(result.status == "passed" for result in self.results)

    @property
    def failed(self) -> list[int]:
        """Numbers of the broken laws."""
        return [result.law for result in self.results if result.status == "failed"]

    def __str__(self) -> str:
        width = max((len(result.title) for result in self.results), default=0)
        rows = [f"{r.law:>3}  {r.title:<{width}}  {r.status}  {r.seconds:5.1f} s  {r.message}".rstrip() for r in self.results]
        verdict = "keeps every law" if self.passed else f"breaks law {', '.join(map(str, self.failed))}"
        errors = ["", "errors, relative to the largest output", numerics.table(self.errors)] if self.errors else []
        return "\n".join([f"{self.name}: {verdict}", *rows, *errors])


def check(
    backbone: Callable[..., Backbone] | str,
    dim: int = 16,
    depth: int = 2,
    settings: Mapping[str, Any] | None = None,
    laws: Collection[int] = tuple(law for law, _, _ in LAWS),
    lengths: Collection[int] = (),
    device: str = "cpu",
) -> Report:
    """Try to break the laws, and measure numerical errors at `lengths`; seconds, not minutes, at the default size.

    device: where it computes, as torch writes it: cpu, cuda, cuda:1.

    Raises:
        UsageError: a name or a setting that is not known, or a device that torch does not find here.
    """
    if isinstance(backbone, str):
        name, given = plugins.parse("architectures", backbone)
        make, known = plugins.load("architectures", name), True
    else:
        name, given, make, known = getattr(backbone, "__name__", str(backbone)), {}, backbone, False
    given = given | dict(settings or {})
    subject = Subject(name, make, dim, depth, given, known)
    label = name + (":" if given else "") + ",".join(f"{key}={_written(value)}" for key, value in given.items())
    where = machine.device(device)
    gpu = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=gpu), where if gpu else nullcontext():
        construction = _tried(subject, 1, "construction", _builds)
        if construction.status == "failed":
            return Report(label, (construction,))
        results = tuple(_tried(subject, law, title, holds) for law, title, holds in LAWS if law in laws)
        return Report(label, results, numerics.errors(subject, lengths))


def _written(value: Any) -> str:
    """As it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tried(subject: Subject, law: int, title: str, holds: Callable[[Subject], str]) -> Result:
    """The outcome in one line, whatever the backbone raises."""
    start = time.perf_counter()
    status, message = "failed", f"law {law}, {title}: "
    try:
        status, message = "passed", holds(subject)
    except Broken as broken:
        message += str(broken)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        message += f"{type(error).__name__}: {reason} (while {subject.doing})"
    return Result(law, title, status, message, time.perf_counter() - start)


def _builds(subject: Subject) -> str:
    subject.build()
    return ""

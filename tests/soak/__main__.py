"""`make soak`: every fault inflicted for real, and a table of what came of it; exit code 1 if a promise was broken.

A fault that was finished for the same code, scale and seed is not inflicted again: an interrupted soak goes on.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from soak.tally import Tally, can_mount
from soak.ways import cases

ROOT = Path(__file__).parents[2]
HEADS = ("fault", "tried", "survived", "lost", "doubled", "corrupt", "minutes")


FAULTS = {
    "two-compares": "soak.commands:together",
    "compare-signals": "soak.commands:drivers",
    "run-signals": "soak.commands:signals",
    "disk-full": "soak.commands:disks",
    "writers": "soak.storm:one_machine",
    "machines": "soak.storm:many_machines",
    "checkpoint-kills": "soak.checkpoints:kills",
    "checkpoint-damage": "soak.checkpoints:damages",
    **{f"resume {case}": "soak.resume:soak" for case in cases()},
    "divergence": "soak.records:divergence",
    "budgets": "soak.records:budgets",
    "edits": "soak.records:edits",
}
"""By name, a function of how often (its share of the full number), a seed, and a folder to do it in."""


def main() -> int:
    known = list(FAULTS)
    parser = argparse.ArgumentParser(prog="make soak ARGS=", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of trials")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--only", nargs="+", default=known, metavar="FAULT", help=f"of: {', '.join(known)}")
    parser.add_argument("--processes", type=int, default=2, help="faults inflicted at once")
    parser.add_argument("--keep", type=Path, default=ROOT / "results" / "soak", help="folder of what was finished")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    parser.add_argument("--one", choices=known, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if wrong := [name for name in given.only if name not in known]:
        parser.error(f"--only {wrong[0]}: there are {', '.join(known)}")
    if given.one:
        return one(given.one, given.scale, given.seed)

    code, started = _code(), time.monotonic()
    with ThreadPoolExecutor(given.processes) as pool:
        asked = [pool.submit(_find_or_do, name, given, code) for name in given.only]
        try:
            done = [each.result() for each in asked]
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    table, held = shown(done)
    print(table)
    print(f"{(time.monotonic() - started) / 60:.0f} min in all; {'every promise was kept' if held else 'PROMISES WERE BROKEN'}")
    if given.out:
        given.out.write_text(page(table, given), "utf-8")
    return 0 if held else 1


def one(name: str, scale: float, seed: int) -> int:
    """Inflict one fault in this process; its tally as JSON on standard output."""
    with tempfile.TemporaryDirectory(prefix="soak.", ignore_cleanup_errors=True) as folder:
        module, _, function = FAULTS[name].partition(":")
        inflict = getattr(import_module(module), function)
        case = name.partition("resume ")[2]
        tally = inflict(*[case] * bool(case), scale, seed, Path(folder))
    print(json.dumps(asdict(tally)))
    return 0


def _find_or_do(name: str, given: argparse.Namespace, code: str) -> tuple[Tally, float]:
    kept = given.keep / hashlib.sha256(f"{name} {given.scale} {given.seed} {code}".encode()).hexdigest()[:16]
    if not kept.exists():
        _say(f"{name} ...")
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "soak", "--one", name, "--scale", str(given.scale), "--seed", str(given.seed)],
            capture_output=True, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        )  # fmt: skip
        try:
            tally = Tally(**json.loads(done.stdout.splitlines()[-1]))
        except (IndexError, ValueError):
            tally = Tally(name, tried=1, failures=[f"the soak itself failed: {done.stderr[-1500:]}"])
        minutes = (time.monotonic() - started) / 60
        _say(f"{name}: {tally.survived} of {tally.tried} survived, {minutes:.1f} min")
        for failure in tally.failures[:5]:
            _say(f"  {failure}")
        if not tally.held:
            return tally, minutes
        given.keep.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([asdict(tally), minutes]))
    tally, minutes = json.loads(kept.read_text())
    return Tally(**tally), minutes


def _code() -> str:
    """A hash of the code that is soaked and of the soak."""
    digest = hashlib.sha256()
    for folder in ("lab", "architectures", "tasks", "tests/soak"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def shown(done: list[tuple[Tally, float]]) -> tuple[str, bool]:
    """The table, with what is worth knowing and what broke below it, and whether every promise was kept."""
    rows = [(t.fault, t.tried, t.survived, t.lost, t.doubled, t.corrupt, f"{minutes:.1f}") for t, minutes in done]
    sums = [sum(row[column] for row in rows) for column in range(1, 6)]
    rows.append(("all", *sums, f"{sum(minutes for _, minutes in done):.1f}"))
    texts = [HEADS, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
             for row in texts]  # fmt: skip
    notes = [f"{tally.fault}: {'; '.join(tally.notes)}" for tally, _ in done if tally.notes]
    broken = [f"BROKEN {tally.fault}: {failure}" for tally, _ in done for failure in tally.failures]
    return "\n".join([*lines, "", *notes, *broken]), all(tally.held for tally, _ in done)


def page(table: str, given: argparse.Namespace) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    arguments = [f"--scale {given.scale:g}"] * (given.scale != 1) + [f"--seed {given.seed}"] * (given.seed != 0)
    command = "make soak" + (f' ARGS="{" ".join(arguments)}"' if arguments else "")
    disk = "tmpfs and limits on the size of files" if can_mount() else "limits on the size of files"
    tests = [", ".join(f"`test_{name}.py`" for name in names.split()) for _, names, _ in PROMISES]
    promises = "\n".join(f"| {what} | {by} | {rows} |" for (what, _, rows), by in zip(PROMISES, tests, strict=True))
    return PAGE.format(command=command, commit=commit or "unknown", python=platform.python_version(), table=table, disk=disk,
                       promises=promises)  # fmt: skip


PROMISES = [
    ("a run that is killed and started again is the run, bit for bit", "training soak carried", "SIGKILL in a run"),
    ("no checkpoint is lost by a write; one that was cut or flipped is noticed, and the one before is used",
     "checkpoint devices", "a checkpoint"),
    ("no result is lost or doubled; two comparisons share a store",
     "claim store engine", "writers, a machine, two lab compare"),
    ("SIGTERM and Ctrl-C end with a checkpoint, within ten seconds, and the command that goes on",
     "soak training devices", "SIGTERM or Ctrl-C"),
    ("a run that diverges stops and is counted", "training analysis report figures", "NaN"),
    ("FLOPs used are at most the budget, and more than it less a step; an edited record is found",
     "training verify", "a random budget, a value of a record"),
    ("whatever is typed or found in a file: one line, the right exit code, nothing left behind",
     "faults strange_input messages", "a full disk"),
    ("data are parsed and never executed; what runs is what was hashed; nothing listens and no network is asked unless told to",
     "security requests engine kernels", ""),
    ("old records are read, newer ones refused by name", "old_records", ""),
    ("a backbone that sees the future is refused", "gate planted_faults", ""),
]  # fmt: skip
"""What is promised, the files of tests that try it in small, and the rows of the table that try it in large."""

PAGE = """# What the lab survives

Each fault is inflicted for real: processes get SIGKILL before a random operation on a file or at a random time, disks are full
({disk}), files are cut and flipped. *Tried* is how often, *survived* how often all ended as promised: weights,
optimizer, curve and scores bit for bit those of a run that was left alone, records whole, exit codes and messages as documented.
*Lost* and *doubled* count results; *corrupt* counts files that were wrong and not noticed.

`{command}`, at commit {commit}, with Python {python}:

```
{table}
```

`ARGS="--scale 0.1"` does a tenth, `ARGS="--only writers"` one fault; the code is in `tests/soak/`.

## Which promise is shown where

`make test` tries each promise in small, by the tests of these files; the rows of the table above do some of them in large.

| promise | tests | rows |
| --- | --- | --- |
{promises}
"""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

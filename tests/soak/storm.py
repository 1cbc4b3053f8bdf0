"""The store under many writers that are killed, on one machine and on machines that share no flock."""

import errno
import fcntl
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from lab import claim
from lab.run import Run, Spec, Store
from soak.children import fork
from soak.tally import Tally

WRITERS, RUNS, KILLS = 8, 8000, 60
LINE = 49
"""Bytes of an acknowledgement: an id, and who did it when."""
ELSEWHERE = 12
"""The share of runs and kills without flock: one in so many, as a holder that died there is taken over after a time only."""
SPEC = Spec("a", {}, 8, 1, "t", {}, {}, "", 1e9, 1, 0, "float32", {})


def one_machine(scale: float, seed: int, root: Path) -> Tally:
    tally = Tally(f"SIGKILL of one of {WRITERS} writers")
    return _storm(tally, round(RUNS * scale), max(3, round(KILLS * scale)), seed, root, apart=False)


def many_machines(scale: float, seed: int, root: Path) -> Tally:
    tally = Tally(f"a machine of {WRITERS} dies, without a common flock")
    return _storm(tally, round(RUNS * scale / ELSEWHERE), max(2, round(KILLS * scale / ELSEWHERE)), seed, root, apart=True)


def _storm(tally: Tally, runs: int, kills: int, seed: int, root: Path, *, apart: bool) -> Tally:
    """Kill writers while they fill a store; then hold every result that was acknowledged against what is there."""
    rng, store = random.Random(seed), Store(root / "store")
    specs = [replace(SPEC, seed=number) for number in range(runs)]
    (root / "inside").mkdir()
    acknowledged = os.open(root / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writers = [_start(store, specs, root, acknowledged, number, apart) for number in range(WRITERS)]
    number, killed = WRITERS, set()
    for mark in sorted(rng.sample(range(runs * 9 // 10), kills)):
        while os.fstat(acknowledged).st_size < mark * LINE and any(map(_alive, writers)):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.02))
        slot = rng.randrange(WRITERS)
        os.kill(writers[slot], signal.SIGKILL)
        os.waitpid(writers[slot], 0)
        killed.add(writers[slot])
        tally.tried += 1
        writers[slot] = _start(store, specs, root, acknowledged, number, apart)
        number += 1
    codes = [os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) for writer in writers]
    tally.failures += [f"a writer that was left alone ended with {code}" for code in codes if code]

    done = _acknowledgements(root)
    found = {record["id"]: record for record in map(_read, store.root.glob("runs/*/run.json"))}
    tally.lost = runs - len(found) + sum(found[run]["reason"] != by for run, by in done if run in found)
    tally.doubled = sum(count - 1 for count in Counter(run for run, _ in done).values()) + len(list(root.glob("twice.*")))
    tally.corrupt = sum("spec" not in record for record in found.values())
    rest = [file for file in store.root.glob("runs/*/*") if file.name not in ("lock", "run.json", "spec.json")]
    stale = [file for file in rest if file.name == "holder" and json.loads(file.read_text())["pid"] in killed]  # it was done
    tally.failures += [f"left behind: {file.name}" for file in rest if not file.name.startswith(".") and file not in stale][:5]
    tally.survived = tally.tried if not tally.failures else 0
    tally.notes.append(f"{len(found)} runs, {len(done)} acknowledged")
    return tally


def _start(store: Store, specs: list[Spec], root: Path, acknowledged: int, number: int, apart: bool) -> int:
    pid = fork()
    if pid:
        return pid
    code = 1
    try:
        if apart:
            _on_another_machine(number)
        _write(store, specs, root, acknowledged, random.Random(number))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _on_another_machine(number: int) -> None:
    """A name of its own, and no flock that others see."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    claim.fcntl = SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX, LOCK_SH=fcntl.LOCK_SH, LOCK_NB=fcntl.LOCK_NB)
    claim.platform = SimpleNamespace(node=lambda: f"machine-{number}")
    claim.HEARTBEAT, claim.STALE = 0.5, 5.0


def _write(store: Store, specs: list[Spec], root: Path, acknowledged: int, rng: random.Random) -> None:
    """Do the runs that are not done, in an order of its own; those that others have in hand last."""
    waiting = deque(rng.sample(specs, len(specs)))
    while waiting:
        spec = waiting.popleft()
        if store.final(spec.id):
            continue
        with store.claim(spec.id) as mine:
            if mine is None:
                waiting.append(spec)
                time.sleep(0.001)
            elif not store.final(spec.id):
                with open(root / "inside" / spec.id, "w") as inside:
                    try:
                        fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        (root / f"twice.{spec.id}").touch()
                    by = f"{os.getpid():>10} {time.monotonic_ns():>20}"
                    time.sleep(rng.uniform(0, 0.002))
                    store.publish(Run(id=spec.id, spec=spec, status="diverged", reason=by))
                    os.write(acknowledged, f"{spec.id} {by}\n".encode())


def _acknowledgements(root: Path) -> list[tuple[str, str]]:
    lines = (root / "acknowledged").read_text().splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except ValueError:
        return {"id": file.parent.name, "reason": ""}


def _alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

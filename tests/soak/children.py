"""Child processes that train, and are killed at a moment of their life."""

import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

WRITES = {"open", "os.rename", "os.link", "os.remove"}


@dataclass(frozen=True)
class Moment:
    """When a child is killed: `seconds` after its start, or after it asks for its `call`-th operation on a file of its store."""

    call: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Ended:
    """calls: on files of the store. code: as of waitpid, so -9 is a kill."""

    code: int
    calls: int
    seconds: float


def child(work: Callable[[], object], store: Path, moment: Moment | None = None) -> Ended:
    """Do `work` in a fork of this process, up to a moment."""
    heard, told = os.pipe()
    started = time.monotonic()
    pid = fork()
    if not pid:
        os.close(heard)
        code = 1
        try:
            watch(store, told, moment or Moment())
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(told)
    if moment and not moment.call:
        while time.monotonic() - started < moment.seconds and not _over(pid):
            time.sleep(0.002)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    calls = 0
    while said := os.read(heard, 1 << 16):
        calls += len(said)
    os.close(heard)
    status = os.waitpid(pid, 0)[1]
    return Ended(os.waitstatus_to_exitcode(status), calls, time.monotonic() - started)


def fork() -> int:
    """os.fork, for a child that warns as any process does, whatever a test makes of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads; none of ours holds a lock
        pid = os.fork()
    if not pid:
        warnings.resetwarnings()
    return pid


def watch(store: Path, told: int, moment: Moment) -> None:
    """Count the operations on files below `store`, a byte each on `told`, and die at the moment's."""
    below, calls = str(store), 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal calls
        if event in WRITES and isinstance(arguments[0], str) and arguments[0].startswith(below):
            calls += 1
            os.write(told, b".")
            if calls == moment.call and moment.seconds:
                threading.Timer(moment.seconds, die).start()
            elif calls == moment.call:
                die()

    sys.addaudithook(hook)


def moments(calm: Ended, count: int, rng: random.Random) -> Iterator[Moment]:
    """A third of them before an operation on a file, a third just after one, a third at any time, of a life as long as `calm`."""
    for number in range(count):
        if number % 3:
            yield Moment(call=rng.randint(1, calm.calls), seconds=rng.uniform(0.0, 0.002) * (number % 3 - 1))
        else:
            yield Moment(seconds=rng.uniform(0.0, calm.seconds))


def _over(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

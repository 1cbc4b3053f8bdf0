"""Who has a run in hand: one process at a time, on one machine or on many that share a folder.

On one machine `lock` decides: it is locked by flock, which the kernel frees with the process. Where other machines do not see
that, `holder` beside it decides: it names host and process, and its time of change is a heartbeat. A holder that was silent for
STALE seconds is taken over. It is put there by link and taken away by rename, each of which one of many wins, and its age is
told by the file system's own clock.
"""

import fcntl
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.errors import UsageError

HEARTBEAT = 30.0
STALE = 10 * HEARTBEAT


class LostClaim(UsageError):
    """Another machine took the run over, as this process had been silent for too long. The command line exits with 75."""

    exit_code = 75


@dataclass(frozen=True)
class Holder:
    """The process named in a run's folder. silent: seconds since its last heartbeat."""

    host: str
    pid: int
    silent: float
    content: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, last heard of {self.silent:.0f} s ago"

    def alive(self, flock: bool) -> bool:
        """Whether it may be at work still, seen by one who holds the flock, or could not get one where there is none."""
        if self.silent > STALE:
            return False
        return self.host != platform.node() or (not flock and _exists(self.pid))


class Claim:
    """A run in hand; its heartbeat goes on in a thread until `release`."""

    def __init__(self, file: Path, content: str) -> None:
        self.file, self.content, self.lost = file, content, False
        self._released = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def kept(self) -> bool:
        """True, or LostClaim if another machine took the run over."""
        if self.lost:
            raise LostClaim(f"run {self.file.parent.name} was taken over by {holder(self.file.parent)} while this process slept")
        return True

    def release(self) -> None:
        """Let others have it."""
        self._released.set()
        if self._mine():
            self.file.unlink(missing_ok=True)

    def _mine(self) -> bool:
        try:
            return self.file.read_text("utf-8") == self.content
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with suppress(OSError):  # a network that is away comes back, or the claim is lost
                self.lost = not self._mine()
                if self.lost:
                    return
                os.utime(self.file)


@contextmanager
def claim(folder: Path) -> Iterator[Claim | None]:
    """Have the run of a folder in hand for the block; None where another process has it."""
    with open(folder / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flock = True
        except BlockingIOError:
            yield None
            return
        except OSError:  # a file system without flock
            flock = False
        taken = _take(folder, flock)
        try:
            if taken is not None:
                _sweep(folder, flock)
            yield taken
        finally:
            if taken is not None:
                taken.release()


def holder(folder: Path, now: float | None = None) -> Holder | None:
    """The process that has a run in hand, or that died with it; `now` in seconds since the epoch."""
    file = folder / "holder"
    try:
        content, changed = file.read_text("utf-8", "replace"), file.stat().st_mtime
    except FileNotFoundError:
        return None
    silent = max(0.0, (time.time() if now is None else now) - changed)
    try:
        told = json.loads(content)
        return Holder(str(told["host"]), int(told["pid"]), silent, content)
    except (ValueError, KeyError, TypeError):  # cut off by a crash of its machine
        return Holder("an unknown host", 0, silent, content)


def held(folder: Path) -> Holder | None:
    """The process that has a run in hand; looks only."""
    flock, found = True, holder(folder)
    try:
        with open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return found or Holder(platform.node(), 0, 0.0)
    except OSError:
        flock = False
    return found if found and found.alive(flock) else None


def _take(folder: Path, flock: bool) -> Claim | None:
    """Put this process down as the holder, unless there is one that is alive."""
    handle, mine = tempfile.mkstemp(dir=folder, prefix=_asking_here())
    file, taken_away = folder / "holder", f"{mine}.before"
    content = json.dumps({"host": platform.node(), "pid": os.getpid(), "since": time.time()})
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            opened.write(content)
        now = os.stat(mine).st_mtime
        while True:
            with suppress(FileExistsError):
                os.link(mine, file)
                return Claim(file, content)
            before = holder(folder, now)
            if before is None:
                continue
            if before.alive(flock):
                return None
            with suppress(FileNotFoundError):
                os.rename(file, taken_away)
                if Path(taken_away).read_text("utf-8", "replace") != before.content:  # a third one was quicker: it keeps the run
                    with suppress(FileExistsError):
                        os.link(taken_away, file)
                    return None
    finally:
        for left in (mine, taken_away):
            Path(left).unlink(missing_ok=True)


def _asking_here() -> str:
    """How files of processes of this machine begin that ask for a claim."""
    return f".holder.{platform.node()}."


def _sweep(folder: Path, flock: bool) -> None:
    """Remove what writes of a process that was killed left; a young `.holder.*` of a machine that our flock does not keep out may
    be of one that asks right now.
    """
    for left in folder.glob(".*"):
        with suppress(FileNotFoundError):
            asking = left.name.startswith(".holder.") and not (flock and left.name.startswith(_asking_here()))
            if not asking or time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Settings that a process must be started with, so that they are in the environment of those which the lab starts.

GNU's OpenMP lets threads of torch keep a core busy for a millisecond before they sleep, which those of the compiled kernels then
lack: training steps that go back and forth between both take up to a quarter longer. It reads the setting when torch is loaded.

glibc's malloc sets small blocks that are freed aside for each thread, and does not join them to their neighbours. torch's blocks
leave small ones behind and before them, so that a large block, once freed, lacks a few bytes for the next of its size: a training
step takes up to a third more memory than without. It reads the setting when a process starts, so that the user's own, in which
`lab run` trains, goes without.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNTUNED = "LAB_UNTUNED"
SPIN, TURNS = "GOMP_SPINCOUNT", "10000"
MALLOC, JOINED = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"
_SETTINGS = {SPIN: (TURNS, {SPIN, "OMP_WAIT_POLICY", UNTUNED}), MALLOC: (JOINED, {MALLOC, UNTUNED})}
"""By name: the lab's value, and what keeps it out where the environment came with it."""


def prepare(yes: bool = True) -> None:
    """Set all, or none, for processes that start, or load torch, from now on."""
    for name, (value, chosen) in _SETTINGS.items():
        if yes and not chosen & os.environ.keys():
            os.environ[name] = value
        elif not yes and os.environ.get(name) == value:
            del os.environ[name]


@contextmanager
def started_as_it_comes(yes: bool) -> Iterator[None]:
    """Where it is so, a process started inside has none of the lab's settings."""
    before = {name: os.environ.get(name) for name in (*_SETTINGS, UNTUNED)}
    if yes:
        prepare(False)
        os.environ[UNTUNED] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def started_joined() -> bool:
    """Whether this very process was started so that malloc sets no small blocks aside."""
    with suppress(OSError):
        return f"{MALLOC}={JOINED}".encode() in Path("/proc/self/environ").read_bytes().split(b"\0")
    return False

"""How long threads of torch wait for more work before they sleep.

GNU's OpenMP lets them keep a core busy for a millisecond, which those of the compiled kernels then lack: training steps that go
back and forth between both take up to a quarter longer. It reads the setting when torch is loaded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

UNTUNED = "LAB_UNTUNED"
SPIN, TURNS = "GOMP_SPINCOUNT", "10000"
CHOSEN = {SPIN, "OMP_WAIT_POLICY", UNTUNED}


def wait_briefly(yes: bool = True) -> None:
    """In processes that load torch from now on; a choice that the environment came with stays."""
    if yes and not CHOSEN & os.environ.keys():
        os.environ[SPIN] = TURNS
    elif not yes and os.environ.get(SPIN) == TURNS:
        del os.environ[SPIN]


@contextmanager
def started_as_it_comes(yes: bool) -> Iterator[None]:
    """Where it is so, a process started inside has none of the lab's settings."""
    before = {name: os.environ.get(name) for name in (SPIN, UNTUNED)}
    if yes:
        wait_briefly(False)
        os.environ[UNTUNED] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

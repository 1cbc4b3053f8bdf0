"""Errors that a user can cause: one line that names the flag, the value and the way out."""

import traceback
from difflib import get_close_matches
from pathlib import Path


class UsageError(ValueError):
    """A request that cannot be understood or carried out. The command line exits with 2."""

    exit_code = 2


class BudgetError(UsageError):
    """A budget that does not pay for a single step. The command line exits with 3."""

    exit_code = 3


def reason(error: BaseException) -> str:
    """What went wrong in a line, with the kind of error where the message was not written for people."""
    return " ".join((str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}").split())


def place(error: BaseException) -> str:
    """File and line that gave an error, outside of the packages that it was given through."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((each for each in reversed(frames) if "site-packages" not in each.filename), frames[-1])
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def is_file(path: str | Path) -> bool:
    """Whether there is a file, no matter how strange the name."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def within(flag: str, value: int | None, low: int, high: int) -> None:
    """See that a number is in its range, or is not given.

    Raises:
        UsageError: it is not; names the range.
    """
    if value is not None and not low <= value <= high:
        raise UsageError(f"{flag} {value}: must be from {low} to {high}")


def nearest(name: str, known: list[str]) -> str:
    """A hint for a name that is not known: the nearest one, or all of them."""
    close = get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"

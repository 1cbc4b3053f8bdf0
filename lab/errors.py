"""Errors that a user can cause: one line that names the flag, the value and the way out."""

from difflib import get_close_matches


class UsageError(ValueError):
    """A request that cannot be understood or carried out. The command line exits with 2."""

    exit_code = 2


class BudgetError(UsageError):
    """A budget that does not pay for a single step. The command line exits with 3."""

    exit_code = 3


def nearest(name: str, known: list[str]) -> str:
    """A hint for a name that is not known: the nearest one, or all of them."""
    close = get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"

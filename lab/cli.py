"""The command line: the commands, what they print when they fail, how they exit.

Nothing heavy is imported before a command runs, so that `lab --help` answers at once.
"""

import errno
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from cyclopts import App, CycloptsError

from lab.commands import bench, catalogue, compare, draw, flops, frontier, generate, probe, study, trust
from lab.commands.common import interrupted
from lab.errors import UsageError, place
from lab.terminal import Plain

TRACEBACK = "LAB_TRACEBACK"
_NO_SUCH_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG,
                 errno.ELOOP, errno.EEXIST, errno.EINVAL, errno.ENXIO, errno.ENODEV}  # fmt: skip
LONGEST = 2000
"""Characters of a message, of which the middle is left out where it is longer."""

app = App(
    name="lab",
    help="Compare sequence architectures at equal compute.",
    help_format="plaintext",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # main says how to go on
)
for each in (
    compare.compare, compare.run, frontier.frontier, study.study, catalogue.prepare, catalogue.show, catalogue.new_architecture,
    trust.check, trust.verify, trust.doctor, draw.plot, draw.report, flops.flops, generate.generate,
):  # fmt: skip
    app.command(each)
app.command(catalogue.list_, name="list")
app.command(bench.bench)
app.command(probe.probe)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 a run failed, 2 bad usage, 3 impossible budget, 75 interrupted and resumable."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with _one_line_each():
        for argument in sys.argv[1:] if argv is None else argv:
            if "\0" in argument or re.search("[\ud800-\udc7f\udd00-\udfff]", argument):
                _fail(f"{argument}: no argument can hold a NUL character or half of a surrogate pair", 2)
        try:
            code = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
        except CycloptsError as error:
            _fail(str(error), 2)
        except UsageError as error:
            _fail(str(error), error.exit_code)
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except KeyboardInterrupt:
            _fail(interrupted(), 75)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            if error.errno in _NO_SUCH_PATH:
                _fail(f"{where}{error.strerror}", 2)
            _fail(f"{where}{error.strerror or error}; once that is mended, the same command goes on from what is whole", 1)
        except MemoryError as error:
            _fail(f"out of memory; a smaller --batch, --dim or --depth needs less ({error})", 1)
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            _fail(f"a fault of the lab or of a plug-in: {type(error).__name__}: {error} ({place(error)}); "
                  f"{TRACEBACK}=1 shows where it comes from", 1)  # fmt: skip
        sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _one_line_each() -> Iterator[None]:
    """Print text as text, and a warning as one line without the code that gave it."""
    before = sys.stdout, sys.stderr, warnings.formatwarning
    sys.stdout, sys.stderr, warnings.formatwarning = Plain(sys.stdout), Plain(sys.stderr), _warning
    try:
        yield
    finally:
        sys.stdout, sys.stderr, warnings.formatwarning = before


def _warning(message: Warning | str, *_: Any, **__: Any) -> str:
    return _line(f"warning: {message}") + "\n"


def _fail(message: str, code: int) -> NoReturn:
    print(_line(message), file=sys.stderr)
    sys.exit(code)


def _line(message: str) -> str:
    line = " ".join(message.split())
    return f"lab: {line if len(line) <= LONGEST else f'{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}'}"

"""The command line: the commands, what they print when they fail, how they exit.

Nothing heavy is imported before a command runs, so that `lab --help` answers at once.
"""

import os
import signal
import sys
from typing import NoReturn

from cyclopts import App, CycloptsError

from lab.commands import bench, catalogue, compare, draw, flops, frontier, generate, probe, study, trust
from lab.commands.common import interrupted
from lab.errors import UsageError

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
    try:
        code = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        _fail(" ".join(str(error).split()), 2)
    except UsageError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        _fail(interrupted(), 75)
    except OSError as error:  # a disk that is full, a folder that went away
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; once that is mended, the same command goes on from what is whole", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"lab: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)

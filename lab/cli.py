"""The command line: each command is a function, its signature the flags, its docstring the help.

Nothing heavy is imported before a command runs, so that `lab --help` answers at once.
"""

import builtins
import os
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from lab.errors import UsageError

if TYPE_CHECKING:
    from pandas import DataFrame

    from lab.planning import Planner

_STARTED = time.monotonic()
app = App(
    name="lab",
    help="Compare sequence architectures at equal compute.",
    help_format="plaintext",
    version_flags=["--version"],
)
Names = Annotated[list[str], Parameter(consume_multiple=True, negative="")]
Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Setup:
    """What `run` and `compare` share.

    Attributes
    ----------
    size
        Non-embedding parameters (or, with --match flops, FLOPs a token) that every width is solved for, like 100k.
    match
        What is made equal between architectures, to 2 %.
    dim
        A width, instead of --size.
    depth
        Layers.
    batch
        Sequences a step; as many as 512 tokens hold where none is given.
    precision
        Arithmetic of the forward pass; states and weights stay float32.
    lr
        Peak learning rate.
    plugin
        Python files with an architecture or a task, known by the file's name. Their code is run.
    results
        Folder of the runs.
    tuned
        Use the lab's process settings (memory that is kept, exact fast products); --untuned leaves processes as they come.
    """

    size: str = "100k"
    match: Literal["params", "flops"] = "params"
    dim: int | None = None
    depth: int = 2
    batch: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    lr: float | None = None
    plugin: Names | None = None
    results: str = "results"
    tuned: Annotated[bool, Parameter(negative="--untuned")] = True

    def planner(self) -> "Planner":
        """The planner that these flags describe."""
        from lab import machine, plugins
        from lab.budget import parse_amount
        from lab.planning import Planner, Shape
        from lab.recipe import Recipe

        if not self.tuned:
            os.environ[machine.UNTUNED] = "1"  # workers inherit it
        for file in self.plugin or []:
            plugins.add_file(file)
        if self.lr is not None and not 0 < self.lr <= 1:
            raise UsageError(f"--lr {self.lr}: must be above 0 and at most 1")
        shape = Shape(self.depth, self.dim, self.match, parse_amount(self.size, "--size"))
        recipe = Recipe() if self.lr is None else Recipe(lr=self.lr)
        return Planner(shape, self.batch, self.precision, recipe)


@app.command
def compare(
    *,
    architectures: Names | None = None,
    tasks: Names | None = None,
    budget: Names | None = None,
    seeds: int = 3,
    workers: int | None = None,
    study: str = "default",
    setup: Setup = Setup(),
    leak_gate: Annotated[bool, Parameter(negative="--no-leak-gate")] = True,
    out: str | None = None,
    json: Flag = False,
) -> int:
    """Compare architectures on tasks at equal training FLOPs; only runs that are missing are done.

    Parameters
    ----------
    architectures
        Names, with settings if wanted: transformer:preset=gpt2,heads=2. None given: those of the study.
    tasks
        Names, with settings if wanted: recall:pairs=16. None given: those of the study.
    budget
        Training FLOPs of each run, like 3e11 or 10TF; several give a comparison at each.
    seeds
        Runs of each combination, with seeds 0, 1, 2, ...
    workers
        Runs side by side, one thread each; as many as there are cores where none is given.
    study
        Where what is not given comes from: a study of the lab by name (default, mad), or a TOML file of your own.
    leak_gate
        Refuse a backbone that sees the future of a causal task; --no-leak-gate trains it, and records and reports say so.
    out
        Folder for figures and report; <results>/compare where none is given.
    json
        Print the results as JSON.
    """
    from lab.budget import parse_amount
    from lab.comparison import compare as carry_out
    from lab.study import read

    declared = read(study)
    frame = carry_out(
        architectures or declared.architectures,
        tasks or declared.tasks,
        [parse_amount(amount, "--budget") for amount in budget or declared.budgets],
        seeds,
        results=setup.results,
        workers=workers,
        planner=setup.planner(),
        plugin_files=setup.plugin or [],
        started=_STARTED,
        leak_gate=leak_gate,
    )
    if json:
        _print_json(frame)
    else:
        _present(frame, setup.results, out or f"{setup.results}/compare")
    return 1 if "failed" in set(frame["status"]) else 0


@app.command
def run(
    *,
    architecture: str,
    task: str,
    budget: str,
    seed: int = 0,
    threads: int = 1,
    setup: Setup = Setup(),
    resume: Annotated[bool, Parameter(negative="--restart")] = True,
    leak_gate: Annotated[bool, Parameter(negative="--no-leak-gate")] = True,
    json: Flag = False,
) -> int:
    """Train one architecture on one task; the same command again continues or finds the run.

    Parameters
    ----------
    architecture
        Name, with settings if wanted: transformer:preset=gpt2.
    task
        Name, with settings if wanted: text:path=MY.txt.
    budget
        Training FLOPs, like 1e12 or 1TF.
    seed
        Seed of the initial weights and of the order of the data.
    threads
        Threads of this process. One, as in compare, gives the very numbers of compare.
    resume
        Continue from the checkpoint, or find the finished run; --restart forgets both.
    leak_gate
        Refuse a backbone that sees the future of a causal task; --no-leak-gate trains it, and records and reports say so.
    json
        Print the record as JSON.
    """
    from lab import single

    return single.run(
        setup.planner(), architecture, task, budget, seed, setup.results,
        threads=threads, resume=resume, leak_gate=leak_gate, as_json=json, started=_STARTED,
    )  # fmt: skip


@app.command(name="list")
def list_(*, plugin: Names | None = None, json: Flag = False) -> None:
    """List architectures and tasks.

    Parameters
    ----------
    plugin
        Python files with an architecture or a task of your own.
    json
        Print JSON.
    """
    from lab import plugins

    for file in plugin or []:
        plugins.add_file(file)
    found = {
        kind: [{"name": name, "summary": plugins.summary(kind, name)} for name in plugins.names(kind)]
        for kind in ("architectures", "tasks")
    }
    if json:
        _print_json(found)
        return
    for kind, entries in found.items():
        print(kind)
        for entry in entries:
            print(f"  {entry['name']:<14} {entry['summary']}")
    print("lab show NAME has settings, sizes and sources.")


@app.command
def show(
    name: str,
    /,
    *,
    dim: int = 64,
    depth: int = 2,
    length: int = 256,
    example: Flag = False,
    number: int = 0,
    out: str | None = None,
    plugin: Names | None = None,
    json: Flag = False,
) -> None:
    """Show an architecture or a task: settings with types, defaults and meaning, its cost, its source.

    Parameters
    ----------
    name
        Name of an architecture or a task, with settings if wanted.
    dim
        Width at which parameters, FLOPs and state are given.
    depth
        Layers at which they are given.
    length
        Sequence length at which they are given.
    example
        Show one sequence of a task instead, with its answers in brackets; an image is written as a PNG.
    number
        Which example.
    out
        File for the picture of an example; NAME.png where none is given.
    plugin
        Python files with an architecture or a task of your own.
    json
        Print JSON.
    """
    from lab import description, plugins

    for file in plugin or []:
        plugins.add_file(file)
    if example:
        print(description.example(name, number, out or f"{name.partition(':')[0]}.png"))
        return
    found = description.describe(name, dim, depth, length)
    if json:
        _print_json(found)
    else:
        print(description.render(found))


@app.command
def prepare(tasks: list[str], /, *, workers: int = 1) -> None:
    """Make all data that a task keeps on disk; a run makes what it is the first to need. The same command continues.

    Parameters
    ----------
    tasks
        Tasks, with settings if wanted: pathfinder:size=128.
    workers
        Processes; the data are the same for any number.
    """
    from lab import plugins
    from lab.model import build_task

    if workers < 1:
        raise UsageError(f"--workers {workers}: at least 1")
    for task in tasks:
        name, given = plugins.parse("tasks", task)
        build_task(name, given).prepare(workers)
        print(f"{task}: all data are there")


@app.command
def check(
    names: Annotated[list[str] | None, Parameter(negative="")] = None,
    /,
    *,
    all: Flag = False,
    verbose: Flag = False,
    plugin: Names | None = None,
    json: Flag = False,
) -> int:
    """Hold architectures to the laws of the contract: causality, streaming, FLOPs, gradients, and more.

    Parameters
    ----------
    names
        Architectures, with settings if wanted.
    all
        Check every architecture there is, and end with a table of them.
    verbose
        Print numerical errors by length too: float32 against float64, streaming against forward, bfloat16 against float32.
    plugin
        Python files with an architecture of your own.
    json
        Print JSON.
    """
    from lab import plugins

    added = [plugins.add_file(file) for file in plugin or []]
    chosen = plugins.names("architectures") if all else names or added
    if not chosen:
        raise UsageError("check: name an architecture, or give --all")
    from lab import numerics, overview
    from lab.conformance import check as check_one

    for text in chosen:
        plugins.parse("architectures", text)
    reports = {}
    for text in chosen:
        reports[text] = check_one(text, lengths=numerics.LENGTHS if verbose else overview.LENGTHS if all else ())
        if not json:
            print(f"{reports[text] if verbose else replace(reports[text], errors=())}\n", flush=True)
    if json:
        _print_json(
            {
                text: {"laws": [asdict(law) for law in report.results], "errors": [asdict(at) for at in report.errors]}
                for text, report in reports.items()
            }
        )
    elif all:
        print(overview.summary(list(reports.values())))
    return 0 if builtins.all(report.passed for report in reports.values()) else 1


@app.command
def verify(
    runs: Annotated[list[str] | None, Parameter(negative="")] = None,
    /,
    *,
    all: Flag = False,
    results: str = "results",
    plugin: Names | None = None,
) -> int:
    """Recompute what a record says: id, FLOPs, data, curve, ranges; a line for each thing that is off, and exit code 1.

    Parameters
    ----------
    runs
        Ids, or folders of results/runs.
    all
        Verify every run of a store.
    results
        Folder of the runs.
    plugin
        Python files with an architecture or a task that the runs used. Their code is run.
    """
    if bool(runs) == all:
        raise UsageError("verify: name runs by id or folder, or give --all")
    from lab import plugins
    from lab.run import Store
    from lab.verification import folders
    from lab.verification import verify as verify_one

    for file in plugin or []:
        plugins.add_file(file)
    sound = True
    for folder in folders(runs or [], Store(results)):
        verdict = verify_one(folder)
        sound &= not verdict.faults
        print(verdict, flush=True)
    return 0 if sound else 1


@app.command
def doctor(*, results: str = "results") -> int:
    """Say what is broken in the store, the cache and the installation, and how to mend it; exit code 1 if anything is.

    Parameters
    ----------
    results
        Folder of the runs.
    """
    from lab.doctor import examine

    found = examine(results)
    for line in found:
        print(" ".join(line.split()))
    if not found:
        print("nothing is broken")
    return 1 if found else 0


@app.command
def new_architecture(name: str, /) -> None:
    """Write NAME.py, an architecture that keeps every law, to start from.

    Parameters
    ----------
    name
        Lower-case letters, digits and _.
    """
    from string import Template

    from lab import plugins

    path = Path(f"{name}.py")
    if not plugins.NAME.fullmatch(name):
        raise UsageError(f"new-architecture {name[:60]!r}: a name is lower-case letters, digits and _")
    if name in plugins.names("architectures"):
        raise UsageError(f"new-architecture {name}: there is already one of that name; choose another")
    if path.exists():
        raise UsageError(f"new-architecture {name}: {path} exists and is left as it is; choose another name")
    template = Template((Path(__file__).parent / "templates" / "architecture.py.txt").read_text("utf-8"))
    path.write_text(template.substitute(class_name=name.title().replace("_", "")), "utf-8")
    print(f"{path} is written; next: lab check {name} --plugin {path}")


bench = App(name="bench", help="Measure speed: of architectures, and of the lab itself.", help_format="plaintext")
app.command(bench)


@bench.default
def speed(
    *,
    architectures: Names | None = None,
    lengths: Annotated[list[int], Parameter(consume_multiple=True, negative="")] = [256, 1024, 4096, 16384],  # noqa: B006
    tokens: int = 16384,
    dim: int = 128,
    depth: int = 4,
    threads: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    rounds: int = 5,
    against: Names | None = None,
    decode: Annotated[list[int], Parameter(consume_multiple=True, negative="")] = [1024, 16384],  # noqa: B006
    tuned: Annotated[bool, Parameter(negative="--untuned")] = True,
    plugin: Names | None = None,
    out: str | None = None,
    json: Flag = False,
) -> None:
    """Time training steps and decoding of architectures by length, in one run, beside what the machine could do.

    Parameters
    ----------
    architectures
        Names, with settings if wanted; all where none is given.
    lengths
        Positions of a sequence.
    tokens
        Positions of a training step; a longer sequence is a step of its own.
    dim
        Width.
    depth
        Layers.
    threads
        Threads of a training step; as many as there are cores where none is given. Decoding has one.
    precision
        Arithmetic of the forward pass.
    rounds
        Measured steps of each; the median is shown.
    against
        Stacks from outside as FILE.py:CALLABLE, called with dim and depth, that take turns with each architecture: once in a
        process as torch comes, once with the lab's process settings. Their code is run.
    decode
        Positions before the one that is timed.
    tuned
        Use the lab's process settings (memory that is kept, exact fast products); --untuned leaves the process as it comes.
    plugin
        Python files with an architecture of your own. Their code is run.
    out
        Folder for speed.csv, speed.txt, machine.json and the figure.
    json
        Print JSON.
    """
    from lab import analysis
    from lab import speed as measure

    if min(*lengths, *decode, tokens, dim, depth, rounds) < 1:
        raise UsageError("bench: lengths, tokens, dim, depth and rounds are 1 or more")
    stand = measure.Stand("", dim, depth, threads or os.cpu_count() or 1, precision, tuned, tuple(plugin or []))
    frame, about = measure.measure(stand, architectures, lengths, tokens, rounds, against or [], decode)
    table = f"{measure.told(about)}\n\n{analysis.benchmark_table(frame)}"
    if out:
        chart = analysis.benchmark_chart(frame, measure.told(about))
        analysis.write(chart, frame, out, "speed", chart.caption)
        Path(out, "speed.txt").write_text(f"{_command()}\n\n{table}\n", "utf-8")
        Path(out, "machine.json").write_text(dumps(about, indent=1) + "\n", "utf-8")
    if json:
        _print_json({"machine": about, "rows": frame.astype(object).where(frame.notna(), None).to_dict("records")})
    else:
        print(table)


@bench.command
def loop(
    *, architecture: str | None = None, task: str | None = None, steps: int = 200, setup: Setup = Setup(), json: Flag = False
) -> None:
    """Time the lab's training loop against a bare PyTorch loop, in one run.

    Parameters
    ----------
    architecture
        Name, with settings if wanted; the first of the default comparison where none is given.
    task
        Name, with settings if wanted; the first of the default comparison where none is given.
    steps
        Optimizer steps of each measurement.
    json
        Print JSON.
    """
    from lab import overhead

    _print_values(overhead.loop(setup.planner(), *_first_of_default(architecture, task), steps), json)


@bench.command
def workers(
    *,
    architecture: str | None = None,
    task: str | None = None,
    steps: int = 200,
    workers: int = 2,
    setup: Setup = Setup(),
    json: Flag = False,
) -> None:
    """Time many workers against one, in one run.

    Parameters
    ----------
    architecture
        Name, with settings if wanted; the first of the default comparison where none is given.
    task
        Name, with settings if wanted; the first of the default comparison where none is given.
    steps
        Optimizer steps of each run.
    workers
        Workers to set against one.
    json
        Print JSON.
    """
    from lab import overhead

    _print_values(overhead.workers(setup.planner(), *_first_of_default(architecture, task), steps, workers), json)


@bench.command(name="tasks")
def bench_tasks(*, tasks: Names | None = None, plugin: Names | None = None, json: Flag = False) -> None:
    """Time how fast training batches are made, on one core, beside how fast the smallest model trains on them.

    Parameters
    ----------
    tasks
        Names, with settings if wanted; all where none is given.
    plugin
        Python files with a task of your own. Their code is run.
    json
        Print JSON.
    """
    from lab import overhead, plugins

    for file in plugin or []:
        plugins.add_file(file)
    rows = overhead.tasks(tasks or plugins.names("tasks"))
    if json:
        _print_json(rows)
    else:
        print(overhead.told(rows))


@app.command
def plot(*, results: str = "results", out: str | None = None, task: Names | None = None) -> None:
    """Draw every figure that the runs in a store allow, as PNG, SVG and CSV.

    Parameters
    ----------
    results
        Folder of the runs.
    out
        Folder for the figures; <results>/figures where none is given.
    task
        Only these tasks.
    """
    from lab import analysis

    frame = _stored(results, task)
    for path in analysis.draw_all(frame, analysis.curves(results), Path(out or f"{results}/figures")):
        print(path)


@app.command
def report(*, results: str = "results", out: str | None = None, task: Names | None = None) -> None:
    """Write one HTML page about all runs in a store.

    Parameters
    ----------
    results
        Folder of the runs.
    out
        Folder for the page; <results>/report where none is given.
    task
        Only these tasks.
    """
    _present(_stored(results, task), results, out or f"{results}/report")


def main(argv: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 a run failed, 2 bad usage, 3 impossible budget, 75 interrupted and resumable."""
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
        _fail("interrupted; the same command continues: " + _command(), 75)
    sys.exit(code if isinstance(code, int) else 0)


def _present(frame: "DataFrame", results: str, out: str) -> None:
    """The table on standard output; figures and the report in `out`."""
    from lab import analysis

    curves = analysis.curves(results)
    folder = Path(out)
    print(analysis.render(frame))
    path = analysis.write_report(frame, curves.loc[curves["id"].isin(frame["id"])], folder, _command())
    print(f"report:  {path}\nfigures: {folder / 'figures'}")
    print("next:    lab compare with --budget raised, or with --architectures ... my_arch --plugin my_arch.py")


def _stored(results: str, tasks: list[str] | None) -> "DataFrame":
    from lab import analysis

    frame = analysis.results(results)
    if tasks:
        frame = frame.loc[frame["task"].isin(tasks)]
    if frame.empty:
        raise UsageError(f"--results {results}: no runs there; lab compare makes some")
    return frame


def _first_of_default(architecture: str | None, task: str | None) -> tuple[str, str]:
    """What is named, or else the first of the default comparison."""
    from lab.study import read

    default = read("default")
    return architecture or default.architectures[0], task or default.tasks[0]


def _command() -> str:
    return shlex.join(["lab", *sys.argv[1:]])


def _print_json(value: Any) -> None:
    print(value.to_json(orient="records", indent=1) if hasattr(value, "to_json") else dumps(value, indent=1))


def _print_values(found: dict[str, Any], json: bool) -> None:
    if json:
        _print_json(found)
    else:
        print("\n".join(f"{key:<18} {value:.3f}" if isinstance(value, float) else f"{key:<18} {value}"
                        for key, value in found.items()))  # fmt: skip


def _fail(message: str, code: int) -> NoReturn:
    print(f"lab: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)

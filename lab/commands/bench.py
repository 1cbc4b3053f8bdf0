"""`lab bench` and what is below it."""

import os
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from lab.commands.common import USUAL, Flag, Names, Setup, add_plugins, command, print_json
from lab.errors import within
from lab.run import check_writable

bench = App(name="bench", help="Measure speed: of architectures, and of the lab itself.", help_format="plaintext")


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
    device: str = "cpu",
    checkpoint_activations: Flag = False,
    rounds: int = 5,
    longest_step: float = 300,
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
    device
        Where to compute: cpu, or cuda, or one of several as cuda:1.
    checkpoint_activations
        Compute most activations of an architecture again in the backward pass, as lab run does with this flag.
    rounds
        Measured steps of each; the median is shown.
    longest_step
        Seconds that a training step, or reading the context of a decoded position, may take: longer lengths are left out and
        marked, as are those that need more memory than is free. Both are foretold from shorter lengths.
    against
        Stacks from outside as FILE.py:CALLABLE, called with dim and depth, that take turns with each architecture: once in a
        process as torch comes, once with the lab's process settings. Their code is run.
    decode
        Positions before the one that is timed, streamed 4,096 at once; the peak of memory meanwhile is told.
    tuned
        Use the lab's process settings (memory that is kept and joined, exact fast products, threads that wait
        briefly); --untuned leaves the process as it comes.
    plugin
        Python files with an architecture of your own. Their code is run.
    out
        Folder for speed.csv, speed.txt, machine.json and the figure.
    json
        Print JSON.
    """
    from lab import analysis, machine
    from lab import speed as measure

    for flag, value, most in (
        *(("--lengths", length, 1 << 24) for length in lengths), *(("--decode", length, 1 << 24) for length in decode),
        ("--tokens", tokens, 1 << 24), ("--dim", dim, 1 << 14), ("--depth", depth, 1024), ("--rounds", rounds, 10_000),
        ("--threads", threads, 1024),
    ):  # fmt: skip
        within(flag, value, 1, most)
    if out:
        check_writable(out, "--out")
    stand = measure.Stand(
        "", dim, depth, threads or os.cpu_count() or 1, precision, tuned, tuple(plugin or []), checkpoint_activations,
        device=str(machine.device(device)),
    )  # fmt: skip
    frame, about = measure.measure(stand, architectures, lengths, tokens, rounds, against or [], decode, longest_step)
    table = f"{measure.told(about)}\n\n{analysis.benchmark_table(frame)}"
    if out:
        chart = analysis.benchmark_chart(frame, measure.told(about))
        analysis.write(chart, frame, out, "speed", chart.caption)
        Path(out, "speed.txt").write_text(f"{command()}\n\n{table}\n", "utf-8")
        Path(out, "machine.json").write_text(dumps(about, indent=1) + "\n", "utf-8")
    if json:
        print_json({"machine": about, "rows": frame.astype(object).where(frame.notna(), None).to_dict("records")})
    else:
        print(table)


@bench.command
def loop(
    *, architecture: str | None = None, task: str | None = None, steps: int = 200, setup: Setup = USUAL, json: Flag = False
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
    within("--steps", steps, 1, 1 << 20)
    from lab import overhead

    _print_values(overhead.loop(setup.planner(), *_first_of_default(architecture, task), steps), json)


@bench.command
def workers(
    *,
    architecture: str | None = None,
    task: str | None = None,
    steps: int = 200,
    workers: int = 2,
    setup: Setup = USUAL,
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
    within("--steps", steps, 1, 1 << 20)
    within("--workers", workers, 1, 1024)
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

    add_plugins(plugin)
    rows = overhead.tasks(tasks or plugins.names("tasks"))
    if json:
        print_json(rows)
    else:
        print(overhead.told(rows))


@bench.command
def scans(
    *,
    lengths: Annotated[list[int], Parameter(consume_multiple=True, negative="")] = [256, 1024, 4096, 16384],  # noqa: B006
    tokens: int = 16384,
    states: int = 128,
    threads: int | None = None,
    rounds: int = 9,
    out: str | None = None,
    json: Flag = False,
) -> None:
    """Time the scan that recurrences share against a copy of memory, on the processor.

    Parameters
    ----------
    lengths
        Positions of a sequence.
    tokens
        Positions of a batch; a longer sequence is a batch of its own.
    states
        States of a position, each a real or a complex number.
    threads
        As many as there are cores where none is given.
    rounds
        Times that copy and scan take turns; medians are shown.
    out
        Folder for scans.txt.
    json
        Print JSON.
    """
    from lab import machine, primitives

    for flag, value, most in (
        *(("--lengths", length, 1 << 24) for length in lengths), ("--tokens", tokens, 1 << 24), ("--states", states, 1 << 14),
        ("--rounds", rounds, 10_000), ("--threads", threads, 1024),
    ):  # fmt: skip
        within(flag, value, 1, most)
    if out:
        check_writable(out, "--out")
    rows = primitives.scans(lengths, tokens, states, threads or os.cpu_count() or 1, rounds)
    if json:
        return print_json(rows)
    about = machine.environment()
    table = f"{about['threads']} threads of {about['processor']}, torch {about['torch']}, float32\n\n{primitives.told(rows)}"
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        Path(out, "scans.txt").write_text(f"{command()}\n\n{table}\n", "utf-8")
    print(table)


def _first_of_default(architecture: str | None, task: str | None) -> tuple[str, str]:
    """What is named, or else the first of the default comparison."""
    from lab.study import comparison

    default = comparison("default")
    return architecture or default.architectures[0], task or default.tasks[0]


def _print_values(found: dict[str, Any], json: bool) -> None:
    if json:
        print_json(found)
    else:
        print("\n".join(f"{key:<18} {value:.3f}" if isinstance(value, float) else f"{key:<18} {value}"
                        for key, value in found.items()))  # fmt: skip

"""What there is: `lab list`, `lab show`, `lab prepare`, `lab new-architecture`."""

from pathlib import Path

from lab.commands.common import Flag, Names, add_plugins, print_json
from lab.errors import UsageError, within


def list_(*, plugin: Names | None = None, json: Flag = False) -> None:
    """List architectures, tasks and training recipes.

    Parameters
    ----------
    plugin
        Python files with an architecture or a task of your own.
    json
        Print JSON.
    """
    from lab import plugins, presets

    add_plugins(plugin)
    found = {
        kind: [{"name": name, "summary": plugins.summary(kind, name)} for name in plugins.names(kind)]
        for kind in ("architectures", "tasks")
    }
    found["recipes"] = [{"name": name, "summary": presets.preset(name).title} for name in presets.names()]
    if json:
        print_json(found)
        return
    for kind, entries in found.items():
        print(kind)
        for entry in entries:
            print(f"  {entry['name']:<14} {entry['summary']}")
    print("lab show NAME has settings, sizes and sources.")


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
    """Show an architecture or a task: settings with types, defaults and meaning, its cost, its source; or a training recipe.

    Parameters
    ----------
    name
        Name of an architecture or a task, with settings if wanted, or of a training recipe.
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
    for flag, value, least, most in (
        ("--dim", dim, 1, 1 << 14), ("--depth", depth, 1, 1024), ("--length", length, 1, 1 << 24),
        ("--number", number, 0, 1 << 31),
    ):  # fmt: skip
        within(flag, value, least, most)
    from lab import description, presets

    add_plugins(plugin)
    if name in presets.names():
        recipe = presets.described(name)
        print_json(recipe) if json else print(presets.render(recipe))
        return
    if example:
        print(description.example(name, number, out or f"{name.partition(':')[0]}.png"))
        return
    found = description.describe(name, dim, depth, length)
    if json:
        print_json(found)
    else:
        print(description.render(found))


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

    within("--workers", workers, 1, 1024)
    for task in tasks:
        name, given = plugins.parse("tasks", task)
        build_task(name, given).prepare(workers)
        print(f"{task}: all data are there")


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
    template = Template((Path(__file__).parents[1] / "templates" / "architecture.py.txt").read_text("utf-8"))
    path.write_text(template.substitute(class_name=name.title().replace("_", "")), "utf-8")
    print(f"{path} is written; next: lab check {name} --plugin {path}")

"""All tasks on one page: what each asks, an example, what answers that need no model score, what others published.

python -m lab.task_overview docs            writes docs/tasks.md and the pictures in docs/examples
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import description, plugins

LONGEST = 600
"""Characters of an example that are shown."""


def laptop(name: str) -> str:
    """The task in its small preset, if it has one: its examples can be read."""
    presets = [setting for setting in plugins.settings("tasks", name) if setting.name == "preset"]
    return f"{name}:preset=laptop" if any("laptop" in setting.type for setting in presets) else name


def section(name: str, folder: Path) -> str:
    """Markdown of one task; its picture, if it is one, goes to `folder`/examples."""
    found = description.describe(name, 0, 0, 0)
    form = laptop(name)
    picture = f"examples/{name}.png"
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    text = description.example(form, 0, str(folder / picture))
    if (folder / picture).exists():
        shown = f"![One example]({picture}) answer: {text.rpartition(': ')[2]}"
    else:
        half = LONGEST // 2
        shown = f"```\n{text if len(text) <= LONGEST else text[:half] + ' ... ' + text[-half:]}\n```"
    facts = [line.strip() for line in description.told(found)]
    lines = [f"## {name}", "", found["summary"].splitlines()[0], "", f"`lab show {form} --example`", "", shown, ""]
    lines += [f"- {line}" for line in facts[: facts.index("")] if line] if "" in facts else [f"- {line}" for line in facts]
    if found["references"]:
        lines += ["", "| published | score | on | source |", "| --- | ---: | --- | --- |"]
        lines += [
            f"| {each['name']} | {each['score']:.4g} | `{':'.join(filter(None, (name, each['form'])))}` | {each['source']} |"
            for each in found["references"]
        ]
    return "\n".join(lines)


def page(names: Sequence[str], folder: Path) -> str:
    """Markdown of all."""
    head = [
        "# Tasks",
        "",
        "`make docs` writes this page; `lab show TASK` has settings and sources. In the examples each answer stands in brackets",
        "after the symbol at which it is asked for. Baselines are scores of answers that need no model.",
        "[pathfinder.md](pathfinder.md) says how Pathfinder's images are drawn and what learns it; so learn five models ListOps",
        "(`preset=laptop`):",
        "",
        "![Loss on ListOps](../results/published/listops/figures/quality_against_flops.png)",
        "",
    ]
    return "\n".join([*head, *(section(name, folder) + "\n" for name in names)])


def main(argv: Sequence[str]) -> None:
    """Write the page whole or not at all."""
    folder = Path(argv[0])
    text = page(argv[1:] or plugins.names("tasks"), folder)
    part = folder / "tasks.md.part"
    part.write_text(text, "utf-8")
    os.replace(part, folder / "tasks.md")


if __name__ == "__main__":
    main(sys.argv[1:])

"""All architectures in one table: the laws they keep, their numerical errors, what they cost.

python -m lab.overview docs/architectures.md              writes the page; minutes
python -m lab.overview PAGE.md lstm rwkv:version=4        only these
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import torch

from architectures.stack import Mixer
from lab import description, numerics, plugins
from lab.conformance import Report, check
from lab.laws import LAWS
from lab.laws.subject import UNTRIED, WHOLE

LENGTHS = tuple(length for length in numerics.LENGTHS if length <= 4096)
SIZE = {"dim": 64, "depth": 2, "length": 256}


def forms(name: str) -> list[str]:
    """An architecture, and it with each other choice of a setting that is one of several: preset, version, gate, kernel.

    The channel mixer is left out, as every architecture has the same; so is what follows from another setting unless it is given,
    and what needs another setting to be given.
    """
    cls = plugins.load("architectures", name)
    defaults = {setting.name: setting.default for setting in plugins.settings("architectures", name)}
    found = [name]
    for key, hint in get_type_hints(cls.__init__).items():
        if hint == Mixer or get_origin(hint) is not Literal or defaults.get(key) is None:
            continue
        for choice in get_args(hint):
            if choice != defaults[key] and _builds(cls, key, choice):
                found.append(f"{name}:{key}={choice}")
    return found


def _builds(cls: type, key: str, choice: object) -> bool:
    for causal in (True, False):
        with torch.device("meta"), suppress(ValueError):
            cls(SIZE["dim"], SIZE["depth"], causal=causal, **{key: choice})
            return True
    return False


def summary(reports: Sequence[Report]) -> str:
    """For a terminal: a row an architecture, a column a law, then the largest float32 and bfloat16 errors."""
    width = max(len(report.name) for report in reports)
    header = " ".join(f"{title:>10}" for _, title, _ in LAWS)
    rows = [f"{'':<{width}} {header} {'float32':>10} {'bfloat16':>10}"]
    for report in reports:
        cells = " ".join(f"{cell:>10}" for cell in (*_marks(report), *_errors(report)))
        rows.append(f"{report.name:<{width}} {cells}")
    rows.append(
        f"Errors: the largest at {LENGTHS[-1]:,} positions, or at the most that are read, relative to the largest output."
    )
    return "\n".join(rows)


def _marks(report: Report) -> list[str]:
    kept = {result.law: result.status == "passed" for result in report.results if result.title != "construction"}
    kept |= {result.law: None for result in report.results if result.message.startswith((WHOLE, UNTRIED))}
    return [{True: "✓", False: "✗", None: "-"}[kept.get(law)] for law, _, _ in LAWS]


def _errors(report: Report) -> tuple[str, str]:
    read = [at for at in report.errors if at.float32 is not None and at.length <= LENGTHS[-1]]
    return (f"{read[-1].float32:.0e}", f"{read[-1].bfloat16:.0e}") if read else ("-", "-")


def page(chosen: Sequence[str]) -> str:
    """Markdown; checks each."""
    size = "dim={dim}, depth={depth}, length={length}".format(**SIZE)
    head = ["as typed", "parameters", "FLOPs a token", "state", *(title for _, title, _ in LAWS), "float32", "bfloat16"]
    lines = [
        "# Architectures",
        "",
        "`make docs` writes this page. Parameters, forward FLOPs a token (contraction and mixing; one sequence) and state are",
        f"those at {size}. A law is kept (✓), broken (✗) or without an object (-), as streaming",
        "where there is no causal form, which reads in both directions with twice the parameters; what each says is in",
        "[lab/laws](../lab/laws).",
        f"Errors are the largest at {LENGTHS[-1]:,} positions, or at the most below that it reads, relative to the largest",
        "output: float32 against float64, bfloat16 autocast against float32, at dim=16, depth=2, as initialised.",
        "`lab check NAME --verbose` has them by length.",
        "",
        _row(head),
        _row(["---"] + ["---:"] * 3 + [":---:"] * len(LAWS) + ["---:"] * 2),
    ]
    for text in chosen:
        report = check(text, lengths=LENGTHS)
        print(report, file=sys.stderr, flush=True)
        found = description.describe(text, **SIZE)
        flops = found["flops_per_token"]["contraction"] + found["flops_per_token"]["mixing"]
        cost = [f"{found['parameters']:,}", f"{flops:,.0f}", "-" if found["state_size"] is None else f"{found['state_size']:,}"]
        lines.append(_row([f"`{text}`", *cost, *_marks(report), *_errors(report)]))
    names = dict.fromkeys(text.partition(":")[0] for text in chosen)
    lines += ["", "| | what it is, and where from |", "| --- | --- |"]
    lines += [_row([f"`{name}`", plugins.summary("architectures", name)]) for name in names]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str]) -> None:
    """Write the page whole or not at all."""
    out, *chosen = argv
    text = page(chosen or [form for name in plugins.names("architectures") for form in forms(name)])
    part = Path(f"{out}.part")
    part.write_text(text, "utf-8")
    os.replace(part, out)


if __name__ == "__main__":
    main(sys.argv[1:])

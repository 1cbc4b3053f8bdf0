"""How far the recurrent form and lower precision carry an untrained backbone from the exact parallel form, by length."""

from dataclasses import asdict

import pandas as pd

from lab import plugins
from lab.evidence import Evidence, Site
from lab.laws.subject import SEED, Subject
from lab.numerics import errors
from lab.study import Precision


def gather(part: Precision, site: Site) -> Evidence:
    """Rows, by architecture, length and seed: float32, streaming, bfloat16: largest errors, relative to the largest output, as of
    `lab check --verbose`; refused: why there is none.
    """
    from lab.analysis.figures.errors import errors_chart

    for file in site.plugin_files:
        plugins.add_file(file)
    rows = []
    for text in part.architectures:
        name, given = plugins.parse("architectures", text)
        subject = Subject(text, plugins.load("architectures", name), part.dim, part.depth, given, True)
        for seed in range(part.seeds):
            rows += [
                {"architecture": plugins.canonical("architectures", name, given), "seed": seed, **asdict(found)}
                for found in errors(subject, part.lengths, SEED + seed)
            ]
    table = pd.DataFrame(rows).astype({"streaming": float, "float32": float, "bfloat16": float})
    return Evidence(table, charts=[errors_chart(table)])


def plan(part: Precision, site: Site) -> str:
    return f"{len(part.architectures) * part.seeds} backbones at lengths up to {max(part.lengths):,}, some seconds each"

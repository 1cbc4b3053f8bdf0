"""Speed of training steps and of decoding by length, several times over, each time in processes of their own."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false

import pandas as pd

from lab import plugins
from lab.evidence import Evidence, Site
from lab.speed import Stand, measure, told
from lab.study import Speed


def gather(part: Speed, site: Site) -> Evidence:
    """Rows, by architecture, length and seed (of repeated measurements): tokens_per_second, peak_mb, decode_ms, relative."""
    from lab.analysis import benchmark_chart

    stand = Stand("", part.dim, part.depth, part.threads, part.precision, plugin_files=tuple(site.plugin_files), form=part.form)
    names = [plugins.recorded("architectures", text) for text in part.architectures]
    found = [measure(stand, names, part.lengths, part.tokens, part.rounds, [], part.decode) for _ in range(part.seeds)]
    rows = pd.concat([frame.assign(seed=seed) for seed, (frame, _) in enumerate(found)], ignore_index=True)
    numbers = rows.groupby(["stack", "settings", "length"], sort=False).median(numeric_only=True).reset_index()
    said = told(found[0][1])
    chart = benchmark_chart(numbers, said)
    chart.name = "speed"
    return Evidence(rows.rename(columns={"stack": "architecture"}), charts=[chart], said=said)


def plan(part: Speed, site: Site) -> str:
    cells = len(part.architectures) * len({*part.lengths, *part.decode}) * part.seeds
    return f"{cells} measurements of {part.rounds} rounds, some seconds each"

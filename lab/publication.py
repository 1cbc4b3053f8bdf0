"""A study as it is published: a page that the data wrote, figures, tables; and the index of all studies."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lab import machine, plugins
from lab.analysis import canvas, deciding, labels
from lab.analysis.canvas import Chart
from lab.analysis.figures import Material, charts
from lab.analysis.figures.clauses import clauses_chart
from lab.analysis.figures.probes import probe_charts
from lab.analysis.report import write_report
from lab.analysis.statistics import half_width
from lab.evidence import Evidence
from lab.run import plain
from lab.study import Published, Rule, Study, names, read

PUBLISHED = Path("results", "published")


def publish(
    name: str, study: Study, evidence: Mapping[str, Evidence], curves: pd.DataFrame, folder: Path, command: str
) -> dict[str, str]:
    """Write README.md, study.json, evidence.csv, the figures and, where there are runs, report.html; question, verdict, sentence.

    Raises:
        UsageError: a rule asks for what was not measured.
    """
    rows = pd.concat([each.rows for each in evidence.values()], ignore_index=True).copy()  # in one piece
    clauses = deciding.decide([_canonical(rule) for rule in study.rules], rows)
    table = deciding.table(clauses)
    found = {
        "question": study.question,
        "verdict": deciding.verdict(clauses) if clauses else "",
        "sentence": deciding.sentence(clauses, rows) if clauses else "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    runs = _together(evidence)
    verdict = [clauses_chart(table, f"Measured {deciding.scope(rows)}.")] if clauses else []
    scores = charts(Material(runs, curves), "quality-by-task") if len(runs) else []  # which the report writes
    drawn = [chart for each in evidence.values() for chart in each.charts] + _probed(evidence, runs)
    for chart in verdict + drawn:
        canvas.write(chart, chart.data, folder / "figures", chart.name, chart.caption)
    _flat(rows).to_csv(folder / "evidence.csv", index=False)
    table.to_csv(folder / "clauses.csv", index=False)
    if len(runs):
        reference = next((each.reference for each in evidence.values() if each.reference), None)
        write_report(Material(runs, curves[curves["id"].isin(runs["id"])], reference), folder, command)
    about = machine.environment()
    (folder / "study.json").write_text(json.dumps(plain(found | {"study": name, "commit": about["commit"]}), indent=1) + "\n")
    page = _page(study, found, table, evidence, runs, scores + drawn, command, about)
    (folder / "README.md").write_text(page, "utf-8")
    return found


def _canonical(rule: Rule) -> Rule:
    """With architectures and tasks as results call them."""

    def called(key: str, value: Any) -> Any:
        kind = f"{key}s"
        if kind not in ("architectures", "tasks"):
            return value
        if isinstance(value, list):
            return [plugins.recorded(kind, each) for each in value]
        return plugins.recorded(kind, value)

    chosen = ({key: called(key, value) for key, value in each.items()} for each in (rule.of, rule.against))
    return replace(rule, **dict(zip(("of", "against"), chosen, strict=True)))


def _together(evidence: Mapping[str, Evidence]) -> pd.DataFrame:
    """The runs of all parts, each once."""
    parts = [each.runs for each in evidence.values() if len(each.runs)]
    return pd.concat(parts, ignore_index=True).drop_duplicates("id", ignore_index=True).copy() if parts else pd.DataFrame()


def _probed(evidence: Mapping[str, Evidence], runs: pd.DataFrame) -> list[Chart]:
    """What probes found in those of the runs that have the first seed."""
    found = [finding for each in evidence.values() for finding in each.findings]
    if not found:
        return []
    named = labels.labelled(runs)
    first = named[named["seed"] == named["seed"].min()]
    calls = {run: (row, column) for run, row, column in zip(first["id"], first["row"], first["column"], strict=True)}
    made = list(probe_charts([each for each in found if each.run in calls], calls).values())
    for chart in made:
        chart.caption += " Runs of the first seed."
    return made


def _flat(rows: pd.DataFrame) -> pd.DataFrame:
    """Without columns that hold tables of their own, and those that say nothing."""
    nested = [name for name in rows if any(isinstance(value, dict | list) for value in rows[name])]
    said = [name for name in ("settings", "code", "started") if name in rows]
    return rows.drop(columns=list({*nested, *said})).dropna(axis=1, how="all")


def _page(
    study: Study, found: Mapping[str, str], table: pd.DataFrame, evidence: Mapping[str, Evidence], runs: pd.DataFrame,
    drawn: Sequence[Chart], command: str, about: Mapping[str, str],
) -> str:  # fmt: skip
    lines = [f"# {study.question}", ""]
    if study.rules:
        lines += [f"The claim: {study.claim} ({study.source})" if study.source else f"The claim: {study.claim}", ""]
        lines += [f"> {found['sentence']}", "", "![what the rules ask and what was measured](figures/verdict.png)", ""]
        lines += [
            "| what must hold | number | measured, with its 95 % interval | asked | verdict |",
            "| --- | --- | --- | --- | --- |",
        ]
        for row in table.itertuples():
            told = row.reason if pd.isna(row.low) else f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}]"
            lost = f"; {row.lost} runs lost" if row.lost else ""
            lines.append(f"| {_cell(row.said)} | {_cell(row.quantity)} | {_cell(told + lost)} | {row.asked} | {row.verdict} |")
        lines.append("")
    if study.published:
        lines += ["## Beside published scores", "", *_beside(study.published, runs), ""]
    if study.objections:
        lines += ["## What a referee would object", "", *(f"- {each}" for each in study.objections), ""]
    lines += ["## How it was measured", "", f"    {command}", ""]
    facts = [f"commit {about['commit']}"]
    if len(runs):
        facts += [labels.outcome(runs), f"{labels.quantity(runs['flops'].sum())} training FLOPs",
                  f"{runs['seconds'].sum() / 3600:.2f} hours of training, one thread each",
                  f"commits of the runs: {', '.join(sorted({str(each)[:7] for each in runs['commit'].dropna()}))}"]  # fmt: skip
    facts.append(f"processor {about['processor']}, torch {about.get('torch', '')}")
    lines += ["; ".join(facts) + ".", ""]
    for name, each in evidence.items():
        if each.said:
            lines += [f"Part {name}:", "", *(f"    {line}".rstrip() for line in each.said.splitlines()), ""]
    if drawn:
        lines += ["## Figures", ""]
        for chart in drawn:
            lines += [f"![{_cell(chart.alt or chart.title)}](figures/{chart.name}.png)", ""]
    all_runs = "[report.html](report.html) has all runs and figures, " if len(runs) else ""
    return "\n".join([*lines, f"{all_runs}[evidence.csv](evidence.csv) the numbers that the rules read."]) + "\n"


def _beside(published: Published, runs: pd.DataFrame) -> list[str]:
    """A table of what was measured at the greatest budget, and in brackets what others published."""
    tasks = [plugins.recorded("tasks", each) for each in published.tasks]
    done = runs[(runs["status"] == "done") & (runs["budget"] == runs["budget"].max())]
    here = done.groupby(["architecture", "task"])["score"].agg(["mean", "std", "count"])
    here["half"] = half_width(here["std"].to_numpy(), here["count"].to_numpy())
    said = "Measured, with its 95 % interval over the seeds, and in brackets as published."
    lines = [f"{said} {published.differs} ({published.source})", ""]
    lines += [f"| | {' | '.join(published.tasks)} |", f"| --- |{' ---: |' * len(tasks)}"]
    for architecture, scores in published.scores.items():
        name = plugins.recorded("architectures", architecture)
        cells = []
        for task, score in zip(tasks, scores, strict=True):
            known = here.loc[(name, task)] if (name, task) in here.index else None
            told = "-" if known is None else f"{known['mean']:.3f}"
            told += "" if known is None or np.isnan(known["half"]) else f" ± {known['half']:.3f}"
            cells.append(told if np.isnan(score) else f"{told} ({score:g})")
        lines.append(f"| {architecture} | {' | '.join(cells)} |")
    return lines


def _in_lines(sentence: str) -> list[str]:
    """As `deciding.sentence` writes it: the verdict and its range, then a point for each clause."""
    head, _, clauses = _cell(sentence).rstrip(".").partition(": ")
    return [f"> **{head}**", *(f"> - {clause}" for clause in clauses.split("; ") if clause)]


def _cell(text: str) -> str:
    """As a cell of a table takes it."""
    return " ".join(str(text).split()).replace("|", "\\|")


ABOUT = """
## A study of your own

A TOML file, read and never executed: `lab study mine.toml`.

```toml
question = "Does my recurrence recall better than the LRU?"
claim = "It does, at equal compute and size."
source = "the note that says so"
objections = ["One rate for both."]

[parts.recall]                  # kinds: runs, frontier, speed, precision; their settings are the classes of lab/study.py
kind = "runs"
architectures = ["my_arch", "linear_rnn"]
tasks = ["recall"]
budgets = ["6e11"]
probes = ["recall-map"]         # carried out on every run; their numbers are columns, as recall_map.farthest

[[rules]]                       # the claim is supported where all rules are
said = "it answers a tenth more"
of = { architecture = "my_arch" }
against = { architecture = "linear_rnn" }
quantity = "score"              # any column of `lab.results`
above = 0.1                     # or below; by = "ratio"; take = "greatest" or "least" of the rows of a seed
```

A rule compares rows that agree in everything that neither `of` nor `against` names, seed by seed. It is supported where the
whole 95 % interval lies beyond the bound, not supported where it lies on the other side, else undecided; the claim is supported
where all rules are, not supported where one is not, else undecided.
"""


def index(published: Path, link: str) -> str:
    """All studies of the lab: question, what came out, and where. link: where the published ones are, from the project's root."""
    lines = [
        "# Studies", "",
        "A study puts a claim to the test: `lab study NAME` measures what its file asks for (lab/studies), and decides by the "
        "rules in it. `--plan` says what it takes, `--scale N` raises every budget for a larger machine.", "",
    ]  # fmt: skip
    done, open_ = [], []
    for name in names():
        study, file = read(name), published / name / "study.json"
        if file.parent.is_dir():
            found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
            told = _in_lines(found.get("sentence") or "It has no claim: the tables and figures speak.")
            done += [f"### {_cell(study.question)}", "", f"[{name}](../{link}/{name}). {study.claim}", "", *told, ""]
        else:
            open_.append(f"| `{name}` | {_cell(study.question)} |")
    rest = ["## Not published", "", "| study | question |", "| --- | --- |", *open_] if open_ else []
    return "\n".join([*lines, *done, *rest]).rstrip() + "\n" + ABOUT


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(index(PUBLISHED, PUBLISHED.as_posix()), "utf-8")

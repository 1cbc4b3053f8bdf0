"""Study files are read, never executed, and refused in one line; those of the lab ask for what they measure."""

import pytest

from lab import plugins, study
from lab.budget import parse_amount, parse_budgets
from lab.cli import main
from lab.errors import UsageError
from lab.study import Frontier, Runs, Speed

PART = '[parts.a]\nkind = "runs"\narchitectures = ["lstm"]\ntasks = ["text"]\nbudgets = ["1e9"]\n'
LADDER = '[parts.a]\nkind = "frontier"\ntask = "text"\nbudgets = ["1e9"]\n'
STEP = "{name = 'a', architecture = 'lstm'}"
RULE = "[[rules]]\nsaid = 's'\nof = {architecture = 'lstm'}\n"

OTHERS = "[published]\nsource = 's'\ntasks = ['text', 'recall']\n"


@pytest.mark.parametrize("name", study.names())
def test_studies_of_the_lab_name_what_there_is_and_ask_for_what_they_measure(name):
    declared = study.read(name)
    assert declared.question.endswith("?")
    assert not declared.rules or declared.source
    values = {"part": set(declared.parts)}
    for part in declared.parts.values():
        if isinstance(part, Frontier):
            parse_budgets(part.budgets)
            tasks, architectures = [part.task], [step.architecture for step in part.steps]
            values.setdefault("step", set()).update(step.name for step in part.steps)
            values.setdefault("against", set()).update(step.name for step in part.steps)
        else:
            tasks, architectures = part.tasks if isinstance(part, Runs) else [], part.architectures
            values.setdefault("architecture", set()).update(architectures)
        if isinstance(part, Runs):
            assert all(parse_amount(budget, "budgets") for budget in part.budgets)
            values.setdefault("task", set()).update(tasks)
        if isinstance(part, Speed):
            values.setdefault("length", set()).update(part.lengths, part.decode)
        for text in architectures:
            plugins.parse("architectures", text)
        for text in tasks:
            plugins.parse("tasks", text)
    if declared.published:
        assert all(plugins.parse("architectures", text) for text in declared.published.scores)
        assert all(plugins.parse("tasks", text) for text in declared.published.tasks)
    for rule in declared.rules:
        for chosen in (rule.of, rule.against):
            for key, value in chosen.items():
                assert set(value if isinstance(value, list) else [value]) <= values[key], rule.said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such study or file"),
        ("question = ", "not a TOML file"),
        (b"\xff\xfe", "not a TOML file"),
        (PART, "question must be a text"),
        ('question = "q?"', "parts must be a table"),
        ('question = "q?"\nparts = {}', "parts must name one at least"),
        ('question = "q?"\n[parts.a]\nkind = "poem"', "kind must be one of runs, frontier, speed, precision"),
        ('question = "q?"\nparts = {a = 3}', "kind must be one of"),
        ('question = "q?"\n' + PART.replace('architectures = ["lstm"]\n', ""), "architectures must be a list"),
        ('question = "q?"\n' + PART.replace('"1e9"', "1e9"), "budgets must be a list"),
        ('question = "q?"\n' + PART + "seed = 3", "no key 'seed'"),
        ('question = "q?"\n' + PART + "seeds = 3.5", "seeds must be a whole number"),
        ('question = "q?"\n' + PART + "carry_state = 1", "carry_state must be true or false"),
        ('question = "q?"\n' + PART + 'precision = "float8"', "precision must be one of float32, bfloat16"),
        (f'question = "q?"\n{LADDER}steps = [1]', "steps must be a list of tables"),
        (f'question = "q?"\n{LADDER}steps = [{STEP}]', "two or more"),
        (f'question = "q?"\n{LADDER}steps = [{STEP}, {STEP}]', "a name of its own"),
        (f'question = "q?"\n{LADDER}steps = [{{architecture = "lstm"}}, {STEP}]', "a step: name must be a text"),
        (f'question = "q?"\n{LADDER}sizes = 5.5\nsteps = [{STEP}]', "sizes must be a whole number"),
        (f'question = "q?"\n{PART}\n{RULE}above = 1', "a claim needs rules, and rules a claim"),
        (f'question = "q?"\nclaim = "c"\n{PART}', "a claim needs rules, and rules a claim"),
        (f'question = "q?"\nclaim = "c"\n{PART}\n{RULE}', "rule 1: needs above or below, and not both"),
        (f'question = "q?"\nclaim = "c"\n{PART}\n{RULE}above = 1\nbelow = 2', "needs above or below, and not both"),
        (f'question = "q?"\nclaim = "c"\n{PART}\n{RULE}above = "1"', "above must be a number"),
        (f'question = "q?"\n{PART}\n{OTHERS}', "differs must be a text"),
        (f'question = "q?"\n{PART}\n{OTHERS}differs = "d"\nscores = {{lstm = [0.5]}}', "as many numbers for each architecture"),
        (f'question = "q?"\n{PART}\n{OTHERS}differs = "d"\nscores = {{lstm = 0.5}}', "as many numbers for each architecture"),
        (f'question = "q?"\n{LADDER}steps = [{STEP}, {{name = "b", architecture = "gru"}}]', "more than one comparison"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path, content, message, capsys):
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        study.comparison(str(file))
    with pytest.raises(SystemExit) as end:
        main(["compare", "--study", str(file), "--results", str(tmp_path / "results")])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_studies_are_listed(capsys):
    with pytest.raises(SystemExit) as end:
        main(["study"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in study.names())

"""Study files are read, never executed, and refused in one line."""

import pytest

from lab import plugins, study
from lab.budget import parse_budgets
from lab.cli import main
from lab.errors import UsageError

STEP = "{name = 'a', architecture = 'lstm'}"
LADDER = 'question = "q?"\ntask = "text"\nbudgets = ["1e9"]\n'


@pytest.mark.parametrize("name", sorted(file.stem for file in study.FOLDER.glob("*.toml")))
def test_studies_of_the_lab_name_what_there_is(name):
    declared = study.read_any(name)
    assert declared.question.endswith("?")
    if isinstance(declared, study.Ladder):
        parse_budgets(declared.budgets)
        plugins.parse("tasks", declared.task)
        for step in declared.steps:
            plugins.parse("architectures", step.architecture)
        return
    for architecture in declared.architectures:
        plugins.parse("architectures", architecture)
    for task in declared.tasks:
        plugins.parse("tasks", task)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such study or file"),
        ("question = ", "not a TOML file"),
        (b"\xff\xfe", "not a TOML file"),
        ('question = "q?"\ntasks = ["text"]\nbudgets = ["1e9"]', "architectures must be a list"),
        ('question = "q?"\narchitectures = ["lstm"]\ntasks = ["text"]\nbudgets = [1e9]', "budgets must be a list"),
        ('question = "q?"\narchitectures = ["lstm"]\ntasks = ["text"]\nbudgets = ["1e9"]\nseed = 3', "no key 'seed'"),
        (f"{LADDER}steps = [1]", "steps must be a list of tables"),
        (f"{LADDER}steps = [{{name = 'a', architecture = 'lstm'}}]", "two or more"),
        (f"{LADDER}steps = [{STEP}, {STEP}]", "a name of its own"),
        (f"{LADDER}steps = [{{architecture = 'lstm'}}, {STEP}]", "a step: name must be a text"),
        (f"{LADDER}sizes = 5.5\nsteps = [{STEP}]", "sizes must be a whole number"),
        (f"{LADDER}steps = [{STEP}, {{name = 'b', architecture = 'gru'}}]", "it is a ladder"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path, content, message, capsys):
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        study.read(str(file))
    with pytest.raises(SystemExit) as end:
        main(["compare", "--study", str(file), "--results", str(tmp_path / "results")])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()

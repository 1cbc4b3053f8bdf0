"""Study files are read, never executed, and refused in one line."""

import pytest

from lab import plugins, study
from lab.cli import main
from lab.errors import UsageError


@pytest.mark.parametrize("name", sorted(file.stem for file in study.FOLDER.glob("*.toml")))
def test_studies_of_the_lab_name_what_there_is(name):
    declared = study.read(name)
    assert declared.question.endswith("?")
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

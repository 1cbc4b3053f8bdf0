"""A tiny study carried out for real: its page says what the data say, a second time does nothing new; the index is current."""

import json
from pathlib import Path

import pandas as pd
import pytest

from lab import publication, study
from lab.cli import main

ROOT = Path(__file__).parents[1]
TINY = """
question = "Does the LSTM recall better than the linear RNN?"
claim = "It does | here."
source = "nobody"
objections = ["It is small."]
[parts.small]
kind = "runs"
architectures = ["lstm", "linear_rnn"]
tasks = ["recall:pairs=2"]
budgets = ["1e9"]
size = "10k"
probes = ["influence"]
[published]
source = "another lab"
differs = "Longer."
tasks = ["recall:pairs=2", "recall"]
scores = {linear_rnn = [0.25, nan], transformer = [nan, 1.0]}
[[rules]]
said = "the LSTM recalls more"
of = {architecture = "lstm"}
against = {architecture = "linear_rnn"}
above = 0.5
[[rules]]
said = "all recall less than everything"
of = {part = "small"}
below = 1.5
"""


def carry_out(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["study", *map(str, arguments)])
    return end.value.code


def test_a_study_says_what_its_data_say(tmp_path, capsys):
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    command = [file, "--results", tmp_path / "results", "--workers", 1]
    assert carry_out(*command, "--plan") == 0
    assert "6 runs" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    assert carry_out(*command, "--scale", 0.5) == 0
    folder = tmp_path / "results" / "studies" / "tiny"
    found, rows = json.loads((folder / "study.json").read_text()), pd.read_csv(folder / "evidence.csv")
    clauses = pd.read_csv(folder / "clauses.csv")
    assert set(rows["budget"]) == {5e8}
    scores = rows.pivot_table(index="seed", columns="architecture", values="score")
    assert clauses["value"].iloc[0] == pytest.approx((scores["lstm"] - scores["linear_rnn"]).mean(), abs=1e-6)
    assert list(clauses["verdict"]) == ["not supported", "supported"]
    assert found["verdict"] == "not supported"
    page = (folder / "README.md").read_text()
    assert found["sentence"] in page
    assert found["sentence"] in capsys.readouterr().out
    assert "It is small." in page
    assert f"| linear_rnn | {scores['linear_rnn'].mean():.3f} ± " in page
    assert " (0.25) | - |" in page
    assert "| transformer | - | - (1) |" in page
    for line in page.splitlines():
        for name in line.split("](")[1:]:
            assert (folder / name.partition(")")[0]).is_file(), line
    runs = {file: file.stat().st_mtime_ns for file in (tmp_path / "results" / "runs").rglob("*") if file.is_file()}
    assert carry_out(*command, "--scale", 0.5, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sentence"] == found["sentence"]
    assert runs == {file: file.stat().st_mtime_ns for file in (tmp_path / "results" / "runs").rglob("*") if file.is_file()}


def test_an_impossible_scale_is_refused(tmp_path, capsys):
    assert carry_out("default", "--scale", "0", "--results", tmp_path / "r") == 2
    assert "--scale 0.0: must be above 0" in capsys.readouterr().err


def test_the_index_of_studies_is_current():
    assert (ROOT / "docs" / "studies.md").read_text() == publication.index(ROOT / "results" / "published", "results/published")


def test_what_is_published_is_what_its_clauses_say():
    for name in study.names():
        folder = ROOT / "results" / "published" / name
        if (folder / "study.json").is_file() and study.read(name).rules:
            found, clauses = json.loads((folder / "study.json").read_text()), pd.read_csv(folder / "clauses.csv")
            assert all(text in found["sentence"] for text in clauses["said"])
            verdicts = set(clauses["verdict"])
            worst = next(each for each in ("not supported", "undecided", "supported") if each in verdicts)
            assert found["verdict"] == worst
            assert found["sentence"] in (folder / "README.md").read_text()

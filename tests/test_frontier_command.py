"""lab frontier and --tune, done for real on models of a thousand parameters."""

import json

import pytest

from lab.cli import main

pytestmark = pytest.mark.timeout(900)
COMMAND = ["frontier", "--architectures", "lstm", "--budgets", "1e8", "2e8", "--sizes", "4", "--depth", "2", "--batch", "1",
           "--task", "selective_copying"]  # fmt: skip


def lab(capsys, *argv: str) -> tuple[str, str, int]:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    told = capsys.readouterr()
    return told.out, told.err, int(ended.value.code or 0)


@pytest.mark.slow
def test_a_frontier_is_found_once(tmp_path, capsys):
    store = ["--results", str(tmp_path)]
    _, err, code = lab(capsys, *COMMAND, *store, "--plan")
    assert code == 0
    assert "runs, " in err
    assert list(tmp_path.iterdir()) == []
    first, err, code = lab(capsys, *COMMAND, *store, "--json")
    assert code == 0, err
    runs = sorted((tmp_path / "runs").iterdir())
    assert 6 <= len(runs) <= 14
    before = {run.name: (run / "run.json").stat().st_mtime_ns for run in runs}
    out, err, code = lab(capsys, *COMMAND, *store, "--json")
    assert code == 0, err
    assert {run.name: (run / "run.json").stat().st_mtime_ns for run in sorted((tmp_path / "runs").iterdir())} == before
    assert out == first
    found = json.loads(out)
    assert [point["runs"] for point in found["frontiers"]["lstm"]] == [
        sum(json.loads((run / "run.json").read_text())["spec"]["budget"] == budget for run in runs) for budget in (1e8, 2e8)
    ]


@pytest.mark.slow
def test_a_rate_is_chosen_before_a_comparison(tmp_path, capsys):
    _, err, code = lab(
        capsys, "compare", "--architectures", "lstm", "--tasks", "selective_copying", "--budget", "3e7", "--dim", "8", "--depth",
        "1", "--batch", "1", "--seeds", "1", "--tune", "3", "--results", str(tmp_path), "--json",
    )  # fmt: skip
    assert code == 0, err
    trials = [json.loads(file.read_text()) for file in (tmp_path / "tuning" / "runs").glob("*/run.json")]
    assert len(trials) >= 3
    assert {trial["spec"]["budget"] for trial in trials} == {1e7}
    best = min(trials, key=lambda trial: trial["scores"]["validation"]["loss"])["spec"]["recipe"]["lr"]
    (run,) = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*/run.json")]
    assert run["spec"]["recipe"]["lr"] == best
    assert f"lr {best:.3g}" in err
    assert "tuning took" in err


@pytest.mark.slow
def test_a_frontier_is_told_and_drawn(tmp_path, capsys):
    out, err, code = lab(capsys, *COMMAND[:-2], "--results", str(tmp_path))
    assert code == 0, err
    assert "lstm: " in out
    assert "bits per byte" in out
    assert (tmp_path / "frontier" / "report.html").exists()

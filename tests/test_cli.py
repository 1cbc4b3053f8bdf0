"""The command line: quick help, one line for every mistake, the right exit code, nothing left behind."""

import json
import os
import subprocess
import sys

import pytest

from lab import plugins
from lab.cli import main


def lab(*argv, capsys=None):
    """Exit code, standard output and standard error of a command run in this process."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_help_imports_nothing_heavy():
    subprocess.run([sys.executable, "-m", "lab", "--help"], check=True, capture_output=True)
    code = """if True:
        import sys
        from lab.cli import main
        for argv in (["--help"], ["compare", "--help"], ["list"]):
            try:
                main(argv)
            except SystemExit as left:
                assert not left.code, left.code
        heavy = {"torch", "lightning", "pandas", "matplotlib", "numpy"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


RUN = ["run", "--architecture", "transformer", "--task", "recall", "--budget", "1e9"]
MISTAKES = [
    (["comapre"], 2, "compare"),
    (["compare", "--sedes", "3"], 2, "--seeds"),
    (["compare", "--architectures", "transfomer"], 2, "did you mean transformer"),
    (["compare", "--tasks", "recal"], 2, "did you mean recall"),
    (["compare", "--architectures", "transformer:haeds=3"], 2, "did you mean heads"),
    (["compare", "--tasks", "recall:pairs=x"], 2, "pairs=x is not int"),
    (["compare", "--tasks", "recall:pairs=40"], 2, "pairs=40"),
    (["compare", "--seeds", "0"], 2, "--seeds 0"),
    ([*RUN[:2], "s4:norm=instance", *RUN[3:]], 2, "causal tasks need norm=rms"),
    (["prepare", "pathfindr"], 2, "did you mean pathfinder"),
    (["prepare", "pathfinder:size=20"], 2, "size=20"),
    (["prepare", "pathfinder", "--workers", "0"], 2, "--workers 0"),
    (["compare", "--seeds", "x"], 2, "--seeds"),
    (["compare", "--workers", "0"], 2, "--workers 0"),
    (["compare", "--budget", "-1"], 2, "--budget -1"),
    (["compare", "--budget", "nan"], 2, "--budget nan"),
    (["compare", "--budget", "10"], 3, "smallest is"),
    (["compare", "--size", "-3"], 2, "--size -3"),
    (["compare", "--size", "7"], 2, "--size 7"),
    (["compare", "--plugin", "nowhere.py"], 2, "no such file"),
    ([*RUN, "--budget", "0"], 2, "--budget"),
    ([*RUN[:-1], "inf"], 2, "--budget inf"),
    ([*RUN[:-1], "1e400"], 2, "--budget 1e400"),
    ([*RUN[:-1], "1000"], 3, "smallest is"),
    ([*RUN, "--batch", "0"], 2, "--batch 0"),
    ([*RUN, "--batch", "99999999999"], 2, "--batch 99999999999"),
    ([*RUN, "--dim", "0"], 2, "--dim 0"),
    ([*RUN, "--dim", "30"], 2, "heads=4"),
    ([*RUN, "--depth", "-1"], 2, "--depth -1"),
    ([*RUN, "--lr", "7"], 2, "--lr 7"),
    ([*RUN, "--threads", "0"], 2, "--threads 0"),
    ([*RUN, "--precision", "float8"], 2, "--precision"),
    (["run", "--architecture", "lstm", "--task", "text:path=missing.txt", "--budget", "1e9"], 2, "no such file or folder"),
    (["run", "--architecture", "lstm", "--task", "text:path=empty.txt", "--budget", "1e9"], 2, "no text"),
    (["run", "--architecture", "lstm", "--task", "text:path=binary", "--budget", "1e9"], 2, "binary"),
    ([*RUN, "--results", "file/below"], 2, "--results file/below"),
    (["show", "transformr"], 2, "did you mean transformer"),
    (["show", "transformer", "--dim", "30"], 2, "heads=4"),
    (["check"], 2, "name an architecture"),
    (["check", "nothing_like_it"], 2, "unknown"),
    (["plot", "--results", "nowhere"], 2, "no runs there"),
    (["report", "--results", "nowhere"], 2, "no runs there"),
    (["run"], 2, "--architecture"),
    (["new-architecture", "../x"], 2, "lower-case"),
    (["new-architecture", "lstm"], 2, "already one"),
]


@pytest.mark.parametrize(("argv", "code", "message"), MISTAKES, ids=[" ".join(argv) for argv, *_ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, argv, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 9)
    before = sorted(os.listdir(tmp_path))
    found, out, err = lab(*argv, capsys=capsys)
    assert found == code, err
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("lab: ")
    assert out == ""
    assert sorted(os.listdir(tmp_path)) == before


def test_a_run_is_found_again_and_restarts_when_asked(tmp_path, capsys):
    argv = [*RUN, "--dim", "16", "--depth", "1", "--batch", "2", "--results", tmp_path]
    code, out, err = lab(*argv, capsys=capsys)
    assert code == 0
    assert "1 to do" in err
    record = next(tmp_path.glob("runs/*/run.json"))
    stamp = record.stat().st_mtime_ns
    code, again, err = lab(*argv, capsys=capsys)
    assert code == 0
    assert "finished before" in err
    assert again == out
    assert record.stat().st_mtime_ns == stamp
    code, anew, _ = lab(*argv, "--restart", capsys=capsys)
    assert code == 0
    assert record.stat().st_mtime_ns > stamp
    scores = [line for line in out.splitlines() if line.startswith(("validation", "test"))]
    assert scores == [line for line in anew.splitlines() if line.startswith(("validation", "test"))]
    code, out, _ = lab(*argv, "--json", capsys=capsys)
    assert json.loads(out)["status"] == "done"


def test_list_and_show(capsys):
    code, out, _ = lab("list", "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 0
    assert {"transformer", "linear_rnn", "lstm"} <= {entry["name"] for entry in found["architectures"]}
    assert {"recall", "selective_copying", "text", "digits"} <= {entry["name"] for entry in found["tasks"]}
    code, out, _ = lab("show", "lstm", "--dim", "10", "--depth", "3", "--length", "7", "--json", capsys=capsys)
    shown = json.loads(out)
    assert shown["state_size"] == 3 * 2 * 10
    assert {setting["name"] for setting in shown["settings"]} == {"mlp", "hidden"}


EVERYTHING = [name for kind in plugins.CONTRACTS for name in plugins.names(kind)]
QUICK = {"transformer", "lstm", "recall", "listops"}


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERYTHING])
def test_everything_is_shown(name, capsys):
    code, out, _ = lab("show", name, capsys=capsys)
    assert code == 0
    assert len(out) > 300


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys):
    from lab import doctor

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", interrupt)
    monkeypatch.setattr(sys, "argv", ["lab", "doctor", "--results", "my runs", "--restart"])
    code, out, err = lab("doctor", capsys=capsys)
    assert (code, out, err) == (75, "", "lab: interrupted; go on with: lab doctor --results 'my runs'\n")

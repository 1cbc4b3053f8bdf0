"""`lab probe`: what is found is shown, drawn, kept beside the record, and read as columns."""

import json
import os

import pandas as pd
import pytest
from test_cli import lab
from test_generation import stored
from test_report import overlaps

from lab import analysis
from lab.analysis.figures.probes import probe_charts
from lab.analysis.findings import Finding, Sheet, View, keep, kept, numbers
from lab.commands.probe import QUESTIONS
from lab.planning import Planner, Shape
from lab.probes import memory, throughput
from lab.run import Store
from lab.training import train

TEXT = ("influence", "memory", "position", "copied", "spectrum", "flops", "extrapolation", "noise-scale")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A trained run, and two that are not, on a text and on recall."""
    root = tmp_path_factory.mktemp("store")
    file = root / "rhyme.txt"
    file.write_bytes(b"".join(b"%05d the cat, the cat.\n" % (i * 7919 % 100_000) for i in range(800)))
    text = f"text:path={file},length=64"
    planned = Planner(Shape(dim=16, depth=2), batch=2).plan("linear_rnn", text, 3e7, 0)
    train(planned.spec, Store(root))
    others = {name: stored(root, name, text)[0] for name in ("transformer", "lstm")}
    recall = stored(root, "dilated:segments=8+16,rates=1+2", "recall:pairs=2,length=32")[0]
    return root, {"linear_rnn": planned.spec.id, "recall": recall} | others


@pytest.mark.parametrize("name", TEXT)
def test_a_probe_of_several_runs(name, store, tmp_path, monkeypatch, capsys):
    root, runs = store
    for setting, small in (("SIGNALS", (80, 24, 24)), ("WINDOW", 16), ("CHANNELS", 1)):
        monkeypatch.setattr(memory, setting, small)
    others = {"spectrum": ("lstm",), "noise-scale": ()}.get(name, ("transformer", "lstm"))
    more = {"extrapolation": ["--times", 4], "noise-scale": ["--measurements", 2]}.get(name, [])
    ids = [runs["linear_rnn"], *(runs[each] for each in others)]
    code, out, err = lab("probe", name, *ids, "--results", root, "--out", tmp_path, *more, capsys=capsys)
    assert (code, err) == (0, "")
    assert all(f"run {each}" in out for each in ids)
    assert "linear_rnn on text" in out
    file = name.replace("-", "_")
    assert {f"{file}.{kind}" for kind in ("png", "svg", "pdf", "csv")} <= set(os.listdir(tmp_path))
    assert set(pd.read_csv(tmp_path / f"{file}.csv")["run"].astype(str)) == set(ids)
    columns = numbers(Store(root).folder(ids[0]))
    mine = {column: value for column, value in columns.items() if column.startswith(f"{file}.")}
    assert mine
    frame = analysis.results(root)
    assert frame["id"].tolist() == [ids[0]]  # the others never ended
    assert set(mine) <= set(frame.columns)
    assert {each.probe for each in kept(Store(root).folder(ids[0]))} >= {name}
    assert json.loads((Store(root).folder(ids[0]) / "run.json").read_text())["status"] == "done"


def test_a_probe_that_does_not_apply_says_so(store, tmp_path, capsys):
    root, runs = store
    code, out, _ = lab("probe", "recall-map", runs["recall"], "--results", root, "--out", tmp_path, "--json", capsys=capsys)
    (found,) = json.loads(out)
    assert code == 0
    assert found["run"] == runs["recall"]
    assert found["numbers"]["reach"] < 1  # segments of 16 never meet
    assert {"recall_map.png", "recall_map_reach.png"} <= set(os.listdir(tmp_path))
    code, _, err = lab("probe", "copied", runs["recall"], "--results", root, "--out", tmp_path / "none", capsys=capsys)
    assert code == 2
    assert "needs one that does, like text" in err or "needs a run on text" in err
    assert not (tmp_path / "none").exists()
    both = runs["transformer"], runs["lstm"]
    code, out, err = lab("probe", "spectrum", *both, "--results", root, "--out", tmp_path, "--json", capsys=capsys)
    assert code == 0
    assert [each["run"] for each in json.loads(out)] == [both[1]]
    assert err.startswith(f"left out: run {both[0]} (transformer on text")


def test_a_stream_of_a_run_on_needles(store, tmp_path, capsys):
    root, runs = store
    id = stored(root, "linear_rnn", "needle:length=32,digits=2")[0]
    argv = ["probe", "stream", id, runs["recall"], "--positions", 2048, "--results", root, "--out", tmp_path, "--json"]
    code, out, err = lab(*argv, capsys=capsys)
    (found,) = json.loads(out)
    assert code == 0
    assert "it has no sequence without end" in err
    assert found["numbers"]["positions"] == 2048
    assert {"stream.png", "stream_cost.png", "stream_after.png"} <= set(os.listdir(tmp_path))


def test_throughput_is_that_of_training_steps(store, tmp_path, monkeypatch, capsys):
    root, runs = store

    def compared(stand, peers, length, tokens, rounds, rates):
        if length == 1024:
            return [{"failed": "too long"}]
        return [
            {"tokens_per_second": 100.0 * (1 + tokens // length == 9), "peak_mb": 1.0} | {"tokens_per_second": length + tokens}
        ]

    monkeypatch.setattr(throughput, "compared", compared)
    code, out, _ = lab("probe", "throughput", runs["linear_rnn"], "--results", root, "--out", tmp_path, capsys=capsys)
    assert code == 0
    assert "4 times as many with one sequence of 256" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["position"], "name a run"),
        (["position", "nothing"], "no such run"),
        (["positoin", "nothing"], "position"),
        (["extrapolation", "nothing", "--times", "1"], "--times 1"),
        (["stream", "nothing", "--positions", "0"], "--positions 0"),
        (["noise-scale", "nothing", "--measurements", "1"], "--measurements 1"),
    ],
)
def test_mistakes(argv, said, tmp_path, capsys):
    code, out, err = lab("probe", *argv, "--results", tmp_path / "none", capsys=capsys)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_every_probe_has_a_help(capsys):
    for name in QUESTIONS:
        code, out, _ = lab("probe", name, "--help", capsys=capsys)
        assert not code
        assert QUESTIONS[name].split(",")[0] in " ".join(out.split())


VIEW = View("x", "y", "x", "y", "A caption.", ylim=(0, 1))


def finding(**changed):
    table = pd.DataFrame({"x": [1, 2, 3], "y": [0.5, float("nan"), 1.0], "name": ["a", "b", "c"]})
    given = {"numbers": {"half_life": 3.5, "at": float("nan"), "verdict": "stable"}, "said": "so"} | changed
    return Finding({"influence": Sheet(table, VIEW)}, probe="influence", run="r", weights="abc", asked={"times": 4}, **given)


def test_what_is_kept_is_found_until_the_weights_change(tmp_path):
    (tmp_path / "checkpoint.sha256").write_text("abc\ndef")
    keep(finding(), tmp_path)
    (again,) = kept(tmp_path)
    pd.testing.assert_frame_equal(again.sheets["influence"].table, finding().sheets["influence"].table)
    assert again.sheets["influence"].view == VIEW
    assert (again.said, again.probe, again.asked) == ("so", "influence", {"times": 4})
    assert numbers(tmp_path) == {"influence.half_life": 3.5, "influence.at": None, "influence.verdict": "stable"}
    keep(finding(numbers={"half_life": 9.0}), tmp_path)
    assert numbers(tmp_path) == {"influence.half_life": 9.0}
    (tmp_path / "checkpoint.sha256").write_text("def\nabc")
    assert kept(tmp_path) == []
    assert numbers(tmp_path) == {}


@pytest.mark.parametrize("broken", ["{", "[]", '{"schema": 99}', '{"schema": 1, "weights": "", "probe": "p", "numbers": 3}', ""])
def test_what_cannot_be_read_is_left_out(tmp_path, broken):
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "influence.json").write_text(broken)
    assert numbers(tmp_path) == {}
    assert kept(tmp_path) == []
    record = {"schema": 1, "weights": "", "probe": "later", "run": "r", "numbers": {"a": 1}, "said": "", "new": 1, "asked": {}}
    sheet = {
        "view": {"x": "x", "y": "y", "xlabel": "", "ylabel": "", "caption": "", "new": 1},
        "table": {"columns": ["x"], "data": [[1]]},
    }
    (tmp_path / "probes" / "later.json").write_text(json.dumps(record | {"sheets": {"later": sheet}}))
    assert numbers(tmp_path) == {"later.a": 1}
    assert kept(tmp_path)[0].said == ""


def test_a_restarted_run_forgets_what_was_found(store, tmp_path, capsys):
    argv = [
        "run",
        "--architecture",
        "lstm",
        "--task",
        "recall",
        "--budget",
        "1e8",
        "--dim",
        "8",
        "--depth",
        "1",
        "--results",
        tmp_path,
    ]
    assert lab(*argv, capsys=capsys)[0] == 0
    (folder,) = tmp_path.glob("runs/*")
    keep(finding(), folder)
    assert lab(*argv, "--restart", capsys=capsys)[0] == 0
    assert not (folder / "probes").exists()


@pytest.mark.parametrize("kind", ["lines", "points", "bars", "map"])
def test_runs_share_a_figure_and_seeds_a_colour(kind):
    table = pd.DataFrame({"x": [1, 2, 4] * 2, "y": [1.0, 2.0, 3.0] * 2, "of": ["a"] * 3 + ["b"] * 3, "v": [1, 2, 3] * 2})
    view = View("x", "y", "x", "y", "c", kind, shade="of" if kind != "map" else "", value="v", logx=kind == "lines")
    found = [Finding({"p": Sheet(table, view)}, {}, "", probe="p", run=run) for run in ("r1", "r2", "r3")]
    names = {"r1": ("lstm", "text"), "r2": ("lstm", "text"), "r3": ("s4", "text")}
    (chart,) = probe_charts(found, names).values()
    assert chart.name == "p"
    assert len(chart.data) == 18
    shown = {text.get_text() for text in chart.legends[0].get_texts()} if chart.legends else set()
    assert (
        shown == {"lines": {"lstm", "s4", "a", "b"}, "points": {"lstm", "s4", "a", "b"}, "bars": {"a", "b"}, "map": set()}[kind]
    )
    panels = [axes.get_title(loc="left") for axes in chart.axes if axes.get_title(loc="left")]
    assert len(panels) == {"lines": 1, "bars": 1}.get(kind, 3)


def test_a_long_name_of_an_axis_covers_no_other():
    table = pd.DataFrame({"x": [1, 2, 4], "y": [1.0, 2.0, 3.0]})
    view = View("x", "y", "distance to the latest copy, bytes (octaves)", "y", "c", logx=True)
    found = [Finding({"p": Sheet(table, view)}, {}, "", probe="p", run=run) for run in ("r1", "r2", "r3")]
    (chart,) = probe_charts(found, {"r1": ("s4", "text"), "r2": ("s4", "recall"), "r3": ("s4", "digits")}).values()
    assert overlaps(chart) == ([], [])

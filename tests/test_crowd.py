"""Large comparisons: what figures leave out is said, and tables are whole."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest
import records

from lab import analysis
from lab.analysis import crowd, report
from lab.analysis.figures import Material, charts
from lab.analysis.labels import columns_of, labelled
from lab.commands.common import material_of

TASKS = ("copying", "digits", "recall", "text")
BUDGETS = (1e10, 1e11, 1e12, 1e13)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four tasks at four budgets: sixteen columns."""
    made = tmp_path_factory.mktemp("large")
    for task in TASKS:
        for budget in BUDGETS:
            for place, architecture in enumerate(("lstm", "transformer")):
                for seed in range(2):
                    spec = records.spec(architecture, task, seed, budget=budget)
                    run = records.run(spec, 0.5 + place / 10)
                    records.publish(made, replace(run, steps=20, planned_steps=20))
    return made


@pytest.fixture(scope="module")
def frame(root):
    return analysis.results(root)


def test_the_largest_budgets_of_each_task_are_drawn_and_the_others_counted(frame):
    shown, said = crowd.drawn(labelled(frame), 8)
    assert sorted(zip(shown["task"], shown["budget"], strict=True)) == sorted(
        (task, budget) for task in TASKS for budget in BUDGETS[2:] for _ in range(4)
    )
    assert "8 of 16 tasks and budgets" in said
    assert crowd.drawn(labelled(frame), 16)[1] == ""
    assert len(crowd.drawn(labelled(frame), 16)[0]) == len(frame)


def test_budgets_are_in_the_order_of_their_numbers():
    names = [f"recall at {budget} FLOPs" for budget in ("1e10", "1.3e10", "9e10", "1.06e11", "2e12")]
    assert columns_of(pd.DataFrame({"column": names[::-1]})) == names


def test_of_many_architectures_the_best_are_drawn(frame, monkeypatch):
    monkeypatch.setattr(crowd, "ROWS", 1)
    shown, said = crowd.drawn(labelled(frame[frame["task"] != "text"]), 16)  # of text, lower is better
    assert set(shown["row"]) == {"transformer"}
    assert "1 of 2 architectures" in said
    assert set(crowd.drawn(labelled(frame[frame["task"] == "text"]), 16)[0]["row"]) == {"lstm"}


def test_panels_are_as_many_as_asked_for_and_captions_say_so(root, frame):
    for panels, words in ((5, "11 of 16 tasks and budgets"), (16, "")):
        material = Material(frame, analysis.curves(root), panels=panels)
        for chart in charts(material, "quality-by-task", "quality-against-flops", "throughput-against-length"):
            assert sum(axes.get_visible() for axes in chart.axes) == panels
            assert words in chart.caption
            assert ("Left out" in chart.caption) == bool(words)


def test_seeds_that_are_not_drawn_are_said(root, frame, monkeypatch):
    monkeypatch.setattr(crowd, "LINES", 2)
    (chart,) = charts(Material(frame, analysis.curves(root)), "quality-against-flops")
    assert set(chart.data["seed"]) == {0}
    assert "Of up to 2 seeds the first 1 are drawn." in chart.caption


def test_curves_of_runs_that_are_not_drawn_are_read_for_their_scores_only(root, frame):
    every = analysis.curves(root)
    first = root / "runs" / frame["id"].iloc[0] / "curve.jsonl"
    before = first.read_text()
    lines = before.splitlines(keepends=True)
    try:
        first.write_text("".join([lines[0], lines[1].replace("}", ', "score": 0.25}'), *lines[2:]]))
        one, other = (analysis.curves(root, {frame["id"].iloc[i]}) for i in (0, 1))
    finally:
        first.write_text(before)
    assert len(one) == (every["id"] == frame["id"].iloc[0]).sum()
    assert other[other["id"] == frame["id"].iloc[0]]["score"].tolist() == [0.25]
    assert set(other["id"]) == set(frame["id"].iloc[:2])


def test_of_what_no_figure_has_room_for_no_curve_is_read(root, frame, tmp_path):
    store = shutil.copytree(root, tmp_path / "store")
    for file in store.glob("runs/*/curve.jsonl"):
        file.write_text(file.read_text().replace("}", ', "score": 0.25}'))
    shown, _ = crowd.drawn(labelled(frame), 5)
    assert set(material_of(frame, str(store), panels=5).curves["id"]) == set(shown["id"])
    assert set(material_of(frame, str(store), panels=16).curves["id"]) == set(frame["id"])


def test_the_page_keeps_what_fits_and_a_file_beside_it_all(root, frame, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LONGEST_TABLE", 10)
    monkeypatch.setattr(report, "charts", lambda *_: [])  # which take a minute
    material = analysis.Material(frame, analysis.curves(root), panels=4)
    page = analysis.write_report(material, tmp_path, "lab compare").read_text("utf-8")
    assert "10 of 32 rows; all are in tables/setups.csv beside this page." in page
    assert "10 of 16 rows; all are in tables/pairs.csv beside this page." in page
    assert len(pd.read_csv(tmp_path / "tables" / "setups.csv")) == 32
    assert len(pd.read_csv(tmp_path / "tables" / "pairs.csv")) == 16
    assert not (tmp_path / "tables" / "lost.csv").exists()
    assert page.count("at 1e10 FLOPs</b>") == 4  # a verdict for each column, drawn or not

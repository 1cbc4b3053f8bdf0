"""Figures of sweeps, tuning, ladders and many tasks: each draws, says what it is, and holds the numbers of the analysis."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import records
from matplotlib.colors import to_rgba
from test_report import overlaps

from lab import analysis
from lab.analysis.canvas import COLUMN
from lab.analysis.figures import KINDS, Material, charts, sweep_figures
from lab.analysis.figures.clauses import clauses_chart
from lab.analysis.figures.ladder import ladder_chart
from lab.analysis.figures.multiplier import by_convention
from lab.analysis.figures.noise import seed_spread
from lab.analysis.figures.sweep import apart, sweeps
from lab.analysis.figures.tuning import expected_best, tried
from lab.cli import main

LADDER = pd.DataFrame({"step": ["rotary positions", "SwiGLU"], "multiplier": [1.25, 0.9], "low": [1.1, 0.8], "high": [1.4, 1.0]})
LEAST = 6.0
"""Points: no text of a figure for a column is smaller."""


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Sweeps of two architectures, tuning runs of one, and a comparison on three tasks with scores along the curves."""
    root = tmp_path_factory.mktemp("studies")
    made = records.sweep(root, ("linear_rnn", "transformer"), budgets=(1e11, 3.2e11, 1e12), sizes=5)
    records.store(root, tasks=("recall", "copying", "digits"))
    for rate in (3e-4, 1e-3, 3e-3, 1e-2):
        for dim in (32, 64):
            of = records.spec("transformer", "text", 0, dim=dim, budget=3e10)
            loss = 3.4 + 0.06 * np.log(rate / (1e-3 if dim == 32 else 1e-2)) ** 2
            run = records.run(replace(of, recipe=of.recipe | {"lr": rate}), loss, parameters=dim * 400)
            records.Store(root).publish(run)
    frame, curves = analysis.results(root), analysis.curves(root)
    ends = frame.set_index("id")
    share = curves["flops"] / curves["id"].map(ends["flops"])
    curves["score"] = curves["id"].map(ends["score"]) * 1.05 * (1 - np.exp(-8 * share))
    assert len(frame) == len(made) + 27 + 8
    return Material(frame, curves, "transformer", LADDER)


@pytest.fixture(scope="module")
def drawn(material):
    """Every figure by the name of its kind."""
    return {kind: charts(material, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_draws_readably_and_says_what_it_is(kind, drawn):
    assert drawn[kind]
    for chart in drawn[kind]:
        assert chart.name.startswith(kind.replace("-", "_"))
        assert chart.title.startswith(KINDS[kind].title)
        assert len(chart.data)
        assert len(chart.alt) > 30
        assert overlaps(chart) == ([], [])
        if chart.get_figwidth() <= COLUMN:
            ticks = [label for axes in chart.axes for label in axes.get_xticklabels() + axes.get_yticklabels()]
            assert min(text.get_fontsize() for text in [*ticks, *(t for axes in chart.axes for t in axes.texts)]) >= LEAST
        if kind != "ladder":
            for words in ("training FLOPs", "contraction + mixing", "float32", "finished"):
                assert words in chart.caption, words


@pytest.mark.parametrize("chosen", ["row < 1", "2 <= row < 9", "row % 3 == 0", "seed == 0 and budget in (1e11, 3.2e11)"])
def test_what_is_there_half_way_is_drawn(chosen, material):
    """Budgets lack sizes, or seeds enough to know the noise; a figure may have one point."""
    frame = material.frame.rename_axis("row").query(chosen)
    part = Material(frame.reset_index(drop=True), material.curves, material.reference)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chart in charts(part, *(kind for kind in KINDS if kind != "ladder")):
            chart.draw_without_rendering()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ladder"])
def test_each_kind_counts_the_runs_that_were_lost(kind, material):
    frame, scores = material.frame.copy(), [name for name in material.frame if name.startswith(("test.", "validation."))]
    last = frame.groupby(["architecture", "task", "budget"])["id"].transform("last") == frame["id"]
    frame.loc[last, "status"] = "diverged"
    frame.loc[last, ["score", "loss", *scores]] = np.nan
    for chart in charts(Material(frame, material.curves, "transformer"), kind):
        assert re.search(r"[1-9]\d* diverged", chart.caption), chart.caption


@pytest.mark.parametrize("kind", ["accuracy-by-slice", "quality-beyond-training", "length-extrapolation"])
def test_no_mean_is_of_two_metrics(kind, drawn):
    for chart in drawn[kind]:
        assert "recall" in set(chart.data["panel"].str.partition(" ")[0])
        apart = ["panel", "row", *({"x", "ratio"} & set(chart.data))]
        assert not chart.data.dropna(subset="value").duplicated([*apart, "seed"]).any()


def test_files_are_the_same_twice_in_whatever_order_runs_come(material, tmp_path):
    kinds = ("multiplier", "lr-sensitivity")
    first = analysis.draw_all(material, tmp_path / "a", *kinds)
    mixed = Material(material.frame.sample(frac=1, random_state=0), material.curves, "transformer")
    second = analysis.draw_all(mixed, tmp_path / "b", *kinds)
    assert [path.name for path in first] == [path.name for path in second]
    assert {path.suffix for path in first} == {".png", ".svg", ".pdf", ".csv"}
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_a_frontier_shows_the_points_of_the_analysis_and_nothing_beyond_them(material, drawn):
    chart, sweep = drawn["frontier"][0], material.sweeps[0]
    optima = chart.data[chart.data["what"] == "optimum"].set_index(["setup", "flops"])["loss"]
    for name, front in sweep.frontiers.items():
        for flops, loss in zip(front.points["flops"], front.points["loss"], strict=True):
            assert optima[name, flops] == pytest.approx(loss)
    for line in chart.axes[0].lines:
        x = np.asarray(line.get_xdata(), float)
        assert not len(x) or (x.min() >= 1e11 * 0.999 and x.max() <= 1e12 * 1.001)


def test_a_multiplier_is_drawn_only_where_it_is_valid(material, drawn):
    (chart,) = drawn["multiplier"]
    found = material.sweeps[0].multipliers["linear_rnn"]
    low, high = found.interval
    curve = max(chart.axes[0].lines, key=lambda line: len(line.get_xdata()))
    assert np.min(curve.get_xdata()) == pytest.approx(low)
    assert np.max(curve.get_xdata()) == pytest.approx(high)
    assert chart.axes[0].get_xlim()[0] > chart.axes[0].get_xlim()[1]  # better to the right
    middle = float(found.summary["loss"].iloc[1])
    assert f"{float(found.at(middle)):.3g} [" in chart.axes[0].get_xlabel()
    assert found.scaling in chart.axes[0].get_xlabel()
    assert found.verdict.lower() in chart.caption.lower()
    assert "linear_rnn" in found.verdict


def test_a_refused_multiplier_gives_its_reason(material):
    runs = material.sweeps[0].runs
    far = runs.assign(score=runs["score"] + np.where(runs["architecture"] == "linear_rnn", 5, 0))
    (chart,) = charts(Material(far, material.curves, "transformer"), "multiplier")
    assert "share no losses: linear_rnn from" in chart.caption
    assert chart.data.empty
    assert not charts(Material(far, material.curves, "transformer"), "convention-sensitivity")


def test_conventions_are_those_of_restate_and_the_headline_is_the_multiplier(material, drawn):
    data = drawn["convention-sensitivity"][0].data.set_index("convention")
    assert len(data) == 8
    assert (data["reason"].drop("PaLM's formula") == "").all()  # its square of attention makes the widest model the best
    found = material.sweeps[0].multipliers["linear_rnn"]
    assert data.loc["contraction + mixing", "multiplier"] == pytest.approx(float(found.at(data["loss"].iloc[0])))
    slower = records.SURFACES["linear_rnn"][-1] / records.SURFACES["transformer"][-1]
    assert data.loc["seconds", "multiplier"] == pytest.approx(data["multiplier"].iloc[0] / slower, rel=0.1)
    turned = np.sign(np.log(data["multiplier"])) != np.sign(np.log(data["multiplier"].iloc[0]))
    assert (data["opposite"] <= turned).all()
    assert data.loc["seconds", "opposite"]


def test_records_without_a_convention_leave_it_out(material):
    frame = material.frame.assign(flops_minimum=0.0)
    data = by_convention(sweeps(frame, "transformer")[0]).set_index("convention")
    assert "were recorded without it" in data.loc["least exact work", "reason"]
    assert np.isfinite(data.loc["contraction alone", "multiplier"])


def test_the_sweep_takes_the_rate_that_validation_chose_and_leaves_the_rest_to_others(material):
    frame = material.frame
    (sweep,) = sweeps(frame)
    assert sweep.reference == "linear_rnn"  # the first by name where none is given
    assert material.sweeps[0].names == ["transformer", "linear_rnn"]
    assert set(apart(frame, sweeps(frame))["task"]) == {"recall", "copying", "digits"}
    assert 3e10 not in set(sweep.runs["budget"])  # tuning at two sizes is no budget of the frontier
    worse = sweep.runs[sweep.runs["architecture"] == "transformer"].assign(lr=1e-4, id="other")
    worse["validation.bits_per_byte"] += 0.1
    worse["score"] -= 0.5  # better on test, which must not matter
    again = sweeps(pd.concat([frame, worse.drop(columns=["row", "column"])], ignore_index=True))[0]
    assert set(again.runs["lr"]) == {3e-3}
    assert len(again.runs) == len(sweep.runs)


def test_seed_noise_is_the_spread_that_was_made(tmp_path):
    records.sweep(tmp_path, ("lstm",), budgets=(1e11, 1e12), sizes=4, seeds=8, noise=0.01)
    spread = seed_spread(sweeps(analysis.results(tmp_path))[0])
    assert list(spread["spare"]) == [28, 28]
    relative = spread["sd"] / np.array([3.5, 2.9])  # about the mean loss of each budget
    assert relative.between(0.006, 0.015).all()
    assert ((spread["low"] < spread["sd"]) & (spread["sd"] < spread["high"])).all()


def test_learning_rates_are_compared_at_one_size_and_the_edge_is_flagged(material, drawn):
    data = drawn["lr-sensitivity"][0].data
    assert data.groupby("params")["best_lr"].first().to_dict() == {32 * 400: 1e-3, 64 * 400: 1e-2}
    assert data.groupby("params")["edge"].first().to_dict() == {32 * 400: False, 64 * 400: True}
    assert len(tried(material.frame)) == 8
    hollow = [line for line in drawn["lr-sensitivity"][0].axes[0].lines if to_rgba(line.get_markerfacecolor()) == (1, 1, 1, 1)]
    assert len(hollow) == 1


def test_the_expected_best_of_some_tries_is_the_mean_over_all_choices_of_them():
    losses = np.array([3.0, 1.0, 2.0])
    made = expected_best(losses)
    assert made["loss"].tolist() == pytest.approx([2.0, (1 + 1 + 2) / 3, 1.0])
    assert made.loc[0, ["low", "high"]].tolist() == [1.0, 3.0]
    assert made.loc[2, ["low", "high"]].tolist() == [1.0, 1.0]


def test_a_ladder_multiplies_its_steps():
    data = ladder_chart(LADDER).data
    assert data["product"].tolist() == pytest.approx([1.25, 1.125])
    assert data["product_low"].iloc[1] == pytest.approx(1.125 * np.exp(-np.hypot(np.log(1.25 / 1.1), np.log(0.9 / 0.8))))
    broken = LADDER.assign(multiplier=[np.nan, 0.9], low=[np.nan, 0.8], high=[np.nan, 1.0])
    assert ladder_chart(broken).data["product"].isna().all()
    assert "cannot be told" in ladder_chart(broken).alt
    bounded = ladder_chart(broken.assign(low=[8.0, 0.8], high=[np.inf, 1.0]))
    assert "above 8;" in bounded.alt
    assert "above 8" in {text.get_text() for text in bounded.axes[0].texts}
    assert bounded.axes[0].get_xlim()[1] > 8


def test_a_clause_of_which_only_a_bound_is_known_is_drawn_at_it():
    table = pd.DataFrame({"said": ["it saves six times", "it saves twice"], "quantity": "multiplier", "value": np.nan,
                          "low": [8.0, 0.0], "high": [np.inf, 0.5], "asked": ["above 6", "above 2"],
                          "verdict": ["supported", "not supported"], "reason": "they share no losses"})  # fmt: skip
    chart = clauses_chart(table, "")
    assert {"above 8", "below 0.5"} <= {text.get_text() for text in chart.axes[0].texts}
    assert [float(line.get_xdata()[0]) for line in chart.axes[0].lines if line.get_marker() in "<>"] == [8.0, 0.5]
    assert "it saves six times: above 8" in chart.alt


def test_many_tasks(material, drawn):
    cells = drawn["task-matrix"][0].data.set_index(["column", "row"])
    assert cells.loc[("recall", "transformer"), "of_the_way"] == pytest.approx(
        (cells.loc[("recall", "transformer"), "mean"] - 1 / 32) / (1 - 1 / 32)
    )
    profile = drawn["performance-profile"][0].data
    assert (profile.groupby("row")["share"].diff().fillna(0) <= 0).all()
    solved = drawn["solve-times"][0].data
    assert set(solved.loc[solved["column"] == "recall", "row"]) == {"transformer"}
    shares = drawn["flop-breakdown"][0].data[["contraction", "mixing", "pointwise"]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0] * len(shares))


def test_runs_without_a_sweep_have_no_figures_of_one(material):
    assert sweep_figures(material.comparison) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("frontier", "4 sizes or more at each; lab frontier makes one"),
        ("lr-sensitivity", "--tune makes some"),
        ("fronteir", "frontier"),
    ],
)
def test_a_figure_that_cannot_be_drawn_says_what_is_missing(tmp_path, capsys, kind, said):
    records.publish(tmp_path, records.run(records.spec(), 0.9))
    with pytest.raises(SystemExit) as stop:
        main(["plot", kind, "--results", str(tmp_path)])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"lab: lab plot {kind}:")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "figures").exists()

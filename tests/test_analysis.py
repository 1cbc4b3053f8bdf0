"""Frames from records, and what may be concluded from them."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import records
from scipy import stats

from lab import analysis
from lab.analysis.frame import COLUMNS
from lab.analysis.labels import labelled, quantity
from lab.analysis.statistics import averages, holm, leaders
from lab.analysis.styles import styles
from lab.run import SCHEMA


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("results")
    records.store(path)
    return path


@pytest.fixture(scope="module")
def frame(root):
    return analysis.results(root)


def made(tmp_path, scores, **changes):
    """A frame of one task from the scores of each architecture, None for a run that diverged."""
    for name, values in scores.items():
        for seed, value in enumerate(values):
            one = records.run(records.spec(name, changes.get("task", "recall"), seed), value)
            if value is None:
                one = replace(one, status="diverged", scores={}, reason="loss was nan")
            records.publish(tmp_path, one)
    return analysis.results(tmp_path)


def test_a_row_a_run_with_every_column_and_score(root, frame):
    assert len(frame) == 36
    assert frame["id"].is_unique
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    one = frame.set_index("id").loc[records.spec("lstm", "text", 1).id]
    record = json.loads((root / "runs" / one.name / "run.json").read_text())
    assert one["score"] == record["scores"]["test"]["bits_per_byte"] == one["test.bits_per_byte"]
    assert one["loss"] == record["scores"]["test"]["loss"]
    assert one["chance"] == 8.0
    assert not one["higher_is_better"]
    assert one["params"] == record["parameters"]
    assert one["lr"] == 3e-3
    assert one["length"] == 256
    assert one["commit"] == records.ENVIRONMENT["commit"]
    assert one["throughput"] == record["throughput"]
    assert frame.loc[frame["task"] == "recall", "test.accuracy[gap=4-7]"].notna().all()
    lost = frame[frame["status"] != "done"]
    assert sorted(lost["status"]) == ["diverged", "failed"]
    assert lost["score"].isna().all()
    assert (lost["reason"] != "").all()


def test_a_store_with_hundreds_of_scores_is_read_without_a_warning(tmp_path):
    one = records.run(records.spec(), 0.9)
    many = {f"accuracy[place={i}]": i / 300 for i in range(300)}
    records.publish(tmp_path, replace(one, scores={**one.scores, "test": one.scores["test"] | many}))
    labels = labelled(analysis.results(tmp_path))
    assert labels.assign(more=0)["test.accuracy[place=299]"].tolist() == [299 / 300]


def test_an_empty_store_gives_empty_frames(tmp_path):
    assert analysis.results(tmp_path).empty
    assert list(analysis.results(tmp_path)["id"]) == []
    assert analysis.curves(tmp_path).empty
    assert "loss" in analysis.curves(tmp_path)
    assert analysis.render(analysis.results(tmp_path / "nowhere")) == "no runs"


def test_records_that_cannot_be_read_are_named_once_and_left_out(tmp_path):
    whole = records.publish(tmp_path, records.run(records.spec(), 0.9))
    broken = {"cut": json.dumps(records.as_json(whole))[:200], "empty": "", "list": "[]", "no_spec": '{"schema": 1, "id": "x"}',
              "text_score": json.dumps(records.as_json(whole) | {"scores": {"test": {"accuracy": "high"}}}),
              "newer": json.dumps(records.as_json(whole) | {"schema": SCHEMA + 1})}  # fmt: skip
    for name, content in broken.items():
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "run.json").write_text(content)
    (tmp_path / "runs" / "under_way").mkdir()
    with pytest.warns(UserWarning, match="6 records left out") as caught:
        assert list(analysis.results(tmp_path)["id"]) == [whole.id]
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    (tmp_path / "runs" / "cut" / "run.json").unlink()
    with pytest.warns(UserWarning, match=f"newer .*schema {SCHEMA + 1}"):
        analysis.results(tmp_path)


def test_unknown_keys_are_kept_out_and_missing_ones_are_missing(tmp_path):
    one = records.publish(tmp_path, records.run(records.spec(), 0.9))
    path = tmp_path / "runs" / one.id / "run.json"
    record = json.loads(path.read_text())
    for name in ("throughput", "peak_memory", "state_size", "environment"):
        del record[name]
    path.write_text(json.dumps(record | {"surprise": [1, 2]}))
    frame = analysis.results(tmp_path)
    assert "surprise" not in frame
    assert frame["state_size"].isna().all()
    assert frame["commit"].isna().all()
    assert frame["score"].iloc[0] == 0.9


@pytest.mark.parametrize("character", ["\x1b", "\x7f", "\u202e"])
@pytest.mark.parametrize("escaped", [True, False])
def test_texts_of_records_have_visible_characters_only(tmp_path, character, escaped):
    one = records.publish(tmp_path, replace(records.run(records.spec(), None), status="failed", reason=f"a{character}b"))
    path = tmp_path / "runs" / one.id / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=escaped), "utf-8")
    (reason,) = analysis.results(tmp_path)["reason"]
    assert reason == f"a{ascii(character)[1:-1]}b"


def test_curves_are_long_and_a_torn_line_is_left_out(tmp_path):
    one = records.publish(tmp_path, records.run(records.spec("lstm", "copying", 2), 0.5))
    path = tmp_path / "runs" / one.id / "curve.jsonl"
    whole = analysis.curves(tmp_path)
    assert len(whole) == len(path.read_text().splitlines()) > 100
    assert set(whole["architecture"]) == {"lstm"}
    assert set(whole["seed"]) == {2}
    assert whole["flops"].is_monotonic_increasing
    with path.open("a") as file:
        file.write('{"step": 999, "tok')
    pd.testing.assert_frame_equal(analysis.curves(tmp_path), whole)
    path.write_text(path.read_text() + "5\n")
    (tmp_path / "runs" / one.id / "run.json").unlink()
    assert len(analysis.curves(tmp_path)) == len(whole)


def test_nothing_heavy_is_imported():
    code = "import sys, lab.analysis as a; a.draw_all; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "lightning", "architectures", "tasks", "matplotlib.pyplot", "scipy.stats"}
    assert "lab.analysis.report" in loaded


def test_mean_and_interval_are_those_of_scipy(frame):
    cells = analysis.summary(frame).set_index(["column", "row"])
    for column, row in (("recall", "lstm"), ("text", "transformer")):
        scores = frame.loc[(frame["task"] == column) & (frame["architecture"] == row), "score"]
        low, high = stats.t.interval(0.95, 2, scores.mean(), scores.sem())
        cell = cells.loc[(column, row)]
        np.testing.assert_allclose([cell["mean"] - cell["half_width"], cell["mean"] + cell["half_width"]], [low, high])
    lost = cells.loc[("copying", "lstm")]
    assert (lost["seeds"], lost["runs"], lost["diverged"]) == (2, 3, 1)
    assert np.isnan(lost["half_width"])
    finished = frame[(frame["task"] == "copying") & (frame["architecture"] == "lstm") & (frame["status"] == "done")]
    assert lost["mean"] == pytest.approx(finished["score"].mean())


def test_pairs_are_paired_by_seed_whatever_the_order(frame):
    tested = analysis.pairs(frame.sample(frac=1, random_state=1)).set_index(["column", "a", "b"])
    a, b = (frame[(frame["task"] == "text") & (frame["architecture"] == name)].sort_values("seed")["score"].to_numpy()
            for name in ("linear_rnn", "transformer"))  # fmt: skip
    test = tested.loc[("text", "linear_rnn", "transformer")]
    assert test["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert test["difference"] == pytest.approx((a - b).mean())
    assert tested.loc[("copying", "linear_rnn", "lstm"), "seeds"] == 2
    assert not tested.loc[("copying", "linear_rnn", "lstm"), "apart"]


def test_holm():
    corrected = holm(np.array([0.01, np.nan, 0.04, 0.03]))
    np.testing.assert_allclose(corrected, [0.03, np.nan, 0.06, 0.06])


def test_noise_is_seldom_taken_for_a_difference(tmp_path):
    """At most 5 % false leaders of 100 comparisons of three equal architectures (the 99.9 % bound of a binomial)."""
    rng, spec = np.random.default_rng(0), records.run(records.spec(), 0.5)
    records.publish(tmp_path, spec)
    one = analysis.results(tmp_path)
    rows = []
    for task in range(100):
        for name in "abc":
            for seed in range(4):
                rows.append({"architecture": name, "task": f"t{task}", "seed": seed, "score": rng.normal()})
    noise = pd.concat([one] * len(rows), ignore_index=True).assign(**pd.DataFrame(rows))
    assert analysis.pairs(noise)["apart"].sum() > 0
    assert len(leaders(noise)) <= 13


@pytest.mark.parametrize(("scores", "said"), [
    ({"a": [0.90, 0.91, 0.92], "b": [0.50, 0.52, 0.51], "c": [0.5, 0.51, 0.53]},
     r"^a leads, ahead of c by 0.397 ± .*; c and b cannot be told apart$"),
    ({"a": [0.90, 0.91, 0.92], "b": [0.50, 0.515, 0.52], "c": [0.2, 0.21, 0.22]},
     "a leads, ahead of b by 0.398 ± .*; b is ahead of c"),
    ({"a": [0.90, 0.81, 0.92], "b": [0.85, 0.92, 0.88]}, "^b and a cannot be told apart$"),
    ({"a": [0.90, 0.91], "b": [0.1, 0.11]},
     r"a and b cannot be told apart \(a and b have 2 finished; 3 shared seeds are needed\)"),
    ({"a": [0.90, 0.91, 0.92], "b": [None, None, None]}, "only a has a score.*; b diverged in 3 of 3 runs"),
    ({"a": [None], "b": [None]}, "no run has a score; a diverged in 1 of 1 runs"),
    ({"a": [0.03, 0.032, 0.031], "b": [0.9, 0.91, 0.92]},
     r"; a is not shown to beat chance or the baseline 'a value of the context'$"),
    ({"a": [0.03, 0.032, 0.031], "b": [0.031, 0.03, 0.032]}, "none is shown to beat chance$"),
    ({name: [0.5] for name in "abcdefg"}, r"a, b, c, d, e, f and g cannot be told apart \(they have 1 finished"),
    ({"a": [0.9, 0.91, 0.92], "b": [0.7, 0.701, 0.702],
      **{name: [0.2, 0.21 + 0.001 * i, 0.22 - 0.001 * i] for i, name in enumerate("cdefg")}},
     r"^a leads, ahead of b by .*; of the 15 pairs behind, 10 cannot be told apart"),
])  # fmt: skip
def test_verdicts_claim_what_the_seeds_allow(tmp_path, scores, said):
    frame = made(tmp_path, scores)
    assert re.search(said, analysis.verdicts(frame)["recall"])


def test_lower_is_better_where_the_metric_says_so(tmp_path):
    frame = made(tmp_path, {"a": [2.0, 2.01, 2.02], "b": [3.0, 3.015, 3.02]}, task="text")
    assert leaders(frame) == {"text": "a"}
    assert analysis.verdicts(frame)["text"].startswith("a leads, ahead of b by 1.00")
    assert "b is not shown to beat the baseline 'order-3 n-gram'" in analysis.verdicts(frame)["text"]


def test_the_table_has_architectures_by_name_then_baselines(frame):
    table = analysis.table(frame)
    assert [name for _, name in table.index] == [
        "linear_rnn",
        "lstm",
        "transformer",
        "chance",
        "a value of the context",
        "order-3 n-gram",
    ]
    assert bool(table.loc[("architecture", "transformer"), ("recall", "best")])
    assert table.loc[("architecture", "lstm"), ("copying", "diverged")] == 1
    assert table.loc[("baseline", "order-3 n-gram"), ("text", "mean")] == 2.62


def test_runs_that_do_not_compare_stand_apart(tmp_path):
    for spec in (records.spec(), records.spec(budget=1e12), records.spec("lstm"), records.spec("lstm", dim=128),
                 records.spec(task="text"), records.spec(task="text", data="f" * 60)):  # fmt: skip
        records.publish(tmp_path, records.run(spec, 0.9))
    names = labelled(analysis.results(tmp_path))
    assert set(names["column"]) == {"recall at 1e11 FLOPs", "recall at 1e12 FLOPs", "text at data 9f2c41", "text at data ffffff"}
    assert set(names["row"]) == {"transformer", "lstm d64", "lstm d128"}
    assert not names.duplicated(["row", "column", "seed"]).any()


def test_the_terminal_table_fits_and_says_everything(frame):
    text = analysis.render(frame)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    lines = {line.split("  ")[0]: line for line in reversed(text.splitlines())}
    assert "0.868 ± 0.005" in lines["transformer"]
    assert "0.646 (2/3)" in lines["lstm"]
    assert "8.000" in lines["chance"]
    assert "2.272 ± 0.048*" in lines["linear_rnn"]
    assert "2.620" in lines["order-3 n-gram"]
    for words in ("1e11 training FLOPs", "seeds 0 to 2", "float32", "contraction + mixing", "1 diverged, 1 failed",
                  "lstm on copying: diverged, seed 2: loss was nan at step 121", "recall: transformer leads",
                  "64x2", "220k"):  # fmt: skip
        assert words in text, words


def test_strange_stores_are_told_too(tmp_path):
    records.hostile(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = analysis.render(analysis.results(tmp_path))
    assert max(map(len, text.splitlines())) <= 100
    assert "diverged 3/3" in text
    assert "no score" in text
    assert "0.900 (1 seed)" in text
    assert "0.705 (2 seeds)" in text


@pytest.mark.parametrize(("value", "text"), [(0.0312, "0.0312"), (512, "512"), (23_410, "23.4k"), (1.23e6, "1.23M"),
                                              (3e12, "3e12"),
                                              (float("nan"), "-"), (0, "0"), (9999, "9999")])  # fmt: skip
def test_quantities(value, text):
    assert quantity(value) == text


def test_styles_are_stable_and_distinct():
    few, many = styles(["lstm", "transformer"]), styles(["transformer", "lstm", "s4", "mine", "other", "transformer:preset=gpt2"])
    assert few["lstm"] == many["lstm"]
    assert few["transformer"] == many["transformer"]
    assert many["transformer:preset=gpt2"].colour == many["transformer"].colour
    assert many["transformer:preset=gpt2"].marker != many["transformer"].marker
    assert len({many[name].colour for name in ("transformer", "lstm", "s4", "mine", "other")}) == 5
    table = styles(["transformer", "linear_rnn", "lstm", "s4", "s5", "rwkv", "dilated", "gru", "mamba", "retnet", "gla",
                    "deltanet",
                    "hyena", "mlstm", "hybrid", "lstm_attention"])  # fmt: skip
    assert len({style.colour for style in table.values()}) == 16
    assert len({(style.marker, str(style.dash)) for style in table.values()}) == 16


def test_forms_of_one_task_have_a_mean(tmp_path):
    for seed in range(3):
        for form, off in (("mad:task=a", 0.1), ("mad:task=b", 0.3), ("mad:task=c", 0.5)):
            for architecture, score in (("gla", 0.2), ("lstm", 0.1)):
                made = records.run(records.spec(architecture, form, seed), score + off + 0.01 * seed)
                if (architecture, form, seed) == ("lstm", "mad:task=c", 2):
                    made = replace(made, status="diverged", scores={})
                records.publish(tmp_path, made)
        records.publish(tmp_path, records.run(records.spec("gla", "digits", seed), 0.9))
    found = averages(analysis.results(tmp_path)).set_index("row")
    assert set(found["family"]) == {"mad"}
    assert list(found.index) == ["gla", "lstm"]
    assert list(found["seeds"]) == [3, 2], "a seed that lacks a form has no part in it"
    assert found.loc["gla", "mean"] == pytest.approx(0.2 + 0.3 + 0.01)
    assert found.loc["lstm", "mean"] == pytest.approx(0.1 + 0.3 + 0.005)
    assert found.loc["gla", "half_width"] == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    assert "gla 0.510 ± 0.025" in analysis.verdicts(analysis.results(tmp_path))["mad, mean over its 3 forms"]


def test_a_task_at_two_budgets_has_no_mean(tmp_path):
    for budget in (1e11, 1e12):
        for form in ("mad:task=a", "mad:task=b"):
            records.publish(tmp_path, records.run(records.spec(task=form, budget=budget), 0.5))
    assert averages(analysis.results(tmp_path)).empty


@pytest.mark.parametrize(("task", "bounded"), [("recall", True), ("text", False)])
def test_an_interval_of_shares_ends_where_no_score_can_be(tmp_path, task, bounded):
    for seed, value in enumerate((0.02, 0.99, 1.0)):
        records.publish(tmp_path, records.run(records.spec(task=task, seed=seed), value))
    low, high = analysis.quality_by_task(analysis.results(tmp_path)).axes[0].dataLim.intervalx
    assert bool(low >= 0 and high <= 1) == bounded


def test_published_scores_are_drawn_and_listed(tmp_path):
    known = [{"name": "S4", "score": 0.596, "source": "Gu et al., arXiv:2111.00396, table 1"}]
    for seed in range(3):
        records.publish(tmp_path, records.run(records.spec(seed=seed), 0.5, references=known))
    frame = analysis.results(tmp_path)
    chart = analysis.quality_by_task(frame)
    assert chart.axes[0].get_yticklabels()[-1].get_text() == "published"
    assert list(chart.data.loc[chart.data["status"] == "published", "score"]) == [0.596]
    material = analysis.Material(frame, analysis.curves(tmp_path))
    page = analysis.write_report(material, tmp_path / "out", "lab compare").read_text("utf-8")
    assert "arXiv:2111.00396, table 1" in page

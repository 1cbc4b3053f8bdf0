"""Compute-to-solve: the rule by hand, survival against scipy, the multiplier against a known truth."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import records
from scipy import stats
from scipy.optimize import minimize

from lab import analysis
from lab.analysis.solving import (
    _fit,
    compute_to_solve,
    kaplan_meier,
    log_rank,
    restricted_mean,
    solve_runs,
    solve_table,
    solving_multiplier,
    solving_profile,
    solving_score,
)


def arm(rng, count, median, spread=0.5, end=np.inf):
    """Log-normal compute to solve, censored at `end`."""
    flops = median * np.exp(rng.normal(0, spread, count))
    return pd.DataFrame({"flops": np.minimum(flops, end), "solved": flops <= end})


def censored(each):
    return stats.CensoredData.right_censored(each["flops"].to_numpy(), ~each["solved"].to_numpy())


def curve(scores, run="a", task="recall"):
    """Evaluations of one run at 1, 2, 3 ... FLOPs, None where a point of the curve has none."""
    rows = [[run, "lstm", task, 9.0, 0, i, i, float(i), 0.1 * i, 1.0, s] for i, s in enumerate(scores, 1)]
    return pd.DataFrame(rows, columns=analysis.frame.CURVE_COLUMNS).astype({"score": "float64"})


@pytest.mark.parametrize(
    ("scores", "flops", "solved"),
    [
        ([0.2, 0.95, 0.95, 0.95, 0.1], 2, True),
        ([0.95, 0.95, 0.5, 0.95, 0.95], 5, False),  # never three in a row
        ([0.2, None, 0.95, None, 0.95, 0.95], 3, True),  # points without a score are no evaluations
        ([0.95, 0.2, 0.95, 0.95, 0.95], 3, True),
        ([0.949, 0.949, 0.949], 3, False),  # 0.9 of the way from 0.5 to 1 is 0.95
        ([0.2], 1, False),
    ],
)
def test_a_run_solves_at_the_first_of_three_evaluations_in_a_row(scores, flops, solved):
    found = compute_to_solve(curve(scores), chance=0.5)
    assert found[["id", "flops", "solved"]].to_numpy().tolist() == [["a", flops, solved]]


def test_the_level_lies_between_chance_and_one():
    points = curve([0.54, 0.55, 0.75, 0.95, 0.995, 0.995, 0.995])
    found = [compute_to_solve(points, 0.5, theta)["flops"].item() for theta in (0.1, 0.5, 0.9, 0.99)]
    assert found == [2, 3, 4, 5]
    two = pd.concat([points, curve([0.8] * 3, run="b", task="other"), curve([0.8] * 3, run="c", task="unknown")])
    found = compute_to_solve(two.sample(frac=1, random_state=1), {"recall": 0.5, "other": 0.0}, 0.8)
    assert found[["id", "flops"]].to_numpy().tolist() == [["a", 4.0], ["b", 1.0]]


@pytest.mark.parametrize("seed", range(4))
def test_survival_is_scipys(seed):
    rng = np.random.default_rng(seed)
    each = arm(rng, 12, 1e12, end=[np.inf, 1.2e12, 1e12, 8e11][seed]).round({"flops": -11})  # with ties
    found = kaplan_meier(each["flops"], each["solved"])
    sf = stats.ecdf(censored(each)).sf
    np.testing.assert_allclose(found["unsolved"], sf.evaluate(found["flops"]), atol=1e-12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined")
        band = sf.confidence_interval(method="log-log")
    for name, bound in (("low", band.low), ("high", band.high)):
        known = found["unsolved"] > 0
        np.testing.assert_allclose(found[name][known], bound.evaluate(found["flops"][known]), atol=1e-12)


def test_survival_by_hand():
    """Five runs, two censored: 4/5, then 4/5 x 2/3 with three at risk, then 0 with one."""
    found = kaplan_meier([1, 2, 3, 4, 5], [True, False, True, False, True])
    assert found["at_risk"].tolist() == [5, 3, 1]
    np.testing.assert_allclose(found["unsolved"], [0.8, 0.8 * 2 / 3, 0])
    assert kaplan_meier([1.0, 2.0], [False, False]).empty


def test_log_rank_is_scipys():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        a, b = (arm(rng, n, m, end=1.5).round(1) for n, m in ((9, 1.0), (13, 1.6)))
        assert log_rank(a, b) == pytest.approx(stats.logrank(censored(a), censored(b)).pvalue)
        assert log_rank(b, a) == pytest.approx(log_rank(a, b))
    never = a.assign(solved=False)
    assert np.isnan(log_rank(never, never))


def test_the_restricted_mean():
    """Without censoring it is the geometric mean of what is cut at `most`; with it the area by hand."""
    rng = np.random.default_rng(0)
    each = arm(rng, 40, 1e12)
    most = float(each["flops"].quantile(0.7))
    cut = np.log(np.minimum(each["flops"], most))
    found = restricted_mean(each["flops"], each["solved"], most)
    assert float(found) == pytest.approx(np.exp(cut.mean()))
    half = 1.96 * cut.std(ddof=0) / np.sqrt(40)
    assert np.log(found.high) - np.log(found.low) == pytest.approx(2 * half, rel=0.02)
    e = np.e
    assert float(restricted_mean([1, e, e**2, e**3], [True, False, True, True], e**3)) == pytest.approx(np.exp(0.75 * 2 + 0.375))


@pytest.mark.parametrize("seed", range(12))
def test_the_fit_is_the_maximum_of_the_likelihood(seed):
    rng = np.random.default_rng(seed)
    runs = pd.concat(
        [arm(rng, 7, m, spread=rng.choice([0.05, 0.5, 1.5]), end=1.6).assign(arm=i) for i, m in enumerate((1.0, 1.5))]
    )
    log, solved = np.log(runs["flops"].to_numpy()), runs["solved"].to_numpy()
    design = np.column_stack([np.ones(len(runs)), runs["arm"]])

    def loss(p):
        z = (log - design @ p[:2]) / np.exp(p[2])
        return p[2] * solved.sum() - stats.norm.logpdf(z)[solved].sum() - stats.norm.logsf(z)[~solved].sum()

    bounds = [(None, None), (None, None), (np.log(0.04), None)]
    best = minimize(loss, [0.0, 0.0, 0.0], bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9}).x[1]
    assert _fit(log, solved, design, np.ones((1, len(runs))))[0] == pytest.approx(best, abs=1e-4)


def recovered(reps, seed, replicates=1):
    """Multipliers of pairs of ten runs with a true factor of 2, some 30 % of all runs censored."""
    rng = np.random.default_rng(seed)
    end = np.exp(np.quantile(rng.normal(0, 0.5, (20000, 2)) + np.log([1, 2]), 0.7))
    pairs = [(arm(rng, 10, 1.0, end=end), arm(rng, 10, 2.0, end=end)) for _ in range(reps)]
    lost = 1 - np.mean([each["solved"].mean() for pair in pairs for each in pair])
    assert lost == pytest.approx(0.3, abs=0.05)
    return [solving_multiplier(*pair, replicates=replicates).value for pair in pairs], pairs


def test_a_factor_of_two_is_recovered_under_censoring():
    found, pairs = recovered(60, 0)
    assert np.nanmedian(found) == pytest.approx(2, rel=0.15)
    naive = np.median([np.exp(np.log(b["flops"]).mean() - np.log(a["flops"]).mean()) for a, b in pairs])
    assert naive < 1.75  # what leaving the censoring out would say


@pytest.mark.slow
def test_the_multipliers_interval_covers():
    found, _ = recovered(300, 1, replicates=1000)
    known = [each for each in found if not np.isnan(each)]
    assert len(known) > 270
    assert np.mean([each.low <= 2 <= each.high for each in known]) == pytest.approx(0.95, abs=0.04)


def test_the_multiplier_keeps_its_laws():
    rng = np.random.default_rng(3)
    a, b = arm(rng, 8, 1e12, end=2.4e12), arm(rng, 8, 2e12, end=2.4e12)
    found, other = solving_multiplier(a, b, 300), solving_multiplier(b, a, 300)
    assert float(found.value) == pytest.approx(1 / float(other.value))
    shuffled = solving_multiplier(a.sample(frac=1, random_state=1), b.sample(frac=1, random_state=2), 300).value
    assert (found.value.low, found.value.high) == (shuffled.low, shuffled.high)
    tripled = solving_multiplier(a, b.assign(flops=3 * b["flops"]), 300).value
    one, three = ([float(each), each.low, each.high] for each in (found.value, tripled))
    np.testing.assert_allclose(three, 3 * np.array(one), rtol=1e-6)
    assert found.value.low <= found.value <= found.value.high


def test_tasks_differ_and_the_multiplier_is_common():
    rng = np.random.default_rng(4)
    parts = [(t, arm(rng, 12, 1e12 * 40**i, 0.2), arm(rng, 12, 3e12 * 40**i, 0.2)) for i, t in enumerate(("x", "y", "z"))]
    a, b = (pd.concat([part[i].assign(task=part[0]) for part in parts]) for i in (1, 2))
    found = solving_multiplier(a, b, 400)
    assert float(found.value) == pytest.approx(3, rel=0.15)
    assert found.value.high / found.value.low < 1.5
    assert found.verdict == "a needs less compute"


def test_verdicts_bounds_and_refusals():
    rng = np.random.default_rng(5)
    quick, slow = arm(rng, 6, 1e11, 0.2), arm(rng, 6, 1e13, 0.2, end=1e12)
    assert not slow["solved"].any()
    bound = solving_multiplier(quick, slow, 300)
    assert bound.bound.startswith("M > ")
    assert 5 < float(bound.bound.split()[-1]) < 10
    assert bound.verdict == "a needs less compute"
    assert solving_multiplier(slow, quick, 300).bound.startswith("M < ")
    assert solving_multiplier(slow, quick, 300).verdict == "b needs less compute"
    assert "fewer than half" in solving_multiplier(slow, slow).value.reason
    assert "a has 2 runs" in solving_multiplier(quick[:2], slow).value.reason
    noisy = [arm(rng, 5, 1e12, 1.0) for _ in range(2)]
    assert solving_multiplier(*noisy, 300).verdict == "cannot be told apart"
    same = [arm(rng, 200, 1e12, 0.1) for _ in range(2)]
    assert solving_multiplier(*same, 300).verdict == "no difference beyond a factor of 1.1"


def test_the_solving_profile_and_its_area():
    """By hand: a is quickest on one task and twice as slow on the other, half of b's runs are enough, nobody solves the third."""
    compute = {("x", "a"): (2, 1.0), ("x", "b"): (2, 3.0), ("y", "a"): (2, 2.0), ("y", "b"): (1, 1.0), ("z", "a"): (0, 9.0)}
    rows = [(*key, *value) for key, value in compute.items()]
    table = pd.DataFrame(rows, columns=["column", "row", "solved", "flops"]).assign(runs=2)
    found = solving_profile(table, [1, 2, 2.9, 3]).pivot(index="ratio", columns="row", values="share")
    np.testing.assert_allclose(found["a"], [1 / 3, 2 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(found["b"], [1 / 3, 1 / 3, 1 / 3, 2 / 3])
    scores = solving_score(table)
    assert scores["a"] == pytest.approx((1 + 0.5) / 3)
    assert scores["b"] == pytest.approx((1 + 1 - np.log(3) / np.log(4)) / 3)
    fine = solving_profile(table, np.geomspace(1, 4, 20001))
    area = fine.groupby("row")["share"].mean()
    np.testing.assert_allclose(area[scores.index], scores, atol=1e-3)


def with_scores(root, learns):
    """A store of one task whose curves carry interim scores: each architecture reaches 1 at a share of its budget, or never."""
    for name, share in learns.items():
        for seed in range(4):
            one = records.publish(root, records.run(records.spec(name, "recall", seed), 0.9))
            path = root / "runs" / one.id / "curve.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for row in rows[10::3]:
                row["score"] = 1.0 if share and row["flops"] > share * (1 + 0.1 * seed) * one.flops else 0.2
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_table_and_the_report_show_compute_to_solve(tmp_path):
    with_scores(tmp_path, {"transformer": 0.1, "linear_rnn": 0.4, "lstm": None})
    frame, points = analysis.results(tmp_path), analysis.curves(tmp_path)
    assert len(solve_runs(frame, points)) == 12
    table = solve_table(frame, points).set_index("row")
    assert list(table.index) == ["transformer", "linear_rnn", "lstm"]
    assert table["solved"].tolist() == [4, 4, 0]
    assert table["verdict"].tolist() == ["", *(f"transformer needs less compute than {row}" for row in ("linear_rnn", "lstm"))]
    assert table.loc["lstm", "multiplier"].startswith("M > ")
    text = analysis.render(frame, points)
    assert "recall: solving" in text
    assert text.count("transformer needs less compute than lstm") == 1
    page = analysis.write_report(analysis.Material(frame, points), tmp_path / "report", "lab compare").read_text("utf-8")
    assert "Compute to solve" in page
    bare = points.assign(score=np.nan)
    assert solve_table(frame, bare).empty
    assert "solving" not in analysis.render(frame, bare)


def test_a_diverged_run_counts_as_unsolved_to_its_budget(tmp_path):
    with_scores(tmp_path, {"transformer": 0.1})
    of = records.spec("transformer", "recall", 9)
    records.publish(tmp_path, records.run(of, None, status="diverged", scores={}, reason="loss was nan", steps=3, flops=10))
    found = solve_runs(analysis.results(tmp_path), analysis.curves(tmp_path)).set_index("id").loc[of.id]
    assert (found["flops"], found["solved"]) == (of.budget, False)

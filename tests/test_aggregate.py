"""Aggregates over tasks against scipy, against values worked out by hand, and against reordering."""

from itertools import product

import numpy as np
import pytest
import records
from scipy import stats

from lab import analysis
from lab.analysis.aggregate import (
    aggregate_verdict,
    aggregates,
    interquartile_mean,
    normalised,
    performance_profile,
    probability_of_improvement,
    sign_flip,
    stratified_bootstrap,
    wilson,
)


def drawn(seed, tasks=3, runs=5, shift=0.0):
    rng = np.random.default_rng(seed)
    return {f"task{i}": rng.normal(0.4 + 0.1 * i + shift, 0.1, runs) for i in range(tasks)}


@pytest.mark.parametrize("count", [1, 3, 4, 7, 8, 101])
def test_interquartile_mean_is_the_trimmed_mean(count):
    scores = np.random.default_rng(count).standard_cauchy((6, count))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=1), rtol=1e-12)
    np.testing.assert_allclose(interquartile_mean(scores, axis=0), stats.trim_mean(scores, 0.25), rtol=1e-12)


@pytest.mark.parametrize(("solved", "runs"), [(0, 1), (0, 5), (3, 10), (5, 5), (50, 100)])
def test_wilson_is_scipys(solved, runs):
    expected = stats.binomtest(solved, runs).proportion_ci(method="wilson")
    found = wilson(solved, runs)
    assert float(found) == solved / runs
    np.testing.assert_allclose((found.low, found.high), expected, atol=1e-12)


@pytest.mark.parametrize(("solved", "runs"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_cannot_be(solved, runs):
    with pytest.raises(ValueError, match="runs solved"):
        wilson(solved, runs)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_sign_flip_counts_every_pattern(count):
    a, b = np.random.default_rng(count).normal(size=(2, count))
    patterns = np.array(list(product([1, -1], repeat=count))) @ (a - b)
    assert sign_flip(a, b) == pytest.approx((np.abs(patterns) >= abs((a - b).sum()) - 1e-12).mean(), abs=1e-12)
    test = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    )
    assert sign_flip(a, b) == pytest.approx(test.pvalue)


def test_sign_flip_has_its_least_p_and_leaves_out_missing_pairs():
    assert sign_flip([1.0, 2, 3, 4, 5], [0.0] * 5) == 2.0**-4
    assert sign_flip([1.0, 2, np.nan], [0.0, np.nan, 1]) == 1.0
    assert np.isnan(sign_flip([np.nan], [1.0]))
    assert sign_flip([0.5, 0.5], [0.5, 0.5]) == 1.0


def test_many_pairs_are_a_t_test():
    a, b = np.random.default_rng(1).normal([[0.3], [0.0]], 1, (2, 60))
    assert sign_flip(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    exact = sign_flip(a[:20], b[:20])
    assert exact == pytest.approx(stats.ttest_rel(a[:20], b[:20]).pvalue, rel=0.15)


def test_probability_of_improvement_is_the_mean_of_u():
    a, b = drawn(1, shift=0.05), drawn(2, runs=4)
    b["task0"][:2] = a["task0"][:2]  # ties
    expected = np.mean([stats.mannwhitneyu(a[task], b[task]).statistic / (len(a[task]) * len(b[task])) for task in a])
    found = probability_of_improvement(a, b)
    assert float(found) == pytest.approx(expected)
    assert 0 <= found.low <= found <= found.high <= 1
    assert float(probability_of_improvement(b, a)) == pytest.approx(1 - expected)
    assert float(probability_of_improvement(a, a)) == pytest.approx(0.5)
    assert probability_of_improvement({"x": [1.0] * 3}, {"x": [0.0] * 3}) == 1.0
    with pytest.raises(ValueError, match="no task"):
        probability_of_improvement({"x": [1.0]}, {"y": [1.0]})


def test_resamples_count_as_if_all_pairs_of_their_runs_were_compared():
    a, b = np.array([0.1, 0.4, 0.4, 0.7]), np.array([0.2, 0.4, 0.4, 0.4, 0.9])
    rng, shares = np.random.default_rng(3), []
    ours, theirs = rng.integers(4, size=(500, 4)), rng.integers(5, size=(500, 5))
    for x, y in zip(a[ours], b[theirs], strict=True):
        shares.append(np.mean([(left > right) + (left == right) / 2 for left in x for right in y]))
    found = probability_of_improvement({"x": a}, {"x": b}, replicates=500, seed=3)
    assert [found.low, found.high] == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=1e-12)


def test_the_bootstrap_resamples_within_tasks():
    """Two constant tasks: resampling within them cannot change anything, resampling over them would."""
    constant = stratified_bootstrap({"easy": [1.0] * 4, "hard": [0.0] * 4}, lambda scores: scores.mean(-1))
    assert (float(constant), constant.low, constant.high) == (0.5, 0.5, 0.5)
    scores = {"a": np.random.default_rng(0).normal(size=60)}
    found = stratified_bootstrap(scores, lambda values: values.mean(-1), replicates=4000)
    half = 1.96 * scores["a"].std() / np.sqrt(60)
    np.testing.assert_allclose((found.low, found.high), (found - half, found + half), atol=0.02)


def test_few_runs_have_no_interval_and_say_so():
    found = stratified_bootstrap({"a": [0.1, 0.2], "b": [0.1, 0.2, 0.3]})
    assert np.isnan(found.low)
    assert found.reason == "a: fewer than 3 runs"
    assert performance_profile({"a": [0.1, 0.2]})["low"].isna().all()
    with pytest.raises(ValueError, match="without a score"):
        stratified_bootstrap({"a": [0.1, np.nan]})


def test_a_profile_is_one_minus_the_distribution():
    scores = drawn(3)
    found = performance_profile(scores, thresholds=np.linspace(-0.2, 1.2, 15))
    every = np.concatenate(list(scores.values()))
    np.testing.assert_allclose(found["share"], 1 - stats.ecdf(every).cdf.evaluate(found["threshold"]))
    assert found["share"].is_monotonic_decreasing
    assert ((found["low"] <= found["share"]) & (found["share"] <= found["high"])).all()


def test_order_and_the_global_generator_do_not_matter():
    scores, other = drawn(4), drawn(5)
    mixed = {task: scores[task][::-1] for task in reversed(scores)}
    np.random.seed(0)  # noqa: NPY002
    first = [stratified_bootstrap(scores), probability_of_improvement(scores, other)]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    again = [stratified_bootstrap(mixed), probability_of_improvement(mixed, other)]
    assert [(x, x.low, x.high) for x in first] == [(x, x.low, x.high) for x in again]
    np.random.seed(0)  # noqa: NPY002
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert stratified_bootstrap(scores, seed=1).low != first[0].low
    assert performance_profile(mixed).equals(performance_profile(scores))


def test_aggregates_of_a_store(tmp_path):
    """Tasks scored by right answers alone; a diverged run counts as chance; the verdict is words."""
    records.store(tmp_path, seeds=5)
    frame = analysis.results(tmp_path)
    known = normalised(frame)
    assert set(known["task"]) == {"recall", "copying", "digits"}
    one = known[(known["task"] == "recall") & (known["seed"] == 0)].iloc[0]
    assert one["normalised"] == pytest.approx((one["score"] - 1 / 32) / (31 / 32))
    assert (known.loc[known["status"] == "diverged", "normalised"] == 0).all()
    table = aggregates(frame)
    assert list(table["row"]) == ["transformer", "linear_rnn", "lstm"]
    assert list(table["runs"]) == [15, 14, 15]
    assert table["apart"].tolist() == [False, True, True]
    assert aggregate_verdict(table) == "transformer leads over all 3 tasks together"
    assert analysis.aggregates(frame.sample(frac=1, random_state=0)).equals(table)
    text = analysis.render(frame)
    assert "3 tasks, 1e11 FLOPs" in text
    assert "leads over all 3 tasks" in text
    level = aggregates(frame[frame["seed"] == 0])
    assert aggregate_verdict(level) == "transformer, linear_rnn and lstm cannot be told apart over 3 tasks together"
    assert aggregates(frame[frame["task"] == "recall"]).empty
    assert aggregates(frame[frame["task"] == "text"]).empty

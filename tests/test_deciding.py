"""Verdicts follow from data: planted differences, with known noise, give each of the three."""

import numpy as np
import pandas as pd
import pytest

from lab.analysis.deciding import decide, scope, sentence, verdict
from lab.errors import UsageError
from lab.study import Rule

SEEDS = 5


def rows(noise=0.01, **means):
    """A score for each architecture, task and seed; what a seed adds to both architectures cancels in pairs."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1.0, (2, SEEDS))
    return pd.DataFrame(
        [
            {"part": "p", "architecture": name, "task": task, "budget": 1e9, "seed": seed, "length": 8.0,
             "score": mean + 10 * place + shared[place, seed] + rng.normal(0, noise)}
            for name, mean in means.items() for place, task in enumerate(("x", "y")) for seed in range(SEEDS)
        ]
    )  # fmt: skip


def rule(**more):
    return Rule("a beats b", **({"of": {"architecture": "a"}, "against": {"architecture": "b"}, "above": 0.5} | more))


@pytest.mark.parametrize(
    ("difference", "noise", "expected"),
    [(1.0, 0.01, "supported"), (0.1, 0.01, "not supported"), (0.7, 0.5, "undecided"), (-1.0, 0.01, "not supported")],
)
def test_planted_differences_give_each_verdict(difference, noise, expected):
    data = rows(noise, a=3.0 + difference, b=3.0)
    (clause,) = decide([rule()], data)
    assert clause.verdict == expected
    assert clause.value == pytest.approx(difference, abs=3 * noise)
    assert clause.low < clause.value < clause.high
    assert sentence([clause], data).lower().startswith(expected)


def test_below_is_the_mirror_of_above():
    data = rows(a=2.0, b=3.0)
    assert [each.verdict for each in decide([rule(above=None, below=-0.5), rule(above=None, below=-1.5)], data)] == [
        "supported",
        "not supported",
    ]


def test_the_interval_is_the_paired_t_interval_over_seeds():
    from scipy.stats import ttest_rel

    data = rows(0.2, a=4.0, b=3.0)
    a, b = (data[data["architecture"] == name].groupby("seed")["score"].mean() for name in "ab")
    expected = ttest_rel(a, b).confidence_interval(0.95)
    (clause,) = decide([rule()], data)
    assert (clause.low, clause.high) == pytest.approx((expected.low, expected.high))
    assert clause.count == SEEDS


def test_parts_with_a_budget_each_are_paired():
    """What is the same in all rows of a side, as the budget of a part, sets no rows apart."""
    data = rows(a=4.0, b=3.0)
    data["budget"] = np.where(data["architecture"] == "a", 1e10, 1e9)
    assert decide([rule()], data)[0].value == pytest.approx(1.0, abs=0.05)


def test_ratios_are_of_geometric_means():
    data = rows(a=4.0, b=3.0)
    data["score"] = np.where(data["architecture"] == "a", 6.0, 2.0) * (1 + data["seed"])
    (clause,) = decide([rule(by="ratio")], data)
    assert (clause.value, clause.low, clause.high) == pytest.approx((3, 3, 3))


def test_the_greatest_of_several_is_taken_by_seed():
    data = rows(0.0, a=4.0, b=3.0)
    data.loc[(data["architecture"] == "a") & (data["task"] == "y"), "score"] += 5
    found = {take: decide([rule(take=take)], data)[0].value for take in ("greatest", "mean", "least")}
    assert found == pytest.approx({"greatest": 6, "mean": 3.5, "least": 1})


def test_without_another_the_quantity_itself_is_held_to_the_bound():
    data = rows(a=4.0, b=3.0)
    (clause,) = decide([rule(against={}, above=0.0)], data)
    assert clause.value == pytest.approx(data.loc[data["architecture"] == "a", "score"].mean())


def test_rows_with_intervals_of_their_own_keep_them():
    data = pd.DataFrame({"part": "p", "step": ["a", "c"], "against": "b", "m": [3.0, np.nan], "m_low": [2.0, np.nan],
                         "m_high": [5.0, np.nan], "reason": ["", "no overlap"], "seed": np.nan})  # fmt: skip
    wanted = [rule(of={"step": step, "against": "b"}, against={}, quantity="m", above=1.5) for step in "ac"]
    first, second = decide(wanted, data)
    assert (first.verdict, first.low) == ("supported", 2.0)
    assert (second.verdict, second.reason) == ("undecided", "no overlap")
    assert "no overlap" in sentence([first, second], data)


def test_a_bound_decides_where_it_is_enough():
    data = pd.DataFrame({"part": "p", "step": ["a", "c"], "m": np.nan, "m_low": [8.0, 0.0], "m_high": [np.inf, 0.5],
                         "reason": "the frontiers share no losses", "seed": np.nan})  # fmt: skip
    wanted = {
        (step, above): rule(of={"step": step}, against={}, quantity="m", above=above) for step in "ac" for above in (6, 0.1, 9)
    }
    found = dict(zip(wanted, decide(list(wanted.values()), data), strict=True))
    assert {key: each.verdict for key, each in found.items()} == {
        ("a", 6): "supported", ("a", 0.1): "supported", ("a", 9): "undecided",
        ("c", 6): "not supported", ("c", 0.1): "undecided", ("c", 9): "not supported",
    }  # fmt: skip
    assert found["a", 6].told == "above 8, the frontiers share no losses"


def test_lost_runs_are_told_and_too_few_seeds_decide_nothing():
    data = rows(a=9.0, b=3.0)
    data.loc[(data["architecture"] == "a") & (data["seed"] > 1), "score"] = np.nan
    (clause,) = decide([rule()], data)
    assert (clause.verdict, clause.count, clause.lost) == ("undecided", 2, 6)
    assert "2 of 3 seeds needed" in clause.told
    assert "6 runs" in clause.told


def test_a_claim_needs_all_of_its_clauses():
    data = rows(a=4.0, b=3.0)
    yes, no, open_ = rule(), rule(above=2.0), rule(above=decide([rule()], data)[0].value)
    assert verdict(decide([yes, yes], data)) == "supported"
    assert verdict(decide([yes, open_], data)) == "undecided"
    assert verdict(decide([yes, open_, no], data)) == "not supported"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"quantity": "scor"}, "nothing measured is called 'scor'"),
        ({"of": {"architectur": "a"}}, "nothing measured is called 'architectur'"),
        ({"of": {"architecture": "z"}}, "nothing measured has architecture 'z'; there are a and b"),
    ],
)
def test_rules_for_what_was_not_measured_are_refused(more, message):
    with pytest.raises(UsageError, match=message):
        decide([rule(**more)], rows(a=4.0, b=3.0))


def test_the_range_is_told():
    data = rows(a=4.0, b=3.0)
    assert scope(data) == "at 1e9 FLOPs a run, at lengths of 8, with 5 seeds"

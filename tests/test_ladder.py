"""A ladder on made-up sweeps whose multipliers are known."""

import numpy as np
import pandas as pd
import pytest
from test_frontier import BUDGETS, TRUTH, sweep

from lab.analysis.ladder import ladder, told


def runs(factor, **more):
    """A sweep that needs `factor` times the FLOPs for everything."""
    frame = sweep(TRUTH["archA"], seeds=1, **more)
    return frame.assign(flops=frame["flops"] * factor, metric="accuracy", score=0.5)


def test_each_step_is_read_against_the_one_before_and_against_the_first():
    steps = {"start": runs(1.0), "worse": runs(1.25), "better": runs(0.5)}
    found = ladder(steps)
    assert list(found["step"]) == ["worse", "better"]
    assert found["multiplier"].to_list() == pytest.approx([1 / 1.25, 2.5], rel=1e-3)
    assert found["total"].to_list() == pytest.approx([1 / 1.25, 2.0], rel=1e-3)
    assert (found["scaling"] == "a constant factor").all()
    assert ((found["low"] <= found["multiplier"]) & (found["multiplier"] <= found["high"])).all()
    text = told(found, "start")
    assert "2.5 [" in text
    assert text.index("start") < text.index("worse") < text.index("better")


def test_a_step_that_shares_no_loss_is_told_and_not_read():
    far = runs(1.0, budgets=BUDGETS * 1e6)
    found = ladder({"start": runs(1.0), "far": far})
    assert found["multiplier"].isna().all()
    assert "share no losses" in found["reason"].iloc[0]
    assert "cannot be told" in told(found, "start")


def test_a_step_that_is_better_at_every_budget_is_bounded():
    """It saves 10,000 times; what can be read of budgets a factor of 100 apart is that the least of them buys more."""
    start, better = runs(1.0), runs(1.0, budgets=BUDGETS * 1e4).assign(flops=runs(1.0)["flops"])
    found = ladder({"start": start, "better": better})
    assert np.isnan(found["multiplier"].iloc[0])
    assert found[["low", "high"]].iloc[0].to_list() == pytest.approx([100, np.inf])
    assert "above 100" in told(found, "start")
    back = ladder({"better": better, "start": start})
    assert back[["low", "high"]].iloc[0].to_list() == pytest.approx([0, 0.01])
    assert "below 0.01" in told(back, "better")


def test_a_step_without_runs_is_told():
    found = ladder({"start": runs(1.0), "none": runs(1.0).assign(loss=float("nan"))})
    assert "no run with a loss" in found["reason"].iloc[0]
    assert pd.isna(found["total"].iloc[0])

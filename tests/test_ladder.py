"""A ladder on made-up sweeps whose multipliers are known."""

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
    assert "2.50 [" in text
    assert text.index("start") < text.index("worse") < text.index("better")


def test_a_step_that_shares_no_loss_is_told_and_not_read():
    far = runs(1.0, budgets=BUDGETS * 1e6)
    found = ladder({"start": runs(1.0), "far": far})
    assert found["multiplier"].isna().all()
    assert "share no losses" in found["reason"].iloc[0]
    assert "cannot be told" in told(found, "start")


def test_a_step_without_runs_is_told():
    found = ladder({"start": runs(1.0), "none": runs(1.0).assign(loss=float("nan"))})
    assert "no run with a loss" in found["reason"].iloc[0]
    assert pd.isna(found["total"].iloc[0])

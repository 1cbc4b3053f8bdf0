"""What the parts of a study measure: known sweeps, curves and backbones give known numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_ladder import runs as made_up

from lab.evidence import Site, frontier, gather, precision, speed
from lab.evidence.runs import _at_equal
from lab.frontier import Found
from lab.speed import Stand
from lab.study import Frontier, Precision, Speed, Step


def test_a_frontier_compares_every_step_with_all_before_it(monkeypatch):
    sweeps = {"first": made_up(1.0), "second": made_up(0.5), "third": made_up(0.25)}
    sweeps = {name: frame.assign(budget=frame["flops"], architecture=name, status="done") for name, frame in sweeps.items()}
    monkeypatch.setattr(frontier, "_carry_out", lambda part, site, plan_only=False: Found(sweeps, {}))
    monkeypatch.setattr("lab.analysis.figures.charts", lambda *_: [])
    part = Frontier("text", ["1e9"], [Step(name, "lstm") for name in sweeps])
    rows = gather("p", part, Site()).rows
    pairs = rows.dropna(subset="against").set_index(["step", "against"])["multiplier"]
    assert pairs[("second", "first")] == pytest.approx(2, rel=1e-3)
    assert pairs[("third", "first")] == pytest.approx(4, rel=1e-3)
    assert pairs[("third", "second")] == pytest.approx(2, rel=1e-3)
    assert (rows["slope"].dropna().abs() < 1e-3).all()
    alone = rows[rows["against"].isna()].set_index("step")["loss_exponent"]
    assert alone["first"] == pytest.approx(alone["third"], rel=1e-3)
    assert alone["first"] > 0
    assert (rows["part"] == "p").all()


def test_speeds_are_repeated_with_a_seed_each(monkeypatch):
    asked = []

    def measure(stand, names, lengths, tokens, rounds, peers, contexts):
        asked.append((stand.form, names, lengths, contexts))
        rows = [{"stack": name, "settings": "tuned", "length": length, "tokens_per_second": 100.0 + len(asked)}
                for name in names for length in lengths]  # fmt: skip
        return pd.DataFrame(rows), {}

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(speed, "told", lambda about: "measured")
    monkeypatch.setattr("lab.analysis.benchmark_chart", lambda frame, said: type("Chart", (), {})())
    found = gather("p", Speed(["lstm"], [8, 16], seeds=3, form="recurrent"), Site())
    assert asked == [("recurrent", ["lstm"], [8, 16], [])] * 3
    assert found.rows.groupby("length")["seed"].nunique().to_dict() == {8: 3, 16: 3}
    assert set(found.rows["architecture"]) == {"lstm"}
    assert found.charts[0].name == "speed-p", "parts of one study do not draw over one another"


@pytest.mark.parametrize("stack", ["linear_rnn", "lstm"])
def test_one_position_after_the_other_is_the_same_map(stack):
    at_once, stepwise = (Stand(stack, 16, 2, tuned=False, form=form).build() for form in ("parallel", "recurrent"))
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(stepwise(x), at_once(x), atol=1e-5, rtol=1e-4)


def test_errors_of_both_forms_are_measured_in_both_precisions():
    found = precision.gather(Precision(["linear_rnn", "transformer:attention=window,window=8"], [16, 64], seeds=2), Site())
    rows = found.rows
    assert len(rows) == 2 * 2 * 2
    assert (rows["streaming_float64"] < 1e-12).all()
    assert ((rows["streaming"] < 1e-4) & (rows["bfloat16"] > rows["float32"])).all()
    assert rows.groupby(["architecture", "length"])["float32"].nunique().eq(2).all(), "each seed draws its own weights"
    assert found.charts[0].name == "errors"


def test_losses_are_read_where_the_first_run_of_a_group_ended():
    frame = pd.DataFrame({"id": ["a", "b", "c"], "task": "t", "budget": 1.0, "seed": [0, 0, 1]})
    points = pd.DataFrame(
        {"id": ["a", "a", "b", "b"], "seconds": [0.0, 10.0, 0.0, 5.0], "tokens": [0, 100, 0, 400], "loss": [4.0, 2.0, 4.0, 3.0]}
    )
    np.testing.assert_allclose(_at_equal("seconds", frame, points), [3.0, 3.0, np.nan])
    np.testing.assert_allclose(_at_equal("tokens", frame, points), [2.0, 3.75, np.nan])

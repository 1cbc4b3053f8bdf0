"""Sweeps and tuning on made-up losses: what is asked for next, where the optimum is found, what happens at edges."""

import dataclasses
import math
import random

import numpy as np
import pandas as pd
import pytest
import records

from lab.analysis import frontier
from lab.budget import parse_budgets
from lab.errors import BudgetError, UsageError
from lab.planning import Planned, Planner
from lab.sweep import SPAN, Grid, Sweep, depth_of
from lab.tuning import Search

BUDGETS = (1e11, 3.162e11, 1e12, 3.162e12, 1e13)
TRUTH = {"A": 482.0, "B": 2085.4, "E": 1.8169, "alpha": 0.3478, "beta": 0.3658}


@dataclasses.dataclass
class Imaginary(Planner):
    """Plans without building models. smallest, largest: sizes that can be had."""

    smallest: float = 0.0
    largest: float = math.inf

    def plan(self, architecture, task, budget, seed):
        if self.shape.size < self.smallest:
            raise UsageError(f"--size {self.shape.size}: no width comes within 2%")
        if self.shape.size > self.largest:
            raise BudgetError("--budget: does not pay for one step")
        spec = records.spec(
            architecture, task, seed, budget=budget, dim=round(self.shape.size), recipe=records.RECIPE | {"lr": self.lr or 3e-3}
        )
        return Planned(spec, 100, round(self.shape.size), 1.0)


def loss(spec, off=1.0, sigma=0.0):
    """Of a run with `dim` parameters; `off` moves every optimum by that factor in size."""
    size = spec.dim / off
    tokens = spec.budget / 6 / size
    noise = sigma * np.random.default_rng([spec.seed, spec.dim]).standard_normal() if sigma else 0
    return TRUTH["E"] + TRUTH["A"] / size ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"] + noise


def best_size(budget, off=1.0):
    a, b, _, alpha, beta = TRUTH.values()
    return off * (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (budget / 6) ** (beta / (alpha + beta))


def carried_out(asker, outcome, stop_after=None, shuffled=None):
    """All runs, in the order in which they were asked for; each is done once."""
    outcomes: dict[str, float | None] = {}
    done: dict[str, Planned] = {}
    while wanted := asker.wanted(outcomes):
        if shuffled:
            shuffled.shuffle(wanted)
        for each in wanted[:1] if shuffled else wanted:
            assert each.spec.id not in done
            done[each.spec.id] = each
            outcomes[each.spec.id] = outcome(each.spec)
            if stop_after is not None and len(done) >= stop_after:
                return done, outcomes
    return done, outcomes


@pytest.mark.parametrize("off", [1.0, 6.0, 1 / 6])
def test_the_optimum_is_found_wherever_it_lies(off):
    grid = Grid(BUDGETS)
    done, _ = carried_out(Sweep(Imaginary(), "a", "text", grid), lambda spec: loss(spec, off))
    runs = pd.DataFrame([(each.spec.budget, each.spec.dim, loss(each.spec, off)) for each in done.values()],
                        columns=["flops", "params", "loss"])  # fmt: skip
    front = frontier(runs, replicates=2)
    assert list(front.points["status"]) == ["ok"] * len(BUDGETS)
    assert front.points["params"].to_numpy() == pytest.approx([best_size(c, off) for c in BUDGETS], rel=0.15)
    reach = runs.groupby("flops")["params"].agg(["min", "max"])
    assert (reach["max"] / reach["min"] >= SPAN**2 * 0.99).all()
    assert len(done) <= len(BUDGETS) * 10


def test_a_sweep_that_was_cut_anywhere_ends_with_the_same_runs():
    def sweep():
        return Sweep(Imaginary(), "a", "text", Grid(BUDGETS, seeds=3))

    whole, _ = carried_out(sweep(), lambda spec: loss(spec, 3.0, 0.003))
    for cut in (1, 6, 7, 8, 20, len(whole) - 1):
        _, outcomes = carried_out(sweep(), lambda spec: loss(spec, 3.0, 0.003), stop_after=cut)
        again, more = sweep(), dict(outcomes)
        while wanted := again.wanted(more):
            more |= {each.spec.id: loss(each.spec, 3.0, 0.003) for each in wanted}
        assert set(more) == set(whole)
    one_by_one, _ = carried_out(sweep(), lambda spec: loss(spec, 3.0, 0.003), shuffled=random.Random(0))
    assert set(one_by_one) == set(whole)


def test_seeds_go_to_the_sizes_next_to_the_optimum_up_to_the_middle_budget():
    done, _ = carried_out(Sweep(Imaginary(), "a", "text", Grid(BUDGETS, seeds=3)), loss)
    more = [each.spec for each in done.values() if each.spec.seed]
    assert sorted({spec.budget for spec in more}) == list(BUDGETS[:3])
    assert len(more) == 3 * 3 * 2
    for budget in BUDGETS[:3]:
        sizes = [spec.dim for spec in more if spec.budget == budget]
        assert max(sizes) / best_size(budget) < SPAN ** (2 / 6 * 2)


def test_sizes_that_cannot_be_had_are_left_out_and_an_optimum_beyond_them_is_not_chased_for_ever():
    small = best_size(BUDGETS[0]) * 2
    done, outcomes = carried_out(Sweep(Imaginary(smallest=small), "a", "text", Grid(BUDGETS)), loss)
    assert min(each.spec.dim for each in done.values()) >= small
    runs = [(each.spec.budget, each.spec.dim, outcomes[key]) for key, each in done.items()]
    points = frontier(pd.DataFrame(runs, columns=["flops", "params", "loss"]), replicates=2).points
    assert points["status"].iloc[0] != "ok"
    assert points["status"].iloc[-1] == "ok"
    done, _ = carried_out(Sweep(Imaginary(), "a", "text", Grid(BUDGETS)), lambda spec: spec.dim**-0.1)
    assert len(done) == len(BUDGETS) * (7 + 3)


def test_an_architecture_without_any_size_near_is_refused():
    with pytest.raises(UsageError, match="--budgets 1e\\+11: no size of a near"):
        Sweep(Imaginary(smallest=1e9), "a", "text", Grid(BUDGETS)).wanted({})
    with pytest.raises(UsageError, match="--sizes 3"):
        Grid(BUDGETS, sizes=3)


def test_runs_that_diverge_are_left_out():
    """Larger sizes that diverged ask for no still larger ones; where all did, smaller ones are tried."""
    limit = best_size(BUDGETS[0]) * 1.5
    done, outcomes = carried_out(
        Sweep(Imaginary(), "a", "text", Grid(BUDGETS[:1])), lambda spec: None if spec.dim > limit else loss(spec)
    )
    assert None in outcomes.values()
    assert len(done) == 7
    done, _ = carried_out(Sweep(Imaginary(), "a", "text", Grid(BUDGETS[:1])), lambda spec: None)
    assert len(done) == 10


def test_depth_grows_with_size_and_rates_are_read_between_the_tuned_sizes():
    assert [depth_of(size) for size in (1e3, 1e5, 3e5, 1e6, 1e7)] == [2, 2, 3, 4, 9]
    sweep = Sweep(Imaginary(), "a", "text", Grid(BUDGETS), rates={1e4: 8e-3, 1e6: 2e-3})
    at = {cell.parameters: cell.spec.recipe["lr"] for cell in sweep.expected()}
    assert at[10000] == pytest.approx(8e-3)
    assert max(at.values()) <= 8e-3
    assert min(at.values()) >= 2e-3
    for size, rate in at.items():
        if 1e4 < size < 1e6:
            assert rate == pytest.approx(8e-3 * (size / 1e4) ** (math.log(1 / 4) / math.log(100)), rel=1e-2)


def test_budgets_are_amounts_or_rows():
    assert parse_budgets(["1e11:1e13:5"]) == (1e11, 3.162e11, 1e12, 3.162e12, 1e13)
    assert parse_budgets(["1TF", "3e10"]) == (3e10, 1e12)
    for wrong in ("1e11:1e13", "1e11:1e13:1", "1e13:1e11:3", "1e11:x:3", "1:2:3:4", "1e11:1e13:-5"):
        with pytest.raises(UsageError, match="--budgets"):
            parse_budgets([wrong])


def rated(best, width=0.3, diverges_above=math.inf):
    """Validation loss that is least at a learning rate."""

    def outcome(spec):
        rate = spec.recipe["lr"]
        return None if rate > diverges_above else 2 + width * math.log2(rate / best) ** 2

    return outcome


def search(trials=5, **planner) -> Search:
    return Search(Imaginary(**planner), "lstm", "text", 1e12, trials)


@pytest.mark.parametrize("best", [3e-3, 1e-4, 0.09])
def test_the_rate_has_a_neighbour_on_either_side(best):
    asked = search()
    done, outcomes = carried_out(asked, rated(best))
    choice = asked.choice(outcomes)
    assert abs(math.log2(choice.lr / best)) <= 0.51
    assert not choice.edge
    assert all(by > 0 for by in choice.worse)
    assert choice.trials == len(done)
    assert choice.flops == pytest.approx(1e12 * len(done) / 5)


def test_a_rate_that_is_ever_better_is_told_as_an_edge():
    asked = search()
    done, outcomes = carried_out(asked, lambda spec: 2 + spec.recipe["lr"])
    assert len(done) == 5 + 6
    assert asked.choice(outcomes).edge
    assert "at the edge" in str(asked.choice(outcomes))


def test_rates_that_diverge_are_no_choice():
    asked = search()
    _, outcomes = carried_out(asked, rated(3e-3, diverges_above=4e-3))
    assert asked.choice(outcomes).lr == 3e-3
    assert asked.choice(outcomes).worse[1] is None
    asked = search()
    _, outcomes = carried_out(asked, lambda spec: None)
    with pytest.raises(UsageError, match="every trial of lstm diverged"):
        asked.choice(outcomes)
    with pytest.raises(UsageError, match="--tune 2"):
        search(2)


def test_what_a_backbone_declares_as_its_own_is_searched_at_the_same_cost(monkeypatch):
    from architectures.lstm import LSTM

    monkeypatch.setattr(LSTM, "searched", {"hidden": (32, 64)}, raising=False)
    asked = search()
    done, outcomes = carried_out(asked, lambda spec: rated(3e-3)(spec) - ("hidden=64" in spec.architecture))
    assert {each.spec.architecture for each in done.values()} == {"lstm:hidden=32", "lstm:hidden=64"}
    choice = asked.choice(outcomes)
    assert choice.architecture == "lstm:hidden=64"
    assert choice.flops == pytest.approx(1e12)

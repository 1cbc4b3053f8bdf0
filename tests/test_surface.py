"""Loss surfaces against known coefficients, closed forms and what data cannot tell."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lab.analysis import fit_loss_surface
from lab.analysis.surface import _PREDICT, _Data, _value

FIXTURES = Path(__file__).parent / "fixtures"
CLEAN = {
    "archA": {"A": 482.0, "B": 2085.4, "E": 1.8169, "alpha": 0.3478, "beta": 0.3658},
    "archB": {"A": 700.0, "B": 1500.0, "E": 1.8169, "alpha": 0.36, "beta": 0.36},
}
NOISY = {
    "archA": {"A": 511.88348, "B": 2149.23096, "E": 1.82831134, "alpha": 0.35174118, "beta": 0.36734768},
    "archB": {"A": 722.89315, "B": 1491.69645, "E": 1.81772552, "alpha": 0.36190627, "beta": 0.35962967},
}
EPOCH = {1e18: (80531862.26, 2069574227.97, 3.49049151), 1e21: (2778459463.07, 59985279210.32, 2.30552857)}


@pytest.fixture(scope="module")
def runs():
    return pd.read_csv(FIXTURES / "two_arch_isoflop.csv").groupby("arch")


def scattered(count=245, seed=0):
    """Params, tokens and noisy losses that do not lie on iso-FLOP lines."""
    rng = np.random.default_rng(seed)
    params = np.exp(rng.uniform(np.log(5e7), np.log(1e10), count))
    tokens = params * np.exp(rng.uniform(0, np.log(200), count))
    loss = 1.8169 + 482 / params**0.3478 + 2085.4 / tokens**0.3658
    return params, tokens, loss * np.exp(0.003 * rng.standard_t(3, count))


def test_known_coefficients_without_noise(runs):
    frame = runs.get_group("archB")
    clean = fit_loss_surface(frame["params"], frame["tokens"], frame["loss_clean"], replicates=0)
    assert clean.coefficients == pytest.approx(CLEAN["archB"], rel=1e-6)


@pytest.mark.parametrize("arch", CLEAN)
def test_known_coefficients(runs, arch):
    frame = runs.get_group(arch)
    noisy = fit_loss_surface(frame["params"], frame["tokens"], frame["loss"], delta=1e-3, replicates=60)
    assert noisy.coefficients == pytest.approx(NOISY[arch], rel=1e-4)
    assert noisy.starts[0] >= 3
    assert noisy.starts[1] == 73
    assert noisy.gradient < 1e-8
    assert noisy.plannable
    assert not noisy.warnings
    for name in ("E", "alpha", "beta"):
        read = noisy.coefficient(name)
        assert read.low < NOISY[arch][name] < read.high
        assert 0 < read.high - read.low < 0.1
    exponent = noisy.params_exponent
    assert exponent.low < CLEAN[arch]["beta"] / (CLEAN[arch]["alpha"] + CLEAN[arch]["beta"]) < exponent.high


@pytest.mark.parametrize("form", ["hoffmann", "kaplan"])
def test_the_gradient_is_that_of_the_objective(form):
    data = _Data(*scattered(40))
    theta = np.array([0.3, -0.2, 0.4, 0.3, 0.4] if form == "hoffmann" else [1.0, 0.9, 0.1, np.log(0.2)])
    steps = 1e-6 * np.eye(len(theta))
    numeric = [(_value(theta + s, form, data, 0.05)[0] - _value(theta - s, form, data, 0.05)[0]) / 2e-6 for s in steps]
    assert _value(theta, form, data, 0.05)[1] == pytest.approx(np.array(numeric), rel=1e-4)
    slopes = [(_PREDICT[form](theta + s, data.x, data.z)[0] - _PREDICT[form](theta - s, data.x, data.z)[0]) / 2e-6 for s in steps]
    np.testing.assert_allclose(_PREDICT[form](theta, data.x, data.z)[1], slopes, atol=1e-7)


def test_the_optimum_is_the_closed_form_and_the_best_of_a_grid():
    params, tokens, _ = scattered(60)
    loss = 1.8172 + 482.01 / params**0.3478 + 2085.43 / tokens**0.3658
    fitted = fit_loss_surface(params, tokens, loss, replicates=5)
    found = fitted.optimum(np.array(list(EPOCH)))
    assert found[["params", "tokens", "loss"]].to_numpy() == pytest.approx(np.array(list(EPOCH.values())), rel=2e-3)
    np.testing.assert_allclose(6 * found["params"] * found["tokens"], found["flops"])
    sizes = np.geomspace(1e7, 1e10, 2001)
    best = fitted.optimum(1e18, sizes, 6 * sizes).iloc[0]
    assert best["params"] == pytest.approx(found["params"].iloc[0], rel=4e-3)
    dear = fitted.optimum(1e18, sizes, 6 * sizes + 1e-8 * sizes**2).iloc[0]
    assert dear["params"] < best["params"]
    with pytest.raises(ValueError, match="come together"):
        fitted.optimum(1e18, sizes)


def test_kaplans_form_gives_back_its_coefficients():
    params, tokens, _ = scattered(80)
    known = {"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}
    loss = ((known["Nc"] / params) ** (0.076 / 0.095) + known["Dc"] / tokens) ** 0.095
    fitted = fit_loss_surface(params, tokens, loss, form="kaplan", replicates=5)
    assert fitted.coefficients == pytest.approx(known, rel=1e-6)
    assert float(fitted.params_exponent) == pytest.approx(0.095 / 0.171)
    sizes = np.geomspace(1e6, 1e12, 20001)
    grid = sizes[np.argmin(fitted.loss(sizes, 1e20 / 6 / sizes))]
    assert fitted.optimum(1e20)["params"].iloc[0] == pytest.approx(grid, rel=2e-3)


def test_outliers_hardly_move_it():
    params, tokens, loss = scattered(80)
    hit = loss.copy()
    hit[:2] *= 1.3
    clean, found = (fit_loss_surface(params, tokens, each, replicates=0).coefficients for each in (loss, hit))
    assert found["E"] == pytest.approx(clean["E"], abs=0.02)


def test_what_the_data_do_not_identify_is_said():
    params, tokens, _ = scattered(60)
    no_floor = fit_loss_surface(params, tokens, 482 / params**0.3478 + 2085.4 / tokens**0.3658, replicates=0)
    assert any(told.startswith("E unidentified") for told in no_floor.warnings)
    few = params[:10]
    narrow = fit_loss_surface(few, 20 * few, 2 + 400 / few**0.3 + 20 / few**0.3, replicates=0)
    assert any("tokens per param span a factor of 1" in told for told in narrow.warnings)
    assert any("10 runs" in told for told in narrow.warnings)


def test_a_surface_that_misses_the_greatest_budget_is_not_for_planning(runs):
    frame = runs.get_group("archA")
    bent = frame["loss_clean"].where(frame["flops"] < 9e19, frame["loss_clean"] * 1.05)
    fitted = fit_loss_surface(frame["params"], frame["tokens"], bent, replicates=0)
    assert not fitted.plannable
    assert fitted.held_out == pytest.approx(-np.log(1.05), abs=0.003)
    assert any("not for planning" in told for told in fitted.warnings)


def test_bad_values_are_named():
    params, tokens, loss = scattered(30)
    with pytest.raises(ValueError, match="differ in shape"):
        fit_loss_surface(params, tokens[:-1], loss, replicates=0)
    with pytest.raises(ValueError, match="above 0"):
        fit_loss_surface(params, tokens, loss - 10, replicates=0)
    with pytest.raises(ValueError, match="6 runs cannot give 5"):
        fit_loss_surface(params[:6], tokens[:6], loss[:6])


def test_order_does_not_matter():
    params, tokens, loss = scattered(30)
    one, back = (fit_loss_surface(params[::step], tokens[::step], loss[::step], "kaplan", replicates=0) for step in (1, -1))
    assert back.coefficients == pytest.approx(one.coefficients, rel=1e-4)


def test_the_seed_decides_the_replicates():
    params, tokens, loss = scattered(30)
    one, again, other = (fit_loss_surface(params, tokens, loss, "kaplan", replicates=5, seed=seed).samples for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one, again)
    assert not one.equals(other)


@pytest.mark.skipif("LAB_CHINCHILLA_CSV" not in os.environ, reason="LAB_CHINCHILLA_CSV names no file; it has no licence to ship")
def test_chinchillas_points():
    frame = pd.read_csv(os.environ["LAB_CHINCHILLA_CSV"])
    frame = frame.rename(columns={"Model Size": "params", "Training FLOP": "flops"})
    frame = frame.nsmallest(len(frame) - 5, "loss")
    fitted = fit_loss_surface(frame["params"], frame["flops"] / 6 / frame["params"], frame["loss"], delta=1e-3, replicates=0)
    assert fitted.objective <= 0.0010182745
    known = {"A": 477.826, "B": 2143.417, "E": 1.817218, "alpha": 0.34731, "beta": 0.367172}
    assert fitted.coefficients == pytest.approx(known, rel=0.01)

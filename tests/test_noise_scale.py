"""The gradient noise scale on gradients of known noise, and on a trained model."""

import json

import numpy as np
import pytest

from lab.cli import main
from lab.planning import Planner, Shape
from lab.probes.noise_scale import measure, noise_scale
from lab.probes.subject import Subject
from lab.run import Store
from lab.training import train

TRUE = 496.0


def gaussian(measurements, b, B, seed=0, dim=200):
    """Squared norms of gradients with |G| = 1 and noise of variance TRUE in all."""
    rng = np.random.default_rng(seed)
    signal = np.full(dim, 1 / np.sqrt(dim))
    small, large = [], []
    for _ in range(measurements):
        each = signal + rng.standard_normal((B // b, dim)) * np.sqrt(TRUE / dim / b)
        small.append((each**2).sum(1).mean())
        large.append((each.mean(0) ** 2).sum())
    return small, large, b, B


def test_the_ratio_of_means_is_right_within_five_per_cent():
    found = noise_scale(*gaussian(4000, 32, 512))
    assert found.scale == pytest.approx(TRUE, rel=0.05)
    assert found.low < TRUE < found.high
    assert found.batch == pytest.approx(TRUE / 2, rel=0.05)


def test_its_interval_covers():
    inside = 0
    for seed in range(100):
        found = noise_scale(*gaussian(64, 32, 512, seed))
        inside += found.low <= TRUE <= found.high
    assert 85 <= inside <= 99  # a percentile bootstrap of a ratio of 64 is a little narrow


def test_a_gradient_without_signal_has_no_scale():
    found = noise_scale([16.0] * 8, [16 / 17] * 8, 32, 512)  # less than 1/16 left: no signal
    assert np.isnan(found.scale)
    assert "lost in the noise" in str(found)


def test_a_stored_run_is_measured(tmp_path, capsys):
    planned = Planner(Shape(dim=8, depth=1), batch=2).plan("lstm", "selective_copying", 2e7, 0)
    train(planned.spec, Store(tmp_path))
    found = measure(Subject.of(planned.spec.id, Store(tmp_path)), 4)
    assert len(found.sheets["noise-scale"].table) == 2 * 4
    scale = found.numbers["scale"]
    assert scale > 0 or np.isnan(scale)
    with pytest.raises(SystemExit) as ended:
        main(["probe", "noise-scale", planned.spec.id, "--results", str(tmp_path), "--measurements", "4", "--json"])
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)[0]["numbers"]["scale"]
    assert (np.nan if told is None else told) == pytest.approx(scale, nan_ok=True)
    with pytest.raises(SystemExit) as ended:
        main(["probe", "noise-scale", "nothing", "--results", str(tmp_path)])
    assert ended.value.code == 2
    assert "no such run" in capsys.readouterr().err


def test_gradients_are_of_batches_that_the_run_has_not_seen(tmp_path, monkeypatch):
    planned = Planner(Shape(dim=8, depth=1), batch=2).plan("lstm", "selective_copying", 2e7, 0)
    train(planned.spec, Store(tmp_path))
    from tasks.selective_copying import SelectiveCopying

    seen, batch = [], SelectiveCopying.batch
    monkeypatch.setattr(SelectiveCopying, "batch", lambda self, split, index, size, seed: seen.append((split, index)) or batch(
        self, split, index, size, seed))  # fmt: skip
    measure(Subject.of(planned.spec.id, Store(tmp_path)), 2)
    assert all(split == "train" and index > planned.steps for split, index in seen)
    assert len(set(seen)) == 32

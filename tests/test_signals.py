"""White signals, and the tasks on real numbers: adding, delay, reconstruct."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special

from architectures.ops import hippo
from tasks.adding import Adding
from tasks.delay import Delay
from tasks.reconstruct import Reconstruct
from tasks.sources import signals
from tasks.task import SPLITS

REAL = [
    Adding(length=100),
    Adding(preset="laptop"),
    Delay(preset="laptop"),
    Delay(length=101, delay=7, frequency=0.1),
    Reconstruct(preset="laptop"),
    Reconstruct(length=90, window=90, frequency=0.4),
]


def test_a_white_signal_is_its_sum_of_waves():
    heights = np.random.default_rng(0).standard_normal((3, 14)).astype(np.float32)
    for length in (40, 41):
        for row, made in zip(heights, signals.white_signal(heights, length), strict=True):
            z = [
                0.5
                / math.sqrt(7)
                * sum(
                    row[2 * k - 2] * math.cos(2 * math.pi * k * t / length)
                    + row[2 * k - 1] * math.sin(2 * math.pi * k * t / length)
                    for k in range(1, 8)
                )
                for t in range(length)
            ]
            assert made == pytest.approx(np.array(z) - z[0], abs=1e-6)


def test_white_signals_have_the_published_power_and_band():
    x = signals.white_signals("train", 0, 400, 0, length=400, frequency=0.1)[:, :, 0].numpy().astype(np.float64)
    assert (x[:, 0] == 0).all()
    assert x.std(1).mean() == pytest.approx(0.5, abs=0.01), "rms, as every wave fits the length"
    power = (np.abs(np.fft.rfft(x)) ** 2).mean(0)
    assert power[1:41] / power[1:41].mean() == pytest.approx(np.ones(40), abs=0.25)
    assert power[41:].max() < 1e-9 * power[1:41].mean()


def test_mean_square_change_is_what_is_measured():
    x = signals.white_signals("train", 0, 20_000, 0, length=64, frequency=0.2)[:, :, 0].numpy()
    expected = signals.mean_square_change(64, 0.2)
    assert (x**2).mean(0) == pytest.approx(expected, abs=0.02)
    assert ((x[:, 20:] - x[:, :-20]) ** 2).mean() == pytest.approx(expected[20], abs=0.02)


@pytest.mark.parametrize("task", REAL)
def test_real_oracles_and_baselines(task):
    """The rules score what the baselines say, the oracle scores 0, on every split."""
    batch = task.batch("validation", 0, 3000, 0)
    assert batch.targets.shape == (3000, task.answers, task.outputs)
    assert torch.equal(task.oracle(batch), batch.targets)
    for name, rule in task.shortcuts().items():
        metric = task.new_metric()
        metric.update(rule(batch).contiguous(), batch.targets)
        assert float(metric.compute()) == pytest.approx(task.baselines()[name], rel=0.05)
    rows = [{row.tobytes() for row in task.batch(split, 0, 100, 0).inputs.numpy()} for split in SPLITS]
    assert all(not one & other for one, other in itertools.combinations(rows, 2))


def test_adding_is_the_published_definition():
    for length in (2, 9, 50):
        batch = Adding(length=length).batch("train", 0, 200, 0)
        for row, target, position in zip(batch.inputs.tolist(), batch.targets, batch.positions, strict=True):
            marked = [t for t, (_, mark) in enumerate(row) if mark == 1]
            assert all(mark in (0, 1) for _, mark in row)
            assert len(marked) == 2
            assert marked[0] < length // 2 <= marked[1]
            assert target.item() == pytest.approx(sum(row[t][0] for t in marked), abs=1e-6)
            assert position.item() == length - 1
    numbers = Adding().batch("train", 0, 100, 0).inputs[:, :, 0]
    assert Adding().length == 1000
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(numbers.var()) == pytest.approx(1 / 12, abs=0.002)
    assert Adding().baselines()["chance"] == pytest.approx(0.1667, abs=1e-4)


def test_adding_marks_every_place_of_a_half():
    marks = Adding(length=7).batch("train", 0, 2000, 0).inputs[:, :, 1].mean(0)
    assert marks == pytest.approx(np.array([1 / 3] * 3 + [1 / 4] * 4), abs=0.04)


def test_delay_and_reconstruct_by_index():
    task = Delay(length=50, delay=13)
    batch = task.batch("train", 0, 5, 0)
    for t in range(50):
        expected = batch.inputs[:, t - 13] if t >= 13 else torch.zeros(5, 1)
        assert torch.equal(batch.targets[:, t], expected)
    task = Reconstruct(length=50, window=20, points=5)
    batch = task.batch("train", 0, 5, 0)
    assert torch.equal(batch.targets[:, 0], batch.inputs[:, [49, 45, 41, 37, 33], 0])
    assert batch.positions.tolist() == [[49]] * 5


def test_published_sizes():
    task = Delay()
    assert (task.length, task.delay, signals.count_waves(task.length, task.frequency)) == (4000, 1000, 1000)
    task = Reconstruct()
    assert (task.length, task.window, signals.count_waves(task.length, task.frequency), task.outputs) == (4000, 1000, 400, 200)
    whole = Reconstruct(points=1000).batch("train", 0, 1, 0)
    assert torch.equal(whole.targets[0, 0].flip(0), whole.inputs[0, -1000:, 0])


def states(operator, size, x, dt, scaled=False):
    """The state of a HiPPO memory after each step of x, by the bilinear rule."""
    a, b = (np.asarray(part, np.float64) for part in operator(size))
    c, one = np.zeros(size), np.eye(size)
    step = None
    for t, value in enumerate(x, 1):
        if scaled or step is None:
            h = 1 / t if scaled else dt
            step = np.linalg.solve(one - h / 2 * a, np.concatenate([one + h / 2 * a, h * b[:, None]], 1))
        c = step[:, :-1] @ c + step[:, -1] * value
    return c


def legendre(size, at):
    return np.stack([math.sqrt(2 * n + 1) * special.eval_legendre(n, at) for n in range(size)])


def error(found, truth):
    return np.sqrt(np.mean((found - truth) ** 2) / np.mean(truth**2))


@pytest.mark.parametrize(("size", "published"), [(32, 0.0125), (64, 0.0055)])
def test_scaled_legs_remembers_a_whole_white_signal(size, published):
    """3 s of a signal of 3 Hz in steps of 1 ms; an independent simulation erred by as much on its own, and twice is granted."""
    x = signals.white_signals("train", 0, 1, 0, length=3000, frequency=0.003)[0, :, 0].numpy().astype(np.float64)
    c = states(hippo.legs, size, x, None, scaled=True)
    assert error(c @ legendre(size, 2 * (np.arange(3000) + 0.5) / 3000 - 1), x) < 2 * published


def test_a_hippo_memory_solves_reconstruct_if_it_is_large_enough():
    """The Legendre memory of the window, read by the Legendre polynomials at the ages that are asked for, errs by little
    from about as many numbers on as the window holds; the zero answer errs by 1."""
    task = Reconstruct(length=600, window=200, frequency=0.02)
    batch = task.batch("test", 0, 4, 0)
    ages = (200 * np.arange(task.points) // task.points + 0.5) / 200
    for size, most, least in [(24, 0.05, 0.0), (4, 1.5, 0.3)]:
        found = [states(hippo.legt, size, x, 1 / 200) @ legendre(size, 1 - 2 * ages) for x in batch.inputs[:, :, 0].numpy()]
        assert least < error(np.array(found), batch.targets[:, 0].numpy()) < most


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (Adding, {"length": 1}, "length=1"),
        (Delay, {"length": 100, "delay": 100}, "delay=100"),
        (Delay, {"frequency": 0.5}, "frequency=0.5"),
        (Delay, {"length": 10, "delay": 1, "frequency": 0.01}, "frequency=0.01"),
        (Reconstruct, {"window": 5000}, "window=5000"),
        (Reconstruct, {"window": 10, "points": 11}, "points=11"),
    ],
)
def test_real_tasks_refuse_what_cannot_be(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_examples_of_real_tasks_are_short():
    task = Adding(length=4)
    batch = task.batch("train", 0, 1, 0)
    text = task.example(batch, 0)
    assert text.count("*") == 2
    assert text.endswith(f"[{batch.targets.item():.2f}]")
    for task in (Delay(), Reconstruct()):
        assert len(task.example(task.batch("train", 0, 1, 0), 0)) < 200

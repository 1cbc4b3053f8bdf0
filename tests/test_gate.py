"""The leak gate: what sees the future is not trained, what does not is never refused, and the run is the same with or without."""

import inspect
import json
from dataclasses import replace

import planted
import pytest
import records
import torch
from test_cli import lab
from test_training import curve, spec_for, weights

from lab import analysis, plugins, training
from lab.checkpoint import random_states
from lab.gate import Leak, cuts, gate
from lab.model import Model, build, build_task
from lab.planning import Planner, Shape
from lab.run import Store

LEAKS = [planted.BatchNorm, planted.NormOverTime, planted.ShieldedLeak, planted.Circular, planted.Sorting, planted.Pooling,
         planted.ChunkBoundary, planted.LaterChunk, planted.DroppedMaskInTraining]  # fmt: skip
HEALTHY = [cls for cls in planted.HEALTHY if cls is not planted.Whole] + [planted.OnlyFloat32, planted.Float32Inside]
HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\nfrom architectures.backbone import *\n"


def look(backbone, task="recall", **settings):
    """The gate on a model of a class."""
    made = build_task(task, settings)
    return gate(lambda: Model(backbone(16, 2, causal=True), made), made, 0)


@pytest.mark.parametrize("backbone", LEAKS, ids=lambda cls: cls.__name__)
def test_a_leak_is_refused_at_a_position(backbone):
    with pytest.raises(Leak, match=r"output at position \d+ changed .* from position \d+ on were replaced, in (train|eval)\(\)"):
        look(backbone, length=256)


@pytest.mark.parametrize("backbone", [planted.Circular, planted.NormOverTime])
def test_real_vectors_are_moved_too(backbone):
    with pytest.raises(Leak):
        look(backbone, "delay")


def test_a_leak_that_only_long_sequences_have_is_seen_at_that_length():
    assert look(planted.DroppedMask, length=64)
    with pytest.raises(Leak):
        look(planted.DroppedMask, length=256)


@pytest.mark.parametrize("backbone", HEALTHY, ids=lambda cls: cls.__name__)
def test_what_is_healthy_passes(backbone):
    assert look(backbone)


@pytest.mark.parametrize("task", ["recall", pytest.param("adding", marks=pytest.mark.slow)])
def test_no_architecture_of_the_lab_is_refused(task):
    for name in plugins.names("architectures"):
        spec = Planner(Shape(dim=16, depth=3 if name == "hybrid" else 1), batch=2).plan(name, task, 1e15, 0).spec
        made = build_task(spec.names[1], spec.task_settings)
        assert gate(lambda: build(name, made, dim=16, depth=spec.depth, settings=spec.settings), made, 0), name  # noqa: B023


def test_there_is_nothing_to_see_where_the_task_is_not_causal():
    made = build_task("digits", {})
    assert not gate(lambda: build("lstm", made, dim=16, depth=1, settings={}), made, 0)


def test_cuts_are_inside_and_the_first_is_no_edge_of_a_chunk():
    assert cuts(1) == []
    assert cuts(2) == [1]
    for length in (3, 64, 100, 4096):
        assert all(0 < cut < length for cut in cuts(length))
        assert {1, length - 1} <= set(cuts(length))
        assert cuts(length)[0] % 2 == 1


def test_no_generator_is_touched():
    before = random_states()
    look(planted.Dropout)
    after = random_states()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])


@pytest.mark.parametrize("architecture", ["transformer", "rwkv"])
def test_a_run_is_the_same_bit_for_bit_without_it(tmp_path, architecture):
    spec, gated, open_ = spec_for(architecture, steps=6), Store(tmp_path / "gated"), Store(tmp_path / "open")
    one, other = training.train(spec, gated), training.train(spec, open_, leak_gate=False)
    assert (one.leak_gate, other.leak_gate) == ("passed", "off")
    assert one.scores == other.scores
    assert (one.flops, one.flops_by_kind, one.steps) == (other.flops, other.flops_by_kind, other.steps)
    assert curve(gated, spec) == curve(open_, spec)
    first, second = weights(gated, spec), weights(open_, spec)
    assert all(torch.equal(first[name], second[name]) for name in first)


def plugin(folder, *classes):
    """A file with the last of these classes of planted.py as an architecture."""
    file = folder / "leaky.py"
    file.write_text(HEAD + "\n\n".join(inspect.getsource(cls) for cls in classes))
    return file


def test_the_command_line_refuses_a_leak_and_trains_it_when_told_to(tmp_path, capsys):
    file, results = plugin(tmp_path, planted.Mean, planted.Circular), tmp_path / "r"
    argv = ["--budget", "1e8", "--dim", "16", "--depth", "1", "--plugin", file, "--results", results]
    alone = ["run", "--architecture", "leaky", "--task", "recall", *argv]
    code, out, err = lab(*alone, capsys=capsys)
    assert code == 1, err
    (line,) = [line for line in out.splitlines() if "future" in line]
    assert "failed leaky sees the future: its output at position 0 changed by" in line
    assert "lab check leaky" in line
    record = json.loads(next(results.glob("runs/*/run.json")).read_text())
    assert (record["status"], record["leak_gate"], record["steps"]) == ("failed", "refused", 0)
    both = ["compare", "--architectures", "leaky", "--tasks", "recall", "--seeds", "1", "--workers", "1", *argv]
    code, out, err = lab(*both, "--no-leak-gate", capsys=capsys)
    assert code == 0, err
    assert "1 made without the leak gate (leaky)" in " ".join(out.split())
    assert "1 made without the leak gate (leaky)" in (results / "compare" / "report.html").read_text("utf-8")
    record = json.loads((results / "runs" / record["id"] / "run.json").read_text())
    assert (record["status"], record["leak_gate"]) == ("done", "off")
    assert "leak gate   off" in lab(*alone, capsys=capsys)[1]


@pytest.mark.slow
def test_a_comparison_refuses_a_leak_and_does_the_rest(tmp_path, capsys):
    argv = ["--budget", "1e8", "--dim", "16", "--depth", "1", "--plugin", plugin(tmp_path, planted.Mean, planted.Circular)]
    both = ["compare", "--architectures", "leaky", "linear_rnn", "--tasks", "recall", "--seeds", "1", "--workers", "1", *argv]
    code, out, _ = lab(*both, "--results", tmp_path / "r", capsys=capsys)
    assert code == 1
    assert "leaky on recall: failed, seed 0: leaky sees the future" in " ".join(out.split())
    assert "1 of 2 runs finished, 1 failed" in " ".join(out.split())
    assert "made without" not in out


def test_captions_count_the_runs_that_were_made_without(tmp_path):
    for seed in range(3):
        records.publish(tmp_path, replace(records.run(records.spec(seed=seed), 0.9), leak_gate="off" if seed else "passed"))
    assert "2 made without the leak gate (transformer)" in analysis.labels.caption(analysis.results(tmp_path), "Scores.")

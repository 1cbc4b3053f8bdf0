"""What a run takes of memory, against known tensors and real processes."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from lab import memory, overhead
from lab.model import build_task, model_of
from lab.planning import Planner, Shape

SPEC = overhead._spec_of(Planner(Shape(dim=16, depth=2), batch=8), "linear_rnn", "recall", 3)


class Squares(nn.Module):
    """Keeps its input and a table; the second square keeps what the first gave."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(10, 1000))

    def forward(self, inputs, positions, lengths):
        x = self.table[:, :100] * 2
        return (x**2) ** 2


def test_what_is_kept_is_counted_once_and_without_parameters(monkeypatch):
    task = build_task("recall", {})
    monkeypatch.setattr(memory, "model_of", lambda *_: Squares())
    monkeypatch.setattr(task, "loss", lambda outputs, _: outputs.sum())
    assert memory.kept(SPEC, task, 1) == 2 * 4 * 10 * 100


def test_more_sequences_and_wider_models_need_more():
    task = build_task(SPEC.names[1], SPEC.task_settings)
    with torch.device("meta"):
        model = model_of(SPEC, task)
    parameters = sum(p.numel() for p in model.parameters())
    assert memory.least(model, task, SPEC) == 16 * parameters + 4 * 8 * task.length * 16 * 2
    peaks = [memory.peak(overhead._spec_of(Planner(Shape(dim=16, depth=2), batch=batch), "linear_rnn", "recall", 3))
             for batch in (8, 16, 24)]  # fmt: skip
    assert peaks[2] - peaks[1] == peaks[1] - peaks[0] > memory.least(model, task, SPEC) - 16 * parameters
    assert memory.peak(SPEC, room=1e12) > peaks[0], "what shapes alone say is no less"


MEASURE = """
import torch
from lab import machine, memory, overhead
from lab.planning import Planner, Shape
torch.set_num_threads(1)
spec = overhead._spec_of(Planner(Shape(dim=128, depth=4), batch=32), "{name}", "text:length=512", 3)
predicted = memory.peak(spec)
machine.reset_peak_memory()
overhead.bare(spec, 2)
print(predicted / machine.peak_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer", "linear_rnn", "rwkv", "s4", "mamba:version=1", "lstm"])
def test_the_peak_is_foretold(name):
    done = subprocess.run([sys.executable, "-c", MEASURE.format(name=name)], capture_output=True, text=True, check=True)
    assert 0.8 < float(done.stdout) < 1.6

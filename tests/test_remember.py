"""What one position remembers of parameters is never older than they are, and is the same as what is computed anew."""

from copy import deepcopy

import pytest
import torch

from architectures.linear_rnn import LinearRNN
from architectures.mamba import Mamba
from architectures.ops import native
from architectures.ops.remember import Remembered
from architectures.retnet import RetNet
from architectures.s5 import S5

MAKERS = {
    "linear_rnn": lambda: LinearRNN(16, 2),
    "s5": lambda: S5(16, 2),
    "mamba": lambda: Mamba(16, 2, version=1),
}


def step(model):
    with torch.inference_mode():
        return model.step(torch.linspace(-1, 1, 16)[None], model.init_state(1))[0].clone()


def fresh(model):
    """The same step where nothing is remembered: with gradients on."""
    return model.step(torch.linspace(-1, 1, 16)[None], model.init_state(1))[0].detach()


def check(model):
    torch.testing.assert_close(step(model), fresh(model))


@pytest.mark.parametrize("name", MAKERS)
def test_no_parameter_is_remembered_longer_than_it_lasts(name):
    torch.manual_seed(0)
    model, other = MAKERS[name](), MAKERS[name]()
    before = step(model)
    check(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(1, 5, 16)).square().sum().backward()
    optimiser.step()
    assert not torch.equal(step(model), before)
    check(model)
    copied = deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.1)
    check(copied)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(step(model), step(other))
    model.load_state_dict(copied.state_dict(), assign=True)
    torch.testing.assert_close(step(model), step(copied))
    model.to(torch.float64).to(torch.float32)
    check(model)


def test_it_is_made_once_and_only_without_gradients():
    calls, remembered, weight = [], Remembered(), torch.nn.Parameter(torch.ones(2))

    def make():
        calls.append(1)
        return weight * 2

    with torch.no_grad():
        assert remembered(make, weight) is remembered(make, weight)
    assert len(calls) == 1
    assert remembered(make, weight).requires_grad
    assert len(calls) == 2


@pytest.mark.parametrize("compiled", [True, False])
@torch.no_grad()
def test_retention_position_by_position(monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    torch.manual_seed(0)
    model = RetNet(24, 2, heads=3).double()
    x, outputs, state = torch.randn(2, 70, 24, dtype=torch.float64), [], model.init_state(2)
    for position in x.unbind(1):
        y, state = model.step(position, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), model(x), rtol=1e-10, atol=1e-12)

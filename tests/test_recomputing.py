"""Activations that are computed again: the same gradients with less kept."""

import copy

import pytest
import torch
from test_laws import FORMS
from torch.autograd.graph import saved_tensors_hooks

from lab import plugins, recomputing, speed
from lab.recomputing import recompute

LENGTH = 100


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(recomputing, "PIECE", 16)


def gradients(backbone, x):
    """Output, gradients by name, and how many numbers the forward pass kept."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = x.clone().requires_grad_()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = backbone(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return y.detach(), {"x": x.grad} | {name: p.grad for name, p in backbone.named_parameters()}, sum(kept.values())


def pair(name, **settings):
    torch.manual_seed(0)
    plain = plugins.load("architectures", name)(16, 2, **settings).double()
    again = copy.deepcopy(plain)
    recompute(again)
    return plain, again


@pytest.mark.parametrize("form", [form for form in FORMS if "max_length" not in form])
def test_every_form_gives_its_gradient(short_pieces, form):
    name, settings = plugins.parse("architectures", form)
    plain, again = pair(name, **plugins.resolved("architectures", name, settings), causal="norm=instance" not in form)
    x = torch.randn(2, LENGTH, 16, dtype=torch.float64)
    (y, expected, _), (z, found, _) = gradients(plain, x), gradients(again, x)
    torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-9)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-7, atol=1e-9, msg=key)


@pytest.mark.parametrize(
    "form", ["linear_rnn", "rwkv", "mamba", "lstm", "s4:kernel=diagonal", "transformer:attention=window,window=20"]
)
def test_what_remembers_little_is_cut_in_time(short_pieces, form):
    name, settings = plugins.parse("architectures", form)
    assert "forward" in vars(pair(name, **plugins.resolved("architectures", name, settings))[1])


def test_what_is_kept_does_not_grow_with_the_layers_of_a_long_sequence(short_pieces):
    x = torch.randn(1, 512, 16, dtype=torch.float64)
    plain, again = pair("rwkv")
    assert gradients(again, x)[2] < gradients(plain, x)[2] / 10


@pytest.mark.parametrize(
    ("name", "settings"),
    [("transformer", {}), ("transformer", {"mlp": "moe"}), ("s4", {"causal": False}), ("hyena", {}), ("lstm_attention", {})],
)
def test_others_are_cut_by_layers_and_change_no_bit(short_pieces, name, settings):
    plain, again = pair(name, **settings)
    assert "forward" not in vars(again)
    x = torch.randn(2, LENGTH, 16, dtype=torch.float64)
    (y, expected, much), (z, found, little) = gradients(plain, x), gradients(again, x)
    assert torch.equal(y, z)
    assert all(torch.equal(found[key], value) for key, value in expected.items() if value is not None)
    assert little < much / 2


@pytest.mark.parametrize(("stack", "off"), [("transformer", 0.02), ("linear_rnn", 0.12)])
def test_the_limit_counts_nothing_twice(short_pieces, stack, off):
    """Nor does the backward pass compute anything a third time, by layers or by pieces of the sequence."""
    plain, again = (speed.Stand(stack, dim=16, depth=2, recompute=each) for each in (False, True))
    found, expected = (speed._about(each.build(), 2, LENGTH, each) for each in (again, plain))
    assert found["flops"] == expected["flops"]
    # an operand may be read in another form, and the weights once for each piece
    assert found["bytes"] == pytest.approx(expected["bytes"], rel=off)

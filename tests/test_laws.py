"""Every architecture keeps every law; the ones with settings that change the layer, in those forms too."""

import pytest
import torch

import lab
from lab import overview, plugins
from lab.conformance import check
from lab.laws.subject import Subject, noise
from lab.model import count_parameters, state_size

FORMS = [
    *(form for name in plugins.names("architectures") for form in overview.forms(name)),
    "transformer:positions=none,heads=2,mlp=none",
    "transformer:preset=gpt2,max_length=20",
    "transformer:attention=bigbird,block=4",
    "transformer:mlp=moe",
    "linear_rnn:states=10,mlp=gelu",
    "lstm:mlp=none",
    "linear_rnn:normalise=false",
    "s4:kernel=diagonal,init=lin,discretisation=zoh",
]
SLOWEST = "lstm_attention"
NAMES = plugins.names("architectures")


LATER = ("preset=gpt1", "preset=gpt2", "preset=gpt3", "preset=gopher", "preset=palm", "norm=instance", "version=4", "version=5")
"""Forms of architectures that are made of the same parts as one that all runs of the tests try."""


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[pytest.mark.slow] * form.endswith(LATER)) for form in FORMS if form != SLOWEST]
)
def test_laws(form):
    report = check(form)
    assert report.passed, str(report)


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_laws_of_the_slowest(depth):
    report = check(SLOWEST, depth=depth)
    assert report.passed, str(report)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("form", FORMS)
def test_laws_on_a_gpu(form):
    report = check(form, device="cuda")
    assert report.passed, str(report)


def test_the_python_interface_can_be_called_twice():
    for _ in range(2):
        assert lab.check("linear_rnn", laws=[4]).passed


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dim", "depth"), [(8, 1), (48, 3)])
def test_laws_at_other_sizes(form, dim, depth):
    report = check(form, dim, depth)
    assert report.passed, str(report)


def build(form: str, causal: bool = True, dim: int = 16, depth: int = 2):
    name, settings = plugins.parse("architectures", form)
    torch.manual_seed(0)
    return plugins.load("architectures", name)(dim, depth, causal=causal, **settings).eval()


@pytest.mark.parametrize("name", NAMES)
def test_without_causality_the_first_output_depends_on_the_last_input(name):
    subject = Subject(name, plugins.load("architectures", name), 16, 2, {})
    model, x = subject.awake(causal=False), noise(1, 33, 16).requires_grad_()
    (model(x)[0, 0] * noise(16)).sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax(2)[0] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_without_causality_it_refuses_to_stream(name):
    with pytest.raises(TypeError, match="causal=False"):
        build(name, causal=False).init_state(1)


@pytest.mark.parametrize("name", ["linear_rnn", "lstm"])
def test_both_directions_read_alike(name):
    """Turning the input round and swapping the two directions turns the output round."""
    model, x = build(name, causal=False).double(), noise(2, 17, 16, dtype=torch.float64)
    y = model(x)
    for module in model.modules():
        if hasattr(module, "backwards"):
            module.forwards, module.backwards = module.backwards, module.forwards
    torch.testing.assert_close(model(x.flip(1)).flip(1), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "numbers"),
    [("transformer", 2 * 2 * 16 * 40), ("linear_rnn", 2 * 2 * 16), ("lstm", 2 * 2 * 16)],
)
def test_state_size(form, numbers):
    """Keys and values of 40 positions; complex states; h and c: of two layers, 16 wide."""
    with torch.device("meta"):
        model = build(form)
    assert state_size(model, 40) == numbers
    assert count_parameters(model) == count_parameters(build(form))

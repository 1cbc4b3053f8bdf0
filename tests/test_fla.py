"""What a GPU's kernels are handed: equations as flash-linear-attention documents them, in place of its kernels; and, where the
extra `gpu` is installed, the kernels themselves, interpreted."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from architectures.ops import fla, native, wkv, wkv7
from architectures.ops import linear_attention as matrices

BATCH, LENGTH, HEADS, WIDTH = 2, 100, 2, 16


def numbers(*names):
    """Tensors that a backbone would hand over, by what they are."""
    torch.manual_seed(0)
    wide, narrow = (BATCH, LENGTH, HEADS, WIDTH), (BATCH, LENGTH, HEADS)
    makers = {
        "unit": lambda: F.normalize(torch.randn(wide), dim=-1),
        "shared": lambda: F.normalize(torch.randn(BATCH, LENGTH, 1, WIDTH), dim=-1),
        "value": lambda: torch.randn(wide),
        "rates": lambda: torch.rand(wide),
        "rate": lambda: torch.rand(narrow),
        "log_decay": lambda: F.logsigmoid(torch.randn(narrow)),
        "decays": lambda: torch.rand(wide).sqrt(),
        "log_decays": lambda: -0.6 * torch.rand(wide),
        "constant": lambda: -0.6 * torch.rand(HEADS, WIDTH),
        "bonus": lambda: torch.randn(HEADS, WIDTH),
        "state": lambda: torch.randn(BATCH, HEADS, WIDTH, WIDTH),
    }
    halves = {"unit", "shared", "value", "rates", "rate"}
    made = [makers[name]() for name in names]
    return [x.to(torch.float16).bfloat16().float() if name in halves else x for name, x in zip(names, made, strict=True)]


def linear(q, k, v, log_decay, state):
    q, k = (x.expand(*v.shape[:3], -1) for x in (q, k))
    return matrices.linear_attention_definition(q, k, v, log_decay.exp()[..., None], state)


def delta(q, k, v, beta, *rest):
    *log_decay, state = rest
    return matrices.delta_rule_definition(q, k, v, beta, log_decay[0].exp() if log_decay else torch.ones_like(beta), state)


def plain_delta(q, k, v, beta, state):
    return matrices.delta_rule(q, k, v, beta, None, state)


CASES = {
    "simple_gla": ("simple_gla", fla.simple_gla, linear, matrices.linear_attention, "shared shared value log_decay state"),
    "gla": (
        "gla", fla.gla, matrices.linear_attention_definition, matrices.gated_linear_attention, "unit unit value decays state",
    ),
    "delta_rule": ("delta_rule", fla.delta_rule, delta, plain_delta, "unit unit value rate state"),
    "gated_delta_rule": (
        "gated_delta_rule", fla.gated_delta_rule, delta, matrices.delta_rule, "unit unit value rate log_decay state",
    ),
    "wkv6": ("rwkv6", fla.wkv6, wkv.wkv6_definition, wkv.wkv6, "value value value log_decays bonus state"),
    "wkv6, a constant decay": ("rwkv6", fla.wkv6, wkv.wkv6_definition, wkv.wkv6, "value value value constant bonus state"),
    "wkv7": ("rwkv7", fla.wkv7, wkv7.wkv7_definition, wkv7.wkv7, "value log_decays value value unit rates state"),
}  # fmt: skip
"""`fla.ops.<topic>`, what hands over to it, the definition, the op that decides, and what they are given."""


SCANS = {
    f"scan of {length}, {dtype}, {'constant' if constant else 'varying'}": (length, dtype, constant)
    for length in (1, 63, 64, 65, 200)
    for dtype in (torch.float64, torch.complex128)
    for constant in (True, False)
}


def equations(topic):
    """`fla.ops.<topic>` as it is documented; rounded is what is given in bfloat16, and only that."""

    def given(halves, wholes):
        assert {x.dtype for x in halves} == {torch.bfloat16}
        assert {x.dtype for x in wholes} == {torch.float32}
        assert all(x.is_contiguous() for x in (*halves, *wholes))
        return [x.float() for x in halves]

    def simple_gla(q, k, v, g, *, scale, initial_state, output_final_state):
        q, k, v = given([q, k, v], [g, initial_state])
        return matrices.linear_attention_definition(scale * q, k, v, g.exp()[..., None], initial_state)

    def gla(q, k, v, g, *, scale, initial_state, output_final_state):
        q, k, v = given([q, k, v], [g, initial_state])
        return matrices.linear_attention_definition(scale * q, k, v, g.exp(), initial_state)

    def delta_rule(q, k, v, beta, *, scale, initial_state, output_final_state):
        q, k, v, beta = given([q, k, v, beta], [initial_state])
        return matrices.delta_rule_definition(scale * q, k, v, beta, torch.ones_like(beta), initial_state)

    def gated_delta_rule(q, k, v, g, beta, *, scale, initial_state, output_final_state):
        q, k, v, beta = given([q, k, v, beta], [g, initial_state])
        return matrices.delta_rule_definition(scale * q, k, v, beta, g.exp(), initial_state)

    def rwkv6(r, k, v, w, u, *, scale, initial_state, output_final_state):
        r, k, v = given([r, k, v], [w, u, initial_state])
        return wkv.wkv6_definition(scale * r, k, v, w, u, initial_state)

    def rwkv7(r, w, k, v, a, b, *, scale, initial_state, output_final_state):
        (r, k, v, a, b), state, out = given([r, k, v, a, b], [w, initial_state]), initial_state, []
        for t in range(r.shape[1]):
            met = (a[:, t, :, :, None] * state).sum(2, keepdim=True)
            state = w[:, t].exp()[..., None] * state + b[:, t, :, :, None] * met + k[:, t, :, :, None] * v[:, t, :, None]
            out.append(scale * (r[:, t, :, :, None] * state).sum(2))
        return torch.stack(out, 1), state

    made = ModuleType(topic)
    setattr(made, f"chunk_{topic}", locals()[topic])
    return made


@pytest.mark.parametrize("name", CASES)
def test_kernels_of_a_gpu_are_handed_what_they_document(name, monkeypatch):
    topic, _, definition, op, words = CASES[name]
    asked = []
    monkeypatch.setattr(native, "kernels", lambda *_: None)
    monkeypatch.setattr(fla, "_in_bfloat16_on_a_gpu", lambda state: True)
    monkeypatch.setattr(fla, "_load", lambda topic: asked.append(topic) or equations(topic))
    tensors = numbers(*words.split())
    for ours, theirs in zip(op(*tensors), definition(*tensors), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    assert asked == [topic]


def test_the_form_in_tensors_runs_in_float32_and_on_a_cpu(monkeypatch):
    monkeypatch.setattr(fla, "_load", lambda topic: pytest.fail(f"{topic} was asked for"))
    monkeypatch.setattr(native, "kernels", lambda *_: None)
    with torch.autocast("cpu", torch.bfloat16):
        for _, _, _, op, words in CASES.values():
            op(*numbers(*words.split()))


def test_short_sequences_are_not_worth_a_kernel(monkeypatch):
    monkeypatch.setattr(fla, "_in_bfloat16_on_a_gpu", lambda state: True)
    monkeypatch.setattr(fla, "_load", equations)
    (state,) = numbers("state")
    assert fla.kernels("gla", fla.SHORTEST, state)
    assert fla.kernels("gla", fla.SHORTEST - 1, state) is None


@pytest.mark.skipif(not (find_spec("fla") and find_spec("triton")), reason="needs the extra gpu, and triton")
def test_the_kernels_themselves():
    command = [sys.executable, str(Path(__file__).with_name("interpreted.py"))]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert set(errors) == {*CASES, *SCANS}
    assert max(errors[name] for name in CASES) < 2e-3, errors
    assert max(errors[name] for name in SCANS) < 1e-12, errors

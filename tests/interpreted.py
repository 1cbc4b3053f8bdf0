"""A GPU's kernels, carried out on a CPU by Triton's interpreter: relative errors of values and gradients against the definitions,
as JSON. `TRITON_INTERPRET=1 python tests/interpreted.py`, with triton and the extra `gpu` installed.

Those of flash-linear-attention in float16, as the interpreter multiplies matrices by NumPy, which has no bfloat16. It has no
driver to choose settings by, so the first are taken; and its loops run over Python's integers, which lack what Triton's have.
"""

import builtins
import json
import sys
from functools import partial

import numpy as np
import torch
import triton.language as tl
from test_fla import CASES, SCANS, numbers
from test_scan import inputs
from triton.runtime.autotuner import Autotuner
from triton.runtime.interpreter import GridExecutor

from architectures.ops import fla, scan, scan_gpu

_carry_out = GridExecutor.__call__


class Index(int):
    def to(self, *_):
        return self


def number(value):
    data = getattr(getattr(value, "handle", value), "data", value)
    return int(np.asarray(data).reshape(-1)[0])


def carry_out(executor, *arguments, **named):
    for name, module in list(sys.modules.items()):
        if name.startswith("fla.ops") and hasattr(module, "gather"):
            module.gather = lambda *each, **more: tl.gather(*each, **more)  # what the interpreter has put there by then
    executor.fn.__globals__["range"] = lambda *ends: map(Index, builtins.range(*map(number, ends)))
    return _carry_out(executor, *arguments, **named)


def first_settings(tuner, *arguments, **named):
    return tuner.fn.run(*arguments, **(named | tuner.configs[0].kwargs))


def results(function, tensors):
    """Values, the last state, and the gradients of a sum of both that weighs every number otherwise."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    made = function(*leaves)
    made = made if isinstance(made, tuple) else (made,)
    sum((x * torch.linspace(1, 2, x.numel()).view_as(x)).sum().abs() for x in made).backward()
    return [*(x.detach() for x in made), *(x.grad for x in leaves)]


def difference(ours, theirs):
    return max(float((a - b).norm() / a.norm()) for a, b in zip(ours, theirs, strict=True))


Autotuner.run, GridExecutor.__call__ = first_settings, carry_out
fla._half = lambda *tensors: [x.to(torch.float16).contiguous() for x in tensors]
found = {}
for name, (topic, hand_over, definition, _, words) in CASES.items():
    tensors = numbers(*words.split())
    ours, theirs = results(definition, tensors), results(partial(hand_over, fla._load(topic)), tensors)
    found[name] = difference(ours, theirs)
scan._in_chunks = scan_gpu.recur
for name, (length, dtype, constant) in SCANS.items():
    tensors = [x.detach() for x in inputs(length, dtype, constant=constant)]
    ours, theirs = results(scan.scan_definition, tensors), results(scan._Scan.apply, tensors)
    found[name] = difference(ours, theirs)
print(json.dumps(found))

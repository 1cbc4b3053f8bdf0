"""Law 9, devices: a backbone computes where its weights and its input are, so that one which runs on a processor runs on a GPU.

This is tried without a GPU, on torch's meta device, which has shapes and no numbers: there no operation, backward ones included,
may meet tensors of two devices. As on a GPU, a single number and indices may come from the processor. A backbone that looks at
numbers, to branch on them for one, cannot be tried so.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from architectures.backbone import Backbone
from lab.laws.subject import UNTRIED, Broken, Subject

META = torch.device("meta")
MOVES = ("aten::_to_copy", "aten::copy_")
INDEXES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


def holds(subject: Subject) -> str:
    """What is worth knowing where the law holds; raises where it does not."""
    try:
        for causal in subject.forms:
            model = subject.build(causal=causal).to(META)
            with _OneDevice(subject):
                _trains(subject, model)
                if causal:
                    _streams(subject, model)
    except Broken:
        raise
    except Exception as error:
        return f"{UNTRIED} without a GPU: {type(error).__name__} in {subject.doing}"
    return ""


def _trains(subject: Subject, model: Backbone) -> None:
    length = subject.lengths(33)[0]
    x = torch.empty(2, length, subject.dim, device=META, requires_grad=True)
    subject.doing = f"forward of length {length}"
    y = model.train()(x)
    subject.doing = f"backward of length {length}"
    y.sum().backward()


@torch.no_grad()
def _streams(subject: Subject, model: Backbone) -> None:
    model.eval()
    state = model.init_state(2)
    for length in (1, subject.lengths(33)[0] - 2, 1):
        subject.doing = f"streaming {length} positions"
        _, state = model.stream(torch.empty(2, length, subject.dim, device=META), state)


class _OneDevice(TorchDispatchMode):
    """Refuses operations whose tensors lie on several devices."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        given = args[0] if name in INDEXES else (args, kwargs)
        devices = {t.device.type for t in tree_leaves(given) if isinstance(t, Tensor) and t.ndim}
        if len(devices) > 1 and name not in MOVES:
            other = ", ".join(devices - {META.type})
            raise Broken(
                f"{name} meets tensors on the device of the input and on {other}, in {self.subject.doing}; "
                "make constants with device=x.device, or register them as buffers"
            )
        return func(*args, **(kwargs or {}))

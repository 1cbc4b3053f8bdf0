"""The backbone under test, the exception that says it breaks a law, and what several laws need to look for a break."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from architectures.backbone import Backbone, LengthError

LONG = 4096
EXACT = 1e-9  # relative to the largest output, float64
SEED = 20_240_229
WHOLE = "it has no causal form"
UNTRIED = "cannot be tried"
_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class Broken(Exception):
    """A law does not hold; says what was found and where."""


@dataclass
class Subject:
    """The backbone under test, and `doing`: what is being tried, for the message if it raises."""

    name: str
    make: Callable[..., Backbone]
    dim: int
    depth: int
    settings: Mapping[str, Any]
    known: bool = False
    """Whether the lab finds it by name."""
    doing: str = field(default="", init=False)

    def awake(self, dtype: torch.dtype = torch.float32, *, causal: bool | None = None, seed: int = SEED) -> Backbone:
        """A new one in evaluation mode, with whatever starts at zero moved: a block that writes nothing would keep any law."""
        return wake(self.build(dtype, causal=causal, seed=seed))

    def build(
        self, dtype: torch.dtype = torch.float32, *, seed: int = SEED, depth: int = 0, causal: bool | None = None
    ) -> Backbone:
        """A new one in evaluation mode, as it initialises itself; `depth` 0 is the one under test, `causal` None its first."""
        if causal is None:
            causal = self.forms[0]
        self.doing = f"building it with dim={self.dim}, depth={depth or self.depth}, causal={causal}"
        default = torch.get_default_dtype()
        try:
            torch.manual_seed(seed)
            made = self.make(self.dim, depth or self.depth, causal=causal, **self.settings).to(torch.get_default_device())
        finally:
            torch.set_default_dtype(default)
        if dtype == torch.float64:
            widen(made)
        return made.eval()

    def read(self, model: Backbone, x: Tensor, label: str = "", seed: int = SEED) -> Tensor:
        """`forward`, after the same seed each time."""
        mode = "train()" if model.training else "eval()"
        self.doing = label or f"forward of length {x.shape[1]}, batch {x.shape[0]}, {short(x.dtype)}, {mode}"
        torch.manual_seed(seed)
        y = model(x)
        if not isinstance(y, Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            raise Broken(f"{self.doing} gave {described(y)}, expected {described(x)}")
        return y

    def read_finite(self, model: Backbone, x: Tensor, label: str = "") -> None:
        """`read` without gradients, where no value of the output may be infinite or nan."""
        with torch.no_grad():
            y = self.read(model, x, label)
        if not y.isfinite().all():
            position = int((~y.isfinite()).any(2).any(0).nonzero()[0])
            raise Broken(f"{self.doing} gave a value that is not finite at position {position}")

    @cached_property
    def forms(self) -> tuple[bool, ...]:
        """The values of `causal` that it can be built with; a causal form is lacking only where a ValueError says so."""

        def lacks(causal: bool) -> bool:
            try:
                self.build(causal=causal)
            except Exception as error:
                return not causal or (isinstance(error, ValueError) and "causal" in str(error))
            return False

        return tuple(causal for causal in (True, False) if not lacks(causal)) or (True,)

    @cached_property
    def longest(self) -> int:
        """The longest sequence it reads, at most `LONG`."""
        model = self.build()

        def refuses(length: int) -> bool:
            try:
                with torch.no_grad():
                    model(noise(1, length, self.dim))
            except LengthError:
                return True
            except Exception:
                return False
            return False

        if not refuses(LONG):
            return LONG
        low, high = 0, LONG
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if refuses(middle) else (middle, high)
        return low

    def lengths(self, *wanted: int) -> list[int]:
        """The wanted lengths, none beyond the longest that it reads."""
        return sorted({min(length, self.longest) for length in wanted})


def wake(model: Backbone) -> Backbone:
    """Whatever starts at zero moved, in place."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if not parameter.any():
                fan_in = parameter.shape[-1] if parameter.ndim > 1 else 16
                parameter += noise(*parameter.shape, seed=number).to(parameter) / math.sqrt(fan_in)
    return model


def widen(model: Backbone) -> Backbone:
    """Every number of it in double precision, in place."""
    return model._apply(lambda t: t.to(_WIDE.get(t.dtype, t.dtype)))


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same for the same arguments, whatever the global generator and the device."""
    drawn = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), device="cpu")
    return drawn.to(torch.get_default_device(), dtype)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """How far each element is off; nan is infinitely far."""
    return (a - b).abs().nan_to_num(nan=math.inf)


def largest(y: Tensor) -> float:
    """The size of the largest element, which tolerances are relative to; none is granted where one is not finite."""
    return max(y.abs().max().item(), 1e-300) if y.isfinite().all() else 0.0


def short(dtype: torch.dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("torch.")


def described(value: Any) -> str:
    """`float32 (2, 16, 16)`, or the type of what is no tensor."""
    return f"{short(value.dtype)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

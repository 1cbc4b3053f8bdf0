"""Small backbones: healthy ones, and ones with a single planted fault each."""

import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from architectures.backbone import Backbone, Flops, LengthError, Tuning


class Mean(Backbone):
    """A linear map of each position plus the mean of what came before: healthy, defined by `forward` alone."""

    def __init__(self, dim: int, depth: int, *, causal: bool = True) -> None:
        super().__init__(dim, depth, causal=causal)
        if not causal:
            raise TypeError("reads forwards only")
        self.layers = nn.ModuleList(self.layer() for _ in range(depth))

    def layer(self) -> nn.Module:
        return nn.Linear(self.dim, self.dim)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(x + self.mix(layer(x)))
        return x

    def mix(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device).to(x.dtype)[:, None]

    def flops(self, length):
        cost = Flops(2 * self.dim**2, 2 * self.dim, 3 * self.dim)
        return cost * (length * self.depth)


class Whole(Mean):
    """The mean of the whole sequence: healthy, but nothing for a causal task."""

    def __init__(self, dim, depth, *, causal=True):
        if causal:
            raise ValueError("causal tasks need another one")
        super().__init__(dim, depth)
        self.causal = False

    def init_state(self, batch):
        raise TypeError("built with causal=False, it cannot stream")

    def mix(self, x):
        return x.mean(1, keepdim=True).expand_as(x)


class WholeOfAllRows(Whole):
    def mix(self, x):
        return x.mean((0, 1), keepdim=True).expand_as(x)


class CausalFormIsBroken(Whole):
    """That it cannot be built is no refusal."""

    def __init__(self, dim, depth, *, causal=True):
        if causal:
            raise TypeError("causal must be given as mode")
        super().__init__(dim, depth, causal=False)


class Decay(Backbone):
    """h = h/2 + W x, summed into the output: healthy, defined by `stream` alone."""

    def __init__(self, dim: int, depth: int, *, causal: bool = True) -> None:
        super().__init__(dim, depth, causal=causal)
        if not causal:
            raise TypeError("reads forwards only")
        self.weights = nn.Parameter(torch.randn(depth, dim, dim) / dim**0.5)

    def init_state(self, batch):
        return {"h": [self.zeros(batch, self.dim) for _ in range(self.depth)]}

    def stream(self, x, state):
        after = []
        for weight, h in zip(self.weights, state["h"], strict=True):
            driven, out = x @ weight.T, []
            for t in range(x.shape[1]):
                h = self.carry(h) + driven[:, t]
                out.append(h)
            after.append(h)
            x = x + torch.stack(out, 1) if out else x
        return x, {"h": after}

    def carry(self, h):
        return h / 2

    def flops(self, length):
        return Flops(2 * self.dim**2, 2 * self.dim, self.dim) * (length * self.depth)


class Step(Backbone):
    """The same with `step` alone: healthy."""

    def __init__(self, dim: int, depth: int, *, causal: bool = True) -> None:
        super().__init__(dim, depth, causal=causal)
        if not causal:
            raise TypeError("reads forwards only")
        self.weights = nn.Parameter(torch.randn(depth, dim, dim) / dim**0.5)

    def init_state(self, batch):
        return self.zeros(self.depth, batch, self.dim)

    def step(self, x, state):
        after = []
        for weight, h in zip(self.weights, state, strict=True):
            h = torch.tanh(h / 2 + x @ weight.T)
            after.append(h)
            x = x + h
        return x, torch.stack(after)

    def flops(self, length):
        return Flops(2 * self.dim**2, 2 * self.dim, 2 * self.dim) * (length * self.depth)


class Dropout(Mean):
    """Healthy, with dropout, batches apart."""

    def mix(self, x):
        return F.dropout(super().mix(x), 0.2, self.training)


class ZeroStart(Mean):
    """Healthy: a gate that starts at zero shields the layer's weights from the first gradient."""

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.gate = nn.Parameter(torch.zeros(dim))

    def mix(self, x):
        return self.gate * super().mix(x)


class ShieldedLeak(ZeroStart):
    """A leak that an output starting at zero hides at first."""

    def mix(self, x):
        return self.gate * x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


class LongConvolution(Mean):
    """Healthy: a complex diagonal state space as a convolution by FFT, after a short depthwise one."""

    taps = 4

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.pole = nn.Parameter(torch.complex(-torch.rand(dim) - 0.1, torch.randn(dim)))
        self.short = nn.Conv1d(dim, dim, self.taps, groups=dim)

    def mix(self, x):
        length = x.shape[1]
        x = self.short(F.pad(x.transpose(1, 2), (self.taps - 1, 0)))
        time = torch.arange(length, device=x.device)[:, None]
        kernel = (self.pole * time).exp().real.T
        spectrum = torch.fft.rfft(x.to(kernel.dtype), n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
        return torch.fft.irfft(spectrum, n=2 * length)[..., :length].to(x.dtype).transpose(1, 2)

    def flops(self, length):
        cost = Flops(2 * self.dim**2 + 2 * self.taps * self.dim, 10 * self.dim, 3 * self.dim)
        return cost * (length * self.depth)


class Window(Mean):
    """Healthy: the mean of the last three positions; its state holds two of them and a count, which is no tensor."""

    def init_state(self, batch):
        return [(self.zeros(batch, 2, self.dim), 0) for _ in self.layers]

    def forward(self, x):
        return self.stream(x, self.init_state(x.shape[0]))[0]

    def stream(self, x, state):
        after = []
        for layer, (past, seen) in zip(self.layers, state, strict=True):
            recent = torch.cat([past.to(x.dtype), layer(x)], 1)
            after.append((recent[:, recent.shape[1] - 2 :], seen + x.shape[1]))
            x = torch.tanh(x + recent.unfold(1, 3, 1).mean(3)) if x.shape[1] else x
        return x, after


class BatchNorm(Mean):
    """Leaks through batch statistics, in training only."""

    def layer(self):
        return nn.Sequential(nn.Linear(self.dim, self.dim), Channels(nn.BatchNorm1d(self.dim)))


class Channels(nn.Module):
    """A module for (batch, dim, length)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class NormOverTime(Mean):
    def mix(self, x):
        return x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


class Circular(Mean):
    def mix(self, x):
        return (x + x.roll(1, 1) + x.roll(2, 1)) / 3


class Sorting(Mean):
    def mix(self, x):
        return x.sort(1).values


class Pooling(Mean):
    def mix(self, x):
        return super().mix(x) + 1e-6 * x.mean(1, keepdim=True)


class ChunkBoundary(Mean):
    """Only the last position of a chunk of 64 sees one position ahead."""

    def mix(self, x):
        ahead = F.pad(x[:, 1:], (0, 0, 0, 1))
        last = torch.arange(x.shape[1], device=x.device) % 64 == 63
        return super().mix(x) + ahead * last[:, None]


class LaterChunk(Mean):
    """Chunks of 16 after the fourth are read whole."""

    def mix(self, x):
        y = super().mix(x)
        pieces = [piece + piece.mean(1, keepdim=True) * (i > 3) for i, piece in enumerate(y.split(16, 1))]
        return torch.cat(pieces, 1)


class DroppedMask(Mean):
    """Attends without a mask from 129 positions on."""

    def mix(self, x):
        return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=x.shape[1] < 129)[:, 0]


class DroppedMaskInTraining(Mean):
    def mix(self, x):
        heads = x[:, None]
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=not self.training)[:, 0]


class StepFunction(Mean):
    """Leaks through a comparison, which no gradient sees."""

    def mix(self, x):
        return super().mix(x) + (x.amax(1, keepdim=True) > 50).to(x.dtype)


class LosesState(Decay):
    """What was carried is scaled once more whenever a piece ends."""

    def stream(self, x, state):
        y, state = super().stream(x, state)
        return y, {"h": [0.999 * h for h in state["h"]]}


class MutatesState(Decay):
    def stream(self, x, state):
        y, after = super().stream(x, state)
        for h, new in zip(state["h"], after["h"], strict=True):
            h.copy_(new)
        return y, state


class StateOnSelf(Decay):
    def init_state(self, batch):
        self.kept = super().init_state(batch)
        return ()

    def stream(self, x, state):
        y, self.kept = super().stream(x, self.kept)
        return y, ()


class NoEmptyPiece(Decay):
    def stream(self, x, state):
        if not x.shape[1]:
            raise IndexError("no positions")
        return super().stream(x, state)


class CannotStream(Mean):
    def stream(self, x, state):
        raise NotImplementedError("not here")


class OtherForward(Step):
    """Its parallel form forgets at another rate than its steps."""

    def forward(self, x):
        for weight in self.weights:
            h, out = torch.zeros_like(x[:, 0]), []
            for driven in (x @ weight.T).unbind(1):
                h = torch.tanh(0.5001 * h + driven)
                out.append(h)
            x = x + torch.stack(out, 1)
        return x


class MixesRows(Mean):
    def mix(self, x):
        return super().mix(x) + 1e-3 * x.mean(0, keepdim=True).cumsum(1)


class MixesRowsInTraining(Mean):
    def mix(self, x):
        return super().mix(x) * (1 + x.mean(0, keepdim=True).square().cumsum(1)) if self.training else super().mix(x)


class UnseededWeights(Mean):
    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.scale = nn.Parameter(torch.from_numpy(np.random.default_rng().standard_normal(dim)).float())

    def mix(self, x):
        return self.scale * super().mix(x)


class UnseededNoise(Mean):
    """Draws in training from a generator that the clock seeds."""

    def mix(self, x):
        if not self.training:
            return super().mix(x)
        clock = torch.Generator().manual_seed(time.time_ns())
        return super().mix(x) + 1e-3 * torch.randn(x.shape, generator=clock, dtype=x.dtype)


class CountsInstances(Mean):
    """Later instances start smaller: hidden state in the class."""

    built = 0

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        CountsInstances.built += 1
        with torch.no_grad():
            for parameter in self.parameters():
                parameter /= CountsInstances.built


class SeedsGlobally(Mean):
    def __init__(self, dim, depth, *, causal=True):
        torch.manual_seed(0)
        super().__init__(dim, depth, causal=causal)


class ChangesDefaultDtype(Mean):
    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        torch.set_default_dtype(torch.float64)


class UnsavedFeatures(Mean):
    """Random features that are in no buffer."""

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.features = torch.randn(dim)

    def mix(self, x):
        return super().mix(x) * self.features.to(x.dtype)


class TimesThree(Mean):
    def flops(self, length):
        return super().flops(length) * 3


class Half(Mean):
    def flops(self, length):
        cost = super().flops(length)
        return Flops(cost.contraction // 2, cost.mixing, cost.pointwise)


class MissingLayer(Mean):
    def flops(self, length):
        cost = Flops(2 * self.dim**2, 2 * self.dim, 3 * self.dim)
        return cost * (length * (self.depth - 1))


class Attends(Mean):
    """Healthy: two heads of causal attention without projections."""

    pairs = staticmethod(lambda length: length * (length + 1) // 2)
    counted_heads = 2

    def mix(self, x):
        heads = x.unflatten(2, (2, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2).flatten(2)

    def flops(self, length):
        width = self.dim // 2
        attention = Flops(self.counted_heads * 4 * width * self.pairs(length), 10 * self.pairs(length))
        return (Flops(2 * self.dim**2, 0, 3 * self.dim) * length + attention) * self.depth


class MissingHead(Attends):
    counted_heads = 1


class FullSquare(Attends):
    pairs = staticmethod(lambda length: length**2)


class NegativeFlops(Mean):
    def flops(self, length):
        cost = super().flops(length)
        return Flops(cost.contraction, -cost.mixing, cost.pointwise)


class NotLinearInDepth(Mean):
    def flops(self, length):
        return super().flops(length) + Flops(mixing=self.depth**2)


class Uncounted(Mean):
    """Uses an operator of which the counter knows nothing."""

    def mix(self, x):
        return super().mix(x) + torch.linalg.matrix_exp(torch.zeros(2, 2)).sum().to(x.dtype)


class UncountedBackward(Mean):
    """Forward is known; what torch does for its gradient is not."""

    def mix(self, x):
        return super().mix(x) + _Opaque.apply(x)


class _Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * 0 + torch.linalg.matrix_exp(torch.zeros(2, 2)).sum().to(grad.dtype) * 0


class DearMinimum(Mean):
    """What it calls its cheapest form costs more than its own."""

    def flops(self, length):
        cost = super().flops(length)
        return Flops(cost.contraction, cost.mixing, cost.pointwise, minimum=cost * 2)


class SharedKernel(Mean):
    """A product that all rows of a batch share."""

    def mix(self, x):
        return super().mix(x) * (self.layers[0].weight @ self.layers[0].weight).mean(0)

    def flops(self, length):
        return super().flops(length) + Flops(2 * self.dim**3) * self.depth


class DeadParameter(Mean):
    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.unused = nn.Parameter(torch.randn(dim))


class ZeroGradient(Mean):
    """Two factors that start at zero and keep each other there."""

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.left, self.right = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def mix(self, x):
        return super().mix(x) * (1 + self.left * self.right)


class MisnamedTuning(Mean):
    tuned = {"decay": Tuning(lr_scale=0.1)}


class DerivedWeights(Mean):
    """Reading `state_dict` redraws a weight, so what the lab holds is not what was built."""

    def layer(self):
        return Redrawn(self.dim)


class Redrawn(nn.Linear):
    def __init__(self, dim):
        super().__init__(dim, dim)

    def state_dict(self, *args, **kwargs):
        nn.init.normal_(self.weight)
        return super().state_dict(*args, **kwargs)


class NanAtOne(Mean):
    """Standard deviation over one position."""

    def mix(self, x):
        centred = x - x[:, :1]
        return super().mix(x) + 0 * centred[:, :2].square().sum(1, keepdim=True) / (min(x.shape[1], 2) - 1)


class WrongShape(Mean):
    """Pads to a multiple of 16 and forgets to cut."""

    def forward(self, x):
        return super().forward(F.pad(x, (0, 0, 0, -x.shape[1] % 16)))


class OnlyFloat32(Mean):
    def forward(self, x):
        return super().forward(x).float()


class ExplodingGradient(Mean):
    """The root of zero has a value and no slope."""

    def mix(self, x):
        return super().mix(x) + torch.sqrt(0 * x) * (x.shape[1] > 2000)


class OverflowsInBfloat16(Mean):
    def mix(self, x):
        return super().mix(x) * (float("nan") if torch.is_autocast_enabled("cpu") else 1.0)


class WrapsAround(Mean):
    """Raises the wrong error beyond a table of 100 positions."""

    def mix(self, x):
        if x.shape[1] > 1024:
            raise IndexError("index 1024 is out of bounds")
        return super().mix(x)


class StreamsPastItsTable(Decay):
    """Refuses more than 300 positions in `forward` only."""

    def forward(self, x):
        if x.shape[1] > 300:
            raise LengthError("300 positions")
        return super().forward(x)


class FailsToBuild(Mean):
    def __init__(self, dim, depth, *, causal=True):
        raise RuntimeError("no\nsuch   kernel")


class ForwardsCounted(Mean):
    """Every instance after the first few reads differently: a global count of forward passes."""

    read = 0

    def mix(self, x):
        if not self.training:
            ForwardsCounted.read += 1
        return super().mix(x) * (1 + 1e-3 * (ForwardsCounted.read % 7))


class DropoutInEvaluation(Mean):
    def mix(self, x):
        return F.dropout(super().mix(x), 0.2, training=True)


class CachesByShape(Mean):
    """Computes once for each shape, and never looks at the numbers again."""

    def mix(self, x):
        self.cache = getattr(self, "cache", {})
        if self.training:
            return super().mix(x)
        return self.cache.setdefault((x.shape, x.dtype), super().mix(x))


class CachesByMemory(Mean):
    """Knows its input again by where it lies."""

    def forward(self, x):
        self.cache = getattr(self, "cache", {})
        key = (x.data_ptr(), x.shape)
        if self.training or x.requires_grad or x.shape[0] != 2:
            return super().forward(x)
        if key not in self.cache:
            self.cache[key] = (x, super().forward(x))
        return self.cache[key][1]


class KernelOfTheLongest(Mean):
    """A table made for the longest sequence so far, and scaled by it."""

    def mix(self, x):
        self.longest = max(getattr(self, "longest", 0), x.shape[1])
        return super().mix(x) * (1 + 1e-4 * (self.longest - x.shape[1]))


class StaleKernel(Mean):
    """Keeps what it made of its weights for evaluation, also when training went on."""

    def mix(self, x):
        if torch.is_grad_enabled():
            return super().mix(x) * self.kernel()
        if not hasattr(self, "kept"):
            self.kept = self.kernel().detach()
        return super().mix(x) * self.kept.to(x.dtype)

    def kernel(self):
        return 1 + self.layers[0].weight.mean(1)


class InferenceTable(Mean):
    """A table made in evaluation is an inference tensor, which training cannot use."""

    def mix(self, x):
        if not hasattr(self, "table"):
            self.table = torch.linspace(0.5, 1, self.dim, dtype=torch.float32)
        return super().mix(x) * self.table.to(x)


class KeepsBfloat16(Mean):
    """Casts its weights once, in whatever precision comes first."""

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(x + self.mix(x.to(self.cast(layer, x).dtype) @ self.cast(layer, x).T).to(x.dtype))
        return x

    def cast(self, layer, x):
        if not torch.is_autocast_enabled("cpu"):
            return getattr(layer, "kept", layer.weight)
        layer.kept = layer.weight.bfloat16()
        return layer.kept


class RedrawnInTrain(Mean):
    """`train` initialises again."""

    def train(self, mode=True):
        if mode:
            for layer in self.layers:
                layer.reset_parameters()
        return super().train(mode)


class ReadsDefaultDtype(Mean):
    def mix(self, x):
        return super().mix(x) * (1 + torch.rand(1, generator=torch.Generator().manual_seed(0))).to(x.dtype)


class ReadsThreads(Mean):
    """One part for each thread, and what crosses parts is lost."""

    def mix(self, x):
        return torch.cat([super(ReadsThreads, self).mix(part) for part in x.tensor_split(torch.get_num_threads(), 1)], 1)


class OtherWithoutGradient(Mean):
    """A fast path for evaluation that forgets a term."""

    def mix(self, x):
        return super().mix(x) + (1e-3 * x if torch.is_grad_enabled() else 0)


class MutatesInput(Mean):
    def forward(self, x):
        with torch.no_grad():
            x.data.mul_(0.5)
        return super().forward(x)


class MutatesPiece(Decay):
    """Only what streams is changed."""

    def forward(self, x):
        return super().stream(x, self.init_state(x.shape[0]))[0]

    def stream(self, x, state):
        y, state = super().stream(x, state)
        x.data.zero_()
        return y, state


class CutsGradient(Mean):
    """Truncated backpropagation, hidden in `forward`: gradients reach back no further than 512 positions."""

    def mix(self, x):
        far = x.shape[1] - 512
        return super().mix(torch.cat([x[:, :far].detach(), x[:, far:]], 1) if far > 1000 else x)


class CutsGradientBetweenPieces(Decay):
    def stream(self, x, state):
        return super().stream(x, {"h": [h.detach() for h in state["h"]]})


class WrongGradient(Mean):
    """Its own backward, a factor off."""

    def mix(self, x):
        y = super().mix(x)
        return y.detach() + 0.99 * (y - y.detach())


class Float32Inside(Mean):
    """Whatever it is given, it computes in single precision."""

    def mix(self, x):
        return super().mix(x.float()).to(x.dtype)


class Float32Table(Mean):
    """A matrix that is no buffer stays behind when the weights become double."""

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.table = torch.eye(dim)

    def mix(self, x):
        return super().mix(x) @ self.table


class GrowingState(Decay):
    """A constant state, and a note of each piece that came."""

    def init_state(self, batch):
        return super().init_state(batch) | {"notes": []}

    def stream(self, x, state):
        y, after = super().stream(x, state)
        return y, after | {"notes": [*state["notes"], self.zeros(1)]}


class PaddedChunks(Mean):
    """From 1,024 positions on chunks of 128 are padded, and the last one is read whole."""

    def mix(self, x):
        y = super().mix(x)
        rest = x.shape[1] % 128
        if x.shape[1] < 1024 or not rest:
            return y
        return torch.cat([y[:, :-rest], y[:, -rest:] + x[:, -rest:].mean(1, keepdim=True)], 1)


class CheapWhenLong(Mean):
    """Declares a low rank beyond 1,000 positions."""

    def flops(self, length):
        cost = super().flops(length)
        return cost if length < 1000 else Flops(cost.contraction // 2, cost.mixing, cost.pointwise)


class Universal(Mean):
    """Depth repeats the same weights: healthy, as the Universal Transformer and ALBERT are."""

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.layers = nn.ModuleList([self.layers[0]] * depth)


class NanAtHundred(Mean):
    def mix(self, x):
        return super().mix(x) * (float("nan") if x.shape[1] == 100 else 1.0)


class ViewsItsInput(Mean):
    """Takes for granted that rows lie in memory one after the other."""

    def forward(self, x):
        return super().forward(x.view(-1, self.dim).view(x.shape))


class ConstantOnTheProcessor(Mean):
    def mix(self, x):
        return super().mix(x) * torch.linspace(0.5, 1, self.dim, dtype=x.dtype)


class UnregisteredConstant(Mean):
    """A product with what is neither a parameter nor a buffer, and stays behind when the weights are moved."""

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, causal=causal)
        self.turned = torch.eye(dim).flip(0)

    def mix(self, x):
        return super().mix(x) @ self.turned.to(x.dtype)


class StateOnTheProcessor(Decay):
    def init_state(self, batch):
        return {"h": [torch.zeros(batch, self.dim, dtype=self.weights.dtype) for _ in range(self.depth)]}


class GradientOnTheProcessor(Mean):
    def mix(self, x):
        return Doubled.apply(super().mix(x)) / 2


class Doubled(torch.autograd.Function):
    """Its backward pass makes its factor on the processor."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.full(grad.shape, 2.0, dtype=grad.dtype)


class LooksAtNumbers(Mean):
    """Healthy, but what it computes hangs on a number."""

    def mix(self, x):
        return super().mix(x) if x.isfinite().all() else x


HEALTHY = [Mean, Whole, Decay, Step, Dropout, ZeroStart, Attends, LongConvolution, Window, Universal, LooksAtNumbers]
FAULTS: list[tuple[type[Backbone], int, str]] = [  # the law that must refuse it, and words of its message
    (WrongShape, 1, "float32 (2, 16, 16), expected float32 (2, 1, 16)"),
    (OnlyFloat32, 1, "expected float64"),
    (CausalFormIsBroken, 1, "TypeError: causal must be given as mode (while building it with dim=16, depth=2, causal=True)"),
    (NanAtOne, 1, "length 1, batch 2, float32, eval() gave a value that is not finite at position 0"),
    (ExplodingGradient, 1, "is not finite after backward of length 4096"),
    (BatchNorm, 2, "train()"),
    (NormOverTime, 2, "was replaced|were replaced"),
    (ShieldedLeak, 2, "output at position"),
    (Circular, 2, "output at position 0 changed by"),
    (Sorting, 2, "output at position"),
    (Pooling, 2, "output at position"),
    (ChunkBoundary, 2, "output at position 63 changed"),
    (LaterChunk, 2, "output at position"),
    (DroppedMask, 2, "forward of length 131"),
    (DroppedMaskInTraining, 2, "train()"),
    (StepFunction, 2, "when inputs from position"),
    (LosesState, 3, "differs from forward's by"),
    (MutatesState, 3, "stream changed the state that it was given"),
    (StateOnSelf, 3, "the same state gave another answer"),
    (NoEmptyPiece, 3, "IndexError: no positions (while streaming 0+"),
    (CannotStream, 3, "NotImplementedError: not here"),
    (OtherForward, 3, "output at position 1 differs"),
    (MixesRows, 4, "row 0 of a batch changed by"),
    (MixesRowsInTraining, 4, "train()"),
    (WholeOfAllRows, 4, "of a batch changed by"),
    (UnseededWeights, 4, "gave different values of scale"),
    (UnseededNoise, 4, "another output the second time"),
    (CountsInstances, 4, "building it twice from the same seed gave different values of layers.0.weight"),
    (SeedsGlobally, 4, "seeds torch's global generator"),
    (ChangesDefaultDtype, 4, "default dtype to torch.float64"),
    (UnsavedFeatures, 4, "a fresh one loaded from its state_dict gives other outputs"),
    (TimesThree, 6, "is 3 times the counted"),
    (Half, 6, "is 0.5 times the counted"),
    (MissingLayer, 6, "is 0.5 times the counted"),
    (MissingHead, 6, "times the counted"),
    (FullSquare, 6, "times the counted"),
    (NegativeFlops, 6, "not a non-negative int"),
    (NotLinearInDepth, 6, "declared mixing is not linear in depth"),
    (Uncounted, 6, "operators in forward that lab/counter.py cannot count: aten::linalg_matrix_exp"),
    (UncountedBackward, 6, "operators in backward that lab/counter.py cannot count: aten::linalg_matrix_exp"),
    (DearMinimum, 6, "minimum is"),
    (SharedKernel, 6, "not linear in batch"),
    (DeadParameter, 7, "parameter unused gets no gradient"),
    (ZeroGradient, 7, "the gradient of parameter left is zero everywhere"),
    (MisnamedTuning, 7, "tuned names 'decay'"),
    (DerivedWeights, 7, "changed the initial value of layers.0.weight"),
    (OverflowsInBfloat16, 8, "bfloat16 autocast"),
    (WrapsAround, 8, "IndexError: index 1024 is out of bounds (while forward of length 1025"),
    (StreamsPastItsTable, 8, "forward refuses 301 positions, but stream goes on"),
    (ForwardsCounted, 4, "gave another output the second time"),
    (DropoutInEvaluation, 4, "in eval() its output depends on torch's global generator"),
    (CachesByShape, 4, "read after another sequence of the same shape in the same memory"),
    (CachesByMemory, 4, "of the same shape in the same memory"),
    (KernelOfTheLongest, 4, "read after a longer sequence, the same sequence gives other outputs"),
    (StaleKernel, 4, "after its weights were trained"),
    (InferenceTable, 4, "RuntimeError: Inference tensors cannot be saved for backward"),
    (RedrawnInTrain, 4, "read after another sequence in train(), the same sequence gives other outputs"),
    (ReadsDefaultDtype, 4, "while torch's default dtype is float64"),
    (ReadsThreads, 4, "with one more thread"),
    (OtherWithoutGradient, 4, "while gradients are recorded"),
    (MutatesInput, 4, "forward changed the input that it was given (forward of length 1, batch 3"),
    (MutatesPiece, 3, "changed the input that it was given"),
    (GrowingState, 3, "positions in pieces"),
    (CutsGradientBetweenPieces, 3, "the gradient with respect to the input at position 50 differs"),
    (CutsGradient, 7, "the gradient with respect to the input says"),
    (WrongGradient, 7, "(forward of length 61, batch 1, float64, eval())"),
    (Float32Inside, 7, "the gradient with respect to the input says"),
    (Float32Table, 1, "float64, eval())"),
    (NanAtHundred, 1, "forward of length 100, batch 1"),
    (ViewsItsInput, 1, "forward of a strided input"),
    (PaddedChunks, 2, "forward of length 1301"),
    (CheapWhenLong, 6, "at length 4095, batch 1"),
    (KeepsBfloat16, 8, "after bfloat16 autocast, float32 outputs are"),
    (ConstantOnTheProcessor, 9, "aten::mul meets tensors on the device of the input and on cpu, in forward of length 33"),
    (UnregisteredConstant, 9, "and on cpu, in forward of length 33; make constants with device=x.device, or register them"),
    (StateOnTheProcessor, 9, "aten::add meets tensors on the device of the input and on cpu"),
    (GradientOnTheProcessor, 9, "and on cpu, in backward of length 33"),
    (FailsToBuild, 1, "construction: RuntimeError: no such kernel (while building it"),
]

"""DeltaNet: linear attention that corrects what its state says of a key, rather than add to it; also with a decay.

    S[t] = a[t] (I - beta[t] k[t]^T k[t]) S[t-1] + beta[t] k[t]^T v[t];   y[t] = q[t] S[t] / sqrt(width);   a = 1 without gate
    q, k = silu(conv(W x)) of length 1 in each head, v = silu(conv(W x)), beta = logistic(w x) for each head

`gate=none`: Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", arXiv:2406.06484,
sections 2.2 and 3; keys and values as wide as dim, 4 heads, out = W_o norm_head(y).
`gate=scalar`: Yang et al., "Gated Delta Networks", arXiv:2412.06464, section 3; a[t] = exp(-A softplus(w_a x + b)), A uniform
in (0, 16), softplus(b) log-uniform in [0.001, 0.1]; keys 3/4, values 3/2 of dim, 6 heads, out = W_o (silu(W_g x) * norm_head(y)).
Widths, the RMS norm (eps 1e-5) and A and b without weight decay are those of the authors' flash-linear-attention. The
convolutions have 4 taps and no bias; the initial weights of linear maps are torch's.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State, Tuning
from architectures.ops.linear_attention import delta_rule, delta_rule_flops, step_bias
from architectures.ops.norm import RMSNorm
from architectures.ops.short_convolution import ShortConvolution
from architectures.ops.silu import gated_silu
from architectures.stack import NORM, Mixer, Stack, both_ways


def unit(x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    """`x` with length 1; what is very short stays so."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class DeltaRule(SequenceMap):
    """The delta rule in several heads; the state is that of the convolutions, and one matrix for each head."""

    def __init__(self, dim: int, heads: int, keys: int, values: int) -> None:
        super().__init__()
        self.dim, self.heads, self.keys, self.values = dim, heads, keys, values
        self.qkv = nn.Linear(dim, 2 * keys + values, bias=False)
        self.convolution = ShortConvolution(2 * keys + values, silu=True)
        self.beta = nn.Linear(dim, heads, bias=False)
        self.norm = RMSNorm(values // heads, eps=1e-5)
        self.out = nn.Linear(values, dim, bias=False)

    def log_decay(self, x: Float[Tensor, "batch length dim"], dtype: torch.dtype) -> Float[Tensor, "batch length heads"] | None:
        """None where the state does not decay."""
        return None

    def let_out(self, x: Float[Tensor, "batch length dim"], y: Float[Tensor, "batch length values"]) -> Tensor:
        """What of `y` the output reads."""
        return y

    def init_state(self, batch: int) -> State:
        matrices = self.zeros(batch, self.heads, self.keys // self.heads, self.values // self.heads)
        return self.convolution.init_state(batch), matrices

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        recent, matrices = state
        qkv, recent = self.convolution.stream(self.qkv(x), recent)
        parts = qkv.to(matrices.dtype).split([self.keys, self.keys, self.values], -1)
        q, k, v = (part.unflatten(2, (self.heads, -1)) for part in parts)
        beta = self.beta(x).to(matrices.dtype).sigmoid()
        q = unit(q) / math.sqrt(q.shape[-1])
        y, matrices = delta_rule(q, unit(k), v, beta, self.log_decay(x, matrices.dtype), matrices)
        return self.out(self.let_out(x, self.norm(y).flatten(2))), (recent, matrices)

    def flops(self, length: int) -> Flops:
        width = 2 * self.keys + self.values
        # length of q and k (4 for each element, 2 for each head) and the scale of q; the logistic function; norm
        pointwise = 9 * self.keys + 5 * self.heads + NORM * self.values
        each = Flops(2 * self.dim * (width + self.heads + self.values), pointwise=pointwise)
        return self._rule_flops(length) + self.convolution.flops(length) + each * length

    def _rule_flops(self, length: int, *, decays: bool = False) -> Flops:
        return delta_rule_flops(length, self.heads, self.keys // self.heads, self.values // self.heads, decays=decays)


class GatedDeltaRule(DeltaRule):
    """The delta rule with a decay and an output gate."""

    tuned: ClassVar[Mapping[str, Tuning]] = {name: Tuning(decay=False) for name in ("log_rate", "decay.bias")}

    def __init__(self, dim: int, heads: int, keys: int, values: int) -> None:
        super().__init__(dim, heads, keys, values)
        self.log_rate = nn.Parameter(torch.log(16 * (1 - torch.rand(heads))))
        self.decay = nn.Linear(dim, heads)
        self.decay.bias = nn.Parameter(step_bias(heads))
        self.gate = nn.Linear(dim, values, bias=False)

    def log_decay(self, x: Float[Tensor, "batch length dim"], dtype: torch.dtype) -> Float[Tensor, "batch length heads"] | None:
        step = F.softplus(F.linear(x, self.decay.weight).to(dtype) + self.decay.bias)
        return -self.log_rate.exp() * step

    def let_out(self, x: Float[Tensor, "batch length dim"], y: Float[Tensor, "batch length values"]) -> Tensor:
        return gated_silu(y, self.gate(x))

    def flops(self, length: int) -> Flops:
        # bias, softplus and the rate for each head; silu and product
        each = Flops(2 * self.dim * (self.heads + self.values), mixing=3 * self.heads, pointwise=5 * self.values)
        return super().flops(length) + each * length

    def _rule_flops(self, length: int, *, decays: bool = True) -> Flops:
        return super()._rule_flops(length, decays=decays)


class DeltaNet(Stack):
    """The delta rule, plain or gated. Yang et al., arXiv:2406.06484 and arXiv:2412.06464."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        gate: Annotated[Literal["none", "scalar"], "the state keeps all (DeltaNet), or decays (Gated DeltaNet)"] = "none",
        heads: Annotated[int | None, "heads; none given: 4, or 6 with the gate"] = None,
        mlp: Annotated[Mixer, "channel mixer after each delta rule"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        if gate == "none":
            kind, heads, keys, values = DeltaRule, 4 if heads is None else heads, dim, dim
        else:
            kind, heads, keys, values = GatedDeltaRule, 6 if heads is None else heads, 3 * dim // 4, 3 * dim // 4 * 2
        if heads < 1 or keys % heads or (gate != "none" and dim % 4):
            raise ValueError(f"heads={heads} must divide the {'' if gate == 'none' else '3/4 '}dim={dim} of keys")

        def layer() -> SequenceMap:
            return kind(dim, heads, keys, values)

        super().__init__(dim, depth, both_ways(dim, layer, causal), causal=causal, mlp=mlp, hidden=hidden)

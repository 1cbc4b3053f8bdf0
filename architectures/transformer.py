"""Transformer decoder: multi-head softmax attention over all earlier positions.

    q, k, v = W x;   y = W_o concat_h softmax(q k^T / sqrt(d_h) + bias) v          Vaswani et al., arXiv:1706.03762, section 3.2

Presets, each a set of the settings below:
gpt1    LayerNorm after the residual sum, learned positions, GELU MLP, biases, N(0, 0.02) (Radford et al. 2018, section 4.1)
gpt2    LayerNorm before each branch; weights that write to the residual divided by sqrt(2 depth) (Radford et al. 2019, 2.3)
gpt3    gpt2 with every second layer attending to a window only (Brown et al., arXiv:2005.14165, section 2.1)
gopher  RMSNorm and Transformer-XL's relative positions, GELU, biases (Rae et al., arXiv:2112.11446, section 3.1)
palm    one LayerNorm for attention and MLP in parallel, one head of keys and values, rotary positions, SwiGLU 4 dim wide,
        no biases, kernels N(0, 1/fan-in) (Chowdhery et al., arXiv:2204.02311, sections 2 and 5.1)
llama   RMSNorm, rotary positions, SwiGLU, no biases (Touvron et al., arXiv:2302.13971, section 2.2)

attention=bigbird is the block-sparse pattern of Zaheer et al., arXiv:2007.14062, exact with causal=False; the causal form is
its restriction to the past, which is not published (architectures/ops/bigbird.py).

The gpt models read embeddings of the small scale of their weights, palm those of scale 1. Departures: the width of GPT-3's
window is not published, 128 is ours; the initial weights of gopher and llama are not published, so they are torch's. Rotary
positions (Su et al., arXiv:2104.09864) pair the halves of a head.
"""

import math
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from architectures.backbone import Flops, LengthError, SequenceMap, State
from architectures.ops.attention import Attention, RelativeAttention
from architectures.ops.bigbird import BigBird
from architectures.ops.positions import sinusoids
from architectures.stack import Mixer, Residual, RMSNorm, Stack

Preset = Literal["llama", "gpt1", "gpt2", "gpt3", "gopher", "palm"]
Pattern = Literal["full", "window", "alternating", "bigbird"]
Positions = Literal["learned", "sinusoidal", "rope", "alibi", "relative", "none"]
_LLAMA = {"norm": "rms", "norm_place": "pre", "positions": "rope", "mlp": "swiglu", "bias": False, "attention": "full"}
_GPT2 = _LLAMA | {"norm": "layer", "positions": "learned", "mlp": "gelu", "bias": True, "max_length": 1024, "std": 0.02}
PRESETS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "gpt1": _GPT2 | {"norm_place": "post", "max_length": 512},
    "gpt2": _GPT2,
    "gpt3": _GPT2 | {"attention": "alternating", "max_length": 2048},
    "gopher": _LLAMA | {"positions": "relative", "mlp": "gelu", "bias": True},
    "palm": _LLAMA | {"norm": "layer", "parallel": True, "kv_heads": 1, "widening": 4},
}


class PostNorm(Residual):
    """norm(x + inner(x))."""

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return self.norm(x + self.dropped(self.inner(x)))

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        y, state = self.inner.stream(x, state)
        return self.norm(x + self.dropped(y)), state


class Parallel(Residual):
    """x + inner(norm(x)) + mlp(norm(x)), with one norm for both."""

    def __init__(self, norm: nn.Module, inner: SequenceMap, mlp: SequenceMap) -> None:
        super().__init__(norm, inner)
        self.mlp = mlp

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        y = self.norm(x)
        return x + self.dropped(self.inner(y)) + self.dropped(self.mlp(y))

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        normed = self.norm(x)
        y, state = self.inner.stream(normed, state)
        return x + self.dropped(y) + self.dropped(self.mlp(normed)), state

    def flops(self, length: int) -> Flops:
        sums = length * self.norm.get_parameter("weight").numel()
        return super().flops(length) + self.mlp.flops(length) + Flops(pointwise=sums)


class Transformer(Stack):
    """Softmax attention. Vaswani et al. 2017; LLaMA's form by default, those of GPT, Gopher and PaLM as presets.

    Chinchilla, Jurassic-1 and Megatron-Turing NLG are these layers with other shapes or recipes: Chinchilla those of
    preset=gopher (Hoffmann et al., arXiv:2203.15556), the other two those of the GPT presets (Lieber et al. 2021; Smith et al.,
    arXiv:2201.11990).
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        preset: Annotated[Preset, "the published layer that the settings below start from"] = "llama",
        heads: Annotated[int, "attention heads"] = 4,
        kv_heads: Annotated[int | None, "heads of keys and values; none given: the preset's, 1 or as many as heads"] = None,
        norm: Annotated[Literal["rms", "layer"] | None, "normalisation; none given: the preset's"] = None,
        norm_place: Annotated[Literal["pre", "post"] | None, "before a branch or after its sum; none given: the preset's"] = None,
        positions: Annotated[Positions | None, "where order comes from; none given: the preset's"] = None,
        attention: Annotated[Pattern | None, "what a layer attends to; none given: the preset's"] = None,
        window: Annotated[int, "positions that a window holds, the query's own included"] = 128,
        block: Annotated[int, "bigbird: positions in a block"] = 64,
        global_blocks: Annotated[int, "bigbird: first blocks, which see all and are seen by all"] = 2,
        random_blocks: Annotated[int, "bigbird: blocks drawn at random for each layer, head and block of queries"] = 3,
        parallel: Annotated[bool | None, "attention and channel mixer side by side; none given: the preset's"] = None,
        mlp: Annotated[Mixer | None, "channel mixer; none given: the preset's"] = None,
        bias: Annotated[bool | None, "biases in linear maps and LayerNorm; none given: the preset's"] = None,
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
        max_length: Annotated[int | None, "rows of the table of learned positions; none given: the preset's or 1024"] = None,
    ) -> None:
        given = {"kv_heads": kv_heads, "norm": norm, "norm_place": norm_place, "positions": positions, "attention": attention}
        given |= {"parallel": parallel, "mlp": mlp, "bias": bias, "max_length": max_length}
        form: dict[str, Any] = {"kv_heads": heads, "parallel": False, "max_length": 1024} | PRESETS[preset]
        form |= {name: value for name, value in given.items() if value is not None}
        order, biases = form["positions"], form["bias"]
        if heads < 1 or dim % heads or (order == "rope" and dim // heads % 2):
            raise ValueError(f"heads={heads} must divide dim={dim}" + (" into even parts" if order == "rope" else ""))
        if form["kv_heads"] < 1 or heads % form["kv_heads"]:
            raise ValueError(f"kv_heads={form['kv_heads']} must divide heads={heads}")
        if window < 1:
            raise ValueError(f"window={window}: it holds the query's own position at least")
        if block < 1 or global_blocks < 0 or random_blocks < 0:
            raise ValueError(f"block={block}, global_blocks={global_blocks}, random_blocks={random_blocks}: too small")
        if form["attention"] == "bigbird" and order in ("alibi", "relative"):
            raise ValueError(f"attention=bigbird cannot have positions={order}; give positions=rope, learned, sinusoidal or none")
        if form["parallel"] and (form["norm_place"] == "post" or form["mlp"] == "none"):
            raise ValueError("parallel=true needs norm_place=pre and a channel mixer")
        make_norm = RMSNorm if form["norm"] == "rms" else lambda width: nn.LayerNorm(width, bias=biases)
        windows = {"window": [window], "alternating": [None, window]}.get(form["attention"], [None])
        made = iter(range(depth))

        def layer() -> SequenceMap:
            index = next(made)
            blocks = BigBird(block, global_blocks, random_blocks, seed=index) if form["attention"] == "bigbird" else None
            shape = {"causal": causal, "bias": biases, "kv_heads": form["kv_heads"], "window": windows[index % len(windows)]}
            kind = RelativeAttention if order == "relative" else Attention
            return kind(dim, heads, rope=order == "rope", alibi=order == "alibi", blocks=blocks, **shape)

        hidden = hidden or form.get("widening", 0) * dim or None
        super().__init__(dim, depth, layer, causal=causal, mlp=form["mlp"], hidden=hidden, norm=make_norm, bias=biases)
        self.order = order
        self._arrange(post=form["norm_place"] == "post", parallel=form["parallel"])
        self.table = nn.Parameter(torch.randn(form["max_length"], dim) * 0.02) if order == "learned" else None
        if "std" in form:
            self.embedding_std = form["std"]
            self._initialise(form["std"], 1 if preset == "gpt1" else math.sqrt(2 * depth))
        elif preset == "palm":
            self.embedding_std = 1.0
            self._initialise(None, 1)

    def _arrange(self, *, post: bool, parallel: bool) -> None:
        """Put the shared stack's branches together in the preset's way."""
        branches = cast(list[Residual], list(self.layers))
        if parallel:
            both = zip(branches[0::2], branches[1::2], strict=True)
            self.layers = nn.ModuleList(Parallel(mix.norm, mix.inner, channels.inner) for mix, channels in both)
        elif post:
            self.layers = nn.ModuleList(PostNorm(branch.norm, branch.inner) for branch in branches)
            self.norm = None

    def _initialise(self, std: float | None, residual: float) -> None:
        """Matrices N(0, std), by default 1/sqrt(fan-in); those that write to the residual divided by `residual`."""
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim == 2:
                spread = parameter.shape[1] ** -0.5 if std is None else std
                nn.init.normal_(parameter, std=spread / (residual if name.endswith("out.weight") else 1))
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def _placed(self, x: Tensor, start: int) -> Tensor:
        """`x` with the learned or sinusoidal positions from `start` on."""
        end = start + x.shape[1]
        if self.table is not None:
            if end > len(self.table):
                raise LengthError(f"{end} positions, but max_length={len(self.table)} are learned")
            return x + self.table[start:end]
        return x + sinusoids(start, end, x) if self.order == "sinusoidal" else x

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return super().forward(self._placed(x, 0))

    def init_state(self, batch: int) -> State:
        """The layers' states, and a tensor without elements whose length is the number of positions so far."""
        return self.zeros(batch, 0, 0), super().init_state(batch)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        seen, layers = state
        y, layers = super().stream(self._placed(x, seen.shape[1]), layers)
        return y, (torch.cat([seen, seen.new_zeros(*x.shape[:2], 0)], 1), layers)

    def flops(self, length: int) -> Flops:
        added = self.order in ("learned", "sinusoidal")
        return super().flops(length) + Flops(pointwise=added * length * self.dim)

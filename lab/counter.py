"""Counts the floating point operations that torch really executes, to check what an architecture declares.

with Counter() as counter:
    model(x)
counter.contraction, counter.mixing, counter.unknown

Convention (lab-exact v1): real operations, a multiply-add is two, a complex multiply-add eight. Attention counts the
pairs that its mask admits; its backward is twice its forward, without the recomputation that a kernel may do. A real
FFT of n points is 2.5 n log2 n, a complex one 5 n log2 n. What torch has no kernel for falls apart and counts as it is
executed: attention with dropout on a CPU, and with a mask on the meta device, in full.

Every operator is in one of three groups: it has a formula here, it is known to contract nothing, or its name ends up in
`unknown`. So no work is silently zero, as it is in `torch.utils.flop_counter` for attention, LSTMs and FFTs on a CPU.
"""

import math
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Arguments = dict[str, Any]


def _product(left: str, right: str) -> Callable[[Arguments, Any], int]:
    """(..., m, k) times (..., k, n), arguments of these names: 2 k for each of m n outputs; vectors lack m or n."""

    def formula(given: Arguments, _: Any) -> int:
        a, b = given[left], given[right]
        columns = b.shape[-1] if b.ndim > 1 else 1
        return 2 * a.numel() * columns * (4 if a.is_complex() else 1)

    return formula


def _linear(given: Arguments, _: Any) -> int:
    return 2 * given["input"].numel() * given["weight"].shape[0] * (4 if given["input"].is_complex() else 1)


def _outer(given: Arguments, _: Any) -> int:
    return 2 * given["vec1"].numel() * given["vec2"].numel() * (4 if given["vec1"].is_complex() else 1)


def _convolution(given: Arguments, out: Any) -> int:
    """Each output sums over a kernel and its group's inputs; a transposed one does so from each input."""
    weight = given["weight"]
    forward = given.get("grad_output", out)
    sites = given["input"] if given["transposed"] else forward
    times = sum(given["output_mask"][:2]) if "output_mask" in given else 1
    return 2 * sites.numel() * weight[0].numel() * times


def _attention(given: Arguments, _: Any) -> int:
    """q k^T and its product with v, over the pairs that are seen; four such products backward."""
    query, key, value = given["query"], given["key"], given["value"]
    batch, heads, rows, width = query.shape
    columns = key.shape[2]
    mask = given.get("attn_mask", given.get("attn_bias"))
    if given.get("is_causal"):
        pairs = batch * heads * sum(min(row + 1, columns) for row in range(rows))
    elif isinstance(mask, Tensor) and mask.numel() and not mask.is_meta:
        seen = mask if mask.dtype == torch.bool else mask != -math.inf
        pairs = int(seen.expand(batch, heads, rows, columns).sum())
    else:
        pairs = batch * heads * rows * columns
    return 2 * pairs * (width + value.shape[3]) * (2 if "grad_out" in given or "grad_out_" in given else 1)


def _recurrent(given: Arguments, _: Any) -> int:
    """Every weight matrix of a fused LSTM or GRU meets every position once; twice as much backward."""
    matrices = given["weight"] if "weight" in given else [w for name, w in given.items() if name.startswith("weight")]
    positions = given["input"].numel() // given["input"].shape[-1]
    return 2 * positions * sum(w.numel() for w in matrices if w.ndim == 2) * (2 if "grad_output" in given else 1)


def _fft(given: Arguments, out: Tensor) -> int:
    """log2 n operations 2.5 (real) or 5 (complex) times a point; n is the side that has all the points."""
    full = out if "last_dim_size" in given else given["self"]
    points = math.prod(full.shape[axis] for axis in given["dim"])
    both_complex = full.is_complex() and "last_dim_size" not in given
    return full.numel() // max(points, 1) * round((5 if both_complex else 2.5) * points * math.log2(max(points, 1)))


def _triangular(given: Arguments, out: Tensor) -> int:
    """Forward substitution: m^2 for each right side of m unknowns, less the divisions where the diagonal is one."""
    unknowns = out.shape[-2 if given["left"] else -1]
    each = unknowns - 1 if given["unitriangular"] else unknowns
    return out.numel() * each * (4 if out.is_complex() else 1)


CONTRACTIONS: dict[str, Callable[[Arguments, Any], int]] = {
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "_int_mm": _product("self", "mat2"),
    "_scaled_mm": _product("self", "mat2"),
    "addmm": _product("mat1", "mat2"),
    "_addmm_activation": _product("mat1", "mat2"),
    "baddbmm": _product("batch1", "batch2"),
    "addbmm": _product("batch1", "batch2"),
    "addr": _outer,
    "mv": _product("self", "vec"),
    "addmv": _product("mat", "vec"),
    "dot": _product("self", "tensor"),
    "vdot": _product("self", "other"),
    "linear": _linear,
    "mkldnn_linear": _linear,
    "convolution": _convolution,
    "convolution_overrideable": _convolution,
    "convolution_backward": _convolution,
    "mkldnn_rnn_layer": _recurrent,
    "mkldnn_rnn_layer_backward": _recurrent,
    "_cudnn_rnn": _recurrent,
    "_cudnn_rnn_backward": _recurrent,
} | {
    f"_scaled_dot_product_{kind}{way}": _attention
    for kind in (
        "flash_attention_for_cpu",
        "flash_attention",
        "efficient_attention",
        "cudnn_attention",
        "fused_attention_overrideable",
    )
    for way in ("", "_backward")
}
MIXING: dict[str, Callable[[Arguments, Any], int]] = {
    "_fft_r2c": _fft,
    "_fft_c2r": _fft,
    "_fft_c2c": _fft,
    "linalg_solve_triangular": _triangular,
}
_FREE = """
    _unsafe_view _reshape_alias _reshape_copy _to_copy copy lift_fresh resize set_data cat stack unsafe_split
    unsafe_chunk unsafe_split_with_sizes repeat repeat_interleave roll flip rot90 constant_pad_nd pad
    select_backward slice_backward diagonal_backward unfold_backward as_strided_scatter select_scatter slice_scatter
    diagonal_scatter value_selecting_reduction_backward trace_backward reflection_pad1d replication_pad1d index
    index_put _index_put_impl _unsafe_index _unsafe_index_put _unsafe_masked_index index_select index_add index_copy
    index_fill index_reduce gather scatter scatter_add scatter_reduce take masked_select masked_scatter embedding
    embedding_dense_backward embedding_backward embedding_renorm nonzero bucketize searchsorted one_hot diag
    diag_embed empty empty_like empty_strided empty_permuted new_empty new_empty_strided new_zeros new_ones new_full
    zeros zeros_like ones ones_like full full_like scalar_tensor arange linspace logspace eye tril triu tril_indices
    triu_indices rand randn randint randperm rand_like randn_like randint_like normal uniform exponential bernoulli
    multinomial random log_normal cauchy geometric poisson native_dropout native_dropout_backward sum mean prod var
    std var_mean std_mean amax amin max min any all argmax argmin norm linalg_vector_norm logsumexp cumsum cumprod
    cummax cummin logcumsumexp _cummax_helper _cummin_helper sort topk kthvalue median mode unique_dim _softmax
    _log_softmax _safe_softmax _softmax_backward_data _log_softmax_backward_data _masked_softmax native_layer_norm
    native_layer_norm_backward native_group_norm native_group_norm_backward _fused_rms_norm _fused_rms_norm_backward
    _fused_adam _fused_adamw
    native_batch_norm native_batch_norm_backward _native_batch_norm_legit cudnn_batch_norm
    _native_batch_norm_legit_functional _batch_norm_with_update batch_norm_backward _weight_norm_interface
    _weight_norm_interface_backward cudnn_batch_norm_backward max_pool2d_with_indices
    max_pool2d_with_indices_backward avg_pool2d avg_pool2d_backward _adaptive_avg_pool2d
    _adaptive_avg_pool2d_backward upsample_nearest1d upsample_linear1d glu glu_backward prelu _prelu_kernel
    _prelu_kernel_backward gelu_backward silu_backward softplus_backward elu_backward
    hardtanh_backward leaky_relu_backward threshold_backward sigmoid_backward tanh_backward mish_backward
    hardswish_backward hardsigmoid_backward logit_backward ger _thnn_fused_lstm_cell
    _thnn_fused_lstm_cell_backward_impl _thnn_fused_gru_cell _thnn_fused_gru_cell_backward nll_loss_forward
    nll_loss_backward nll_loss2d_forward nll_loss2d_backward add sub mul div abs eq ne lt le gt ge where zero fill
    masked_fill complex polar _conj_physical squeeze unsqueeze t transpose as_strided softplus threshold elu
    leaky_relu hardtanh relu log_sigmoid_forward log_sigmoid_backward im2col col2im isin count_nonzero nansum
    aminmax renorm linalg_cross block_diag channel_shuffle bincount equal item _local_scalar_dense is_same_size
    _has_same_storage_numel _assert_async _assert_tensor_metadata is_nonzero _nested_tensor_from_mask lift detach
    alias
"""
FREE = frozenset(_FREE.split())
"""Contract nothing, though torch does not mark them as views or pointwise."""


@cache
def _free(operator: Any) -> bool:
    """Whether an operator contracts nothing; its in-place and out= forms go by the same name."""
    name = _name(operator)
    marked = operator.is_view or torch.Tag.pointwise in operator.tags or name.startswith("_foreach_")
    return operator.namespace == "profiler" or (operator.namespace in ("aten", "prim") and (marked or name in FREE))


@cache
def _name(operator: Any) -> str:
    name = operator._schema.name.partition("::")[2]
    return name.rstrip("_") if operator._schema.is_mutable else name


class _CausalOnMeta(TorchFunctionMode):
    """Where there are no numbers, causal attention keeps the form that it has on a CPU instead of falling apart."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3 and kwargs.keys() <= {"is_causal", "attn_mask", "scale"}:
            query, key, value = args
            whole = query.ndim == 4 and query.is_meta and query.shape[:2] == key.shape[:2] and query.shape[3] == value.shape[3]
            if whole and kwargs.get("is_causal") and kwargs.get("attn_mask") is None:
                kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
                return kernel(query, key, value, is_causal=True, scale=kwargs.get("scale"))[0]
        return func(*args, **kwargs)


class Counter(TorchDispatchMode):
    """Counts what runs inside it, forward and backward.

    by_operator: operations by the operator's name. unknown: names of operators that may have done uncounted work.
    moved: bytes of what contractions read and write, each operand and result once, and each of the `weights` once for all:
        those of a recurrence, read at every position, stay near the core.
    """

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.by_operator: Tally[str] = Tally()
        self.unknown: set[str] = set()
        self.moved = 0
        self._read = {weight.untyped_storage().data_ptr(): False for weight in weights}
        self._attention = _CausalOnMeta()

    def __enter__(self) -> "Counter":
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._attention.__exit__(*error)

    @property
    def contraction(self) -> int:
        """Operations in products, convolutions, attention and fused recurrences."""
        return sum(count for name, count in self.by_operator.items() if name in CONTRACTIONS)

    @property
    def mixing(self) -> int:
        """Operations in FFTs and triangular solves; scans written elementwise cannot be seen and are not here."""
        return sum(count for name, count in self.by_operator.items() if name in MIXING)

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            self.unknown.add(f"higher_order::{func.name()}")
            return func(*args, **kwargs)
        name = _name(func)
        formula = CONTRACTIONS.get(name, MIXING.get(name)) if func.namespace == "aten" else None
        if formula is None and not _free(func):
            with torch._C.DisableTorchFunction(), self:  # inference mode shows operators before torch has taken them apart
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self.unknown.add(f"{func.namespace}::{name}")
        out = func(*args, **kwargs)
        if formula is not None:
            self.by_operator[name] += formula(_bound(func, args, kwargs), out)
            if name in CONTRACTIONS:
                self.moved += sum(self._new(leaf) for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor))
        return out

    def _new(self, operand: Tensor) -> int:
        """Bytes of an operand that must come from memory."""
        home = operand.untyped_storage().data_ptr()
        before = self._read.get(home, False)
        if home in self._read:
            self._read[home] = True
        return 0 if before else operand.nbytes


def _bound(operator: Any, args: Any, kwargs: Any) -> Arguments:
    """All arguments by name, defaults included."""
    declared = operator._schema.arguments
    given = {argument.name: argument.default_value for argument in declared if argument.has_default_value()}
    return given | dict(zip((argument.name for argument in declared), args, strict=False)) | kwargs

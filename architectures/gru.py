"""Gated recurrent unit: two gates, one state, and like the LSTM no way to train it in parallel.

    r, z = sigmoid(W x[t] + b + U h[t-1] + b')          reset and update gate
    n = tanh(W_n x[t] + b_n + r * (U_n h[t-1] + b'_n))
    h[t] = n + z * (h[t-1] - n)

Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", arXiv:1406.1078, section 2.3; the parameters are those
of torch's nn.GRU, and what runs is in ops/gates.py. Departure, torch's: the reset gate acts after the product with U_n instead
of before it, which is another function.
Input weights are uniform in +-1/sqrt(dim), recurrent weights orthogonal for each gate, biases zero.
"""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops import gates
from architectures.stack import Mixer, Stack, both_ways


class Recurrence(SequenceMap):
    """One GRU layer of `dim` cells; the state is h."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.gru = nn.GRU(dim, dim, batch_first=True)
        gates.initialise_gates(self.gru)

    def init_state(self, batch: int) -> State:
        return self.zeros(1, batch, self.dim)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        return gates.gru(self.gru, x, state)

    def flops(self, length: int) -> Flops:
        return Flops(contraction=12 * self.dim**2, mixing=gates.GRU * self.dim) * length


class GRU(Stack):
    """Gated recurrent unit. Cho et al., arXiv:1406.1078."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        mlp: Annotated[Mixer, "channel mixer after each recurrence"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        layer = both_ways(dim, lambda: Recurrence(dim), causal)
        super().__init__(dim, depth, layer, causal=causal, mlp=mlp, hidden=hidden)

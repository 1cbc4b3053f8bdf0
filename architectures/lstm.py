"""Long short-term memory, the recurrence that cannot be trained in parallel.

    i, f, o = sigmoid(W x[t] + U h[t-1] + b), g = tanh(...);   c[t] = f * c[t-1] + i * g;   h[t] = o * tanh(c[t])

Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000; the parameters are those of torch's nn.LSTM, and what
runs is in ops/gates.py. Input weights are uniform in +-1/sqrt(dim), recurrent weights orthogonal for each gate, and the forget
gate starts open with a bias of 1 (Jozefowicz et al. 2015, section 2.2).
"""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops import gates
from architectures.stack import Mixer, Stack, both_ways


class Recurrence(SequenceMap):
    """One LSTM layer of `dim` cells; the state is (h, c)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        gates.initialise_gates(self.lstm)

    def init_state(self, batch: int) -> State:
        return self.zeros(1, batch, self.dim), self.zeros(1, batch, self.dim)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        return gates.lstm(self.lstm, x, state)

    def flops(self, length: int) -> Flops:
        return Flops(contraction=16 * self.dim**2, mixing=gates.LSTM * self.dim) * length


class LSTM(Stack):
    """Long short-term memory. Hochreiter & Schmidhuber 1997."""

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

"""The default transformer with embeddings of another scale, to see what recall owes to it."""

from typing import Annotated

from architectures.transformer import Transformer


class Scaled(Transformer):
    """The default transformer, reading embeddings of a given standard deviation."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        std: Annotated[float, "standard deviation of the token embeddings"] = 0.25,
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim"] = None,
    ) -> None:
        super().__init__(dim, depth, causal=causal, hidden=hidden)
        self.embedding_std = std

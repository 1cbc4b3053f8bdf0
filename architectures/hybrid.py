"""A hybrid: layers of other architectures in turn, in one stack.

    x <- block[i](x), i = 0 .. depth - 1, of the member i mod n of a pattern of n;   y = norm(x)

`pattern` joins members with +, each with its settings in brackets: mamba+mamba+transformer[attention=window,heads=8]. A layer
is a member's whole block, with its residual branches and its channel mixer if it has one; what a member adds to its input,
such as learned positions, each of its layers adds to its own. A member is built as deep as the hybrid and its block i used, so
that whatever it derives from depth or place (initial scales, alternating windows) is as it would be there. Published patterns:

Samba    mamba[version=1,mlp=swiglu]+transformer[attention=window]            Ren et al., arXiv:2406.07522, section 2.1
Griffin  linear_rnn[gate=rglru]+linear_rnn[gate=rglru]+transformer[attention=window,kv_heads=1]
                                                                              De et al., arXiv:2402.19427, section 2
Jamba    one transformer[positions=none] to seven of mamba[version=1,mlp=swiglu], with mlp=moe in every second layer
                                                                              Lieber et al., arXiv:2403.19887, section 3

Departures: windows are the transformer's own, 128 positions, where Samba has 2048 and Griffin 1024; Griffin's channel mixer has
GELU as its gate, and Jamba's mixture 16 experts. Embeddings have the scale that the first member reads.
"""

import inspect
import re
from itertools import cycle
from typing import Annotated, Any

from architectures.backbone import Backbone, SequenceMap
from architectures.stack import Layers, RMSNorm

SAMBA = "mamba[version=1,mlp=swiglu]+transformer[attention=window]"


def members(pattern: str) -> list[tuple[str, type[Backbone], dict[str, Any]]]:
    """What each member is called, its class and its settings.

    Raises:
        ValueError: one is not known, cannot be interleaved, or is written in another way.
    """
    found = []
    for text in re.split(r"\+(?![^\[]*\])", pattern):
        written = re.fullmatch(r"(\w+)(?:\[(.+)\])?", text)
        if written is None:
            raise ValueError(f"pattern has {text!r} where it needs name or name[setting=value,...], joined by +")
        member, given = Backbone.named(":".join(part for part in written.groups() if part))
        if member.as_layer is Backbone.as_layer:
            raise ValueError(f"{written[1]} cannot be interleaved: it does not say what one of its layers is (as_layer)")
        found.append((text, member, given))
    return found


class Hybrid(Layers):
    """Layers of other architectures in turn. Samba by default, Ren et al., arXiv:2406.07522."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        pattern: Annotated[
            str, "members joined by +, repeated over depth, settings in brackets: a+a+b[x=1,y=2]", members
        ] = SAMBA,
        hidden: Annotated[int | None, "hidden width of the members' channel mixers; none given: each member's own"] = None,
    ) -> None:
        made: dict[str, Backbone] = {}
        layers: list[SequenceMap] = []
        turn = members(pattern)
        for index, (text, member, given) in zip(range(depth), cycle(turn), strict=False):
            if text not in made:
                takes_hidden = hidden is not None and "hidden" in inspect.signature(member).parameters
                made[text] = member(dim, depth, causal=causal, **({"hidden": hidden} if takes_hidden else {}) | given)
            layers.append(made[text].as_layer(index))
        super().__init__(dim, layers, depth, RMSNorm(dim), causal=causal)
        self.embedding_std, self.period = next(iter(made.values())).embedding_std, len(turn)

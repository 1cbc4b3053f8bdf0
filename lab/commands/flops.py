"""What training costs under every convention: `lab flops`."""

from typing import Annotated

from cyclopts import Parameter

from lab.commands.common import Flag, Names, add_plugins, print_json


def flops(
    architectures: Names | None = None,
    /,
    *,
    dim: int = 64,
    depth: int = 2,
    lengths: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")] = None,
    vocabulary: int = 256,
    plugin: Names | None = None,
    json: Flag = False,
) -> None:
    """Show the training FLOPs of a token, and what other conventions count over that: docs/flops.md.

    Parameters
    ----------
    architectures
        Architectures, with settings if wanted; all of them where none is named.
    dim
        Width.
    depth
        Layers.
    lengths
        Sequence lengths; 256, 1024 and 4096 where none is given.
    vocabulary
        Tokens that the embedding and the head know.
    plugin
        Python files with an architecture of your own.
    json
        Print JSON, with FLOPs a token under every convention.
    """
    from lab import ledger, plugins

    add_plugins(plugin)
    names = architectures or plugins.names("architectures")
    rows = ledger.ledger(names, dim, depth, lengths or [256, 1024, 4096], vocabulary)
    if json:
        print_json(rows)
        return
    print(ledger.render(rows))
    print("FLOPs a token of training (contraction + mixing, times three), one sequence a step; the others over that.")
    print("torch: what its FlopCounterMode sees of a step as it runs here; of fused kernels it may see nothing.")

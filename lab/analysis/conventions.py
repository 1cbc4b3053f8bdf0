"""The same runs with their FLOPs counted as others count them, so that any result can be redrawn on another axis.

headline           contraction + mixing of the training form: what budgets are measured in
contraction, all   products alone; with norms, activations and residual sums
minimum            headline of the cheapest exact form: a recurrence instead of its chunks
6nd                6 operations for each parameter and token (Hoffmann et al., arXiv:2203.15556)
6nd_nonembedding   the same without token embeddings and head (Kaplan et al., arXiv:2001.08361, section 2.1)
palm               6 for each parameter that is not merely looked up, and 12 depth dim length for attention over a full
                   square, whatever the architecture (Chowdhery et al., arXiv:2204.02311, appendix B)
seconds            no FLOPs: the time that training took where it ran
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAssignmentType=false
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable

import pandas as pd

Amount = float | pd.Series

NEEDS: dict[str, tuple[str, ...]] = {
    "headline": ("flops_contraction", "flops_mixing"),
    "contraction": ("flops_contraction",),
    "all": ("flops_contraction", "flops_mixing", "flops_pointwise"),
    "minimum": ("flops_minimum",),
    "6nd": ("params", "tokens"),
    "6nd_nonembedding": ("params", "params_embedding", "params_head", "tokens"),
    "palm": ("params", "params_embedding", "tokens", "depth", "dim", "length"),
    "seconds": ("seconds",),
}
"""Columns that a convention reads."""


def six_nd(params: Amount, tokens: Amount) -> Amount:
    """Training FLOPs of `tokens` tokens by a rule that asks for nothing but parameters."""
    return 6 * params * tokens


def palm(params: Amount, tokens: Amount, depth: Amount, dim: Amount, length: Amount) -> Amount:
    """Training FLOPs by PaLM's formula; `dim` is heads times their width."""
    return (6 * params + 12 * depth * dim * length) * tokens


_COUNT: dict[str, Callable[[pd.DataFrame], Amount]] = {
    "6nd": lambda f: six_nd(f["params"], f["tokens"]),
    "6nd_nonembedding": lambda f: six_nd(f["params"] - f["params_embedding"] - f["params_head"], f["tokens"]),
    "palm": lambda f: palm(f["params"] - f["params_embedding"], f["tokens"], f["depth"], f["dim"], f["length"]),
}


def restate(frame: pd.DataFrame, convention: str) -> pd.DataFrame:
    """The frame with `flops` under another convention and its name in the column `convention`; budgets stay what they were.

    `frontier` and `multiplier` take such a frame: runs of one budget, which then differ in FLOPs, are brought to the same cost.
    A frame without `budget` gets one: runs whose FLOPs agree to 5 % are of the same.

    Raises:
        ValueError: there is no such convention, or a column that it reads is not there or not known of every finished run.
    """
    if convention not in NEEDS:
        raise ValueError(f"convention {convention}: there are {', '.join(NEEDS)}")
    if convention == "headline" and "convention" not in frame:
        return frame.assign(convention=convention)
    lacking = [name for name in NEEDS[convention] if name not in frame]
    if lacking:
        raise ValueError(f"convention {convention} needs the columns {', '.join(lacking)}")
    finished = frame[frame["status"] == "done"] if "status" in frame else frame
    unknown = finished[list(NEEDS[convention])].isna().any(axis=1).sum()
    if unknown:
        raise ValueError(
            f"convention {convention} needs {', '.join(NEEDS[convention])}: {unknown} of {len(finished)} runs were recorded "
            "before these were; leave them out, or run them again into another --results"
        )
    count = _COUNT.get(convention, lambda f: f[list(NEEDS[convention])].sum(axis=1))
    given = {} if "budget" in frame else {"budget": budgets(frame["flops"])}
    return frame.assign(**given, flops=count(frame).astype(float), convention=convention)


def budgets(flops: pd.Series) -> pd.Series:
    """For each run the least FLOPs of those of its budget, where no budget is written."""
    from lab.analysis.isoflop import same_budget  # takes half a second that an other frame does not need

    return flops.groupby(same_budget(flops)).transform("min")

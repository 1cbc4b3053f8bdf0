"""Associative recall: look up what followed a key the first time, when the key comes again.

    k1 v1 k2 v2 ... kD vD  . . k2 . . . . k1 . .        at the second k2 the answer is v2; dots are filler (symbol 0)

Multi-query associative recall (MQAR): Arora et al., "Zoology", arXiv:2312.04927, section 3 and appendix E, in the form of its
published generator. Keys are drawn without replacement from 1 ... V/2-1 and values from V/2 ... V-1; the query of a pair stands
at 2D + 2g with the gaps g drawn without replacement with p(g) proportional to (g+1)^(a-1), a = 0.01, so that most are near. The
filler is never a live key. The published sizes are vocabulary=8192 with (length, pairs) of (64,4) (128,8) (256,16) (512,64), and
(1024,256) to test on; the default vocabulary is small enough that a laptop's budget sees every key often. A state must hold at
least D log2(V/2) bits to answer: 12 D at the published vocabulary, 768 for its 64 pairs.

Variants of the same generator: gaps=uniform (a = 1), filler=random (any symbol, also a live key: what counts is the pairs), and
rebound=R, where R of the keys are bound a second time after all pairs and the last value counts (its forgetting recall; here
all values of a sequence differ).

    k4 v8 k2 v13 k4 v8 k0 v9 k2 v13             layout=mad: at a key that came before, the answer is its value: v8, then v13

In-context recall of MAD, Poli et al., arXiv:2403.17844, by the rules of its published generator, drawn without end (mad:task=...
has its finite training sets): keys (the lower half of the symbols) and values (the upper) are drawn with replacement, 16 symbols
in pairs of `length` symbols together, of which the last is only ever an answer. noise=0.2 with 32 symbols is its noisy recall:
that share of the pairs is two of the 16 last symbols, which mean nothing. motif=3 is its fuzzy recall: keys and values are 1 to 3
different symbols, keys always 3 in validation and test, and the last symbol pads on the left. As there, training is on every next
symbol, and the answers alone are scored.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, Literal

from torch import Tensor

from tasks.sources.mad import PairStream
from tasks.sources.mqar import PairsThenQueries
from tasks.task import Batch, Split, Task, Tokens, of_split, share_right


class Recall(Task):
    """Associative recall: MQAR, and MAD's in-context, noisy and fuzzy recall. Arora et al., arXiv:2312.04927."""

    def __init__(
        self,
        *,
        pairs: Annotated[int | None, "key-value pairs to remember; none given: 4"] = None,
        length: Annotated[int | None, "symbols of a sequence; none given: 16 for each pair, or 128 with layout=mad"] = None,
        vocabulary: Annotated[int | None, "symbols; none given: 64, or with layout=mad 16, and 32 with noise"] = None,
        layout: Annotated[Literal["mqar", "mad"], "pairs, then queries; or every pair a query once its key is known"] = "mqar",
        gaps: Annotated[Literal["power", "uniform"], "distances of the queries: most of them near, or all alike"] = "power",
        filler: Annotated[Literal["zero", "random"], "what stands between the queries: symbol 0, or any"] = "zero",
        rebound: Annotated[int, "keys that are bound again, to another value"] = 0,
        noise: Annotated[float, "share of the pairs that are noise; only with layout=mad"] = 0.0,
        motif: Annotated[int, "most symbols of a key or a value; only with layout=mad"] = 1,
    ) -> None:
        self._settings: dict[str, Any] = {
            "pairs": pairs, "length": length, "vocabulary": vocabulary, "layout": layout, "gaps": gaps,
            "filler": filler, "rebound": rebound, "noise": noise, "motif": motif,
        }  # fmt: skip
        if layout == "mad":
            if (pairs, gaps, filler, rebound) != (None, "power", "zero", 0):
                raise ValueError("layout=mad: pairs, gaps, filler and rebound are settings of layout=mqar; leave them out")
            vocabulary = (32 if noise else 16) if vocabulary is None else vocabulary
            self._source = PairStream(128 if length is None else length, vocabulary, noise or None, motif)
            self.length = self._source.answers
        else:
            if noise or motif != 1:
                raise ValueError(f"noise={noise:g}, motif={motif}: these are settings of layout=mad; add it")
            pairs, vocabulary = 4 if pairs is None else pairs, 64 if vocabulary is None else vocabulary
            self._source = PairsThenQueries(pairs, length or 16 * pairs, vocabulary, gaps, filler, rebound)
            self.length = self._source.length
        self.answers = self._source.answers
        self.inputs, self.outputs = Tokens(vocabulary), vocabulary

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(partial(self._source.draw, training=split == "train"), split, index, size, seed)
        return Batch(drawn["inputs"], drawn["targets"], drawn.get("positions"), slices={"gap": drawn["gap"]})

    def baselines(self) -> dict[str, float]:
        known = self._source.baselines()
        settings = tuple(self._settings.items())
        return known | {name: _measured(settings, name) for name in self.shortcuts() if name not in known}

    def shortcuts(self) -> dict[str, Callable[[Batch], Tensor]]:
        return self._source.shortcuts()

    def oracle(self, batch: Batch) -> Tensor:
        return self._source.oracle(batch)

    def symbols(self) -> list[str]:
        return self._source.symbols()

    def harder(self) -> dict[str, Task]:
        return {name: Recall(**self._settings | changed) for name, changed in self._source.harder().items()}

    def buckets(self) -> dict[str, list[int]]:
        return {"gap": [2**k for k in range(self.length.bit_length())]}


@cache
def _measured(settings: tuple[tuple[str, Any], ...], name: str) -> float:
    task = Recall(**dict(settings))
    return share_right(task, task.shortcuts()[name])

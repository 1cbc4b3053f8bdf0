"""Flip-flop language: at every read, the bit that was written last.

    w 1 i 0 i 1 r[1] 1 w 0 r[0] 0        w, r and i say to write, read or ignore the bit that follows

Liu et al., "Exposing Attention Glitches with Flip-Flop Language Modeling", arXiv:2306.00946, section 3: in FFL(T, p) the T
symbols are pairs of an instruction and a bit. The first instruction is w and the last is r; the others are i with probability p,
else w or r, as likely. Bits are uniform but for those after r. Trained on FFL(512, 0.8); errors show on the tests with few writes
and reads, FFL(512, 0.98), and with many, FFL(512, 0.1). Departure: only the bits after r are predicted, from the position of the
r, as only these can be known. length=64 is a laptop's size.
"""

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tasks.task import UNASKED, Batch, Split, Task, Tokens, of_split

WRITE, READ, IGNORE, ZERO = range(4)
SPARSE, DENSE = 0.98, 0.1


class FlipFlop(Task):
    """Flip-flop language: read the last bit written. Liu et al., arXiv:2306.00946."""

    def __init__(
        self,
        *,
        length: Annotated[int, "symbols of a sequence, even"] = 512,
        ignores: Annotated[float, "probability of i, 0 to 1; the rest are w and r alike"] = 0.8,
    ) -> None:
        if length % 2 or length < 16:
            raise ValueError(f"length={length}: an even length of at least 16 is needed")
        if not 0 <= ignores <= 1:
            raise ValueError(f"ignores={ignores}: a probability is between 0 and 1")
        self.length, self.ignores = length, ignores
        self.inputs, self.outputs, self.answers = Tokens(5), 2, length // 2

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        pairs, share = self.length // 2, (1 - self.ignores) / 2
        chosen = rng.random((count, pairs), dtype=np.float32)
        write, read = chosen < share, chosen >= 1 - share
        write[:, 0], read[:, 0], write[:, -1], read[:, -1] = True, False, False, True
        bits = rng.integers(0, 2, (count, pairs), np.uint8)
        place = np.arange(pairs, dtype=np.int32)
        written = np.maximum.accumulate(np.where(write, place, 0), axis=1)
        bits = np.where(read, np.take_along_axis(bits, written, 1), bits)
        inputs = np.empty((count, pairs, 2), np.int64)
        inputs[:, :, 0] = np.where(write, WRITE, np.where(read, READ, IGNORE))
        inputs[:, :, 1] = ZERO + bits
        return {"inputs": inputs.reshape(count, self.length), "read": read, "bits": bits, "distance": place - written}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        targets = torch.where(drawn["read"], drawn["bits"].long(), UNASKED)
        positions = torch.arange(0, self.length, 2).expand(size, -1)
        return Batch(drawn["inputs"], targets, positions, slices={"distance": drawn["distance"].long()})

    def baselines(self) -> dict[str, float]:
        between, after_write = self.length // 2 - 2, 1 - self.ignores / 2
        reads = (1 - self.ignores) / 2
        right = (reads * (1 + (between - 1) * after_write) + after_write) / (reads * between + 1)
        return {"chance": 0.5, "bit before": right}

    def shortcuts(self):
        return {"bit before": lambda batch: torch.nn.functional.pad(batch.inputs[:, 1:-1:2] - ZERO, (1, 0))}

    def oracle(self, batch: Batch) -> Int[Tensor, "size answers"]:
        instructions, bits = batch.inputs[:, ::2], batch.inputs[:, 1::2] - ZERO
        held, answers = bits[:, 0], torch.full_like(bits, UNASKED)
        for place in range(self.answers):
            held = torch.where(instructions[:, place] == WRITE, bits[:, place], held)
            answers[:, place] = torch.where(instructions[:, place] == READ, held, UNASKED)
        return answers

    def harder(self) -> dict[str, Task]:
        return {name: FlipFlop(length=self.length, ignores=share) for name, share in [("sparse", SPARSE), ("dense", DENSE)]}

    def buckets(self) -> dict[str, list[int]]:
        return {"distance": [2**k for k in range((self.answers - 1).bit_length())]}

    def symbols(self) -> list[str]:
        return ["w", "r", "i", "0", "1"]

"""Word problem of a finite group: at every position, the product of all elements so far.

    021 102 210        in S3 the answers are 021, 021 102 = 201, and 201 210 = 102

Merrill et al., "The Illusion of State in State-Space Models", arXiv:2404.08819, section 5: sequences of 2 to 20 elements, one
length at a time, in groups of 60: A5, which is not solvable, A4xZ5, solvable, and Z60, commutative. S5, not solvable either, has
120 elements; S3 with length=8 is a laptop's size.

Elements are permutations numbered in lexicographic order, written as the images of 0, 1, 2 ...; those of Z60 are its rotations,
written as their number. A product a b sends x to a(b(x)). A sequence and its products determine each other, so products are
drawn, and the sequence follows. Departures: splits are by hash, where the publication trains on 80 % of the words of each length
and on all of length 2.
"""

from functools import cache
from itertools import permutations
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tasks.task import Batch, Split, Task, Tokens, of_split

Group = Literal["S3", "A4xZ5", "A5", "S5", "Z60"]
FEWEST = 1000


@cache
def elements(group: Group) -> list[tuple[int, ...]]:
    """The permutations of a group in lexicographic order, each as the images of 0, 1, 2 ...; the identity comes first."""
    if group == "Z60":
        return [tuple((x + turn) % 60 for x in range(60)) for turn in range(60)]
    if group == "A4xZ5":
        turns = [tuple(4 + (x + turn) % 5 for x in range(5)) for turn in range(5)]
        return [even + turn for even in permutations(range(4)) if not _odd(even) for turn in turns]
    found = permutations(range(int(group[1])))
    return list(found) if group[0] == "S" else [even for even in found if not _odd(even)]


@cache
def table(group: Group) -> Int[np.ndarray, "order order"]:
    """The number of the product of elements a and b, at [a, b]."""
    numbers = {element: number for number, element in enumerate(elements(group))}
    return np.array([[numbers[tuple(a[x] for x in b)] for b in numbers] for a in numbers])


@cache
def cosets(group: Group) -> Int[np.ndarray, "order"]:
    """The least element of each element's coset of the commutator subgroup.

    Products of cosets commute: they are what can be known of a product without regard to order.
    """
    product = table(group)
    subgroup = np.unique(product[product, _inverses(group)[product.T]])  # a b (b a)^-1
    while len(larger := np.unique(product[np.ix_(subgroup, subgroup)])) > len(subgroup):
        subgroup = larger
    return product[:, subgroup].min(1)


@cache
def _inverses(group: Group) -> Int[np.ndarray, "order"]:
    return table(group).argmin(1)


def _odd(permutation: tuple[int, ...]) -> bool:
    return sum(permutation[i] > permutation[j] for j in range(len(permutation)) for i in range(j)) % 2 == 1


class WordProblem(Task):
    """Word problem of a group: the running product. Merrill et al., arXiv:2404.08819, section 5."""

    also = ("exact",)

    def __init__(
        self,
        *,
        group: Annotated[Group, "A5 and S5 are not solvable, S3 and A4xZ5 are, Z60 is commutative"] = "A5",
        length: Annotated[int, "elements of a sequence"] = 20,
    ) -> None:
        order = len(elements(group))
        if length < 1 or order**length < FEWEST:
            shortest = next(n for n in range(1, 20) if order**n >= FEWEST)
            raise ValueError(f"length={length}: {group} has too few such words to split; at least length={shortest} is needed")
        self.group: Group = group
        self.length = length
        self.inputs, self.outputs, self.answers = Tokens(order), order, length

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        products = rng.integers(0, self.outputs, (count, self.length))
        inputs = products.copy()
        inputs[:, 1:] = table(self.group)[_inverses(self.group)[products[:, :-1]], products[:, 1:]]
        return {"inputs": inputs, "targets": products}

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        drawn = of_split(self._draw, split, index, size, seed)
        return Batch(drawn["inputs"], drawn["targets"], slices={"place": torch.arange(self.length).expand(size, -1)})

    def baselines(self) -> dict[str, float]:
        order = self.outputs
        return {
            "chance": 1 / order,
            "last element only": (1 + (self.length - 1) / order) / self.length,
            "order of elements ignored": len(np.unique(cosets(self.group))) / order,
        }

    def shortcuts(self):
        coset = torch.from_numpy(cosets(self.group))
        return {
            "last element only": lambda batch: batch.inputs,
            "order of elements ignored": lambda batch: coset[self.oracle(batch)],
        }

    def oracle(self, batch: Batch) -> Int[Tensor, "size answers"]:
        product, inputs = torch.from_numpy(table(self.group)), batch.inputs
        answers = inputs.clone()
        for place in range(1, inputs.shape[1]):
            answers[:, place] = product[answers[:, place - 1], inputs[:, place]]
        return answers

    def harder(self) -> dict[str, Task]:
        lengths = [2 * self.length, 4 * self.length]
        return {f"length={length}": WordProblem(group=self.group, length=length) for length in lengths}

    def buckets(self) -> dict[str, list[int]]:
        return {"place": [0, *(2**k for k in range((self.length - 1).bit_length()))]}

    def symbols(self) -> list[str]:
        found = elements(self.group)
        return ["".join(map(str, images)) if len(images) < 10 else str(number) for number, images in enumerate(found)]

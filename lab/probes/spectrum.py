"""Eigenvalues of a recurrence: those of d state[t+1] / d state[t], at states met on the run's own data.

For a linear recurrence these are its eigenvalues, for one with gates what they are at that input, for an LSTM those of the
Jacobian there. An eigenvalue z forgets by |z| a step: its time scale is -1 / ln |z| steps; |z| > 1 grows.

Rows of a batch do not see each other: with N equal rows, one backward pass through the sum of number i of row i is the whole
Jacobian J, without any knowledge of the architecture; where r J = r (1 J) elementwise for a random r, J is diagonal. Numbers that
depend on each other both ways, directly or not, are a block (a strongly connected component); eigenvalues of the whole are those
of the blocks, exactly. Parts of the state of different layers are never in one block. What only shifts through (inputs that a
convolution keeps, token shift) has eigenvalue 0 and is left out, as is what grows with the context, such as keys and values.

A state that is kept divided by its running maximum (RWKV-4, mLSTM) shows the eigenvalues of that form.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportAttributeAccessIssue=false

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float
from pandas import DataFrame, concat
from scipy.sparse import csr_array, diags_array, vstack
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from architectures.backbone import Backbone, State
from lab.analysis.findings import Finding, Sheet, View
from lab.errors import UsageError
from lab.model import Model
from lab.probes.subject import TRAINED, Subject, numbers, row_axes, wide

STATES = 3
"""Sequences at whose last state the Jacobian is taken."""
ROWS = 256
"""Of a Jacobian at once."""
LARGEST = 1 << 13
"""Numbers of one layer's state."""
ZERO = 1e-8
SHOWN = 400
"""Eigenvalues of a layer that the table keeps, evenly by modulus."""
SCALES = View(
    "scale", "share", "time scale, steps", "share of eigenvalues beyond", logx=True, shade="weights", ylim=(-0.02, 1.02),
    caption="Share of the eigenvalues z of d state[t+1] / d state[t] with longer time scales; faint: before training.",
)  # fmt: skip
PLANE = View(
    "real", "imaginary", "real part", "imaginary part", kind="points", shade="weights",
    caption="Eigenvalues of d state[t+1] / d state[t] at states met on the task's data, in the unit circle; "
    "faint: before training.",
)  # fmt: skip


def measure(subject: Subject) -> Finding:
    """
    Raises:
        UsageError: the backbone is not causal, or has no recurrence.
    """
    subject.need_causal()
    inputs = torch.cat([batch.inputs for batch in subject.examples(STATES)])[:STATES]
    planes, scales, numbers = [], [], {}
    for weights, model in subject.both().items():
        found = {layer: z for layer, z in spectra(model, inputs).items() if len(z)}
        if not found:
            raise UsageError(f"{subject.name}: no part of its state feeds back into itself at a fixed size; there is no spectrum")
        values = np.concatenate(list(found.values()))
        after = "" if weights == TRAINED else "_untrained"
        scale = timescale(values)
        numbers |= {f"radius{after}": float(np.abs(values).max()), f"median_timescale{after}": float(np.median(scale))}
        numbers[f"longest_timescale{after}"] = float(scale.max())
        at = np.geomspace(0.1, 1e5, 121)
        scales.append(DataFrame({"weights": weights, "scale": at, "share": [(scale > each).mean() for each in at]}))
        for layer, z in found.items():
            some = z[np.argsort(np.abs(z))][np.unique(np.linspace(0, len(z) - 1, SHOWN).astype(int))]
            planes.append(DataFrame({"weights": weights, "layer": layer, "real": some.real, "imaginary": some.imag}))
    sheets = {
        "spectrum": Sheet(concat(scales, ignore_index=True), SCALES),
        "plane": Sheet(concat(planes, ignore_index=True), PLANE),
    }
    said = f"largest |z| {numbers['radius']:.5g}, median time scale {numbers['median_timescale']:.3g} steps " \
           f"(before training {numbers['radius_untrained']:.5g} and {numbers['median_timescale_untrained']:.3g})"  # fmt: skip
    return Finding(sheets, numbers, said)


def timescale(values: np.ndarray) -> np.ndarray:
    """-1 / ln |z|, in steps; infinite where it does not decay."""
    logs = np.log(np.abs(values))
    return np.where(logs < -1e-12, -1 / np.minimum(logs, -1e-12), np.inf)


def spectra(model: Model, inputs: Tensor) -> dict[int, np.ndarray]:
    """The eigenvalues of each recurrence, numbered in the order of the state, at the states before the last input of each row.

    Raises:
        UsageError: a layer's state is too large.
    """
    backbone, read = wide(model.backbone), wide(model.read)
    found: dict[int, list[np.ndarray]] = {}
    with torch.no_grad():
        x = read(inputs.double() if inputs.is_floating_point() else inputs)
    for row in x:
        with torch.no_grad():
            state = backbone.stream(row[None, :-1], backbone.init_state(1))[1]
        step = Step(backbone, row[-1:], state)
        for number, group in enumerate(step.groups(), 1):
            found.setdefault(number, []).append(eigenvalues(step.jacobian(group)))
    return {number: np.concatenate(each) for number, each in found.items()}


class Step:
    """One step of a backbone from a state, as a map between the numbers of the state's tensors."""

    def __init__(self, backbone: Backbone, x: Float[Tensor, "1 dim"], state: State) -> None:
        self.backbone, self.x = backbone, x
        self.before, self.shape = tree_flatten(state)
        self.axes = row_axes(backbone, len(self.before))
        self.sizes = [each.shape[1] for each in numbers(backbone, state)]

    def take(self, rows: int, moving: Collection[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Of so many equal rows: the tensors that move, as real numbers, and all tensors after the step, (rows, numbers)."""
        given, moved = [], []
        for index, leaf in enumerate(self.before):
            axis = self.axes[index]
            leaf = leaf.detach().repeat_interleave(rows, axis)
            if index in moving:
                moved.append((torch.view_as_real(leaf) if leaf.is_complex() else leaf).requires_grad_())
                leaf = torch.view_as_complex(moved[-1]) if leaf.is_complex() else moved[-1]
            given.append(leaf)
        after = self.backbone.stream(self.x.expand(rows, 1, -1), tree_unflatten(given, self.shape))[1]
        return moved, numbers(self.backbone, after)

    def groups(self) -> list[list[int]]:
        """The tensors of each recurrence: those that depend on each other, or on themselves. Those that grow are left out."""
        fixed = [index for index, leaf in enumerate(self.before) if leaf.numel()]
        moved, after = self.take(1, fixed)
        fixed = [index for index in fixed if after[index].shape[1] == self.sizes[index]]
        edges = np.zeros((len(self.before),) * 2, bool)
        for index in fixed:
            if not after[index].requires_grad:
                continue
            found = torch.autograd.grad(after[index], moved, torch.randn_like(after[index]), True, allow_unused=True)
            for other, gradient in zip((i for i, leaf in enumerate(self.before) if leaf.numel()), found, strict=True):
                edges[index, other] = other in fixed and gradient is not None and bool(gradient.any())
        labels = connected_components(csr_array(edges), connection="strong")[1]
        parts = [[index for index in fixed if labels[index] == label] for label in dict.fromkeys(labels[fixed])]
        return [part for part in parts if edges[np.ix_(part, part)].any()]

    def jacobian(self, group: list[int]) -> csr_array:
        """Of the numbers of some tensors after the step by the same before it.

        Raises:
            UsageError: they are too many.
        """
        size = sum(self.sizes[index] for index in group)
        each, drawn = torch.ones(size, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
        diagonal, mixed = self._pulled(group, torch.stack([each, drawn]))
        if torch.allclose(
            mixed, drawn * diagonal, rtol=1e-9, atol=1e-12 * float(mixed.abs().max())
        ):  # and so it is, almost surely
            return csr_array(diags_array(diagonal.numpy()))
        if size > LARGEST:
            raise UsageError(f"spectrum: one recurrence has a state of {size:,} numbers; up to {LARGEST:,} can be taken apart")
        found = []
        for rows in torch.arange(size).split(ROWS):
            found.append(csr_array(self._pulled(group, F.one_hot(rows, size).double()).numpy()))
        return csr_array(vstack(found))

    def _pulled(self, group: list[int], given: Float[Tensor, "rows numbers"]) -> Float[Tensor, "rows numbers"]:
        """Each row times the Jacobian: one backward pass, as rows of a batch do not see each other."""
        moved, after = self.take(len(given), group)
        gradients = torch.autograd.grad((torch.cat([after[index] for index in group], 1) * given).sum(), moved)
        axes = [self.axes[index] for index in sorted(group)]
        return torch.cat([each.movedim(axis, 0).flatten(1) for each, axis in zip(gradients, axes, strict=True)], 1)


def eigenvalues(matrix: csr_array) -> np.ndarray:
    """Those that are not 0, block by block."""
    labels = connected_components(matrix, connection="strong")[1]
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    place = np.empty_like(order)  # of each number in its block
    place[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    entries, found = matrix.tocoo(), []
    within = labels[entries.row] == labels[entries.col]
    row, column, value = entries.row[within], entries.col[within], entries.data[within]
    for size in np.unique(sizes):
        mine, number = sizes[labels[row]] == size, np.cumsum(sizes == size) - 1
        blocks = np.zeros((int((sizes == size).sum()), size, size))
        blocks[number[labels[row[mine]]], place[row[mine]], place[column[mine]]] = value[mine]
        found.append(np.linalg.eigvals(blocks).ravel())
    every = np.concatenate(found).astype(np.complex128)
    return every[np.abs(every) > ZERO]

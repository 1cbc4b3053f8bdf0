"""State spaces with one input and one output, one for each channel, all from a state and their kernels from the first position.

    x[t] = A x[t-1] + B u[t]        y[t] = 2 Re(C x[t])        so from x = 0: y = K * u with K[t] = 2 Re(C A^t B)

The states are complex and each stands for itself and its conjugate. A is diag(decay) - push 2 Re(sense .), or diagonal.

From a state: the sequence is cut into chunks. Inside a chunk y = toeplitz(K) u; a chunk finds x before its first position and
reads C A^(i+1) x from it at position i; it leaves A^size x + sum over j of A^(size-1-j) B u[j] for the next one. A is a
matrix here, of real and imaginary parts, and its powers are doubled up to the size of a chunk; what is left over at the end is
cut into chunks of the smaller powers of two. A single position is a step of the recurrence.

The kernel of a diagonal A is factored: K[i size + j] is the product of a matrix of C A^(i size) B and one of A^j.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F

from architectures.backbone import Flops

CHUNK = 128
Modes = Complex[Tensor, "channels modes"]
Matrix = Float[Tensor, "channels n n"]


@dataclass(frozen=True)
class System:
    """A, B and C as above: decay, drive and read; and a column and a row, where A is not diagonal."""

    decay: Modes
    drive: Modes
    read: Modes
    feedback: tuple[Modes, Modes] | None = None

    def matrix(self) -> Matrix:
        """A on the real parts of x, then the imaginary ones."""
        real, turn = torch.diag_embed(self.decay.real), torch.diag_embed(self.decay.imag)
        diagonal = torch.cat([torch.cat([real, -turn], 2), torch.cat([turn, real], 2)], 1)
        if self.feedback is None:
            return diagonal
        push, sense = self.feedback
        return diagonal - column(push)[:, :, None] * row(sense)[:, None]


def column(x: Complex[Tensor, "*many modes"]) -> Float[Tensor, "*many n"]:
    """A state, as `System.matrix` takes it."""
    return torch.cat([x.real, x.imag], -1)


def row(c: Complex[Tensor, "*many modes"]) -> Float[Tensor, "*many n"]:
    """What takes such a state x to 2 Re(c . x)."""
    return 2 * torch.cat([c.real, -c.imag], -1)


def without_tiny(x: Tensor, size: Tensor) -> Tensor:
    """x, or zero with no gradient where its size is so small that products would not be normal numbers, which are slow.

    A size is that of a whole power, not of its parts: a part may be zero by chance and have a gradient all the same.
    """
    return torch.where(size < torch.finfo(size.dtype).tiny ** 0.5, 0, x)


def state_space(
    system: System, u: Float[Tensor, "batch length channels"], state: Complex[Tensor, "batch channels modes"]
) -> tuple[Float[Tensor, "batch length channels"], Complex[Tensor, "batch channels modes"]]:
    """y for inputs u that follow `state`, and the state after them."""
    if u.shape[1] == 1:
        return _step(system, u, state)
    size = 1 << min(u.shape[1].bit_length(), CHUNK.bit_length()) - 1
    drive, power = column(system.drive)[:, None], system.matrix()
    reads, arrive, powers = row(system.read)[:, None] @ power, drive, {1: power}
    while reads.shape[1] < size:
        reads, arrive = torch.cat([reads, reads @ power], 1), torch.cat([arrive, arrive @ power.mT], 1)
        power = power @ power
        powers[reads.shape[1]] = power
    kernel = torch.cat([row(system.read)[:, None], reads[:, :-1]], 1) @ drive.mT
    inner, reads, arrive = _toeplitz(kernel[..., 0]), reads.mT, arrive.flip(1)
    x, outputs = column(state).transpose(0, 1), []
    pieces = u.permute(2, 0, 1)
    while pieces.shape[2]:
        while size > pieces.shape[2]:
            size //= 2
        here, pieces = pieces.split([size, pieces.shape[2] - size], 2)
        outputs.append(torch.baddbmm(here @ inner[:, :size, :size], x, reads[:, :, :size]))
        x = torch.baddbmm(x @ powers[size].mT, here, arrive[:, -size:])
    return torch.cat(outputs, 2).permute(1, 2, 0), torch.complex(*x.transpose(0, 1).chunk(2, 2))


def state_space_definition(a: Tensor, b: Tensor, c: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written, for dense A (channels, n, n), B and C (channels, n) over all n states, conjugates too."""
    outputs = []
    for now in u.unbind(1):
        state = torch.einsum("dnm,bdm->bdn", a, state) + b * now[..., None]
        outputs.append((c * state).sum(-1).real)
    return torch.stack(outputs, 1), state


def diagonal_kernel(decay: Modes, gain: Modes, length: int) -> Float[Tensor, "channels length"]:
    """K[t] = 2 Re(sum of gain decay^t) for t < length."""
    size, times = _grid(length)
    fine = _powers(decay, size)
    coarse = gain[:, None] * _powers(fine[:, -1] * decay, times)
    return (column(coarse) @ row(fine).mT).flatten(1)[:, :length]


def diagonal_kernel_flops(length: int, channels: int, modes: int) -> Flops:
    """The product of the factors, and complex products for each entry of them: its power, and in one of them the gain."""
    size, times = _grid(length)
    return Flops(4 * modes * size * times, 6 * modes * (size + 2 * times)) * channels


def _grid(length: int) -> tuple[int, int]:
    """`length` positions in rows as long as there are rows, about: how long and how many."""
    size = 1 << length.bit_length() // 2
    return size, -(-length // size)


def _powers(decay: Modes, count: int) -> Complex[Tensor, "channels count modes"]:
    """decay^0, decay^1, ..."""
    powers, decay = torch.ones_like(decay)[:, None], decay[:, None]
    while powers.shape[1] < count:
        powers, decay = torch.cat([powers, powers * decay], 1), decay * decay
    powers = powers[:, :count]
    return without_tiny(powers, powers.detach().abs())


def _step(system: System, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    after = torch.addcmul(system.decay * state, system.drive, u.mT)
    if system.feedback is not None:
        push, sense = system.feedback
        after = torch.addcmul(after, push, (sense * state).real.sum(-1, keepdim=True), value=-2)
    return 2 * (system.read * after).real.sum(-1)[:, None], after


def _toeplitz(kernel: Tensor) -> Tensor:
    """Row j, column i: kernel[i - j], zero below the diagonal."""
    size = kernel.shape[1]
    return F.pad(kernel, (size - 1, 0)).unfold(1, size, 1).flip(1)

"""State spaces with one input and one output, one for each channel, all from a state and their kernels from the first position.

    x[t] = A x[t-1] + B u[t]        y[t] = 2 Re(C x[t])        so from x = 0: y = K * u with K[t] = 2 Re(C A^t B)

The states are complex and each stands for itself and its conjugate. A is diag(decay) - push 2 Re(sense .), or diagonal.

From a state: the sequence is cut into chunks. Inside a chunk y = toeplitz(K) u; a chunk finds x before its first position and
reads C A^(i+1) x from it at position i; it leaves A^size x + sum over j of A^(size-1-j) B u[j] for the next one. Products with
inputs and reads are made for all chunks at once, and only x goes from one to the next. An A that is not diagonal is a matrix
here, of real and imaginary parts, and its powers are doubled up to the size of a chunk. What is left over at the end is cut into
chunks of the smaller powers of two. A single position is a step of the recurrence.

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
    alone = system.feedback is None
    reads, arrive, powers = _diagonal(system, size) if alone else _dense(system, size)
    kernel = torch.cat([row(system.read)[:, None], reads[:, :-1]], 1) @ column(system.drive)[:, :, None]
    inner, reads, arrive = _toeplitz(kernel[..., 0]), reads.mT, arrive.flip(1)
    x, outputs = (state if alone else column(state)).transpose(0, 1), []
    rest = u.permute(2, 0, 1)
    while rest.shape[2]:
        while size > rest.shape[2]:
            size //= 2
        count = rest.shape[2] // size
        chunks, rest = rest.split([count * size, rest.shape[2] - count * size], 2)
        chunks = chunks.reshape(chunks.shape[0], -1, size)
        left, before = (chunks @ arrive[:, -size:]).unflatten(1, (-1, count)), []
        for each in (torch.complex(*left.chunk(2, 3)) if alone else left).unbind(2):
            before.append(x)
            x = torch.addcmul(each, x, powers[size]) if alone else torch.baddbmm(each, x, powers[size])
        found = torch.stack(before, 2).flatten(1, 2)
        y = torch.baddbmm(chunks @ inner[:, :size, :size], column(found) if alone else found, reads[:, :, :size])
        outputs.append(y.unflatten(1, (-1, count)).flatten(2))
    after = x if alone else torch.complex(*x.chunk(2, 2))
    return torch.cat(outputs, 2).permute(1, 2, 0), after.transpose(0, 1)


def _diagonal(system: System, size: int) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """C A^(i+1) and A^i B for i < size, and what takes a state A^k onward for powers k of two up to it."""
    powers = _powers(system.decay, size + 1)
    reads, arrive = system.read[:, None] * powers[:, 1:], system.drive[:, None] * powers[:, :-1]
    return row(reads), column(arrive), {1 << k: powers[:, None, 1 << k] for k in range(size.bit_length())}


def _dense(system: System, size: int) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """The same, of matrices on real and imaginary parts."""
    power = system.matrix()
    reads, arrive, powers = row(system.read)[:, None] @ power, column(system.drive)[:, None], {1: power.mT}
    while reads.shape[1] < size:
        reads, arrive = torch.cat([reads, reads @ power], 1), torch.cat([arrive, arrive @ power.mT], 1)
        power = power @ power
        powers[reads.shape[1]] = power.mT
    return reads, arrive, powers


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
